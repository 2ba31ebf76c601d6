"""LLaVA-OneVision: what each mixed token sees, what the model interpolates, loading, methods on images and videos."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_llava_next import some_sizes
from tiny_case import noise
from tiny_onevision import (
    MOST,
    PATCH,
    PINPOINTS,
    SIDE,
    TinyOnevision,
    onevision_processor,
    pinpoints_to,
)
from transformers import LlavaOnevisionModel

from tokviz.engine import encode
from tokviz.errors import Unsupported
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.llava_onevision import LlavaOnevision
from tokviz.models.tiles import interpolated, tile_grid
from tokviz.names import VideoFacts
from tokviz.runs.inputs import geometry_of
from tokviz.types import RECEIVED_ATTENTION

CASE = TinyOnevision()


# -- geometry ----------------------------------------------------------------------------------------------------------

SETTINGS = {"small": (100, 8, 4, 4), "real": (384, 14, 6, 9)}
"""side, patch, up to so many tiles each way, most crops: both leave px behind the last patch of a tile."""


def gradients(width, height):
    """Red grows with x, green with y, blue says how much of a patch is image. Shape: ``(3, H, W)``."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, -1)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(-1, width)
    return torch.stack([x, y, torch.ones_like(x)])


RAW = {"do_rescale": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3, "return_tensors": "pt"}
"""Unrounded and as they are."""


def of_patches(tiles, n, patch):
    """Mean colour of every patch. Shape: ``(tiles, 3, S, S)`` -> ``(tiles, 3, n * n)``."""
    seen = tiles[..., : n * patch, : n * patch]
    return seen.unflatten(-1, (n, patch)).unflatten(-3, (n, patch)).mean((3, 5)).flatten(2).double()


def packed(rows, sizes, side, patch, pinpoints, most):
    """The stock model's own packing of ``rows``, per image ``(tiles, n * n, D)``; newlines are -1."""
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=side, patch_size=patch), image_grid_pinpoints=pinpoints
    )
    newline = torch.full(rows[0].shape[-1:], -1.0, dtype=rows[0].dtype)
    model = SimpleNamespace(config=config)
    return LlavaOnevisionModel.pack_image_features(model, rows, sizes, newline, f"anyres_max_{most}")[0]


def check_boxes(size, grid, values):
    """Every token sees the middle of its box; returns how many could be checked. Shape: values ``(N, 3)``."""
    checked = 0
    for (red, green, inside), box in zip(values.tolist(), grid.box, strict=True):
        assert (box is None) == (inside == -1)
        if inside < 0.5:  # a newline, or mostly padding
            continue
        for seen, low, high in ((red * size[0], box[0], box[2]), (green * size[1], box[1], box[3])):
            assert abs(seen / inside - (low + high) / 2) < 0.06 * (high - low), (box, seen)
        checked += 1
    return checked


@pytest.mark.parametrize(
    ("size", "settings"),
    [((300, 200), "small"), ((230, 390), "small"), ((640, 180), "small"), ((101, 333), "small"),
     ((500, 500), "small"), ((90, 80), "small"), ((1500, 1000), "real"), ((700, 2200), "real"), ((900, 901), "real")],
)  # fmt: skip
def test_each_token_sees_the_middle_of_its_box(size, settings):
    """Through the real processor and the model's own shrinking, thumbnail and crops."""
    side, patch, tiles, most = SETTINGS[settings]
    pinpoints = pinpoints_to(tiles, side)
    processor = onevision_processor(side, patch, pinpoints, most)
    tiles = processor.image_processor(gradients(*size), **RAW)["pixel_values"][0]
    rows = of_patches(tiles, side // patch, patch).transpose(1, 2)
    (values,) = packed([rows], [[size[1], size[0]]], side, patch, pinpoints, most)
    grid = tile_grid(size, pinpoints, side, patch, most)
    assert check_boxes(size, grid, values) >= 0.9 * sum(box is not None for box in grid.box)


def test_boxes_of_a_shrunk_grid_lie_side_by_side():
    """Level 1 is drawn as one: a full rectangle of cells whose boxes do not overlap and leave only what nobody sees."""
    side, patch, tiles, most = SETTINGS["real"]
    for size in [(2300, 1500), (700, 2200), (2000, 2000)]:
        grid = tile_grid(size, pinpoints_to(tiles, side), side, patch, most)
        told = geometry_of(grid)
        crops = [token for token, view in enumerate(grid.view) if view > 0 and grid.row[token] >= 0]
        rows, cols = (told.cell[crops].max(dim=0).values + 1).tolist()
        assert sorted(map(tuple, told.cell[crops].tolist())) == [(r, c) for r in range(rows) for c in range(cols)]
        assert rows * cols <= 9 * 27**2 and len(crops) == sum(v.rows * v.cols for v in grid.views[1:])
        boxes = {tuple(told.cell[token].tolist()): grid.box[token] for token in crops}
        for (row, col), (x0, y0, _, _) in boxes.items():
            assert x0 >= boxes.get((row, col - 1), (0, 0, 0, 0))[2] - 1e-9
            assert y0 >= boxes.get((row - 1, col), (0, 0, 0, 0))[3] - 1e-9
        area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes.values())
        assert area == pytest.approx(size[0] * size[1] * (378 / 384) ** 2, rel=0.02)
        for number, view in enumerate(grid.views):
            mine = np.array([box for box, v in zip(grid.box, grid.view, strict=True) if v == number and box])
            assert view.rows * view.cols == len(mine) and view.level == min(number, 1)
            assert not len(mine) or view.seen == pytest.approx((*mine[:, :2].min(0), *mine[:, 2:].max(0)))


def mixture_of(image, n_patches):
    """Shape: ``(N, images * patches)`` of an ImageTokens."""
    mixture = torch.zeros(len(image.tile), image.n_tiles * n_patches, dtype=torch.float64)
    given = image.sources >= 0
    for column in range(image.sources.shape[1]):
        rows = given[:, column].nonzero()[:, 0]
        mixture[rows, image.sources[rows, column]] += image.weights[rows, column]
    return mixture


def test_tokens_are_mixed_as_the_model_interpolates_them():
    """As many as the processor says, of the patches and weights that the model's own packing shows on noise."""
    processor, model = onevision_processor(), CASE.model()
    n_patches = (SIDE // PATCH) ** 2
    shrunk = 0
    for width, height in some_sizes(60):
        grid = CASE.here.grid(model, processor, (width, height), {})
        counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"]
        assert [grid.n_tokens] == counted, (width, height)
        told = {"image_sizes": torch.tensor([[height, width]]), "batch_num_images": torch.tensor([1])}
        (image,) = CASE.here.images(model, told, len(grid.views), n_patches)
        assert image.n_tiles == len(grid.views) and image.tile.tolist() == grid.view
        rows = torch.randn(image.n_tiles, n_patches, 2, dtype=torch.float64)
        (values,), _ = model.model.pack_image_features(
            [rows], told["image_sizes"], torch.full((2,), 9.0), f"anyres_max_{MOST}"
        )
        mixture = mixture_of(image, n_patches)
        newline = image.patch < 0
        assert (values[newline] == 9).all() and not mixture[newline].any()
        assert [row < 0 for row in grid.row] == [box is None for box in grid.box] == newline.tolist()
        assert (values[~newline] - (mixture @ rows.flatten(0, 1))[~newline]).abs().max() < 1e-9
        strongest = (image.tile * n_patches + image.patch)[~newline]
        top = mixture[~newline].max(dim=1).values
        assert (mixture[~newline].gather(1, strongest[:, None])[:, 0] - top).abs().max() < 1e-12
        shrunk += int((mixture[~newline].max(dim=1).values < 0.9).any())
    assert shrunk > 20


def test_a_token_made_half_of_each_of_two_patches_is_the_first_ones():
    """Halving a grid mixes all its rows so; which patch (and crop) a token belongs to is the first."""
    lines = interpolated(range(8), 4)
    assert [line.share for line in lines] == [0.5] * 4 and [line.strongest for line in lines] == [0, 2, 4, 6]
    assert [line.strongest for line in interpolated(range(6), 4)] == [0, 2, 3, 5]


def test_several_images_of_a_prompt_are_not_cut():
    processor, model = onevision_processor(), CASE.model(torch.float32)
    images = [[noise(60, 40, 1), noise(31, 90, 2)], [noise(48, 48, 3)]]
    text = ["<image> <image> what ?", "<image> what ?"]
    inputs = processor(images=images, text=text, return_tensors="pt", padding=True, padding_side="left")
    expected = model.model.get_image_features(
        inputs["pixel_values"], inputs["image_sizes"], batch_num_images=inputs["batch_num_images"]
    ).pooler_output
    seen = encode(model, CASE.here, inputs, (RECEIVED_ATTENTION,))
    assert seen.n_visual == [len(expected[0]) + len(expected[1]), len(expected[2])] == [20, len(expected[2])]
    assert torch.equal(seen.inputs_embeds[0][seen.visual_mask[0]], torch.cat(expected[:2]))
    assert seen.vision[0].view.tolist() == [0] * 10 + [1] * 10
    assert seen.vision[0].patch.tolist() == ([True] * 9 + [False]) * 2


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 180), (101, 333), (500, 500)])
@pytest.mark.parametrize("settings", SETTINGS)
def test_frames_are_seen_whole_and_shrunk_to_half(size, settings):
    side, patch, _, _ = SETTINGS[settings]
    n = side // patch
    half = (n + 1) // 2
    processor = onevision_processor(side, patch, pinpoints_to(2, side))
    video = gradients(*size)[None].expand(3, -1, -1, -1)
    frames = processor.video_processor([video], do_sample_frames=False, **RAW)["pixel_values_videos"][0]
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=side, patch_size=patch))
    rows = of_patches(frames, n, patch).transpose(1, 2)
    pooled = LlavaOnevisionModel.apply_pooling(SimpleNamespace(config=config), rows)
    grid = CASE.here.video_grid(SimpleNamespace(config=config), processor, size, 3)
    assert grid.is_video and [view.frames for view in grid.views] == [(0,), (1,), (2,)]
    assert all(view.rows == view.cols == half for view in grid.views)
    assert check_boxes(size, grid, torch.cat([pooled.flatten(0, 1), torch.full((1, 3), -1.0)])) == 3 * half**2
    (image,) = CASE.here.images(SimpleNamespace(config=config), {"pixel_values_videos": torch.empty(1, 3, 1)}, 3, n * n)
    assert image.tile.tolist() == grid.view and image.n_tiles == 3
    mixture = mixture_of(image, n * n)
    assert (mixture[:-1] @ rows.flatten(0, 1) - pooled.flatten(0, 1)).abs().max() < 1e-9
    assert image.patch[-1] == -1 and not mixture[-1].any()


@pytest.mark.parametrize(
    ("facts", "wanted", "expected"),
    [((100, 25.0), None, [0, 12, 25, 37, 50, 62, 75, 87]), ((100, 25.0), 4, [0, 25, 50, 75]),
     ((5, 25.0), None, [0, 1, 2, 3, 4]), ((5, 25.0), 99, [0, 1, 2, 3, 4]), ((1, 25.0), None, [0])],
)  # fmt: skip
def test_frames_are_chosen_as_the_processor_does(facts, wanted, expected):
    n_frames, fps = facts
    found = VideoFacts(n_frames, fps, n_frames / fps, (64, 48))
    assert CASE.here.sampled(onevision_processor(), found, wanted) == expected


# -- loading and planning ----------------------------------------------------------------------------------------------


def test_variants_that_would_be_cut_wrongly_are_refused():
    model = CASE.model()
    CASE.here.check(model, onevision_processor(), "it")
    silent = onevision_processor()
    silent.vision_feature_select_strategy = None
    CASE.here.check(model, silent, "it")
    for processor, sentence in [
        (onevision_processor(side=32), r"of other sizes \(\[28, 32\] px\)"),
        (onevision_processor(patch=6), "or patches"),
        (onevision_processor(pinpoints=PINPOINTS[:2]), "image_grid_pinpoints are not those"),
        (onevision_processor(most=3), "vision_aspect_ratio is not that"),
    ]:
        with pytest.raises(Unsupported, match=sentence):
            CASE.here.check(model, processor, "it")
    for name, value, sentence in [
        ("vision_feature_select_strategy", "default", "'default'"),
        ("vision_feature_layer", [-1, -2], "one layer"),
    ]:
        odd = SimpleNamespace(config=deepcopy(model.config))
        setattr(odd.config, name, value)
        with pytest.raises(Unsupported, match=sentence):
            CASE.here.check(odd, onevision_processor(), "it")
    odd, processor = SimpleNamespace(config=deepcopy(model.config)), onevision_processor()
    odd.config.vision_aspect_ratio = processor.vision_aspect_ratio = "square"
    with pytest.raises(Unsupported, match="'square' is not supported"):
        CASE.here.check(odd, processor, "it")


def test_sizes_that_do_not_fit_the_pixels_are_refused():
    with pytest.raises(Unsupported, match="image_sizes"):
        CASE.here.images(CASE.model(), {}, 5, 9)
    with pytest.raises(Unsupported, match="say 4 tiles, but the vision tower saw 5"):
        CASE.here.images(CASE.model(), {"image_sizes": torch.tensor([[20, 100]])}, 5, 9)


@pytest.mark.parametrize("entry", LlavaOnevision().catalog, ids=lambda entry: entry.id)
def test_the_menu_plans_without_loading(entry):
    info = planning_before_loading(entry.id)
    # 3 x 3 crops of 27 x 27 patches with a newline per row, and the thumbnail.
    assert info.n_visual == 729 + 81 * 82 and info.n_views == 10
    assert info.merges_patches and info.has_tiles and not info.has_cls and info.n_vision_layers is None
    # Of all proportions, this narrow one becomes most: 162 rows of 48 columns, just not too large to stay unshrunk.
    narrow = tile_grid((670, 2304), [tuple(pair) for pair in entry.config["image_grid_pinpoints"]], 384, 14, 9)
    assert narrow.n_tokens == entry.visual_tokens == 729 + 162 * 49
