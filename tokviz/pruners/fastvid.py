"""FastVID: cut the video where frames change; per segment keep what is salient, merge the rest into density peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from ..records import Chart, TokenMap
from ..types import Diagnostics, Params, Selection, Signals
from .density import density_peaks
from .diagnostics import group_sizes
from .ops import group_sums, highest, kept_rows, nearest_by_cosine, spread, unit_rows, without
from .per_view import TOWER_ATTENTION, Usable, equal_shares, rows_by_view, tower_attention, unrankable, usable
from .pruner import Paper, Pruner, choice, fixed_count, number, single_stage, whole

# Nearest rows, itself among them, that make the density of a row; fixed in the code.
NEIGHBOURS = 4
Segment = range
"""Numbers of the frames of a segment, from 0."""


@dataclass(frozen=True)
class Split:
    """How many tokens each frame keeps. salient: by attention. context: as density peaks, 0 but in anchor frames."""

    salient: list[int]
    context: list[int]


@dataclass(frozen=True)
class Pruned:
    """What became of a segment, in the numbering of the stage.

    Shape: salient ``(s,)``, anchors ``(a,)`` ascending; held ``(a, D)`` float32, the anchors after merging; merged
    ``(m,)`` the dropped tokens, owner ``(m,)`` the most similar anchor of each; peaked ``(p,)`` the tokens that were
    compared for anchors, peaks ``(p,)`` their density times separation.
    """

    salient: Tensor
    anchors: Tensor
    held: Tensor
    merged: Tensor
    owner: Tensor
    peaked: Tensor
    peaks: Tensor


def transitions(features: Tensor, frames: Sequence[Tensor]) -> Tensor:
    """Cosine of the means of consecutive frames. Shape: features ``(N, D)``, T of ``(n_t,)`` -> ``(T - 1,)``."""
    unit = unit_rows(torch.stack([features[rows].float().mean(0) for rows in frames]))
    return (unit[:-1] * unit[1:]).sum(1)


def segments(similarity: Tensor, least: int, threshold: float) -> list[Segment]:
    """Frames cut behind the ``least - 1`` lowest transitions and behind every one below the threshold.

    Ties go to the earlier one. Shape: similarity ``(T - 1,)``. Source: FastVID, section 3.2.
    """
    cut = similarity < threshold
    cut[highest(-similarity, min(least - 1, len(similarity)))] = True
    ends = [0, *(cut.nonzero().squeeze(1) + 1).tolist(), len(similarity) + 1]
    return [range(start, end) for start, end in pairwise(ends)]


def split_of(sizes: list[int], shares: list[int], parts: Sequence[Segment], params: Params) -> Split:
    """Share out what each segment keeps between salient tokens of all its frames and anchors of a few.

    Anchor frames are the last of a segment and every ``interval``-th before it. Of a segment's tokens the share
    ``context`` are anchors: rounded down once (LLaVA-Video's code) or frame by frame (OneVision's). They are spread
    equally, a remainder to the last anchor frames; salient ones likewise, a remainder to the first frames. What a frame
    cannot take goes to salient tokens of the others.
    """
    salient, context = [0] * len(sizes), [0] * len(sizes)
    by_frame = params["code"] == "onevision"
    for part in parts:
        own = [shares[frame] for frame in part]
        anchors = list(part)[:: -params["interval"]]
        counts = [int(share * params["context"]) for share in own]
        count = sum(counts) if by_frame else int(sum(own) * params["context"])
        each, more = divmod(sum(own) - count, len(own))
        for place, frame in enumerate(part):
            wanted = own[place] - counts[place] if by_frame else each + (place < more)
            salient[frame] = min(wanted, sizes[frame])
        each, more = divmod(count, len(anchors))
        for place, frame in enumerate(anchors):
            context[frame] = min(each + (place < more), sizes[frame] - salient[frame])
    taken = [a + b for a, b in zip(salient, context, strict=True)]
    room = [size - here for size, here in zip(sizes, taken, strict=True)]
    extra = equal_shares(room, sum(shares) - sum(taken))
    return Split([a + b for a, b in zip(salient, extra, strict=True)], context)


def merge(features: Tensor, anchors: Tensor, sources: Tensor, least_weight: float) -> Tensor:
    """Anchors after merging: ``w * anchor + (1 - w) * mean of its n tokens``, ``w = max(1 / (n + 1), least_weight)``.

    Every source goes to the anchor with the highest cosine. Shape: anchors ``(a,)``, sources ``(s,)`` -> ``(a, D)``.
    Source: FastVID, section 3.3, anchor-centric aggregation.
    """
    nearest = nearest_by_cosine(features[anchors], features, sources)
    sums, counts = group_sums(features, sources, nearest, len(anchors))
    weight = (1 / (counts + 1)).clamp_min(least_weight).unsqueeze(1)
    return weight * features[anchors].float() + (1 - weight) * sums / counts.clamp_min(1).unsqueeze(1)


def prune_segment(
    features: Tensor, attention: Tensor, frames: Sequence[Tensor], salient: list[int], context: list[int],
    params: Params,
) -> Pruned:  # fmt: skip
    """Keep the highest attention of every frame; of what is left in anchor frames take the density peaks, and merge.

    All tokens of the segment that are not salient merge into the anchors of EVERY anchor frame, into one of each:
    anchors of other frames too, and (OneVision's code) an anchor into itself.
    Shape: features ``(N, D)``, attention ``(N,)``, frames of the segment ``(n_t,)`` each.
    """
    n = len(features)
    kept = [rows[highest(attention[rows], count)] for rows, count in zip(frames, salient, strict=True)]
    found, peaked, peaks = [], [], []
    for rows, picks, count in zip(frames, kept, context, strict=True):
        if count:
            rest = without(rows, picks, n)
            dense = density_peaks(features[rest].float(), count, NEIGHBOURS)
            found.append(rest[dense.centres].sort().values)
            peaked.append(rest)
            peaks.append(dense.log_density.exp() * dense.separation)
    none = frames[0][:0]
    own, anchors = torch.cat(kept), torch.cat([none, *found])
    loose = without(torch.cat(list(frames)), own, n)
    held = [
        merge(features, part, loose if params["code"] == "onevision" else without(loose, part, n), params["beta"])
        for part in found
    ]
    merged = without(loose, anchors, n) if found else none
    owner = anchors[nearest_by_cosine(features[anchors], features, merged)] if found else none
    nothing = features.new_zeros(0, features.shape[1], dtype=torch.float32)
    return Pruned(
        own, anchors, torch.cat([nothing, *held]), merged, owner, torch.cat([none, *peaked]),
        torch.cat([nothing[:, 0], *peaks]),
    )  # fmt: skip


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Segment the video, split every segment's tokens into salient ones and anchors, merge the rest into the anchors.

    Frames get equal shares of the budget, the first ones one more; a view is a frame. ``assignment`` names the most
    similar anchor of a dropped token, though it merges into one of each anchor frame of its segment.
    Shape: signals.features ``(N, D)``, attention of the tower ``(N,)`` -> kept ``(min(keep, patches),)``.
    Source: FastVID, section 3; official ``fastvid_llavavideo`` and ``fastvid_llavaonevision``, ``modeling_qwen2.py``.
    """
    score = tower_attention(signals, "the highest of each frame are salient; anchors are density peaks of the rest")
    features, attention, found = signals.features, score.values, usable(signals, score.values)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool, score)
    frames = rows_by_view(signals, found.rows)
    sizes = [len(rows) for rows in frames]
    similarity = transitions(features, frames)
    parts = segments(similarity, params["segments"], params["threshold"])
    split = split_of(sizes, equal_shares(sizes, keep), parts, params)
    pruned = [
        prune_segment(features, attention, frames[part.start : part.stop], split.salient[part.start : part.stop],
                      split.context[part.start : part.stop], params)
        for part in parts
    ]  # fmt: skip
    anchors, held = torch.cat([part.anchors for part in pruned]), torch.cat([part.held for part in pruned])
    kept = found.kept(torch.cat([*(part.salient for part in pruned), anchors]), keep)
    merged, owner = torch.cat([part.merged for part in pruned]), torch.cat([part.owner for part in pruned])
    selection = Selection(
        kept=kept,
        assignment=spread(kept, kept, len(features), -1).index_copy_(0, merged, owner),
        features=kept_rows(features, kept, anchors, held),
    )
    return selection.with_diagnostics(
        lambda _: _explained(score, selection, found, frames, parts, split, pruned, similarity, params["threshold"])
    )


def _explained(
    score: TokenMap, selection: Selection, found: Usable, frames: Sequence[Tensor], parts: Sequence[Segment],
    split: Split, pruned: Sequence[Pruned], similarity: Tensor, threshold: float,
) -> Diagnostics:  # fmt: skip
    """Maps of segments, roles, density peaks and groups; the transitions with their cuts."""
    n, device = len(score.values), score.values.device
    segment, role = (torch.full((n,), torch.nan, device=device) for _ in range(2))
    peaks = torch.full((n,), torch.nan, device=device)
    role[torch.cat(list(frames))] = 0.0
    for place, (part, result) in enumerate(zip(parts, pruned, strict=True)):
        segment[torch.cat(list(frames[part.start : part.stop]))] = float(place)
        role[result.salient], role[result.anchors] = 1.0, 2.0
        peaks[result.peaked] = result.peaks
    maps = (
        TokenMap("segment", "Segment of the video", segment, direction="number in the order of time"),
        TokenMap("role", "Salient (1) or anchor (2)", role, direction="0 is dropped or merged"),
        TokenMap("density_peak", "Density times distance from anything denser", peaks,
                 direction="the highest of an anchor frame are anchors", scale="log"),
        group_sizes(selection, n),
    )  # fmt: skip
    cuts = [part.start - 1 for part in parts[1:]]
    charts = (
        Chart("transitions", "Similarity of consecutive frames; marked are the cuts", "line", similarity.tolist(),
              x=list(range(1, len(similarity) + 1)), x_label="frame", y_label="cosine", marked=cuts, line=threshold),
    ) if len(similarity) else ()  # fmt: skip
    facts = {"segments": [len(part) for part in parts], "salient": split.salient, "context": split.context}
    return found.explained(score, maps=maps, charts=charts, facts=facts)


PRUNER = Pruner(
    id="fastvid",
    label="FastVID",
    family="merging",
    claim="Cuts a video where it changes, keeps salient tokens of each part, merges the rest into density peaks.",
    paper=Paper(
        "FastVID: Dynamic Density Pruning for Fast Video Large Language Models",
        "Shen et al.",
        2025,
        "https://arxiv.org/abs/2503.11187",
    ),
    needs=TOWER_ATTENTION,
    does_without=TOWER_ATTENTION,
    params=(
        whole("segments", "Fewest segments", 8, "The video is cut at its lowest transitions into at least this many.",
              minimum=1, maximum=64),
        number("threshold", "Threshold of a cut", 0.9, "Every transition below this cosine is a cut. Official: 0.9, on "
               "Qwen2.5-VL 0.84.", step=0.01),
        number("context", "Share of context", 0.4, "The share of the kept tokens that are anchors. Official: 0.4."),
        whole("interval", "Interval of anchor frames", 4, "Anchors lie in the last frame of a segment and in every "
              "n-th frame before it. Official: 4.", minimum=1, maximum=32),
        number("beta", "Least weight of an anchor", 0.6, "An anchor keeps at least this share of itself when "
               "tokens merge into it. Official: 0.6."),
        choice("code", "Code", ("llava_video", "onevision"), "llava_video: anchors are rounded per segment and never "
               "merge into themselves. onevision: rounded per frame, and an anchor is one of the tokens that it takes "
               "in."),
    ),
    schedule=single_stage(select, needs=TOWER_ATTENTION, positions="keep", title="Salient tokens and density peaks"),
    needs_frames=True,
    merges=True,
)  # fmt: skip
