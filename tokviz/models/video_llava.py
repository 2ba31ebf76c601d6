"""Video-LLaVA: one tower for images, one for the frames of videos, one projector; a frame's [CLS] goes to the LLM.

An image becomes its 16 x 16 patches. Of a video the stock code drops nothing: each frame is 257 tokens, [CLS] first,
2056 for 8 frames where papers say 2048 (``methods.md`` 0.3). Here [CLS] tokens are no patches: methods do not choose
among them, and an encoder-side method leaves their embeddings as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import Unsupported
from ..names import Media
from ..records import TokenGrid
from ..types import PlanningInfo
from .base import BOTH, ImageTokens, VisionTower, frames_as_tokens
from .geometry import check_frames, frame_by_frame, middle_of_frame
from .llava import Llava
from .shrinking import Shrunk, shrunk_square


class VideoLlava(Llava):
    """Two CLIP-like towers of one shape (LanguageBind's), ``image_tower`` and ``video_tower``."""

    id = "video_llava"
    shrinks = BOTH
    takes = BOTH
    published_as = "video_llava"
    layout_arguments = ("pixel_values_videos",)
    placeholders = ("image_token_id", "video_token_id")

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As LLaVA, and the processor must cut frames to the model's size and count their [CLS]."""
        super().check(model, processor, name)
        if processor.num_additional_image_tokens != 1:  # of frames, whose [CLS] is never left out
            raise Unsupported(f"{name} has a processor that does not count the [CLS] token of each frame.")
        check_frames(model, processor, name)

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """As LLaVA, but for the tower, see ``vision_tower``."""
        return replace(super().planned(config), n_vision_layers=None)

    def vision_layers(self, model: Any, media: Media = "image") -> Sequence[nn.Module]:
        """Of the medium's own tower."""
        tower = model.base_model.video_tower if media == "video" else model.base_model.image_tower
        layers: Sequence[nn.Module] = tower.encoder.layers
        return layers

    def vision_tower(self, model: Any) -> VisionTower | None:
        """None: a video's frames carry a [CLS] token to the LLM, which merging inside the tower knows nothing of."""
        return None

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """Every patch is a token; of each frame also the [CLS] in front of them, which is no patch."""
        videos = arguments.get("pixel_values_videos")
        if videos is None:
            return super().images(model, arguments, n_images, n_patches)
        row = torch.arange(n_patches)
        return frames_as_tokens(videos, row.masked_fill(row == 0, -1), row[:, None] - 1, n_patches - 1)

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """[CLS] and the patches of the middle square of every frame."""
        patch = model.config.vision_config.patch_size
        return frame_by_frame(middle_of_frame(processor, frame_size, patch), n_frames, with_cls=True)

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """As LLaVA; every frame alike, its [CLS] beside."""
        return shrunk_square(grid, tokens, self.sides(model)[1], beside=int(grid.is_video))

    def interpolating(self, model: Any) -> tuple[nn.Module, ...]:
        """Both towers."""
        return model.base_model.image_tower, model.base_model.video_tower
