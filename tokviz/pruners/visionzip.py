"""VisionZip: keep what [CLS] attends to, and merge all the rest into a few evenly spaced contextual tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from ..records import Chart, TokenMap
from ..types import CLS_FEATURE, ENCODER_KEYS, Diagnostics, Params, Selection, Signals
from . import ops
from .diagnostics import explained, group_sizes, lengths
from .per_view import TOWER_ATTENTION, Usable, equal_shares, rows_by_view, tower_attention, usable
from .pruner import Paper, Pruner, choice, fixed_count, single_stage, whole

NEEDS = (*TOWER_ATTENTION, ENCODER_KEYS, CLS_FEATURE)


@dataclass(frozen=True)
class _View:
    """What became of one view, in the numbering of the stage.

    Shape: cls ``(0 or 1, D)``; dominant ``(d,)`` and targets ``(c,)`` ascending; merged ``(s,)``, owner ``(s,)`` the
    target of each; held ``(c, D)`` float32, the targets after merging. ties: counts those at the threshold.
    """

    cls: Tensor
    dominant: Tensor
    targets: Tensor
    merged: Tensor
    owner: Tensor
    held: Tensor
    ties: Callable[[], int]


def contextual_count(keep: int, asked: int = 0) -> int:
    """How many of ``keep`` tokens are contextual: ``asked``, or keep / 6.4 rounded (64: 10, 128: 20, 192: 30).

    At least 1 and at most ``keep - 1``, so that a single token is dominant.
    """
    return max(0, min(asked or max(1, int(keep / 6.4 + 0.5)), keep - 1))


def _zip(signals: Signals, score: Tensor, rows: Usable, cls: Tensor, keep: int, params: Params) -> _View:
    """Zip the patches of one view into ``keep``, with its own [CLS] among the dominant tokens.

    Tokens without a finite feature or key are neither dominant nor target nor merged; they stay only if the count
    cannot be met without them. Shape: score ``(N,)``, cls ``(0 or 1, D)``.
    """
    own, none, n, keys = rows.rows, rows.pool[:0], len(score), ops.required(signals.keys, "keys")
    n_contextual, keep = contextual_count(keep, params["contextual"]), keep - len(cls)
    count = keep - n_contextual
    ranks, non_finite = ops.sanitised(score[own])
    if keep >= len(own):
        n_contextual, dominant, ties = 0, rows.kept(own, keep), lambda: 1
    elif non_finite < len(own):
        dominant, ties = own[ops.highest(ranks, count)], lambda: ops.ties_at_threshold(ranks, count) if count else 1
    else:
        dominant, ties = ops.fill_up(none, count, own), lambda: count
    remaining = ops.without(own, dominant, n)
    targets = remaining[:: max(1, len(remaining) // max(1, n_contextual))][:n_contextual]
    merged = ops.without(remaining, targets, n) if n_contextual else none
    nearest = ops.nearest_by_cosine(keys[targets], keys, merged)
    total, received = ops.group_sums(signals.features, merged, nearest, n_contextual)
    held = signals.features[targets].float()
    if params["context_rule"] == "sum":
        held = held + total / received.clamp_min(1).unsqueeze(1)
    else:
        held = (held + total) / (received + 1).unsqueeze(1)
    return _View(cls, dominant, targets, merged, targets[nearest], held, ties)


def _select(signals: Signals, keep: int, params: Params, generator: Generator, tiles: bool) -> Selection:
    """Dominant: highest [CLS] attention. Contextual: evenly spaced in what remains, with the rest merged into them.

    Every view keeps the same number (thumbnail and crops). Of its d dominant tokens [CLS] is the first, added in front
    (``Selection.extra``) and counted. Targets are every (R // c)-th of the R tokens that remain IN THEIR LIST, not on
    the grid; every other one joins the target with the most similar key (cosine of keys, mean over heads).
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)``, keys ``(N, d_k)``, cls_feature ``(D,)`` or one per view
    ``(V, D)``; with one for several views only the first view has a [CLS] -> kept + extra = ``keep``.
    Source: VisionZip, official ``visionzip/clip_encoder.py``, ``llava_arch.py``.
    """
    score = tower_attention(signals, "the highest are dominant; contextual tokens are evenly spaced in what remains")
    features, rows = signals.features, usable(signals, ops.required(signals.keys, "keys"))
    cls = features[:0]
    if params["cls_token"] == "kept" and signals.cls_feature is not None:  # not asked for where it cannot be a token
        cls = signals.cls_feature.reshape(-1, features.shape[1]).to(features.dtype)
    pools, views = rows_by_view(signals, rows.pool), []
    for pool, share in zip(pools, equal_shares([len(pool) for pool in pools], keep), strict=True):
        number = 0 if signals.view is None else int(signals.view[pool[0]])
        own = Usable(pool, pool if rows.non_finite == 0 else pool[torch.isin(pool, rows.rows)])
        views.append(_zip(signals, score.values, own, cls[number : number + min(share, 1)], share, params))
    extra, targets, merged, owner, held = (
        torch.cat([getattr(view, name) for view in views]) for name in ("cls", "targets", "merged", "owner", "held")
    )
    kept = torch.cat([*(view.dominant for view in views), targets]).sort().values
    selection = Selection(
        kept=kept,
        assignment=ops.spread(kept, kept, len(features), -1).index_copy_(0, merged, owner),
        features=ops.kept_rows(features, kept, targets, held),
        extra=extra if len(extra) else None,
        sequence=_official_order(views, kept, tiles) if params["order"] == "official" else None,
    )
    return selection.with_diagnostics(lambda _: _explained(features, score, selection, rows, views))


select_images, select_tiles = fixed_count(partial(_select, tiles=False)), fixed_count(partial(_select, tiles=True))


def _official_order(views: list[_View], kept: Tensor, tiles: bool) -> Tensor:
    """[CLS], dominants, contextual tokens of each view; of crops all dominants, then all [CLS], then all contextual.

    Shape: kept ``(K,)`` -> ``(K + E,)`` positions in ``[*kept, *extra]``.
    """
    n_cls = [len(view.cls) for view in views]
    cls = (torch.arange(sum(n_cls), device=kept.device) + len(kept)).split(n_cls)
    order = [(cls[i], views[i].dominant, views[i].targets) for i in range(1 if tiles else len(views))]
    parts = [part for own, *rows in order for part in (own, torch.searchsorted(kept, torch.cat(rows)))]
    if tiles and len(views) > 1:
        dominant = torch.cat([view.dominant for view in views[1:]]).sort().values
        targets = torch.cat([view.targets for view in views[1:]])
        parts += [torch.searchsorted(kept, dominant), *cls[1:], torch.searchsorted(kept, targets)]
    return torch.cat(parts)


def _explained(
    features: Tensor, score: TokenMap, selection: Selection, rows: Usable, views: list[_View]
) -> Diagnostics:
    kept, n_cls, n = selection.kept, sum(len(view.cls) for view in views), len(features)
    targets, merged = (torch.cat([getattr(view, name) for view in views]) for name in ("targets", "merged"))
    role = torch.full_like(score.values, torch.nan)
    role[kept], role[targets], role[merged] = 2.0, 1.0, 0.0
    sizes = group_sizes(selection, n, "0 is no token of its own")
    of_features, chart = lengths(features, selection, targets, "contextual tokens")
    label, counts, tokens = "Tokens in each contextual token", sizes.values[targets].tolist(), targets.tolist()
    bars = Chart("group_sizes", label, "bars", counts, tokens=tokens, x_label="contextual token", y_label="tokens")
    roles = TokenMap("role", "Role", role, direction="2 dominant, 1 contextual, 0 merged into a contextual token")
    facts = {"dominant": len(kept) - len(targets) + n_cls, "contextual": len(targets), "cls_tokens": n_cls}
    added = {"added": "[CLS]"} if n_cls else {}
    return explained(
        score,
        maps=(roles, sizes, *of_features),
        charts=(bars, chart) if tokens else (),
        extra_name="[CLS]",
        facts={**facts, **added, "ties_at_threshold": max(view.ties() for view in views)},
        non_finite=len(rows.pool) - len(ops.usable_rows(score.values, rows.rows)),
        of=len(rows.pool),
    )


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
    needs=NEEDS,
    does_without=(*TOWER_ATTENTION, CLS_FEATURE),
    params=(
        choice(
            "context_rule",
            "Contextual tokens",
            ("sum", "mean"),
            "sum: target plus the mean of what it received, as officially (about twice as long). mean: of both.",
        ),
        choice(
            "cls_token",
            "[CLS] token",
            ("kept", "left_out"),
            "kept: [CLS] is the first dominant token, counted, as officially. left_out: patches only.",
        ),
        choice(
            "order",
            "Order",
            ("official", "raster"),
            "official: [CLS], dominant, then contextual tokens. raster: as in the image, [CLS] last.",
        ),
        whole(
            "contextual",
            "Contextual tokens, number",
            0,
            "How many of the kept tokens (of each view) are contextual. 0: one in 6.4, as published.",
            minimum=0,
            maximum=256,
        ),
    ),
    schedule=single_stage(
        select_images,
        "encoder",
        # The feature of [CLS] only where it is to be a token, and can be one.
        needs=lambda info, params: NEEDS if info.projects_cls and params["cls_token"] == "kept" else NEEDS[:-1],
        title="Dominant and contextual tokens",
        tiled=select_tiles,
    ),
    merges=True,
)
