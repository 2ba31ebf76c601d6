"""From what the engine saw (tensors, indices of the moment) to what sessions store (numbers, original indices)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records import Chart, StageRecord, TextScores, TokenMap
from ..types import Diagnostics

if TYPE_CHECKING:
    from ..engine import StageEvent

_DIGITS = 6


def stage_records(events: Sequence[StageEvent], n_visual: int, selection_ms: Sequence[float]) -> list[StageRecord]:
    """Records of the stages of one run, every index translated to the original ``n_visual`` tokens.

    Shape: ``events[i].alive (n_in,)`` are original indices; selections index into them. selection_ms in ms.
    """
    return [_stage_record(event, n_visual, ms) for event, ms in zip(events, selection_ms, strict=True)]


def _stage_record(event: StageEvent, n_visual: int, milliseconds: float) -> StageRecord:
    selection, stage = event.selection, event.stage
    alive = event.alive.numpy()

    def spread(values: Any, missing: int) -> list[int]:
        full = np.full(n_visual, missing, dtype=np.int64)
        full[alive] = values
        return full.tolist()

    def original(rows: Any) -> list[int] | None:
        """Rows of the stage, one for each of its tokens, as original indices; -1 stays -1."""
        if rows is None:
            return None
        local = rows.cpu().numpy()
        return spread(np.where(local >= 0, alive[local], -1), -1)

    found = event.diagnostics or Diagnostics()
    return StageRecord(
        title=stage.title,
        site=stage.site,
        site_label=stage.site_label,
        positions=stage.positions,
        planned_keep=stage.keep,
        n_in=len(alive),
        kept=event.kept.tolist(),
        score=None if found.score is None else _original_map(found.score, alive, n_visual),
        order=None if selection.order is None else spread(selection.order.numpy(), -1),
        assignment=original(selection.assignment),
        maps=[_original_map(token_map, alive, n_visual) for token_map in found.maps],
        order_is_basis=found.order_is_basis,
        n_extra=event.n_extra,
        extra_name=found.extra_name if event.n_extra else "",
        sequence=_sequence(event),
        charts=[_original_chart(chart, alive) for chart in found.charts],
        readings=[replace(one, value=_rounded(one.value), line=_rounded(one.line)) for one in found.readings],
        text=None if found.text is None else _plain_text_scores(found.text),
        covered_by=original(found.covered_by),
        rectify=stage.rectify,
        facts={name: _plain(value) for name, value in found.facts.items()},
        selection_ms=milliseconds,
    )


def _original_map(token_map: TokenMap, alive: np.ndarray, n_visual: int) -> TokenMap:
    values: list[float | None] = [None] * n_visual
    for index, value in zip(alive.tolist(), token_map.values.double().tolist(), strict=True):
        values[index] = _rounded(value)
    return replace(token_map, values=values)


def _sequence(event: StageEvent) -> list[int] | None:
    """The order of the tokens after the stage; None when it is ascending with added tokens last."""
    sequence: list[int] = event.sequence.tolist()
    usual = sorted(index for index in sequence if index >= 0)
    return None if sequence == usual + [-1] * (len(sequence) - len(usual)) else sequence


def _original_chart(chart: Chart, alive: np.ndarray) -> Chart:
    return replace(
        chart,
        x=_all_rounded(chart.x),
        y=_all_rounded(chart.y),
        names=list(chart.names),
        line=_rounded(chart.line),
        tokens=[int(alive[int(token)]) for token in chart.tokens],
        marked=[int(position) for position in chart.marked],
        about=None if chart.about is None else int(alive[chart.about]),
    )


def _plain_text_scores(text: TextScores) -> TextScores:
    return replace(
        text,
        values=_all_rounded(text.values.double().tolist()),
        chosen=[bool(chosen) for chosen in text.chosen.tolist()],
        line=_rounded(text.line),
    )


def _all_rounded(values: Iterable[Any]) -> list[float | None]:
    return [_rounded(value) for value in values]


def _rounded(value: float | None) -> float | None:
    """Six significant digits, None when not finite."""
    return float(f"{float(value):.{_DIGITS}g}") if value is not None and np.isfinite(value) else None


def _plain(value: Any) -> Any:
    """A fact as JSON can hold it: tensors become lists, non-finite floats None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
