"""LLaVA-NeXT-Video: images as in LLaVA-NeXT; video frames are pooled, 2 x 2 patches to one, then projected.

A frame is the middle square of the image, without thumbnail, crops and newlines: 12 x 12 tokens of the published
models. What lies before the projector are the pooled features; the vision tower's own signals (attention, keys) of a
token are the mean of its patches. Where nobody says more, 8 frames are looked at; training took 32 of each video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..records import TokenGrid
from .base import BOTH, ImageTokens, frames_as_tokens
from .geometry import check_frames, frame_by_frame, middle_of_frame
from .llava_next import LlavaNext
from .shrinking import Shrunk, shrunk_frames


class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT with ``vision_resampler`` between tower and projector for videos."""

    id = "llava_next_video"
    takes = BOTH
    shrinks = BOTH
    layout_arguments = ("image_sizes", "pixel_values_videos")
    placeholders = ("image_token_id", "video_token_id")

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As LLaVA-NeXT, and the processor must write as many tokens for a frame as pooling leaves."""
        super().check(model, processor, name)
        check_frames(model, processor, name)
        side, patch = self.sides(model)
        stride, n = int(model.config.spatial_pool_stride), side // patch
        pooled = n // stride  # patches that fill no cell are left out, as pooling does
        if n * n // 4 != pooled * pooled:  # the processor's own count
            raise Unsupported(
                f"{name} pools {n} x {n} patches of a frame by {stride}, leaving {pooled * pooled} tokens, but its "
                f"processor writes {n * n // 4} for each frame; pooling by 2 fits."
            )

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """Images as LLaVA-NeXT; of a video, every pooled cell of every frame is a token."""
        videos = arguments.get("pixel_values_videos")
        if videos is None:
            return super().images(model, arguments, n_images, n_patches)
        side, patch = self.sides(model)
        inside = _pooled_patches(side // patch, model.config.spatial_pool_stride)
        return frames_as_tokens(videos, torch.arange(n_patches), inside, (side // patch) ** 2)

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Cells of 2 x 2 patches (as many as are pooled) of the middle square of every frame."""
        cell = model.config.vision_config.patch_size * model.config.spatial_pool_stride
        return frame_by_frame(middle_of_frame(processor, frame_size, cell), n_frames)

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """Images as LLaVA-NeXT; of a video every frame as a smaller square, which is pooled as ever."""
        if not grid.is_video:
            return super().shrunk(model, processor, grid, tokens)
        return shrunk_frames(grid, tokens, model.config.vision_config.patch_size * model.config.spatial_pool_stride)


def _pooled_patches(side: int, stride: int) -> Tensor:
    """The patches of a frame of ``side x side`` that each token is pooled from. Shape: ``(tokens, stride ** 2)``."""
    used = side // stride * stride
    patches = torch.arange(side * side).reshape(side, side)[:used, :used]
    cells = patches.unflatten(0, (-1, stride)).unflatten(2, (-1, stride)).transpose(1, 2)
    return cells.flatten(2).flatten(0, 1)
