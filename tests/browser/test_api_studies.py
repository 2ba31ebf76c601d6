"""Selections, sweep, inside, horizon, rescue and runs with named tokens, called as a program would."""

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tokviz.attention import Inside
from tokviz.comparison import Comparison
from tokviz.horizon import InformationHorizon
from tokviz.rescues import Rescue
from tokviz.selections import Selections
from tokviz.sweeps import Sweep


@pytest.fixture(scope="module")
def client(live_site):
    return Client(live_site, verbose=False)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "plain.png"
    Image.linear_gradient("L").convert("RGB").resize((260, 200)).save(path)
    return path


def ask(client, image, endpoint, **asked):
    file = handle_file(str(image))
    return client.predict(image=file, question="what color is the circle ?", api_name=endpoint, **asked)


def test_selections_are_those_of_a_comparison(client, image):
    asked = {"methods": ["random", ["fastv", {"layer": 3}], "oracle"], "budget": 16, "seed": 2}
    found = Selections.model_validate(ask(client, image, "/select_only", **asked))
    whole = Comparison.model_validate(ask(client, image, "/compare", **asked, max_new_tokens=1))
    assert [one.kept for one in found.methods] == [run.kept for run in whole.runs[1:]]
    assert len(found["fastv"].kept) == 16 and found["fastv"].stages[0].site == 3
    assert found["oracle"].error == whole["oracle"].error


def test_a_look_inside_is_of_the_model_or_of_a_method(client, image):
    whole = Inside.model_validate(ask(client, image, "/inside", layers=[1], max_new_tokens=2))
    assert whole.run.key == "full" and whole.map_layers == [1] and {entry.visual for entry in whole.layers} == {576}
    asked = {"method": "fastv", "budget": 16, "params": {"fastv": {"layer": 3}}, "layers": []}
    found = Inside.model_validate(ask(client, image, "/inside", **asked, max_new_tokens=2))
    assert found.run.key == "fastv" and found.map_layers == []
    assert [entry.visual for entry in found.layers][2:4] == [576, 16]


def test_a_horizon_has_a_change_per_layer_and_block(client, image):
    asked = {"layers": [0, 3], "block": 12, "seeds": 1, "measure": "alone", "max_new_tokens": 2}
    found = InformationHorizon.model_validate(ask(client, image, "/horizon", **asked))
    assert [entry.layer for entry in found.layers] == [0, 3] and found.measure == "alone"
    assert found.n_blocks == 4 and len(found.layers[0].random) == 1 and found.seconds_allowed == 60


def test_a_sweep_has_a_point_per_method_budget_and_seed(client, image):
    asked = {"methods": ["random", ["fastv", {"layer": 3}]], "budgets": ["100%", 16], "seeds": 2, "max_new_tokens": 2}
    found = Sweep.model_validate(ask(client, image, "/sweep", **asked))
    assert [curve.key for curve in found] == ["random", "fastv"] and found.budgets == [576, 16]
    assert len(found["random"].at(16)) == 2 and len(found["fastv"].at(16)) == 1
    whole = Comparison.model_validate(ask(client, image, "/compare", methods=["random"], budget=16, max_new_tokens=2))
    assert whole["random"].kept == found["random"].at(16)[0].kept


def test_a_rescue_has_a_gain_per_block(client, image):
    found = Rescue.model_validate(
        ask(client, image, "/rescue", method="random", budget=16, block=12, seeds=1, max_new_tokens=2)
    )
    assert found.run == "random" and len(found.blocks) == found.n_blocks == 4 and found.seconds_allowed == 60


def test_tokens_are_named_or_a_method_s_choice_is_changed(client, image):
    only = Comparison.model_validate(ask(client, image, "/ask_with", kept=[3, 4, 9], layer=2, max_new_tokens=2))
    assert only[-1].label == "Edited" and only[-1].kept == [3, 4, 9] and only[-1].stages[0].site == 2
    more = Comparison.model_validate(
        ask(client, image, "/ask_with", method="fastv", budget=16, added=[0], removed=[575], max_new_tokens=2)
    )
    assert [run.label for run in more] == ["No pruning", "FastV", "Edited: FastV"]
    assert set(more[2].kept) == {*more[1].kept, 0} - {575}


def test_every_argument_is_described(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    for endpoint in ("/select_only", "/sweep", "/inside", "/horizon", "/rescue", "/ask_with"):
        for parameter in endpoints[endpoint]["parameters"]:
            assert parameter["python_type"]["description"].endswith((".", ")")), parameter["parameter_name"]


@pytest.mark.parametrize(
    ("endpoint", "asked", "sentence"),
    [
        ("/sweep", {"methods": ["random"], "budgets": ["200%"]}, "A budget is a whole number"),
        ("/sweep", {"methods": ["random"], "budgets": 5}, "budgets must be a list"),
        ("/sweep", {"methods": ["random"], "seconds": 1000}, "at most 100"),
        ("/sweep", {"methods": ["nonsense"]}, "There is no method"),
        ("/rescue", {"method": "full"}, "drops nothing"),
        ("/rescue", {"method": "random", "block": 0}, "The block must be"),
        ("/rescue", {"method": "random", "answer": "x"}, "unpruned or expected"),
        ("/select_only", {"methods": ["random"], "budget": 577}, "has 576 visual tokens"),
        ("/select_only", {"methods": ["nonsense"]}, "There is no method"),
        ("/inside", {"method": "nonsense"}, "There is no method"),
        ("/inside", {"layers": [99]}, "A layer must be"),
        ("/inside", {"layers": "all"}, "layers must be a list"),
        ("/inside", {"params": {"apet": {}}}, "not the method to look inside"),
        ("/horizon", {"layers": []}, "layers must be a list"),
        ("/horizon", {"measure": "x"}, "removal or alone"),
        ("/horizon", {"seconds": 0}, "seconds must be a number above 0"),
        ("/ask_with", {"kept": [9999]}, "there are 576"),
        ("/ask_with", {"kept": ["a"]}, "A token in kept must be a whole number"),
        ("/ask_with", {}, "Name the tokens to keep"),
        ("/ask_with", {"kept": [1], "layer": 99}, "no layer 99"),
    ],
)
def test_bad_input_is_a_sentence(client, image, endpoint, asked, sentence):
    with pytest.raises(AppError, match=sentence):
        ask(client, image, endpoint, **asked)
