"""Vision signals: what one run of the vision tower leaves behind for the stages, in any thread without mixing."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import TowerLayer
from ..types import Need
from .capture import CLS_LOOKS, PATCH_LOOKS, lifted

PerLayer = Mapping[str, Mapping[str, Tensor]]
"""Kind of signal -> vision layer ("feature", "last", "object", "shallow") -> values."""


LOOKS = {**CLS_LOOKS, **PATCH_LOOKS}  # a shallow look at a tower with [CLS] is one at its row

VISION_KINDS = (*LOOKS, "cls_feature", "encoder_features", "pixels")
"""Needs that are read off the vision tower, in the layer that ``Need.layer`` names, or as they leave it."""


def tower_layer(need: Need) -> TowerLayer:
    """In which vision layer a need of ``VISION_KINDS`` is read off."""
    return need.layer if need.layer in ("last", "object", "shallow") else "feature"


@dataclass(frozen=True)
class VisionSignals:
    """What the vision tower said about the visual tokens of one row (sequence).

    The tower sees images: images, or the tiles that images were cut into.

    Shape: features ``(N, D_v)`` before the projector (behind it where that merges patches); seen[kind][layer]:
    ``cls_attention``, ``cls_logits`` and ``cls_full_width`` ``(N,)`` float32, the [CLS] row on the patches;
    ``received_attention``, ``object_attention``, ``deep_attention`` and ``shallow_attention`` ``(N,)`` float32;
    ``encoder_keys`` ``(N, d_k)``, mean over heads; ``full_keys`` ``(N, H d_k)``; ``cls_feature`` ``(images, D_v)``;
    view ``(N,)`` the image (or frame) of each token, None when there is one.
    patch: ``(N,)`` bool, False for tokens that are no patch (newline): the tower did not see them, so their features
    and keys are 0 and their [CLS] rows NaN; None when every token is one. n_images: of this row.
    """

    features: Tensor
    seen: PerLayer = field(default_factory=dict)
    view: Tensor | None = None
    patch: Tensor | None = None
    n_images: int = 1

    def of(self, alive: Tensor) -> Tensor:
        """Features of the tokens ``alive (n,)``. Shape: ``(n, D_v)``."""
        return self.features[alive.to(self.features.device)]


class Run(Protocol):
    """One finished run of a vision tower."""

    def n_tokens(self) -> int:
        """How many visual tokens it made."""

    def split(self, counts: Sequence[int]) -> list[VisionSignals]:
        """The signals of rows with so many visual tokens each."""


class Capture:
    """Holds each thread's last vision run until the prompt arrives at the language model."""

    def __init__(self) -> None:
        self._local = threading.local()

    def forget(self) -> None:
        """Drop what this thread's last vision run left behind."""
        self._local.__dict__.clear()

    def consume(self, counts: Sequence[int]) -> list[VisionSignals] | None:
        """Split the last vision run of this thread by rows that hold ``counts`` visual tokens, and forget it.

        Rows may be copies (beams, several returned sequences): then each prompt's signals serve all its copies.
        Returns None when no vision run was seen. Raises Unsupported when the counts do not fit.
        """
        run: Run | None = self._local.__dict__.pop("run", None)
        if run is None:
            return None
        made = run.n_tokens()
        copies, rest = divmod(sum(counts), max(made, 1))
        if rest or copies < 1 or len(counts) % copies:
            raise Unsupported(
                f"The vision tower made {made} visual tokens and the prompt holds {sum(counts)}; "
                "pass the images and the prompt that belong together."
            )
        rows = run.split(counts[::copies])
        return [rows[row // copies] for row in range(len(counts))]


def as_seen(pixels: Tensor, std: Sequence[float]) -> Tensor:
    """What processors divided by is multiplied again: levels of 0 to 255 are 1/255 apart.

    Shape: ``(..., P)``, channel after channel -> the same, at least float32.
    """
    channels = lifted(pixels).unflatten(-1, (len(std), -1))
    return (channels * torch.tensor(std, dtype=channels.dtype, device=channels.device)[:, None]).flatten(-2)
