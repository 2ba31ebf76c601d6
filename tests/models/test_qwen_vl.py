"""Qwen's models: geometry against the real processor, folders that load, the menu, what planning knows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_case import IMAGE
from tiny_families import CASES
from transformers import (
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.vision_utils import get_vision_window_index

import tokviz
from tokviz.errors import BadInput, Unsupported
from tokviz.models.catalog import CATALOG, find
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.families import FAMILIES
from tokviz.models.prompts import model_inputs
from tokviz.models.qwen_geometry import merged_patch_grid
from tokviz.runs.execute import planning_info
from tokviz.runs.inputs import geometry_of

SIZES = [(112, 112), (300, 200), (120, 333), (640, 150), (90, 61)]
"""Width and height at five aspect ratios, shrunk and enlarged by the processor."""
PATCHES = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}
KINDS = list(PATCHES)


def images_processor(patch=14, least=56 * 56, most=28 * 28 * 100, **more):
    """The real processor with small settings; grey levels come out as they are."""
    return Qwen2VLImageProcessor(
        patch_size=patch, size={"shortest_edge": least, "longest_edge": most}, image_mean=[0, 0, 0],
        image_std=[1, 1, 1], **more,
    )  # fmt: skip


def described(patch=14, **more):
    """As much of a model and a processor as geometry asks for."""
    vision = SimpleNamespace(
        patch_size=patch, spatial_merge_size=2, temporal_patch_size=2, depth=4, fullatt_block_indexes=[1, 2],
        deepstack_visual_indexes=[0, 1],
    )  # fmt: skip
    language_model = SimpleNamespace(layers=[None] * 4)
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision), base_model=SimpleNamespace(language_model=language_model)
    )
    videos = Qwen2VLVideoProcessor(patch_size=patch)
    return model, SimpleNamespace(image_processor=images_processor(patch, **more), video_processor=videos)


def gradient(width, height):
    """Red grows with x, green with y, over 10..245."""
    x = np.broadcast_to(np.linspace(10, 245, width)[None, :], (height, width))
    y = np.broadcast_to(np.linspace(10, 245, height)[:, None], (height, width))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).round().astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_each_token_sees_the_middle_of_its_box(kind, size):
    patch = PATCHES[kind]
    model, processor = described(patch)
    width, height = size
    made = processor.image_processor(gradient(width, height), return_tensors="np")
    frames, rows, columns = made["image_grid_thw"][0].tolist()
    grid = FAMILIES[kind].grid(model, processor, size, {})
    assert (grid.views[0].rows, grid.views[0].cols, frames) == (rows // 2, columns // 2, 1)
    assert grid == FAMILIES[kind].grid(model, processor, size, {"image_grid_thw": torch.tensor([[1, rows, columns]])})
    # Four patches after the other make one token; of each two frames in three colours.
    colours = made["pixel_values"].reshape(grid.n_tokens, 4, 3, 2, patch, patch).mean((1, 3, 4, 5)) * 255
    seen_x, seen_y = ((colours[:, channel] - 10) / 235 for channel in (0, 1))
    for token, (x0, y0, x1, y1) in enumerate(grid.box):
        # 8-bit rounding of the gradient: half a grey level is width / 470 px.
        assert abs((x0 + x1) / 2 - (seen_x[token] * (width - 1) + 0.5)) < 0.06 * (x1 - x0) + width / 400
        assert abs((y0 + y1) / 2 - (seen_y[token] * (height - 1) + 0.5)) < 0.06 * (y1 - y0) + height / 400
    assert grid.views[0].seen == (0, 0, width, height)
    assert geometry_of(grid).cell.tolist() == [[row, col] for row in range(rows // 2) for col in range(columns // 2)]


def test_boxes_tile_the_whole_image_and_frames_lie_over_each_other():
    grid = merged_patch_grid((300, 200), 4, 6, frames=[(0, 1), (2, 3), (4,)])
    assert [view.name for view in grid.views] == ["frames 1 and 2", "frames 3 and 4", "frame 5"]
    assert grid.is_video and not grid.is_tiled and [view.level for view in grid.views] == [0, 1, 2]
    assert grid.n_tokens == 72 and grid.view.count(1) == 24 and grid.box[:24] == grid.box[24:48]
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in grid.box[:24]) == pytest.approx(300 * 200)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_cut_is_refused(kind):
    family = FAMILIES[kind]
    with pytest.raises(BadInput, match="5000 x 20 px"):
        family.grid(*described(), (5000, 20), {})
    with pytest.raises(Unsupported, match="do_resize"):
        family.grid(*described(do_resize=False), (56, 56), {})
    model, _ = described()
    with pytest.raises(Unsupported, match="otherwise than its model"):
        family.check(model, described(patch=12)[1], "it")
    family.check(*described(), "it")


def test_windows_are_undone_by_the_inverse_of_their_order():
    """A grid whose window order is not its own inverse: 6 x 10 tokens in windows of 4 x 4."""
    vision = SimpleNamespace(spatial_merge_size=2, window_size=112, patch_size=14)
    grid = torch.tensor([[1, 12, 20]])
    order, _ = get_vision_window_index(grid, spatial_merge_size=2, window_size=112, patch_size=14)
    positions = FAMILIES["qwen2_5_vl"].tower_positions(vision, grid)
    assert order[positions].tolist() == list(range(60)) and not torch.equal(order, positions)


def test_a_tower_that_looks_at_windows_only_is_refused():
    model, processor = described()
    model.config.vision_config.fullatt_block_indexes = []
    with pytest.raises(Unsupported, match="fullatt_block_indexes"):
        FAMILIES["qwen2_5_vl"].check(model, processor, "it")


# -- loading and planning ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def vlm(request, tmp_path_factory):
    """A local folder of the architecture, loaded as any user's."""
    folder = tmp_path_factory.mktemp(request.param)
    case = CASES[request.param]
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    return tokviz.load(folder)


def test_a_local_folder_loads_and_says_what_it_is(vlm):
    assert vlm.record.family == vlm.family.id == vlm.model.config.model_type and vlm.record.n_layers == 6
    info = planning_info(vlm, vlm.family.grid(vlm.model, vlm.processor, (60, 40), {}))
    assert info.merges_patches and not info.has_cls and not info.renumbers and info.n_vision_layers is None
    assert info.n_visual == 24 and info.n_views == 1 and not info.has_tiles


def test_only_the_users_words_are_the_question(vlm):
    inputs, mask = model_inputs(vlm, Image.new("RGB", (60, 40)), "what color is the star ?")
    tokens = inputs["input_ids"][0][mask[0]]
    assert vlm.processor.tokenizer.decode(tokens) == "what color is the star ?"
    assert int((inputs["input_ids"] == IMAGE).sum()) == 24
    assert inputs["mm_token_type_ids"].sum() == 24


def test_a_comparison_runs_and_its_records_are_true(vlm):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    methods = ["random", "divprune", "fastv", "fastervlm", "pdrop"]
    found = tokviz.compare(vlm, image, "what is it ?", methods, budget=8, budget_as="final", max_new_tokens=3)
    runs = {run.method: run for run in found.runs}
    assert found.grid.n_tokens == 24 and found.grid.views[0].rows == 4
    for method, run in runs.items():
        assert run.error is None, (method, run.error)
        assert run.cost.vision_flops > 0
        if method != "full":
            assert run.actual.final == 8 and all(stage.positions == "keep" for stage in run.stages)
    assert [stage.score.label for stage in runs["fastervlm"].stages] == ["Attention received"]


@pytest.mark.parametrize("written", ["processor_config.json", "preprocessor_config.json", "min and max"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_plans_without_loading(kind, written, tmp_path):
    """However its processor was written: by this transformers, by older ones, by the first."""
    case = CASES[kind]
    case.build().config.save_pretrained(tmp_path)
    for least, most in ((4, 30), (90_000, 99_000), (4, 40_000)):  # too large, too small, as it is
        images = images_processor(4, least * 64, most * 64)
        said = images.to_dict()
        if written == "min and max":
            said["min_pixels"], said["max_pixels"] = said["size"]["shortest_edge"], said["size"]["longest_edge"]
            del said["size"]
        if written == "processor_config.json":
            (tmp_path / written).write_text(json.dumps({"image_processor": said}, default=str))
        else:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(said, default=str))
        info = planning_before_loading(str(tmp_path))
        counted = images.get_number_of_image_patches(1000, 1000) // 4
        assert (info.family, info.n_visual, info.merges_patches) == (kind, counted, True)
    (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
    for damaged in ("{}", "[]", '{"image_processor": {"size": [], "patch_size": 4}}'):
        (tmp_path / "processor_config.json").write_text(damaged)
        assert planning_before_loading(str(tmp_path)) is None


PUBLISHED = {
    "Qwen2-VL 2B": 2.21, "Qwen2-VL 7B": 8.29, "Qwen2.5-VL 3B": 3.75, "Qwen2.5-VL 7B": 8.29, "Qwen3-VL 2B": 2.13,
    "Qwen3-VL 4B": 4.44, "Qwen3-VL 8B": 8.77,
}  # fmt: skip
"""What the published checkpoints hold, in billions."""


@pytest.mark.parametrize("entry", [e for e in CATALOG if e.family in KINDS], ids=lambda entry: entry.id)
def test_the_menu_plans_without_loading(entry):
    assert entry.parameters.total / 1e9 == pytest.approx(PUBLISHED[entry.label], abs=0.006)
    assert len(entry.revision) == 40 and find(entry.id) is entry
    info = planning_before_loading(entry.id)
    cells = 1000 // (2 * PATCHES[entry.family]) + (entry.family != "qwen3_vl")  # 35.7 of 28 px; 31.25 of 32 px
    assert (info.family, info.n_visual) == (entry.family, cells**2) and not info.renumbers
    assert info.n_layers == entry.config["text_config"]["num_hidden_layers"]
    assert 0.25 < entry.memory_gb_4bit / entry.memory_gb < 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_the_menu_plans_as_the_published_processor_cuts(kind):
    patch = PATCHES[kind]
    most = next(entry.visual_tokens for entry in CATALOG if entry.family == kind) * (2 * patch) ** 2
    grid = FAMILIES[kind].grid(*described(patch, most=most), (1000, 1000), {})
    assert grid.n_tokens == planning_before_loading(next(e.id for e in CATALOG if e.family == kind)).n_visual


def test_vision_flops_follow_windows():
    whole, windows = described()[0], described()[0]
    for model in (whole, windows):
        vision = model.config.vision_config
        vision.embed_dim = vision.hidden_size = 24
        vision.mlp_ratio, vision.intermediate_size, vision.window_size = 2, 48, 56
    grid = merged_patch_grid((300, 200), 4, 6)
    linear, square = 96 * (4 * 24 * 24 + 2 * 24 * 48), 2 * 24
    assert FAMILIES["qwen2_vl"].vision_flops(whole, grid) == 4 * (linear + square * 96**2)
    expected = 4 * linear + square * (2 * 96**2 + 2 * 6 * 16**2)  # layers 0 and 3: six windows of 4 x 4 patches
    assert FAMILIES["qwen2_5_vl"].vision_flops(windows, grid) == expected
