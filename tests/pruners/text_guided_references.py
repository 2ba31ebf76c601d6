"""Slow, obvious references in float64 of what SparseVLM and Polymorphic share: loops, nothing shared with tokviz."""

import math

import numpy as np


def alignment(visual, text, scale):
    """Softmax over text of the scaled dot products, one visual row at a time."""
    found = []
    for v in visual:
        logits = [scale * float(v @ t) for t in text]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        found.append([weight / sum(weights) for weight in weights])
    return found


def raters(visual, text, scale):
    """Mean shares, and the text tokens above the average share; all of them when there is none."""
    shares = alignment(visual, text, scale)
    mean = [sum(row[j] for row in shares) / len(shares) for j in range(len(text))]
    above = [j for j in range(len(text)) if mean[j] > (1 + 1e-6) / len(text)]
    return mean, above or list(range(len(text)))


def best_first(indices, scores):
    return sorted(indices, key=lambda i: (-scores[i], i))


def density_peaks(x, count, knn):
    """Centres (best first), nearest centre of every row, and the two axes of the decision graph.

    knn = 0: as many neighbours as clusters, the row itself among them; else that many others.
    """
    n, width = x.shape
    d = [[math.sqrt(np.sum((x[i] - x[j]) ** 2)) / math.sqrt(width) for j in range(n)] for i in range(n)]
    crowding = []
    for i in range(n):
        near = sorted(d[i])[:count] if knn == 0 else sorted(d[i][j] for j in range(n) if j != i)[:knn]
        crowding.append(sum(v * v for v in near) / len(near) if near else 0.0)
    separation = []
    for i in range(n):
        denser = [j for j in range(n) if (-crowding[j], -j) > (-crowding[i], -i)]
        separation.append(min(d[i][j] for j in denser) if denser else max(max(row) for row in d))
    prominence = [math.log(s) - c if s > 0 else -math.inf for s, c in zip(separation, crowding, strict=True)]
    centres = best_first(range(n), prominence)[:count]
    owner = [i if i in centres else min(sorted(centres), key=lambda c: (d[i][c], c)) for i in range(n)]
    return centres, owner, [math.exp(-c) for c in crowding], separation


def clusters(x, members, count, knn):
    """Owner of every member, mean of every centre's cluster, centres best first; in the numbering of ``x``."""
    centres, owner, _, _ = density_peaks(x[members], count, knn)
    owner_of = {members[i]: members[owner[i]] for i in range(len(members))}
    means = {members[c]: np.mean([x[i] for i in members if owner_of[i] == members[c]], axis=0) for c in centres}
    return owner_of, means, [members[c] for c in centres]


def n_clusters(pruned):
    return (math.floor(0.3 * pruned) + 1) // 10 + 1


def keep_and_recycle(x, scores, keep, knn):
    """What is left: kept ascending, features, assignment, and kept in the order selected then clusters."""
    n = len(x)
    usable = [i for i in range(n) if np.isfinite(x[i]).all() and np.isfinite(scores[i])]
    if len(usable) <= keep:
        spare = [i for i in range(n) if i not in usable]
        kept = sorted(usable + spare[: keep - len(usable)])
        return kept, None, None, None
    # All ways to reach ``keep``; the one with the most selected tokens, or one selected and fewer clusters.
    ways = [k for k in range(1, len(usable)) if k + n_clusters(len(usable) - k) == keep]
    selected = max(ways, default=1)
    ranked = best_first(usable, scores)
    alone, pruned = sorted(ranked[:selected]), ranked[selected:]
    recycled = sorted(pruned[: math.floor(0.3 * len(pruned)) + 1])
    features = {i: x[i] for i in alone}
    assignment = [-1] * n
    for i in alone:
        assignment[i] = i
    if keep == selected:
        return alone, [features[i] for i in alone], assignment, alone
    owner, means, centres = clusters(x, recycled, keep - selected, knn)
    features.update(means)
    for i, carrier in owner.items():
        assignment[i] = carrier
    kept = sorted([*alone, *centres])
    return kept, [features[i] for i in kept], assignment, [*alone, *centres]


def consolidate(x, attention, keep, knn):
    """Polymorphic's stage 1 on one image."""
    count = math.floor(keep / 6.4 + 0.5)
    ranked = best_first(range(len(x)), attention)
    alone, rest = ranked[: keep - count], sorted(ranked[keep - count :])
    assignment = [i if i in alone else -1 for i in range(len(x))]
    features = {i: x[i] for i in alone}
    if count:
        owner, means, centres = clusters(x, rest, count, knn)
        features.update(means)
        for i, carrier in owner.items():
            assignment[i] = carrier
        alone = [*sorted(alone), *centres]
    kept = sorted(alone)
    return kept, [features[i] for i in kept], assignment, alone
