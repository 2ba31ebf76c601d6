"""Do methods keep late tokens because they are late? Place in raster order of what is kept, against chance and truth.

Three measures per question, averaged per scene and then over scenes: Pearson's correlation of the kept mask with the
raster position, the lean (that correlation over the largest that so many kept tokens can have), and the shares of the
kept patches in the top, middle and bottom third of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scenes import DEFAULT_SIZE
from tokviz.errors import BadInput
from tokviz.records import GridView, TokenGrid

from .outcomes import Outcome, Variant
from .papers import variant
from .questions import largest_correlation, position_correlation, scene_image, thirds
from .retained import estimate
from .statistics import RESAMPLES, Floats

BUDGET = 64
REFERENCE = "apet"
"""Name of the row that all others are compared with: it ranks by approximation error."""


@dataclass(frozen=True)
class Ranked:
    """One row: a method, and what ranks its tokens. late: papers say of this way of ranking that it prefers late ones.

    variant: None for the truth, which is no method.
    """

    name: str
    variant: Variant | None
    by: str
    late: bool = False


_TEXT, _CLS, _ERROR = "attention in the LLM", "[CLS] attention", "approximation error"

METHODS = (
    Ranked("fastv", variant("fastv", BUDGET), _TEXT, late=True),
    Ranked("sparsevlm", variant("sparsevlm", BUDGET), _TEXT, late=True),
    Ranked("pdrop", variant("pdrop", BUDGET), _TEXT, late=True),
    Ranked("fastervlm", variant("fastervlm", BUDGET), _CLS),
    Ranked("visionzip", variant("visionzip", BUDGET), _CLS),
    Ranked("apet", variant("apet", BUDGET), _ERROR),
    Ranked("divprune", variant("divprune", BUDGET), "diversity"),
    Ranked("todre (stage 1)", variant("todre", BUDGET, stage_2=False), "diversity"),
    Ranked("random", variant("random", BUDGET), "control"),
    Ranked("uniform", variant("uniform", BUDGET), "control"),
)
"""ToDRE without its withdrawal, which would leave nothing to look at."""

TRUTH = Ranked("the evidence itself", None, "truth")


@dataclass(frozen=True)
class Leaning:
    """What was measured of one row.

    patches: mean number of kept patches. correlation, lean, top, middle, bottom: see the module; thirds in percent.
    difference: lean minus that of REFERENCE, paired by scene; None for REFERENCE itself. undefined: questions in which
    everything or nothing was kept, so that there is no correlation. Each is an ``estimate`` with its interval.
    """

    name: str
    by: str
    late: bool
    patches: float
    correlation: Mapping[str, float]
    lean: Mapping[str, float]
    top: Mapping[str, float]
    middle: Mapping[str, float]
    bottom: Mapping[str, float]
    difference: Mapping[str, float] | None
    undefined: int


@dataclass(frozen=True)
class Place:
    """Where the kept patches of one question lie. correlation: None where it is undefined. thirds: three counts."""

    seed: int
    correlation: float | None
    thirds: Sequence[int]


def evidence_places(seeds: Sequence[int], n_visual: int) -> list[Place]:
    """Where the truth lies: the patches that show the evidence, of every question that has some.

    Draws the scenes again. Raises ValueError unless ``n_visual`` is the number of patches of a square grid.
    """
    side = math.isqrt(n_visual)
    if side * side != n_visual:
        raise ValueError(f"{n_visual} visual tokens are no square grid")
    width, height = DEFAULT_SIZE
    row, col = np.divmod(np.arange(n_visual), side)
    boxes = [
        (c * width / side, r * height / side, (c + 1) * width / side, (r + 1) * height / side)
        for r, c in zip(row.tolist(), col.tolist(), strict=True)
    ]
    view = GridView(name="picture", rows=side, cols=side, seen=(0, 0, width, height))
    grid = TokenGrid(
        image_size=DEFAULT_SIZE, views=[view], view=[0] * n_visual, row=row.tolist(), col=col.tolist(), box=[*boxes]
    )
    found = []
    for seed in seeds:
        for case in scene_image(seed, grid).cases:
            if case.evidence:
                shown = np.zeros(n_visual, dtype=bool)
                shown[list(case.evidence)] = True
                found.append(Place(seed, position_correlation(shown), thirds(shown, grid.row)))
    return found


def places(outcomes: Sequence[Outcome]) -> list[Place]:
    """Of every outcome. Raises BadInput when thirds were not counted."""
    found = []
    for outcome in outcomes:
        if outcome.kept_thirds is None:
            raise BadInput("These outcomes do not say in which part of the picture tokens were kept; run them again.")
        found.append(Place(outcome.seed, outcome.position_correlation, outcome.kept_thirds))
    return found


def leanings(
    rows: Sequence[tuple[Ranked, Sequence[Place]]],
    seeds: Sequence[int],
    n_visual: int,
    generator: np.random.Generator,
) -> list[Leaning]:
    """Measure every row on the scenes of ``seeds``; the same ones are drawn for all, so that differences are paired.

    Raises ValueError without a scene or with a row of which no question is known.
    """
    if not seeds or not all(row for _, row in rows):
        raise ValueError("the position table needs at least one scene, and a question in every row")
    values = np.stack([_per_scene(row, seeds, n_visual) for _, row in rows])
    means, samples = _mean_over_scenes(values), _resampled_means(values, generator)
    names = [ranked.name for ranked, _ in rows]
    reference = names.index(REFERENCE) if REFERENCE in names else None
    found = []
    for i, (ranked, row) in enumerate(rows):
        correlation, lean, top, middle, bottom = (estimate(means[i, k], samples[:, i, k]) for k in range(5))
        difference = None
        if reference is not None and i != reference:
            difference = estimate(means[i, 1] - means[reference, 1], samples[:, i, 1] - samples[:, reference, 1])
        found.append(
            Leaning(
                name=ranked.name,
                by=ranked.by,
                late=ranked.late,
                patches=sum(sum(place.thirds) for place in row) / len(row),
                correlation=correlation,
                lean=lean,
                top=top,
                middle=middle,
                bottom=bottom,
                difference=difference,
                undefined=sum(place.correlation is None for place in row),
            )
        )
    return found


def _per_scene(row: Sequence[Place], seeds: Sequence[int], n_visual: int) -> Floats:
    """Mean over the questions of every scene. Shape: ``(S, 5)``; NaN where no question of a scene has the number."""
    of_scene: dict[int, list[list[float]]] = {seed: [] for seed in seeds}
    for place in row:
        kept = sum(place.thirds)
        correlation = math.nan if place.correlation is None else place.correlation
        shares = [100 * part / kept if kept else math.nan for part in place.thirds]
        of_scene[place.seed].append([correlation, correlation / largest_correlation(kept, n_visual), *shares])
    none = [[math.nan] * 5]
    return np.stack([_mean_over_scenes(np.array([questions or none]))[0] for questions in of_scene.values()])


def _mean_over_scenes(values: Floats) -> Floats:
    """``(R, S, K) -> (R, K)``, without NaN; NaN where all are."""
    return _weighted(values, np.ones((1, values.shape[1])))[0]


def _resampled_means(values: Floats, generator: np.random.Generator) -> Floats:
    """Means of RESAMPLES draws of S scenes with replacement. Shape: ``(R, S, K) -> (B, R, K)``."""
    n_scenes = values.shape[1]
    drawn = generator.multinomial(n_scenes, np.full(n_scenes, 1 / n_scenes), size=RESAMPLES).astype(float)
    return _weighted(values, drawn)


def _weighted(values: Floats, weights: Floats) -> Floats:
    """Weighted means over scenes that leave NaN out. Shape: ``(R, S, K), (B, S) -> (B, R, K)``."""
    known = ~np.isnan(values)
    total = np.einsum("bs,rsk->brk", weights, np.where(known, values, 0.0))
    weight = np.einsum("bs,rsk->brk", weights, known.astype(float))
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)


def agreement(row: Leaning) -> str:
    """Whether a row bears out what papers say of its way of ranking: later than by approximation error."""
    if not row.late:
        return "–"
    if row.difference is None or math.isnan(row.difference["low"]):
        return "undefined"
    if row.difference["low"] > 0:
        return "agrees"
    return "disagrees" if row.difference["high"] < 0 else "no difference that these scenes could show"
