"""What pressing something does, without a browser and without a model."""

import asyncio
import base64
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from own_loop import run_async
from paced import PacedRunner
from PIL import Image
from synthetic import comparison, make_image, write_examples

import tokviz
from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.records import RequestedMethod
from tokviz.runs.examples import load_examples
from tokviz.serving import model_cache, running
from tokviz.serving.kept_runs import KeptRuns
from tokviz.serving.model_menu import model_options
from tokviz.serving.queue import StopFlags
from tokviz.serving.running import Pace
from tokviz.serving.storage import temporary_file
from tokviz.ui import files
from tokviz.ui.failures import UNEXPECTED
from tokviz.ui.form import INPUTS, build_form, read_menu
from tokviz.ui.handlers import Handlers

TAB = SimpleNamespace(session_hash="tab", client=("127.0.0.1", 1), headers={})
PRUNERS = tokviz.methods()


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return load_examples(folder)


@pytest.fixture(scope="module")
def form():
    with gr.Blocks():
        return build_form(PRUNERS, [("model", "model")], {"methods": ("apet",)}, 576, {})


@pytest.fixture
def runner():
    return PacedRunner()


@pytest.fixture
def act(runner, examples):
    return Handlers(runner, lambda spec: (), PRUNERS, examples)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image.png"
    make_image(200, 160).save(path)
    return str(path)


def request(**changed):
    start = {"model": "m", "image": None, "question": "?", "methods": (("apet", {}),), "budget": 24}
    return running.RunRequest(**{**start, **changed})


def values(form, **changed):
    start = {"image": None, "question": "what is it ?", "model": "model", "budget": 64, "budget_as": "published",
             "seed": 0, "max_new_tokens": 32, "repeats": 1, "frames": None, "precision": "auto",
             "kernel": "auto", "expected": "", "evidence": []}  # fmt: skip
    menu = changed.pop("menu", {"chosen": [*changed.pop("methods", ("apet",))], "missing": {}})
    return [*{**start, **changed}.values(), menu]


def run(act, form, given):
    return list(act.compare(form, given, TAB, act.flags.renew("tab")))


def in_turn(act, form, given):
    """Everything that a press on Compare sends to the page."""

    async def collect():
        return [output async for output in act.compare_in_turn(form, given, TAB)]

    return run_async(collect())


def test_a_run_streams_and_ends_with_every_lane_and_the_session(act, form, file):
    outputs = run(act, form, values(form, image=file))
    views = [out[0] for out in outputs if isinstance(out[0], dict) and "lanes" in out[0]]
    statuses = [[lane["status"] for lane in view["lanes"]] for view in views]
    assert statuses[0] == ["waiting"] * 4 and statuses[-1] == ["done"] * 4
    assert any("running" in status for status in statuses)
    view, notice, key, *_ = outputs[-1]
    session, table, costs, again, level, frames = act.tabs(key)
    assert (
        notice is None
        and len(table["data"]) == len(costs["runs"]) == 4
        and not level["visible"]
        and not frames["visible"]
    )
    assert "tokviz.compare(" in again["python"] and again["own"]
    finished = Comparison.from_json(Path(session).read_bytes())
    assert Path(session).parent.name == key
    assert [run.method for run in finished.runs] == [lane["key"] for lane in view["lanes"]]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"image": None}, "Choose an image"),
        ({"question": "  "}, "Write a question"),
        ({"methods": ()}, "Choose at least one method"),
        ({"methods": ("full", "nonsense")}, "Choose at least one method"),
        ({"menu": None}, "list of methods that cannot be read"),
        ({"menu": {"chosen": "apet"}}, "list of methods that cannot be read"),
        ({"methods": (["apet", [1]],)}, "list of methods that cannot be read"),
        ({"methods": (["apet", {"speed": 2}],)}, "ApET has no parameter 'speed'"),
        ({"methods": ("apet",) * 1000}, "at most 48 methods"),
        ({"seed": None}, "The seed must be a whole number"),
        ({"budget": 3.5}, "The budget must be a whole number"),
    ],
)
def test_missing_fields_get_a_sentence_and_nothing_runs(act, runner, form, file, changed, sentence):
    outputs = run(act, form, values(form, **{"image": file, **changed}))
    assert len(outputs) == 1 and outputs[0][1]["kind"] == "error" and sentence in outputs[0][1]["text"]
    assert runner.requests == []


def test_an_unexpected_error_is_a_plain_sentence_without_details(examples, form, file):
    def broken(request, stop):
        raise RuntimeError("/secret/path")
        yield

    outputs = run(Handlers(broken, lambda spec: (), PRUNERS, examples), form, values(form, image=file))
    assert (outputs[-1][1]["kind"], outputs[-1][1]["text"]) == ("error", UNEXPECTED)
    assert "/secret" not in str(outputs)


def test_a_model_that_cannot_be_loaded_leaves_lanes_that_say_whose_they_are(runner, examples, form, file):
    def failing(asked):
        yield "Reading"
        raise BadInput("The model hub cannot be reached.")

    outputs = run(Handlers(runner, failing, PRUNERS, examples), form, values(form, image=file))
    told = outputs[-1][1]
    assert told["kind"] == "error" and told["stale"].startswith("These results belong to an earlier request")
    assert outputs[-1][0] == gr.skip() and runner.requests == []


@pytest.mark.parametrize("error", [BadInput("The GPU ran out of memory."), RuntimeError("a defect")])
def test_a_run_that_breaks_off_leaves_no_lane_waiting(examples, runner, form, file, error):
    def breaking(request, stop):
        for event in runner(request, stop):
            yield event
            if event.kind == "run" and event.lane == 1:
                raise error

    outputs = run(Handlers(breaking, lambda spec: (), PRUNERS, examples), form, values(form, image=file))
    assert [lane["status"] for lane in outputs[-1][0]["lanes"]] == ["done", "done"]
    assert outputs[-1][1]["kind"] == "error"


def test_what_a_run_will_cost_is_said_before_it_starts(act, form, file, monkeypatch):
    monkeypatch.setenv("TOKVIZ_MODEL", "tokviz-tiny,llava-hf/llava-1.5-7b-hf")
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    pace = Pace()
    monkeypatch.setattr("tokviz.ui.handlers.PACE", pace)
    monkeypatch.setattr("tokviz.ui.streaming.PACE", pace)
    monkeypatch.setattr("tokviz.serving.running.PACE", pace)
    menu = {"chosen": ["apet", "divprune", "fastervlm"]}
    seven = "llava-hf/llava-1.5-7b-hf"
    assert act.cost(seven, menu, 32, 1) == ""  # nothing is measured yet
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    declared = running.declared_seconds(
        request(model=seven, methods=tuple((method, {}) for method in menu["chosen"]), budget=64)
    )
    assert act.cost(seven, menu, 32, 1) == f"This run requests {declared} s of your GPU time." and 10 <= declared <= 20
    assert act.cost(seven, {**menu, "chosen": ["apet"]}, 8, 1) < act.cost(seven, menu, 32, 1)
    for odd in (None, 2.5, 0, "many"):
        assert act.cost(seven, menu, odd, 1) == act.cost(seven, menu, 32, odd) == ""
    assert act.cost(seven, None, 32, 1) == act.cost("not offered", menu, 32, 1) == ""
    monkeypatch.delenv("SPACES_ZERO_GPU")
    run(act, form, values(form, image=file, model="tokviz-tiny"))
    assert act.cost("tokviz-tiny", menu, 32, 1).endswith("estimated from the last run.")


def test_a_run_that_is_kept_is_shown_as_such_and_teaches_nothing_about_the_pace(
    runner, form, file, examples, monkeypatch
):
    pace, weights = Pace(), form
    monkeypatch.setattr("tokviz.ui.streaming.PACE", pace)
    act = Handlers(KeptRuns(runner, lambda request: weights), lambda spec: (), PRUNERS, examples)
    asked = values(form, image=file, question="asked twice ?")
    first, again = run(act, form, asked)[-1], run(act, form, asked)[-1]
    assert len(runner.requests) == pace.n_measured(runner.requests[0].model) == 1
    assert first[0]["kept_at"] == "" and len(again[0]["kept_at"]) == 5
    assert again[0]["lanes"] == first[0]["lanes"] and again[0]["id"] == first[0]["id"]


def test_stop_ends_the_run_after_what_is_finished(act, form, file):
    stream = act.compare(form, values(form, image=file), TAB, act.flags.renew("tab"))
    for output in stream:
        if isinstance(output[0], dict) and sum(lane["status"] == "done" for lane in output[0].get("lanes", ())) == 1:
            act.stop(TAB)
            break
    rest = list(stream)
    assert [lane["status"] for lane in rest[-1][0]["lanes"]] == ["done"]
    assert "Stopped" in rest[-1][1]["text"]


def test_a_model_tells_the_menu_what_it_cannot_serve_when_it_is_chosen_and_when_it_runs(act, form, file, monkeypatch):
    monkeypatch.setattr(model_cache, "CACHE", model_cache.ModelCache())  # nothing is loaded yet
    monkeypatch.setenv("TOKVIZ_MODEL", "tokviz-tiny,owner/unknown")
    expected = {p.id: p.missing(model_cache.planning("tokviz-tiny")) for p in PRUNERS}
    told = {"missing": {method: sentence for method, sentence in expected.items() if sentence}}
    menu, facts = act.model_chosen("tokviz-tiny")
    assert told["missing"] and menu == told
    assert facts == model_cache.model_facts("tokviz-tiny") and "images" in facts
    assert act.model_chosen("owner/unknown")[0] == {"missing": {}}  # known only once it is loaded
    menus = [out[-2] for out in run(act, form, values(form, image=file, model="tokviz-tiny"))]
    assert told in menus and all("chosen" not in menu for menu in menus if menu)  # never overwrites what is ticked


def test_the_page_offers_every_view_of_the_figure():
    from tokviz.ui.text import FIGURE_VIEWS
    from tokviz.viz.panels import VIEWS

    assert tuple(view for _, view in FIGURE_VIEWS) == ("shown", *VIEWS)


def test_tabs_are_stopped_apart_and_a_closed_tab_stops_its_run():
    flags = StopFlags()
    one, other = flags.renew("one"), flags.renew("other")
    flags.stop("one")
    assert one.is_set() and not other.is_set() and not flags.renew("one").is_set()
    flags.forget("other")
    assert other.is_set()


def test_truth_of_an_example_is_used_only_for_its_own_image_and_question(act, runner, form, examples, file):
    known = examples[0].comparison
    own = files.request_file(known).path
    asked = {"image": own, "question": known.request.question}
    run(act, form, values(form, **asked))
    run(act, form, values(form, **{**asked, "question": "another ?"}))
    run(act, form, values(form, **{**asked, "image": file}))
    assert [request.expected for request in runner.requests] == ["cyan", None, None]
    assert runner.requests[0].evidence == tuple(known.request.evidence)


def test_an_example_fills_the_form(act, form):
    outputs = act.show_example(form, 1, "tokviz-tiny")
    assert outputs[0]["title"].startswith("A panorama") and outputs[0]["example"] == 1
    assert outputs[2] == "example-1"
    filled = dict(zip([c.label for c in form.inputs], outputs[3:-1], strict=True))
    assert outputs[-1] == 576
    assert filled["Question"] == "what color is the triangle ?"
    assert [method for method, _ in filled["Methods"]["chosen"]] == ["full", "fastervlm", "apet", "todre", "fastv"]
    assert Image.open(filled["Image or video"].path).size == (760, 420)


def with_copies(whole):
    """The comparison with a second run of ApET, asked for between the others."""
    full, faster, apet, todre = whole.request.methods[:4]
    copy = RequestedMethod(method="apet", params={"mode": "official"}, variant="mode=official")
    run = whole["apet"].model_copy(
        update={"label": "ApET (mode=official)", "variant": copy.variant, "params": copy.params}
    )
    asked = whole.request.model_copy(update={"methods": [full, apet, todre, copy, faster]})
    return whole.model_copy(update={"request": asked, "runs": [*whole.runs[:4], run]})


def test_a_session_with_two_runs_of_a_method_opens_with_both_of_them(act, form, tmp_path):
    path = tmp_path / "session.json"
    path.write_text(with_copies(comparison()).to_json())
    outputs = act.opened_session(form, str(path), "tokviz-tiny")
    assert [(lane["key"], lane["variant"]) for lane in outputs[0]["lanes"]][-2:] == [
        ("todre", ""), ("apet (mode=official)", "mode=official"),
    ]  # fmt: skip
    assert act.tabs(outputs[2])[1]["data"][-1][0] == "ApET (mode=official)"
    menu = dict(zip([c.label for c in form.inputs], outputs[3:-1], strict=True))["Methods"]
    assert [entry for entry in menu["chosen"] if entry[0] == "apet"] == [["apet", {}], ["apet", {"mode": "official"}]]
    assert len(read_menu(PRUNERS, menu)) == 4


def test_an_example_that_is_run_again_keeps_the_order_of_its_lanes_with_copies(runner, form, examples):
    known = with_copies(examples[0].comparison)
    complete = [
        asked.model_copy(update={"params": tokviz.pruners.get(asked.method).complete(asked.params)})
        for asked in known.request.methods
    ]
    known = known.model_copy(update={"request": known.request.model_copy(update={"methods": complete})})
    act = Handlers(runner, lambda spec: (), PRUNERS, [replace(examples[0], comparison=known)])
    own = {"image": files.request_file(known).path, "question": known.request.question}
    copies = ["fastervlm", ["apet", {"mode": "official"}], "todre", "apet", ["apet", {"basis_tokens": 5}]]
    run(act, form, values(form, **own, methods=copies))
    asked = runner.requests[-1].methods
    assert [(method, params.get("mode"), params.get("basis_tokens")) for method, params in asked] == [
        ("apet", "paper", 10), ("apet", "paper", 5), ("todre", None, None), ("apet", "official", 10),
        ("fastervlm", None, None),
    ]  # fmt: skip
    run(act, form, values(form, **own, methods=[*copies, "random"]))  # not asked for there: the order of the menu
    assert [method for method, _ in runner.requests[-1].methods[:3]] == ["apet"] * 3
    assert runner.requests[-1].methods[0][1]["mode"] == "official"


@pytest.mark.parametrize(
    ("chosen", "media", "offered", "wanted"),
    [
        ("images", "video", ("images", "tiny-video"), "tiny-video"),
        ("images", "video", ("images",), None),  # the stored model is not offered: what is chosen will say so
        ("images", "image", ("images", "tiny-video"), None),
        ("both", "video", ("both", "tiny-video"), None),
        ("unknown", "video", ("images", "tiny-video"), None),
    ],
)
def test_a_stored_request_brings_its_model_where_the_chosen_one_cannot_answer(
    monkeypatch, chosen, media, offered, wanted
):
    takes = {"images": ("image",), "both": ("image", "video"), "tiny-video": ("video",)}
    monkeypatch.setattr(
        files, "model_options", lambda: [SimpleNamespace(shown=name, takes=takes[name]) for name in offered]
    )
    stored = SimpleNamespace(video=None if media == "image" else 1, model=SimpleNamespace(name="tiny-video"))
    assert files.fitting_model(chosen, stored) == wanted


def test_a_session_file_opens_and_a_damaged_one_is_refused(act, form, tmp_path):
    path = tmp_path / "session.json"
    path.write_text(comparison(300, 200).to_json())
    outputs = run_async(act.open_session(form, str(path), "tokviz-tiny", TAB))
    assert outputs[0]["origin"].startswith("Opened session")
    assert files.read_session(act.tabs(outputs[2])[0]) == comparison(300, 200)
    path.write_text("{}")
    refused = run_async(act.open_session(form, str(path), "tokviz-tiny", TAB))
    assert refused[1]["kind"] == "error" and len(refused) == len(outputs)


def test_the_image_inside_a_session_is_decoded_and_written_anew(tmp_path):
    whole = comparison(300, 200)
    page = base64.b64encode(b"<html><script>alert(1)</script></html>").decode()
    with pytest.raises(BadInput):
        files.display_file(whole.image.model_copy(update={"base64": page}))
    with pytest.raises(BadInput):
        files.display_file(whole.image.model_copy(update={"base64": "not base64 !"}))
    escaping = files.display_file(whole.image.model_copy(update={"sha256": "../../outside"}))
    assert "outside" not in escaping["path"] and Image.open(escaping["path"]).format == "PNG"


def test_what_follows_from_its_content_is_written_once():
    kept = temporary_file("kept.txt", lambda path: path.write_text("first"))
    assert temporary_file("kept.txt", lambda path: path.write_text("second")).read_text() == "first"
    assert files.session_file(comparison(300, 200)) == files.session_file(comparison(300, 200))
    assert kept.parent == Path(files.session_file(comparison(300, 200))).parents[1]


def test_a_full_disk_is_a_sentence(monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(BadInput, match="disk is full"):
        temporary_file("new.txt", full)
    with pytest.raises(IsADirectoryError):  # another fault is not called a full disk
        temporary_file("other.txt", lambda path: (path.unlink(), path.mkdir(), path.read_bytes()))


def test_settings_of_an_example_are_not_the_visitors(act, form):
    filled = dict(zip([c.label for c in form.inputs], act.show_example(form, 1, "tokviz-tiny")[3:-1], strict=True))
    assert filled["Repeats"] == gr.skip() and filled["Max new tokens"] == gr.skip()


def test_a_second_press_stops_the_first_run_and_is_answered(act, runner, form, file):
    """Five times of five the first run was lost and the second press swallowed."""
    runner.hold(1)

    async def press_twice():
        first, second = [], []

        async def press(outputs, question):
            async for output in act.compare_in_turn(form, values(form, image=file, question=question), TAB):
                outputs.append(output)

        pressed = asyncio.create_task(press(first, "first ?"))
        while not any(isinstance(out[0], dict) and "lanes" in out[0] for out in first):
            await asyncio.sleep(0.01)
        again = asyncio.create_task(press(second, "second ?"))
        while len(runner.requests) < 2:
            await asyncio.sleep(0.01)
        runner.release()
        await asyncio.gather(pressed, again)
        return first, second

    first, second = run_async(press_twice())
    assert [request.question for request in runner.requests] == ["first ?", "second ?"]
    assert first[-1][-1] == gr.update(interactive=True)  # what is stopped says nothing more, Stop belongs to the other
    assert [out[0] for out in second if isinstance(out[0], dict) and "lanes" in out[0]][-1]["question"] == "second ?"
    assert second[-1][-1] == gr.update(interactive=False)


def test_who_waits_is_told_so_and_can_stop(act, runner, form, file):
    held = act.line.enter("somebody")

    async def wait_and_stop():
        outputs = []
        async for output in act.compare_in_turn(form, values(form, image=file), TAB):
            outputs.append(output)
            if isinstance(output[1], dict) and "1 run ahead" in output[1]["text"]:
                act.stop(TAB)
        return outputs

    outputs = run_async(wait_and_stop())
    assert outputs[-1][1] == {"kind": "info", "text": "Stopped before it started."}
    assert outputs[-1][-1] == gr.update(interactive=False) and runner.requests == []
    held.leave()
    assert act.line.enter("next").before == 0


def test_a_full_line_is_a_sentence_on_the_page(act, form, file):
    for number in range(act.line.places):
        act.line.enter(f"visitor {number}")
    outputs = in_turn(act, form, values(form, image=file))
    assert outputs[-1][1]["kind"] == "error" and "server is busy" in outputs[-1][1]["text"]
    assert outputs[-1][-1] == gr.update(interactive=False)


def test_the_model_is_free_only_when_the_work_is_over(act, runner, form, file):
    """A run that nobody looks at any more keeps its turn until it has really ended."""
    runner.hold(1)

    async def leave_early():
        stream = act.compare_in_turn(form, values(form, image=file), TAB)
        async for output in stream:
            if isinstance(output[0], dict) and "lanes" in output[0]:
                break
        assert act.line.enter("next").before == 1
        await stream.aclose()
        runner.release()

    run_async(leave_early())
    deadline = time.monotonic() + 10
    (following,) = act.line._waiting or [act.line._turn]
    while following.before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert following.before == 0 and act.flags.of("tab").is_set()


def again(act, form, /, **memory):
    """What ``show_again`` gives for a memory: view and key, then the form's fields by name."""
    view, _, key, *fields, _ = act.show_again(form, json.dumps(memory), "tokviz-tiny")
    return view, key, dict(zip(INPUTS, fields, strict=True))


def test_a_reloaded_page_shows_again_what_it_showed(act, form):
    assert again(act, form, shown="example-2")[0] == act.example_payload(2)
    session = comparison(300, 200)
    key = Path(files.session_file(session)).parent.name
    view, shown, _ = again(act, form, shown=key)
    assert view["question"] == session.request.question and shown == key
    elsewhere = Path(files.session_file(session)).parents[3] / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / Path(files.session_file(session)).name).write_text(session.to_json())
    outside = f"{key}/../../../elsewhere"  # a real file, and a key that begins as one
    for unknown in ("", "example-0", "example-99", "0" * 64, "../../etc", "nonsense", outside):
        view, _, fields = again(act, form, shown=unknown)
        assert view == gr.skip() and set(map(str, fields.values())) == {str(gr.skip())}


def test_the_form_comes_back_as_it_was_whatever_the_lanes_answer(act, form):
    asked = {
        "question": "And now?", "budget": 100_000, "budget_as": "final", "seed": 7, "repeats": 3, "max_new_tokens": 8,
        "methods": [["fastv", {"layer": 3}], ["nonsense", {}], ["random", {}]],
    }  # fmt: skip
    view, key, fields = again(act, form, example="b-panorama", shown="example-0", form=asked)
    assert view == act.example_payload(1) and key == "example-1", "a link names an example, places may change"
    assert fields["question"] == "And now?" and fields["budget_as"] == "final"
    assert (fields["seed"], fields["repeats"], fields["max_new_tokens"]) == (7, 3, 8)
    n_tokens = act.examples[1].comparison.grid.n_tokens
    assert fields["budget"]["value"] == fields["budget"]["maximum"] == n_tokens
    assert fields["menu"] == {"chosen": [["fastv", {"layer": 3}], ["random", {}]]}
    # On the first screen only the form is filled; what is shown there need not be sent.
    view, _, fields = again(act, form, shown="example-0", form={"budget": 12})
    assert view == gr.skip() and fields["budget"] == gr.update(value=12) and fields["question"] == gr.skip()


@pytest.mark.parametrize(
    "asked",
    [
        {"budget": -1}, {"budget": 1.5}, {"budget": "9"}, {"budget": True}, {"seed": 1e300}, {"frames": None},
        {"budget_as": "whatever"}, {"question": ["x"]}, {"methods": "apet"}, {"methods": [["apet", {"nonsense": 1}]]},
        {"methods": [["apet", 3]]}, {"image": {"path": "/etc/passwd"}}, {"model": "someone/else"}, "no form", None,
    ],
)  # fmt: skip
def test_what_no_form_can_hold_is_not_taken_from_a_memory(act, form, asked):
    _, _, fields = again(act, form, form=asked)
    assert set(map(str, fields.values())) == {str(gr.skip())}


@pytest.mark.parametrize("words", ["", "{", "[" * 3000, "3", '"example-1"', "null", None, 7, "{}" + " " * 50_000])
def test_a_memory_that_cannot_be_read_leaves_the_first_screen(act, form, words):
    outputs = act.show_again(form, words, "tokviz-tiny")
    assert outputs[0] == gr.skip() and outputs[1] is None


def test_an_example_says_which_settings_it_replaces(act, form):
    mine = {"model": "tokviz-tiny", "budget": 32, "budget_as": "published", "seed": 5, "repeats": 4}
    chosen = act.choose_example(form, 1, [mine.get(name) for name in INPUTS])
    request = act.examples[1].comparison.request
    assert chosen[1]["text"] == f"Set by the example: budget {request.budget} (was 32), seed {request.seed} (was 5)."
    assert chosen[3 + INPUTS.index("repeats")] == gr.skip() == chosen[3 + INPUTS.index("max_new_tokens")]
    same = mine | {"budget": request.budget, "seed": request.seed}
    assert act.choose_example(form, 1, [same.get(name) for name in INPUTS])[1] is None


@pytest.mark.parametrize("kind", ["corrupt", "svg", "empty", "one pixel"])
def test_uploads_that_are_no_image_are_refused_at_once(act, tmp_path, kind):
    path = tmp_path / "upload.png"
    tiny = io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "PNG")
    path.write_bytes({
        "corrupt": b"\x89PNG\r\n\x1a\nnonsense", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "empty": b"",
        "one pixel": tiny.getvalue(),
    }[kind])  # fmt: skip
    field, notice = run_async(act.check_media(str(path), TAB))
    assert field is None and notice["kind"] == "error" and notice["text"].endswith(".")


def test_only_the_offered_models_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("TOKVIZ_MODEL", "tokviz-tiny")
    assert [option.shown for option in model_options()] == ["tokviz-tiny"]
    with pytest.raises(BadInput, match="does not offer a model named 'someone/else'"):
        model_cache.ModelSpec("someone/else").checked()
    monkeypatch.delenv("TOKVIZ_MODEL")
    monkeypatch.setenv("SPACE_ID", "someone/tokviz")
    assert [option.shown for option in model_options()] == ["tokviz-tiny", "tokviz-tiny-video"]


def test_a_damaged_example_is_named(tmp_path):
    write_examples(tmp_path)
    (tmp_path / "b-panorama" / "session.json").write_text("{}")
    with pytest.raises(BadInput, match="b-panorama"):
        load_examples(tmp_path)
    assert load_examples(tmp_path / "nowhere") == []


def test_what_the_visitor_gives_as_right_counts_before_what_is_known(act, form, examples):
    known = examples[0].comparison
    path = act.show_example(form, 0, "tokviz-tiny")[3 + INPUTS.index("image")]
    given = {"image": getattr(path, "path", path), "question": known.request.question, "expected": " wifi ",
             "evidence": [[1, 2, 30, 40]]}  # fmt: skip
    asked = act.known.with_truth(form.request(values(form, **given)))
    assert (asked.expected, asked.evidence) == ("wifi", ((1, 2, 30, 40),))
    asked = act.known.with_truth(form.request(values(form, **{**given, "expected": "", "evidence": []})))
    assert (asked.expected, list(asked.evidence)) == ("cyan", known.request.evidence)
