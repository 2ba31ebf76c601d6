"""What a method answered: checked against its contract, and laid to rest for the records."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Selection, Stage


def check_selection(selection: Selection, features: Tensor, stage: Stage) -> None:
    """Raises ValueError when a method broke the contract of ``Selection``."""
    kept, n = selection.kept, features.shape[0]
    where = f"stage {stage.title!r} ({stage.site_label})"
    if kept.dtype != torch.int64 or kept.dim() != 1:
        raise ValueError(f"{where}: kept must be (K,) int64, got {tuple(kept.shape)} {kept.dtype}")
    if kept.numel() and (int(kept[0]) < 0 or int(kept[-1]) >= n or not bool((kept[1:] > kept[:-1]).all())):
        raise ValueError(f"{where}: kept must be ascending, unique and within 0..{n - 1}")
    _check_shape(where, "features", selection.features, (kept.numel(), *features.shape[1:]))
    _check_shape(where, "sizes", selection.sizes, (kept.numel(),))
    n_extra = 0 if selection.extra is None else selection.extra.shape[0]
    _check_shape(where, "extra", selection.extra, (n_extra, *features.shape[1:]))
    n_out = kept.numel() + n_extra
    if n_out > n:
        raise ValueError(f"{where}: {kept.numel()} kept and {n_extra} extra tokens do not fit in the places of {n}")
    sequence = selection.sequence
    if sequence is None:
        return
    expected = torch.arange(n_out, device=sequence.device)
    if sequence.dtype != torch.int64 or not torch.equal(sequence.sort().values, expected):
        raise ValueError(f"{where}: sequence must hold every position 0..{n_out - 1} of [*kept, *extra] once (int64)")


def _check_shape(where: str, name: str, tensor: Tensor | None, expected: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != expected:
        raise ValueError(f"{where}: {name} must be {expected}, got {tuple(tensor.shape)}")


def carried_out(selection: Selection) -> Selection:
    """The part of a selection that changes the sequence, to be repeated in a forward pass without a cache."""
    return Selection(
        kept=selection.kept,
        features=selection.features,
        extra=selection.extra,
        sequence=selection.sequence,
        sizes=selection.sizes,
    )


def at_rest(selection: Selection) -> Selection:
    """What a selection decided about tokens, on the CPU: to be kept while further stages run."""

    def rest(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().cpu()

    return Selection(
        kept=selection.kept.detach().cpu(),
        order=rest(selection.order),
        assignment=rest(selection.assignment),
        sequence=rest(selection.sequence),
        sizes=rest(selection.sizes),
    )
