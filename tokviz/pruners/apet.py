"""ApET: keep the tokens that ten basis tokens cannot reconstruct, merge the rest into them; once more at half depth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Generator, Tensor

from ..errors import Unsupported
from ..records import Chart, TokenMap
from ..types import Budget, Diagnostics, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .apet_reduction import BasisPlaces, Reduction, reduce_tokens
from .diagnostics import explained, lines_per_view
from .ops import complement, kept_rows, row_lengths, spread, take_rows, top_k
from .per_view import Usable, all_rows, shared, unrankable, usable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, whole

_Part = tuple[Tensor, Reduction]
"""The usable rows of one view ``(n_v,)``, and what was decided about them."""


def _select(
    signals: Signals, keep: int, params: Params, generator: Generator, places: BasisPlaces, per_view: bool
) -> Selection:
    """Rank by reconstruction error, keep, merge; ``apet_reduction`` has the modes.

    Tokens that are not finite are never basis or merged, and stay only if the count cannot be met without them. Rows
    that are no patch (newlines, a frame's [CLS]) always stay and are not counted in ``keep``. Crops of an image and
    frames of a video share ``keep`` equally at stage 1, each with a basis of its own; stage 2 takes all together.
    Shape: signals.features ``(N, D)`` -> kept ``(keep + non-patches,)``, features ``(K, D)`` in the given dtype.
    Source: ApET section 3.3, Eq. 4-5.
    """
    found, n = usable(signals), len(signals.features)
    other = complement(found.pool, n)
    if keep >= len(found.pool):
        return Selection(all_rows(signals.features))
    if len(found.rows) <= keep:  # no usable token is dropped, so that nothing is merged
        kept = torch.cat([found.kept(found.rows, keep), other]).sort().values
        if len(found.rows) == 0:
            return Selection(kept, diagnose=unrankable(keep, found.pool).diagnose)
        return Selection(kept, diagnose=lambda: explained(non_finite=found.non_finite, of=len(found.pool)))
    parts = [
        (view, reduce_tokens(take_rows(signals.features, view), share, params, generator, places))
        for view, share in (shared(signals, found.rows, keep) if per_view else [(found.rows, keep)])
    ]
    assignment = torch.full((n,), -1, device=other.device).index_copy(0, other, other)
    for rows, part in parts:
        assignment[rows] = torch.where(part.owner < 0, -1, rows[part.owner])
    picks = torch.cat([rows[_first_draws(part.basis, params)] for rows, part in parts])
    reduced = torch.cat([rows[part.rows] for rows, part in parts])
    kept = torch.cat([reduced, other]).sort().values
    return Selection(
        kept=kept,
        order=spread(all_rows(picks), picks, n, -1),
        assignment=assignment,
        features=kept_rows(signals.features, kept, reduced, torch.cat([part.features for _, part in parts])),
        sequence=_sequence(signals, parts, kept),
        diagnose=lambda: _explained(
            signals, parts, found, other, params, params["mode"] == "official" and places != "behind"
        ),
    )


select_stage_1 = fixed_count(partial(_select, places="by_position", per_view=True))
select_stage_1_jointly = fixed_count(partial(_select, places="by_position", per_view=False))
select_each_frame = fixed_count(partial(_select, places="behind", per_view=True))
select_stage_2 = fixed_count(partial(_select, places="by_rank", per_view=False))


def _first_draws(basis: Tensor, params: Params) -> Tensor:
    """Every token of the basis once; only the official random draw takes one twice. Shape: ``(M,)`` -> ``(<= M,)``."""
    if params["mode"] != "official" or params["sampling"] != "random":
        return basis
    return torch.tensor(list(dict.fromkeys(basis.tolist())), dtype=torch.int64, device=basis.device)


def _sequence(signals: Signals, parts: Sequence[_Part], kept: Tensor) -> Tensor | None:
    """View after view in the order that the parts ask for, rows that are no patch in front; None where none asks.

    Shape: kept ``(K,)`` -> ``(K,)`` positions in it.
    """
    if all(part.sequence is None for _, part in parts):
        return None
    place = torch.zeros(len(signals.features), dtype=torch.int64, device=kept.device)
    for rows, part in parts:
        inner = part.rows if part.sequence is None else part.sequence
        place[rows[inner]] = 1 + all_rows(inner)
    view = torch.zeros_like(place) if signals.view is None else signals.view
    return (view[kept] * (len(place) + 1) + place[kept]).argsort(stable=True)


def _explained(
    signals: Signals, parts: Sequence[_Part], found: Usable, other: Tensor, params: Params, overwrites: bool
) -> Diagnostics:
    several, n = len(parts) > 1, len(signals.features)
    error, step = (torch.full((n,), torch.nan, device=other.device) for _ in range(2))
    sizes, draws = torch.zeros_like(error).index_fill(0, other, 1.0), 0
    for rows, part in parts:
        first = _first_draws(part.basis, params)
        order = spread(all_rows(first), first, len(rows), -1)
        error[rows] = part.error
        sizes[rows[part.rows]] = 1.0
        sizes[rows[part.targets]] = part.sizes.float()
        step[rows[part.overwritten]] = order[part.basis][: len(part.overwritten)].float()
        draws += len(first)
    ranks = "high is kept first" + ("" if overwrites else ", beside the basis tokens, which always stay")
    relative, compared = error / row_lengths(signals.features).clamp_min(1e-12), "to compare; the error itself ranks"
    replaced = "step of the basis token whose feature replaced this one"
    maps = [
        TokenMap("relative_error", "Error / length of the feature", relative, direction=compared),
        TokenMap("group_size", "Tokens merged into one", sizes, unit="tokens", direction="0 is dropped"),
        TokenMap("basis_in", "Overwritten by basis token", step, direction=replaced),
    ]
    name, singular = "singular_values" + ("_{}" if several else ""), [(rows, part.singular) for rows, part in parts]
    charts = lines_per_view(name, "Singular values of the basis", singular, "direction", "singular value")
    groups = top_k(sizes, int((sizes > 1).sum()))
    if len(groups):
        label, counts = "Tokens merged into one, largest group first", sizes[groups].tolist()
        charts.append(Chart("group_sizes", label, "bars", counts, tokens=groups.tolist(), y_label="tokens"))
    facts = {
        "mode": params["mode"],
        "sampling": params["sampling"],
        "basis_used": draws,
        "singular_values": [float(f"{value:.6g}") for _, part in parts for value in part.singular.tolist()],
        "ties_at_threshold": max(part.ties() for _, part in parts),
    }
    return explained(
        TokenMap("error", "Approximation error", error, direction=ranks, scale="log"),
        maps=maps if overwrites else maps[:2],
        charts=charts,
        order_is_basis=True,
        facts={**facts, "kept_per_view": [len(part.rows) for _, part in parts]} if several else facts,
        non_finite=found.non_finite,
        of=len(found.pool),
    )


def plan_counts(budget: Budget, info: PlanningInfo) -> tuple[int, int]:
    """How many tokens stages 1 and 2 keep, for a stage 2 at half depth; each at least 1, above N a stage does nothing.

    ``published`` and ``average``: 1.5 B, then 0.5 B, so that the layers process B on average, as in the paper's tables
    (192: 288, 96; 64: 96, 32). When 1.5 B exceeds N, or the number of layers is odd, stage 2 takes what keeps the
    average at B. ``final``: stage 2 keeps B and stage 1 keeps 3 B, the same ratio. ``published`` on Qwen: stage 2 keeps
    0.333 of stage 1, rounded down, as its scripts say.
    """
    tokens, n, layers = budget_tokens(budget), info.n_visual, info.n_layers
    if budget.counted_as == "final":
        return min(3 * tokens, n), tokens
    first = min(3 * tokens // 2, n)
    if budget.counted_as == "published" and info.published_as == "qwen" and 3 * tokens // 2 <= n:
        return max(1, first), max(1, 333 * first // 1000)
    before, after = layers // 2, layers - layers // 2
    rest = layers * tokens - before * first
    return first, max(1, (2 * rest + after) // (2 * after))


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Stage 1 on the encoder's output (LLaVA: before the projector), stage 2 before layer L/2 (16 of 32, 14 of 28).

    Counts: see ``plan_counts``. Families that merge patches behind their encoder have stage 1 on the embeddings that
    enter the LLM. Videos: stage 1 in each frame by itself, but for Qwen; on Video-LLaVA, as its code does, behind the
    projector and without stage 2. Raises BadInput for a budget below 1 token, Unsupported for the official mode where
    there is no official code.
    """
    published, filmed = info.published_as, info.has_frames
    if params["mode"] == "official" and published != ("video_llava" if filmed else "llava"):
        raise Unsupported(
            "ApET's official mode reproduces its code for LLaVA's images and Video-LLaVA's videos. "
            "Choose mode paper for this model."
        )
    title = "Approximation error, frame by frame"
    if published == "video_llava" and filmed:
        return Schedule((Stage("projector", budget_tokens(budget), select_each_frame, title=title),))
    first, second = plan_counts(budget, info)
    llava = published in ("llava", "video_llava")  # whose encoders make the very tokens that are projected
    select = select_stage_1 if llava or (filmed and published != "qwen") else select_stage_1_jointly
    return Schedule(
        (
            Stage("encoder" if llava else "projector", first, select, title="Stage 1: approximation error"),
            Stage(info.n_layers // 2, second, select_stage_2, title="Stage 2: approximation error"),
        )
    )


PRUNER = Pruner(
    id="apet",
    label="ApET",
    family="approximation-error",
    claim="Keeps what ten basis tokens cannot reconstruct and merges the rest into it; needs no attention.",
    paper=Paper(
        "ApET: Approximation-Error Guided Token Compression for Efficient VLMs",
        "Ma et al.",
        2026,
        "https://arxiv.org/abs/2602.19870",
    ),
    needs=(),
    params=(
        choice(
            "mode",
            "Mode",
            ("paper", "official"),
            "paper keeps the basis tokens at their places; official does as the released LLaVA code: it writes their "
            "features over the lowest-ranked kept tokens.",
        ),
        choice("sampling", "Basis sampling", ("fps", "dpc", "random"), "Farthest points, density peaks, or random."),
        choice(
            "start", "First farthest point", ("farthest", "random"), "Farthest from the mean, or random as officially."
        ),
        whole(
            "basis_tokens",
            "Basis tokens M",
            10,
            "How many tokens the others are reconstructed from. Paper: 10.",
            minimum=1,
            maximum=64,
        ),
    ),
    schedule=schedule,
    merges=True,
)
