"""InternVL: what each token sees and is made of, what the processor cuts, whose words a prompt holds, methods on it."""

import random
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_case import PATCH, noise
from tiny_internvl import N_TOKENS, SIDE, TinyInternVL, internvl_processor
from transformers import InternVLModel, InternVLProcessor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

import tokviz
from tokviz.engine import encode
from tokviz.errors import Unsupported
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.internvl import InternVL, crops
from tokviz.names import VideoFacts
from tokviz.pruners import get
from tokviz.runs.inputs import geometry_of
from tokviz.types import CLS_FEATURE, Budget, PlanningInfo

CASE = TinyInternVL()
BIG = 96
SIZES = [(300, 200), (200, 300), (640, 180), (101, 333), (500, 500), (97, 96)]
PLAIN = {"do_rescale": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3, "return_tensors": "pt"}


def shape_of(side=BIG):
    """As much of a model as geometry asks for."""
    vision = SimpleNamespace(image_size=[side, side], patch_size=[PATCH, PATCH])
    return SimpleNamespace(config=SimpleNamespace(vision_config=vision, downsample_ratio=0.5))


def shuffled(images):
    """The colours of each token's four patches, through the stock model's own pixel shuffle.

    Shape: ``(P, 3, S, S)`` -> ``(P, n, 12)``.
    """
    n = images.shape[-1] // PATCH
    patches = images.unflatten(-1, (n, PATCH)).unflatten(-3, (n, PATCH)).mean((3, 5)).permute(0, 2, 3, 1)
    return InternVLModel.pixel_shuffle(None, patches.contiguous(), 0.5).flatten(1, 2)


def gradients(width, height):
    """Red grows with x, green with y; unrounded, so nothing blurs them. Shape: ``(3, H, W)``."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, -1)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(-1, width)
    return torch.stack([x, y, torch.zeros_like(x)])


def check_boxes(size, grid, images):
    """Every token sees the middle of its box, in the mean of its four patches."""
    seen = shuffled(images).unflatten(-1, (4, 3)).mean(2).flatten(0, 1)
    assert len(seen) == grid.n_tokens
    for (red, green, _), (x0, y0, x1, y1) in zip(seen.tolist(), grid.box, strict=True):
        assert abs(red * size[0] - (x0 + x1) / 2) < 0.06 * (x1 - x0)
        assert abs(green * size[1] - (y0 + y1) / 2) < 0.06 * (y1 - y0)


# -- geometry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_each_token_sees_the_middle_of_its_box(size):
    """Crops first, the whole image last, which is view 0 as in other families."""
    processor = internvl_processor(BIG, 36, 12)
    images = processor.image_processor(gradients(*size), crop_to_patches=True, **PLAIN)["pixel_values"]
    grid = InternVL().grid(shape_of(), processor, size, {})
    check_boxes(size, grid, images)
    high, wide = crops(size, BIG, 1, 12)
    assert grid.view == [*(view for view in range(1, high * wide + 1) for _ in range(36)), *[0] * 36]
    told = geometry_of(grid).cell
    assert sorted(map(tuple, told[: high * wide * 36].tolist())) == [
        (row, col) for row in range(high * 6) for col in range(wide * 6)
    ]
    for number, view in enumerate(grid.views):
        mine = np.array([box for box, v in zip(grid.box, grid.view, strict=True) if v == number])
        assert view.level == min(number, 1) and view.seen == pytest.approx((*mine[:, :2].min(0), *mine[:, 2:].max(0)))


@pytest.mark.parametrize("size", SIZES)
def test_frames_are_seen_whole(size):
    processor = internvl_processor(BIG, 36)
    video = gradients(*size)[None].expand(3, -1, -1, -1)
    frames = processor.video_processor([video], do_sample_frames=False, **PLAIN)["pixel_values_videos"][0]
    grid = InternVL().video_grid(shape_of(), processor, size, 3)
    check_boxes(size, grid, frames)
    assert [view.frames for view in grid.views] == [(0,), (1,), (2,)] and grid.view == sorted([0, 1, 2] * 36)


def test_images_are_cut_as_the_processor_cuts_them():
    sizes = random.Random(3)
    squares = [(side, side) for side in range(60, 400, 7)]  # several rectangles are equally close
    for size in [*squares, *((sizes.randint(1, 900), sizes.randint(1, 900)) for _ in range(300))]:
        most = sizes.randint(1, 12)
        wide, high = get_optimal_tiled_canvas(size[::-1], (BIG, BIG), 1, most)
        assert crops(size, BIG, 1, most) == ((0, 0) if wide * high == 1 else (high, wide)), size


@pytest.mark.skipif(not hasattr(InternVLProcessor, "images_kwargs"), reason="said elsewhere in older versions")
def test_a_processor_that_does_not_cut_is_believed():
    processor = internvl_processor()
    assert len(CASE.here.grid(CASE.model(), processor, (64, 32), {}).views) == 3
    processor.images_kwargs = {"crop_to_patches": False}
    assert len(CASE.here.grid(CASE.model(), processor, (64, 32), {}).views) == 1


def test_a_token_is_made_of_the_patches_that_the_model_shuffles_together():
    """Patches carry their own numbers through the stock pixel shuffle."""
    n = BIG // PATCH
    numbers = torch.arange(n * n, dtype=torch.float64).reshape(1, n, n, 1)
    expected = InternVLModel.pixel_shuffle(None, numbers, 0.5).flatten(1, 2)[0]
    (image,) = InternVL().images(shape_of(), {}, 1, 36)
    assert image.sources.tolist() == expected.tolist() and image.patch.tolist() == list(range(36))
    with pytest.raises(Unsupported, match="squares of 96 px"):
        InternVL().images(shape_of(), {}, 1, 35)


@pytest.mark.parametrize(
    ("facts", "wanted", "expected"),
    [((100, 25.0), None, [6, 18, 31, 43, 56, 68, 81, 93]), ((100, 25.0), 4, [12, 37, 62, 87]),
     ((5, 25.0), None, [0, 1, 2, 3, 4]), ((1, 25.0), 3, [0])],
)  # fmt: skip
def test_frames_are_chosen_as_the_processor_does(facts, wanted, expected):
    n_frames, fps = facts
    found = VideoFacts(n_frames, fps, n_frames / fps, (64, 48))
    assert CASE.here.sampled(internvl_processor(), found, wanted) == expected


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """A local folder, loaded as any user's."""
    folder = tmp_path_factory.mktemp("internvl")
    CASE.model(torch.float32).save_pretrained(folder)
    CASE.processor().save_pretrained(folder)
    return tokviz.load(folder)


def test_layers_are_counted_from_either_end():
    """Hidden state 0 are the embeddings, so state h (or h - 5, of four layers) leaves layer h - 1."""
    layers = ["first", "second", "third", "fourth"]
    for h, expected in enumerate(layers, 1):
        for layer in (h, h - 5):
            tower = SimpleNamespace(encoder=SimpleNamespace(layer=layers))
            config = SimpleNamespace(vision_feature_layer=layer)
            model = SimpleNamespace(base_model=SimpleNamespace(vision_tower=tower), config=config)
            assert InternVL().vision_layer(model, "feature") == expected
            assert InternVL().vision_layer(model, "last") == "fourth"


def test_tokens_are_as_many_as_the_prompt_holds(vlm):
    for size in [(60, 40), (31, 90), (48, 48), (100, 20), (200, 190)]:
        text = "user : <IMG_CONTEXT>\n what ? assistant :"
        ids = vlm.processor(images=[noise(*size, 1)], text=[text], return_tensors="pt")["input_ids"]
        grid = vlm.family.grid(vlm.model, vlm.processor, size, {})
        assert int(CASE.is_visual(ids).sum()) == grid.n_tokens == len(CASE.layout("image", size, 1))


def test_words_between_frames_are_no_images_and_not_the_users():
    """The ids of a video prompt: every frame behind its number, in marks."""
    processor = internvl_processor()
    frames = np.stack([np.asarray(noise(48, 48, seed)) for seed in range(3)])
    made = processor(videos=[frames], text=["<video>\n what is it ?"], return_tensors="pt", do_sample_frames=False)
    ids = made["input_ids"][0].tolist()
    assert ids[:7] == [95, 92, 90, 90, 90, 90, 93] and ids[7:9] == [96, 92]
    words = processor.tokenizer.convert_tokens_to_ids(["what", "is", "it", "?"])
    assert ids[-4:] == words and made["pixel_values"].shape == (3, 3, SIDE, SIDE)
    seen = encode(CASE.model(torch.float32), CASE.here, made, ())
    assert seen.n_visual == [3 * N_TOKENS] and seen.vision[0].view.tolist() == sorted([0, 1, 2] * N_TOKENS)
    rows = seen.rows(torch.ones_like(seen.visual_mask), seen.visual_mask, None)
    asked = made["input_ids"][rows.question.bool()].tolist()
    assert asked == [93, *words], "text behind the last visual token; what stands between frames is none of it"


# -- loading and planning ----------------------------------------------------------------------------------------------


def test_variants_that_would_be_cut_wrongly_are_refused():
    model = CASE.model()
    CASE.here.check(model, internvl_processor(), "it")
    for processor, sentence in [
        (internvl_processor(side=48), r"4 tokens of \[48, 48\] px"),
        (internvl_processor(n_tokens=16), "16 tokens"),
        (internvl_processor(do_center_crop=True), "squeeze"),
    ]:
        with pytest.raises(Unsupported, match=sentence):
            CASE.here.check(model, processor, "it")
    for part, name, value, sentence in [
        ("", "vision_feature_select_strategy", "full", "'full'"),
        ("", "vision_feature_layer", [-1, -2], "one layer"),
        ("vision_config", "patch_size", [8, 4], "squares only"),
        ("vision_config", "patch_size", [32, 32], "no whole tokens"),
    ]:
        odd = SimpleNamespace(config=deepcopy(model.config))
        setattr(getattr(odd.config, part) if part else odd.config, name, value)
        with pytest.raises(Unsupported, match=sentence):
            CASE.here.check(odd, internvl_processor(), "it")


@pytest.mark.parametrize("entry", InternVL().catalog, ids=lambda entry: entry.id)
def test_the_menu_plans_a_square_image_as_its_published_processor_cuts_it(entry):
    info = planning_before_loading(entry.id)
    assert crops((1000, 1000), 448, 1, 12) == (3, 3) and info.n_visual == (9 + 1) * 256 and info.n_views == 10
    assert info.has_tiles and info.has_cls and not info.projects_cls and not info.merges_patches
    assert entry.visual_tokens == 13 * 256 and info.n_vision_layers is None


# -- methods -----------------------------------------------------------------------------------------------------------


def test_cls_ranked_methods_rank_by_the_mean_of_four_patches(vlm):
    input_image = noise(70, 33, seed=7)
    comparison = tokviz.compare(vlm, input_image, "what ?", ["fastervlm", "visionzip", "globalcom2"], budget=6,
                                max_new_tokens=1)  # fmt: skip
    grid = comparison.grid
    assert [view.level for view in grid.views] == [0, 1, 1] and grid.view == sorted([1, 2] * 4) + [0] * 4
    pixels = vlm.processor.image_processor(input_image, crop_to_patches=True, return_tensors="pt")["pixel_values"]
    attention = CASE.by_hand(vlm.model, pixels)[CASE.vision[0]].detach()
    cells = CASE.layout("image", input_image.size, 1)
    scores = torch.stack([attention[cell.image, list(cell.patches)].mean() for cell in cells])
    shown = comparison["fastervlm"].stages[0].score.values
    assert shown == pytest.approx(scores.tolist(), rel=1e-4)
    expected = {4 * image + i for image in range(3) for i in scores[4 * image :][:4].topk(2).indices.tolist()}
    assert set(comparison["fastervlm"].stages[0].kept) == expected
    zipped = comparison["visionzip"].stages[0]
    assert zipped.site == "encoder" and zipped.n_extra == 0, "[CLS] is as wide as a patch, not as a token"
    assert len(zipped.kept) == 6
    ratios = comparison["globalcom2"].stages[0].facts["crop_ratios"]
    assert len(ratios) == 2 and comparison["globalcom2"].error is None


def test_visionzip_adds_a_cls_token_only_where_it_can_be_one():
    for projects, needed in ((True, True), (False, False)):
        info = PlanningInfo(30, 6, "internvl", projects_cls=projects)
        (stage,) = get("visionzip").schedule(Budget(10), info, get("visionzip").complete({})).stages
        assert (CLS_FEATURE in stage.needs) == needed and stage.site == "encoder"
