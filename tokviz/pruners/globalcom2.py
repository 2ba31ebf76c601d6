"""GlobalCom2: the thumbnail's [CLS] scores decide how many tokens each crop keeps, and help to choose them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from ..errors import Unsupported
from ..records import Chart, TokenMap
from ..types import (
    CLS_ATTENTION_LAST_LAYER,
    CLS_LOGITS_LAST_LAYER,
    Budget,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
    Stage,
)
from . import ops
from .diagnostics import explained
from .per_view import unrankable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count

TEMPERATURE = 10.0


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of one image lie.

    rows: ``(P,)``, the thumbnail's, in raster order of its ``side x side`` cells, then those of every crop that has
    tokens; sizes: how many each has. cells: of the crops' rows, counted in raster order over the stitched grid.
    places: each crop's row and column among the ``grid`` of crops, emptied ones counted. size: height and width of the
    stitched, unpadded grid, in cells.
    """

    rows: Tensor
    sizes: list[int]
    side: int
    cells: Tensor
    places: list[tuple[int, int]]
    grid: tuple[int, int]
    size: tuple[int, int]


def find_tiles(signals: Signals, pool: Tensor) -> Tiles:
    """Read the layout off ``Signals.view`` and ``Signals.cell`` of the patches ``pool (P,)``.

    Padding is the same on both sides of an image, so crops that padding has emptied are as many before as behind the
    others. Raises Unsupported when there is no thumbnail with crops, or the thumbnail is no full square.
    """
    view, cell = ops.required(signals.view, "view"), ops.required(signals.cell, "cell")
    if len(pool) < len(view):
        view, cell = view[pool], cell[pool]
    counts = torch.bincount(view).tolist()
    numbers = [number for number, count in enumerate(counts) if count and number]
    side = math.isqrt(counts[0])
    if side == 0 or side * side != counts[0] or not numbers:
        raise Unsupported("GlobalCom2 needs a square thumbnail and at least one crop of the same image.")
    if not bool((view[1:] >= view[:-1]).all()):  # crops are stitched row by row
        by_view = view.argsort(stable=True)
        pool, cell = pool[by_view], cell[by_view]
    sizes = [counts[number] for number in numbers]
    in_crops = cell[counts[0] :]
    corners = in_crops[list(accumulate(sizes[:-1], initial=0))].tolist()
    rows, columns = (sorted({corner[axis] for corner in corners}) for axis in (0, 1))
    high, wide = (most + 1 for most in in_crops.amax(0).tolist())
    before = numbers[0] - 1  # crops in front of the first one that has tokens
    across = high == side * len(rows) and wide < side * len(columns)
    above, left = (0, before) if across else (before // len(columns), 0)
    return Tiles(
        rows=pool,
        sizes=[counts[0], *sizes],
        side=side,
        cells=in_crops[:, 0] * wide + in_crops[:, 1],
        places=[(rows.index(top) + above, columns.index(first) + left) for top, first in corners],
        grid=(len(rows) + 2 * above, len(columns) + 2 * left),
        size=(high, wide),
    )


@lru_cache(maxsize=16)
def _crop_of_cells(side: int, high: int, wide: int) -> Tensor:
    """Which of ``high x wide`` crops shows each cell of the thumbnail. Shape: ``(crops, side * side)``, 0 or 1."""
    with torch.inference_mode(mode=False):  # kept for callers in any mode
        cells, crops = torch.arange(side, device="cpu"), torch.arange(high * wide, device="cpu")
        row = (cells // max(side // high, 1)).clamp_max(high - 1) * wide
        column = (cells // max(side // wide, 1)).clamp_max(wide - 1)
        return ((row[:, None] + column).flatten().unsqueeze(1) == crops).double().T


def crop_sums(thumbnail: Tensor, grid: tuple[int, int]) -> list[float]:
    """Sum of the thumbnail's scores over the part that each crop shows; what does not divide goes to the last crop.

    Shape: thumbnail ``(side, side)`` -> ``grid_h * grid_w`` numbers in raster order.
    """
    # A matrix product in float64: sums in one fixed order on every device.
    member = _crop_of_cells(len(thumbnail), *grid).to(thumbnail.device)
    sums: list[float] = (member @ thumbnail.flatten().double()).tolist()
    return sums


def crop_ratios(sums: list[float], ratio: float) -> list[float]:
    """Share of its tokens that each crop keeps: ``min(1, R (1 + w - mean w))``, w = softmax of the sums / 10.

    Shape: one number per crop, emptied ones included. The 1e-8 is the official code's.
    """
    weights = [math.exp((value - max(sums)) / TEMPERATURE) for value in sums]
    total = sum(weights) + 1e-8
    mean = sum(weights) / total / len(weights)
    return [min(1.0, ratio * (1 + weight / total - mean)) for weight in weights]


def exact_counts(targets: list[float], sizes: list[int], total: int) -> list[int]:
    """Whole numbers near ``targets`` that add up to ``total``: floors, then one each by the largest remainder.

    Targets that add up to something else (crops of different sizes) are scaled first; no crop gets more than its size,
    and what it cannot take goes to the others. Ties go to the first crop. ``total`` is at most the sum of sizes.
    """
    counts, still_open = [0] * len(sizes), [crop for crop, size in enumerate(sizes) if size]
    left = total
    while left > 0:
        weight = sum(targets[crop] for crop in still_open)
        wanted = {crop: left * (targets[crop] / weight if weight else 1 / len(still_open)) for crop in still_open}
        full = [crop for crop in still_open if wanted[crop] >= sizes[crop]]
        if not full:
            for crop in still_open:
                counts[crop] = int(wanted[crop] + 1e-9)
            rest = left - sum(counts[crop] for crop in still_open)
            for crop in sorted(still_open, key=lambda crop: (counts[crop] - wanted[crop], crop))[:rest]:
                counts[crop] += 1
            break
        for crop in full:
            counts[crop] = sizes[crop]
            left -= sizes[crop]
        still_open = [crop for crop in still_open if crop not in full]
    return counts


def _unit(values: Tensor) -> Tensor:
    return values / values.norm().clamp_min(1e-12)


def _clean(values: Tensor) -> Tensor:
    """Scores with NaN replaced by the smallest other one, so that sums and interpolation survive."""
    missing = values.isnan()
    return values.masked_fill(missing, 0.0 if bool(missing.all()) else values[~missing].min())


def _ranks(tiles: Tiles, scores: Tensor, all_usable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The thumbnail's scores, and for every row of ``tiles`` what ranks it in its tile and what the thumbnail gives it.

    Thumbnail: its score. Crops: the crop's scores and its slice of the thumbnail resized (bilinear) to the stitched
    grid, each divided by its length.
    Shape: scores ``(N,)``, NaN where unusable -> ``(side, side)``, ``(P,)`` with -inf where unusable, ``(P,)``.
    """
    scores = scores[tiles.rows]
    own, *of_crops = scores.split(tiles.sizes) if all_usable else map(_clean, scores.split(tiles.sizes))
    thumbnail = own.view(1, 1, tiles.side, tiles.side)
    seen = interpolate(thumbnail, size=tiles.size, mode="bilinear", align_corners=False).flatten()[tiles.cells]
    both = zip(of_crops, seen.split(tiles.sizes[1:]), strict=True)
    ranks = torch.cat([own, *(_unit(local) + _unit(outer) for local, outer in both)])
    if not all_usable:
        ranks.masked_fill_(scores.isnan(), -torch.inf)
    return thumbnail[0, 0], ranks, torch.cat([scores[: tiles.sizes[0]], seen])


def _counts(sizes: list[int], usable: list[int], ratios: list[float], tokens: int, exact: bool) -> list[int]:
    """Tokens of the thumbnail and of each crop: floors as officially, or together exactly ``tokens``.

    When exact, unusable tokens count only where the others do not suffice.
    """
    targets = [share * size for share, size in zip(ratios, sizes, strict=True)]
    if not exact:
        return [int(target + 1e-9) for target in targets]
    if tokens > sum(usable):
        spare = [size - good for size, good in zip(sizes, usable, strict=True)]
        more = exact_counts([float(count) for count in spare], spare, tokens - sum(usable))
        return [good + count for good, count in zip(usable, more, strict=True)]
    first = max(min(int(targets[0] + 1e-9), usable[0]), tokens - sum(usable[1:]))
    return [first, *exact_counts(targets[1:], usable[1:], tokens - first)]


@dataclass(frozen=True)
class _Chosen:
    """What stays. Shape: first, others: the thumbnail's best first and the crops' rows; ranks, seen ``(P,)``."""

    first: Tensor
    others: Tensor
    ranks: Tensor
    seen: Tensor
    ratios: list[float]
    counts: list[int]


def _choose(tiles: Tiles, given: Tensor, rows: Tensor, tokens: int, exact: bool) -> _Chosen:
    """Choose among ``rows (n,)``, those that can be ranked. Shape: given ``(N,)``, the scores."""
    all_usable, ratio = len(rows) == len(tiles.rows), tokens / len(tiles.rows)
    scores = given if all_usable else ops.spread(given[rows], rows, len(given), torch.nan)
    thumbnail, ranks, seen = _ranks(tiles, scores, all_usable)
    ratios = crop_ratios(crop_sums(thumbnail, tiles.grid), ratio)
    of_tiles = [ratio, *(ratios[row * tiles.grid[1] + column] for row, column in tiles.places)]
    (own, *parts), (first, *crops) = ranks.split(tiles.sizes), tiles.rows.split(tiles.sizes)
    usable = tiles.sizes if all_usable else [int((part > -torch.inf).sum()) for part in (own, *parts)]
    counts = _counts(tiles.sizes, usable, of_tiles, tokens, exact)
    best = [crop[ops.highest(part, count)] for crop, part, count in zip(crops, parts, counts[1:], strict=True)]
    return _Chosen(first[ops.top_k(own, counts[0])], torch.cat(best), ranks, seen, ratios, counts)


def select(signals: Signals, tokens: int, params: Params, generator: Generator) -> Selection:
    """Thumbnail: its highest scores. Crops: highest local + thumbnail score, as many as the crop's ratio says.

    R = budget / patches. The thumbnail keeps int(n R). A crop keeps the share min(1, R (1 + w - mean w)), w = softmax
    of the sums of the thumbnail's scores over what the crop shows, / 10. Rows that are no patch (newlines) always stay
    and are not counted.
    Shape: signals.cls_logits or cls_attention ``(N,)``, view ``(N,)``, cell ``(N, 2)`` -> kept ``(tokens +
    newlines,)``; with official counts as many as the floors give.
    Source: GlobalCom2, official ``llava/model/llava_arch.py``. Differs: float32, ties to the lowest index, scores that
    are not finite count as the smallest one, newlines only of rows that unpadding left.
    """
    pool, features = ops.candidate_rows(signals), signals.features
    n, exact = len(features), params["counts"] == "exact"
    if tokens >= len(pool):
        return Selection(kept=torch.arange(n, device=pool.device))
    newlines = pool[:0] if signals.candidates is None else ops.complement(pool, n)
    name = "cls_logits" if params["scores"] == "logits" else "cls_attention"
    given = ops.required(getattr(signals, name), name).float()
    rows = ops.usable_rows(given, ops.usable_rows(features, pool))
    if len(rows) == 0:
        fallback = unrankable(tokens, pool)
        return replace(fallback, kept=torch.cat([fallback.kept, newlines]).sort().values)
    tiles = find_tiles(signals, pool)
    chosen = _choose(tiles, given, rows, tokens, exact)
    order = torch.cat([chosen.first, torch.cat([chosen.others, newlines]).sort().values])
    kept = order.sort().values

    def diagnose() -> Diagnostics:
        kept_of = [count / size for count, size in zip(chosen.counts, tiles.sizes, strict=True)]
        shares = given.new_tensor(kept_of).repeat_interleave(torch.tensor(tiles.sizes, device=given.device))
        finite = chosen.ranks.masked_fill(chosen.ranks == -torch.inf, torch.nan)
        ranks, seen, share = (ops.spread(x, tiles.rows, n, torch.nan) for x in (finite, chosen.seen, shares))
        (high, wide), ratio, unit = tiles.grid, tokens / len(pool), str(params["scores"])
        own, other = (
            "ranks the thumbnail; one half of the score of a crop's token",
            "the other half of the score of a crop's token",
        )
        facts = {
            "ratio": ratio,
            "tokens_of_thumbnail_and_crops": chosen.counts,
            "crop_grid": f"{high} x {wide}",
            "crop_ratios": [float(f"{share:.6g}") for share in chosen.ratios],
            "newlines_kept": len(newlines),
        }
        names = [f"row {row + 1}, column {column + 1}" for row in range(high) for column in range(wide)]
        label = "Share of its tokens that the rule gives each crop"
        return explained(
            TokenMap("rank_score", "Score within its tile", ranks),
            maps=(
                TokenMap(name, "[CLS] scores of the tile itself", given, unit, own),
                TokenMap("from_thumbnail", "Thumbnail's scores, resized to the crops", seen, unit, other),
                TokenMap("tile_share", "Share of its tile that stays", share, direction="high keeps more tokens"),
            ),
            charts=(
                Chart(
                    "crop_ratios",
                    label,
                    "bars",
                    chosen.ratios,
                    names=names,
                    line=ratio,
                    x_label="crop",
                    y_label="share",
                ),
            ),
            facts=facts,
            non_finite=len(pool) - len(rows),
            of=len(pool),
        )

    # Officially the thumbnail's tokens come by score, all others as in the image.
    sequence = torch.searchsorted(kept, order) if params["order"] == "official" else None
    return Selection(kept=kept, sequence=sequence, diagnose=diagnose)


_select_exactly = fixed_count(select)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the embeddings that enter the LLM; scores come from the last layer of the vision tower.

    ``published``, ``final`` and ``average`` coincide, because every layer sees what the stage leaves (newlines are
    extra). R = B / patches: 720 of 2880 is the published 25 %. With official counts the floors decide at run time how
    many stay. Raises BadInput for a budget below 1 token, Unsupported for a model without crops.
    """
    tokens, title = budget_tokens(budget), "Thumbnail guides the crops"
    needs = (CLS_LOGITS_LAST_LAYER if params["scores"] == "logits" else CLS_ATTENTION_LAST_LAYER,)
    if params["counts"] == "exact":
        return Schedule((Stage("projector", tokens, _select_exactly, needs, title=title),))

    def by_floors(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        return select(signals, tokens, params, generator)

    return Schedule((Stage("projector", None, by_floors, needs, title=title),))


PRUNER = Pruner(
    id="globalcom2",
    label="GlobalCom2",
    family="attention-ranked",
    claim="Lets the thumbnail's [CLS] scores decide how much each crop keeps, and which of its tokens.",
    paper=Paper(
        "Global Compression Commander: "
        "Plug-and-Play Inference Acceleration for High-Resolution Large Vision-Language Models",
        "Liu et al.",
        2025,
        "https://arxiv.org/abs/2501.05179",
    ),
    needs=(CLS_LOGITS_LAST_LAYER, CLS_ATTENTION_LAST_LAYER),
    params=(
        choice(
            "scores",
            "[CLS] scores",
            ("logits", "probs"),
            "logits: before the softmax, as the code does. probs: attention, as the paper says.",
        ),
        choice(
            "order",
            "Order",
            ("official", "raster"),
            "official: the thumbnail's tokens by score, the crops' as in the image. raster: all as in the image.",
        ),
        choice(
            "counts",
            "Token counts",
            ("exact", "official"),
            "exact: floors, and what they leave over goes to the crops, so that the budget is met. official: floors.",
        ),
    ),
    schedule=schedule,
    needs_tiles=True,
)
