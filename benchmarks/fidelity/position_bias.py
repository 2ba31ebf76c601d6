"""Do methods keep late tokens because they are late? Place in raster order of what is kept, against chance and truth.

Three measures per answer, averaged per image and then over images: Pearson's correlation of the kept mask with the
raster position, the lean (that correlation over the largest that so many kept tokens can have), and the shares of the
kept patches in the top, middle and bottom third of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokviz.mining.kept import unpack_indices
from tokviz.records import TokenGrid
from tokviz.runs.metrics import evidence_tokens
from tokviz.statistics import ImageBootstrap

from .measured import Estimate, Measured

BUDGET = 64
REFERENCE = "apet"
"""Name of the row that all others are compared with: it ranks by approximation error."""
_MEASURES = ("correlation", "lean", "top", "middle", "bottom")


@dataclass(frozen=True)
class Ranked:
    """One row: a method with its parameters, and what ranks its tokens.

    late: papers say of this way of ranking that it prefers late ones.
    """

    name: str
    id: str
    by: str
    late: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)


_TEXT, _CLS, _ERROR = "attention in the LLM", "[CLS] attention", "approximation error"

METHODS = (
    Ranked("fastv", "fastv", _TEXT, late=True),
    Ranked("sparsevlm", "sparsevlm", _TEXT, late=True),
    Ranked("pdrop", "pdrop", _TEXT, late=True),
    Ranked("fastervlm", "fastervlm", _CLS),
    Ranked("visionzip", "visionzip", _CLS),
    Ranked("apet", "apet", _ERROR),
    Ranked("divprune", "divprune", "diversity"),
    Ranked("todre (stage 1)", "todre", "diversity", params={"stage_2": False}),
    Ranked("random", "random", "control"),
    Ranked("uniform", "uniform", "control"),
)
"""ToDRE without its withdrawal, which would leave nothing to look at."""

TRUTH, TRUTH_BY = "the evidence itself", "truth"


@dataclass(frozen=True)
class Leaning:
    """What was measured of one row.

    patches: mean number of kept patches. correlation, lean, top, middle, bottom: see the module; thirds in percent.
    difference: lean minus that of REFERENCE, paired by image; None for REFERENCE itself. undefined: answers for which
    everything or nothing was kept, so that there is no correlation.
    """

    name: str
    by: str
    late: bool
    patches: float
    correlation: Estimate
    lean: Estimate
    top: Estimate
    middle: Estimate
    bottom: Estimate
    difference: Estimate | None
    undefined: int


def leanings(measured: Measured) -> list[Leaning]:
    """Measure every method of METHODS that was mined at BUDGET, and the truth: the patches that show the evidence.

    The images must have one grid, all of them the same; else there is nothing to measure.
    """
    cases = measured.run.cases(["ordinal", "media_sha256", "grid", "grid_rows", "evidence"])
    cases = cases[cases["grid_rows"].notna()].set_index("ordinal")
    if cases["grid"].nunique() != 1:
        return []
    grid = TokenGrid.model_validate_json(str(cases["grid"].iloc[0]))
    image = {name: number for number, name in enumerate(dict.fromkeys(cases["media_sha256"]))}
    place = {ordinal: image[name] for ordinal, name in cases["media_sha256"].items()}
    found: list[tuple[str, str, bool, list[tuple[int, NDArray[np.int64]]]]] = []
    rows = measured.rows
    rows = rows[(rows["budget"] == BUDGET) & (rows["outcome"] != "error") & rows["ordinal"].isin(place)]
    for ranked in METHODS:
        own = rows[rows["method"] == measured.key(ranked.id, ranked.params)]
        kept = [(place[o], unpack_indices(packed)) for o, packed in zip(own["ordinal"], own["kept"], strict=True)]
        if kept:
            found.append((ranked.name, ranked.by, ranked.late, kept))
    truth = [
        (place[ordinal], np.array(tokens))
        for ordinal, boxes in cases["evidence"].items()
        if (tokens := evidence_tokens(grid, [tuple(box) for box in boxes]))
    ]
    if not found or not truth:
        return []
    found.append((TRUTH, TRUTH_BY, False, truth))
    return _measured(found, grid, len(image))


def _measured(
    found: Sequence[tuple[str, str, bool, list[tuple[int, NDArray[np.int64]]]]], grid: TokenGrid, n_images: int
) -> list[Leaning]:
    values = {name: _per_image(kept, grid, n_images) for name, _, _, kept in found}
    bootstrap = ImageBootstrap(range(n_images))
    made = []
    for name, by, late, kept in found:
        numbers = dict(zip(_MEASURES, _means(bootstrap, values[name]), strict=True))
        difference = None
        if REFERENCE in values and name != REFERENCE:
            difference = _means(bootstrap, (values[name] - values[REFERENCE])[1:2])[0]
        patches = sum(len(tokens) for _, tokens in kept) / len(kept)
        undefined = sum(position_correlation(tokens, grid.n_tokens) is None for _, tokens in kept)
        made.append(Leaning(name, by, late, patches, **numbers, difference=difference, undefined=undefined))
    return made


def _means(bootstrap: ImageBootstrap, values: NDArray[np.float64]) -> list[Estimate]:
    """Means over the images that have a value. Shape: values ``(k, images)``, NaN where there is none."""
    known = ~np.isnan(values)
    made = []
    for row, there in zip(np.nan_to_num(values), known, strict=True):
        one = bootstrap.intervals(row[None], there[None].astype(float))[0] if there.any() else None
        low, high = (None, None) if one is None else (one.low, one.high)
        made.append(Estimate(value=None if one is None else one.value, low=low, high=high))
    return made


def _per_image(kept: Iterable[tuple[int, NDArray[np.int64]]], grid: TokenGrid, n_images: int) -> NDArray[np.float64]:
    """Means over the answers about every image. Shape: ``(5, images)``; NaN where no answer has the number."""
    sums, counts = np.zeros((5, n_images)), np.zeros((5, n_images))
    for image, tokens in kept:
        correlation, n = position_correlation(tokens, grid.n_tokens), len(tokens)
        if correlation is not None:
            sums[:2, image] += correlation, correlation / largest_correlation(n, grid.n_tokens)
            counts[:2, image] += 1
        if n:
            sums[2:, image] += 100 * thirds(tokens, grid.row) / n
            counts[2:, image] += 1
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def position_correlation(kept: NDArray[np.int64], n: int) -> float | None:
    """Pearson's r (point-biserial) between being kept and the position in raster order; None when all or none are.

    kept: of n tokens, ascending.
    """
    if not 0 < len(kept) < n:
        return None
    # Both deviations from the mean, of a mask and of 0..n-1, in closed form.
    middle, share = (n - 1) / 2, len(kept) / n
    covariance = float(kept.sum()) / n - share * middle
    return covariance / math.sqrt(share * (1 - share) * (n * n - 1) / 12)


def largest_correlation(kept: int, n: int) -> float:
    """The correlation of the mask of the ``kept`` last of ``n`` positions with the position; 64 of 576: 0.544.

    NaN when everything or nothing is kept.
    """
    return math.sqrt(3 * kept * (n - kept) / (n * n - 1)) if 0 < kept < n else math.nan


def thirds(kept: NDArray[np.int64], row: Sequence[int]) -> NDArray[np.int64]:
    """Kept patches in the top, middle and bottom third of the rows.

    row: of every token, -1 for those that are no patch. Shape: kept ``(K,)`` -> ``(3,)``.
    """
    rows = np.asarray(row)
    own = rows[kept]
    return np.bincount(own[own >= 0] * 3 // (int(rows.max()) + 1), minlength=3)


def agreement(row: Leaning) -> str:
    """Whether a row bears out what papers say of its way of ranking: later than by approximation error."""
    if not row.late:
        return "–"
    low, high = (None, None) if row.difference is None else (row.difference["low"], row.difference["high"])
    if low is None or high is None:
        return "undefined"
    return "agrees" if low > 0 else "disagrees" if high < 0 else "no difference that these images could show"
