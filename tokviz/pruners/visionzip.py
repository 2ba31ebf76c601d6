"""VisionZip: keep what [CLS] attends to, and merge all the rest into a few evenly spaced contextual tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..names import Site
from ..types import (
    CLS_ATTENTION,
    CLS_FEATURE,
    ENCODER_KEYS,
    RECEIVED_ATTENTION,
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
from .ops import (
    candidate_rows,
    fill_up,
    group_sums,
    kept_rows,
    nearest_by_cosine,
    required,
    sanitised,
    spread,
    ties_at_threshold,
    top_k,
    usable_rows,
)
from .per_view import equal_shares, rows_by_view, tower_attention
from .pruner import Paper, Param, Pruner, budget_tokens, fixed_count, needs_on

DOMINANT_TO_ALL = 6.4
"""54 dominant and 10 contextual tokens were published for 64: every 6.4th token is contextual."""


@dataclass(frozen=True)
class _Zip:
    """What became of one view, in the numbering of the stage.

    Shape: dominant ``(d,)``, targets ``(c,)``, merged ``(s,)`` ascending; owner ``(s,)``, the target of each merged
    token; features ``(c, D)`` float32 of the targets after merging; sizes ``(c,)``, tokens in each.
    """

    dominant: Tensor
    targets: Tensor
    merged: Tensor
    owner: Tensor
    features: Tensor
    sizes: Tensor
    ties: int = 1


def contextual_count(keep: int, asked: int = 0) -> int:
    """How many of ``keep`` tokens are contextual: ``asked``, or keep / 6.4 rounded (64: 10, 128: 20, 192: 30).

    At least 1 and at most ``keep - 1``, so that a single token is dominant.
    """
    return max(0, min(asked or max(1, int(keep / DOMINANT_TO_ALL + 0.5)), keep - 1))


def _even_targets(remaining: Tensor, count: int) -> Tensor:
    """Every ``max(1, R // count)``-th entry of what remains, from the first. Shape: ``(R,)`` -> ``(count,)``."""
    step = max(1, len(remaining) // count) if count else 1
    return remaining[torch.arange(count, device=remaining.device) * step]


def _merge(signals: Signals, targets: Tensor, merged: Tensor, as_sum: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Every other token goes to the target with the most similar key; what a target then holds.

    ``as_sum``: the target plus the mean of what it received, as officially; else the mean of both together.
    Shape: targets ``(c,)``, merged ``(s,)`` -> features ``(c, D)``, owner ``(s,)``, sizes ``(c,)``.
    """
    own = signals.features[targets].float()
    if len(targets) == 0:
        return own, targets, targets
    keys = required(signals.keys, "keys")
    nearest = nearest_by_cosine(keys[targets], keys, merged)
    total, received = group_sums(signals.features, merged, nearest, len(targets))
    if as_sum:
        held = own + total / received.clamp_min(1).unsqueeze(1)
    else:
        held = (own + total) / (received + 1).unsqueeze(1)
    return held, targets[nearest], received + 1


def _zip(signals: Signals, rows: Tensor, keep: int, n_contextual: int, as_sum: bool) -> _Zip:
    """Zip the patches ``rows (n,)`` of one view into ``keep``; the last ``n_contextual`` of them are contextual.

    Tokens without a finite feature or key are neither dominant nor target nor merged; they stay only if the count
    cannot be met without them.
    """
    usable = usable_rows(required(signals.keys, "keys"), usable_rows(signals.features, rows))
    if keep >= len(usable):
        none = rows[:0]
        kept = fill_up(usable, keep, rows).sort().values
        return _Zip(kept, none, none, none, signals.features[none].float(), none)
    n_dominant = keep - n_contextual
    score, non_finite = sanitised(tower_attention(signals).values[usable])
    if non_finite == len(usable):
        dominant, ties = fill_up(usable[:0], n_dominant, usable), n_dominant
    else:
        dominant = usable[top_k(score, n_dominant)].sort().values
        ties = ties_at_threshold(score, n_dominant) if n_dominant else 1
    remaining = usable[~torch.isin(usable, dominant)]
    targets = _even_targets(remaining, n_contextual)
    merged = remaining[~torch.isin(remaining, targets)] if n_contextual else remaining[:0]
    features, owner, sizes = _merge(signals, targets, merged, as_sum)
    return _Zip(dominant, targets, merged, owner, features, sizes, ties)


def _select(signals: Signals, keep: int, params: Params, tiles: bool) -> Selection:
    pool = candidate_rows(signals)
    views = rows_by_view(signals, pool)
    shares = equal_shares([len(rows) for rows in views], keep)
    cls = _cls_features(signals, params)
    zips, cls_of = [], []
    for rows, share in zip(views, shares, strict=True):
        number = 0 if signals.view is None else int(signals.view[rows[0]])
        has_cls = number < len(cls) and share > 0
        cls_of.append(number if has_cls else None)
        contextual = contextual_count(share, int(params["contextual"]))
        zips.append(_zip(signals, rows, share - has_cls, contextual, params["context_rule"] == "sum"))
    extra = cls[[number for number in cls_of if number is not None]]
    return _selection(signals, zips, [number is not None for number in cls_of], extra, params, tiles)


def _cls_features(signals: Signals, params: Params) -> Tensor:
    """The [CLS] features that count as tokens, one per view as far as there are any. Shape: ``(0..V, D)``."""
    if params["cls_token"] == "left_out" or signals.cls_feature is None:  # not asked for where it cannot be a token
        return signals.features[:0]
    return signals.cls_feature.reshape(-1, signals.features.shape[1]).to(signals.features.dtype)


def _selection(
    signals: Signals, zips: list[_Zip], with_cls: list[bool], extra: Tensor, params: Params, tiles: bool
) -> Selection:
    n, original = len(signals.features), signals.features
    targets = torch.cat([z.targets for z in zips])
    merged, owner = torch.cat([z.merged for z in zips]), torch.cat([z.owner for z in zips])
    kept = torch.cat([*(z.dominant for z in zips), targets]).sort().values
    held = torch.cat([z.features for z in zips])
    features = kept_rows(original, kept, targets, held)
    assignment = spread(kept, kept, n, -1).index_copy(0, merged, owner)
    score = tower_attention(signals, "the highest are dominant; contextual tokens are evenly spaced in what remains")
    attention = score.values
    finite = usable_rows(required(signals.keys, "keys"), usable_rows(original, candidate_rows(signals)))
    non_finite = len(candidate_rows(signals)) - int(torch.isfinite(attention[finite]).sum())
    sizes = torch.cat([z.sizes for z in zips])
    sequence = None
    if params["order"] == "official":
        sequence = _official_order(zips, with_cls, kept, tiles)
    return Selection(
        kept=kept,
        assignment=assignment,
        features=features,
        extra=extra if len(extra) else None,
        sequence=sequence,
        diagnose=lambda: Diagnostics(
            score=score,
            maps=_maps(original, kept, features, targets, merged, sizes),
            charts=_charts(original, kept, features, targets, sizes),
            facts={
                "dominant": len(kept) - len(targets) + len(extra),
                "contextual": len(targets),
                "cls_tokens": len(extra),
                **({"added": "[CLS]"} if len(extra) else {}),
                "ties_at_threshold": max(z.ties for z in zips),
                "non_finite": non_finite,
            },
            warnings=non_finite_warnings(non_finite, len(candidate_rows(signals))),
        ),
    )


def _official_order(zips: list[_Zip], with_cls: list[bool], kept: Tensor, tiles: bool) -> Tensor:
    """[CLS], dominants, contextual tokens of each view; of crops all dominants, then all [CLS], then all contextual.

    Shape: kept ``(K,)`` -> ``(K + E,)`` positions in ``[*kept, *extra]``.
    """

    def places(rows: Tensor) -> list[int]:
        return torch.searchsorted(kept, rows).tolist()

    next_cls = iter(range(len(kept), len(kept) + sum(with_cls)))
    cls = [[next(next_cls)] if has else [] for has in with_cls]
    blocks = [
        [*cls[number], *places(zipped.dominant), *places(zipped.targets)]
        for number, zipped in enumerate(zips[: 1 if tiles else None])
    ]
    if tiles and len(zips) > 1:
        crops = zips[1:]
        blocks.append(places(torch.cat([z.dominant for z in crops]).sort().values))
        blocks += cls[1:]
        blocks += [places(z.targets) for z in crops]
    return torch.tensor([place for block in blocks for place in block], dtype=torch.int64, device=kept.device)


def _maps(
    original: Tensor, kept: Tensor, features: Tensor, targets: Tensor, merged: Tensor, sizes: Tensor
) -> tuple[TokenMap, ...]:
    n = len(original)
    ones = torch.ones(len(kept), device=original.device)
    role = spread(ones * 2, kept, n, torch.nan).index_fill(0, targets, 1.0).index_fill(0, merged, 0.0)
    held = spread(ones, kept, n, 0.0).index_copy(0, targets, sizes.float())
    after = spread(features.float().norm(dim=1), kept, n, torch.nan)
    return (
        TokenMap("role", "Role", role, direction="2 dominant, 1 contextual, 0 merged into a contextual token"),
        TokenMap("group_size", "Tokens merged into one", held, unit="tokens", direction="0 is no token of its own"),
        TokenMap(
            "length", "Length of the feature", original.float().norm(dim=1), unit="L2 norm",
            direction="decides nothing; compare it with the length after merging",
        ),
        TokenMap(
            "length_after", "Length after merging", after, unit="L2 norm",
            direction="contextual tokens of rule sum are about twice as long as before",
        ),
    )  # fmt: skip


def _charts(original: Tensor, kept: Tensor, features: Tensor, targets: Tensor, sizes: Tensor) -> tuple[Chart, ...]:
    if len(targets) == 0:
        return ()
    before, after = original[kept].float().norm(dim=1), features.float().norm(dim=1)
    return (
        Chart(
            "group_sizes", "Tokens in each contextual token", "bars", y=sizes.tolist(), tokens=targets.tolist(),
            x_label="contextual token", y_label="tokens",
        ),
        Chart(
            "lengths", "Length of kept features before and after merging", "scatter", x=before.tolist(),
            y=after.tolist(), tokens=kept.tolist(), marked=torch.searchsorted(kept, targets).tolist(),
            x_label="before", y_label="after (contextual tokens marked)",
        ),
    )  # fmt: skip


def _stage_select(tiles: bool) -> SelectFunction:
    @fixed_count
    def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
        """Dominant: highest [CLS] attention. Contextual: evenly spaced in what remains, with the rest merged into them.

        Every view keeps the same number (thumbnail and crops, as officially). Of its d dominant tokens [CLS] is the
        first, added in front (``Selection.extra``) and counted. Targets are every (R // c)-th of the R tokens that
        remain IN THEIR LIST, not on the grid; every other one joins the target with the most similar key (cosine of
        keys, mean over heads). Contextual = target + mean of what it received, so about twice as long as a token.
        Shape: signals.features ``(N, D)``, cls_attention ``(N,)``, keys ``(N, d_k)``, cls_feature ``(D,)`` or one per
        view ``(V, D)``; with one for several views only the first view has a [CLS] -> kept + extra = ``keep``.
        Source: VisionZip, official ``visionzip/clip_encoder.py``, ``llava_arch.py``. Differs: float32, ties to the
        lowest index, a zero key has cosine 0 (officially NaN), and a single token is dominant.
        """
        return _select(signals, keep, params, tiles)

    return select


select_pictures = _stage_select(tiles=False)
select_tiles = _stage_select(tiles=True)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the vision features, before the projector; behind a merger of patches.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves. For 64, 128 and
    192 of 576: 54 + 10, 108 + 20, 162 + 30 dominant (with [CLS]) and contextual tokens. Raises BadInput for a budget
    below 1 token.
    """
    keep = budget_tokens(budget)
    with_cls = info.has_cls and info.projects_cls and params["cls_token"] == "kept"
    needs = (*needs_on(info, CLS_ATTENTION, RECEIVED_ATTENTION), ENCODER_KEYS, *((CLS_FEATURE,) if with_cls else ()))
    site: Site = "projector" if info.merges_patches else "encoder"
    select = select_tiles if info.has_tiles else select_pictures
    return Schedule((Stage(site, keep, select, needs, title="Dominant and contextual tokens"),))


def _choice(name: str, label: str, choices: tuple[str, ...], help: str) -> Param:
    return Param(name, label, "choice", choices[0], help, choices=choices)


PRUNER = Pruner(
    id="visionzip",
    label="VisionZip",
    family="attention-ranked",
    claim="Keeps what [CLS] attends to and sums up the rest in a few evenly spaced contextual tokens.",
    paper=Paper(
        "VisionZip: Longer is Better but Not Necessary in Vision Language Models",
        "Yang et al.",
        2024,
        "https://arxiv.org/abs/2412.04467",
    ),
    needs=(CLS_ATTENTION, RECEIVED_ATTENTION, ENCODER_KEYS, CLS_FEATURE),
    does_without=(CLS_ATTENTION, RECEIVED_ATTENTION, CLS_FEATURE),
    params=(
        _choice(
            "context_rule",
            "Contextual tokens",
            ("sum", "mean"),
            "sum: target plus the mean of what it received, as officially (about twice as long). mean: of both.",
        ),
        _choice(
            "cls_token",
            "[CLS] token",
            ("kept", "left_out"),
            "kept: [CLS] is the first dominant token, counted, as officially. left_out: patches only.",
        ),
        _choice(
            "order",
            "Order",
            ("official", "raster"),
            "official: [CLS], dominant, then contextual tokens. raster: as in the picture, [CLS] last.",
        ),
        Param(
            "contextual",
            "Contextual tokens, number",
            "int",
            0,
            "How many of the kept tokens (of each view) are contextual. 0: one in 6.4, as published.",
            minimum=0,
            maximum=256,
            step=1,
        ),
    ),
    schedule=schedule,
    merges=True,
)
