"""From tokens to pixels: the picture of a comparison, and which patch each of its pixels belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import BadInput
from ..images import stored_image
from ..names import Box
from ..records import Comparison, PictureRecord, TokenGrid

Pixels = NDArray[np.uint8]


def picture_pixels(record: PictureRecord, long_side: int | None = None) -> Pixels:
    """The recorded picture, upright.

    Shape: ``(height, width, 3)`` uint8 RGB; the longer side is ``long_side`` px (None: as recorded).
    Raises BadInput when the record holds no picture.
    """
    picture = stored_image(record)
    if long_side is not None:
        picture = picture.resize(scaled_size(picture.size, long_side), Image.Resampling.LANCZOS)
    return np.array(picture, dtype=np.uint8)


def scaled_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """``(width, height)`` in px with the longer side ``long_side`` and the same proportions (at least 1 px each)."""
    scale = long_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True)
class PatchRaster:
    """Which patch each pixel shows, for one layer of the grid (see ``GridView``).

    Shape: owner ``(height, width)`` int32, the token index, -1 where the model saw nothing. corners ``(N, 4)`` int,
    x0, y0, x1, y1 in px, end exclusive; all zero for tokens that are no patch of this layer.
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
        """Width in px of outlines: readable in the picture, and never more than a fifth of a patch."""
        height, width = self.owner.shape
        sides = np.minimum(self.corners[:, 2] - self.corners[:, 0], self.corners[:, 3] - self.corners[:, 1])
        patch = int(np.median(sides[sides > 0])) if (sides > 0).any() else max(height, width)
        return max(1, min(round(max(height, width) / 280), patch // 5))

    def flags(self, indices: Sequence[int]) -> NDArray[np.bool_]:
        """Token indices as a mask. Shape: ``(N,)``. Raises BadInput for an index that is no token."""
        if any(not 0 <= index < self.n_tokens for index in indices):
            raise BadInput("This session names a visual token that its grid does not have; the file is damaged.")
        mask = np.zeros(self.n_tokens, dtype=bool)
        mask[list(indices)] = True
        return mask

    def spread(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Per-token flags on the pixels of the patches. Shape: ``(N,)`` -> ``(height, width)``."""
        return np.append(flags, False)[self.owner]

    def pixel_box(self, box: Box) -> tuple[int, int, int, int]:
        """A box in pixels of the original picture as whole pixels here; shared edges round to the same pixel."""
        height, width = self.owner.shape
        x0, y0, x1, y1 = box
        return (
            _edge(x0 * self.scale[0], width), _edge(y0 * self.scale[1], height),
            _edge(x1 * self.scale[0], width), _edge(y1 * self.scale[1], height),
        )  # fmt: skip


def _edge(position: float, end: int) -> int:
    return min(max(math.floor(position + 0.5), 0), end) if math.isfinite(position) else 0


def patch_raster(grid: TokenGrid, shape: tuple[int, int], layer: int | None = None) -> PatchRaster:
    """Lay one layer of the grid on a picture of ``shape`` ``(height, width)`` px.

    layer: None for the last, which is the finest: the crops of a picture that is also looked at whole. Raises BadInput
    when there is no such layer.
    """
    layers = [view.layer for view in grid.views]
    layer = max(layers, default=0) if layer is None else layer
    if layer not in layers:
        raise BadInput(f"This picture has {len(set(layers))} layer(s) of patches; there is no layer {layer}.")
    height, width = shape
    scale = (width / grid.picture_size[0], height / grid.picture_size[1])
    raster = PatchRaster(np.full(shape, -1, dtype=np.int32), np.zeros((grid.n_tokens, 4), dtype=np.int64), scale)
    for token, box in enumerate(grid.box):
        view = grid.view[token]
        if box is None or not 0 <= view < len(layers) or layers[view] != layer:
            continue
        x0, y0, x1, y1 = raster.pixel_box(box)
        raster.corners[token] = (x0, y0, x1, y1)
        raster.owner[y0:y1, x0:x1] = token
    return raster


@dataclass(frozen=True)
class Canvas:
    """A comparison's picture, decoded, with its patches laid out. Overlays of one comparison can share one.

    Shape: pixels ``(height, width, 3)`` uint8 RGB; never drawn upon.
    """

    comparison: Comparison
    pixels: Pixels
    raster: PatchRaster


def open_canvas(comparison: Comparison, *, layer: int | None = None, long_side: int | None = None) -> Canvas:
    """Decode the picture of a comparison, see ``picture_pixels``, and lay one layer of its grid on it.

    Raises BadInput when picture and grid do not belong together.
    """
    if comparison.grid.picture_size != (comparison.picture.width, comparison.picture.height):
        raise BadInput("Grid and picture of this session have different sizes; the file is damaged.")
    pixels = picture_pixels(comparison.picture, long_side)
    height, width = pixels.shape[:2]
    return Canvas(comparison, pixels, patch_raster(comparison.grid, (height, width), layer))
