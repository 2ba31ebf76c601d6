"""Downsampling is the stock model on a smaller image: the same ids and log-probabilities, and records that say so."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import CASES

import tokviz
from tokviz.errors import BadInput
from tokviz.grids import nearest_grid
from tokviz.models.prompts import model_inputs
from tokviz.pruners import get
from tokviz.runs.metrics import fates
from tokviz.types import Budget, PlanningInfo, Schedule

QUESTION = "how many objects are there?"


def downsampled(vlm, image, budget, **options):
    return tokviz.compare(vlm, image, QUESTION, ["downsample"], budget, max_new_tokens=5, **options)


@pytest.mark.parametrize("budget", [64, 128, 300])
def test_a_fixed_tower_is_the_stock_model_with_interpolated_positions(vlm, scene_image, budget):
    comparison = downsampled(vlm, scene_image, budget)
    run, (rows, columns) = comparison["downsample"], nearest_grid(24, 24, budget)
    inputs, _ = model_inputs(vlm, scene_image, QUESTION)
    patch, ids = vlm.model.config.vision_config.patch_size, inputs["input_ids"][0]
    image = vlm.model.config.image_token_id
    first = int((ids == image).nonzero()[0])
    ids = torch.cat([ids[:first], torch.full((rows * columns,), image), ids[first:][ids[first:] != image]])[None]
    small = torch.nn.functional.interpolate(
        inputs["pixel_values"], size=(rows * patch, columns * patch), mode="bicubic", antialias=True
    )
    tower = vlm.model.base_model.vision_tower
    hook = tower.register_forward_pre_hook(
        lambda _, a, k: (a, {**k, "interpolate_pos_encoding": True}), with_kwargs=True
    )
    try:
        with torch.no_grad():
            for token in run.answer_tokens:
                logits = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=small).logits[0, -1]
                assert int(logits.argmax()) == token.id
                assert float(logits.float().log_softmax(-1)[token.id]) == pytest.approx(token.logprob, abs=1e-3)
                ids = torch.cat([ids, torch.tensor([[token.id]])], dim=1)
    finally:
        hook.remove()
    n = rows * columns
    assert run.tokens_per_layer == [n] * 8 and run.actual.final == n and run.planned.final == budget
    (stage,) = run.stages
    assert len(stage.kept) == n and stage.n_in == 576 and stage.planned_keep == budget
    assert stage.facts == {"grid": f"{rows} x {columns}", "asked_for": budget,
                           "pixels": f"{columns * patch} x {rows * patch}"}  # fmt: skip
    assert not fates(range(576), run.stages, 576).lost
    warned = f"Downsampling made {n} of the {budget} tokens asked for: {rows} x {columns} is the nearest grid."
    assert (warned in run.warnings) == (n < budget)
    assert run.cost.vision_flops < comparison["full"].cost.vision_flops and run.timings["vision"].median_ms > 0
    assert tokviz.Comparison.from_json(comparison.to_json()) == comparison


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def dynamic(request, tmp_path_factory):
    case, folder = CASES[request.param], tmp_path_factory.mktemp("qwen")
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    return tokviz.load(folder)


def test_a_model_of_dynamic_resolution_is_the_stock_model_on_a_smaller_image(dynamic):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    ask = {"question": "what is it ?", "max_new_tokens": 4}
    found = tokviz.compare(dynamic, image, methods=["downsample"], budget=12, **ask)
    run, view = found["downsample"], found.grid.views[0]
    rows, columns = nearest_grid(view.rows, view.cols, 12)
    assert run.error is None and run.actual.final == rows * columns <= 12
    width, height = map(int, run.stages[0].facts["pixels"].split(" x "))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    whole = tokviz.compare(dynamic, small, methods=[], budget=1, **ask)
    assert whole.grid.n_tokens == rows * columns
    assert run.answer_tokens == whole["full"].answer_tokens
    assert run.cost.vision_flops == whole["full"].cost.vision_flops


def test_the_lower_limit_of_a_processor_is_set_aside(dynamic):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    run = tokviz.compare(dynamic, image, "what is it ?", ["downsample"], 1, max_new_tokens=1)["downsample"]
    assert run.error is None and run.actual.final == 1 and run.stages[0].facts["pixels"] == "8 x 8"
    assert dynamic.family.grid(dynamic.model, dynamic.processor, (8, 8), {}).n_tokens > 1


def test_every_token_is_no_pruning_and_repeats_encode_again(vlm, scene_image):
    whole = downsampled(vlm, scene_image, 576)
    assert whole["downsample"].answer == whole["full"].answer and whole["downsample"].stages == []
    run = downsampled(vlm, scene_image, 64, repeats=3)["downsample"]
    assert run.timings["vision"].samples == 3 and run.answer == downsampled(vlm, scene_image, 64)["downsample"].answer


def test_who_can_only_carry_out_stages_refuses(vlm, scene_image):
    inputs = tokviz.inputs_for(vlm, scene_image, QUESTION)
    with pytest.raises(BadInput, match=r"smaller image instead of dropping tokens, which tokviz\.compare does"):
        tokviz.prune(vlm, inputs, "downsample", budget=64).__enter__()
    planned = get("downsample").schedule(Budget(64), PlanningInfo(576, 32), {})
    assert planned == Schedule((), smaller=64) and planned.meanings(576, 32).average_in == 64
    assert get("downsample").schedule(Budget(576), PlanningInfo(576, 32), {}).of_stages == Schedule(())
