"""An image unlike the training images of an embedded model is told, one like them is not."""

import numpy as np
import pytest
import torch
from PIL import Image

import tokviz
from testworld.backgrounds import cut, photographs
from tokviz.errors import BadInput
from tokviz.models.out_of_world import FILE, WorldStatistics, spread, statistics_in
from tokviz.models.prompts import model_inputs
from tokviz.viz.tables import notes

TOLD = "This image is unlike the drawn scenes that tokviz-tiny was trained on (out-of-world score "


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(cut(photographs()["coffee"], 336, np.random.default_rng(0)))


@pytest.fixture(scope="module")
def compared(vlm, photograph, scene_image):
    return [tokviz.compare(vlm, image, "is there a red star?", ["random"]) for image in (photograph, scene_image)]


def test_a_photograph_is_told_and_a_scene_is_not(compared):
    away, inside = compared
    told = [[warning for warning in found.warnings if TOLD in warning] for found in compared]
    assert len(told[0]) == 1 and not told[1]
    assert away.measures.out_of_world.is_outside and not inside.measures.out_of_world.is_outside
    threshold = away.measures.out_of_world.threshold
    assert f"99% of such scenes stay below {threshold:.1f}" in told[0][0] and "means little" in told[0][0]
    assert any(told[0][0] in line for line in notes(away))
    assert not any("drawn scenes only" in warning for found in compared for warning in found.warnings)


def test_the_score_is_the_distance_of_the_states_in_front_of_its_layer(vlm, compared, photograph):
    """By the stock tower's own hidden states."""
    pixels = model_inputs(vlm, photograph, "is there a red star?")[0]["pixel_values"]
    with torch.inference_mode():
        states = vlm.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    known = vlm.world
    expected = known.distance(spread(states[known.layer][:, 1:]))
    assert compared[0].measures.out_of_world.score == pytest.approx(float(expected[0]), rel=1e-5)


def test_no_hook_is_left(vlm, compared):
    tower = vlm.family.vision_tower(vlm.model)
    assert not tower.layers[vlm.world.layer].attention_norm._forward_pre_hooks


def test_it_survives_the_session(compared):
    assert tokviz.Comparison.from_json(compared[0].to_json()).measures == compared[0].measures


def test_models_of_an_open_world_have_no_score(tmp_path):
    assert statistics_in(None) is None and statistics_in(tmp_path) is None


@pytest.mark.parametrize("damage", ["text", "short", "pickle", "huge"])
def test_a_broken_file_is_a_sentence(tmp_path, vlm, damage):
    known, path = vlm.world, tmp_path / FILE
    known.save(path)
    stored = dict(np.load(path))
    if damage == "text":
        path.write_text("no numbers")
    elif damage == "short":
        np.savez(path, **{**stored, "variances": stored["variances"][:-1]})
    elif damage == "pickle":
        np.savez(path, **{**stored, "mean": np.array([{"a": 1}], dtype=object)})
    else:
        np.savez_compressed(path, **{**stored, "mean": np.zeros(1 << 20)})
    with pytest.raises(BadInput, match="is broken"):
        WorldStatistics.load(path)
