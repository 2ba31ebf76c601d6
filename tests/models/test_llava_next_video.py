"""LLaVA-NeXT-Video and Video-LLaVA: what frames show, which are looked at, loading, and methods on real videos."""

import json
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_case import PATCH, noise
from tiny_families import CASES
from tiny_llava_next_video import PINPOINTS, llava_next_video_processor
from tiny_video_llava import video_llava_processor
from transformers.video_utils import VideoMetadata

import tokviz
from tokviz.errors import Unsupported
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.llava_next_video import LlavaNextVideo
from tokviz.models.video_llava import VideoLlava
from tokviz.names import VideoFacts
from tokviz.runs.execute import planning_info

BIG = 96
SIZES = [(300, 200), (200, 300), (640, 180), (101, 333), (500, 500), (97, 96)]
"""Width and height: six aspect ratios."""
FAMILIES = {
    "llava_next_video": (LlavaNextVideo(), lambda **more: llava_next_video_processor(BIG, PATCH, [[96, 192]], **more)),
    "video_llava": (VideoLlava(), lambda **more: video_llava_processor(BIG, PATCH, **more)),
}
PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


def shape_of(side=BIG, stride=2):
    """As much of a model as geometry asks for."""
    vision = SimpleNamespace(image_size=side, patch_size=PATCH)
    return SimpleNamespace(config=SimpleNamespace(vision_config=vision, spatial_pool_stride=stride))


def gradient_clip(width, height, n_frames=3):
    """Red grows with x, green with y, blue with time; unrounded, so nothing blurs them. Shape: ``(T, 3, H, W)``."""
    x = ((torch.arange(width) + 0.5) / width).expand(n_frames, height, -1)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(n_frames, -1, width)
    time = (torch.arange(n_frames) / n_frames)[:, None, None].expand(-1, height, width)
    return torch.stack([x, y, time], dim=1)


# -- geometry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_sees_the_middle_of_its_box_in_its_frame(family, size):
    here, build = FAMILIES[family]
    processor, (width, height) = build(**PLAIN), size
    pixels = processor.video_processor(
        [gradient_clip(*size)], do_rescale=False, do_sample_frames=False, return_tensors="pt"
    )["pixel_values_videos"][0]
    grid = here.video_grid(shape_of(), processor, size, 3)
    assert grid.is_video and [view.frames for view in grid.views] == [(0,), (1,), (2,)]
    cell = 2 * PATCH if family == "llava_next_video" else PATCH
    n = BIG // cell
    shown = pixels.unflatten(-1, (n, cell)).unflatten(-3, (n, cell)).mean((3, 5))
    patches = [token for token in range(grid.n_tokens) if grid.box[token] is not None]
    assert len(patches) == 3 * n * n and [grid.view[token] for token in patches] == sorted([0, 1, 2] * n * n)
    for token in patches:
        red, green, blue = shown[grid.view[token], :, grid.row[token], grid.col[token]].tolist()
        x0, y0, x1, y1 = grid.box[token]
        assert abs(red * width - (x0 + x1) / 2) < 0.06 * (x1 - x0)
        assert abs(green * height - (y0 + y1) / 2) < 0.06 * (y1 - y0)
        assert blue == pytest.approx(grid.view[token] / 3, abs=1e-4)
    for number, view in enumerate(grid.views):
        mine = np.array([grid.box[token] for token in patches if grid.view[token] == number])
        assert (view.rows, view.cols, view.level) == (n, n, number)
        assert view.seen == pytest.approx((*mine[:, :2].min(0), *mine[:, 2:].max(0)))
        assert min(view.seen[2] - view.seen[0], view.seen[3] - view.seen[1]) == pytest.approx(min(size), rel=0.02)


@pytest.mark.parametrize("name", ["llava_next_video (videos)", "video_llava (videos)"])
@pytest.mark.parametrize("size", [(60, 40), (31, 90)])
def test_the_grid_is_what_the_processor_writes_and_what_the_model_makes(name, size):
    case = CASES[name]
    model, processor = case.model(torch.float32), case.processor()
    frames = np.stack([np.asarray(noise(*size, seed=seed)) for seed in range(5)])
    inputs = processor(text="user : <video> what ?", videos=[frames], do_sample_frames=False, return_tensors="pt")
    grid = case.here.video_grid(model, processor, size, 5)
    assert int(case.is_visual(inputs["input_ids"]).sum()) == grid.n_tokens
    with torch.no_grad():
        made = model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True).pooler_output
    assert grid.n_tokens * 32 == sum(part.numel() for part in made)
    layout = case.layout("video", size, 5)
    assert grid.view == [cell.image for cell in layout]
    assert [box is None for box in grid.box] == [not cell.patches for cell in layout]
    assert grid.n_tokens == 5 * (9 if case.family == "llava_next_video" else 17)


def test_video_llava_puts_a_cls_token_in_front_of_every_frame():
    """257 tokens per frame where papers count 256: 2056 of 8 frames, not 2048."""
    here, _ = FAMILIES["video_llava"]
    model = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=224, patch_size=14)))
    grid = here.video_grid(model, video_llava_processor(224, 14), (640, 360), 8)
    cls = [token for token in range(grid.n_tokens) if grid.box[token] is None]
    assert grid.n_tokens == 2056 and cls == [257 * frame for frame in range(8)]
    assert all(grid.row[token] == grid.col[token] == -1 and grid.view[token] == token // 257 for token in cls)


def test_a_pooled_token_takes_its_own_four_patches():
    """6 x 6 patches, numbered row by row, in 3 x 3 tokens of two frames; of 7 x 7 the last row and column are lost."""
    here, frames = LlavaNextVideo(), torch.empty(1, 2, 3, 1, 1)
    (tokens,) = here.images(shape_of(48), {"pixel_values_videos": frames}, 2, 9)
    assert tokens.sources[0].tolist() == [0, 1, 6, 7] and tokens.sources[8].tolist() == [28, 29, 34, 35]
    assert tokens.sources[13].tolist() == [36 + patch for patch in (14, 15, 20, 21)]
    assert tokens.tile.tolist() == [0] * 9 + [1] * 9 and tokens.patch.tolist() == [*range(9), *range(9)]
    (tokens,) = here.images(shape_of(56), {"pixel_values_videos": frames}, 2, 9)
    assert tokens.sources[8].tolist() == [32, 33, 39, 40] and tokens.sources.max() < 2 * 49


@pytest.mark.parametrize("name", ["llava_next_video (videos)", "video_llava (videos)"])
def test_cost_counts_the_tower_once_per_frame(name):
    case = CASES[name]
    model = case.model(torch.float32)
    grid = case.here.video_grid(model, case.processor(), (64, 48), 5)
    vision = model.config.vision_config
    n = 1 + (vision.image_size // vision.patch_size) ** 2
    d, m = vision.hidden_size, vision.intermediate_size
    assert case.here.vision_flops(model, grid) == 5 * 4 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)


# -- which frames ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_frames", [1, 3, 8, 9, 100, 1234])
def test_frames_are_those_of_the_documentation_and_of_the_stock_processor(family, n_frames):
    here, build = FAMILIES[family]
    facts = VideoFacts(n_frames, 25.0, n_frames / 25, (64, 48))
    processor = build()
    chosen = here.sampled(processor, facts, None)
    count = min(n_frames, 8)
    # As the model's documentation samples: np.arange(0, total_frames, total_frames / 8).astype(int).
    assert chosen == [n_frames * i // count for i in range(count)] and all(isinstance(i, int) for i in chosen)
    clip = np.zeros((n_frames, 2, 2, 3), np.uint8) + (np.arange(n_frames) % 251).astype(np.uint8)[:, None, None, None]
    for wanted in (2, 32):
        if wanted > n_frames:
            assert here.sampled(processor, facts, wanted) == list(range(n_frames))
            continue
        stock = processor.video_processor(
            [clip], do_sample_frames=True, num_frames=wanted, video_metadata=[VideoMetadata(n_frames, fps=25.0)],
            do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False, return_tensors="pt",
        )["pixel_values_videos"]  # fmt: skip
        mine = here.sampled(processor, facts, wanted)
        assert len(mine) == wanted and [i % 251 for i in mine] == stock[0, :, 0, 0, 0].int().tolist()


def test_the_processors_own_number_of_frames_goes_before_the_documentations():
    facts = VideoFacts(100, 25.0, 4.0, (64, 48))
    here, build = FAMILIES["llava_next_video"]
    assert len(here.sampled(build(num_frames=32), facts, None)) == 32
    assert here.sampled(build(num_frames=32), facts, 4) == [0, 25, 50, 75]
    assert len(here.sampled(build(fps=2), facts, None)) == 8
    assert here.sampled(build(fps=1), facts, None) == [0, 25, 50, 75]
    assert here.sampled(build(fps=60), VideoFacts(5, 25.0, 0.2, (64, 48)), None) == [0, 1, 2, 3, 4]


# -- loading and planning ----------------------------------------------------------------------------------------------


def test_variants_that_would_be_cut_wrongly_are_refused():
    case = CASES["llava_next_video"]
    model = case.model()
    case.here.check(model, llava_next_video_processor(), "it")
    with pytest.raises(Unsupported, match="image_grid_pinpoints are not those"):
        case.here.check(model, llava_next_video_processor(pinpoints=PINPOINTS[:2]), "it")
    with pytest.raises(Unsupported, match="cuts frames to 32 px, but its model sees 48 px"):
        case.here.check(model, llava_next_video_processor(crop_size={"height": 32, "width": 32}), "it")
    with pytest.raises(Unsupported, match="does not cut the middle square"):
        case.here.check(model, llava_next_video_processor(do_center_crop=False), "it")
    with pytest.raises(Unsupported, match="does not cut the middle square"):
        case.here.check(model, llava_next_video_processor(size={"height": 48, "width": 48}), "it")
    odd = SimpleNamespace(config=deepcopy(model.config))
    odd.config.spatial_pool_stride = 3
    with pytest.raises(Unsupported, match="by 3, leaving 4 tokens, but its processor writes 9"):
        case.here.check(odd, llava_next_video_processor(), "it")
    without = SimpleNamespace(**vars(llava_next_video_processor()))
    without.video_processor = None
    with pytest.raises(Unsupported, match="takes no videos"):
        case.here.check(model, without, "it")


def test_video_llava_checks_images_and_frames():
    case = CASES["video_llava"]
    model = case.model()
    case.here.check(model, video_llava_processor(), "it")
    with pytest.raises(Unsupported, match="does not cut images to the 32 px"):
        case.here.check(model, video_llava_processor(48), "it")
    with pytest.raises(Unsupported, match="counts patches of 4 px"):
        case.here.check(model, video_llava_processor(patch=4), "it")
    with pytest.raises(Unsupported, match="cuts frames to 24 px"):
        case.here.check(model, video_llava_processor(crop_size={"height": 24, "width": 24}), "it")
    odd = SimpleNamespace(config=deepcopy(model.config))
    odd.config.vision_feature_select_strategy = "full"
    with pytest.raises(Unsupported, match="'full'"):
        case.here.check(odd, video_llava_processor(), "it")


@pytest.mark.parametrize("entry", LlavaNextVideo().catalog + VideoLlava().catalog, ids=lambda entry: entry.id)
def test_the_menu_plans_without_loading(entry):
    info = planning_before_loading(entry.id)
    assert info.family == entry.family and info.has_cls and entry.takes == ("image", "video")
    expected = (2928, 5, True) if entry.family == "llava_next_video" else (256, 1, False)
    assert (info.n_visual, info.n_views, info.has_tiles) == expected and info.n_vision_layers is None
    assert 14 < entry.memory_gb < 18 and 0.25 < entry.memory_gb_4bit / entry.memory_gb < 0.45


@pytest.fixture(scope="module", params=["llava_next_video", "video_llava"])
def folder(request, tmp_path_factory):
    """A local folder of the architecture."""
    case, path = CASES[request.param], tmp_path_factory.mktemp("video")
    case.model(torch.float32).save_pretrained(path)
    case.processor().save_pretrained(path)
    return path


def test_a_folder_loads_and_plans_as_any_other(folder):
    vlm = tokviz.load(folder)
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    assert vlm.family.id == kind and vlm.family.takes == ("image", "video")
    square = vlm.family.grid(vlm.model, vlm.processor, (1000, 1000), {})
    assert planning_before_loading(str(folder)) == planning_info(vlm, square)
    film = planning_info(vlm, vlm.family.video_grid(vlm.model, vlm.processor, (64, 48), 3))
    tokens = 3 * (9 if kind == "llava_next_video" else 17)
    assert (film.n_visual, film.n_views, film.has_frames, film.has_tiles) == (tokens, 3, True, False)
