"""An independent vision tower with merging: stock modules, own attention written out, official merging by plain loops.

One image at a time. Every token carries the set of patches that it is the mean of.
"""

from __future__ import annotations

import math

import torch


@torch.no_grad()
def merged_tower(model, pixels, merges, proportional=True):
    """Features ``(K, D_v)`` in the official order, and the patches of each, after ``merges[i]`` pairs in layer ``i``.

    Shape: pixels ``(3, H, W)``.
    """
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    hidden = tower.pre_layrnorm(tower.embeddings(pixels[None]))[0]
    patches = [None, *({patch} for patch in range(len(hidden) - 1))]  # [CLS] first
    for r, layer in zip(merges, tower.encoder.layers, strict=False):
        attention = layer.self_attn
        normed = layer.layer_norm1(hidden)
        heads = []
        query, key, value = (getattr(attention, f"{name}_proj")(normed) for name in "qkv")
        size = torch.tensor([1 if held is None else len(held) for held in patches], dtype=hidden.dtype)
        for head in range(attention.num_heads):
            part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            logits = query[:, part] @ key[:, part].T / math.sqrt(attention.head_dim)
            if proportional:
                logits = logits + size.log()
            heads.append(logits.softmax(-1) @ value[:, part])
        hidden = hidden + attention.out_proj(torch.cat(heads, dim=1))
        metric = sum(key.split(attention.head_dim, dim=1)) / attention.num_heads
        hidden, patches = merge_pairs(hidden, patches, metric, r)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return hidden[1:], patches[1:]


def merge_pairs(hidden, patches, metric, r):
    """One step of bipartite soft matching, [CLS] at row 0 protected."""
    metric = metric / metric.norm(dim=1, keepdim=True)
    giving, taking = range(0, len(hidden), 2), range(1, len(hidden), 2)
    edges = []
    for a in giving:
        if a == 0:
            continue
        similarity, partner = max((float(metric[a] @ metric[b]), -b) for b in taking)
        edges.append((similarity, a, -partner))
    merged = sorted(edges, key=lambda edge: -edge[0])[:r]
    gone = {a for _, a, _ in merged}
    rows, held = [], []
    for row in [*(a for a in giving if a not in gone), *taking]:
        group = [row, *(a for _, a, b in merged if b == row)]
        weights = [1 if patches[member] is None else len(patches[member]) for member in group]
        rows.append(sum(hidden[m] * w for m, w in zip(group, weights, strict=True)) / sum(weights))
        held.append(None if patches[row] is None else set().union(*(patches[member] for member in group)))
    return torch.stack(rows), held
