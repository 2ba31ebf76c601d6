"""Downsampling on every family: the stock code on fewer and smaller squares, counted and recorded as what it is."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from clip_files import coded
from PIL import Image
from tiny_families import CASES
from torch.nn.functional import interpolate

import tokviz
from tokviz.engine import running_on
from tokviz.errors import BadInput
from tokviz.grids import Tiling, nearest_tiling
from tokviz.media.video import Video
from tokviz.models.geometry import pinpoints_of
from tokviz.models.prompts import model_inputs
from tokviz.models.shrinking import coarser
from tokviz.models.shrunk_tiles import packed, through_tower
from tokviz.models.tiles import best_resolution
from tokviz.runs.inputs import grid_of, open_media
from tokviz.runs.smaller import encode_smaller, lies_in
from tokviz.ui.session_checks import check_fits_grid

QUESTION = "what is it ?"
IMAGES = [
    "llava_next (vicuna)",
    "llava_next (mistral)",
    "llava_next_video",
    "llava_onevision",
    "video_llava",
    "internvl",
]
VIDEOS = [
    "llava_next_video (videos)", "llava_next_video (videos, conv)", "llava_onevision (videos)", "video_llava (videos)",
    "internvl (videos)", "qwen2_vl (videos)", "qwen2_5_vl (videos)", "qwen3_vl (videos)",
]  # fmt: skip


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def clip():
    frames = np.random.default_rng(1).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)
    return coded(frames.repeat(8, axis=1).repeat(8, axis=2))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    models = {}

    def load(name):
        if name not in models:
            folder = tmp_path_factory.mktemp("model")
            CASES[name].model(torch.float32).save_pretrained(folder)
            CASES[name].processor().save_pretrained(folder)
            models[name] = tokviz.load(folder)
        return models[name]

    return load


def trained_at(vlm, px, pinpoints=None):
    """The stock model as if it had been made for images of ``px``, with the interpolated position embeddings."""
    model = deepcopy(vlm.model)
    model.config.vision_config.image_size = px
    if pinpoints is not None:
        model.config.image_grid_pinpoints = pinpoints
    for tower in vlm.family.interpolating(model):
        embeddings, patch = getattr(tower, "vision_model", tower).embeddings, model.config.vision_config.patch_size
        n = (px // patch) ** 2 + int(vlm.family.has_cls(model))
        table = embeddings.position_embedding.weight
        new = embeddings.interpolate_pos_encoding(table.new_zeros(1, n, table.shape[1]), px, px)[0].detach()
        embeddings.position_embedding = torch.nn.Embedding.from_pretrained(new)
        embeddings.position_ids, embeddings.image_size = torch.arange(n)[None], px
    return model


def shrunk(pixels, px):
    flat = interpolate(pixels.flatten(0, -4), size=(px, px), mode="bicubic", antialias=True)
    return flat.unflatten(0, pixels.shape[:-3])


def checked(vlm, source, budget, frames=None):
    """The smaller prompt; its text is that of the whole one, and it is no larger than asked for."""
    media = open_media(vlm, source, frames)
    shown, grid = media if isinstance(media, Video) else media.image, grid_of(vlm, media)
    smaller = encode_smaller(vlm, shown, QUESTION, grid, budget)
    inputs = model_inputs(vlm, shown, QUESTION)[0]
    prompt, visual = smaller.prompt, torch.tensor(vlm.family.visual_token_ids(vlm.model))
    ids, before = prompt.input_ids[0], inputs["input_ids"][0]
    if not smaller.shrunk.resizes:
        assert ids[~torch.isin(ids, visual)].tolist() == before[~torch.isin(before, visual)].tolist()
    assert int(torch.isin(ids, visual).sum()) == smaller.n_tokens == smaller.shrunk.grid.n_tokens <= budget
    assert prompt.question_mask.shape == prompt.input_ids.shape
    assert prompt.input_ids[prompt.question_mask].tolist() == vlm.processor.tokenizer(QUESTION)["input_ids"]
    return smaller, shown


@torch.no_grad()
def logits_of(vlm, prompt):
    with running_on(vlm.model, vlm.family, prompt):
        return vlm.model(**prompt.generate_inputs()).logits[0, -1]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [(60, 40), (31, 90)])
@torch.no_grad()
def test_an_image_is_what_the_stock_code_makes_of_smaller_squares(loaded, name, size):
    vlm, image = loaded(name), noise(*size)
    n = grid_of(vlm, open_media(vlm, image, None)).n_tokens
    seen = set()
    for budget in sorted({2, 5, n // 3, n // 2, n - 1}):
        smaller, _ = checked(vlm, image, budget)
        tiling, px = smaller.shrunk.tiling, smaller.shrunk.pixels[0]
        seen.add(smaller.shrunk.how)
        made = vlm.processor(
            images=[image], text=[vlm.processor.image_token], return_tensors="pt", **smaller.shrunk.options
        )
        if name == "video_llava":
            assert smaller.shrunk.pixels[0] % 8 == 0
            width, height = smaller.shrunk.pixels
            if width != height:
                continue
        pixels = made[next(key for key in made if key.startswith("pixel_values"))]
        small = shrunk(pixels, px)
        ids = {"input_ids": smaller.prompt.input_ids, "attention_mask": smaller.prompt.attention_mask}
        if tiling is not None and not tiling.high:  # the stock model makes this of several images only
            features = through_tower(vlm.model, small[0, :1], vlm.family.has_cls(vlm.model))[0]
            by_hand = torch.cat([features, vlm.model.base_model.image_newline[None]])
            assert torch.equal(smaller.prompt.inputs_embeds[smaller.prompt.visual_mask], by_hand)
            continue
        if tiling is not None:
            model = trained_at(vlm, px, [[tiling.high * px, tiling.wide * px]])
            ids["image_sizes"] = made["image_sizes"]
        else:
            model = trained_at(vlm, px) if name != "internvl" else vlm.model
        expected = model(**ids, pixel_values=small).logits[0, -1]
        assert (logits_of(vlm, smaller.prompt) - expected).abs().max() <= 2e-5
    assert len(seen) > 1 or name == "video_llava"


@pytest.mark.parametrize("name", VIDEOS)
@torch.no_grad()
def test_a_video_keeps_its_frames_in_smaller_squares(loaded, clip, name):
    vlm = loaded(name)
    grid = grid_of(vlm, open_media(vlm, clip, 4))
    n = grid.n_tokens
    for budget in sorted({n // 2, n // 3, n - 1}):
        smaller, video = checked(vlm, clip, budget, frames=4)
        small, (width, height) = smaller.shrunk.grid, smaller.shrunk.pixels
        assert [view.frames for view in small.views] == [view.frames for view in grid.views]
        ids = {"input_ids": smaller.prompt.input_ids, "attention_mask": smaller.prompt.attention_mask}
        if smaller.shrunk.resizes:
            frames = tuple(frame.resize((width, height), Image.Resampling.BICUBIC) for frame in video.frames)
            made = model_inputs(vlm, replace(video, frames=frames), QUESTION, smaller.shrunk.options)[0]
            model, ids = vlm.model, made
        elif width == height:
            model = vlm.model if name.startswith("internvl") else trained_at(vlm, width)
            made = model_inputs(vlm, video, QUESTION)[0]
            key = next(key for key in made if key.startswith("pixel_values"))
            ids[key] = shrunk(made[key], width)
        else:
            continue
        expected = model(**ids).logits[0, -1]
        assert (logits_of(vlm, smaller.prompt) - expected).abs().max() <= 2e-5
    with pytest.raises(BadInput, match="Downsampling keeps all frames, and these take at least"):
        encode_smaller(vlm, video, QUESTION, grid, len(grid.views) - 1)


@pytest.mark.parametrize("name", ["llava_next (vicuna)", "llava_onevision"])
@pytest.mark.parametrize("size", [(60, 40), (31, 90), (90, 31), (48, 48)])
@torch.no_grad()
def test_packing_at_full_size_is_the_models_own(loaded, name, size):
    """The same bits as the stock model's features, for the copy that its processor chooses."""
    vlm = loaded(name)
    config, image = vlm.model.config, noise(*size)
    made = vlm.processor(images=[image], text=["<image>"], return_tensors="pt")
    side, patch = vlm.family.sides(vlm.model)
    high, wide = best_resolution(size, pinpoints_of(config.image_grid_pinpoints))
    tiling = Tiling(high // side, wide // side, side // patch, 0)
    images = made["pixel_values"][0, : 1 + tiling.high * tiling.wide]
    mine = packed(
        vlm.model,
        through_tower(vlm.model, images, vlm.family.has_cls(vlm.model)),
        size,
        tiling,
        vlm.family.most_crops(vlm.model),
    )
    stock = vlm.model.get_image_features(made["pixel_values"], made["image_sizes"]).pooler_output[0]
    assert torch.equal(mine, stock)


@pytest.mark.parametrize("name", [*IMAGES, *VIDEOS])
def test_lanes_count_record_and_draw_it(loaded, clip, name):
    vlm = loaded(name)
    source = clip if "videos" in name else noise(60, 40)
    options = {"frames": 4} if "videos" in name else {}
    n = grid_of(vlm, open_media(vlm, source, options.get("frames"))).n_tokens
    comparison = tokviz.compare(vlm, source, QUESTION, ["downsample"], n // 2, max_new_tokens=2, **options)
    run = comparison["downsample"]
    assert run.error is None
    (stage,) = run.stages
    assert run.actual.final == len(stage.kept) + stage.n_extra <= n // 2 and set(run.tokens_per_layer) == {
        run.actual.final
    }
    assert sorted({token for token in stage.assignment if token >= 0}) == stage.kept
    assert all(stage.assignment[token] == token for token in stage.kept)
    patches = [token for token, row in enumerate(comparison.grid.row) if row >= 0]
    assert all(stage.assignment[token] >= 0 for token in patches), "a patch is nowhere"
    assert run.cost.vision_flops < comparison["full"].cost.vision_flops
    assert stage.site_label.startswith("the frames themselves" if "videos" in name else "the image itself")
    check_fits_grid(comparison)
    assert tokviz.Comparison.from_json(comparison.to_json()) == comparison


def test_where_each_token_of_a_film_lies():
    """Two frames of 2 x 3 with a [CLS] in front, as 1 x 2; then as they are."""
    whole = tokviz.records.TokenGrid(
        image_size=(6, 4),
        views=[frame(0), frame(1)],
        view=[0] * 7 + [1] * 7,
        row=[-1, 0, 0, 0, 1, 1, 1] * 2,
        col=[-1, 0, 1, 2, 0, 1, 2] * 2,
        box=[None, *[(0.0, 0.0, 1.0, 1.0)] * 6] * 2,
    )
    assert lies_in(whole, coarser(whole, 1, 2, before=1)) == [0, 1, 1, 2, 1, 1, 2, 3, 4, 4, 5, 4, 4, 5]
    assert lies_in(whole, whole) == list(range(14))
    assert lies_in(whole, coarser(whole, 1, 2)) == [-1, 0, 0, 1, 0, 0, 1, -1, 2, 2, 3, 2, 2, 3]


def frame(number):
    return tokviz.records.GridView(
        name=f"frame {number + 1}", rows=2, cols=3, seen=(0.0, 0.0, 6.0, 4.0), level=number, frames=(number,)
    )


def test_the_nearest_tiling_by_hand():
    """24 x 24 trained; of 640: the thumbnail alone wastes 63, five squares of 10 x 10 are 2.4 times as coarse."""
    thumbnail, five, small = Tiling(0, 0, 24, 577), Tiling(2, 2, 10, 520), Tiling(0, 0, 23, 530)
    assert nearest_tiling([five, small, thumbnail], 24, 640) == thumbnail
    assert nearest_tiling([five, small, thumbnail], 24, 576) == small  # 576/530 < 24/10
    assert nearest_tiling([five, thumbnail], 24, 519) is None
    assert nearest_tiling([Tiling(1, 2, 12, 300), Tiling(0, 0, 12, 300)], 24, 400) == Tiling(0, 0, 12, 300)
    assert thumbnail.words == "whole image without crops, 24 x 24 tokens"
    assert five.words == "whole image and 2 x 2 crops, 10 x 10 each"


def test_too_few_tokens_for_any_tiling_are_refused(loaded):
    vlm = loaded("llava_next (vicuna)")
    grid = grid_of(vlm, open_media(vlm, noise(60, 40), None))
    with pytest.raises(BadInput, match=r"leaves at least 2 tokens of this image here; ask for more\."):
        encode_smaller(vlm, noise(60, 40), QUESTION, grid, 1)
