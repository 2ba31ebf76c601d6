"""Idefics3 and SmolVLM: every image is a square whose patches are laid side by side to become tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Unsupported
from ..names import Box, Media, VideoFacts
from ..records import GridView, TokenGrid
from ..types import PlanningInfo
from .base import (
    BOTH,
    ImageTokens,
    ModelFamily,
    TowerLayer,
    Unplanned,
    object_layer,
    shallow_layer,
    stated,
    stated_sides,
)
from .geometry import frame_by_frame, token_grid

_MAX_SIDE = 4096
"""No copy of an image is larger, in px (transformers' ``MAX_IMAGE_SIZE``)."""


class Idefics3(ModelFamily):
    """Idefics3 and the first SmolVLM: crops of a large copy of the image, then the whole image, with text
    between them (``<row_1_col_2>``); 2x2 or more patches become one token.

    SigLIP tower without [CLS], ``scale_factor`` squared patches concatenated into one linear layer, Llama decoder.

    Every image (crop or whole image) becomes the same number of tokens. What enters the projection is already one row
    per token, so features can be pruned and merged before it; a token's attention received and keys are the mean over
    its patches.
    """

    id = "idefics3"
    pixel_std = (0.5, 0.5, 0.5)

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Model and processor must cut images alike, and the processor must cut squares."""
        vision, image_processor = model.config.vision_config, processor.image_processor
        side, n_tokens = image_processor.max_image_size["longest_edge"], tokens_per_image(model.config)
        if side != vision.image_size or processor.image_seq_len != n_tokens:
            raise Unsupported(
                f"{name} has a processor that makes {processor.image_seq_len} tokens of {side} px, but its model makes "
                f"{n_tokens} of {vision.image_size} px."
            )
        if not image_processor.do_resize:
            raise Unsupported(f"{name} has a processor that does not resize images; tokviz needs do_resize.")

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """How many tokens an image becomes is in no ``config.json``: known of the menu's models only."""
        n_visual, (side, patch) = stated(config, "visual_tokens"), stated_sides(config)
        per_view = (side // patch // stated(config, "scale_factor")) ** 2
        if not per_view:
            raise Unplanned("scale_factor")
        return self.planning(
            n_visual=n_visual,
            n_layers=stated(config, "text_config", "num_hidden_layers"),
            has_cls=False,
            n_views=n_visual // per_view,
            has_tiles=n_visual > per_view,
        )

    def language_model(self, model: Any) -> Any:
        """``model.model.text_model`` (called with keywords only)."""
        return model.base_model.text_model

    def vision_layer(self, model: Any, layer: TowerLayer, media: Media = "image") -> nn.Module:
        """The last layer of the tower, as the features leave it (through a norm), the object or the shallow layer."""
        layers: Sequence[nn.Module] = model.base_model.vision_model.encoder.layers
        depth = len(layers)
        return layers[{"object": object_layer(depth), "shallow": shallow_layer(depth)}.get(layer, depth) - 1]

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """Every image is an image of its own to the engine; ``n_patches`` are rows of the projection, its tokens."""
        return groups_of_patches(n_images, n_patches, *self.sides(model), model.config.scale_factor)

    def projector(self, model: Any) -> nn.Module:
        """``connector.modality_projection``, behind the laying side by side."""
        projection: nn.Module = model.base_model.connector.modality_projection
        return projection

    def grid(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Crops as the processor cuts them, then the whole image; only this where there is nothing to cut."""
        image_processor, (side, patch) = processor.image_processor, self.sides(model)
        high, wide = 0, 0
        if image_processor.do_image_splitting:
            high, wide = crops(image_size, image_processor.size["longest_edge"], side)
        return shuffled_grid(image_size, high, wide, side, patch * model.config.scale_factor)


class SmolVLM(Idefics3):
    """SmolVLM2: like Idefics3, plus videos: each frame is one image, labelled with its time in the text.

    The tokens of frames are ``<image>`` tokens too.
    """

    id = "smolvlm"
    takes = BOTH

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As Idefics3, and frames must be squeezed into the same squares."""
        super().check(model, processor, name)
        video_processor, side = processor.video_processor, model.config.vision_config.image_size
        if not video_processor.do_resize or video_processor.max_image_size["longest_edge"] != side:
            raise Unsupported(f"{name} has a processor that does not squeeze frames into squares of {side} px.")

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """The processor's own rule: so many per second, up to a limit, of long videos without the first and last."""
        if wanted is not None:
            return evenly(facts.n_frames, wanted)
        # Not at the top: families are asked about configurations before transformers is loaded.
        from transformers.video_utils import VideoMetadata

        width, height = facts.size
        metadata = VideoMetadata(facts.n_frames, facts.fps, width, height, facts.duration_s)
        numbers: list[int] = processor.video_processor.sample_frames(metadata).tolist()
        return numbers

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Every frame is squeezed into one square image."""
        side, patch = self.sides(model)
        return frame_by_frame(shuffled_grid(frame_size, 0, 0, side, patch * model.config.scale_factor), n_frames)


def evenly(n_frames: int, wanted: int) -> list[int]:
    """``wanted`` frames from the first to the last, all of them when there are no more."""
    last, steps = n_frames - 1, min(wanted, n_frames) - 1
    return [round(last * step / steps) for step in range(steps + 1)] if steps else [last // 2]


def groups_of_patches(n_images: int, n_patches: int, side: int, patch: int, scale: int) -> list[ImageTokens]:
    """Images of ``side`` px whose patches are laid side by side, ``scale x scale`` of them, in front of the projector.

    Raises Unsupported where the projector got other rows than these squares make.
    """
    n = side // patch // scale
    if n_patches != n * n:
        raise Unsupported(
            f"The projector got {n_patches} rows per image instead of {n * n}; images must be cut into squares of "
            f"{side} px."
        )
    token = torch.arange(n_patches)
    return [ImageTokens(1, torch.zeros_like(token), token, side_by_side(n, scale))] * n_images


def side_by_side(n: int, scale: int) -> Tensor:
    """The patches of one image, ``scale x scale`` of them, that become each of ``n x n`` tokens.

    Shape: ``(n * n, scale * scale)`` int64, patches in raster order.
    """
    token, within = torch.arange(n * n)[:, None, None], torch.arange(scale)
    rows, columns = token // n * scale + within[:, None], token % n * scale + within
    return (rows * (n * scale) + columns).flatten(1)


def tokens_per_image(config: Any) -> int:
    """Visual tokens that one image (crop, whole image, frame) becomes."""
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    return int(side * side)


def crops(image_size: tuple[int, int], longest: int, side: int) -> tuple[int, int]:
    """Rows and columns of crops of an image of ``(width, height)`` px; ``(0, 0)`` when it is not cut.

    Args: longest: px of the long edge of the copy that is cut; side: of a crop.
    """
    width, height = image_size
    aspect = width / height
    # As transformers rounds: the copy, made even, then within the largest side that it allows, then whole crops.
    if width >= height:
        wide, high = longest, _even(int(longest / aspect))
    else:
        wide, high = _even(int(longest * aspect)), longest
    if wide >= high and wide > _MAX_SIDE:
        wide, high = _MAX_SIDE, int(_MAX_SIDE / (wide / high))
    elif high > wide and high > _MAX_SIDE:
        wide, high = int(_MAX_SIDE * (wide / high)), _MAX_SIDE
    wide, high = max(wide, 1), max(high, 1)
    aspect = wide / high
    if wide >= high:
        columns = math.ceil(wide / side)
        rows = math.ceil(int(columns * side / aspect) / side)
    else:
        rows = math.ceil(high / side)
        columns = math.ceil(int(rows * side * aspect) / side)
    return (0, 0) if rows <= 1 and columns <= 1 else (max(rows, 1), max(columns, 1))


def _even(length: int) -> int:
    return length + length % 2


def shuffled_grid(image_size: tuple[int, int], high: int, wide: int, side: int, cell: int) -> TokenGrid:
    """Geometry of ``high x wide`` crops (rows of the image first), then the image as a whole, all squeezed to fit.

    View 0 is the whole image (level 0), whose tokens come last; the crops follow (level 1). Args: side of an image
    and of a token's cell in its px; what is left of ``side`` behind the last cell is seen by nobody.
    """
    width, height = image_size
    n = side // cell

    def seen(row: int, col: int, rows: int, cols: int) -> Box:
        """The image in a row and column of so many."""
        across, down = width / (cols * side), height / (rows * side)
        x, y = col * side, row * side
        return (x * across, y * down, (x + n * cell) * across, (y + n * cell) * down)

    def box(image: Box, row: int, col: int) -> Box:
        x, y, across, down = image[0], image[1], (image[2] - image[0]) / n, (image[3] - image[1]) / n
        return (x + col * across, y + row * down, x + (col + 1) * across, y + (row + 1) * down)

    views = [GridView(name="whole image" if high else "image", rows=n, cols=n, seen=seen(0, 0, 1, 1))]
    for row in range(high):
        for col in range(wide):
            name, image = f"crop in row {row + 1}, column {col + 1}", seen(row, col, high, wide)
            views.append(GridView(name=name, rows=n, cols=n, seen=image, level=1, top=row * n, left=col * n))
    order = [*range(1, len(views)), 0]
    cells = [(view, row, col) for view in order for row in range(n) for col in range(n)]
    return token_grid(
        image_size, views, ((view, row, col, box(views[view].seen, row, col)) for view, row, col in cells)
    )
