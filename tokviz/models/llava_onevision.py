"""LLaVA-OneVision: SigLIP without [CLS], a thumbnail and up to nine crops' worth of patches, videos frame by frame.

What an image becomes: as in LLaVA-NeXT, but behind the projector a large grid of crops is shrunk by bilinear
interpolation to the area of nine. In prompts with several images each is one square and a newline. Of a video, every
frame is shrunk to half its rows and columns, rounded up, behind the projector; one newline stands at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..errors import Unsupported
from ..records import TokenGrid
from ..types import PlanningInfo
from .base import BOTH, ImageTokens, stated_text
from .geometry import frame_by_frame, pinpoints_of, side_of
from .llava import check_feature_layer
from .llava_next import LlavaNext, check_same_pinpoints, check_tiles
from .shrinking import Shrunk, shrunk_frames
from .shrunk_tiles import through_tower
from .tiles import Canvas, Line, canvas_of, square_canvas, square_grid, tile_grid


class LlavaOnevision(LlavaNext):
    """As LLaVA-NeXT, with SigLIP, a Qwen2 decoder, and tokens that are mixtures of projected patches."""

    id = "llava_onevision"
    pixel_std = (0.5, 0.5, 0.5)
    takes = BOTH
    shrinks = BOTH
    published_as = None
    merges_patches = True  # they are mixed behind the projector
    layout_arguments = ("image_sizes", "batch_num_images", "pixel_values_videos")
    placeholders = ("image_token_id", "video_token_id")

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Patches only, of one vision layer, and model and processor must cut images and frames alike."""
        config, vision = model.config, model.config.vision_config
        # A processor that says nothing counts every patch.
        strategies = {config.vision_feature_select_strategy, processor.vision_feature_select_strategy or "full"}
        if strategies != {"full"} or self.has_cls(model):
            raise Unsupported(
                f"{name} selects vision features by {sorted(map(str, strategies))} from {vision.model_type}; tokviz "
                "supports 'full' from a tower without [CLS] only."
            )
        check_feature_layer(model, name)
        n = vision.image_size // vision.patch_size
        sizes = [processor.image_processor.size, processor.video_processor.size]
        cuts = [p.crop_size for p in (processor.image_processor, processor.video_processor) if p.crop_size]
        sides = {vision.image_size, *(side_of(size) for size in sizes + cuts)}
        if len(sides) != 1 or processor.num_image_tokens != n * n:
            raise Unsupported(
                f"{name} has a processor that cuts tiles or frames of other sizes ({sorted(sides)} px) or patches than "
                "its model."
            )
        if not processor.video_processor.do_resize:
            raise Unsupported(f"{name} has a processor that does not resize frames; tokviz needs do_resize.")
        if {config.vision_aspect_ratio} != {processor.vision_aspect_ratio}:
            raise Unsupported(f"{name} has a processor whose vision_aspect_ratio is not that of its model.")
        _most_crops(config.vision_aspect_ratio)
        check_same_pinpoints(model, processor, name)

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """Thumbnail, crops and newlines of a square image."""
        return self.planned_tiles(
            config, has_cls=False, most_crops=_most_crops(stated_text(config, "vision_aspect_ratio"))
        )

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """Every token with the patches that the model interpolates it from, and how much of each."""
        vision = model.config.vision_config
        frames = arguments.get("pixel_values_videos")
        if frames is not None:
            n_videos, n_frames = frames.shape[:2]
            return [_of_video(int(n_frames), vision.image_size, vision.patch_size)] * int(n_videos)
        if arguments.get("image_sizes") is None:
            raise Unsupported("LLaVA-OneVision needs image_sizes beside the pixels; pass all its processor returned.")
        sizes = torch.as_tensor(arguments["image_sizes"]).tolist()
        cut = _are_cut(arguments.get("batch_num_images"), len(sizes))
        made = [_of_image(model.config, (width, height), c) for (height, width), c in zip(sizes, cut, strict=True)]
        check_tiles(sum(image.n_tiles for image in made), n_images)
        return made

    def grid(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Thumbnail and crops, as the processor cuts them and the model shrinks them, in pixels of the image."""
        vision, pinpoints = model.config.vision_config, pinpoints_of(processor.image_processor.image_grid_pinpoints)
        most = _most_crops(model.config.vision_aspect_ratio)
        return tile_grid(image_size, pinpoints, vision.image_size, vision.patch_size, most)

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Every frame is squeezed into a square; a token of it shows about 2 x 2 patches. The last is a newline."""
        vision = model.config.vision_config
        frame = square_grid(_pooled(frame_size, vision.image_size, vision.patch_size))
        video = frame_by_frame(frame, n_frames)
        return TokenGrid(
            image_size=frame_size,
            views=video.views,
            view=[*video.view, n_frames - 1],
            row=[*video.row, -1],
            col=[*video.col, -1],
            box=[*video.box, None],
        )

    def most_crops(self, model: Any) -> int | None:
        """As ``vision_aspect_ratio`` says."""
        return _most_crops(model.config.vision_aspect_ratio)

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """Images as LLaVA-NeXT; of a video every frame as a smaller square, of which the model halves both sides."""
        if not grid.is_video:
            return super().shrunk(model, processor, grid, tokens)
        return shrunk_frames(grid, tokens, 2 * self.sides(model)[1], behind=1)

    def shrunk_features(self, model: Any, inputs: Mapping[str, Any], shrunk: Shrunk) -> Tensor | None:
        """Frames are pooled as the model does it, whose own code knows one number of patches per frame."""
        if shrunk.tiling is not None:
            return super().shrunk_features(model, inputs, shrunk)
        features = through_tower(model, inputs["pixel_values_videos"][0], self.has_cls(model))
        n = math.isqrt(features.shape[1])
        half = [math.ceil(n / 2)] * 2
        pooled = interpolate(features.unflatten(1, (n, n)).permute(0, 3, 1, 2), half, mode="bilinear")
        return torch.cat([pooled.permute(0, 2, 3, 1).flatten(0, 2), model.base_model.image_newline[None].to(pooled)])


def _most_crops(aspect_ratio: str) -> int:
    """``anyres_max_9`` -> 9. Raises Unsupported for anything else."""
    found = re.fullmatch(r"anyres_max_([1-9]\d*)", aspect_ratio)
    if found is None:
        raise Unsupported(f"The vision_aspect_ratio {aspect_ratio!r} is not supported, only anyres_max_<crops> is.")
    return int(found[1])


def _are_cut(images_per_prompt: Tensor | Sequence[int] | None, n_images: int) -> list[bool]:
    """Whether each image is cut into crops: where it is the only one of its prompt."""
    if images_per_prompt is None:
        return [True] * n_images
    counts = torch.as_tensor(images_per_prompt).tolist()
    return [count == 1 for count in counts for _ in range(count)]


def _pooled(frame_size: tuple[int, int], side: int, patch: int) -> Canvas:
    """A frame of a video as the model shrinks it."""
    return square_canvas(frame_size, side, patch, math.ceil(side // patch / 2))


_Tokens = tuple[Tensor, Tensor, Tensor, Tensor]
"""tile ``(R, C)``, patch ``(R, C)``, sources ``(R, C, 4)``, weights ``(R, C, 4)`` of a grid of tokens."""


def _of_image(config: Any, image_size: tuple[int, int], cut: bool) -> ImageTokens:
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    whole = _mixtures(square_canvas(image_size, side, patch), 0)
    if not cut:
        return _joined(1, [whole, _newline(0)])
    pinpoints, most = pinpoints_of(config.image_grid_pinpoints), _most_crops(config.vision_aspect_ratio)
    canvas = canvas_of(image_size, pinpoints, side, patch, most)
    return _joined(1 + canvas.high * canvas.wide, [whole, _with_newlines(_mixtures(canvas, 1))])


def _of_video(n_frames: int, side: int, patch: int) -> ImageTokens:
    canvas = _pooled((side, side), side, patch)
    return _joined(n_frames, [*(_mixtures(canvas, frame) for frame in range(n_frames)), _newline(n_frames - 1)])


def _mixtures(canvas: Canvas, before: int) -> _Tokens:
    """What the tokens of a stitched grid are made of, whose crops follow ``before`` other images in the tower."""
    n = canvas.n

    def numbers(rows: Sequence[int], cols: Sequence[int]) -> Tensor:
        """Numbers of the patches in these rows and columns of the stitched grid, over all images of the image."""
        row, col = torch.tensor(rows, dtype=torch.int64)[:, None], torch.tensor(cols, dtype=torch.int64)
        return (before + row // n * canvas.wide + col // n) * n * n + row % n * n + col % n

    strongest = numbers([line.strongest for line in canvas.rows], [line.strongest for line in canvas.cols])
    sources, weights = [], []
    for rows, down in _halves(canvas.rows):
        for cols, across in _halves(canvas.cols):
            sources.append(numbers(rows, cols))
            weights.append(down[:, None] * across)
    return strongest // n**2, strongest % n**2, torch.stack(sources, dim=-1), torch.stack(weights, dim=-1)


def _halves(lines: Sequence[Line]) -> list[tuple[list[int], Tensor]]:
    share = torch.tensor([line.share for line in lines], dtype=torch.float64)
    return [([line.first for line in lines], 1 - share), ([line.second for line in lines], share)]


def _newline(tile: int) -> _Tokens:
    nowhere = torch.full((1, 1, 4), -1)
    return torch.full((1, 1), tile), torch.full((1, 1), -1), nowhere, torch.zeros(1, 1, 4, dtype=torch.float64)


def _with_newlines(tokens: _Tokens) -> _Tokens:
    """One more token behind each row, which belongs to the tile of the one before it."""
    tile, patch, sources, weights = tokens
    last = tile[:, -1:] if tile.shape[1] else tile.new_zeros(len(tile), 1)
    nowhere = pad(sources, (0, 0, 0, 1), value=-1)
    return torch.cat([tile, last], dim=1), pad(patch, (0, 1), value=-1), nowhere, pad(weights, (0, 0, 0, 1))


def _joined(n_tiles: int, parts: Sequence[_Tokens]) -> ImageTokens:
    tile, patch, sources, weights = (
        torch.cat([part.flatten(0, 1) for part in column]) for column in zip(*parts, strict=True)
    )
    return ImageTokens(n_tiles, tile, patch, sources, weights)
