"""Idefics3 and SmolVLM: what the processor shows each token, counts, frames of videos, and what is refused."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_case import IMAGE, noise
from tiny_idefics3 import N_TOKENS, SCALE, SIDE, TinyIdefics3, TinySmolVLM, idefics3_processor, smolvlm_processor

from tokviz.errors import Unsupported
from tokviz.models.base import VideoFacts
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.families import FAMILIES
from tokviz.models.idefics3 import Idefics3, SmolVLM, crops, evenly, shuffled_grid
from tokviz.runs.inputs import geometry_of

HERE = Idefics3()
BIG_SIDE, CELL, LONGEST = 120, 12, 360


def gradient(width, height):
    """Red grows with x, green with y, blue is full; unrounded, so nothing blurs them. Shape: ``(3, H, W)``."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, -1)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(-1, width)
    return torch.stack([x, y, torch.ones_like(x)])


RAW = {"do_rescale": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3, "return_tensors": "pt"}


def check_boxes(grid, images, size):
    """Each token's cell shows the middle of its box. Shape: images ``(n, 3, S, S)`` in the tower's order."""
    n = BIG_SIDE // CELL
    cells = images.unflatten(-1, (n, CELL)).unflatten(-3, (n, CELL)).mean((3, 5)).flatten(2)
    seen = cells.transpose(1, 2).flatten(0, 1)
    assert len(seen) == grid.n_tokens
    for (red, green, _), box in zip(seen.tolist(), grid.box, strict=True):
        assert abs(red * size[0] - (box[0] + box[2]) / 2) < 0.06 * (box[2] - box[0])
        assert abs(green * size[1] - (box[1] + box[3]) / 2) < 0.06 * (box[3] - box[1])


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 180), (101, 333), (500, 500), (90, 100)])
@pytest.mark.parametrize("processor", [idefics3_processor, smolvlm_processor])
def test_each_token_sees_the_middle_of_its_box(size, processor):
    images = processor(BIG_SIDE, LONGEST).image_processor
    encoded = images(gradient(*size), return_row_col_info=True, **RAW)
    high, wide = crops(size, LONGEST, BIG_SIDE)
    assert (encoded["rows"], encoded["cols"]) == ([[high]], [[wide]])
    check_boxes(shuffled_grid(size, high, wide, BIG_SIDE, CELL), encoded["pixel_values"][0], size)


def test_an_image_wider_than_its_cells_has_an_unseen_rim():
    """SmolVLM2 2.2B: 384 px are 27 patches of 14 px, so 6 px are seen by nobody."""
    grid = shuffled_grid((768, 384), 1, 2, 384, 42)
    assert grid.n_tokens == 3 * 81 and grid.views[0].seen == (0, 0, 756, 378)
    assert grid.views[2].seen == (384, 0, 762, 378) and grid.box[81] == (384, 0, 426, 42)
    assert grid.view == [1] * 81 + [2] * 81 + [0] * 81


def test_crops_are_as_many_as_the_processor_cuts():
    """What it does, not what its ``get_number_of_image_patches`` says: (251, 614) are 3 x 2 crops, counted as 3 x 1."""
    sizes = random.Random(3)
    for longest, side in [(60, 24), (120, 30), (5000, 500)]:
        images = idefics3_processor(side, longest).image_processor
        some = [(sizes.randint(8, 900), sizes.randint(8, 900)) for _ in range(40 if longest < 1000 else 2)]
        for size in [(1, 1), (7, 700), (900, 8), (24, 24), (61, 60), (251, 614)][: 6 if longest < 1000 else 0] + some:
            made = images([[Image.new("RGB", size, "red")]], return_row_col_info=True)
            high, wide = crops(size, longest, side)
            assert (made["rows"], made["cols"]) == ([[high]], [[wide]]), size
            assert made["pixel_values"].shape[1] == 1 + high * wide


@pytest.mark.parametrize(
    ("build", "processor", "family"),
    [(TinyIdefics3().build, idefics3_processor, Idefics3()), (TinySmolVLM().build, smolvlm_processor, SmolVLM())],
    ids=["idefics3", "smolvlm"],
)
@pytest.mark.parametrize("splitting", [True, False])
def test_tokens_are_as_many_as_the_prompt_holds(build, processor, family, splitting):
    model, processor = build(), processor(do_image_splitting=splitting)
    family.check(model, processor, "it")
    for size in [(60, 40), (31, 90), (24, 24), (100, 20), (10, 10)]:
        inputs = processor(images=[[noise(*size, seed=1)]], text=["<image> what"], return_tensors="pt")
        grid = family.grid(model, processor, size, {})
        assert int((inputs["input_ids"] == IMAGE).sum()) == grid.n_tokens
        assert inputs["pixel_values"].shape[1] == len(grid.views)
        assert grid.is_tiled == splitting == (len(grid.views) > 1)  # small images are made large
        told = geometry_of(grid)
        if grid.is_tiled:
            crop = told.cell[torch.tensor(grid.view) > 0]
            rows, cols = (crop.max(dim=0).values + 1).tolist()
            assert sorted(map(tuple, crop.tolist())) == [(r, c) for r in range(rows) for c in range(cols)]


def test_a_token_is_made_of_the_patches_that_the_connector_lays_side_by_side():
    model = TinyIdefics3().build()
    n = SIDE // 4
    numbers = torch.arange(n * n, dtype=torch.float32)[None, :, None]
    shuffled = model.model.connector.pixel_shuffle(numbers, SCALE)[0]
    (tokens, _) = HERE.images(model, {}, 2, N_TOKENS)
    assert shuffled.shape == (N_TOKENS, SCALE**2)
    assert shuffled.long().sort(dim=1).values.equal(tokens.sources.sort(dim=1).values)
    with pytest.raises(Unsupported, match="got 8 rows per image instead of 9"):
        HERE.images(model, {}, 1, 8)


def test_frames_of_a_video():
    family, model, processor = SmolVLM(), TinySmolVLM().build(), smolvlm_processor(BIG_SIDE, LONGEST)
    size = (200, 90)
    frames = torch.stack([gradient(*size)] * 3)
    encoded = processor.video_processor([frames], do_sample_frames=False, **RAW)
    model.config.vision_config.image_size, model.config.vision_config.patch_size = BIG_SIDE, CELL // SCALE
    grid = family.video_grid(model, processor, size, 3)
    check_boxes(grid, encoded["pixel_values"][0], size)
    assert grid.is_video and not grid.is_tiled and [view.frames for view in grid.views] == [(0,), (1,), (2,)]
    with pytest.raises(Unsupported, match="images, not about videos"):
        HERE.video_grid(TinyIdefics3().build(), idefics3_processor(), size, 3)


def test_a_video_prompt_holds_a_token_for_each_cell_of_each_frame():
    family, model, processor = SmolVLM(), TinySmolVLM().build(), smolvlm_processor()
    facts = VideoFacts(n_frames=40, fps=4.0, duration_s=10.0, size=(50, 30))
    numbers = family.sampled(processor, facts, None)
    assert len(numbers) == 6 and numbers == sorted(set(numbers)) and numbers[-1] < 40
    video = np.stack([np.asarray(noise(50, 30, seed=number)) for number in numbers])
    metadata = {"total_num_frames": 40, "fps": 4.0, "duration": 10.0, "frames_indices": numbers}
    inputs = processor(
        videos=[[video]], text=["<video> what"], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    assert int((inputs["input_ids"] == IMAGE).sum()) == family.video_grid(model, processor, (50, 30), 6).n_tokens
    with torch.no_grad():
        model(**inputs)


def test_frames_are_spread_from_the_first_to_the_last():
    assert evenly(10, 4) == [0, 3, 6, 9] and evenly(3, 8) == [0, 1, 2] and evenly(9, 1) == [4] and evenly(1, 1) == [0]
    assert SmolVLM().sampled(None, VideoFacts(100, 25.0, 4.0, (9, 9)), 5) == [0, 25, 50, 74, 99]


def test_variants_that_would_be_cut_wrongly_are_refused():
    model = TinyIdefics3().build()
    with pytest.raises(Unsupported, match="4 tokens of 24 px, but its model makes 9 of 24 px"):
        HERE.check(model, idefics3_processor(n_tokens=4), "it")
    with pytest.raises(Unsupported, match="9 tokens of 48 px"):
        HERE.check(model, idefics3_processor(side=48), "it")
    with pytest.raises(Unsupported, match="does not resize"):
        HERE.check(model, idefics3_processor(do_resize=False), "it")


def test_the_menu_plans_a_square_image_as_its_published_processor_cuts_it():
    info = planning_before_loading("HuggingFaceTB/SmolVLM2-2.2B-Instruct")
    assert (info.n_visual, info.n_views, info.has_tiles) == (17 * 81, 17, True)
    assert crops((1000, 1000), 1536, 384) == crops((1000, 1000), 2048, 512) == crops((1000, 1000), 1456, 364) == (4, 4)
    assert {"idefics3", "smolvlm"} <= set(FAMILIES)


def test_an_image_of_one_colour_is_no_padding():
    """The stock model drops images that are 0 everywhere; no 8-bit colour becomes exactly 0."""
    processor = idefics3_processor()
    for level in (127, 128):
        inputs = processor(images=[[Image.new("RGB", (30, 30), (level,) * 3)]], text=["<image>"], return_tensors="pt")
        assert (inputs["pixel_values"] != 0).any()
