"""The benchmark's pictures and questions: held-out drawn scenes, and where each answer can be seen. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenes import DEFAULT_SIZE, HELD_OUT_SEEDS, generate_scene
from tokviz.errors import BadInput
from tokviz.names import Box
from tokviz.records import TokenGrid
from tokviz.runs.metrics import evidence_tokens

OFFSET = 1_000_000
"""How far behind the first held-out seed the benchmark begins: the model card, the examples and the tests use seeds
before it."""

QUESTIONS_PER_FAMILY = 2

CHUNK = 5
"""Scenes that are encoded together and stored together."""

_FAMILY = {"spatial": "relation"}


@dataclass(frozen=True)
class Case:
    """One question about one scene.

    number: its index in the scene. cover ``(N,)``: how many pixels of each visual token's patch show evidence.
    evidence: visual tokens of which at least a tenth does, ascending.
    """

    seed: int
    number: int
    family: str
    question: str
    expected: str
    cover: NDArray[np.float64]
    evidence: tuple[int, ...]


@dataclass(frozen=True)
class ScenePicture:
    """One scene as the benchmark uses it."""

    seed: int
    image: Image.Image
    cases: tuple[Case, ...]


def first_seed() -> int:
    """The seed of the benchmark's first scene."""
    return HELD_OUT_SEEDS[OFFSET]


def chunks(scenes: int) -> list[range]:
    """Seeds of the first ``scenes`` scenes, CHUNK by CHUNK. Raises BadInput for a count that cannot be."""
    most = len(HELD_OUT_SEEDS) - OFFSET
    if isinstance(scenes, bool) or not isinstance(scenes, int) or not 1 <= scenes <= most:
        raise BadInput(f"The number of scenes must be a whole number from 1 to {most:,}, not {scenes!r}.")
    first = first_seed()
    return [range(first + start, first + min(start + CHUNK, scenes)) for start in range(0, scenes, CHUNK)]


def scene_picture(seed: int, grid: TokenGrid) -> ScenePicture:
    """Draw a scene and lay its evidence over the visual tokens; ``grid`` is of a picture of DEFAULT_SIZE."""
    scene = generate_scene(seed, questions_per_family=QUESTIONS_PER_FAMILY)
    cases = tuple(
        Case(
            seed=seed,
            number=number,
            family=_FAMILY.get(asked.family, asked.family),
            question=asked.text,
            expected=asked.answer,
            cover=covered_pixels(grid, asked.evidence),
            evidence=tuple(evidence_tokens(grid, asked.evidence)),
        )
        for number, asked in enumerate(scene.questions)
    )
    return ScenePicture(seed, Image.fromarray(scene.image), cases)


def covered_pixels(grid: TokenGrid, evidence: Sequence[Box]) -> NDArray[np.float64]:
    """How many pixels of each token's patch lie in evidence boxes, at most all of them. Shape: ``(N,)``."""
    boxes = np.array([box or (0.0, 0.0, 0.0, 0.0) for box in grid.box], dtype=np.float64).reshape(-1, 4)
    covered = np.zeros(len(boxes))
    for x0, y0, x1, y1 in evidence:
        width = np.minimum(boxes[:, 2], x1) - np.maximum(boxes[:, 0], x0)
        height = np.minimum(boxes[:, 3], y1) - np.maximum(boxes[:, 1], y0)
        covered += width.clip(min=0) * height.clip(min=0)
    area: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.minimum(covered, area)


def scenes_digest() -> str:
    """Changes when the scenes are drawn or asked about differently: of the first scene's pixels and questions."""
    scene = generate_scene(first_seed(), size=DEFAULT_SIZE, questions_per_family=QUESTIONS_PER_FAMILY)
    digest = hashlib.sha256(scene.image.tobytes())
    for asked in scene.questions:
        digest.update(repr((asked.text, asked.answer, asked.family, asked.evidence)).encode())
    return digest.hexdigest()
