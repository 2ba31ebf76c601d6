"""Slow, obvious references in float64: loops over single tokens, nothing shared with tokviz."""

import math

import numpy as np


def cosine(a, b):
    length = math.sqrt(a @ a) * math.sqrt(b @ b)
    return (a @ b) / length if length > 0 else 0.0


def stable_top(scores, count):
    """Indices of the largest scores, best first, lowest index first among equals."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]


def farthest_points(x, count, first):
    picks = [first]
    while len(picks) < count:
        best, best_distance = None, -1.0
        for i in range(len(x)):
            distance = min(float(np.sum((x[i] - x[p]) ** 2)) for p in picks)
            if i not in picks and distance > best_distance:
                best, best_distance = i, distance
        picks.append(best)
    return picks


def farthest_from_mean(x):
    mean = sum(x) / len(x)
    return stable_top([float(np.sum((row - mean) ** 2)) for row in x], 1)[0]


def k_center(x, count, first):
    picks = [first]
    while len(picks) < count:
        rest = [i for i in range(len(x)) if i not in picks]
        picks.append(min(rest, key=lambda i: (max(cosine(x[i], x[p]) for p in picks), i)))
    return picks


def divprune(x, count):
    n = len(x)
    isolation = [min(1 - cosine(x[i], x[j]) for j in range(n) if j != i) for i in range(n)]
    return k_center(x, count, stable_top(isolation, 1)[0])


def reconstruction_error(x, basis):
    """Residual length of the least-squares fit of every row by the basis rows."""
    if len(basis) == 0:
        return [math.sqrt(row @ row) for row in x]
    errors = []
    for row in x:
        weights = np.linalg.lstsq(basis.T, row, rcond=None)[0]
        errors.append(math.sqrt(np.sum((row - weights @ basis) ** 2)))
    return errors


def merge(x, targets, sources):
    """``targets`` averaged with the sources that are most similar to them, and who went where."""
    groups = {t: [x[t]] for t in targets}
    owner = {}
    for s in sources:
        owner[s] = max(sorted(targets), key=lambda t: (cosine(x[s], x[t]), -t))
        groups[owner[s]].append(x[s])
    return {t: sum(rows) / len(rows) for t, rows in groups.items()}, owner


def density_peaks(x, count, neighbours):
    """Centres (best first) and the nearest centre of every row."""
    n, width = x.shape
    d = [[math.sqrt(np.sum((x[i] - x[j]) ** 2)) / math.sqrt(width) for j in range(n)] for i in range(n)]
    density = [math.exp(-sum(v * v for v in sorted(d[i])[:neighbours]) / min(neighbours, n)) for i in range(n)]
    separation = []
    for i in range(n):
        denser = [j for j in range(n) if (density[j], -j) > (density[i], -i)]
        separation.append(min(d[i][j] for j in denser) if denser else max(max(row) for row in d))
    centres = stable_top([density[i] * separation[i] for i in range(n)], count)
    owner = [i if i in centres else min(sorted(centres), key=lambda c: (d[i][c], c)) for i in range(n)]
    return centres, owner


def apet_basis(x, keep, basis_tokens):
    count = min(basis_tokens, keep - 1)
    return farthest_points(x, count, farthest_from_mean(x)) if count > 0 else []


def apet_paper(x, keep, basis_tokens):
    basis = apet_basis(x, keep, basis_tokens)
    error = reconstruction_error(x, x[basis])
    rest = [i for i in range(len(x)) if i not in basis]
    best = [rest[i] for i in stable_top([error[i] for i in rest], keep - len(basis))]
    kept = sorted([*basis, *best])
    merged, owner = merge(x, kept, [i for i in range(len(x)) if i not in kept])
    return kept, [owner.get(i, i) for i in range(len(x))], [merged[i] for i in kept]


def apet_official(x, keep, basis_tokens, by_rank):
    basis = apet_basis(x, keep, basis_tokens)
    error = reconstruction_error(x, x[basis])
    ranked = stable_top(error, keep)
    targets, places = ranked[: keep - len(basis)], ranked[keep - len(basis) :]
    merged, owner = merge(x, targets, [i for i in range(len(x)) if i not in ranked])
    for place, b in zip(places if by_rank else sorted(places), basis, strict=True):
        merged[place] = x[b]
    return sorted(ranked), [owner.get(i, i) for i in range(len(x))], [merged[i] for i in sorted(ranked)]
