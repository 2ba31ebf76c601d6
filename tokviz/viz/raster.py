"""From tokens to pixels: the image of a comparison, which patch each pixel belongs to, and marks on pixels.

Every function that marks returns a new array.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..comparison import Comparison
from ..errors import BadInput
from ..media.images import stored_image
from ..names import Box
from ..records import ImageRecord, TokenGrid
from ..runs.metrics import evidence_tokens
from . import palette

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
MOST_OVERLAP = 4
"""Patches of one level lie side by side; together they cover at most so many times the image."""
Level = int | Literal["both"] | None
"""Which level of a tiled image's grid is drawn; None for the last, which is the finest."""


def image_pixels(record: ImageRecord, long_side: int | None = None) -> Pixels:
    """The recorded image, upright.

    Shape: ``(height, width, 3)`` uint8 RGB; the longer side is ``long_side`` px (None: as recorded).
    Raises BadInput when the record holds no image.
    """
    image = stored_image(record)
    if long_side is not None:
        scale = long_side / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.array(image, dtype=np.uint8)


@dataclass(frozen=True)
class PatchRaster:
    """Which patch each pixel shows, for one level of the grid (see ``GridView``).

    Shape: owner ``(height, width)`` int32, the token index, -1 where the model saw nothing. corners ``(N, 4)`` int,
    x0, y0, x1, y1 in px, end exclusive; all zero for tokens that are no patch of this level.
    """

    owner: NDArray[np.int32]
    corners: NDArray[np.int64]
    scale: tuple[float, float]

    @property
    def n_tokens(self) -> int:
        """Number of visual tokens, patches and others."""
        return len(self.corners)

    @property
    def line_width(self) -> int:
        """Width in px of outlines: readable in the image, and never more than a fifth of a patch."""
        height, width = self.owner.shape
        sides = np.minimum(self.corners[:, 2] - self.corners[:, 0], self.corners[:, 3] - self.corners[:, 1])
        patch = int(np.median(sides[sides > 0])) if (sides > 0).any() else max(height, width)
        return max(1, min(round(max(height, width) / 280), patch // 5))

    def flags(self, indices: Sequence[int]) -> Mask:
        """Token indices as a mask. Shape: ``(N,)``. Raises BadInput for an index that is no token."""
        if any(not 0 <= index < self.n_tokens for index in indices):
            raise BadInput("This session names a visual token that its grid does not have; the file is damaged.")
        mask = np.zeros(self.n_tokens, dtype=bool)
        mask[list(indices)] = True
        return mask

    def spread(self, flags: Mask) -> Mask:
        """Per-token flags on the pixels of the patches. Shape: ``(N,)`` -> ``(height, width)``."""
        return np.append(flags, False)[self.owner]

    def pixel_box(self, box: Box) -> tuple[int, int, int, int]:
        """A box in pixels of the original image as whole pixels here; shared edges round to the same pixel."""
        height, width = self.owner.shape
        x0, y0, x1, y1 = box
        x, y = self.scale
        return _edge(x0 * x, width), _edge(y0 * y, height), _edge(x1 * x, width), _edge(y1 * y, height)


def _edge(position: float, end: int) -> int:
    return min(max(math.floor(position + 0.5), 0), end) if math.isfinite(position) else 0


def patch_raster(grid: TokenGrid, shape: tuple[int, int], level: int | None = None) -> PatchRaster:
    """Lay one level of the grid on an image of ``shape`` ``(height, width)`` px.

    level: None for the last, which is the finest: the crops of an image that is also looked at whole. Raises BadInput
    when there is no such level.
    """
    levels = [view.level for view in grid.views] if grid.views else [0]
    level = max(levels, default=0) if level is None else level
    if level not in levels:
        raise BadInput(f"This image has {len(set(levels))} level(s) of patches; there is no level {level}.")
    height, width = shape
    scale = (width / grid.image_size[0], height / grid.image_size[1])
    raster = PatchRaster(np.full(shape, -1, dtype=np.int32), np.zeros((grid.n_tokens, 4), dtype=np.int64), scale)
    room = MOST_OVERLAP * (width * height + grid.n_tokens)
    for token, box in enumerate(grid.box):
        view = grid.view[token]
        if box is None or not 0 <= view < len(levels) or levels[view] != level:
            continue
        x0, y0, x1, y1 = raster.pixel_box(box)
        room -= max(x1 - x0, 0) * max(y1 - y0, 0)
        if room < 0:
            raise BadInput("The patches of this session lie upon each other; the file is damaged.")
        raster.corners[token] = (x0, y0, x1, y1)
        raster.owner[y0:y1, x0:x1] = token
    return raster


@dataclass(frozen=True)
class Canvas:
    """A comparison's image or one frame of its video, decoded, with its patches laid out.

    Overlays of one comparison can share one. evidence: the boxes of what is drawn. coarse: where both levels of a tiled
    image are drawn, the patches of the whole image below those of its crops.
    Shape: pixels ``(height, width, 3)`` uint8 RGB; never drawn upon.
    """

    comparison: Comparison
    pixels: Pixels
    raster: PatchRaster
    evidence: tuple[Box, ...] = ()
    coarse: PatchRaster | None = None

    def areas(self, tokens: Sequence[int]) -> tuple[Mask, Mask]:
        """The pixels of the tokens' patches, and those of their coarse patches (nowhere, where none are drawn)."""
        flags = self.raster.flags(tokens)
        fine = self.raster.spread(flags)
        return fine, np.zeros_like(fine) if self.coarse is None else self.coarse.spread(flags)

    @cached_property
    def evidence_tokens(self) -> list[int]:
        """The tokens that show evidence, of the whole image or video; the same for every run."""
        asked = self.comparison.request
        return evidence_tokens(self.comparison.grid, asked.evidence, asked.evidence_frames)


def open_canvas(
    comparison: Comparison, *, level: Level = None, frame: int | None = None, long_side: int | None = None
) -> Canvas:
    """Decode the image of a comparison, see ``image_pixels``, and lay one level of its grid, or both, on it.

    frame: of a video, which sampled frame is drawn, from 0 (None: the first with evidence, or the first). Raises
    BadInput when image and grid do not belong together, and for a level or a frame that is not there.
    """
    grid, evidence = comparison.grid, tuple(comparison.request.evidence)
    record = comparison.image
    if comparison.video is not None:
        if level is not None:
            raise BadInput("A video is drawn frame by frame: choose a frame, not a level.")
        frame = min(comparison.request.evidence_frames, default=0) if frame is None else frame
        record, level = _frame_of(comparison, frame)
        placed = zip(evidence, comparison.request.evidence_frames, strict=True)
        evidence = tuple(box for box, at in placed if at == frame)
    elif frame is not None:
        raise BadInput("This comparison is about an image; it has no frames to choose from.")
    if grid.image_size != (record.width, record.height):
        raise BadInput("Grid and image of this session have different sizes; the file is damaged.")
    if level == "both" and not grid.is_tiled:
        raise BadInput("Both levels can be drawn of an image that is looked at twice; this one is not.")
    pixels = image_pixels(record, long_side)
    shape = (pixels.shape[0], pixels.shape[1])
    coarse = patch_raster(grid, shape, min(view.level for view in grid.views)) if level == "both" else None
    return Canvas(comparison, pixels, patch_raster(grid, shape, None if level == "both" else level), evidence, coarse)


def _frame_of(comparison: Comparison, frame: int) -> tuple[ImageRecord, int]:
    """The record of a sampled frame and the level that shows it."""
    frames = comparison.video.frames if comparison.video else []
    levels = [view.level for view in comparison.grid.views if frame in view.frames]
    if not 0 <= frame < len(frames) or len(levels) != 1:
        raise BadInput(
            f"This video has {len(frames)} sampled frames, 0 to {len(frames) - 1}; there is no frame {frame}."
        )
    return frames[frame].image, levels[0]


def brightness(pixels: Pixels) -> NDArray[np.float64]:
    """Luma of Rec. 601. Shape: ``(H, W, 3)`` -> ``(H, W)``, 0 to 255."""
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114]))


def to_bytes(values: NDArray[np.float64]) -> Pixels:
    """Rounded and limited to 0..255."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def grey_out(pixels: Pixels, where: Mask, grey: int, shows: float) -> Pixels:
    """Replace by a uniform ``grey`` through which the share ``shows`` of the image's brightness is left."""
    greyed = to_bytes(shows * brightness(pixels) + (1 - shows) * grey)[..., None]
    return np.where(where[..., None], greyed, pixels)


def hatch(pixels: Pixels, where: Mask, color: palette.Rgb, period: int, width: int) -> Pixels:
    """Diagonal lines, ``width`` of every ``period`` px, so that an area differs in more than its colour."""
    rows, columns = np.indices(where.shape)
    lines = where & ((rows + columns) % period < width)
    return np.where(lines[..., None], np.array(color, dtype=np.uint8), pixels)


def outline(pixels: Pixels, area: Mask, color: palette.Rgb, width: int) -> Pixels:
    """Draw the inner border of an area: less than ``width`` px (diagonals count 1) from its outside or the edge."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    core = cv2.erode(area.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.where((area & (core == 0))[..., None], np.array(color, dtype=np.uint8), pixels)


def cased_outline(pixels: Pixels, area: Mask, width: int) -> Pixels:
    """Draw the inner border of an area as a dark line with a white one inside, visible on every colour of a map."""
    dark, light = palette.CASING
    return outline(outline(pixels, area, light, 2 * width), area, dark, width)


def dashed_boxes(pixels: Pixels, boxes: Iterable[tuple[int, int, int, int]], width: int) -> Pixels:
    """Boxes in two alternating colours, each drawn just outside its corners so that it hides nothing it points at.

    Costs what the lines cover: a forged session may hold a thousand boxes, each as large as the image.
    """
    height, image_width = pixels.shape[:2]
    drawn = pixels.copy()
    colors = np.array(palette.EVIDENCE, dtype=np.uint8)
    for x0, y0, x1, y1 in dict.fromkeys(boxes):
        # A box that fills the image moves inwards: its line would lie outside of the pixels.
        left, top = max(x0 - width, 0), max(y0 - width, 0)
        right, bottom = min(x1 + width, image_width), min(y1 + width, height)
        across, down = (np.arange(max(n, 0)) // (3 * width) % 2 for n in (right - left, bottom - top))
        for side in (slice(left, min(left + width, right)), slice(max(right - width, left), right)):
            drawn[top:bottom, side] = colors[down][:, None]
        for side in (slice(top, min(top + width, bottom)), slice(max(bottom - width, top), bottom)):
            drawn[side, left:right] = colors[across][None]
    return drawn


def rings(pixels: Pixels, raster: PatchRaster, tokens: NDArray[np.int64], width: int) -> Pixels:
    """A white ring with a dark edge in the middle of each token's patch; a dot where the patch is too small."""
    dark, light = (np.array(color, dtype=np.uint8) for color in palette.CASING)
    drawn = pixels.copy()
    for x0, y0, x1, y1 in raster.corners[tokens]:
        if x1 <= x0 or y1 <= y0:
            continue
        rows, columns = np.mgrid[y0:y1, x0:x1]
        distance = np.hypot(rows - (y0 + y1 - 1) / 2, columns - (x0 + x1 - 1) / 2)
        radius = 0.36 * min(x1 - x0, y1 - y0)
        patch = drawn[y0:y1, x0:x1]
        patch[np.abs(distance - radius) <= 1.3 * width] = dark
        patch[np.abs(distance - radius) <= 0.65 * width] = light
    return drawn
