"""LLaVA-NeXT: what the processor shows each token, what the model packs, loading, and methods on real tiles."""

import random
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_case import noise
from tiny_families import CASES
from tiny_llava_next import PINPOINTS, SIDE, llava_next_layout, llava_next_processor
from transformers.image_processing_utils import select_best_resolution

import tokviz
from tokviz.comparison import Comparison
from tokviz.engine import encode, prune, shorten
from tokviz.errors import Unsupported
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.families import FAMILIES
from tokviz.models.llava import Llava
from tokviz.models.llava_next import LlavaNext, tile_grid
from tokviz.models.prompts import model_inputs
from tokviz.models.tiles import best_resolution
from tokviz.pruners import PRUNERS, get
from tokviz.runs.execute import planning_info
from tokviz.runs.inputs import geometry_of
from tokviz.runs.metrics import evidence_shares
from tokviz.types import Budget, PlanningInfo

BIG_SIDE, PATCH = 96, 8
BIG = [(96, 192), (192, 96), (192, 192), (288, 96), (96, 288)]
REAL = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
CASE = CASES["llava_next (vicuna)"]


def some_sizes(count):
    sizes = random.Random(5)
    yield from [(1, 1), (1, 700), (900, 2), (336, 336), (1000, 3), (37, 36)]
    for _ in range(count):
        yield sizes.randint(1, 900), sizes.randint(1, 900)


# -- geometry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 180), (101, 333), (500, 500), (250, 230)])
def test_each_token_sees_the_middle_of_its_box(size):
    """Red grows with x, green with y, blue says how much of a patch is image; unrounded, so nothing blurs them."""
    width, height = size
    x = ((torch.arange(width) + 0.5) / width).expand(height, -1)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(-1, width)
    processor = llava_next_processor(BIG_SIDE, PATCH, [list(pair) for pair in BIG]).image_processor
    encoded = processor(
        torch.stack([x, y, torch.ones_like(x)]), do_rescale=False, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        return_tensors="pt",
    )  # fmt: skip
    n = BIG_SIDE // PATCH
    patches = encoded["pixel_values"][0].unflatten(-1, (n, PATCH)).unflatten(-3, (n, PATCH)).mean((3, 5)).flatten(2)
    grid = tile_grid(size, BIG, BIG_SIDE, PATCH)
    layout = llava_next_layout(width, height, BIG_SIDE, [list(pair) for pair in BIG])
    assert len(layout) == grid.n_tokens and grid.view == [tile for tile, _ in layout]
    checked = 0
    for (tile, patch), box in zip(layout, grid.box, strict=True):
        assert (patch < 0) == (box is None)
        red, green, inside = (0.0, 0.0, 0.0) if box is None else patches[tile, :, patch].tolist()
        if inside < 0.5:
            continue
        # A cell at the border shows padding as well; the box is clipped to the image.
        whole = [size[0] / BIG_SIDE * PATCH, size[1] / BIG_SIDE * PATCH] if tile == 0 else [0.0, 0.0]
        for seen, middle, cell in (
            (red / inside * width, (box[0] + box[2]) / 2, whole[0] or (box[2] - box[0])),
            (green / inside * height, (box[1] + box[3]) / 2, whole[1] or (box[3] - box[1])),
        ):
            assert abs(seen - middle) < 0.06 * cell, (tile, patch)
        checked += 1
    assert checked >= 0.9 * sum(box is not None for box in grid.box)


def test_published_counts():
    assert tile_grid((640, 480), REAL, 336, 14).n_tokens == 2340
    assert tile_grid((500, 500), REAL, 336, 14).n_tokens == 2928


def test_a_product_just_below_a_whole_number_is_that_number():
    """110 * (48 / 352) rows are 15, and 14.999999999999998 in floating point; the processor rounds to 7 digits."""
    processor = llava_next_processor(336, 14, [list(pair) for pair in REAL])
    counted = processor._get_num_multimodal_tokens(image_sizes=[(110, 352)])["num_image_tokens"]
    assert [tile_grid((352, 110), REAL, 336, 14).n_tokens] == counted == [1360]


def test_the_resolution_is_the_processors_whatever_the_order_of_the_list():
    """A small image fits into many: the one with the least padding is meant, not the first."""
    assert best_resolution((100, 100), [(672, 672), (336, 672)]) == (336, 672)
    for pinpoints in (REAL, REAL[::-1], sorted(REAL, key=lambda pair: -pair[0])):
        for width, height in some_sizes(100):
            chosen = select_best_resolution((height, width), [list(pair) for pair in pinpoints])
            assert best_resolution((width, height), pinpoints) == tuple(chosen), (width, height)


def test_tokens_are_as_many_as_the_processor_says_and_as_the_model_packs():
    processor, model = llava_next_processor(), CASE.model()
    for width, height in some_sizes(80):
        grid = CASE.here.grid(model, processor, (width, height), {})
        counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"]
        assert [grid.n_tokens] == counted, (width, height)
        crops = len(grid.views) - 1
        (packed,) = CASE.here.images(model, {"image_sizes": torch.tensor([[height, width]])}, 1 + crops, 9)
        assert packed.n_tiles == len(grid.views) and packed.tile.tolist() == grid.view
        layout = llava_next_layout(width, height)
        assert list(zip(packed.tile.tolist(), packed.patch.tolist(), strict=True)) == layout
        assert [box is None for box in grid.box] == [patch < 0 for _, patch in layout]


def test_crops_are_stitched_to_one_grid_that_shows_the_whole_image():
    """Level 1 is drawn as one: its cells are a full rectangle, and their boxes tile the image without overlap."""
    for size in [(300, 200), (200, 300), (640, 180), (101, 333), (500, 500)]:
        grid = tile_grid(size, BIG, BIG_SIDE, PATCH)
        told = geometry_of(grid)
        crops = [token for token, view in enumerate(grid.view) if view > 0 and grid.row[token] >= 0]
        cells = told.cell[crops]
        rows, cols = (cells.max(dim=0).values + 1).tolist()
        assert sorted(map(tuple, cells.tolist())) == [(r, c) for r in range(rows) for c in range(cols)]
        assert grid.view.count(0) == 144 and told.cell[:144].tolist() == [[i // 12, i % 12] for i in range(144)]
        newlines = [token for token, row in enumerate(grid.row) if row < 0]
        assert len(newlines) == rows and (told.cell[newlines] == -1).all()
        area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (grid.box[token] for token in crops))
        # Unpadding counts whole cells, padding pixels: at most one row (column) of cells is lost or shared.
        assert area == pytest.approx(size[0] * size[1], rel=1.5 / min(rows, cols))
        for number, view in enumerate(grid.views):
            mine = np.array([box for box, v in zip(grid.box, grid.view, strict=True) if v == number and box])
            assert view.rows * view.cols == len(mine) and view.level == min(number, 1)
            if len(mine):
                assert view.seen == pytest.approx((*mine[:, :2].min(0), *mine[:, 2:].max(0)))
        assert grid.views[0].seen == (0, 0, *size)


def test_crops_that_hold_padding_only_are_views_without_tokens():
    wide = tile_grid((80, 600), [(96, 288)], BIG_SIDE, PATCH)
    assert [view.rows * view.cols > 0 for view in wide.views] == [True, False, True, False]
    assert set(wide.view) == {0, 2} and wide.views[1].seen == (0, 0, 0, 0)


# -- loading and planning ----------------------------------------------------------------------------------------------


def test_variants_that_would_be_cut_wrongly_are_refused():
    model = CASE.model()
    CASE.here.check(model, llava_next_processor(), "it")
    with pytest.raises(Unsupported, match="image_grid_pinpoints are not those"):
        CASE.here.check(model, llava_next_processor(pinpoints=PINPOINTS[:2]), "it")
    square = CASES["llava"].processor()
    square.image_processor.size, square.image_processor.crop_size = {"shortest_edge": SIDE}, {"shortest_edge": SIDE}
    with pytest.raises(Unsupported, match="image_grid_pinpoints are not those"):
        CASE.here.check(model, square, "it")
    with pytest.raises(Unsupported, match=r"tiles of other sizes \(\[24, 32\] px\)"):
        CASE.here.check(model, llava_next_processor(side=32), "it")
    with pytest.raises(Unsupported, match="or patches"):
        CASE.here.check(model, llava_next_processor(patch=12), "it")
    odd = SimpleNamespace(config=deepcopy(model.config))
    odd.config.image_grid_pinpoints = [[24, 40]]
    with pytest.raises(Unsupported, match="no multiples of the tile of 24 px"):
        CASE.here.check(odd, llava_next_processor(pinpoints=[[24, 40]]), "it")
    odd.config.vision_feature_select_strategy = "full"
    with pytest.raises(Unsupported, match="'full'"):
        CASE.here.check(odd, llava_next_processor(), "it")


@pytest.mark.parametrize("entry", Llava().catalog + LlavaNext().catalog, ids=lambda entry: entry.id)
def test_the_menu_plans_without_loading(entry):
    info = planning_before_loading(entry.id)
    assert info.family == entry.family and info.n_visual == entry.visual_tokens and info.has_cls
    assert info.has_tiles == (entry.family == "llava_next") and info.n_views == (5 if info.has_tiles else 1)
    assert (info.n_vision_layers is None) == info.has_tiles
    assert 14 < entry.memory_gb < 31 and 0.25 < entry.memory_gb_4bit / entry.memory_gb < 0.45


def saved(name, folder):
    case = CASES[name]
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llava_next (vicuna)", "llava_next (mistral)"])
def next_vlm(request, tmp_path_factory):
    """A local folder of the architecture, loaded as any user's."""
    folder = saved(request.param, tmp_path_factory.mktemp("next"))
    loaded = tokviz.load(folder)
    assert planning_before_loading(str(folder)) == planning_of(loaded, (1000, 1000))
    return loaded


def planning_of(vlm, size):
    return planning_info(vlm, vlm.family.grid(vlm.model, vlm.processor, size, {}))


# -- methods on real tiles ---------------------------------------------------------------------------------------------

ALL = [pruner.id for pruner in PRUNERS]
TILED = PlanningInfo(44, 6, "llava_next", n_views=5, has_tiles=True)
HERE = [p for p in PRUNERS if p.missing(TILED) is None and not p.encodes_anew]
IMAGE = noise(60, 40, seed=7)
BOX = (10, 10, 35, 30)


@pytest.fixture(scope="module")
def comparison(next_vlm) -> Comparison:
    return tokviz.compare(next_vlm, IMAGE, "what is it ?", ALL, budget=20, max_new_tokens=3, evidence=[BOX])


def test_every_method_runs_or_says_what_the_model_lacks(next_vlm, comparison):
    info = planning_of(next_vlm, IMAGE.size)
    assert info.has_tiles and info.n_views == 5 and info.n_visual == comparison.grid.n_tokens
    for run in comparison.runs:
        assert run.error == get(run.method).missing(info), run.method
        assert run.error is not None or run.answer_tokens
    refused = {run.method for run in comparison.runs if run.error}
    # An image has no frames.
    assert refused == {p.id for p in PRUNERS if p.needs_frames}
    assert Comparison.from_json(comparison.to_json()) == comparison


def test_the_unpruned_run_is_the_stock_model(next_vlm, comparison):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it ?"}]}]
    text = next_vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = next_vlm.processor(images=IMAGE, text=text, return_tensors="pt")
    output = next_vlm.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    ids = output[0, inputs["input_ids"].shape[1] :].tolist()
    assert [token.id for token in comparison.runs[0].answer_tokens] == ids


@pytest.mark.parametrize("pruner", HERE, ids=lambda pruner: pruner.id)
def test_keeping_every_token_is_bit_identical_to_the_stock_model(next_vlm, pruner):
    """Every stage with a count is asked for more tokens than there are: thumbnail, crops and newlines all stay."""
    vlm, grid = next_vlm, next_vlm.family.grid(next_vlm.model, next_vlm.processor, IMAGE.size, {})
    params = pruner.complete({})
    planned = pruner.schedule(Budget(20), planning_of(vlm, IMAGE.size), params).stages
    stages = [replace(stage, keep=grid.n_tokens + 5) for stage in planned if stage.keep]
    late = [stage for stage in stages if isinstance(stage.site, int)]

    def choose(stage, signals, row):
        return stage.select(signals, stage.keep, params, torch.Generator().manual_seed(0))

    inputs, words = model_inputs(vlm, IMAGE, "what is it ?")
    needs = {need for stage in stages for need in stage.needs}
    with torch.no_grad():
        stock = vlm.model(**inputs).logits
        told = {"question_mask": words, "geometry": [geometry_of(grid, evidence_shares(grid, [BOX]))]}
        encoded = encode(vlm.model, vlm.family, inputs, needs, **told)
        early = [stage for stage in stages if stage not in late]
        short, events = shorten(vlm.model, vlm.family, encoded, early, choose)
        with prune(vlm.model, vlm.family, short, late, choose) as trace:
            assert torch.equal(vlm.model(**short.generate_inputs()).logits, stock)
    for event in [*events[0], *trace.events[0]]:
        assert event.kept.tolist() == list(range(grid.n_tokens))


@pytest.fixture(scope="module")
def attention(next_vlm):
    """[CLS] attention of the feature layer and logits of the last, by hand. Shape: ``(tiles, patches)``."""
    pixels = next_vlm.processor.image_processor(IMAGE, return_tensors="pt")["pixel_values"][0]
    tower = next_vlm.model.model.vision_tower
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states
        found = []
        for layer, hidden in zip(tower.encoder.layers[2:], states[2:4], strict=True):
            normed, attention = layer.layer_norm1(hidden), layer.self_attn
            query, key = (p(normed).unflatten(-1, (3, 8)).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
            found.append((query[:, :, :1] @ key.transpose(2, 3) * 8**-0.5)[:, :, 0])
    return found[0].softmax(-1).mean(1)[:, 1:], found[1].mean(1)[:, 1:]


def tokens_of(comparison, view):
    """Tokens of a tile that are patches, in order."""
    grid = comparison.grid
    return [token for token, v in enumerate(grid.view) if v == view and grid.row[token] >= 0]


def patches_of(view):
    return [patch for tile, patch in llava_next_layout(*IMAGE.size) if tile == view and patch >= 0]


def newlines(comparison):
    return {token for token, row in enumerate(comparison.grid.row) if row < 0}


def kept(comparison, method, stage=0):
    return set(comparison[method].stages[stage].kept)


def test_cls_ranked_methods_keep_an_equal_share_of_every_crop(comparison, attention):
    expected = set()
    for view in range(5):
        scores = attention[0][view, patches_of(view)]
        tokens = tokens_of(comparison, view)
        expected |= {tokens[i] for i in scores.argsort(descending=True)[:4].tolist()}
    assert kept(comparison, "fastervlm") == expected
    shown = comparison["fastervlm"].stages[0].score.values
    assert all(shown[token] is None for token in newlines(comparison)), "no number is invented for a newline"


def test_globalcom2_lets_the_real_thumbnail_guide_the_crops(comparison, attention):
    stage = comparison["globalcom2"].stages[0]
    logits = attention[1]
    patches = [len(patches_of(view)) for view in range(5)]
    ratio = 20 / sum(patches)
    # The thumbnail's 3 x 3 scores over a 2 x 2 grid of crops: the last crop of a row or column takes what is left.
    crop = torch.tensor([0, 1, 1, 2, 3, 3, 2, 3, 3])
    sums = torch.zeros(4).index_add(0, crop, logits[0])
    weights = ((sums - sums.max()) / 10).softmax(0)
    expected = (ratio * (1 + weights - weights.mean())).clamp(max=1)
    assert stage.facts["crop_ratios"] == pytest.approx(expected.tolist(), rel=1e-4)
    assert newlines(comparison) <= set(stage.kept)
    of_thumbnail = [token for token in stage.kept if comparison.grid.view[token] == 0]
    best = logits[0].argsort(descending=True)[: len(of_thumbnail)]
    assert sorted(best.tolist()) == of_thumbnail
    assert sum(stage.facts["tokens_of_thumbnail_and_crops"]) == len(stage.kept) - len(newlines(comparison))


def test_visionzip_keeps_a_cls_token_of_every_tile_and_no_newline(comparison):
    stage = comparison["visionzip"].stages[0]
    assert stage.n_extra == 5 and len(stage.kept) == 15
    assert not newlines(comparison) & set(stage.kept)
    assert [sum(comparison.grid.view[t] == view for t in stage.kept) for view in range(5)] == [3] * 5


def test_apet_keeps_newlines_uncounted_and_as_the_model_made_them(comparison):
    stage = comparison["apet"].stages[0]
    assert stage.site == "encoder" and newlines(comparison) <= set(stage.kept)


def test_joint_methods_prune_over_all_tiles(comparison):
    """DivPrune treats newlines as any token; FastV and PDrop rank the whole span, newlines included."""
    for method in ("divprune", "fastv", "pdrop"):
        stage = comparison[method].stages[0]
        assert stage.n_in == comparison.grid.n_tokens
        values = [stage.score.values[token] for token in sorted(newlines(comparison))] if stage.score else []
        assert all(value is not None for value in values)
    todre = comparison["todre"].stages[0]
    assert not newlines(comparison) & set(todre.kept)
    pivot = todre.order.index(0)
    assert comparison.grid.view[pivot] == 0, "the pivot is looked for in the thumbnail"


def test_cost_counts_the_tower_once_per_tile(next_vlm, comparison):
    vision = next_vlm.model.config.vision_config
    n, d, m = 10, vision.hidden_size, vision.intermediate_size
    assert comparison.runs[0].cost.vision_flops == 5 * 4 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)


def test_mistral_with_a_sliding_window_is_refused():
    from tokviz.engine.checks import check_model

    sliding = CASES["llava_next (mistral)"].model()
    sliding.config.text_config.sliding_window = 512
    with pytest.raises(Unsupported, match="sliding-window"):
        check_model(sliding, FAMILIES["llava_next"])


def test_other_images_fit_their_geometry(next_vlm):
    """Padding, single rows of crops: the engine's count is the geometry's, or compare would raise."""
    for size in [(100, 20), (20, 100), (24, 24)]:
        run = tokviz.compare(next_vlm, noise(*size, seed=3), "what ?", ["apet"], budget=9, max_new_tokens=1).runs[1]
        assert run.error is None and len(run.stages[0].kept) > 0


assert SIDE == 24  # the numbers above are of this tile
