"""From a Comparison to the one compact dict that the patch view draws from: numbers and text, no images, no gradio.

The comparison may be partial (runs still missing): a lane that has no run yet is "waiting" or "running".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..answers import answer_words, cut_after
from ..comparison import Comparison
from ..names import AS_MINED, UNPRUNED, MethodFamily
from ..records import (
    Chart,
    Reading,
    RequestedMethod,
    Run,
    ServingFlag,
    StageRecord,
    TextScores,
    TokenGrid,
    TokenMap,
    VideoRecord,
)
from ..runs import metrics as measures
from ..runs.preview import nesting, ranking
from ..runs.why import why
from ..serving.kept_runs import measured_at
from ..viz.format import BAR_TOPS, cut, fact_name, fact_value, plain_text
from . import numbers, text
from .packing import packed_stages
from .session_checks import check_fits_grid

if TYPE_CHECKING:
    from ..pruners.pruner import Pruner

MAX_ANSWER = 20_000
"""Characters of an answer whose words are told one by one; longer ones were not written by a model."""
LARGEST = 1e300
"""Beyond it the distance of two numbers may not be finite, and nothing can be drawn to scale."""


@dataclass(frozen=True)
class Live:
    """What is known about a comparison that is still being computed.

    running: index of the lane at work. answers: text streamed so far, by lane. methods: for the heads of lanes that
    have no run yet.
    """

    running: int | None = None
    answers: Mapping[int, str] = field(default_factory=dict)
    methods: Sequence[Pruner] = ()


def to_payload(
    comparison: Comparison,
    *,
    live: Live | None = None,
    title: str = "",
    why: str = "",
    origin: str = "",
    image: Mapping[str, Any] | None = None,
    frames: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Everything that ``assets/patch_view.js`` draws from, before it is ``packed``.

    Args: live says what is still being computed (None: nothing). title, why: of an example. origin: where the numbers
    come from when they were not computed just now ("stored result", "opened file"). image: the displayed file as
    gradio FileData; frames: those of a video's sampled frames. Raises BadInput when lists of the comparison do not fit
    its grid.
    """
    check_fits_grid(comparison)
    request, model = comparison.request, comparison.model
    width, height = comparison.grid.image_size
    evidence = measures.evidence_tokens(comparison.grid, request.evidence, request.evidence_frames)
    return {
        "id": comparison_id(comparison),
        "about": about_id(comparison),
        "title": title,
        "why": why,
        "origin": origin,
        "question": request.question,
        "budget": request.budget,
        "budget_as": request.budget_as,
        "expected": request.expected_answer,
        "kept_at": measured_at(comparison.warnings),
        "model": f"{model.name}",
        "setting": f"{model.device} · {model.attention} · {comparison.grid.n_tokens} visual tokens",
        "image": image,
        "size": [width, height],
        "grid": _grid(comparison.grid, evidence),
        "video": None if comparison.video is None else _video(comparison.video, frames),
        "evidence": [[round(edge, 2) for edge in box] for box in request.evidence],
        "evidence_frames": list(request.evidence_frames),
        "words": list(comparison.text_tokens),
        "lanes": lanes(comparison, evidence, live),
        "warnings": list(comparison.warnings),
    }


def packed(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload as it travels: grid, words and every lane as JSON text, the rest as it is; packed ones stay so.

    Gradio's page copies what it shows several times at every change, one call of the browser per number: of 576 tokens
    that was most of the time between a press and its answer. Text is copied at once, and a lane that did not change is
    the same text.
    """

    def text_of(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)

    def lane_text(lane: Any) -> str:
        if isinstance(lane, str):
            return lane
        return text_of({**lane, "stages": packed_stages(lane["stages"], len(payload["grid"]["row"]))})

    texts = {name: text_of(payload[name]) for name in ("grid", "words")}
    return {**payload, **texts, "lanes": [lane_text(lane) for lane in payload["lanes"]]}


def comparison_id(comparison: Comparison) -> str:
    """A short digest of what was asked; the view keeps pins and switches while it stays the same."""
    asked = comparison.request.model_dump_json() + comparison.model.name + comparison.image.sha256
    if comparison.video is not None:
        asked += comparison.video.sha256
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def about_id(comparison: Comparison) -> str:
    """A short digest of image, question and model: studies of them stay while it does, whatever methods are shown."""
    file = comparison.image.sha256 if comparison.video is None else comparison.video.sha256
    n_tokens = comparison.grid.n_tokens
    about = f"{comparison.model.name}\n{file}\n{n_tokens}\n{comparison.request.question}"
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def lanes(comparison: Comparison, evidence: Sequence[int], live: Live | None = None) -> list[dict[str, Any]]:
    """One dict per lane: head, status, answer, verdict, numbers, stages. evidence: tokens that show it."""
    asked = comparison.request
    result = [_lane(comparison, run, evidence) for run in comparison.runs]
    if live is not None:
        done = {run.key for run in comparison.runs}
        waiting = [RequestedMethod(method=UNPRUNED), *asked.methods]
        for method in {one.key: one for one in waiting if one.key not in done}.values():
            result.append(_unfinished_lane(method, len(result), live))
    return result


def _lane(comparison: Comparison, run: Run, evidence: Sequence[int]) -> dict[str, Any]:
    judged = measures.judge(comparison, run)
    return {
        **_head(run.key, run.label, run.variant, run.family),
        "status": "error" if run.error else "done",
        "answer": run.answer,
        "said": _said(comparison, run),
        "cut": cut_after(run.warnings),
        "verdict": None if judged is None else {"kind": judged.tone, "sign": judged.sign, "text": judged.text},
        "numbers": [] if run.error else [vars(number) for number in numbers.of_run(run, comparison, evidence)],
        "nests": _nests(run, comparison),
        "ms": _milliseconds(run),
        "why": cut(why(comparison, run, evidence)),
        "stages": _stages(run, comparison.grid),
        "warnings": list(run.warnings),
        "serving": [_serving(flag) for flag in run.serving],
        "error": run.error,
    }


def _nests(run: Run, comparison: Comparison) -> dict[str, Any] | None:
    """How the choices of a lane nest, if what it kept is the budget as it was asked for.

    ``ties``: tokens whose scores are equal as they travel, in the order of the run, where that is not their own.
    """
    kind = nesting(run, comparison.grid.n_tokens)
    if kind is None or len(run.stages[0].kept) != comparison.request.budget:
        return None
    ties: list[list[int]] = []
    score = run.stages[0].score
    if kind == "ranked" and score is not None:
        for _, group in groupby(ranking(run.stages[0]), key=lambda token: _short(score.values[token])):
            tokens = list(group)
            if tokens != sorted(tokens):
                ties.append(tokens)
    return {"kind": kind, "ties": ties}


def _milliseconds(run: Run) -> float | None:
    """Selection and prefill together, by which lanes are sorted; None where that was not measured."""
    times = [run.timings[name].median_ms for name in ("prefill", "selection") if name in run.timings]
    return None if run.error is not None or "prefill" not in run.timings else _short(sum(times))


def _unfinished_lane(asked: RequestedMethod, index: int, live: Live) -> dict[str, Any]:
    named = next((method for method in live.methods if method.id == asked.method), None)
    label, family = (named.label, named.family) if named else (asked.method, "control")
    return {
        **_head(asked.key, f"{label} ({asked.variant})" if asked.variant else label, asked.variant, family),
        "status": "running" if index == live.running else "waiting",
        "answer": live.answers.get(index, ""),
        "said": [],
        "cut": None,
        "verdict": None,
        "numbers": [],
        "nests": None,
        "ms": None,
        "why": "",
        "stages": [],
        "warnings": [],
        "serving": [],
        "error": None,
    }


def _said(comparison: Comparison, run: Run) -> list[list[Any]]:
    """The answer's words: white space before, word, log-probability, whether it differs, what it stands instead of."""
    if run.error is not None or len(run.answer) > MAX_ANSWER:
        return []
    unpruned = comparison.runs[0]
    judged = run is not unpruned and unpruned.error is None
    words = answer_words(run, unpruned if judged else run)
    return [[word.before, word.text, _short(word.logprob), not word.same, word.instead_of] for word in words]


def _serving(flag: ServingFlag) -> dict[str, str]:
    """A flag as words of one line each: what can be copied into a terminal must be what is seen."""
    return {name: plain_text(getattr(flag, name)) for name in ("stack", "command", "read_in", "note")}


def _head(key: str, label: str, variant: str, family: MethodFamily) -> dict[str, Any]:
    """``label`` ends with the variant, if there is one."""
    shown = "" if key == UNPRUNED else text.FAMILY_LABELS[family]
    why = "" if key == UNPRUNED else text.FAMILY_EXPLAINED[family]
    return {"key": key, "label": label, "variant": cut(variant), "family": shown, "family_why": why}


def _stages(run: Run, grid: TokenGrid) -> list[dict[str, Any]]:
    """Every stage as what it changed: lists run over the tokens that it was given, so that 23 stages stay small."""
    result, alive = [], list(range(grid.n_tokens))
    for stage in run.stages:
        result.append(_stage(stage, alive, grid))
        alive = stage.kept
    return result


def _stage(stage: StageRecord, alive: Sequence[int], grid: TokenGrid) -> dict[str, Any]:
    """``gone``: tokens that leave here. ``absorbed``: pairs of a token that leaves and the one that carries it on.

    ``covered``: the same of one that stands for it without a merge.
    """
    maps = [m for m in (stage.score, *stage.maps) if m is not None]
    if 0 < len(stage.kept) < stage.n_in:
        maps.append(measures.distance_map(grid, stage.kept))
    kept = set(stage.kept)
    gone = [token for token in alive if token not in kept]

    def pairs(of: Sequence[int] | None) -> list[int] | None:
        return None if of is None else [i for t in gone if of[t] >= 0 for i in (t, of[t])]

    return {
        "label": cut(stage.site_label),
        "layer": stage.site if isinstance(stage.site, int) else None,
        "title": cut(stage.title),
        "n_in": stage.n_in,
        "gone": gone,
        "order": None if stage.order is None else [stage.order[token] for token in alive],
        "basis": stage.basis,
        "absorbed": pairs(stage.assignment),
        "covered": pairs(stage.covered_by),
        "extra": stage.n_extra,
        "extra_name": cut(stage.extra_name),
        "sequence": stage.sequence,
        "scored": stage.score is not None,
        "maps": [_map(m, alive) for m in maps],
        "charts": [_chart(chart, grid) for chart in stage.charts],
        "readings": [_reading(reading) for reading in stage.readings],
        "text": None if stage.text is None else _text_scores(stage.text),
        "facts": _facts(stage),
    }


def _short(value: float | None) -> float | None:
    """Four significant digits, which is all that can be seen; None for what is no number, or too large to draw."""
    return float(f"{value:.4g}") if value is not None and abs(value) <= LARGEST else None


def _map(record: TokenMap, alive: Sequence[int]) -> dict[str, Any]:
    return {
        "label": cut(record.label),
        "unit": cut(record.unit),
        "direction": cut(record.direction),
        "scale": record.scale,
        "values": [_short(record.values[token]) for token in alive],
    }


def _chart(chart: Chart, grid: TokenGrid) -> dict[str, Any]:
    """``about`` becomes part of the label: "…, frame 3"."""
    of = "" if chart.about is None else f", {grid.views[grid.view[chart.about]].name}"
    words = {name: cut(getattr(chart, name)) for name in ("x_label", "y_label")}
    return {
        "kind": chart.kind,
        "label": cut(chart.label + of),
        **words,
        "x": [_short(value) for value in chart.x],
        "y": [_short(value) for value in chart.y],
        "line": _short(chart.line),
        "names": [*map(cut, chart.names)],
        "tokens": chart.tokens,
        "marked": chart.marked,
    }


def _reading(reading: Reading) -> dict[str, Any]:
    words = {"label": cut(reading.label), "unit": cut(reading.unit)}
    return {**asdict(reading), **words, "value": _short(reading.value), "line": _short(reading.line)}


def _text_scores(scores: TextScores) -> dict[str, Any]:
    return {
        "label": cut(scores.label),
        "values": [_short(value) for value in scores.values],
        "chosen": [i for i, chosen in enumerate(scores.chosen) if chosen],
        "line": _short(scores.line),
    }


def _facts(stage: StageRecord) -> list[list[str]]:
    """What a stage recorded, as pairs of words."""
    # That no value had to be left out is no news.
    told = {name: value for name, value in stage.facts.items() if (name, value) != ("non_finite", 0)}
    facts = [[fact_name(name), fact_value(value)] for name, value in told.items()]
    if stage.planned_keep is not None and stage.planned_keep != len(stage.kept) + stage.n_extra:
        facts.append(["planned to keep", fact_value(stage.planned_keep)])
    if stage.rectify or stage.assignment is not None:
        facts.append(["merged tokens weigh", text.WEIGHTS[stage.rectify]])
    if AS_MINED in stage.facts:  # what is not stored is not told
        return facts
    return [*facts, ["positions of later tokens", text.POSITIONS[stage.positions]]]


def _grid(grid: TokenGrid, evidence: Sequence[int]) -> dict[str, Any]:
    """Boxes flat, four numbers per token (zeros for tokens that are no patch), in pixels of the original image.

    shows: the tokens that show the evidence.
    """
    return {
        "views": [view.model_dump(mode="json") for view in grid.views],
        "view": grid.view,
        "row": grid.row,
        "col": grid.col,
        "shows": list(evidence),
        "box": [round(edge, 2) for box in grid.box for edge in (box or (0.0, 0.0, 0.0, 0.0))],
    }


def _video(video: VideoRecord, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of the file, and its sampled frames with the time each is shown at in seconds."""
    shown = [*files, *[None] * len(video.frames)]
    return {
        "name": cut(video.name),
        "width": video.width,
        "height": video.height,
        "duration": round(video.duration_s, 3),
        "bar_tops": list(BAR_TOPS),
        "frames": [
            {"index": frame.index, "time": round(frame.time_s, 3), "image": shown[i]}
            for i, frame in enumerate(video.frames)
        ],
    }
