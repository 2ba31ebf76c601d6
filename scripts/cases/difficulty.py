"""Why a question about a drawn scene is hard for a pruner: facts that the scene's record and image hold. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from scenes import Scene, SceneObject, SceneQuestion, SceneSign
from tokviz.records import TokenGrid
from tokviz.runs.metrics import evidence_tokens

T = TypeVar("T", bound=np.generic)
Kind = Literal[
    "small evidence",
    "near-duplicates",
    "busy background",
    "printed word",
    "printed number",
    "handwritten digit",
    "crowd to count",
    "relation",
    "wide image",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

SMALL = 4
"""At most so many patches show the answer of a question with small evidence."""
CROWD = 9
"""From so many objects on a scene is a crowd."""
TO_COUNT = 3
"""From so many on counting is more than finding."""
BUSY = 20
"""From so many patches of bare background with the contrast of the evidence on a background is busy."""
_SIGNS = {"word": "printed word", "number": "printed number", "digit": "handwritten digit"}


@dataclass(frozen=True)
class Difficulty:
    """What makes a question hard: the kinds that apply, the patches that show the answer, and one sentence of facts."""

    kinds: tuple[Kind, ...]
    n_evidence: int
    sentence: str


def difficulty(scene: Scene, question: SceneQuestion, grid: TokenGrid) -> Difficulty:
    """The facts of one question that has evidence; ``grid`` says which patches the model makes of the image.

    Raises ValueError for a question that rests on absence.
    """
    if not question.evidence:
        raise ValueError(f"expected a question with evidence, but got {question.text!r}")
    shown = evidence_tokens(grid, question.evidence)
    objects = [item for item in scene.objects if item.box in question.evidence]
    signs = [sign for sign in scene.signs if sign.box in question.evidence]
    alike = lookalikes(scene, objects)
    rivals = rival_patches(scene, grid, shown)
    x0, y0, x1, y1 = grid.views[0].seen
    width, height = grid.image_size
    crowd = question.family == "counting" and len(objects) >= TO_COUNT and len(scene.objects) >= CROWD
    applies = {
        "small evidence": 0 < len(shown) <= SMALL,
        "near-duplicates": len(alike) >= 2,
        "busy background": rivals >= BUSY,
        **{kind: any(_SIGNS[sign.kind] == kind for sign in signs) for kind in _SIGNS.values()},
        "crowd to count": crowd,
        "relation": question.family == "spatial" and len(objects) == 2,
        "wide image": (x1 - x0) * (y1 - y0) < 0.9 * width * height,
    }
    subject = _subject(question, objects, signs)
    many = len(objects) > 1
    clauses = [f"{subject} {'cover' if many else 'covers'} {len(shown)} of {grid.n_tokens} patches"]
    if crowd:
        clauses.append(f"the image holds {len(scene.objects)} objects")
    elif alike:
        verb = "shares" if len(alike) == 1 else "share"
        whose = "their" if many else "its"
        clauses.append(f"{_count(len(alike), 'other object')} {verb} {whose} colour or {whose} shape")
    others = [sign for sign in scene.signs if signs and sign not in signs]
    if others:
        clauses.append(f"{_count(len(others), 'other sign')} can be mistaken for it")
    if applies["busy background"]:
        clauses.append(f"{rivals} patches of bare background have as much contrast")
    return Difficulty(tuple(kind for kind in KINDS if applies[kind]), len(shown), f"{_joined(clauses)}.")


def lookalikes(scene: Scene, asked: Sequence[SceneObject]) -> list[SceneObject]:
    """Objects that are not asked about but share the colour or the shape with one that is."""
    colors, shapes = {item.color for item in asked}, {item.shape for item in asked}
    return [item for item in scene.objects if item not in asked and (item.color in colors or item.shape in shapes)]


def rival_patches(scene: Scene, grid: TokenGrid, shown: Sequence[int]) -> int:
    """How many patches without any object or sign have at least the contrast of the evidence (median over ``shown``).

    Contrast is the standard deviation of the brightness inside a patch.
    """
    brightness = scene.image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    contrast = [float(cell.std()) for cell in _cells(brightness, grid)]
    bare = [bool((cell < 0).all()) for cell in _cells(scene.owner, grid)]
    level = median(contrast[token] for token in shown) if shown else float("inf")
    return sum(is_bare and value >= level for is_bare, value in zip(bare, contrast, strict=True))


def _cells(values: NDArray[T], grid: TokenGrid) -> list[NDArray[T]]:
    """The pixels of each patch of an image without padding."""
    edges = [[round(edge) for edge in box or (0, 0, 1, 1)] for box in grid.box]
    return [values[y0:y1, x0:x1] for x0, y0, x1, y1 in edges]


def _subject(question: SceneQuestion, objects: Sequence[SceneObject], signs: Sequence[SceneSign]) -> str:
    """What shows the answer, in words that a sentence can begin with."""
    if signs:
        return f"The {_SIGNS[signs[0].kind]} “{signs[0].text}”"
    if question.family == "counting" and len(objects) > 1:
        asked = question.text.removeprefix("how many ").removesuffix(" are there?")
        return f"The {len(objects)} {asked}"
    if question.family != "spatial" and len(objects) > 1:
        return f"The {len(objects)} objects that fit"
    return " and ".join(f"the {item.size} {item.name}" for item in objects).capitalize()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _joined(clauses: Sequence[str]) -> str:
    """Clauses as one sentence without its full stop: "a", "a, and b", "a, b, and c"."""
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])}, and {clauses[-1]}"
