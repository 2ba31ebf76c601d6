"""Tokens without an answer: those that a comparison keeps, and no more of the model than they need."""

import threading

import pytest
import torch
from tiny_case import noise
from tiny_families import CASES

import tokviz
from tokviz.errors import BadInput

QUESTION = "what is it ?"
METHODS = ["random", "apet", "divprune", "tome", "fastv", "pdrop", "divprune+fastv"]


@pytest.fixture(scope="module")
def tiny():
    """LLaVA with 4 x 4 patches, float64."""
    case = CASES["llava"]
    return tokviz.wrap(case.model(torch.float64), case.processor())


@pytest.fixture(scope="module")
def image():
    return noise(48, 48, seed=5)


def llm_layers(vlm, work):
    """What ``work`` returns, and how often layer 0 of the LLM ran meanwhile."""
    calls = []
    layer = vlm.model.model.language_model.layers[0]
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    try:
        return work(), len(calls)
    finally:
        hook.remove()


def test_they_are_those_of_a_comparison(tiny, image):
    methods = [*METHODS, ("apet", {"mode": "official"})]
    asked = {"methods": methods, "budget": 6, "seed": 3}
    found = tokviz.select_only(tiny, image, QUESTION, **asked)
    whole = tokviz.compare(tiny, image, QUESTION, **asked, max_new_tokens=2)
    assert [one.key for one in found.methods] == [run.key for run in whole.runs[1:]] and len(found) == len(methods)
    for one, run in zip(found.methods, whole.runs[1:], strict=True):
        assert (one.label, one.family, one.params, one.error) == (run.label, run.family, run.params, run.error)
        assert one.tokens_per_layer == run.tokens_per_layer
        mine, theirs = ([stage.model_dump(exclude={"selection_ms"}) for stage in each.stages] for each in (one, run))
        assert mine == theirs, one.key
    assert found["apet (mode=official)"].kept == whole["apet (mode=official)"].kept
    assert found.overlap("random", "fastv") == whole.overlap("random", "fastv")
    assert found.request.methods[0].method == "random"


def test_the_llm_runs_for_methods_inside_it_alone_and_once(tiny, image):
    tokviz.compare(tiny, image, QUESTION, [], 6, max_new_tokens=1)  # warm: no answer before the first one
    _, before = llm_layers(tiny, lambda: tokviz.select_only(tiny, image, QUESTION, ["random", "divprune"], 6))
    _, inside = llm_layers(tiny, lambda: tokviz.select_only(tiny, image, QUESTION, ["random", "fastv", "pdrop"], 6))
    assert (before, inside) == (0, 2)


def test_what_cannot_run_says_so_and_the_rest_is_there(tiny, image):
    found = tokviz.select_only(tiny, image, QUESTION, ["oracle", "random"], 6)
    assert found["oracle"].error.startswith("Oracle needs evidence") and found["oracle"].kept is None
    assert len(found["random"].kept) == 6
    with pytest.raises(BadInput, match="Oracle needs evidence"):
        found.overlap("oracle", "random")
    with pytest.raises(KeyError, match="no method 'fastv'; there are"):
        found["fastv"]
    with pytest.raises(BadInput, match="budget must be"):
        tokviz.select_only(tiny, image, QUESTION, ["random"], 99)


def test_stopped_it_says_what_is_not_there(tiny, image):
    stop = threading.Event()

    @tokviz.pruner("stopping", label="Stopping")
    def stopping(signals, keep):
        """Keeps the first tokens, and asks to stop."""
        stop.set()
        return torch.arange(keep)

    found = tokviz.select_only(tiny, image, QUESTION, ["random", stopping, "divprune", "fastv"], 6, stop=stop)
    assert [one.key for one in found.methods] == ["random", "stopping"]
    assert found.notes == ["DivPrune and what follows it were not selected: it was stopped."]
