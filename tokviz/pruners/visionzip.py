"""VisionZip: keep what [CLS] attends to, and merge all the rest into a few evenly spaced contextual tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..records import Chart, TokenMap
from ..types import (
    CLS_ATTENTION,
    CLS_FEATURE,
    ENCODER_KEYS,
    RECEIVED_ATTENTION,
    Diagnostics,
    Params,
    Selection,
    Signals,
)
from . import ops
from .diagnostics import explained, group_sizes, lengths
from .per_view import Usable, equal_shares, rows_by_view, tower_attention, usable
from .pruner import Paper, Pruner, choice, fixed_count, single_stage, whole

DOMINANT_TO_ALL = 6.4
"""54 dominant and 10 contextual tokens were published for 64: every 6.4th token is contextual."""


@dataclass(frozen=True)
class _View:
    """What became of one view, in the numbering of the stage.

    Shape: dominant ``(d,)`` and targets ``(c,)`` ascending; merged ``(s,)``, owner ``(s,)`` the target of each; held
    ``(c, D)`` float32, the targets after merging. ties: counts those at the threshold.
    """

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
    return max(0, min(asked or max(1, int(keep / DOMINANT_TO_ALL + 0.5)), keep - 1))


def _zip(signals: Signals, rows: Usable, keep: int, n_contextual: int, as_sum: bool) -> _View:
    """Zip the patches of one view into ``keep``; the last ``n_contextual`` of them are contextual.

    Tokens without a finite feature or key are neither dominant nor target nor merged; they stay only if the count
    cannot be met without them. ``as_sum``: a contextual token is the target plus the mean of what it received, as
    officially; else the mean of both together.
    """
    none = rows.pool[:0]
    if keep >= len(rows.rows):
        return _View(rows.kept(rows.rows, keep), none, none, none, signals.features[none].float(), lambda: 1)
    count, n = keep - n_contextual, len(signals.features)
    score, non_finite = ops.sanitised(tower_attention(signals).values[rows.rows])
    ranks = non_finite < len(score)
    dominant = rows.rows[ops.highest(score, count)] if ranks else Usable(rows.rows, none).kept(none, count)
    ties = (lambda: ops.ties_at_threshold(score, count) if count else 1) if ranks else (lambda: count)
    remaining = ops.without(rows.rows, dominant, n)
    step = max(1, len(remaining) // max(1, n_contextual))
    targets = remaining[: n_contextual * step : step]
    own = signals.features[targets].float()
    if n_contextual == 0:
        return _View(dominant, targets, none, none, own, ties)
    merged, keys = ops.without(remaining, targets, n), ops.required(signals.keys, "keys")
    nearest = ops.nearest_by_cosine(keys[targets], keys, merged)
    total, received = ops.group_sums(signals.features, merged, nearest, n_contextual)
    if as_sum:
        held = own + total / received.clamp_min(1).unsqueeze(1)
    else:
        held = (own + total) / (received + 1).unsqueeze(1)
    return _View(dominant, targets, merged, targets[nearest], held, ties)


def _select(signals: Signals, keep: int, params: Params, tiles: bool) -> Selection:
    rows, n = usable(signals, ops.required(signals.keys, "keys")), len(signals.features)
    pools = rows_by_view(signals, rows.pool)
    cls = _cls_features(signals, params)
    views, cls_of = [], []
    for pool, share in zip(pools, equal_shares([len(pool) for pool in pools], keep), strict=True):
        number = 0 if signals.view is None else int(signals.view[pool[0]])
        has_cls = number < len(cls) and share > 0
        cls_of.append([number] if has_cls else [])
        own = Usable(pool, pool if rows.non_finite == 0 else pool[torch.isin(pool, rows.rows)])
        contextual = contextual_count(share, int(params["contextual"]))
        views.append(_zip(signals, own, share - has_cls, contextual, params["context_rule"] == "sum"))
    targets, merged, owner, held = (
        torch.cat([getattr(view, name) for view in views]) for name in ("targets", "merged", "owner", "held")
    )
    kept = torch.cat([*(view.dominant for view in views), targets]).sort().values
    extra = cls[[number for numbers in cls_of for number in numbers]]
    features = ops.kept_rows(signals.features, kept, targets, held)
    assignment = ops.spread(kept, kept, n, -1).index_copy_(0, merged, owner)
    official = params["order"] == "official"
    selection = Selection(
        kept=kept,
        assignment=assignment,
        features=features,
        extra=extra if len(extra) else None,
        sequence=_official_order(views, [len(numbers) for numbers in cls_of], kept, tiles) if official else None,
    )
    return selection.with_diagnostics(lambda _: _explained(signals, selection, rows, views, targets))


def _cls_features(signals: Signals, params: Params) -> Tensor:
    """The [CLS] features that count as tokens, one per view as far as there are any. Shape: ``(0..V, D)``."""
    if params["cls_token"] == "left_out" or signals.cls_feature is None:  # not asked for where it cannot be a token
        return signals.features[:0]
    return signals.cls_feature.reshape(-1, signals.features.shape[1]).to(signals.features.dtype)


def _official_order(views: list[_View], n_cls: list[int], kept: Tensor, tiles: bool) -> Tensor:
    """[CLS], dominants, contextual tokens of each view; of crops all dominants, then all [CLS], then all contextual.

    Shape: kept ``(K,)`` -> ``(K + E,)`` positions in ``[*kept, *extra]``.
    """
    cls = (torch.arange(sum(n_cls), device=kept.device) + len(kept)).split(n_cls)
    order = [(cls[i], views[i].dominant, views[i].targets) for i in range(1 if tiles else len(views))]
    parts = [part for own, *rows in order for part in (own, torch.searchsorted(kept, torch.cat(rows)))]
    if tiles and len(views) > 1:
        dominant = torch.cat([view.dominant for view in views[1:]]).sort().values
        targets = torch.cat([view.targets for view in views[1:]])
        parts += [torch.searchsorted(kept, dominant), *cls[1:], torch.searchsorted(kept, targets)]
    return torch.cat(parts)


def _explained(
    signals: Signals, selection: Selection, rows: Usable, views: list[_View], targets: Tensor
) -> Diagnostics:
    kept, n_cls = selection.kept, 0 if selection.extra is None else len(selection.extra)
    score = tower_attention(signals, "the highest are dominant; contextual tokens are evenly spaced in what remains")
    merged, n = torch.cat([view.merged for view in views]), len(score.values)
    role = ops.spread(score.values.new_full((len(kept),), 2.0), kept, n, torch.nan)
    role = role.index_fill(0, targets, 1.0).index_fill(0, merged, 0.0)
    sizes = group_sizes(selection, n, "0 is no token of its own")
    of_features, chart = lengths(signals.features, selection, targets, "contextual tokens")
    label, counts, tokens = "Tokens in each contextual token", sizes.values[targets].tolist(), targets.tolist()
    bars = Chart("group_sizes", label, "bars", counts, tokens=tokens, x_label="contextual token", y_label="tokens")
    roles = TokenMap("role", "Role", role, direction="2 dominant, 1 contextual, 0 merged into a contextual token")
    facts: dict[str, int | str] = {"dominant": len(kept) - len(targets) + n_cls, "contextual": len(targets)}
    facts |= {"cls_tokens": n_cls} | ({"added": "[CLS]"} if n_cls else {})
    return explained(
        score,
        maps=(roles, sizes, *of_features),
        charts=(bars, chart) if tokens else (),
        extra_name="[CLS]",
        facts={**facts, "ties_at_threshold": max(view.ties() for view in views)},
        non_finite=len(rows.pool) - len(ops.usable_rows(score.values, rows.rows)),
        of=len(rows.pool),
    )


@fixed_count
def select_images(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Dominant: highest [CLS] attention. Contextual: evenly spaced in what remains, with the rest merged into them.

    Every view keeps the same number (thumbnail and crops, as officially). Of its d dominant tokens [CLS] is the first,
    added in front (``Selection.extra``) and counted. Targets are every (R // c)-th of the R tokens that remain IN THEIR
    LIST, not on the grid; every other one joins the target with the most similar key (cosine of keys, mean over heads).
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)``, keys ``(N, d_k)``, cls_feature ``(D,)`` or one per view
    ``(V, D)``; with one for several views only the first view has a [CLS] -> kept + extra = ``keep``.
    Source: VisionZip, official ``visionzip/clip_encoder.py``, ``llava_arch.py``. Differs: float32, ties to the lowest
    index, a zero key has cosine 0 (officially NaN), and a single token is dominant.
    """
    return _select(signals, keep, params, tiles=False)


@fixed_count
def select_tiles(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """The same on a thumbnail with crops, whose tokens the official order mixes."""
    return _select(signals, keep, params, tiles=True)


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
        needs=lambda info, params: (
            CLS_ATTENTION,
            RECEIVED_ATTENTION,
            ENCODER_KEYS,
            *([CLS_FEATURE] if info.projects_cls and params["cls_token"] == "kept" else []),
        ),
        title="Dominant and contextual tokens",
        tiled=select_tiles,
    ),
    merges=True,
)
