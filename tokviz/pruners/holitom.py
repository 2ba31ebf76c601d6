"""HoliTom: cells that stand still are averaged over windows of the video and clustered; what moves is ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..records import Chart, TokenMap
from ..types import Budget, Diagnostics, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .density import density_peaks
from .diagnostics import group_sizes
from .evs import changes, places, previous
from .ops import group_sums, highest, kept_rows, spread, without
from .per_view import TOWER_ATTENTION, Usable, tower_attention, unrankable, usable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, needs_on, number, whole


@dataclass(frozen=True)
class Window:
    """Frames ``start`` to ``stop - 1``. Shape: still ``(c, stop - start)``, rows of the cells that stand still in it,
    one line per cell; moving: the rows of each frame that do not, ``(m_t,)`` each."""

    start: int
    stop: int
    still: Tensor
    moving: list[Tensor]


@dataclass(frozen=True)
class Merged:
    """Clusters of a window's cells. Shape: centres ``(k,)`` rows of its first frame, ascending; held ``(k, D)``
    float32; owner ``(c,)`` the centre of each cell, -1 where the window keeps no cluster."""

    centres: Tensor
    held: Tensor
    owner: Tensor


def still_cells(similarity: Tensor, threshold: float) -> list[list[int]]:
    """How many cells stay above the threshold from frame s on for 1, 2, ... transitions, for every s.

    Shape: similarity ``(T - 1, P)`` -> T - 1 lists, of T - 1, T - 2, ... numbers.
    """
    above = similarity > threshold
    return [above[start:].long().cumprod(0).sum(1).tolist() for start in range(len(above))]


def best_windows(still: list[list[int]]) -> list[range]:
    """Cut the frames into windows so that the most tokens are averaged away: cells that stand still, times frames - 1.

    Dynamic programming over all cuts; a shorter last window wins a tie.
    Source: HoliTom, "global redundancy-aware temporal merging"; official ``select_static_windows``.
    """
    n_frames = len(still) + 1
    best, start_of = [0], [0]
    for stop in range(1, n_frames + 1):
        value, start = best[stop - 1], stop - 1
        for size in range(2, stop + 1):
            found = best[stop - size] + still[stop - size][size - 2] * (size - 1)
            if found > value:
                value, start = found, stop - size
        best.append(value)
        start_of.append(start)
    windows, stop = [], n_frames
    while stop:
        windows.append(range(start_of[stop], stop))
        stop = start_of[stop]
    return windows[::-1]


def windows_of(rows: Tensor, frame: Tensor, place: Tensor, similarity: Tensor, threshold: float) -> list[Window]:
    """The windows, with the rows that stand still in each and those that do not.

    Shape: rows, frame, place ``(n,)``, similarity ``(T - 1, P)``, -inf where a cell has no token in one of both frames.
    """
    table = torch.full((len(similarity) + 1, similarity.shape[1]), -1, dtype=torch.int64, device=rows.device)
    table[frame, place] = rows
    found = []
    for part in best_windows(still_cells(similarity, threshold)):
        lines = table[part.start : part.stop]
        still = (similarity[part.start : part.stop - 1] > threshold).all(0) & (len(part) > 1)
        moving = [line[~still] for line in lines]
        found.append(
            Window(part.start, part.stop, lines[:, still].T, [line[line >= 0].sort().values for line in moving])
        )
    return found


def counts_of(sizes: list[int], still: list[bool], ratio: float, keep: int | None) -> list[int]:
    """Tokens that each group keeps: ``ratio`` of its size, rounded for still ones, rounded up for moving ones.

    keep: None leaves it at that. Otherwise one is taken from, or given to, the groups furthest above or below their
    share, ties to the last or first, until the sum is ``keep`` or every group is whole.
    """
    counts = [
        round(size * ratio) if stands else math.ceil(size * ratio) for size, stands in zip(sizes, still, strict=True)
    ]
    while keep is not None and sum(counts) != min(keep, sum(sizes)):
        step = 1 if sum(counts) < keep else -1
        able = [g for g, size in enumerate(sizes) if 0 <= counts[g] + step <= size]
        able.sort(key=lambda g: (step * (counts[g] - sizes[g] * ratio), step * g))
        for group in able[: abs(min(keep, sum(sizes)) - sum(counts))]:
            counts[group] += step
    return counts


def cluster(features: Tensor, window: Window, count: int, neighbours: int, beta: float) -> Merged:
    """Average each still cell over the window, and merge the averages into their density peaks.

    A centre becomes ``beta * centre + (1 - beta) * mean`` of the cells nearest to it, in Euclidean distance.
    Shape: features ``(N, D)``. Source: HoliTom, official ``holitom/llava_arch.py`` ``merge_tokens_by_density``.
    """
    first = window.still[:, 0]
    if count == 0:
        return Merged(
            first[:0], features.new_zeros(0, features.shape[1], dtype=torch.float32), torch.full_like(first, -1)
        )
    means = torch.stack([features[line].float() for line in window.still.T]).mean(0)
    found = density_peaks(means, count, min(neighbours, count))
    centres = found.centres.sort().values
    others = without(torch.arange(len(means), device=means.device), centres, len(means))
    sums, sizes = group_sums(means, others, torch.searchsorted(centres, found.owner[others]), count)
    weight = torch.where(sizes > 0, beta, 1.0).unsqueeze(1)
    held = weight * means[centres] + (1 - weight) * sums / sizes.clamp_min(1).unsqueeze(1)
    return Merged(first[centres], held, first[found.owner])


def _select(signals: Signals, keep: int, params: Params, generator: Generator, ratio: float | None = None) -> Selection:
    """Average what stands still, then keep the same share of averages (by density) and of moving tokens (by attention).

    The share is the ratio that is asked for, over what averaging left. Averages stand in the first frame of their
    window. If averaging leaves less than ``keep``, those averaged tokens that changed most are kept as well.
    ratio: leave what rounding leaves at this ratio, not ``keep``.
    Shape: signals.features ``(N, D)``, attention of the tower ``(N,)`` -> kept ``(min(keep, patches),)``.
    """
    score = tower_attention(signals, "the highest of what moves in a frame stay; what stands still is clustered")
    features, found = signals.features, usable(signals, score.values)
    rows = found.rows
    if len(rows) == 0:
        return unrankable(keep, found.pool, score)
    frame, place = places(signals, rows)
    change = changes(features, rows, previous(frame, place))
    similarity = torch.full((int(frame.max()) + 1, int(place.max()) + 1), -torch.inf, device=rows.device)
    similarity[frame, place] = 1 - change
    windows = windows_of(rows, frame, place, similarity[1:], params["threshold"])
    groups = [group for window in windows for group in (window.still[:, 0], *window.moving)]
    stands = [number == 0 for window in windows for number in range(1 + len(window.moving))]
    sizes = [len(group) for group in groups]
    wanted = min(keep, len(rows)) / len(rows) if ratio is None else ratio
    share = min(1.0, wanted / (sum(sizes) / len(rows)))
    counts = iter(counts_of(sizes, stands, share, keep if ratio is None else None))
    merged, picks = [], []
    for window in windows:
        merged.append(cluster(features, window, next(counts), params["neighbours"], params["beta"]))
        picks += [own[highest(score.values[own], next(counts))] for own in window.moving]
    centres, held = torch.cat([part.centres for part in merged]), torch.cat([part.held for part in merged])
    kept = torch.cat([centres, *picks])
    if ratio is None and len(kept) < min(keep, len(rows)):
        rest = without(rows, kept, len(features))
        changed = spread(change, rows, len(features), 0.0)[rest].nan_to_num(posinf=0.0)
        kept = torch.cat([kept, rest[highest(changed, min(keep, len(rows)) - len(kept))]])
    kept = found.kept(kept, 0 if ratio is not None else keep)
    assignment = torch.full((len(features),), -1, dtype=torch.int64, device=rows.device)
    for window, part in zip(windows, merged, strict=True):
        assignment[window.still.flatten()] = part.owner.repeat_interleave(window.stop - window.start)
    assignment[kept] = kept
    selection = Selection(kept, assignment=assignment, features=kept_rows(features, kept, *_ascending(centres, held)))
    shown = (score, selection, found, windows, centres, spread(1 - change, rows, len(features), torch.nan), share)
    return selection.with_diagnostics(lambda _: _explained(*shown))


def _ascending(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    order = rows.sort().indices
    return rows[order], values[order]


def _explained(
    score: TokenMap, selection: Selection, found: Usable, windows: Sequence[Window], centres: Tensor, alike: Tensor,
    share: float,
) -> Diagnostics:  # fmt: skip
    """Maps of windows, of what stands still, of the similarity to the previous frame, of groups; bars per window."""
    n = len(score.values)
    window_of, role = torch.full_like(alike, torch.nan), torch.full_like(alike, torch.nan)
    for place, window in enumerate(windows):
        for rows in (window.still.flatten(), *window.moving):
            window_of[rows] = float(place)
        role[torch.cat(window.moving)] = 0.0
        role[window.still.flatten()] = 1.0
    role[centres] = 2.0
    cosine = alike.masked_fill(alike.isinf(), torch.nan)
    maps = (
        TokenMap("window", "Window of frames", window_of, direction="number in the order of time"),
        TokenMap("role", "Moving (0), still (1), still and a centre (2)", role, direction="what was done with it"),
        TokenMap("similarity", "Similarity to the previous frame", cosine, "cosine",
                 "above the threshold it stands still"),
        group_sizes(selection, n),
    )  # fmt: skip
    still = [len(window.still) for window in windows]
    names = [f"{window.start + 1}-{window.stop}" for window in windows]
    charts = (Chart("still_cells", "Cells that stand still in each window", "bars", still, names=names,
                    x_label="frames", y_label="cells"),)  # fmt: skip
    lengths = [window.stop - window.start for window in windows]
    facts = {
        "windows": lengths,
        "still_cells": still,
        "averaged_away": sum(cells * (length - 1) for cells, length in zip(still, lengths, strict=True)),
        "share_kept": share,
    }
    return found.explained(score, maps=maps, charts=charts, facts=facts)


select = fixed_count(_select)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage behind the projector, with the budget or with what rounding leaves of its ratio."""
    tokens, title, needs = budget_tokens(budget), "What stands still is merged", needs_on(info, *TOWER_ATTENTION)
    if params["count"] == "exact":
        return Schedule((Stage("projector", tokens, select, needs, title=title),))
    ratio = min(1.0, tokens / info.n_visual)

    def as_rounded(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        return _select(signals, tokens, params, generator, ratio)

    return Schedule((Stage("projector", None, as_rounded, needs, title=title),))


PRUNER = Pruner(
    id="holitom",
    label="HoliTom",
    family="merging",
    claim="Averages what stands still over the best windows of the video, and ranks what moves by attention.",
    paper=Paper(
        "HoliTom: Holistic Token Merging for Fast Video Large Language Models",
        "Shao et al.",
        2025,
        "https://arxiv.org/abs/2505.21334",
    ),
    needs=TOWER_ATTENTION,
    does_without=TOWER_ATTENTION,
    params=(
        number("threshold", "Threshold of standing still", 0.8, "A cell stands still while its cosine with the frame "
               "before is above this. Official: 0.8, at 10 % 0.65.", step=0.01),
        number("beta", "Weight of a centre", 0.6, "A centre keeps this share of itself when cells merge into "
               "it. Official: 0.6."),
        whole("neighbours", "Neighbours", 7, "How many nearest cells make the density of a cell. Official: 7.",
              minimum=1, maximum=64),
        choice("count", "Token count", ("exact", "official"), "exact: the budget. official: what rounding in every "
               "window and frame leaves."),
    ),
    schedule=schedule,
    needs_frames=True,
    merges=True,
)  # fmt: skip
