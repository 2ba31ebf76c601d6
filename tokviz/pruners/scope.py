"""SCOPE: greedily the patch that covers most of what is not covered yet, times its [CLS] attention."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..types import Diagnostics, Params, Selection, Signals, TokenMap
from .coverage import Coverage, cosine_cover, greedy_coverage, regions, worth_of_all
from .diagnostics import lines_per_view
from .ops import spread, take_rows, unit_rows
from .per_view import TOWER_ATTENTION, in_each_view, tower_attention, unrankable, usable
from .pruner import Paper, Pruner, fixed_count, number, single_stage


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """In each view with its equal share: always the patch j with the largest a_j^alpha sum_i max(0, cos(i, j) - c_i).

    c_i is the largest cosine of patch i to the picks, at least 0; a is the [CLS] attention. Rows that are no patch are
    never kept.
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)`` -> kept ``(min(keep, patches),)``.
    Source: SCOPE section 3, official ``scope/clip_encoder.py``; see ``greedy_coverage``. Differs: the mean of the
    attention over heads instead of the sum, a constant factor that ranks nothing.
    """
    score = tower_attention(signals, "high weighs more")
    found = usable(signals, score.values)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool, score)
    n, features, alpha = len(signals.features), signals.features, float(params["alpha"])

    def given(view: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of length 1, and weights."""
        return unit_rows(take_rows(features, view)), score.values[view].clamp_min(0) ** alpha

    def reduce(view: Tensor, share: int) -> Coverage:
        unit, weights = given(view)
        return greedy_coverage(cosine_cover(unit), len(unit), weights, share)

    views = in_each_view(signals, found.rows, keep, reduce)
    picks = torch.cat([view[coverage.picks] for view, coverage in views])

    def diagnose() -> Diagnostics:
        owner = torch.full((n,), -1, device=picks.device)
        gain, cover = (torch.full((n,), torch.nan, device=picks.device) for _ in range(2))
        for view, coverage in views:
            unit, weights = given(view)
            covers = cosine_cover(unit)
            gain[view] = worth_of_all(covers, coverage.cover, weights).index_copy(0, coverage.picks, coverage.gains)
            cover[view] = coverage.cover
            mine = regions(covers, coverage)
            owner[view] = torch.where(mine < 0, -1, view[mine.clamp_min(0)])
        kept = found.kept(picks, keep)
        owner[kept] = kept
        sizes = torch.bincount(owner[owner >= 0], minlength=n).float()
        shown = spread(sizes[found.rows], found.rows, n, torch.nan)
        label = "Coverage added, times attention, when picked"
        high = "high is kept first; dropped tokens show what they would still add"
        best = "1 is covered whole, as every kept token is; low is badly covered"
        gains = [(view, coverage.gains) for view, coverage in views]
        covered = cover[found.rows]
        return found.explained(
            TokenMap("gain", label, gain, "cosines, weighted", high, "log"),
            maps=(
                TokenMap(score.name, score.label, score.values, score.unit, score.direction, score.scale),
                TokenMap("covered", "Largest cosine to a kept token", cover, "cosine", best),
                TokenMap("region", "Patches that it covers", shown, "tokens", "0 is dropped; itself counts"),
            ),
            covered_by=owner,
            charts=lines_per_view("gain_{}", label, gains, "pick", "cosines, weighted"),
            facts={
                "mean_coverage": float(f"{float(covered.mean()):.6g}"),
                "least_coverage": float(f"{float(covered.min()):.6g}"),
                "largest_region": int(sizes.max()),
            },
        )

    return found.picked(picks, keep, n, diagnose)


PRUNER = Pruner(
    id="scope",
    label="SCOPE",
    family="diversity",
    claim="Keeps the patches that together resemble all others most, each weighed by its [CLS] attention.",
    paper=Paper(
        "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs",
        "Deng et al.",
        2025,
        "https://arxiv.org/abs/2510.24214",
    ),
    needs=TOWER_ATTENTION,
    does_without=TOWER_ATTENTION,
    params=(
        number(
            "alpha",
            "Weight of attention α",
            1.0,
            "The power of the attention by which coverage is multiplied; 0 is coverage alone. Official: 1.",
            maximum=4.0,
            step=0.1,
        ),
    ),
    schedule=single_stage(select, "encoder", needs=TOWER_ATTENTION, title="Coverage times attention"),
)
