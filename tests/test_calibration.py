"""The search of VTW's layer against a forward pass in which text is forbidden to look at the image."""

import math

import pytest
import torch

from benchmarks.vtw_calibration import (
    Calibration,
    Sample,
    calibrate_vtw,
    case_samples,
    divergence_per_layer,
    first_layer,
    image_samples,
    scene_samples,
)
from tokviz.engine import encode
from tokviz.errors import BadInput
from tokviz.models.prompts import model_inputs
from tokviz.pruners import get
from tokviz.types import Budget, PlanningInfo


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def first_token(vlm, prompt, withdrawn_at):
    """Log-probabilities of the first answer token when, from ``layer`` on, no text token may attend to the image.

    Layer by layer with an explicit mask; nothing is taken out of the sequence.
    """
    language_model = vlm.model.model.language_model
    hidden, visual = prompt.inputs_embeds, prompt.visual_mask[0]
    length = hidden.shape[1]
    positions = torch.arange(length)[None]
    rotary = language_model.rotary_emb(hidden, positions)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    blind = causal & ~(visual[None, :] & ~visual[:, None])
    for number, layer in enumerate(language_model.layers):
        allowed = causal if number < withdrawn_at else blind
        mask = torch.zeros(length, length).masked_fill(~allowed, -math.inf)[None, None]
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=positions)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    logits = vlm.model.lm_head(language_model.norm(hidden))[0, -1]
    return logits.double().log_softmax(-1)


@pytest.mark.generator
def test_against_masked_attention(vlm):
    for sample in scene_samples(2):
        inputs, _ = model_inputs(vlm, sample.image, sample.question)
        prompt = encode(vlm.model, vlm.family, inputs, ())
        full = first_token(vlm, prompt, vlm.record.n_layers)
        expected = []
        for layer in range(1, vlm.record.n_layers):
            withdrawn = first_token(vlm, prompt, layer)
            expected.append(float((withdrawn.exp() * (withdrawn - full)).sum()))
        found = divergence_per_layer(vlm, sample, range(1, vlm.record.n_layers))
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert max(expected) > 1e-3, "the image makes no difference: nothing would be tested"


@pytest.mark.generator
def test_the_mean_over_samples_decides(vlm):
    samples = scene_samples(2)
    heard = []
    found = calibrate_vtw(vlm, samples, eta=0.5, first=5, on_sample=heard.append)
    each = torch.stack([divergence_per_layer(vlm, sample, range(5, 8)) for sample in samples])
    assert heard == [1, 2]
    assert (found.n_samples, found.n_layers, found.layers) == (2, 8, (5, 6, 7))
    assert list(found.divergence) == pytest.approx(each.mean(0).tolist(), rel=1e-12)


def test_the_first_layer_within_eta_is_taken_even_if_a_later_one_is_closer():
    found = Calibration("m", 8, 1, 0.1, (1, 2, 3, 4), (0.5, 0.1, 0.2, 0.0))
    assert found.layer == 2 and found.closest == (4, 0.0)
    assert Calibration("m", 8, 1, 0.1, (1, 2), (0.5, 0.4)).layer is None


@pytest.mark.parametrize(("layers", "first"), [(32, 5), (40, 6), (28, 4), (8, 1), (2, 1)])
def test_the_search_starts_at_5_of_32(layers, first):
    assert first_layer(layers) == first


def test_the_layer_that_was_found_is_the_one_that_vtw_then_uses():
    vtw = get("vtw")
    for counted_as in ("published", "average", "final"):
        schedule = vtw.schedule(Budget(9, counted_as), PlanningInfo(144, 8), vtw.complete({"layer": 6}))
        assert [(stage.site, stage.keep, stage.positions) for stage in schedule.stages] == [(6, 0, "keep")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eta": 0.0}, "eta must be a positive number"),
        ({"eta": math.nan}, "eta must be a positive number"),
        ({"first": 0}, "between 1 and 7"),
        ({"first": 8}, "between 1 and 7"),
    ],
)
def test_bad_options_are_refused(vlm, scene_image, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        calibrate_vtw(vlm, [Sample(scene_image, "what is this?")], **options)
    with pytest.raises(BadInput, match="no sample"):
        calibrate_vtw(vlm, [])


def test_samples_come_from_scenes_folders_and_cases(tmp_path, scene_image):
    scenes = scene_samples(4)
    assert len(scenes) == 4 and all(sample.question for sample in scenes)
    assert [sample.question for sample in scene_samples(2)] == [sample.question for sample in scenes[:2]]
    with pytest.raises(BadInput, match="number of scenes"):
        scene_samples(0)
    for name in ("b.png", "a.jpg"):
        scene_image.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    images = image_samples(tmp_path, "what color is it?")
    assert [sample.image.size for sample in images] == [scene_image.size] * 2
    assert {sample.question for sample in images} == {"what color is it?"}
    with pytest.raises(BadInput, match="holds no picture"):
        (tmp_path / "empty").mkdir()
        image_samples(tmp_path / "empty", "q")
    with pytest.raises(BadInput, match="no folder"):
        image_samples(tmp_path / "missing", "q")
    with pytest.raises(BadInput, match="holds no cases"):
        case_samples(tmp_path)


def test_the_shipped_examples_are_cases():
    from tokviz.runs.examples import EXAMPLES, load_examples

    cases = [case for case in load_examples() if case.comparison.video is None]
    samples = case_samples(EXAMPLES)
    assert [sample.question for sample in samples] == [case.comparison.request.question for case in cases]
    sizes = [(case.comparison.image.width, case.comparison.image.height) for case in cases]
    assert [sample.image.size for sample in samples] == sizes
