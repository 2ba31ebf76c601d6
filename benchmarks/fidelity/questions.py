"""The benchmark's pictures and questions: held-out drawn scenes; where answers and kept tokens lie. No torch."""

from __future__ import annotations

import hashlib
import math
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

from .outcomes import FAMILIES, Family

OFFSET = 1_000_000
"""How far behind the first held-out seed the benchmark begins: the model card, the examples and the tests use seeds
before it."""

QUESTIONS_PER_FAMILY = 2

CHUNK = 5
"""Scenes that are encoded together and stored together."""

_FAMILY: dict[str, Family] = {**{family: family for family in FAMILIES}, "spatial": "relation"}
"""The scenes' families under the names of the tables."""


@dataclass(frozen=True)
class Case:
    """One question about one scene.

    number: its index in the scene. cover ``(N,)``: how many pixels of each visual token's patch show evidence.
    evidence: visual tokens of which at least a tenth does, ascending.
    """

    seed: int
    number: int
    family: Family
    question: str
    expected: str
    cover: NDArray[np.float64]
    evidence: tuple[int, ...]


@dataclass(frozen=True)
class SceneImage:
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


def scene_image(seed: int, grid: TokenGrid) -> SceneImage:
    """Draw a scene and lay its evidence over the visual tokens; ``grid`` is of a picture of DEFAULT_SIZE."""
    scene = generate_scene(seed, questions_per_family=QUESTIONS_PER_FAMILY)
    cases = tuple(
        Case(
            seed=seed,
            number=number,
            family=_FAMILY[asked.family],
            question=asked.text,
            expected=asked.answer,
            cover=covered_pixels(grid, asked.evidence),
            evidence=tuple(evidence_tokens(grid, asked.evidence)),
        )
        for number, asked in enumerate(scene.questions)
    )
    return SceneImage(seed, Image.fromarray(scene.image), cases)


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


def position_correlation(kept: NDArray[np.bool_]) -> float | None:
    """Pearson's r (point-biserial) between being kept and the position in raster order; None when all or none are.

    Shape: kept ``(N,)``.
    """
    if kept.all() or not kept.any():
        return None
    return round(float(np.corrcoef(kept.astype(np.float64), np.arange(len(kept)))[0, 1]), 6)


def thirds(kept: NDArray[np.bool_], row: Sequence[int]) -> list[int]:
    """Kept patches in the top, middle and bottom third of the rows.

    Shape: kept ``(N,)``; row ``(N,)``, the grid row of every token, -1 for those that are no patch.
    """
    rows = np.asarray(row)
    third = rows * 3 // (rows.max() + 1)
    return [int((kept & (rows >= 0) & (third == part)).sum()) for part in range(3)]


def largest_correlation(kept: int, n: int) -> float:
    """The correlation of the mask of the ``kept`` last of ``n`` positions with the position; 64 of 576: 0.544.

    NaN when everything or nothing is kept.
    """
    return math.sqrt(3 * kept * (n - kept) / (n * n - 1)) if 0 < kept < n else math.nan
