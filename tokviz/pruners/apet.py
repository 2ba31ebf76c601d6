"""ApET: keep the tokens that ten basis tokens cannot reconstruct, merge the rest into them; once more at half depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..errors import Unsupported
from ..types import Budget, Params, PlanningInfo, Schedule, SelectFunction, Selection, Signals, Stage, TokenMap
from .base import Paper, Param, Pruner, budget_tokens
from .ops import (
    candidate_rows,
    complement,
    fill_up,
    fixed_count,
    merge_into_nearest,
    non_finite_warnings,
    reconstruction_error,
    spread,
    ties_at_threshold,
    top_k,
    unrankable,
    usable_rows,
)
from .sampling import density_peaks, farthest_from_mean, farthest_points, random_rows

# The official solve adds this to the diagonal of B B^T (absolute, whatever the scale of the features).
OFFICIAL_RIDGE = 1e-5


@dataclass(frozen=True)
class _Reduction:
    """What one mode decided about ``n`` usable tokens, in their own numbering.

    Shape: kept ``(T,)`` ascending; features ``(T, D)`` float32; owner ``(n,)``, the kept token that carries each one;
    sizes ``(n,)``, how many tokens are averaged in it, 0 if dropped; basis_in ``(n,)``, step of the basis token whose
    feature was written over this token, -1 if none.
    """

    kept: Tensor
    features: Tensor
    owner: Tensor
    sizes: Tensor
    basis_in: Tensor
    ties: int


def _sample_basis(features: Tensor, count: int, params: Params, generator: Generator) -> Tensor:
    """Rows of the basis in the order of picking. Shape: ``(n, D)`` -> ``(<= count,)``; FPS stops at duplicates."""
    n, device = len(features), features.device
    if count <= 0:
        return torch.empty(0, dtype=torch.int64, device=device)
    if params["sampling"] == "random":
        return random_rows(n, count, generator, device)
    if params["sampling"] == "dpc":
        return density_peaks(features, count, neighbours=count).centres
    first = random_rows(n, 1, generator, device) if params["start"] == "random" else farthest_from_mean(features)
    return farthest_points(features, count, first)


def _reduce_as_paper(features: Tensor, error: Tensor, basis: Tensor, keep: int) -> _Reduction:
    """Kept = basis and the T - M largest errors of the rest, each at its own place; the rest merges into all of them.

    Source: ApET section 3.3 ("we explicitly retain the base tokens").
    """
    n, device = len(features), features.device
    rest = complement(basis, n)
    wanted = keep - len(basis)
    kept = torch.cat([basis, rest[top_k(error[rest], wanted)]]).sort().values
    dropped = complement(kept, n)
    merge = merge_into_nearest(features, kept, dropped)
    owner = torch.arange(n, device=device).index_copy(0, dropped, merge.owner)
    return _Reduction(
        kept=kept,
        features=merge.features,
        owner=owner,
        sizes=spread(merge.sizes, kept, n, 0),
        basis_in=torch.full((n,), -1, device=device),
        ties=ties_at_threshold(error[rest], wanted),
    )


def _reduce_as_official(features: Tensor, error: Tensor, basis: Tensor, keep: int, by_rank: bool) -> _Reduction:
    """Kept = the T largest errors; the feature of the M last of them is overwritten by a basis token's.

    What the M overwritten tokens held is lost, they receive no merges, and the basis tokens' own places count as
    dropped. Basis features are written in the order of picking to the overwritten places in ascending order (stage 1)
    or in order of rank (stage 2).
    Source: official ``llava/model/utils.py`` and ``modeling_llama_x.py`` (``methods.md`` 1.4 e-g).
    """
    n, m, device = len(features), len(basis), features.device
    ranked = top_k(error, keep)
    targets, places = ranked[: keep - m].sort().values, ranked[keep - m :]
    places = places if by_rank else places.sort().values
    dropped = complement(ranked, n)
    merge = merge_into_nearest(features, targets, dropped)
    carried = features.index_copy(0, targets, merge.features).index_copy(0, places, features[basis])
    kept = ranked.sort().values
    sizes = spread(merge.sizes, targets, n, 0)
    sizes[places] = 1
    return _Reduction(
        kept=kept,
        features=carried[kept],
        owner=torch.arange(n, device=device).index_copy(0, dropped, merge.owner),
        sizes=sizes,
        basis_in=spread(torch.arange(m, device=device), places, n, -1),
        ties=ties_at_threshold(error, keep),
    )


def _select(signals: Signals, keep: int, params: Params, generator: Generator, by_rank: bool) -> Selection:
    n_all, device = len(signals.features), signals.features.device
    pool = candidate_rows(signals)
    other = complement(pool, n_all)
    if keep >= len(pool):
        return Selection(kept=torch.arange(n_all, device=device))
    rows = usable_rows(signals.features, pool)
    if len(rows) <= keep:
        return _without_ranking(rows, keep, pool, other)
    features = signals.features[rows].float()
    basis = _sample_basis(features, min(int(params["basis_tokens"]), keep - 1), params, generator)
    official = params["mode"] == "official"
    error, singular = reconstruction_error(features, features[basis], OFFICIAL_RIDGE if official else 0.0)
    if official:
        reduction = _reduce_as_official(features, error, basis, keep, by_rank)
    else:
        reduction = _reduce_as_paper(features, error, basis, keep)
    return _selection(signals, rows, other, basis, error, singular, reduction, params)


def _without_ranking(rows: Tensor, keep: int, pool: Tensor, other: Tensor) -> Selection:
    """All usable tokens, and unusable ones to make up the number; nothing is merged, as no usable token is dropped."""
    if len(rows) == 0:
        fallback = unrankable(keep, pool)
        return replace(fallback, kept=torch.cat([fallback.kept, other]).sort().values)
    non_finite = len(pool) - len(rows)
    kept = torch.cat([fill_up(rows, keep, pool), other]).sort().values
    return Selection(kept=kept, facts={"non_finite": non_finite}, warnings=non_finite_warnings(non_finite, len(pool)))


def _selection(
    signals: Signals,
    rows: Tensor,
    other: Tensor,
    basis: Tensor,
    error: Tensor,
    singular: Tensor,
    reduction: _Reduction,
    params: Params,
) -> Selection:
    """Back to the numbering of the stage, with rows that are no patch (``other``) kept as they are."""
    n_all, original = len(signals.features), signals.features
    carried = original.index_copy(0, rows[reduction.kept], reduction.features.to(original.dtype))
    kept = torch.cat([rows[reduction.kept], other]).sort().values
    non_finite = n_all - len(rows) - len(other)
    length = original[rows].float().norm(dim=1)
    return Selection(
        kept=kept,
        score=TokenMap("error", "Approximation error", spread(error, rows, n_all, torch.nan), scale="log"),
        order=spread(torch.arange(len(basis), device=rows.device), rows[basis], n_all, -1),
        assignment=spread(rows[reduction.owner], rows, n_all, -1).index_copy(0, other, other),
        features=carried[kept],
        maps=_maps(reduction, error / length.clamp_min(1e-12), rows, other, n_all, params["mode"] == "official"),
        facts={
            "mode": params["mode"],
            "sampling": params["sampling"],
            "basis_used": len(basis),
            "singular_values": [float(f"{value:.6g}") for value in singular.tolist()],
            "ties_at_threshold": reduction.ties,
            "non_finite": non_finite,
        },
        warnings=non_finite_warnings(non_finite, n_all - len(other)),
    )


def _maps(
    reduction: _Reduction, relative: Tensor, rows: Tensor, other: Tensor, n_all: int, official: bool
) -> tuple[TokenMap, ...]:
    def on_all(values: Tensor, missing: float) -> Tensor:
        return spread(values.float(), rows, n_all, missing)

    sizes = on_all(reduction.sizes, 0.0).index_fill(0, other, 1.0)
    maps = (
        TokenMap("relative_error", "Error / length of the feature", on_all(relative, torch.nan)),
        TokenMap("group_size", "Tokens merged into one", sizes, unit="tokens", direction="0 is dropped"),
    )
    if not official:
        return maps
    step = torch.where(reduction.basis_in < 0, torch.nan, reduction.basis_in.float())
    direction = "step of the basis token whose feature replaced this one"
    return (*maps, TokenMap("basis_in", "Overwritten by basis token", on_all(step, torch.nan), direction=direction))


def _stage_select(by_rank: bool) -> SelectFunction:
    @fixed_count
    def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
        """Rank by reconstruction error, keep, merge; see the module's two ``_reduce_as_...`` for the modes.

        The basis is M' = min(M, keep - 1) tokens (none for keep = 1, when the error is the token's length), fewer if
        there are fewer distinct ones. Tokens that are not finite are never basis or merged, and stay only if the count
        cannot be met without them. Rows that are no patch (newlines) always stay and are not counted in ``keep``.
        Shape: signals.features ``(N, D)`` -> kept ``(keep + non-patches,)``, features ``(K, D)`` in the given dtype.
        Source: ApET section 3.3, Eq. 4-5. Differs in both modes: float32 throughout, starts farthest point sampling at
        the token farthest from the mean unless ``start`` is random (official: unseeded random), ``random`` draws
        without and official with replacement, ``dpc`` takes centre tokens and official the means of clusters.
        """
        return _select(signals, keep, params, generator, by_rank)

    return select


select_stage_1 = _stage_select(by_rank=False)
select_stage_2 = _stage_select(by_rank=True)


def plan_counts(budget: Budget, info: PlanningInfo) -> tuple[int, int]:
    """How many tokens stages 1 and 2 keep, for a stage 2 at half depth.

    ``published`` and ``average``: 1.5 B, then 0.5 B, so that the blocks process B on average, exactly as the paper's
    tables (192: 288, 96; 64: 96, 32). Halves go down in stage 1 and up in stage 2. When 1.5 B exceeds N, or the number
    of blocks is odd, stage 2 takes what keeps the average at B. ``final``: stage 2 keeps B and stage 1 keeps 3 B, the
    same ratio. Both counts are at least 1; counts above N mean that the stage does nothing.
    """
    tokens, n, blocks = budget_tokens(budget), info.n_visual, info.n_blocks
    if budget.counted_as == "final":
        return min(3 * tokens, n), tokens
    first = min(3 * tokens // 2, n)
    before, after = blocks // 2, blocks - blocks // 2
    rest = blocks * tokens - before * first
    return first, max(1, (2 * rest + after) // (2 * after))


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Stage 1 on the encoder's output (LLaVA: before the projector), stage 2 before block L/2 (16 of 32, 14 of 28).

    Counts: see ``plan_counts``. Families other than LLaVA merge patches behind their encoder, so stage 1 acts on the
    embeddings that enter the LLM. Raises BadInput for a budget below 1 token, Unsupported for the official mode
    outside LLaVA, whose code differs there in ways that are not implemented (``methods.md`` 1.2).
    """
    first, second = plan_counts(budget, info)
    llava = info.family in ("llava", "llava_next")
    if params["mode"] == "official" and not llava:
        raise Unsupported("ApET's official mode reproduces its LLaVA code. Choose mode paper for this model.")
    return Schedule(
        (
            Stage("encoder" if llava else "projector", first, select_stage_1, title="Stage 1: approximation error"),
            Stage(info.n_blocks // 2, second, select_stage_2, title="Stage 2: approximation error"),
        )
    )


def _param(name: str, label: str, choices: tuple[str, ...], help: str) -> Param:
    return Param(name, label, "choice", choices[0], help, choices=choices)


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
        _param(
            "mode",
            "Mode",
            ("paper", "official"),
            "paper keeps the basis tokens at their places; official does as the released LLaVA code: it writes their "
            "features over the lowest-ranked kept tokens.",
        ),
        _param("sampling", "Basis sampling", ("fps", "dpc", "random"), "Farthest points, density peaks, or by lot."),
        _param(
            "start", "First farthest point", ("farthest", "random"), "Farthest from the mean, or by lot as officially."
        ),
        Param(
            "basis_tokens",
            "Basis tokens M",
            "int",
            10,
            "How many tokens the others are reconstructed from. Paper: 10.",
            minimum=1,
            maximum=64,
            step=1,
        ),
    ),
    schedule=schedule,
)
