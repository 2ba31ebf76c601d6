"""What is stored of an example's answers, for the page: which methods lose it, and the cards that choose examples."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from ..names import UNPRUNED
from ..pruners.pruner import Pruner
from ..runs.examples import Example
from ..runs.metrics import same_answer
from . import text
from .files import image_bytes

_THUMB_SIDE = 96
"""Pixels: half as many again as are shown, for dense screens."""


def outcomes(example: Example, pruners: Sequence[Pruner]) -> list[dict[str, Any]]:
    """Every method whose answer to the example is stored: id, label, kind, answer, whether it is right.

    Those that lose the answer come first in their kind, kinds that lose most first. A case file may hold more answers
    than the session has lanes. Methods that are not among ``pruners`` are left out.
    """
    stored = {run.method: run.answer for run in example.comparison.runs if run.error is None and run.method != UNPRUNED}
    answers = {**stored, **example.case.answers}
    told: list[dict[str, Any]] = [
        {
            "id": pruner.id,
            "label": pruner.label,
            "family": text.FAMILY_LABELS[pruner.family],
            "answer": answers[pruner.id],
            "right": same_answer(answers[pruner.id], example.case.answer),
        }
        for pruner in pruners
        if pruner.id in answers
    ]
    lost = {kind: _share_lost(told, kind) for kind in {one["family"] for one in told}}
    return sorted(told, key=lambda one: (-lost[one["family"]], one["family"], one["right"], one["label"]))


def cards(examples: Sequence[Example], pruners: Sequence[Pruner]) -> list[dict[str, Any]]:
    """What the cards of the examples show: question, thumbnail, kinds of methods that lose and that keep the answer."""
    return [_card(example, outcomes(example, pruners)) for example in examples]


def _card(example: Example, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A kind loses when more of its methods lose than keep the answer, and the other way round."""
    kinds = list(dict.fromkeys(one["family"] for one in told))

    def named(kind: str, right: bool) -> list[str]:
        return [one["label"] for one in told if one["family"] == kind and one["right"] == right]

    return {
        "question": example.case.question,
        "video": example.comparison.video is not None,
        "thumb": _thumbnail(example),
        "loses": [[kind, named(kind, False)] for kind in kinds if _share_lost(told, kind) > 0.5],
        "wins": [[kind, named(kind, True)] for kind in reversed(kinds) if _share_lost(told, kind) < 0.5],
    }


def _share_lost(told: Sequence[dict[str, Any]], kind: str) -> float:
    rights = [one["right"] for one in told if one["family"] == kind]
    return rights.count(False) / len(rights)


def _thumbnail(example: Example) -> str:
    """A data: URL of a small picture; of a video the first frame with evidence."""
    from ..media.images import read_image

    comparison = example.comparison
    record = comparison.image
    if comparison.video is not None:
        at = next(iter(comparison.request.evidence_frames), 0)
        record = comparison.video.frames[at].image
    small = read_image(image_bytes(record)).image.copy()
    side = min(small.size)
    left, top = (small.width - side) // 2, (small.height - side) // 2
    small = small.crop((left, top, left + side, top + side)).resize((_THUMB_SIDE, _THUMB_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=36, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
