"""Published procedures that merge tokens; see ``published_procedures.py``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, one_hot

from tokviz.types import Signals

from .published_procedures import BROADCAST_BYTES, Tick


def apet(s: Signals, keep: int, tick: Tick, basis: int = 10) -> tuple[Tensor, Tensor]:
    """ApET: farthest points by differences, normal equations, cosines by broadcasting, one merge per target."""
    x = s.features
    nearest = torch.full((len(x),), 1e10, device=x.device)
    picks, pick = [], 0
    for _ in range(basis):
        picks.append(pick)
        nearest = torch.minimum(nearest, ((x - x[pick]) ** 2).sum(1))
        pick = int(nearest.argmax())
    b = x[picks]
    weights = torch.linalg.solve(b @ b.T + 1e-5 * torch.eye(basis, device=x.device), b @ x.T).T
    error = (x - weights @ b).norm(dim=1)
    ranked = error.topk(keep).indices
    target = ranked[: keep - basis].sort().values
    dropped = torch.ones(len(x), dtype=torch.bool, device=x.device)
    dropped[ranked] = False
    sources = x[dropped]
    few = max(1, BROADCAST_BYTES // (4 * x.shape[1] * len(target)))
    owner = []
    for part in sources.split(few):
        tick()
        owner.append(cosine_similarity(part.unsqueeze(1), x[target].unsqueeze(0), dim=2).argmax(1))
    carried = x.clone()
    owners = torch.cat(owner)
    counts = torch.ones(len(target), device=x.device).index_add_(0, owners, torch.ones(len(owners), device=x.device))
    carried[target] = x[target].index_add(0, owners, sources) / counts.unsqueeze(1)
    carried[ranked[keep - basis :].sort().values] = x[picks]
    kept = ranked.sort().values
    return kept, carried[kept]


def visionzip(s: Signals, keep: int, tick: Tick) -> tuple[Tensor, Tensor]:
    """VisionZip: dominant tokens by attention; the rest merges into evenly spaced ones by one-hot products."""
    contextual = round(keep / 6.4)
    chosen = torch.ones(len(s.features), dtype=torch.bool, device=s.features.device)
    chosen[s.cls_attention.topk(keep - contextual - 1).indices] = False
    metric = s.keys[chosen] / s.keys[chosen].norm(dim=1, keepdim=True)
    hidden = s.features[chosen]
    spots = torch.arange(0, len(hidden), max(1, len(hidden) // contextual), device=hidden.device)[:contextual]
    others = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    others[spots] = False
    owner = (metric[others] @ metric[spots].T).argmax(1)
    member = torch.zeros(int(others.sum()), contextual, device=hidden.device).scatter_(1, owner.unsqueeze(1), 1)
    merged = member.T @ hidden[others] / member.sum(0).clamp_min(1).unsqueeze(1)
    return (~chosen).nonzero().squeeze(1), torch.cat([s.features[~chosen], hidden[spots] + merged])


def vscan(s: Signals, keep: int, tick: Tick) -> Tensor:
    """VScan's first stage: the best of each window, the best of the rest, all others averaged into the nearest."""
    n, width = len(s.features), max(1, int(len(s.features) ** 0.5))
    place = torch.arange(n, device=s.features.device)
    window = place // width // 6 * width + place % width // 6
    names = window.unique()
    local = [
        inside[s.shallow_attention[inside].topk(min(len(inside), keep // 2 // len(names))).indices]
        for inside in ((window == name).nonzero().squeeze(1) for name in names)
    ]
    chosen = torch.zeros(n, dtype=torch.bool, device=place.device)
    chosen[torch.cat(local)] = True
    chosen[s.cls_attention.masked_fill(chosen, 0).topk(keep - int(chosen.sum())).indices] = True
    kept, others = s.features[chosen], s.features[~chosen]
    owner = (normalize(others, dim=1) @ normalize(kept, dim=1).T).argmax(1)
    sums = kept.clone().scatter_add_(0, owner.unsqueeze(1).expand_as(others), others)
    return sums / (1 + torch.bincount(owner, minlength=keep)).unsqueeze(1)


def tome(s: Signals, keep: int, tick: Tick) -> Tensor:
    """ToMe, one layer: best partners of every second token, the most similar pairs averaged by scattering."""
    r = len(s.features) - keep
    metric = s.keys / s.keys.norm(dim=1, keepdim=True)
    best, partner = (metric[1::2] @ metric[0::2].T).max(1)
    edges = best.argsort(descending=True)
    giving, taking = s.features[1::2], s.features[0::2]
    sizes = torch.ones(len(taking), 1, device=giving.device)
    places = partner[edges[:r]].unsqueeze(1)
    sums = taking.clone().scatter_reduce(0, places.expand(-1, giving.shape[1]), giving[edges[:r]], "sum")
    sizes = sizes.scatter_reduce(0, places, torch.ones(r, 1, device=giving.device), "sum")
    return torch.cat([giving[edges[r:].sort().values], sums / sizes])


def density_clusters(x: Tensor, count: int, neighbours: int) -> Tensor:
    """DPC-kNN with noise, one-hot means. Shape: ``(n, D)`` -> ``(count, D)``."""
    distance = torch.cdist(x, x) / x.shape[1] ** 0.5
    density = (-distance.topk(neighbours, largest=False).values.square().mean(1)).exp()
    density = density + torch.rand_like(density) * 1e-6
    denser = (density.unsqueeze(0) > density.unsqueeze(1)).float()
    separation = (distance * denser + distance.max() * (1 - denser)).min(1).values
    centres = (separation * density).topk(count).indices
    owner = distance[centres].argmin(0)
    owner[centres] = torch.arange(count, device=x.device)
    member = torch.nn.functional.one_hot(owner, count).float()
    return member.T @ x / (member.sum(0).unsqueeze(1) + 1e-6)


def raters(s: Signals) -> Tensor:
    """Text tokens that the picture is most like, on the LLM's input. Shape: ``(m,)``."""
    similarity = (s.input_features @ s.input_text.T).softmax(1).mean(0)
    return (similarity > similarity.mean()).nonzero().squeeze(1)


def sparsevlm(s: Signals, keep: int, tick: Tick) -> tuple[Tensor, Tensor]:
    """SparseVLM: raters' rows, then three tenths of what is pruned return as clusters."""
    score = s.attention_rows[raters(s)].mean(0)
    order = score.argsort(descending=True)
    selected = keep - round(0.03 * (len(order) - keep)) - 1
    recycled = order[selected : selected + int(0.3 * (len(order) - selected)) + 1]
    clusters = len(recycled) // 10 + 1
    return order[:selected].sort().values, density_clusters(s.features[recycled], clusters, clusters)


def polymorphic(s: Signals, keep: int, tick: Tick) -> tuple[Tensor, Tensor]:
    """Polymorphic, stage 1: tokens by attention, all others as density clusters."""
    clusters = round(keep / 6.4)
    order = s.cls_attention.argsort(descending=True)
    rest = order[keep - clusters :].sort().values
    return order[: keep - clusters].sort().values, density_clusters(s.features[rest], clusters, 5)


def prumerge(s: Signals, keep: int, tick: Tick) -> tuple[Tensor, Tensor]:
    """PruMerge: for every kept token the keys of all others are gathered and compared, and 32 neighbours added."""
    chosen = s.cls_full_width.topk(keep - 1).indices
    unit = normalize(s.full_keys, dim=1)
    merged = []
    for token in chosen.tolist():
        tick()
        others = torch.cat([unit[:token], unit[token + 1 :]])
        attention = torch.cat([s.cls_full_width[:token], s.cls_full_width[token + 1 :]])
        features = torch.cat([s.features[:token], s.features[token + 1 :]])
        near = (others @ unit[token]).topk(32).indices
        merged.append(s.features[token] + (features[near] * attention[near].unsqueeze(1)).sum(0))
    dropped = torch.ones(len(s.features), dtype=torch.bool, device=s.features.device)
    dropped[chosen] = False
    summary = (s.features[dropped] * s.cls_full_width[dropped].unsqueeze(1)).sum(0)
    return chosen, torch.stack([*merged, summary])


def fastvid(s: Signals, keep: int, tick: Tick) -> Tensor:
    """FastVID with every frame a segment of its own, as eight frames are: salient tokens, peaks, merging per frame."""
    n_frames = int(s.view[-1]) + 1
    score = s.received_attention if s.cls_attention is None else s.cls_attention
    each = max(1, keep // n_frames)
    anchors = int(0.4 * each)
    results = []
    for x, attention in zip(s.features.chunk(n_frames), score.chunk(n_frames), strict=True):
        tick()
        salient = attention.topk(each - anchors).indices
        left = torch.ones(len(x), dtype=torch.bool, device=x.device)
        left[salient] = False
        rest = x[left]
        results.append(x[salient])
        if anchors:
            distance = torch.cdist(rest, rest) / rest.shape[1] ** 0.5
            density = (-distance.topk(4, largest=False).values.square().mean(1)).exp()
            denser = density.unsqueeze(0) > density.unsqueeze(1)
            separation = torch.where(denser, distance, distance.max()).min(1).values
            peaks = (density * separation).topk(anchors).indices
            unit = normalize(rest, dim=1)
            hot = one_hot((unit @ unit[peaks].T).argmax(1), anchors).float()
            count = hot.sum(0).unsqueeze(1)
            weight = (1 / (count + 1)).clamp(min=0.6)
            results.append(weight * rest[peaks] + (1 - weight) * (hot.T @ rest) / count.clamp(min=1))
    return torch.cat(results)


def flashvid(s: Signals, keep: int, tick: Tick) -> Tensor:
    """FlashVID with every frame a segment of its own: calibrated max-min picks, then density peaks of the rest."""
    n_frames = int(s.view[-1]) + 1
    score = s.received_attention if s.cls_attention is None else s.cls_attention
    each = max(1, keep // n_frames)
    chosen = max(1, int(0.7 * each))
    results = []
    for x, attention in zip(s.features.chunk(n_frames), score.chunk(n_frames), strict=True):
        tick()
        unit = normalize(x, dim=1)
        distance = (1 - unit @ unit.T) * attention * (x @ x.mean(0))
        picks = [distance.topk(2, dim=0, largest=False).values[1].argmax()]
        for _ in range(chosen - 1):
            tick()
            nearest = distance[torch.stack(picks)].min(0).values
            nearest[torch.stack(picks)] = -torch.inf
            picks.append(nearest.argmax())
        left = torch.ones(len(x), dtype=torch.bool, device=x.device)
        left[torch.stack(picks)] = False
        rest = x[left]
        results.append(x[~left])
        if each > chosen:
            apart = torch.cdist(rest, rest) / rest.shape[1] ** 0.5
            density = (-apart.topk(min(7, each - chosen), largest=False).values.square().mean(1)).exp()
            separation = torch.where(density.unsqueeze(0) > density.unsqueeze(1), apart, apart.max()).min(1).values
            centres = (density * separation).topk(each - chosen).indices
            hot = one_hot(apart[:, centres].argmin(1), each - chosen).float()
            results.append(hot.T @ rest / hot.sum(0).clamp(min=1).unsqueeze(1))
    return torch.cat(results)


def holitom(s: Signals, keep: int, tick: Tick) -> Tensor:
    """HoliTom where nothing stands still, as in made-up films: transitions, all windows, then attention per frame."""
    n_frames = int(s.view[-1]) + 1
    frames = normalize(s.features, dim=1).unflatten(0, (n_frames, -1))
    still = cosine_similarity(frames[:-1], frames[1:], dim=-1) > 0.8
    saved = torch.zeros(n_frames, n_frames)
    for start in range(n_frames - 1):
        tick()
        counts = still[start:].long().cumprod(0).sum(1)
        for length, count in enumerate(counts.tolist(), 1):
            saved[start, start + length] = count * length
    best = [0.0]
    for stop in range(n_frames):
        tick()
        best.append(max(best[stop], *(best[start] + float(saved[start, stop]) for start in range(stop + 1))))
    score = s.received_attention if s.cls_attention is None else s.cls_attention
    each = -(-keep // n_frames)
    picks = score.unflatten(0, (n_frames, -1)).topk(each, dim=1).indices.sort(1).values
    return (picks + frames.shape[1] * torch.arange(n_frames, device=picks.device).unsqueeze(1)).flatten()
