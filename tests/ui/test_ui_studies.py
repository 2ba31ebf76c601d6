"""What the studies beneath the lanes take from a browser, and what they send back; no browser."""

from types import SimpleNamespace

import gradio as gr
import pytest
from own_loop import run_async
from synthetic import comparison

import tokviz
from tokviz.attention import Inside, InsideLayer, InsideToken, TowerLayer
from tokviz.errors import BadInput
from tokviz.serving.model_menu import model_options
from tokviz.serving.studies import Progress
from tokviz.ui.files import key_of
from tokviz.ui.form import build_form
from tokviz.ui.handlers import Handlers
from tokviz.ui.studies import Studies
from tokviz.ui.study_payload import STEPS, inside_payload

TAB = SimpleNamespace(session_hash="tab", client=("127.0.0.1", 1), headers={})
PRUNERS = tokviz.methods()


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield


@pytest.fixture(scope="module")
def shown():
    whole = comparison()
    model = whole.model.model_copy(update={"name": model_options()[0].shown})
    return whole.model_copy(update={"model": model})


class Model:
    """Carries out what it is told, and remembers what it was asked."""

    def __init__(self, *outputs):
        self.outputs, self.asked = outputs, []

    def __call__(self, request, stop):
        self.asked.append(request)
        for output in self.outputs:
            if isinstance(output, Exception):
                raise output
            yield output


@pytest.fixture
def studies():
    def made(*outputs):
        with gr.Blocks():
            form = build_form(PRUNERS, [("model", "model")], {"methods": ("apet",)}, 576, {})
        return Studies(Handlers(Model(*outputs), lambda spec: (), PRUNERS, []), form)

    return made


def heard(studies, asked, key):
    async def all_of_it():
        outputs = studies.study(asked, key, None, "", "auto", "auto", request=TAB)
        return [output async for output in outputs]

    return run_async(all_of_it())


def test_a_sweep_is_about_what_the_lanes_show_and_random_is_always_there(studies, shown):
    mine = studies(Progress(0.5), None)
    outputs = heard(mine, {"study": "sweep", "id": 3}, key_of(shown))
    (asked,) = mine.act.run.asked
    assert asked.question == shown.request.question and asked.kind == "sweep"
    stored = [one.method for one in shown.request.methods]
    assert [method for method, _ in asked.methods] == [*stored, *([] if "random" in stored else ["random"])]
    assert asked.options["seconds"] <= 100 and asked.options["comparison"] == shown
    assert {output[0]["id"] for output in outputs} == {3}
    assert any(output[0]["share"] == 0.5 for output in outputs)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "cannot be read"),
        ({"study": "compare"}, "cannot be read"),
        ({"study": "inside", "run": "nothing"}, "no such lane"),
        ({"study": "edit", "run": "full", "kept": "all"}, "sent no tokens"),
        ({"study": "edit", "run": "full", "kept": [1.5]}, "must be a whole number"),
        ({"study": "rescue", "run": "full", "block": 1000}, "from 1 to 16"),
    ],
)
def test_what_a_browser_sends_is_checked(studies, shown, asked, sentence):
    mine = studies()
    *_, (panel, view, key) = heard(mine, asked, key_of(shown))
    assert panel["state"] == "error" and sentence in panel["words"] and view == key == gr.skip()
    assert not mine.act.run.asked


@pytest.mark.parametrize("key", ["", "example-7", "0" * 64, "../" * 21 + "x", None, 5])
def test_the_comparison_of_another_is_not_reached(studies, key):
    *_, (panel, view, shown) = heard(studies(), {"study": "sweep"}, key)
    assert panel["state"] == "error" and "no longer on the server" in panel["words"] and view == shown == gr.skip()


def test_an_edit_is_not_added_when_other_lanes_were_asked_for_meanwhile(studies, shown):
    mine = studies()

    def run(request, stop):
        mine.act.flags.renew(TAB.session_hash)  # Compare was pressed
        yield shown

    mine.act.run = run
    first = shown.runs[1].key
    *_, (panel, view, key) = heard(mine, {"study": "edit", "run": first, "kept": [1]}, key_of(shown))
    assert panel["state"] == "stopped" and view == key == gr.skip()


@pytest.mark.parametrize("error", [BadInput("It does not fit."), RuntimeError("secret")])
def test_what_goes_wrong_is_a_sentence(studies, shown, error):
    *_, (panel, *_) = heard(studies(error), {"study": "sweep"}, key_of(shown))
    assert panel["state"] == "error" and "secret" not in panel["words"]


def test_maps_travel_as_shares_of_their_largest_value(shown):
    n = shown.grid.n_tokens
    values = [None, 0.5, 0.25, *[0.0] * (n - 3)]
    spent = [0.0, 1.0, 0.0, 0.0, 0.0]
    found = Inside(
        comparison=shown,
        layers=[InsideLayer(layer=0, visual=n, text=spent, image=[1.0, 0.0, 0.0, 0.0, 0.0], output=None)],
        tokens=[
            InsideToken(id=1, text="<b>", spent=[spent], maps=[values]),
            InsideToken(id=2, text=" x", spent=[spent], maps=[]),
        ],
        map_layers=[],
        counts=[1, n, 1, 1, 1],
        tower_kind="cls_attention",
        tower=[TowerLayer(layer=0, attention=values, entropy=1.0)],
        feature_layer=0,
        uniform_entropy=2.0,
        seconds=0.0,
    )
    payload = inside_payload(found)
    first, second = payload["words"]
    assert first["text"] == "<b>" and first["maps"][0]["most"] == 0.5 and second["maps"] == []
    assert first["maps"][0]["steps"][:4] == [None, STEPS, round(STEPS / 2), 0]
    assert payload["layers"][0]["text_to_image"] == 1.0 and payload["layers"][0]["output"] is None
