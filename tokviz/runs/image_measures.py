"""How spread out an image is: effective rank of its features and entropy of the attention that its [CLS] gives.

Source: AgilePruner (arXiv 2603.01236), whose code is not published: effective rank after Roy and Vetterli (2007).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..engine import Prompt, VisionSignals
from ..models.loading import VisionLanguageModel
from ..records import ImageMeasures, OutOfWorld, Run
from ..types import CLS_ATTENTION
from .metrics import selected

LARGEST = 1024
"""Side of the largest matrix whose eigenvalues are found in passing: 0.2 s on one core, 0.06 s for LLaVA's 576."""

_NO_CLS = "{} has no [CLS] token, whose attention the entropy would be of."
_TOO_LARGE = "The effective rank was not measured: {} tokens of {} numbers each take too long beside a comparison."


def image_measures(vlm: VisionLanguageModel, prompt: Prompt, world: Sequence[OutOfWorld] = ()) -> ImageMeasures:
    """The numbers of an encoded prompt of one image or video; ``CLS_ATTENTION`` was asked for where there is [CLS].

    world: what ``watched_world`` saw while the prompt was encoded.
    """
    vision = prompt.vision[0]
    weights = vision.seen.get("cls_attention", {}).get(CLS_ATTENTION.layer or "feature")
    rank, notes = mean_effective_rank(vision), []
    if weights is None:
        notes.append(_NO_CLS.format(vlm.record.name))
    if rank is None:
        n, width = vision.features.shape
        notes.append(_TOO_LARGE.format(n, width))
    views = views_of(vision)
    return ImageMeasures(
        attention_entropy=None
        if weights is None
        else mean_of_known(attention_entropy(weights[rows]) for rows in views),
        effective_rank=rank,
        views=len(views),
        out_of_world=next(iter(world), None),
        notes=notes,
    )


def rank_of_kept(run: Run, vision: VisionSignals, measures: ImageMeasures | None) -> float | None:
    """``Run.effective_rank``: of the tokens kept by the last stage that left any; all of them where nothing pruned."""
    return rank_of_selected(selected(run), vision, measures)


def rank_of_selected(kept: Sequence[int] | None, vision: VisionSignals, measures: ImageMeasures | None) -> float | None:
    """The same of what ``selected`` would give of a run."""
    if measures is not None and (kept is None or len(kept) == len(vision.features)):
        return measures.effective_rank
    return mean_effective_rank(vision, kept)


def mean_effective_rank(vision: VisionSignals, kept: Sequence[int] | None = None) -> float | None:
    """Effective rank of every view's features, mean over the views; one of which nothing is kept counts as 0.

    kept: original indices, None for all tokens. None where a view is larger than ``LARGEST``.
    """
    there = torch.ones(len(vision.features), dtype=torch.bool)
    if kept is not None:
        there = torch.zeros_like(there).index_fill(0, torch.tensor(list(kept), dtype=torch.int64), True)
    rows = [view[there[view]] for view in views_of(vision)]
    if any(min(len(view), vision.features.shape[1]) > LARGEST for view in rows):
        return None
    return mean_of_known(effective_rank(vision.features[view.to(vision.features.device)]) for view in rows)


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values, divided by their sum; 0 for features that are all zero, or none.

    In float64, from the eigenvalues of the smaller of the two Gram matrices: O(min(n, d)^2 (n + d)) instead of an SVD.
    Rows that are not finite are left out. Shape: features ``(n, d)``.
    """
    device = features.device if features.device.type in ("cpu", "cuda") else "cpu"  # others have no float64
    rows = features.to(device).double()
    rows = rows[rows.isfinite().all(dim=1)]
    largest = rows.abs().amax() if rows.numel() else rows.new_zeros(())
    if not float(largest) > 0:
        return 0.0
    rows = rows / largest
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    squares = torch.linalg.eigvalsh(gram)
    # What is left of a zero after rounding is no direction of its own, but its root would look like a small one.
    squares = squares[squares > squares[-1] * len(squares) * torch.finfo(squares.dtype).eps]
    shares = squares.sqrt() / squares.sqrt().sum()
    return float((-(shares * shares.log()).sum()).exp())


def attention_entropy(weights: Tensor) -> float | None:
    """Entropy in nats of weights divided by their sum, 0 ln 0 = 0; None without a finite weight above 0.

    Shape: weights ``(n,)``; those that are not finite (of tokens that are no patch) are left out.
    """
    known = weights.cpu().double()
    known = known[known.isfinite() & (known > 0)]
    if not len(known):
        return None
    shares = known / known.sum()
    return float(-(shares * shares.log()).sum())


def views_of(vision: VisionSignals) -> list[Tensor]:
    """The patches of each image, tile or frame, as rows. Shape: ``(n,)`` int64 each, on the CPU."""
    n = len(vision.features)
    patch = torch.ones(n, dtype=torch.bool) if vision.patch is None else vision.patch.cpu()
    view = torch.zeros(n, dtype=torch.int64) if vision.view is None else vision.view.cpu()
    return [((view == number) & patch).nonzero()[:, 0] for number in view[patch].unique()]


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of those that are not None; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
