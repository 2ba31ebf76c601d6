"""EVS: of a video keep the first frame, and what changed most since the frame before at the same place."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..records import Chart, TokenMap
from ..types import Budget, Diagnostics, Params, PlanningInfo, Schedule, Selection, Signals
from .ops import highest, row_blocks, row_lengths, spread, ties_at_threshold, unit_rows
from .per_view import all_rows, unrankable, usable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, single_stage
from .serving_flags import evs_elsewhere, vllm, vllm_flags, vllm_total


def places(signals: Signals, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Frame and place of every row; places are equal where rows of two frames show the same cell.

    Where cells are not known, a place is the number of the row in its frame.
    Shape: rows ``(n,)`` -> two of ``(n,)`` int64.
    """
    frame = torch.zeros_like(rows) if signals.view is None else signals.view[rows].long()
    if signals.cell is not None:
        cell = signals.cell[rows].long()
        if bool((cell >= 0).all()):
            return frame, cell[:, 0] * (cell[:, 1].amax() + 1) + cell[:, 1]
    by_frame = torch.sort(frame, stable=True).indices
    counts = torch.bincount(frame)
    first = (counts.cumsum(0) - counts)[frame[by_frame]]
    return frame, torch.empty_like(rows).index_copy_(0, by_frame, all_rows(rows) - first)


def previous(frame: Tensor, place: Tensor) -> Tensor:
    """For every token the number of the one at its place a frame earlier, -1 where there is none.

    Shape: ``(n,)``, ``(n,)`` -> ``(n,)``, numbers of 0..n-1.
    """
    width = int(place.max()) + 1
    slot = (frame + 1) * width + place
    table = torch.full((int(slot.max()) + 1,), -1, dtype=torch.int64, device=frame.device)
    table[slot] = all_rows(frame)
    return table[slot - width]


def changes(features: Tensor, rows: Tensor, before: Tensor) -> Tensor:
    """1 - cosine of every row with the one ``before`` it, infinite where there is none.

    Computed as half the squared distance of unit rows, so that a row that stayed the same has changed by exactly 0; a
    zero row has cosine 0 with everything.
    Shape: features ``(N, D)``, rows ``(n,)``, before ``(n,)`` numbers of rows or -1 -> ``(n,)`` float32.
    """
    found = torch.full((len(rows),), torch.inf, device=features.device)
    compared = (before >= 0).nonzero().squeeze(1)
    for part in row_blocks(features[:1].expand(len(compared), -1)):
        now = compared[part]
        pair = features[rows[now]], features[rows[before[now]]]
        half = (unit_rows(pair[0]) - unit_rows(pair[1])).square_().sum(1) / 2
        is_zero = (row_lengths(pair[0]) == 0) | (row_lengths(pair[1]) == 0)
        found[now] = torch.where(is_zero, 1.0, half)
    return found


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Rank all tokens of the video by their change since the previous frame; those without a previous one come first.

    That is the first frame, and a token whose predecessor is gone or not finite. Among equals the lowest index stays.
    Shape: signals.features ``(N, D)`` -> kept ``(min(keep, patches),)``.
    Source: EVS; vLLM ``multimodal/evs.py`` ``compute_retention_mask``.
    """
    found = usable(signals)
    rows = found.rows
    if len(rows) == 0:
        return unrankable(keep, found.pool)
    frame, place = places(signals, rows)
    change = changes(signals.features, rows, previous(frame, place))
    count = min(keep, len(rows))
    picks = highest(change, count)

    def diagnose() -> Diagnostics:
        n, is_new, first = len(signals.features), change == torch.inf, int((frame == frame.min()).sum())
        values = spread(change.masked_fill(is_new, torch.nan), rows, n, torch.nan)
        score = TokenMap("change", "Change since the previous frame", values, "1 - cosine", "high is kept first")
        age = spread(frames_since_kept(frame, place, picks), rows, n, torch.nan)
        numbers = torch.bincount(frame[picks], minlength=int(frame.max()) + 1).tolist()
        return found.explained(
            score,
            maps=(TokenMap("age", "Frames since this place was last kept", age, "frames", "0 is kept, high is stale"),),
            charts=(kept_per_frame(numbers),),
            facts={
                "first_frame": first,
                "kept_per_view": numbers,
                "ties_at_threshold": ties_at_threshold(change, count),
                "vllm": vllm_flags("evs", len(found.pool), len(picks), first),
            },
            warnings=() if keep >= first else (cut_first_frame(first, count),),
        )

    return Selection(found.kept(rows[picks], keep), diagnose=diagnose)


def frames_since_kept(frame: Tensor, place: Tensor, picks: Tensor) -> Tensor:
    """How many frames ago the place of each token was last kept: 0 for kept tokens, NaN where it never was.

    Shape: frame and place ``(n,)``, picks ``(k,)`` -> ``(n,)`` float32.
    """
    width, height = int(place.max()) + 1, int(frame.max()) + 1
    last = torch.full((height, width), -1, dtype=torch.int64, device=frame.device)
    last[frame[picks], place[picks]] = frame[picks]
    last = last.cummax(0).values[frame, place]
    return torch.where(last < 0, torch.nan, (frame - last).float())


def kept_per_frame(numbers: list[int]) -> Chart:
    """A bar per frame. numbers: tokens kept in each."""
    names = [str(number + 1) for number in range(len(numbers))]
    return Chart("tokens_per_frame", "Tokens kept per frame", "bars", numbers, names=names, x_label="frame",
                 y_label="tokens")  # fmt: skip


def cut_first_frame(first: int, count: int) -> str:
    """The sentence for budgets below the first frame, which the method never meant."""
    return (
        f"EVS keeps the first frame whole, and the budget is smaller: the first {count} of its {first} tokens were "
        f"kept and nothing of later frames. Ask for more than {first}, or count as vLLM does."
    )


_one_stage = single_stage(select, positions="keep", title="What changed since the previous frame")


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage behind the projector. Counted as vLLM does, the first frame is never cut, and fractions are."""
    tokens = budget_tokens(budget)
    if params["count"] == "vllm":
        rate = 1 - min(tokens, info.n_visual) / info.n_visual
        tokens = vllm_total(info.n_visual, rate, info.n_visual // info.n_views)
    return _one_stage(Budget(tokens, budget.counted_as), info, params)


PRUNER = Pruner(
    id="evs",
    label="EVS",
    family="diversity",
    claim="Keeps the first frame of a video, and of later ones what changed at its place since the frame before.",
    paper=Paper(
        "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference",
        "Bagrov et al.",
        2025,
        "https://arxiv.org/abs/2510.14624",
    ),
    params=(
        choice(
            "count",
            "Token count",
            ("exact", "vllm"),
            "exact: the budget. vllm: what vLLM leaves at the pruning rate 1 - budget / N, never less than the first "
            "frame.",
        ),
    ),
    schedule=schedule,
    needs_frames=True,
    deployed=lambda served, params: (*vllm("evs", served, served.frames[0]), *evs_elsewhere(served)),
)
