"""From a Comparison to the one compact dict that the patch view draws from: numbers and text, no pictures, no gradio.

The comparison may be partial (runs still missing): a lane that has no run yet is "waiting" or "running".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import BadInput
from ..names import MethodFamily
from ..records import Comparison, MapRecord, Run, StageRecord, TokenGrid
from . import numbers, text

UNPRUNED = "full"


class MethodName(Protocol):
    """What a lane's head needs to know of a method; every ``Pruner`` is one."""

    @property
    def id(self) -> str:
        """Method id."""

    @property
    def label(self) -> str:
        """Name to show."""

    @property
    def family(self) -> MethodFamily:
        """Family of methods."""


@dataclass(frozen=True)
class Live:
    """What is known about a comparison that is still being computed.

    running: index of the lane at work. answers: text streamed so far, by lane. methods: for the heads of lanes that
    have no run yet.
    """

    running: int | None = None
    answers: Mapping[int, str] = field(default_factory=dict)
    methods: Sequence[MethodName] = ()


def to_payload(
    comparison: Comparison,
    *,
    live: Live | None = None,
    title: str = "",
    why: str = "",
    origin: str = "",
    picture: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that ``assets/patch_view.js`` draws from.

    Args: live says what is still being computed (None: nothing). title, why: of an example. origin: where the numbers
    come from when they were not computed just now ("stored result", "opened file"). picture: the displayed file as
    gradio FileData. Raises BadInput when lists of the comparison do not fit its grid.
    """
    check_fits_grid(comparison)
    request, model = comparison.request, comparison.model
    width, height = comparison.grid.picture_size
    return {
        "id": comparison_id(comparison),
        "title": title,
        "why": why,
        "origin": origin,
        "question": request.question,
        "expected": request.expected_answer,
        "model": f"{model.name}",
        "setting": f"{model.device} · {model.attention} · {comparison.grid.n_tokens} visual tokens",
        "picture": picture,
        "size": [width, height],
        "grid": _grid(comparison.grid),
        "evidence": [[round(edge, 2) for edge in box] for box in request.evidence],
        "lanes": lanes(comparison, live),
        "warnings": list(comparison.warnings),
    }


def comparison_id(comparison: Comparison) -> str:
    """A short digest of what was asked; the view keeps pins and switches while it stays the same."""
    asked = comparison.request.model_dump_json() + comparison.model.name + comparison.picture.sha256
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def lane_ids(comparison: Comparison) -> list[str]:
    """Method ids in the order of the lanes: no pruning first, then as requested."""
    done = [run.method for run in comparison.runs]
    return list(dict.fromkeys([*done, UNPRUNED, *comparison.request.methods]))


def lanes(comparison: Comparison, live: Live | None = None) -> list[dict[str, Any]]:
    """One dict per lane: head, status, answer, verdict, numbers, stages."""
    reference = comparison.runs[0] if comparison.runs else None
    result = [_lane(comparison, run, reference) for run in comparison.runs]
    if live is not None:
        names = {method.id: method for method in live.methods}
        for index, method in enumerate(lane_ids(comparison)[len(result) :], start=len(result)):
            result.append(_unfinished_lane(method, names.get(method), index, live))
    return result


def _lane(comparison: Comparison, run: Run, reference: Run | None) -> dict[str, Any]:
    judged = numbers.judge(run, reference, comparison.request.expected_answer)
    return {
        **_head(run.method, run.label, run.family),
        "status": "error" if run.error else "done",
        "answer": run.answer,
        "verdict": None if judged is None else vars(judged),
        "numbers": [] if run.error else [vars(number) for number in numbers.of_run(run, comparison)],
        "stages": [_stage(stage, run.family) for stage in run.stages],
        "warnings": list(run.warnings),
        "error": run.error,
    }


def _unfinished_lane(method: str, name: MethodName | None, index: int, live: Live) -> dict[str, Any]:
    label, family = (name.label, name.family) if name else (method, "control")
    if method == UNPRUNED and name is None:
        label = "No pruning"
    return {
        **_head(method, label, family),
        "status": "running" if index == live.running else "waiting",
        "answer": live.answers.get(index, ""),
        "verdict": None,
        "numbers": [],
        "stages": [],
        "warnings": [],
        "error": None,
    }


def _head(method: str, label: str, family: MethodFamily) -> dict[str, Any]:
    return {"method": method, "label": label, "family": "" if method == UNPRUNED else text.FAMILY_LABELS[family]}


def _stage(stage: StageRecord, family: MethodFamily) -> dict[str, Any]:
    maps = [m for m in (stage.score, *stage.maps) if m is not None]
    return {
        "label": stage.site_label,
        "kept": stage.kept,
        "n_in": stage.n_in,
        "order": stage.order,
        "basis": _basis(stage, family),
        "assignment": stage.assignment,
        "scored": stage.score is not None,
        "maps": [_map(m) for m in maps],
    }


def _basis(stage: StageRecord, family: MethodFamily) -> list[int]:
    """The tokens that approximation-error methods reconstruct the others from: those picked step by step."""
    if family != "approximation-error" or stage.order is None:
        return []
    return [token for token, step in enumerate(stage.order) if step >= 0]


def _map(record: MapRecord) -> dict[str, Any]:
    values = [None if v is None or not math.isfinite(v) else float(f"{v:.4g}") for v in record.values]
    return {
        "label": record.label,
        "unit": record.unit,
        "direction": record.direction,
        "scale": record.scale,
        "values": values,
    }


def _grid(grid: TokenGrid) -> dict[str, Any]:
    """Boxes flat, four numbers per token (zeros for tokens that are no patch), in pixels of the original picture."""
    return {
        "views": [{"name": v.name, "rows": v.rows, "cols": v.cols, "seen": list(v.seen)} for v in grid.views],
        "view": grid.view,
        "row": grid.row,
        "col": grid.col,
        "box": [round(edge, 2) for box in grid.box for edge in (box or (0.0, 0.0, 0.0, 0.0))],
    }


def check_fits_grid(comparison: Comparison) -> None:
    """Raise BadInput when an index or a list of a stage does not fit the grid (a damaged or forged session file)."""
    n_tokens = comparison.grid.n_tokens
    sizes = (comparison.picture.width, comparison.picture.height, *comparison.grid.picture_size)
    if not comparison.grid.views or not n_tokens or min(sizes) < 1:
        raise BadInput("The session is damaged: it has no patches or no picture.")
    for run in comparison.runs:
        for stage in run.stages:
            lists = [stage.order, stage.assignment, *(m.values for m in (stage.score, *stage.maps) if m is not None)]
            indices = [*stage.kept, *(stage.assignment or ())]
            if any(len(values) != n_tokens for values in lists if values is not None) or not all(
                -1 <= index < n_tokens for index in indices
            ):
                raise BadInput(f"The session is damaged: the lane {run.label!r} does not fit its {n_tokens} tokens.")
