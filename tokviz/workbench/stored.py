"""A mined case as a Comparison: what was stored of it, for the lanes, the figure and the report. Nothing is run.

Of each method the tokens left at the end, its answer and its numbers were stored; scores, orders and the stages between
were not, and are not made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..comparison import Comparison
from ..errors import BadInput
from ..names import AS_MINED, UNPRUNED
from ..records import ImageMeasures, ImageRecord, ModelRecord, Request, RequestedMethod, Run, StageRecord, VideoRecord
from ..runs.metrics import normalised
from .cards import read_cases, read_rows
from .compiler import Compiler
from .kept import grid_of, unpacked
from .manifest import shown_method
from .media import media_file
from .run import OpenRun

_CASE = (
    "case_id, ordinal, question, answers, metric, image, video, media_sha256, media_width, media_height, n_tokens, "
    'grid, evidence, evidence_frames, answer, "right", cls_entropy, effective_rank, thumbnail, model, error'
)
_ROW = (
    'method, method_id, params, kind, budget, budget_as, seed, answer, "right", kept, n_final, layers, effective_rank, '
    "warnings, error"
)


def case_row(run: OpenRun, ordinal: int) -> dict[str, Any]:
    """The stored columns of one case. Raises BadInput when the run has no such case."""
    rows = read_cases(run, [ordinal], _CASE) if run.has(ordinal) else []
    if not rows:
        raise BadInput(f"This run has no case number {ordinal}.")
    return rows[0]


def stored_comparison(
    run: OpenRun,
    ordinal: int,
    methods: Sequence[str],
    budget: int,
    *,
    seed: int | None = None,
    roots: Sequence[Path] = (),
    thumbnail: bool = False,
    frames: bool = False,
) -> Comparison:
    """What was mined of a case, as the result of ``tokviz.compare`` that it was.

    Args:
        methods: Keys of the methods, in the order of the lanes.
        seed: Of random methods; None: the first that was mined.
        roots: Folders in which images are looked for, beside those of the run.
        thumbnail: Take the small image of the grid where the file is gone.
        frames: Read the frames of a video, which are not stored, from its file.

    Raises BadInput for a case about a video whose frames are not to be read, and where the file is gone or changed.
    """
    case = case_row(run, ordinal)
    if case["error"] is not None or not case["grid"]:
        raise BadInput(f"This case could not be mined: {case['error'] or 'nothing was stored of it.'}")
    video = None
    if case["video"] is not None:
        if not frames:
            raise BadInput("The frames of a video are not stored with a run: press Compare to run this case again.")
        video = _video(run, case, roots)
    place = Compiler(run.methods, run.manifest.budgets).place
    rows = read_rows(run, [ordinal], _ROW, [m for m in methods if place(m, budget)], budget)
    chosen = _one_per_method(rows, methods, seed)
    image, note = _image(run, case, roots, thumbnail) if video is None else (video.frames[0].image, "")
    return _assembled(run, case, chosen, image, video, budget, note)


def _one_per_method(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], seed: int | None
) -> list[Mapping[str, Any]]:
    by_key: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["seed"] != seed, row["seed"])):
        by_key.setdefault(row["method"], row)
    return [by_key[key] for key in methods if key in by_key]


def _assembled(
    run: OpenRun,
    case: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    image: ImageRecord,
    video: VideoRecord | None,
    budget: int,
    note: str,
) -> Comparison:
    manifest = run.manifest
    labels = {method.key: shown_method(method) for method in manifest.methods}
    layers = max((len(_layers(row)) for row in rows), default=0)
    request = Request(
        question=case["question"],
        methods=[_requested(row) for row in rows],
        budget=budget,
        budget_as=manifest.budget_as,
        seed=max((row["seed"] for row in rows), default=0),
        max_new_tokens=manifest.max_new_tokens,
        repeats=1,
        expected_answer=_expected(case),
        evidence=[tuple(box) for box in case["evidence"] or []],
        evidence_frames=list(case["evidence_frames"] or []),
    )
    notes = [note] if note else []
    if case["metric"] not in (None, "exact") and case["answers"]:
        notes.append(
            f"The data set judges answers by {case['metric']}; here they are compared with one expected answer."
        )
    return Comparison(
        request=request,
        model=ModelRecord(
            name=case["model"] or manifest.model.id,
            family=manifest.model.family,
            n_layers=layers,
            hidden_size=0,
            dtype=manifest.dtype,
            device=manifest.device,
            attention=manifest.kernel,
            embedded=False,
        ),
        image=image,
        video=video,
        grid=grid_of(case["grid"]),
        runs=[_unpruned(case), *(_run(row, labels.get(row["method"], row["method"]), case) for row in rows)],
        versions=dict(manifest.versions),
        measures=ImageMeasures(attention_entropy=case["cls_entropy"], effective_rank=case["effective_rank"]),
        warnings=notes,
    )


def _expected(case: Mapping[str, Any]) -> str | None:
    """One of the right answers: that which the unpruned model gave, if it did, else the first."""
    answers = case["answers"] or []
    said = normalised(case["answer"] or "")
    return next((answer for answer in answers if normalised(answer) == said), answers[0] if answers else None)


def _requested(row: Mapping[str, Any]) -> RequestedMethod:
    return RequestedMethod(method=row["method_id"], params=_params(row), variant=_variant(row))


def _params(row: Mapping[str, Any]) -> dict[str, Any]:
    params = json.loads(row["params"] or "{}")
    return params if isinstance(params, dict) else {}


def _variant(row: Mapping[str, Any]) -> str:
    """What a key has behind the id: ``"apet (mode=official)"`` -> ``"mode=official"``."""
    rest = str(row["method"])[len(row["method_id"]) :].strip()
    return rest[1:-1] if rest.startswith("(") and rest.endswith(")") else ""


def _layers(row: Mapping[str, Any]) -> list[int]:
    layers = json.loads(row["layers"] or "[]")
    return [int(n) for n in layers] if isinstance(layers, list) else []


def _unpruned(case: Mapping[str, Any]) -> Run:
    return Run(method=UNPRUNED, label="No pruning", family="control", params={}, answer=case["answer"] or "")


def _run(row: Mapping[str, Any], label: str, case: Mapping[str, Any]) -> Run:
    kept = unpacked(row["kept"], case["n_tokens"])
    stages = [] if kept is None or row["error"] is not None else [_stage(kept, case["n_tokens"])]
    return Run(
        method=row["method_id"],
        label=label,
        family=row["kind"],
        params=_params(row),
        variant=_variant(row),
        tokens_per_layer=_layers(row),
        stages=stages,
        answer=row["answer"] or "",
        effective_rank=row["effective_rank"],
        warnings=list(row["warnings"] or []),
        error=row["error"],
    )


def _stage(kept: list[int], n_tokens: int) -> StageRecord:
    return StageRecord(
        title="kept at the end",
        site="projector",
        site_label="what is left after the last stage",
        positions="keep",
        planned_keep=None,
        n_in=n_tokens,
        kept=kept,
        score=None,
        order=None,
        assignment=None,
        maps=[],
        facts={AS_MINED: "only what was kept is stored; press Compare for scores, stages and times"},
        selection_ms=None,
    )


def _image(run: OpenRun, case: Mapping[str, Any], roots: Sequence[Path], thumbnail: bool) -> tuple[ImageRecord, str]:
    """The image as a session carries it, and a note where it is only the small one."""
    from ..media.images import checked_image, image_record

    try:
        shown = checked_image(media_file(run, case, roots))
        return image_record(shown.image, Path(case["image"]).name), ""
    except BadInput as error:
        if not thumbnail or not case["thumbnail"]:
            raise
        small = _thumbnail(case)
        record = image_record(small.resize((case["media_width"], case["media_height"])), Path(case["image"]).name)
        return record, f"{error} Shown is the small image of the grid."


def _video(run: OpenRun, case: Mapping[str, Any], roots: Sequence[Path]) -> VideoRecord:
    """The frames that the model saw, read anew from the file."""
    from ..media.video import checked_video

    numbers = read_cases(run, [case["ordinal"]], "frames")[0]["frames"]
    return checked_video(media_file(run, case, roots), lambda _: numbers or [], Path(case["video"]).name).record


def _thumbnail(case: Mapping[str, Any]) -> Image.Image:
    from ..media.images import read_image

    return read_image(bytes(case["thumbnail"])).image
