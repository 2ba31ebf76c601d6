"""The vision capture of a tower that merges several patches into one token (Qwen): all images of a prompt in a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import PatchMerging, TowerLayer
from .capture import PATCH_LOOKS, Active, after_forward, before_forward, lifted, watch_attention
from .vision_signals import Capture, VisionSignals, as_seen


@dataclass
class _SequenceRun:
    """A run of one sequence. Shape: features ``(N, D)``, seen[kind] ``(N, ...)``, frame ``(N,)``."""

    features: Tensor
    seen: Mapping[str, Tensor]
    frame: Tensor

    def n_tokens(self) -> int:
        return len(self.features)

    def split(self, counts: Sequence[int]) -> list[VisionSignals]:
        rows, start = [], 0
        for count in counts:
            part = slice(start, start + count)
            frame = self.frame[part] - self.frame[part][:1]
            # Each kind was seen in one layer, whatever a need calls it.
            layers: tuple[str, ...] = get_args(TowerLayer)
            seen = {kind: dict.fromkeys(layers, values[part]) for kind, values in self.seen.items()}
            rows.append(VisionSignals(self.features[part], seen, frame if bool((frame > 0).any()) else None))
            start += count
        return rows


class MergedVisionCapture(Capture):
    """Of a tower that merges patches: what is seen of them becomes one number (or vector) per token, in LLM order."""

    def __init__(
        self, merging: PatchMerging, kinds: Iterable[str], pixel_std: tuple[float, float, float] | None = None
    ) -> None:
        """pixel_std: see ``ModelFamily``; None where nobody wants pixels."""
        super().__init__()
        self._merging, self._kinds, self._pixel_std = merging, frozenset(kinds), pixel_std
        if unknown := sorted(self._kinds - PATCH_LOOKS.keys()):
            raise Unsupported(f"A vision tower that merges patches has no {unknown[0]}.")

    def watch(self, stack: ExitStack, active: Active) -> None:
        """Put hooks on the tower until ``stack`` is left."""
        stack.callback(before_forward(self._merging.tower, self.see_images, active))
        stack.callback(after_forward(self._merging.tower, self.see_tokens, active))

    def watch_attention(self, stack: ExitStack, attention: Any, kinds: Iterable[str], active: Active) -> None:
        """Read ``kinds`` off the attention of one vision layer until ``stack`` is left."""
        kinds = frozenset(kinds)

        def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
            return *self._merging.queries_and_keys(attention, args, kwargs), attention.scaling

        def see(query: Tensor, key: Tensor, scaling: float) -> None:
            self.see_attention(query, key, scaling, kinds)

        watch_attention(stack, attention, see, recompute, active)

    def see_images(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the tower: a new run begins."""
        self._local.lengths = _frame_lengths(kwargs["grid_thw"])
        self._local.pieces = {kind: [] for kind in self._kinds}
        if self._pixel_std is not None:  # as the processor laid them out: in the LLM's order
            patches = args[0] if args else kwargs["hidden_states"]
            shown = as_seen(patches, self._pixel_std)
            self._local.pixels = shown.reshape(len(shown) // self._merging.patches_per_token, -1)

    def see_attention(self, query: Tensor, key: Tensor, scaling: float, kinds: Iterable[str] | None = None) -> None:
        """Keep what is wanted of one attention call: a frame, or all frames side by side (flash attention).

        kinds: of what this layer shows; None for all. Shape: query and key ``(1, H, patches, d)``.
        """
        lengths: list[int] = self._local.lengths
        one_frame = len(lengths) == 1 or query.shape[2] != sum(lengths)
        for q, k in [(query, key)] if one_frame else zip(query.split(lengths, 2), key.split(lengths, 2), strict=True):
            for kind in self._kinds if kinds is None else kinds:
                self._local.pieces[kind].append(PATCH_LOOKS[kind](q, k, scaling)[0])

    def see_tokens(self, kwargs: dict[str, Any], output: Any) -> None:
        """Hook behind the tower: from patches in its order to tokens in the LLM's."""
        size = self._merging.patches_per_token
        positions = self._merging.tower_positions(kwargs["grid_thw"])
        seen = {}
        for kind, pieces in self._local.pieces.items():
            of_groups = lifted(torch.cat(pieces)).unflatten(0, (-1, size)).mean(dim=1)
            seen[kind] = of_groups[positions.to(of_groups.device)]
        if self._pixel_std is not None:
            seen["pixels"] = self._local.__dict__.pop("pixels")
        lengths = torch.tensor(self._local.lengths) // size
        frame = torch.arange(len(lengths)).repeat_interleave(lengths).to(output.pooler_output.device)
        self._local.run = _SequenceRun(output.pooler_output, seen, frame)


def _frame_lengths(grid_thw: Tensor) -> list[int]:
    """Patches of each frame, one image or video after the other. Shape: ``(n, 3)`` -> a list per frame."""
    return [rows * columns for frames, rows, columns in grid_thw.tolist() for _ in range(frames)]
