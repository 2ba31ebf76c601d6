"""GlobalCom2: the thumbnail's [CLS] scores decide how many tokens each crop keeps, and help to choose them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from ..errors import Unsupported
from ..types import (
    CLS_ATTENTION_LAST_BLOCK,
    CLS_LOGITS_LAST_BLOCK,
    Budget,
    Chart,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    SelectFunction,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .diagnostics import non_finite_warnings
from .ops import candidate_rows, complement, required, sanitised, spread, top_k
from .per_view import unrankable
from .pruner import Paper, Param, Pruner, budget_tokens, fixed_count

TEMPERATURE = 10.0


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of one picture lie.

    thumbnail: ``(n_0,)`` rows of view 0, in raster order of its ``side x side`` cells. crops: per crop that has tokens,
    its rows. places: its row and column among the ``grid`` of crops, emptied ones counted. size: height and width of
    the stitched, unpadded grid, in cells.
    """

    thumbnail: Tensor
    side: int
    crops: list[Tensor]
    places: list[tuple[int, int]]
    grid: tuple[int, int]
    size: tuple[int, int]


def find_tiles(signals: Signals, pool: Tensor) -> Tiles:
    """Read the layout off ``Signals.view`` and ``Signals.cell`` of the patches ``pool (P,)``.

    Padding is the same on both sides of a picture, so crops that padding has emptied are as many before as behind the
    others. Raises Unsupported when there is no thumbnail with crops, or the thumbnail is no full square.
    """
    view, cell = required(signals.view, "view")[pool], required(signals.cell, "cell")[pool]
    thumbnail, numbers = pool[view == 0], [number for number in torch.unique(view).tolist() if number > 0]
    side = math.isqrt(len(thumbnail))
    if side == 0 or side * side != len(thumbnail) or not numbers:
        raise Unsupported("GlobalCom2 needs a square thumbnail and at least one crop of the same picture.")
    crops = [pool[view == number] for number in numbers]
    tops = [int(cell[view == number, 0].min()) for number in numbers]
    lefts = [int(cell[view == number, 1].min()) for number in numbers]
    rows, columns = sorted(set(tops)), sorted(set(lefts))
    patches = cell[view > 0]
    size = (int(patches[:, 0].max()) + 1, int(patches[:, 1].max()) + 1)
    before = numbers[0] - 1  # crops in front of the first one that has tokens
    across = size[0] == side * len(rows) and size[1] < side * len(columns)
    emptied = (0, before) if across else (before // len(columns), 0)
    return Tiles(
        thumbnail=thumbnail,
        side=side,
        crops=crops,
        places=[
            (rows.index(top) + emptied[0], columns.index(left) + emptied[1])
            for top, left in zip(tops, lefts, strict=True)
        ],
        grid=(len(rows) + 2 * emptied[0], len(columns) + 2 * emptied[1]),
        size=size,
    )


def crop_sums(thumbnail: Tensor, grid: tuple[int, int]) -> list[float]:
    """Sum of the thumbnail's scores over the part that each crop shows; what does not divide goes to the last crop.

    Shape: thumbnail ``(side, side)`` -> ``grid_h * grid_w`` numbers in raster order.
    """
    side, (high, wide) = len(thumbnail), grid
    row = (torch.arange(side, device=thumbnail.device) // max(side // high, 1)).clamp_max(high - 1)
    column = (torch.arange(side, device=thumbnail.device) // max(side // wide, 1)).clamp_max(wide - 1)
    crop = (row[:, None] * wide + column[None, :]).flatten()
    # A matrix product in float64: sums in one fixed order on every device.
    member = torch.nn.functional.one_hot(crop, high * wide).double()
    sums: list[float] = (member.T @ thumbnail.flatten().double()).tolist()
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
    """Scores with what is not finite replaced by the smallest finite one, so that sums and interpolation survive."""
    finite = torch.isfinite(values)
    return torch.where(finite, values, values[finite].min() if bool(finite.any()) else torch.zeros_like(values))


def _counts(tiles: Tiles, rankable: Tensor, ratio: float, of_crops: list[float], tokens: int, exact: bool) -> list[int]:
    """Tokens of the thumbnail and of each crop: floors as officially, or together exactly ``tokens``.

    When exact, unusable tokens count only where the others do not suffice.
    """
    parts = [tiles.thumbnail, *tiles.crops]
    sizes = [len(rows) for rows in parts]
    targets = [share * size for share, size in zip([ratio, *of_crops], sizes, strict=True)]
    if not exact:
        return [int(target + 1e-9) for target in targets]
    usable = [int((rankable[rows] > -torch.inf).sum()) for rows in parts]
    if tokens > sum(usable):
        spare = [size - good for size, good in zip(sizes, usable, strict=True)]
        more = exact_counts([float(count) for count in spare], spare, tokens - sum(usable))
        return [good + count for good, count in zip(usable, more, strict=True)]
    first = max(min(int(targets[0] + 1e-9), usable[0]), tokens - sum(usable[1:]))
    return [first, *exact_counts(targets[1:], usable[1:], tokens - first)]


def _ranking(signals: Signals, scores: Tensor, thumbnail: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """What each patch is ranked by within its tile, and the thumbnail's part of it. Shape: twice ``(N,)``.

    Thumbnail: its score. Crops: the crop's scores and its slice of the thumbnail resized (bilinear) to the stitched
    grid, each divided by its length. NaN for rows that are no patch or not finite.
    """
    ranked = spread(scores[tiles.thumbnail], tiles.thumbnail, len(scores), torch.nan)
    from_thumbnail = ranked.clone()
    resized = interpolate(thumbnail[None, None], size=tiles.size, mode="bilinear", align_corners=False)[0, 0]
    cell = required(signals.cell, "cell")
    for rows in tiles.crops:
        local, seen = scores[rows], resized[cell[rows, 0], cell[rows, 1]]
        combined = _unit(_clean(local)) + _unit(seen)
        ranked[rows] = combined.masked_fill(torch.isnan(local), torch.nan)
        from_thumbnail[rows] = seen
    return ranked, from_thumbnail


def _select(signals: Signals, tokens: int, params: Params) -> Selection:
    pool, n = candidate_rows(signals), len(signals.features)
    newlines = complement(pool, n)
    if tokens >= len(pool):
        return Selection(kept=torch.arange(n, device=pool.device))
    name = "cls_logits" if params["scores"] == "logits" else "cls_attention"
    given = required(getattr(signals, name), name).float()
    unusable = ~torch.isfinite(given) | ~torch.isfinite(signals.features.float().norm(dim=1).square())
    non_finite = int(unusable[pool].sum())
    if non_finite == len(pool):
        fallback = unrankable(tokens, pool)
        return replace(fallback, kept=torch.cat([fallback.kept, newlines]).sort().values)
    tiles, ratio = find_tiles(signals, pool), tokens / len(pool)
    scores = given.masked_fill(unusable, torch.nan)
    thumbnail = _clean(scores[tiles.thumbnail]).reshape(tiles.side, tiles.side)
    ratios = crop_ratios(crop_sums(thumbnail, tiles.grid), ratio)
    of_crops = [ratios[row * tiles.grid[1] + column] for row, column in tiles.places]
    ranked, from_thumbnail = _ranking(signals, scores, thumbnail, tiles)
    rankable, _ = sanitised(ranked)
    counts = _counts(tiles, rankable, ratio, of_crops, tokens, params["counts"] == "exact")
    parts = [tiles.thumbnail, *tiles.crops]
    chosen = [rows[top_k(rankable[rows], count)] for rows, count in zip(parts, counts, strict=True)]
    kept = torch.cat([*chosen, newlines]).sort().values
    shares = torch.full_like(given, torch.nan)
    for rows, count in zip(parts, counts, strict=True):
        shares[rows] = count / len(rows)
    return Selection(
        kept=kept,
        sequence=_thumbnail_first(kept, chosen[0]) if params["order"] == "official" else None,
        diagnose=lambda: Diagnostics(
            score=TokenMap("rank_score", "Score within its tile", ranked),
            maps=_maps(given, from_thumbnail, shares, name, str(params["scores"])),
            charts=(_ratio_chart(tiles.grid, ratios, ratio),),
            facts={
                "ratio": ratio,
                "tokens_of_thumbnail_and_crops": counts,
                "crop_grid": f"{tiles.grid[0]} x {tiles.grid[1]}",
                "crop_ratios": [float(f"{share:.6g}") for share in ratios],
                "newlines_kept": len(newlines),
                "non_finite": non_finite,
            },
            warnings=non_finite_warnings(non_finite, len(pool)),
        ),
    )


def _maps(given: Tensor, from_thumbnail: Tensor, shares: Tensor, name: str, unit: str) -> tuple[TokenMap, ...]:
    return (
        TokenMap(
            name,
            "[CLS] scores of the tile itself",
            given,
            unit=unit,
            direction="ranks the thumbnail; one half of the score of a crop's token",
        ),
        TokenMap(
            "from_thumbnail",
            "Thumbnail's scores, resized to the crops",
            from_thumbnail,
            unit=unit,
            direction="the other half of the score of a crop's token",
        ),
        TokenMap("tile_share", "Share of its tile that stays", shares, direction="high keeps more tokens"),
    )


def _thumbnail_first(kept: Tensor, thumbnail: Tensor) -> Tensor:
    """The thumbnail's tokens as they are given (by score), then all others in raster order, as places in ``kept``."""
    return torch.searchsorted(kept, torch.cat([thumbnail, kept[~torch.isin(kept, thumbnail)]]))


def _ratio_chart(grid: tuple[int, int], ratios: list[float], ratio: float) -> Chart:
    names = [f"row {row + 1}, column {column + 1}" for row in range(grid[0]) for column in range(grid[1])]
    return Chart(
        "crop_ratios", "Share of its tokens that the rule gives each crop", "bars", y=ratios, names=names,
        x_label="crop", y_label="share", line=ratio,
    )  # fmt: skip


def _stage_select(tokens: int) -> SelectFunction:
    def select(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        """Thumbnail: its highest scores. Crops: highest local + thumbnail score, as many as the crop's ratio says.

        R = budget / patches. The thumbnail keeps int(n R). A crop keeps the share min(1, R (1 + w - mean w)), w =
        softmax of the sums of the thumbnail's scores over what the crop shows, / 10. Rows that are no patch (newlines)
        always stay and are not counted.
        Shape: signals.cls_logits or cls_attention ``(N,)``, view ``(N,)``, cell ``(N, 2)`` -> kept ``(keep +
        newlines,)``; with official counts as many as the floors give.
        Source: GlobalCom2, official ``llava/model/llava_arch.py``. Differs: float32, ties to the lowest index, scores
        that are not finite count as the smallest one, newlines only of rows that unpadding left.
        """
        return _select(signals, tokens if keep is None else keep, params)

    return select


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the embeddings that enter the LLM; scores come from the last block of the vision tower.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves (newlines are
    extra). R = B / patches: 720 of 2880 is the published 25 %. With official counts the floors decide at run time how
    many stay. Raises BadInput for a budget below 1 token, Unsupported for a model without crops.
    """
    tokens = budget_tokens(budget)
    need = CLS_LOGITS_LAST_BLOCK if params["scores"] == "logits" else CLS_ATTENTION_LAST_BLOCK
    keep = tokens if params["counts"] == "exact" else None
    select = _stage_select(tokens)
    if keep is not None:
        select = fixed_count(select)
    return Schedule((Stage("projector", keep, select, (need,), title="Thumbnail guides the crops"),))


def _choice(name: str, label: str, choices: tuple[str, ...], help: str) -> Param:
    return Param(name, label, "choice", choices[0], help, choices=choices)


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
    needs=(CLS_LOGITS_LAST_BLOCK, CLS_ATTENTION_LAST_BLOCK),
    params=(
        _choice(
            "scores",
            "[CLS] scores",
            ("logits", "probs"),
            "logits: before the softmax, as the code does. probs: attention, as the paper says.",
        ),
        _choice(
            "order",
            "Order",
            ("official", "raster"),
            "official: the thumbnail's tokens by score, the crops' as in the picture. raster: all as in the picture.",
        ),
        _choice(
            "counts",
            "Token counts",
            ("exact", "official"),
            "exact: floors, and what they leave over goes to the crops, so that the budget is met. official: floors.",
        ),
    ),
    schedule=schedule,
    needs_tiles=True,
)
