"""What papers and their code do to select tokens, step by step and at the price they pay: the other side of a race.

Written from our description of the methods, not from anybody's source; kept plain, as what is compared is the
procedure. Everything is float32, every function takes the same signals as the stage it is measured against, and
``tick`` is called in every long loop, so that a measurement can give up. Where a procedure asks the host at every step
(``item``) or computes what it does not need, so does this. Of tokens without a finite number, of ties, duplicates and
the like nothing is known here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tokviz.types import Signals

Tick = Callable[[], None]
BROADCAST_BYTES = 256 << 20
"""Where a procedure broadcasts to three dimensions, at most this much at a time: in one piece it would not fit."""


def highest(scores: Tensor, keep: int) -> Tensor:
    """Top-k as a mask, and back to indices (FasterVLM, FastV, PDrop). Shape: ``(n,)`` -> ``(keep,)``."""
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[scores.topk(keep).indices] = True
    return mask.nonzero().squeeze(1)


def cls_attention(s: Signals, keep: int, tick: Tick) -> Tensor:
    """FasterVLM."""
    return highest(s.cls_attention, keep)


def last_row(s: Signals, keep: int, tick: Tick) -> Tensor:
    """FastV and PDrop."""
    return highest(s.attention_rows[-1], keep)


def variation(s: Signals, keep: int, tick: Tick) -> Tensor:
    """V2Drop: how much the layer before changed each token."""
    return highest((s.features - s.previous_features).norm(dim=1), keep)


def withdraw(s: Signals, keep: int, tick: Tick) -> Tensor:
    """VTW: nothing stays."""
    return torch.empty(0, dtype=torch.int64)


def divprune(s: Signals, keep: int, tick: Tick) -> Tensor:
    """DivPrune: the whole distance matrix; every step gathers the rows of all picks anew."""
    unit = s.features / s.features.norm(dim=1, keepdim=True)
    distance = 1.0 - unit @ unit.T
    chosen = torch.empty(keep, dtype=torch.int64, device=unit.device)
    for step in range(keep):
        tick()
        if step == 0:
            to_chosen = distance.topk(2, dim=0, largest=False).values[1]
        else:
            to_chosen = distance.index_select(0, chosen[:step]).min(0).values
        chosen[step] = to_chosen.argmax().item()
    return chosen.sort().values


def todre(s: Signals, keep: int, tick: Tick) -> Tensor:
    """ToDRE, Algorithm 1: similarity of all with all, then the least similar one, ``keep`` times."""
    unit = normalize(s.features, dim=1)
    similarity = unit @ unit.T
    chosen = [int(s.cls_attention.argmax())]
    closest = similarity[chosen[0]].clone()
    while len(chosen) < keep:
        tick()
        chosen.append(int(closest.argmin()))
        closest = torch.maximum(closest, similarity[chosen[-1]])
    return torch.tensor(sorted(chosen))


def adaptvtp(s: Signals, keep: int, tick: Tick) -> Tensor:
    """AdaptVTP: distances to the text, cosines of all survivors, smallest sum of cosines to the picks."""
    alpha = -torch.cdist(s.features, s.question_features).mean(1)
    survivors = alpha.topk(max(keep, int(0.8 * len(alpha)))).indices.sort().values
    unit = normalize(s.features[survivors], dim=1)
    similarity = unit @ unit.T
    chosen = [int(similarity.mean(1).argmin())]
    total = similarity[chosen[0]].clone()
    while len(chosen) < keep:
        tick()
        masked = total.clone()
        masked[chosen] = torch.inf
        chosen.append(int(masked.argmin()))
        total += similarity[chosen[-1]]
    return survivors[torch.tensor(sorted(chosen), device=survivors.device)]


def cdpruner(s: Signals, keep: int, tick: Tick) -> Tensor:
    """CDPruner: the whole conditional kernel, then fast greedy MAP with one Cholesky row per pick."""
    unit = normalize(s.features, dim=1)
    question = s.question_features.mean(0)
    relevance = unit @ normalize(question, dim=0)
    relevance = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    kernel = relevance.unsqueeze(1) * (unit @ unit.T) * relevance.unsqueeze(0)
    variance = kernel.diagonal().clone()
    rows = torch.zeros(keep, len(unit), device=unit.device)
    chosen = torch.empty(keep, dtype=torch.int64, device=unit.device)
    for step in range(keep):
        tick()
        pick = variance.argmax()
        chosen[step] = pick
        row = (kernel[pick] - torch.einsum("t,tn->n", rows[:step, pick], rows[:step])) / variance[pick].sqrt()
        rows[step] = row
        variance -= row.square()
        variance[pick] = -torch.inf
    return chosen.sort().values


def vispruner(s: Signals, keep: int, tick: Tick) -> Tensor:
    """VisPruner: half by attention; of the rest every round compares one half with the other half anew."""
    order = s.cls_attention.argsort(descending=True)
    important, rest = order[: keep // 2], order[keep // 2 :]
    unit = normalize(s.features, dim=1)
    wanted = keep - len(important)
    while len(rest) > wanted:
        tick()
        removed = min(8, len(rest) - wanted)
        even, odd = rest[::2], rest[1::2]
        closest = (unit[even] @ unit[odd].T).max(1).values
        rest = torch.cat([even[closest.argsort()[: len(even) - removed]], odd])
    return torch.cat([important, rest]).sort().values


def scope(s: Signals, keep: int, tick: Tick) -> Tensor:
    """SCOPE: every step computes anew what each token would add to the coverage of all, times its attention."""
    unit = normalize(s.features, dim=1)
    similarity = unit @ unit.T
    covered = torch.zeros(len(unit), device=unit.device)
    left = torch.zeros(len(unit), device=unit.device)
    chosen = torch.empty(keep, dtype=torch.int64, device=unit.device)
    for step in range(keep):
        tick()
        gain = (similarity - covered.unsqueeze(1)).clamp_min(0).sum(0) * s.cls_attention
        pick = (gain + left).argmax()
        chosen[step] = pick
        left[pick] = -torch.inf
        covered = torch.maximum(covered, similarity[pick])
    return chosen.sort().values


def hiprune(s: Signals, keep: int, tick: Tick) -> Tensor:
    """HiPrune: the best in the object layer, their neighbours by number, and the best of the rest in the deep layer."""
    n = len(s.features)
    anchors = s.object_attention.topk(round(keep * 0.1 / 5)).indices
    width = max(1, int(n**0.5))
    near = torch.cat([anchors, anchors - 1, anchors + 1, anchors - width, anchors + width]).clamp(0, n - 1).unique()
    deep = s.deep_attention.clone()
    deep[near] -= 1
    return torch.cat([near, deep.topk(keep - len(near)).indices]).sort().values


def mmtok(s: Signals, keep: int, tick: Tick) -> Tensor:
    """MMTok: every step computes anew what each token would add to the cover of all words and all tokens."""
    tokens, encoded, words = (normalize(x, dim=1) for x in (s.features, s.encoder_features, s.question_features))
    of_words = (words @ tokens.T / 0.02).softmax(1) / len(words)
    of_image = (encoded @ encoded.T / 0.2).softmax(1) / len(tokens)
    cover = torch.cat([of_words, 0.5 * of_image])
    best, left = torch.zeros(len(cover), device=cover.device), torch.zeros(len(tokens), device=cover.device)
    chosen = torch.empty(keep, dtype=torch.int64, device=cover.device)
    for step in range(keep):
        tick()
        pick = ((cover - best.unsqueeze(1)).clamp_min(0).sum(0) + left).argmax()
        chosen[step] = pick
        left[pick] = -torch.inf
        best = torch.maximum(best, cover[:, pick])
    return chosen.sort().values


def adafv(s: Signals, keep: int, tick: Tick) -> Tensor:
    """AdaFV: two ranked lists, prefix sums of what is behind the sure quarter of each, and the best product of two."""
    cosines = normalize(s.text_features, dim=1) @ normalize(s.features, dim=1).T
    by_text, text = (cosines * 100).softmax(-1).max(0).values.topk(keep)
    by_tower, tower = s.cls_attention.topk(keep)
    sure = int(keep * 0.25)
    left = keep - 2 * sure
    zero = by_text.new_zeros(1)
    sums = [torch.cat([zero, values[sure:].cumsum(0)]) for values in (by_text, by_tower)]
    first = torch.arange(left + 1, device=zero.device)
    best = int((sums[0][first] * sums[1][left - first]).argmax())
    return torch.cat([text[: sure + best], tower[: keep - sure - best]]).sort().values


def pixelprune(s: Signals, keep: int, tick: Tick) -> Tensor:
    """PixelPrune at the tolerance that it is given: cell by cell, each compared on the host with what stands for it."""
    side = int(len(s.pixels) ** 0.5)
    cells = s.pixels[: side * side].unflatten(0, (side, side)).clone()
    chosen = [0]

    def like(one: Tensor, other: Tensor) -> bool:
        return bool(((one - other).abs().max() <= 0.5).item())

    for place in range(1, side * side):
        tick()
        row, column = divmod(place, side)
        left, above = cells[row, column - 1], cells[row - 1, column]
        foretold = above if column == 0 else left
        if row and column and like(cells[row - 1, column - 1], left) and not like(cells[row - 1, column - 1], above):
            foretold = above
        if like(cells[row, column], foretold):
            cells[row, column] = foretold
        else:
            chosen.append(place)
    return torch.tensor(chosen[:keep])


def ivcprune(s: Signals, keep: int, tick: Tick) -> Tensor:
    """IVC-Prune: the whole map of value similarity, seeds by the question's rows, coordinates by two top-k."""
    tokens = torch.cat([s.values, s.text_values, s.other_values]).transpose(0, 1)
    similarity = (tokens @ tokens.transpose(1, 2) * tokens.shape[2] ** -0.5).softmax(2).mean(0)
    n = len(s.values)
    asking = torch.arange(n + 2, n + len(s.text_values), device=tokens.device)
    seeds = similarity[asking].mean(0)[:n].topk(max(1, round(0.01 * n))).indices
    ranked = similarity[torch.cat([seeds, asking])].mean(0)[:n].topk(n).indices
    coordinates = s.rotary_means.topk(round(0.2 * keep), dim=0).indices.flatten()
    first = torch.cat([coordinates, seeds]).unique()
    return torch.cat([first, ranked[~torch.isin(ranked, first)]])[:keep].sort().values


def holov(s: Signals, keep: int, tick: Tick) -> Tensor:
    """HoloV: 16 strips; attention plus the variance of cosines in each strip shares out the tokens."""
    strips = torch.arange(len(s.features), device=s.features.device).tensor_split(16)
    means = []
    for strip in strips:
        unit = normalize(s.features[strip], dim=1)
        similarity = unit @ unit.T
        similarity = similarity * (1 - torch.eye(len(strip), device=unit.device))
        mean = similarity.sum(1) / (len(strip) - 1)
        variance = ((similarity - mean.unsqueeze(1)) ** 2).sum(1) / (len(strip) - 1)
        attention = 1e3 * s.cls_attention[strip]
        scale = attention.abs().mean() / variance.abs().mean()
        means.append((attention + 0.09 * variance * scale).mean())
    weights = torch.stack(means) / torch.stack(means).sum()
    shares = (weights * keep).floor().long()
    for strip in weights.argsort(descending=True)[: keep - int(shares.sum())]:
        shares[strip] += 1
    picks = [
        strip[s.cls_attention[strip].topk(min(int(share), len(strip))).indices]
        for strip, share in zip(strips, shares, strict=True)
    ]
    return torch.cat(picks)


def globalcom2(s: Signals, keep: int, tick: Tick) -> Tensor:
    """GlobalCom2: the thumbnail's scores share out the crops' tokens and are half of their scores."""
    n = len(s.features)
    ratio = keep / n
    local = s.cls_logits
    thumbnail = s.view == 0
    side = int(thumbnail.sum().item() ** 0.5)
    picks = [local[thumbnail].topk(int(side * side * ratio)).indices]
    high, wide = (int(s.cell[~thumbnail, axis].max()) + 1 for axis in (0, 1))
    image = local[thumbnail].view(1, 1, side, side)
    stitched = torch.nn.functional.interpolate(image, size=(high, wide), mode="bilinear").view(high, wide)
    crops = [(s.view == view).nonzero().squeeze(1) for view in range(1, int(s.view.max()) + 1)]
    sums = torch.stack([stitched[s.cell[crop, 0], s.cell[crop, 1]].sum() for crop in crops])
    weights = ((sums - sums.max()) / 10).softmax(0)
    for crop, weight in zip(crops, weights, strict=True):
        share = min(1.0, ratio * (1 + weight.item() - weights.mean().item()))
        outer = stitched[s.cell[crop, 0], s.cell[crop, 1]]
        score = normalize(local[crop], dim=0) + normalize(outer, dim=0)
        picks.append(crop[score.topk(int(len(crop) * share)).indices])
    return torch.cat(picks)


def dart(s: Signals, keep: int, tick: Tick) -> Tensor:
    """DART: pivots by key norm; every pivot takes the least similar tokens of what is left, by sets on the host."""
    visual = s.key_norms.topk(4).indices
    pivots = [*s.normed_features[visual], *s.normed_text[s.text_key_norms.topk(4).indices]]
    chosen = set(visual.tolist())
    each = -(-keep // 8)
    for pivot in pivots:
        tick()
        left = [token for token in range(len(s.features)) if token not in chosen]
        rows = s.normed_features[torch.tensor(left, device=pivot.device)]
        cosines = cosine_similarity(pivot.unsqueeze(0), rows, dim=1)
        chosen |= {left[place] for place in cosines.topk(min(each, len(left)), largest=False).indices.tolist()}
    return torch.tensor(sorted(chosen))


def evs(s: Signals, keep: int, tick: Tick) -> Tensor:
    """EVS: cosine of every token with the one before it, the first frame above all, and a full sort."""
    frames = s.features.unflatten(0, (int(s.view[-1]) + 1, -1))
    change = 1 - cosine_similarity(frames[1:], frames[:-1], dim=-1)
    ranked = torch.cat([torch.full_like(change[:1], 255), change]).flatten().argsort(descending=True, stable=True)
    return ranked[:keep].sort().values


def dycoke(s: Signals, keep: int, tick: Tick) -> Tensor:
    """DyCoke: cosines of the second and fourth frame of a window, then of the third, and a top-k in each."""
    n_frames = int(s.view[-1]) + 1
    frames = normalize(s.features, dim=1).unflatten(0, (n_frames, -1))
    cells, first = frames.shape[1], -(-n_frames // 4)
    each = max(0, min(cells, (keep - first * cells) // max(1, n_frames - first)))
    kept = []
    for number in range(n_frames):
        tick()
        rows = torch.arange(cells, device=frames.device) + number * cells
        if number % 4:
            earlier = frames[number - (2 if number % 4 == 2 else 1)]
            rows = rows[cosine_similarity(frames[number], earlier, dim=1).topk(each, largest=False).indices]
        kept.append(rows)
    return torch.cat(kept).sort().values


def vidcom2(s: Signals, keep: int, tick: Tick) -> Tensor:
    """VidCom2: the quiet half of the channels, kernels to two centres, a softmax over frames, a top-k per frame."""
    n_frames = int(s.view[-1]) + 1
    quiet = s.features.var(0, unbiased=False).topk(s.features.shape[1] // 2, largest=False).indices
    frames = normalize(s.features[:, quiet], dim=1).unflatten(0, (n_frames, -1))

    def near(centre: Tensor) -> Tensor:
        squared = (frames - centre).square().sum(-1)
        return sum(torch.exp(-squared / (2 * width)) for width in (0.125, 0.25, 0.5, 1.0, 2.0))

    to_video = near(frames.mean((0, 1), keepdim=True))
    similarity = to_video + near(frames.mean(1, keepdim=True))
    weight = (-to_video.mean(1) / 0.01).softmax(0)
    scale = (keep / len(s.features) * (1 + weight - weight.mean())).clamp(max=1)
    size = frames.shape[1]
    picks = []
    for frame, count in enumerate((scale * size).round().long().clamp(min=1).tolist()):
        tick()
        picks.append(similarity[frame].topk(count, largest=False).indices.sort().values + frame * size)
    return torch.cat(picks)
