"""VidCom2: frames that stand out in the video get more tokens, and in each frame those that stand out stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from ..records import Chart, TokenMap
from ..types import Budget, Diagnostics, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .ops import group_sums, highest, row_blocks, spread, unit_rows
from .per_view import Usable, all_rows, unrankable, usable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count
from .serving_flags import vllm_flags, vllm_total

# Widths of the Gaussian kernels and the share of the channels that take part, in the code; the softmax temperature.
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
QUIET_SHARE = 0.5
TEMPERATURE = 0.01


@dataclass(frozen=True)
class Outliers:
    """How alike tokens are to the centres, and what follows for the frames.

    Shape: frame ``(n,)`` numbers of 0..T-1; to_video and to_frame ``(n,)`` float32, high for tokens near the centre;
    weight ``(T,)``; given ``(T,)`` int64, tokens that each frame gets. most: what a token in a centre scores to it.
    channels: how many took part.
    """

    frame: Tensor
    to_video: Tensor
    to_frame: Tensor
    weight: Tensor
    given: Tensor
    most: float
    channels: int

    @property
    def similarity(self) -> Tensor:
        """To both centres; the lowest stay. Shape: ``(n,)``."""
        return self.to_video + self.to_frame


def quiet_channels(features: Tensor, rows: Tensor) -> Tensor:
    """The half of the channels (at least one) that vary least over ``rows``, ties to the lowest number.

    Shape: features ``(N, D)``, rows ``(n,)`` -> ``(channels,)`` ascending. Two passes in float64 over blocks of rows.
    """
    blocks = [rows[part] for part in row_blocks(features[:1].expand(len(rows), -1))]
    mean = torch.stack([features[block].double().sum(0) for block in blocks]).sum(0) / len(rows)
    squares = torch.stack([(features[block].double() - mean).square_().sum(0) for block in blocks]).sum(0)
    return highest(-squares, max(1, int(features.shape[1] * QUIET_SHARE)))


def kernels(squared: Tensor) -> Tensor:
    """Sum of the Gaussian kernels of squared distances. Shape: ``(n,)`` -> ``(n,)``, 5 for distance 0.

    Of every distance once: vector and scalar arithmetic round ``exp`` differently, and duplicates must tie.
    """
    values, where = torch.unique(squared, return_inverse=True)
    return torch.stack([(values / (-2 * width)).exp_() for width in WIDTHS]).sum(0)[where]


def to_centres(rows: Tensor, frame: Tensor, sizes: Tensor, kernel: bool) -> tuple[Tensor, Tensor]:
    """Similarity of every row to the mean of all rows and to that of its frame: kernels of the distance, or cosines.

    Shape: rows ``(n, d)``, frame ``(n,)``, sizes ``(T,)`` -> two of ``(n,)`` float32.
    """
    sums, _ = group_sums(rows, all_rows(rows), frame, len(sizes))
    centres = torch.cat([sums.sum(0, keepdim=True) / len(rows), sums / sizes.unsqueeze(1)])
    centres = centres if kernel else unit_rows(centres)
    found = torch.empty(2, len(rows), device=rows.device)
    for part in row_blocks(rows):
        own = rows[part].float() if kernel else unit_rows(rows[part])
        for which, centre in enumerate((centres[:1], centres[1 + frame[part]])):
            found[which, part] = (own - centre).square_().sum(1) if kernel else (own * centre).sum(1)
    return (kernels(found[0]), kernels(found[1])) if kernel else (found[0], found[1])


def outliers(features: Tensor, rows: Tensor, frame: Tensor, ratio: float, similarity: str = "kernels") -> Outliers:
    """Compare every token with the mean of the video and of its frame, and give every frame its number of tokens.

    kernels: tokens are cut to their quietest channels and brought to length 1. cosine: all channels, as they are. A
    frame's weight is the softmax of how unlike the video its tokens are on average; it gets
    ``ratio * (1 + weight - mean weight)`` of its tokens, at most all, rounded half to even, at least one.
    Shape: features ``(N, D)``, rows ``(n,)`` finite, frame ``(n,)`` numbers of 0..T-1, none left out.
    Source: VidCom2, Eq. 3 to 9 (cosine); official ``token_compressor/vidcom2/vidcom2.py`` (kernels).
    """
    sizes, whole = torch.bincount(frame), len(rows) == len(features)
    if similarity == "kernels":
        channels = quiet_channels(features, rows)
        tokens = unit_rows(features.index_select(1, channels), None if whole else rows)
    else:
        tokens = features if whole else features[rows]
    to_video, to_frame = to_centres(tokens, frame, sizes, similarity == "kernels")
    unlike = -group_sums(to_video.unsqueeze(1), all_rows(rows), frame, len(sizes))[0].squeeze(1) / sizes
    weight = ((unlike - unlike.max()) / TEMPERATURE).softmax(0)
    scale = (ratio * (1 + weight - weight.mean())).clamp_max(1.0)
    given = (scale * sizes).round().long().clamp_min(1).minimum(sizes)
    most = float(len(WIDTHS)) if similarity == "kernels" else 1.0
    return Outliers(frame, to_video, to_frame, weight, given, most, tokens.shape[1])


def lowest_in_each_frame(found: Outliers) -> Tensor:
    """The tokens of each frame that are least like both centres, as many as it was given, ties to the lowest index.

    Shape: -> ``(sum of given,)`` ascending.
    """
    by_score = torch.sort(found.similarity, stable=True).indices
    order = by_score[torch.sort(found.frame[by_score], stable=True).indices]
    sizes = torch.bincount(found.frame)
    number = all_rows(order) - (sizes.cumsum(0) - sizes)[found.frame[order]]
    return order[number < found.given[found.frame[order]]].sort().values


def reconciled(similarity: Tensor, picks: Tensor, keep: int) -> Tensor:
    """``picks`` without those most like the centres, or with further ones least like them, until they are ``keep``.

    Shape: similarity ``(n,)``, picks ``(k,)`` ascending, ``keep <= n`` -> ``(keep,)`` ascending.
    Source: vLLM, ``multimodal/video_prune/vidcom2.py``, step 5.
    """
    if len(picks) >= keep:
        return picks[highest(-similarity[picks], keep)]
    left = torch.ones(len(similarity), dtype=torch.bool, device=picks.device)
    left[picks] = False
    rest = left.nonzero().squeeze(1)
    return torch.cat([picks, rest[highest(-similarity[rest], keep - len(picks))]]).sort().values


def _select(
    signals: Signals, keep: int, params: Params, generator: Generator, ratio: float | None = None, exact: bool = True
) -> Selection:
    """Give every frame its share, keep its least typical tokens, and make up the difference to ``keep`` by score.

    Views are frames; of a single image the whole budget is the one frame's. ratio: the share of all tokens that is
    asked for, None for ``keep`` of the tokens that can be compared. exact: False leaves what rounding leaves.
    Shape: signals.features ``(N, D)`` -> kept ``(min(keep, patches),)``, or as many as the frames were given.
    """
    found = usable(signals)
    rows = found.rows
    if len(rows) == 0:
        return unrankable(keep, found.pool)
    view = torch.zeros_like(rows) if signals.view is None else signals.view[rows]
    views, frame = torch.unique(view, return_inverse=True)
    target = min(keep, len(rows))
    scored = outliers(signals.features, rows, frame, ratio or target / len(rows), params["similarity"])
    picks = lowest_in_each_frame(scored)
    if exact:
        picks = reconciled(scored.similarity, picks, target)
    kept = found.kept(rows[picks], keep if exact else 0)
    return Selection(kept, diagnose=lambda: _explained(signals, found, scored, views, picks))


def _explained(signals: Signals, found: Usable, scored: Outliers, views: Tensor, picks: Tensor) -> Diagnostics:
    """Maps of both distances and of what each frame was given; bars per frame.

    Shape: views ``(T,)``, picks ``(k,)`` numbers of ``found.rows``.
    """
    n, frame = len(signals.features), scored.frame
    sizes = torch.bincount(frame)

    def shown(name: str, label: str, values: Tensor, direction: str, unit: str = "") -> TokenMap:
        return TokenMap(name, label, spread(values, found.rows, n, torch.nan), unit, direction)

    most, half = scored.most, "half of the score"
    score = shown("distinct", "Unlike the video and its frame", 2 * most - scored.similarity, "high is kept first")
    maps = (
        shown("from_video", "Unlike the mean of the video", most - scored.to_video, half),
        shown("from_frame", "Unlike the mean of the frame", most - scored.to_frame, half),
        shown("given", "Share that the frame was given", (scored.given / sizes)[frame],
              "the same in all of a frame", "share of its tokens"),
    )  # fmt: skip
    kept = torch.bincount(frame[picks], minlength=len(sizes)).tolist()
    names = [str(number + 1) for number in views.tolist()]
    charts = (
        Chart("tokens_per_frame", "Tokens kept per frame", "bars", kept, names=names, x_label="frame",
              y_label="tokens"),
        Chart("frame_weight", "Weight of the frame: how unlike the video it is", "bars", scored.weight.tolist(),
              names=names, x_label="frame", y_label="softmax"),
    ) if len(sizes) > 1 else ()  # fmt: skip
    given = scored.given.tolist()
    facts = {
        "channels": scored.channels,
        "given": given,
        "kept_per_view": kept,
        "reconciled": len(picks) - sum(given),
        "vllm": vllm_flags("vidcom2", len(found.pool), len(picks), len(sizes)),
    }
    return found.explained(score, maps=maps, charts=charts, facts=facts)


select = fixed_count(_select)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage behind the projector: exactly the budget, vLLM's total for it, or what the authors' rounding leaves."""
    tokens, title = budget_tokens(budget), "Least typical of video and frame"
    if params["count"] == "exact":
        return Schedule((Stage("projector", tokens, select, title=title),))
    ratio = min(1.0, tokens / info.n_visual)
    if params["count"] == "vllm":
        total = vllm_total(info.n_visual, 1 - ratio, info.n_views)
        return Schedule((Stage("projector", total, fixed_count(partial(_select, ratio=ratio)), title=title),))

    def as_rounded(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        return _select(signals, tokens, params, generator, ratio, exact=False)

    return Schedule((Stage("projector", None, as_rounded, title=title),))


PRUNER = Pruner(
    id="vidcom2",
    label="VidCom2",
    family="diversity",
    claim="Gives frames that stand out in the video more tokens, and keeps the least typical tokens of each.",
    paper=Paper(
        "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
        "Liu et al.",
        2025,
        "https://arxiv.org/abs/2505.14454",
    ),
    params=(
        choice(
            "count",
            "Token count",
            ("exact", "vllm", "official"),
            "exact: the budget; what rounding leaves over is made up by score. vllm: so too, with vLLM's total for the "
            "rate 1 - budget / N, at least one token per frame. official: what rounding per frame leaves.",
        ),
        choice(
            "similarity",
            "Similarity",
            ("kernels", "cosine"),
            "kernels: five Gaussian kernels of the distance to the centres, by the half of the channels that varies "
            "least, as the code and vLLM do. cosine: the cosine with the centres, of all channels, as the paper says.",
        ),
    ),
    schedule=schedule,
)
