"""LLaVA-NeXT-Video: pictures as LLaVA-NeXT; the frames of a video are pooled, 2 x 2 patches to one, then projected.

A frame is the middle square of the picture, without thumbnail, crops and newlines: 12 x 12 tokens of the published
models. What lies before the projector are the pooled features; the vision tower's own signals (attention, keys) of a
token are the mean of its patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..names import Media, VideoFacts
from ..records import TokenGrid
from .base import PictureTokens
from .entries import CLIP_L_336, VICUNA_7B, CatalogEntry
from .frames import check_frames, frame_by_frame, middle_of_frame, stock_frames
from .llava_next import LlavaNext
from .memory import Parameters

_BOTH: tuple[Media, ...] = ("picture", "video")
_SIZES = {
    "model_type": "llava_next_video", "vision_feature_layer": -2, "vision_config": CLIP_L_336,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}  # fmt: skip
_COUNT = Parameters(6_798_966_784, 264_464_384)


class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT with ``vision_resampler`` between tower and projector for videos."""

    id = "llava_next_video"
    takes = _BOTH
    layout_arguments = ("image_sizes", "pixel_values_videos")
    catalog = (
        CatalogEntry(
            "llava-hf/LLaVA-NeXT-Video-7B-hf", "LLaVA-NeXT-Video 7B", "llava_next_video", "llama2",
            {**_SIZES, "text_config": VICUNA_7B}, _COUNT, 2928, takes=_BOTH,
        ),
        CatalogEntry(
            "llava-hf/LLaVA-NeXT-Video-7B-DPO-hf", "LLaVA-NeXT-Video 7B (DPO)", "llava_next_video", "llama2",
            {**_SIZES, "text_config": VICUNA_7B}, _COUNT, 2928, takes=_BOTH,
        ),
    )  # fmt: skip

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As LLaVA-NeXT, and the processor must write as many tokens for a frame as pooling leaves."""
        super().check(model, processor, name)
        check_frames(model, processor, name)
        n, pooled = _patches_along(model), _tokens_along(model)
        if n * n // 4 != pooled * pooled:  # the processor's own count
            stride = model.config.spatial_pool_stride
            raise Unsupported(
                f"{name} pools {n} x {n} patches of a frame by {stride}, leaving {pooled * pooled} tokens, but its "
                f"processor writes {n * n // 4} for each frame; pooling by 2 fits."
            )

    def visual_token_ids(self, model: Any) -> tuple[int, ...]:
        """The ids of ``<image>`` and ``<video>``."""
        return (model.config.image_token_id, model.config.video_token_id)

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
        """Pictures as LLaVA-NeXT; of a video, every pooled cell of every frame is a token."""
        videos = arguments.get("pixel_values_videos")
        if videos is None:
            return super().pictures(model, arguments, n_images, n_patches)
        n_videos, n_frames = videos.shape[:2]
        side = _patches_along(model)
        frame = torch.arange(n_frames).repeat_interleave(n_patches)
        inside = _pooled_patches(side, model.config.spatial_pool_stride)
        tokens = PictureTokens(
            n_tiles=n_frames,
            tile=frame,
            patch=torch.arange(n_patches).repeat(n_frames),
            sources=inside.repeat(n_frames, 1) + frame[:, None] * side * side,
        )
        return [tokens] * n_videos

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """Evenly: 8 where nobody says more. The models were trained with 32 frames of each video."""
        return stock_frames(processor, facts, wanted)

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Cells of 2 x 2 patches (as many as are pooled) of the middle square of every frame."""
        cell = model.config.vision_config.patch_size * model.config.spatial_pool_stride
        return frame_by_frame(middle_of_frame(processor, frame_size, cell), n_frames)


def _patches_along(model: Any) -> int:
    """Patches along a side of the tower's image."""
    vision = model.config.vision_config
    return int(vision.image_size // vision.patch_size)


def _tokens_along(model: Any) -> int:
    """Pooled cells along a side; patches that fill no cell are left out, as pooling does."""
    return _patches_along(model) // int(model.config.spatial_pool_stride)


def _pooled_patches(side: int, stride: int) -> Tensor:
    """The patches of a frame of ``side x side`` that each token is pooled from. Shape: ``(tokens, stride ** 2)``."""
    used = side // stride * stride
    patches = torch.arange(side * side).reshape(side, side)[:used, :used]
    cells = patches.unflatten(0, (-1, stride)).unflatten(2, (-1, stride)).transpose(1, 2)
    return cells.flatten(2).flatten(0, 1)
