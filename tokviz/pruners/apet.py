"""ApET: keep the tokens that ten basis tokens cannot reconstruct, merge the rest into them; once more at half depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ..errors import Unsupported
from ..types import (
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
from .apet_reduction import BasisPlaces, Reduction, reduce_tokens
from .diagnostics import non_finite_warnings
from .ops import candidate_rows, complement, fill_up, kept_rows, row_lengths, take_rows, usable_rows
from .per_view import equal_shares, rows_by_view, unrankable
from .pruner import Paper, Param, Pruner, budget_tokens, fixed_count

_Part = tuple[Tensor, Reduction]
"""The usable rows of one view ``(n_v,)``, and what was decided about them."""


def _select(
    signals: Signals, keep: int, params: Params, generator: Generator, places: BasisPlaces, per_view: bool
) -> Selection:
    n_all = len(signals.features)
    pool = candidate_rows(signals)
    other = complement(pool, n_all)
    if keep >= len(pool):
        return Selection(kept=torch.arange(n_all, device=signals.features.device))
    rows = usable_rows(signals.features, pool)
    if len(rows) <= keep:
        return _without_ranking(rows, keep, pool, other)
    views = rows_by_view(signals, rows) if per_view else [rows]
    shares = equal_shares([len(view) for view in views], keep)
    parts = [
        (view, reduce_tokens(take_rows(signals.features, view), share, params, generator, places))
        for view, share in zip(views, shares, strict=True)
    ]
    overwrites = params["mode"] == "official" and places != "behind"
    return _selection(signals, parts, other, params, overwrites, non_finite=len(pool) - len(rows))


def _without_ranking(rows: Tensor, keep: int, pool: Tensor, other: Tensor) -> Selection:
    """All usable tokens, and unusable ones to make up the number; nothing is merged, as no usable token is dropped."""
    if len(rows) == 0:
        fallback = unrankable(keep, pool)
        return replace(fallback, kept=torch.cat([fallback.kept, other]).sort().values)
    non_finite = len(pool) - len(rows)
    kept = torch.cat([fill_up(rows, keep, pool), other]).sort().values
    return Selection(
        kept=kept,
        diagnose=lambda: Diagnostics(
            facts={"non_finite": non_finite},
            warnings=non_finite_warnings(non_finite, len(pool)),
        ),
    )


def _selection(
    signals: Signals, parts: Sequence[_Part], other: Tensor, params: Params, overwrites: bool, non_finite: int
) -> Selection:
    """Back to the numbering of the stage, with rows that are no patch (``other``) kept as they are."""
    n_all, device = len(signals.features), signals.features.device
    assignment = torch.full((n_all,), -1, device=device).index_copy(0, other, other)
    order = torch.full((n_all,), -1, device=device)
    picked = 0
    for rows, part in parts:
        assignment[rows] = torch.where(part.kept.owner < 0, -1, rows[part.kept.owner])
        order[rows] = torch.where(part.order < 0, -1, part.order + picked)
        picked += int((part.order >= 0).sum())
    reduced = torch.cat([rows[part.kept.rows] for rows, part in parts])
    kept = torch.cat([reduced, other]).sort().values
    error = _on_all(parts, n_all, lambda part: part.error)
    return Selection(
        kept=kept,
        order=order,
        assignment=assignment,
        features=kept_rows(signals.features, kept, reduced, torch.cat([part.kept.features for _, part in parts])),
        sequence=_sequence(signals, parts, kept),
        diagnose=lambda: Diagnostics(
            score=TokenMap("error", "Approximation error", error, direction=_direction(overwrites), scale="log"),
            maps=_maps(signals, parts, error, other, overwrites),
            charts=_charts(parts),
            facts=_facts(parts, params, picked, non_finite),
            warnings=non_finite_warnings(non_finite, n_all - len(other)),
        ),
    )


def _sequence(signals: Signals, parts: Sequence[_Part], kept: Tensor) -> Tensor | None:
    """View after view in the order that the parts ask for, rows that are no patch in front; None where none asks.

    Shape: kept ``(K,)`` -> ``(K,)`` positions in it.
    """
    if all(part.kept.sequence is None for _, part in parts):
        return None
    n_all = len(signals.features)
    place = torch.zeros(n_all, dtype=torch.int64, device=kept.device)
    for rows, part in parts:
        inner = part.kept.rows if part.kept.sequence is None else part.kept.sequence
        place[rows[inner]] = 1 + torch.arange(len(inner), device=kept.device)
    view = torch.zeros_like(place) if signals.view is None else signals.view
    return (view[kept] * (n_all + 1) + place[kept]).argsort(stable=True)


def _on_all(parts: Sequence[_Part], n_all: int, values: Callable[[Reduction], Tensor]) -> Tensor:
    """``values`` of every view on all rows of the stage, NaN elsewhere. Shape: -> ``(n_all,)`` float32."""
    full = torch.full((n_all,), torch.nan, device=parts[0][0].device)
    for rows, part in parts:
        full[rows] = values(part).float()
    return full


def _direction(overwrites: bool) -> str:
    if overwrites:
        return "high is kept first"
    return "high is kept first, beside the basis tokens, which always stay"


def _maps(
    signals: Signals, parts: Sequence[_Part], error: Tensor, other: Tensor, overwrites: bool
) -> tuple[TokenMap, ...]:
    n_all = len(error)
    relative = error / row_lengths(signals.features).clamp_min(1e-12)
    sizes = _on_all(parts, n_all, lambda part: part.kept.sizes).nan_to_num(0.0).index_fill(0, other, 1.0)
    maps = (
        TokenMap(
            "relative_error", "Error / length of the feature", relative, direction="to compare; the error itself ranks"
        ),
        TokenMap("group_size", "Tokens merged into one", sizes, unit="tokens", direction="0 is dropped"),
    )
    if not overwrites:
        return maps
    step = _on_all(parts, n_all, lambda part: torch.where(part.replaced_by < 0, torch.nan, part.replaced_by))
    direction = "step of the basis token whose feature replaced this one"
    return (*maps, TokenMap("basis_in", "Overwritten by basis token", step, direction=direction))


def _charts(parts: Sequence[_Part]) -> tuple[Chart, ...]:
    """Singular values of every view's basis, and the sizes of the groups that several tokens were merged into."""
    charts = []
    for number, (rows, part) in enumerate(parts):
        if len(part.singular) == 0:
            continue
        values = part.singular.tolist()
        charts.append(
            Chart(
                "singular_values" + (f"_{number}" if len(parts) > 1 else ""),
                "Singular values of the basis",
                "line",
                y=values,
                x=list(range(1, len(values) + 1)),
                x_label="direction",
                y_label="singular value",
                about=int(rows[0]) if len(parts) > 1 else None,
            )
        )
    sizes: dict[int, int] = {}
    for rows, part in parts:
        sizes.update(zip(rows[part.kept.rows].tolist(), part.kept.sizes[part.kept.rows].tolist(), strict=True))
    groups = sorted((token for token, size in sizes.items() if size > 1), key=lambda token: (-sizes[token], token))
    if groups:
        counts = [float(sizes[token]) for token in groups]
        label = "Tokens merged into one, largest group first"
        charts.append(Chart("group_sizes", label, "bars", y=counts, tokens=groups, y_label="tokens"))
    return tuple(charts)


def _facts(parts: Sequence[_Part], params: Params, picked: int, non_finite: int) -> dict[str, object]:
    singular = torch.cat([part.singular for _, part in parts]).tolist()
    facts: dict[str, object] = {
        "mode": params["mode"],
        "sampling": params["sampling"],
        "basis_used": picked,
        "singular_values": [float(f"{value:.6g}") for value in singular],
        "ties_at_threshold": max(part.kept.ties for _, part in parts),
        "non_finite": non_finite,
    }
    if len(parts) > 1:
        facts["kept_per_view"] = [len(part.kept.rows) for _, part in parts]
    return facts


def _stage_select(places: BasisPlaces, per_view: bool) -> SelectFunction:
    @fixed_count
    def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
        """Rank by reconstruction error, keep, merge; ``apet_reduction`` has the modes.

        Tokens that are not finite are never basis or merged, and stay only if the count cannot be met without them.
        Rows that are no patch (newlines, a frame's [CLS]) always stay and are not counted in ``keep``. Crops of one
        picture and frames of a video share ``keep`` equally at stage 1, each with a basis of its own; stage 2 takes all
        visual tokens together.
        Shape: signals.features ``(N, D)`` -> kept ``(keep + non-patches,)``, features ``(K, D)`` in the given dtype.
        Source: ApET section 3.3, Eq. 4-5. Differs in both modes: float32 throughout, and farthest point sampling starts
        at the token farthest from the mean unless ``start`` is random (official: unseeded random).
        """
        return _select(signals, keep, params, generator, places, per_view)

    return select


select_stage_1 = _stage_select("by_position", per_view=True)
select_stage_1_jointly = _stage_select("by_position", per_view=False)
select_each_frame = _stage_select("behind", per_view=True)
select_stage_2 = _stage_select("by_rank", per_view=False)


def plan_counts(budget: Budget, info: PlanningInfo) -> tuple[int, int]:
    """How many tokens stages 1 and 2 keep, for a stage 2 at half depth.

    ``published`` and ``average``: 1.5 B, then 0.5 B, so that the blocks process B on average, exactly as the paper's
    tables (192: 288, 96; 64: 96, 32). Halves go down in stage 1 and up in stage 2. When 1.5 B exceeds N, or the number
    of blocks is odd, stage 2 takes what keeps the average at B. ``final``: stage 2 keeps B and stage 1 keeps 3 B, the
    same ratio. ``published`` on Qwen: stage 2 keeps 0.333 of stage 1, rounded down, as its scripts say (20%: 0.3 N and
    0.333 of that). Both counts are at least 1; counts above N mean that the stage does nothing.
    """
    tokens, n, blocks = budget_tokens(budget), info.n_visual, info.n_blocks
    if budget.counted_as == "final":
        return min(3 * tokens, n), tokens
    first = min(3 * tokens // 2, n)
    if budget.counted_as == "published" and info.family.startswith("qwen") and 3 * tokens // 2 <= n:
        return max(1, first), max(1, 333 * first // 1000)
    before, after = blocks // 2, blocks - blocks // 2
    rest = blocks * tokens - before * first
    return first, max(1, (2 * rest + after) // (2 * after))


_BEFORE_THE_PROJECTOR = ("llava", "llava_next", "llava_next_video", "video_llava")
"""Families of LLaVA's kind, whose encoder makes the very tokens that are projected."""


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Stage 1 on the encoder's output (LLaVA: before the projector), stage 2 before block L/2 (16 of 32, 14 of 28).

    Counts: see ``plan_counts``. Families that merge patches behind their encoder have stage 1 on the embeddings that
    enter the LLM. Videos: stage 1 in each frame by itself, but for Qwen; on Video-LLaVA, as its code does, behind the
    projector and without stage 2, so that all meanings of the budget agree. Raises BadInput for a budget below 1 token,
    Unsupported for the official mode where there is no official code, or where it differs in ways that are not
    implemented (``methods.md`` 1.2).
    """
    if params["mode"] == "official" and not _has_official_code(info):
        raise Unsupported(
            "ApET's official mode reproduces its code for LLaVA's pictures and Video-LLaVA's videos. "
            "Choose mode paper for this model."
        )
    if info.family == "video_llava" and info.has_frames:
        stage = Stage(
            "projector", budget_tokens(budget), select_each_frame, title="Approximation error, frame by frame"
        )
        return Schedule((stage,))
    first, second = plan_counts(budget, info)
    llava = info.family in _BEFORE_THE_PROJECTOR
    per_view = llava or (info.has_frames and not info.family.startswith("qwen"))
    return Schedule(
        (
            Stage(
                "encoder" if llava else "projector",
                first,
                select_stage_1 if per_view else select_stage_1_jointly,
                title="Stage 1: approximation error",
            ),
            Stage(info.n_blocks // 2, second, select_stage_2, title="Stage 2: approximation error"),
        )
    )


def _has_official_code(info: PlanningInfo) -> bool:
    if info.has_frames:
        return info.family == "video_llava"
    return info.family in ("llava", "llava_next", "llava_next_video")


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
        _param("sampling", "Basis sampling", ("fps", "dpc", "random"), "Farthest points, density peaks, or random."),
        _param(
            "start", "First farthest point", ("farthest", "random"), "Farthest from the mean, or random as officially."
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
    merges=True,
)
