"""Boxes of the grid against what the real processor shows each patch, measured with gradient images."""

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor

from tokviz.models.geometry import frame_by_frame
from tokviz.models.llava import centre_crop_grid, padded_square_grid, squeezed_grid

SIDE, PATCH = 96, 8


def gradient(width: int, height: int) -> Image.Image:
    """Red grows with x, green with y, over 10..245 so that padding colours cannot be mistaken for it."""
    x = np.broadcast_to(np.linspace(10, 245, width)[None, :], (height, width))
    y = np.broadcast_to(np.linspace(10, 245, height)[:, None], (height, width))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).round().astype(np.uint8))


@pytest.mark.parametrize("size", [(96, 96), (300, 200), (200, 300), (640, 180), (101, 333), (2000, 1000), (50, 40)])
@pytest.mark.parametrize("squeezed", [False, True])
def test_each_patch_sees_the_middle_of_its_box(size, squeezed):
    resize_to = SIDE + 16
    processor = CLIPImageProcessor(
        size={"height": resize_to, "width": resize_to} if squeezed else {"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
    )
    width, height = size
    pixels = np.asarray(processor(gradient(width, height), return_tensors="np")["pixel_values"][0], dtype=float) * 255
    n = SIDE // PATCH
    patches = pixels.reshape(3, n, PATCH, n, PATCH).mean((2, 4))
    seen_x = (patches[0] - 10) / 235 * (width - 1) + 0.5
    seen_y = (patches[1] - 10) / 235 * (height - 1) + 0.5
    grid = squeezed_grid(size, resize_to, SIDE, PATCH) if squeezed else centre_crop_grid(size, SIDE, SIDE, PATCH)
    for token, box in enumerate(grid.box):
        row, column = grid.row[token], grid.col[token]
        cell_x, cell_y = box[2] - box[0], box[3] - box[1]
        # 8-bit rounding of the gradient: half a grey level is width / 470 px.
        assert abs((box[0] + box[2]) / 2 - seen_x[row, column]) < 0.06 * cell_x + width / 400
        assert abs((box[1] + box[3]) / 2 - seen_y[row, column]) < 0.06 * cell_y + height / 400


def test_what_the_crop_leaves_out_is_not_seen():
    view = centre_crop_grid((300, 200), SIDE, SIDE, PATCH).views[0]
    assert view.seen == pytest.approx((50, 0, 250, 200), abs=1.5)


def test_padding_shows_the_whole_image_and_empty_cells_outside():
    grid = padded_square_grid((300, 200), SIDE, PATCH)
    assert grid.views[0].seen == (0, 0, 300, 200)
    assert grid.box[0][1] == grid.box[0][3] == 0  # the first row of patches shows padding only


def test_the_cls_token_of_a_frame_stands_before_its_patches():
    video = frame_by_frame(centre_crop_grid((40, 40), 40, 40, 20), 2, with_cls=True)
    assert video.row == [-1, 0, 0, 1, 1] * 2 and video.col == [-1, 0, 1, 0, 1] * 2
    assert video.view == [0] * 5 + [1] * 5 and [box is None for box in video.box] == [True, *[False] * 4] * 2
