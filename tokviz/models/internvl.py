"""InternVL as in transformers: InternViT with [CLS], 2 x 2 patches concatenated before the projector, Qwen2.5.

An image is squeezed into a rectangle of square crops, and behind them comes the whole image once more, unless there
is one crop. Of a video every frame is one square, behind its number in words ("Frame1: ").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import Unsupported
from ..grids import Tiling
from ..names import Media
from ..records import TokenGrid
from ..types import PlanningInfo
from .base import BOTH, ImageTokens, Unplanned, VisionTower, stated
from .geometry import frame_by_frame, side_of
from .idefics3 import groups_of_patches, shuffled_grid
from .llava import Llava
from .shrinking import Shrunk, chosen_tiling, shrunk_frames


class InternVL(Llava):
    """What enters the projector is one row per token, four patches wide; signals of a token are the mean of these.

    The model is not told which images are crops of one image: to the engine, each is an image of its own. Of a video
    the stock processor takes frames from the middle of equal parts.
    """

    id = "internvl"
    shrinks = BOTH
    pixel_std = (0.229, 0.224, 0.225)
    takes = BOTH
    published_as = None
    projects_cls = False
    attention_name = "attention"

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Patches only, whole groups of them, and model and processor must cut images and frames alike."""
        self.check_features(model, name)
        (side, patch), scale = self.sides(model), _scale(model)
        if side % (patch * scale):
            raise Unsupported(f"{name} has images of {side} px, from which no whole tokens can be cut.")
        both = processor.image_processor, processor.video_processor
        sizes = [side_of(part.size) for part in both]
        n_tokens = (side // patch // scale) ** 2
        if sizes != [side, side] or processor.image_seq_length != n_tokens:
            raise Unsupported(
                f"{name} has a processor that makes {processor.image_seq_length} tokens of {sizes} px (images, "
                f"frames), but its model makes {n_tokens} of {side} px."
            )
        if processor.video_processor.do_center_crop or not all(part.do_resize for part in both):
            raise Unsupported(f"{name} has a processor that does not squeeze images and frames into squares.")

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """How many tokens an image becomes is in no ``config.json``: known of the menu's models only."""
        n_visual, ratio = stated(config, "visual_tokens"), config.get("downsample_ratio")
        rows, columns = (
            stated(config, "vision_config", "image_size", i) // stated(config, "vision_config", "patch_size", i)
            for i in (0, 1)
        )
        per_view = int(rows * columns * ratio**2) if isinstance(ratio, float) and 0 < ratio <= 1 else 0
        if not per_view:
            raise Unplanned("downsample_ratio")
        return self.planning(
            n_visual=n_visual,
            n_layers=stated(config, "text_config", "num_hidden_layers"),
            has_cls=True,
            n_views=n_visual // per_view,
            has_tiles=n_visual // per_view > 1,
        )

    def vision_layers(self, model: Any, media: Media = "image") -> Sequence[nn.Module]:
        """Of the one tower for both."""
        layers: Sequence[nn.Module] = model.base_model.vision_tower.encoder.layer
        return layers

    def vision_tower(self, model: Any) -> VisionTower | None:
        """None: with fewer patches on the way there would be no 2 x 2 groups left to lay side by side."""
        return None

    def has_cls(self, model: Any) -> bool:
        """Always."""
        return True

    def sides(self, model: Any) -> tuple[int, int]:
        """Raises Unsupported where these are no squares."""
        vision = model.config.vision_config
        if len({*vision.image_size}) != 1 or len({*vision.patch_size}) != 1:
            raise Unsupported(
                f"This model's images of {list(vision.image_size)} px and patches of {list(vision.patch_size)} px are "
                "no squares; tokviz supports squares only."
            )
        return int(vision.image_size[0]), int(vision.patch_size[0])

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """Every image is an image of its own; ``n_patches`` are rows that enter the projector, its tokens."""
        return groups_of_patches(n_images, n_patches, *self.sides(model), _scale(model))

    def grid(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Crops as the processor cuts them, then the whole image; only this where there is one crop."""
        (side, patch), image_processor = self.sides(model), processor.image_processor
        high, wide = crops(image_size, side, image_processor.min_patches, image_processor.max_patches)
        # Whether to cut at all may be said in several places: ask the processor how many images it would make.
        asked = processor._get_num_multimodal_tokens(image_sizes=[image_size[::-1]])
        if asked["num_image_patches"] == [1]:
            high, wide = 0, 0
        return shuffled_grid(image_size, high, wide, side, patch * _scale(model))

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Every frame is squeezed into one square."""
        side, patch = self.sides(model)
        return frame_by_frame(shuffled_grid(frame_size, 0, 0, side, patch * _scale(model)), n_frames)

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """Fewer crops, and smaller squares; of a video every frame as a smaller square."""
        (side, patch), image_processor = self.sides(model), processor.image_processor
        cell = patch * _scale(model)
        if grid.is_video:
            return shrunk_frames(grid, tokens, cell)
        most: dict[
            tuple[int, int], int
        ] = {}  # of how many crops a tiling is made, by its crops; 1 for none, up to as many as there are
        for count in range(1, len(grid.views) + 1):
            most.setdefault(crops(grid.image_size, side, min(image_processor.min_patches, count), count), count)
        tilings = (
            Tiling(high, wide, n, (high * wide + 1) * n * n) for high, wide in most for n in range(1, side // cell + 1)
        )
        found = chosen_tiling(tilings, side // cell, tokens)
        count = most[found.high, found.wide]
        limits = {"min_patches": min(image_processor.min_patches, count), "max_patches": count}
        px = found.side * cell
        smaller = shuffled_grid(grid.image_size, found.high, found.wide, px, cell)
        return Shrunk(smaller, (px, px), found.words, options={"images_kwargs": limits})

    def interpolating(self, model: Any) -> tuple[nn.Module, ...]:
        """None: this tower interpolates by itself."""
        return ()


def _scale(model: Any) -> int:
    """How many patches, each way, become one token."""
    return int(1 / model.config.downsample_ratio)


def crops(image_size: tuple[int, int], side: int, fewest: int, most: int) -> tuple[int, int]:
    """Rows and columns of crops of an image of ``(width, height)`` px, ``(0, 0)`` for one: nothing to cut.

    Of all rectangles of ``fewest`` to ``most`` crops of ``side`` px, the one with the proportions closest to the
    image's; of those equally close (1 x 1, 2 x 2) a larger one while the image fills more than half of it.
    """
    width, height = image_size
    shapes = [(wide, high) for wide in range(1, most + 1) for high in range(1, most + 1)]
    shapes = sorted((s for s in shapes if fewest <= s[0] * s[1] <= most), key=lambda shape: shape[0] * shape[1])
    found, closest = (1, 1), float("inf")
    for wide, high in shapes:
        distance = abs(width / height - wide / high)
        if distance < closest or (distance == closest and width * height > 0.5 * side * side * wide * high):
            found, closest = (wide, high), distance
    wide, high = found
    return (0, 0) if wide * high == 1 else (high, wide)
