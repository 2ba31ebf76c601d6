"""Everything that names tokviz or its tests. When the package is renamed or moved, only this file follows.

What it hands out is in stable terms: ids of methods, names of families, and plain values under names of its own.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from tiny_families import CASES  # noqa: E402

import tokviz  # noqa: E402
import tokviz.pruners as registry  # noqa: E402
from tokviz.engine import encode, prune, running_on, shorten  # noqa: E402
from tokviz.errors import BadInput  # noqa: E402
from tokviz.media.video import read_video  # noqa: E402
from tokviz.models.loading import VisionLanguageModel, loaded_record  # noqa: E402
from tokviz.names import VisionLayer  # noqa: E402
from tokviz.runs.execute import planning_info  # noqa: E402
from tokviz.runs.inputs import grid_of  # noqa: E402
from tokviz.runs.metrics import carriers, evidence_recall, evidence_tokens, fates, kept_per_frame, stages_before_llm  # noqa: E402
from tokviz.types import Budget  # noqa: E402

from .store import tensor_digest  # noqa: E402

EMBEDDED = {"tokviz-tiny": "image", "tokviz-tiny-video": "video"}
HALF = " bfloat16"
N_FRAMES = 3
Refused = BadInput


# -- methods -----------------------------------------------------------------------------------------------------------


def methods() -> dict[str, Sequence[Any]]:
    """Id of every method -> its parameters (name, kind, default, minimum, maximum, choices)."""
    return {pruner.id: pruner.params for pruner in registry.PRUNERS}


def completed(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a method. Raises Refused."""
    return dict(registry.get(method).complete(given))


def words_of_method(method: str) -> dict[str, Any]:
    """What is written about a method."""
    pruner = registry.get(method)
    return {
        "words": [pruner.label, pruner.family, pruner.claim],
        "paper": None if pruner.paper is None else [str(v) for v in dataclasses.astuple(pruner.paper)],
        "params": {p.name: [p.kind, p.label, p.help, p.default, p.minimum, p.maximum, p.step, *p.choices]
                   for p in pruner.params},
    }  # fmt: skip


@contextmanager
def watched() -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Inside, what every stage of every method was shown and gave back is noted, per method id in order."""
    seen: dict[str, list[dict[str, Any]]] = {pruner.id: [] for pruner in registry.PRUNERS}
    originals = registry.PRUNERS
    registry.PRUNERS = tuple(_watching(pruner, seen[pruner.id]) for pruner in originals)
    try:
        yield seen
    finally:
        registry.PRUNERS = originals


def _watching(pruner: Any, notes: list[dict[str, Any]]) -> Any:
    def schedule(budget: Any, info: Any, params: Any) -> Any:
        planned = pruner.schedule(budget, info, params)
        return dataclasses.replace(planned, stages=tuple(_watching_stage(stage, notes) for stage in planned.stages))

    return dataclasses.replace(pruner, schedule=schedule)


def _watching_stage(stage: Any, notes: list[dict[str, Any]]) -> Any:
    def select(signals: Any, keep: Any, params: Any, generator: Any) -> Any:
        shown = _signals(signals)
        selection = stage.select(signals, keep, params, generator)
        notes.append(_selection(selection) | {"signals": shown})
        return selection

    return dataclasses.replace(stage, select=select)


def _signals(signals: Any) -> list[dict[str, Any]]:
    """All that has bits, in an order that does not depend on names."""
    tensors = [getattr(signals, field.name) for field in dataclasses.fields(signals)]
    digests = [tensor_digest(t) for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]
    return sorted(digests, key=lambda entry: entry["sha"])


def _selection(selection: Any) -> dict[str, Any]:
    """Bits and sizes that no session stores."""

    def bits(tensor: Any) -> Any:
        return None if tensor is None else tensor_digest(tensor)

    return {
        "score": None if selection.diagnostics.score is None else bits(selection.diagnostics.score.values),
        "features": bits(selection.features),
        "extra": bits(selection.extra),
        "sizes": None if selection.sizes is None else selection.sizes.tolist(),
    }


# -- models, images, videos ------------------------------------------------------------------------------------------


def families() -> dict[str, str]:
    """Name of every model -> "image" or "video": the tiny random ones (two of them in half precision, too), the
    embedded ones.
    """
    tiny = {name: case.media for name, case in CASES.items()}
    return tiny | {name + HALF: tiny[name] for name in ("llava", "qwen2_5_vl")} | EMBEDDED


@cache
def model(name: str) -> Any:
    """The model of this name with its processor, on the CPU."""
    if name in EMBEDDED:
        return tokviz.load(name, device="cpu")
    case = CASES[name.removesuffix(HALF)]
    stock = case.model(torch.bfloat16 if name.endswith(HALF) else torch.float32)
    return VisionLanguageModel(stock, case.processor(), case.here, loaded_record(stock, case.here, name))


@cache
def film(kind: str) -> bytes:
    """The bytes of a short lossless video of what ``kind`` names."""
    from .images import frames

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream: Any = container.add_stream("ffv1", rate=4)
        pixels = frames(kind)
        stream.height, stream.width, stream.pix_fmt = *pixels[0].shape[:2], "bgr0"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


@cache
def media(name: str, kind: str) -> Any:
    """The image or video of this kind as the model of this name looks at it."""
    vlm = model(name)
    if families()[name] == "video" and kind != "still":
        return read_video(film(kind), lambda facts: vlm.family.sampled(vlm.processor, facts, N_FRAMES))
    from .images import image

    return image(kind)


@cache
def n_tokens(name: str, kind: str) -> int:
    """Visual tokens of it."""
    thing = media(name, kind)
    vlm = model(name)
    if isinstance(thing, Image.Image):
        return int(vlm.family.grid(vlm.model, vlm.processor, thing.size, {}).n_tokens)
    return int(grid_of(vlm, thing).n_tokens)


# -- one request -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What of one request is compared: of itself, and per method."""

    request: dict[str, Any]
    runs: dict[str, dict[str, Any]]


def compare(
    name: str, kind: str, question: str, params: Mapping[str, Mapping[str, Any]], budget: int, counting: str,
    boxes: Sequence[tuple[float, float, float, float]], new_tokens: int,
) -> Asked:  # fmt: skip
    """Ask one model about one image with the methods that ``params`` names, as a user of the library does."""
    frames = [1] * len(boxes) if not isinstance(media(name, kind), Image.Image) else []
    with watched() as notes:
        comparison = tokviz.compare(
            model(name), media(name, kind), question, list(params), budget, budget_as=counting,
            params={method: dict(given) for method, given in params.items()}, max_new_tokens=new_tokens,
            evidence=boxes, evidence_frames=frames,
        )  # fmt: skip
    return Asked(
        _request(comparison),
        {run.method: _run(comparison, run, notes[run.method]) for run in comparison.runs if run.method in params},
    )


def _request(comparison: Any) -> dict[str, Any]:
    grid, request, record = comparison.grid, comparison.request, comparison.model
    video = None if comparison.video is None else [frame.index for frame in comparison.video.frames]
    return {
        "decisions": {
            "size": grid.image_size,
            "views": [[v.rows, v.cols, v.level, v.top, v.left, v.frames] for v in grid.views],
            "cells": [grid.view, grid.row, grid.col],
            "text": comparison.text_tokens,
            "evidence": evidence_tokens(grid, request.evidence, request.evidence_frames),
            "frames": video,
            "model": [record.family, record.n_layers, record.hidden_size, record.dtype, record.parameters],
        },
        "floats": {"boxes": grid.box, "seen": [v.seen for v in grid.views], "evidence": request.evidence},
        "diagnostics": {},
        "sentences": {"warnings": comparison.warnings, "views": [v.name for v in grid.views]},
    }


def _run(comparison: Any, run: Any, notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    grid, request = comparison.grid, comparison.request
    n, kept = grid.n_tokens, run.kept
    evidence = evidence_tokens(grid, request.evidence, request.evidence_frames)
    recall = None if kept is None else evidence_recall(grid, request.evidence, kept, request.evidence_frames)
    return {
        "decisions": {
            "stages": [_stage(stage) for stage in run.stages],
            "sizes": [note["sizes"] for note in notes],
            "per_layer": run.tokens_per_layer,
            "budget": [_meanings(run.planned), _meanings(run.actual)],
            "cost": None if run.cost is None else _cost(run.cost),
            "ids": [token.id for token in run.answer_tokens],
            "answer": [run.answer, *(token.text for token in run.answer_tokens)],
            "seen_by_llm": before[-1].kept if (before := stages_before_llm(run)) else list(range(n)),
            "carriers": carriers(run.stages, n),
            "evidence": list(dataclasses.astuple(fates(evidence, run.stages, n))),
            "per_frame": [[f.frames, f.kept, f.patches, f.others_kept, f.others] for f in kept_per_frame(grid, kept)],
        },
        "floats": {
            "stages": [{k: v for k, v in note.items() if k != "sizes"} for note in notes],
            "logprobs": [token.logprob for token in run.answer_tokens],
            "recall": recall,
        },
        "diagnostics": [_diagnostics(stage) for stage in run.stages],
        "sentences": {"error": run.error, "warnings": run.warnings},
    }


def _stage(stage: Any) -> dict[str, Any]:
    site = ["vision", stage.site.vision_layer] if isinstance(stage.site, VisionLayer) else stage.site
    return {
        "site": site, "positions": stage.positions, "planned": stage.planned_keep, "before": stage.n_in,
        "kept": stage.kept, "order": stage.order, "assignment": stage.assignment, "sequence": stage.sequence,
        "added": stage.n_extra,
    }  # fmt: skip


def _meanings(meanings: Any) -> Any:
    return None if meanings is None else [meanings.final, meanings.average_in, meanings.average_logged]


def _cost(cost: Any) -> list[Any]:
    return [cost.prefill_flops, cost.decode_flops, cost.vision_flops, cost.kv_cache_bytes]


def _diagnostics(stage: Any) -> dict[str, Any]:
    """By name, so that their order does not matter; labels are words, see ``labels``."""
    text = stage.text
    return {
        "score": None if stage.score is None else [stage.score.name, stage.score.scale, stage.score.values],
        "maps": {m.name: [m.scale, m.values] for m in stage.maps},
        "charts": [
            [c.name, c.kind, c.x, c.y, c.names, c.line, c.tokens, c.marked, c.about]
            for c in sorted(stage.charts, key=lambda c: (c.name, -1 if c.about is None else c.about))
        ],
        "readings": {r.name: [r.value, r.line] for r in stage.readings},
        "text": None if text is None else [text.name, text.values, text.chosen, text.line],
        "facts": stage.facts,
    }


def labels(name: str, kind: str, method: str, given: Mapping[str, Any], budget: int) -> list[Any]:
    """The words beside maps, charts, readings and stages of one run."""
    vlm = model(name)
    comparison = tokviz.compare(vlm, media(name, kind), "what is it ?", [method], budget, params={method: dict(given)},
                                max_new_tokens=1)  # fmt: skip
    found: list[Any] = []
    for stage in comparison.runs[-1].stages:
        found.append([stage.title, stage.site_label])
        found += [[m.label, m.unit, m.direction] for m in [stage.score, *stage.maps] if m is not None]
        found += [[c.label, c.x_label, c.y_label] for c in stage.charts]
        found += [[r.label, r.unit] for r in stage.readings]
        found += [] if stage.text is None else [[stage.text.label]]
    return found


def ask(name: str, thing: Any, *arguments: Any, **keywords: Any) -> Any:
    """``tokviz.compare`` with whatever arguments, right or wrong."""
    return tokviz.compare(model(name), thing, *arguments, **keywords)


def load(*arguments: Any, **keywords: Any) -> Any:
    """``tokviz.load`` with whatever arguments."""
    return tokviz.load(*arguments, **keywords)


def read_session(text: str) -> Any:
    """A stored session."""
    return tokviz.Comparison.from_json(text)


# -- a user's own generate ---------------------------------------------------------------------------------------------


def beams_allowed(name: str) -> bool:
    """Whether transformers searches with beams on this tiny model."""
    return bool(CASES[name].beams)


def generate(name: str, method: str, given: Mapping[str, Any], share: float, rows: Sequence[Sequence[Any]],
             way: Callable[[Any, dict[str, Any]], Any]) -> dict[str, Any]:  # fmt: skip
    """A batch of prompts with images through the model's own ``generate``, pruned by ``method``.

    ``way(model, inputs)`` drives the model and returns its output. Raises Refused.
    """
    case, vlm = CASES[name], model(name)
    inputs = case.prompt(vlm.model, [list(row) for row in rows])
    ids = inputs["input_ids"]
    n_visual = int(case.is_visual(ids[0]).sum())
    info = dataclasses.replace(planning_info(vlm, grid_of_first(name)), n_visual=n_visual)
    pruner = registry.get(method)
    params = pruner.complete(given)
    stages = pruner.schedule(Budget(max(1, int(n_visual * share))), info, params).of_stages.stages
    notes: list[dict[str, Any]] = []

    def choose(stage: Any, signals: Any, row: int) -> Any:
        # The same for the copies that beams make of a prompt.
        selection = stage.select(signals, stage.keep, params, torch.Generator().manual_seed(0))
        notes.append(_selection(selection) | {"signals": _signals(signals)})
        return selection

    columns = torch.arange(ids.shape[1])
    last = torch.where(case.is_visual(ids), columns, -1).amax(dim=1, keepdim=True)
    question = (columns > last) & (columns < ids.shape[1] - 1)
    before: list[list[Any]] = [[] for _ in ids]
    if any(isinstance(stage.site, VisionLayer) for stage in stages):
        needs = {need for stage in stages for need in stage.needs}
        encoded = encode(vlm.model, vlm.family, inputs, needs, question_mask=question)
        short, before = shorten(vlm.model, vlm.family, encoded, stages, choose)
        stages = tuple(stage for stage in stages if isinstance(stage.site, int))
        with running_on(vlm.model, vlm.family, short, stages, choose) as trace:
            output = way(vlm.model, short.generate_inputs())
    else:
        with prune(vlm.model, vlm.family, None, stages, choose, question_mask=question) as trace:
            output = way(vlm.model, inputs)
    inside = trace.events if trace is not None else [[] for _ in before]
    copies = max(1, len(inside) // len(before))
    events = [[*before[row // copies], *mine] for row, mine in enumerate(inside)]
    tokens = output.sequences
    return {
        "decisions": {
            "rows": [[[event.kept.tolist(), event.sequence.tolist()] for event in row] for row in events],
            "sizes": [note["sizes"] for note in notes],
            "tokens": tokens.tolist(),
            "cache": _cache_lengths(output.past_key_values),
        },
        "floats": {
            "stages": [{k: v for k, v in note.items() if k != "sizes"} for note in notes],
            "logits": [tensor_digest(step) for step in output.logits or ()],
            "scores": None if getattr(output, "sequences_scores", None) is None else output.sequences_scores.tolist(),
        },
        "diagnostics": {},
        "sentences": {},
    }


def _cache_lengths(cache: Any) -> Any:
    return None if cache is None else [cache.get_seq_length(), *(layer.keys.shape[-2] for layer in cache.layers)]


@cache
def grid_of_first(name: str) -> Any:
    """Where the tokens of the first image or video of a tiny prompt lie."""
    from tiny_case import N_FRAMES as FRAMES
    from tiny_case import SIZES

    vlm = model(name)
    if families()[name] == "video":
        return vlm.family.video_grid(vlm.model, vlm.processor, SIZES[0], FRAMES)
    return vlm.family.grid(vlm.model, vlm.processor, SIZES[0], {})
