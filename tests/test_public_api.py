"""The public API as somebody uses it who has only read its first page: every line of it runs on the embedded model."""

import inspect
import io
import json
import re
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from PIL import Image
from pydantic import Field
from transformers import TextIteratorStreamer

import tokviz
from tokviz.errors import BadInput
from tokviz.pruners import plugins
from tokviz.runs.metrics import evidence_shares

QUESTION = "what color is the star?"
ROOT = Path(__file__).parents[1]


@tokviz.pruner("my-norm", needs=[tokviz.KEYS], site="projector", label="Norm of the key")
def my_norm(signals, keep, *, power: float = 1.0):
    """Keep what has long keys.

    More about it.
    """
    return tokviz.keep_highest(signals.keys.norm(dim=1) ** power, keep)


@pytest.fixture(scope="module")
def result(vlm, scene_image):
    methods = ["apet", "fastv", ("apet", {"mode": "official"}), my_norm, (my_norm, {"power": -1.0}), "tome"]
    return tokviz.compare(vlm, scene_image, QUESTION, methods=methods, budget=64, seed=0, expected="red")


# -- comparing -----------------------------------------------------------------------------------------------------


def test_every_lane_has_a_name_of_its_own(result):
    assert list(result.answers) == [
        "full", "apet", "fastv", "apet (mode=official)", "my-norm", "my-norm (power=-1)", "tome",
    ]  # fmt: skip
    assert [run.label for run in result][3:5] == ["ApET (mode=official)", "Norm of the key"]
    assert len(result) == 7 and [run.key for run in result] == list(result.answers) and bool(result)
    assert result["apet"].params["mode"] == "paper" and result["apet (mode=official)"].params["mode"] == "official"
    assert result["fastv"] is result[2] is result.runs[2]
    assert result["my-norm"].kept != result["my-norm (power=-1)"].kept
    with pytest.raises(KeyError, match=r"no run 'fastvv'.*'fastv'"):
        result["fastvv"]
    assert [(method.method, method.params) for method in result.request.methods][3] == (
        "apet", result["apet (mode=official)"].params,
    )  # fmt: skip


def test_a_method_that_ran_once_has_its_id_for_a_name_whatever_its_parameters(vlm, scene_image):
    alone = tokviz.compare(vlm, scene_image, QUESTION, [("apet", {"mode": "official"})], budget=16)
    assert alone["apet"].params["mode"] == "official" and alone["apet"].label == "ApET"
    twice = tokviz.compare(vlm, scene_image, QUESTION, ["apet", ("apet", {"mode": "paper"}), "full"], budget=16)
    assert list(twice.answers) == ["full", "apet"], "the same run twice is one"
    both = [("apet", {"mode": "official"}), ("apet", {"sampling": "random"})]
    different = tokviz.compare(vlm, scene_image, QUESTION, both, params={"apet": {"basis_tokens": 5}}, budget=16)
    assert list(different.answers)[1:] == [
        "apet (mode=official, basis_tokens=5)", "apet (sampling=random, basis_tokens=5)"
    ]  # fmt: skip
    with pytest.raises(KeyError, match="mode=official"):
        different["apet"]
    again = tokviz.compare(vlm, scene_image, QUESTION, different.request.methods, budget=16)
    assert again.answers == different.answers and again.request == different.request


def test_a_comparison_is_saved_and_read_back(result, tmp_path):
    result.save(tmp_path / "s.json")
    assert tokviz.Comparison.load(tmp_path / "s.json") == result
    old = json.loads(result.to_json()) | {"schema_version": 1}
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(tokviz.BadInput, match="schema version 1; this tokviz reads version 2: run"):
        tokviz.Comparison.load(tmp_path / "old.json")
    with pytest.raises(tokviz.BadInput, match=r"no session file named 'none\.json'"):
        tokviz.Comparison.load(tmp_path / "none.json")
    with pytest.raises(tokviz.BadInput, match="cannot be written: no such file"):
        result.save(tmp_path / "no" / "s.json")


def test_a_comparison_is_drawn(result, tmp_path):
    for suffix, begins in ((".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = tmp_path / f"out{suffix}"
        result.figure(path, methods=["apet", "my-norm (power=-1)"])
        assert path.read_bytes().startswith(begins)
    assert type(result.figure(view="score")).__name__ == "Figure"
    with pytest.raises(tokviz.BadInput, match="no run of 'nosuch'; it has full, apet"):
        result.figure(methods=["nosuch"])


def test_a_comparison_is_a_table(result):
    table = result.to_pandas()
    assert list(table.index) == list(result.answers) and list(table.answer) == list(result.answers.values())
    assert table.tokens_left["fastv"] == 64 and table.verdict["full"] in ("right", "wrong")
    assert table.kept["my-norm"] == result["my-norm"].kept and (table.prefill_ms > 0).all()


def test_a_table_without_pandas_is_refused_in_a_sentence(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(tokviz.BadInput, match=r"A table needs the package pandas.*tokviz\[ui\]"):
        result.to_pandas()


def test_a_notebook_shows_images_and_answers_and_nothing_that_was_slipped_in(result):
    html = result._repr_html_()
    assert html.count("<img") == html.count("data:image/jpeg;base64,") == len(result) and len(html) < 300_000
    assert "http" not in html and "<script" not in html and "Norm of the key (power=-1)" in html
    evil = '<img src=x onerror="alert(1)">'
    runs = [run.model_copy(update={"answer": evil, "label": evil, "error": None}) for run in result]
    runs[-1] = runs[-1].model_copy(update={"error": evil})
    request = result.request.model_copy(update={"question": evil, "expected_answer": evil})
    model = result.model.model_copy(update={"name": evil})
    forged = result.model_copy(update={"runs": runs * 9, "request": request, "model": model, "warnings": [evil]})
    shown = forged._repr_html_()
    assert "onerror=&quot;" in shown and 'onerror="' not in shown and len(shown) < 400_000
    assert len(repr(result)) < 600 and repr(result).count("\n") < 3 and len(repr(result["apet"])) < 300


def test_compare_and_compare_events_have_one_definition_of_their_keywords():
    one, other = inspect.signature(tokviz.compare), inspect.signature(tokviz.compare_events)
    assert one.parameters == other.parameters and "budget_as" in one.parameters
    assert all(f"{name}:" in tokviz.compare.__doc__ for name in one.parameters)


def test_a_model_held_already_is_as_good_as_a_loaded_one(vlm, result, scene_image):
    wrapped = tokviz.wrap(vlm.model, vlm.processor)
    again = tokviz.compare(wrapped, scene_image, QUESTION, ["apet", my_norm], budget=64)
    assert again["apet"].kept == result["apet"].kept and again["my-norm"].answer == result["my-norm"].answer


# -- one's own method ----------------------------------------------------------------------------------------------


def test_parameters_come_from_the_signature():
    @tokviz.pruner("mine", needs=[tokviz.CLS_ATTENTION], site=2, family="attention-ranked")
    def mine(
        signals,
        keep,
        *,
        power: Annotated[float, Field(ge=0, le=2, description="How steep.")] = 1.0,
        steps: int = 3,
        how: Literal["one", "other"] = "one",
        really: bool = False,
        plain=7,
    ):
        """First line."""

    assert isinstance(mine, tokviz.Pruner) and mine.claim == "First line." and mine.label == "mine"
    assert [(p.name, p.kind, p.default) for p in mine.params] == [
        ("power", "float", 1.0), ("steps", "int", 3), ("how", "choice", "one"), ("really", "bool", False),
        ("plain", "int", 7),
    ]  # fmt: skip
    assert (mine.params[0].minimum, mine.params[0].maximum, mine.params[0].help) == (0, 2, "How steep.")
    assert mine.complete({"how": "other"})["how"] == "other"
    with pytest.raises(tokviz.BadInput, match="did you mean 'power'"):
        mine.complete({"powr": 1})
    info = tokviz.PlanningInfo(n_visual=100, n_layers=4)
    (stage,) = mine.schedule(tokviz.Budget(60, "average"), info, mine.complete(None)).stages
    assert (stage.site, stage.keep, stage.positions) == (2, 20, "keep")
    with pytest.raises(tokviz.BadInput, match="before layer 2; this model has 0 to 1"):
        mine.schedule(tokviz.Budget(60), replace(info, n_layers=2), mine.complete(None))


def _no_default(signals, keep, *, power: float):
    """See below."""


def _text(signals, keep, *, how: str = "one"):
    """See below."""


def _not_reached(signals, keep, *, power: Annotated[float, Field(gt=0)] = 1.0):
    return range(keep)


def _out_of_range(signals, keep, *, power: Annotated[float, Field(le=1)] = 2.0):
    """See below."""


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (_no_default, "'power' of _no_default needs a default"),
        (_not_reached, "'power' of _not_reached has a bound that it may not reach"),
        (_text, "'how' of _text must be a bool, int, float or Literal of texts"),
        (_out_of_range, "does not allow: power must lie between None and 1"),
        (lambda signals: None, r"must be a function of \(signals, keep"),
        (lambda signals, keep, **more: None, "'more' of <lambda> cannot be a parameter"),
    ],
)
def test_functions_that_cannot_be_methods_are_refused_where_they_are_defined(function, sentence):
    with pytest.raises(TypeError, match=sentence):
        tokviz.pruner("mine")(function)


def test_a_method_may_return_indices_in_any_order_and_draw_at_random(vlm, scene_image):
    @tokviz.pruner("lots")
    def lots(signals, keep, generator):
        return torch.randperm(len(signals.features), generator=generator)[:keep]

    @tokviz.pruner("first", site="encoder")
    def first(signals, keep):
        return list(range(keep))[::-1]

    @tokviz.pruner("inside", site=3, needs=[tokviz.LAST_ROW])
    def inside(signals, keep):
        return tokviz.keep_highest(signals.attention_rows[0], keep, label="Attention of the last token")

    @tokviz.pruner("tower", site=tokviz.VisionLayer(4))
    def tower(signals, keep):
        return tokviz.keep_highest(signals.keys.norm(dim=1), keep)

    one, again, other = (
        tokviz.compare(vlm, scene_image, QUESTION, [lots, first, inside, tower], budget=20, seed=seed)
        for seed in (0, 0, 1)
    )
    assert not [run.error for run in one if run.error]
    assert one["lots"].kept == again["lots"].kept != other["lots"].kept
    assert one["first"].kept == list(range(20)) and len(one["inside"].kept) == len(one["tower"].kept) == 20
    assert (
        one["inside"].kept
        == tokviz.compare(vlm, scene_image, QUESTION, ["fastv"], budget=20, params={"fastv": {"layer": 3}})[
            "fastv"
        ].kept
    )
    assert one["inside"].stages[0].score.label == "Attention of the last token"


@pytest.mark.parametrize(
    ("made", "error", "sentence"),
    [
        (lambda keep: torch.arange(keep + 1), ValueError, "was to keep 20 tokens and kept 21"),
        (lambda keep: torch.ones(50, dtype=torch.bool), TypeError, r"indices of the tokens to keep, not torch.bool"),
        (lambda keep: torch.tensor([3, 3, 4]), ValueError, "ascending, unique"),
        (lambda keep: torch.tensor([9999]), ValueError, "within 0"),
    ],
)
def test_what_breaks_the_contract_is_an_error_in_the_name_of_the_function(vlm, scene_image, made, error, sentence):
    @tokviz.pruner("broken")
    def broken(signals, keep):
        return made(keep)

    with pytest.raises(error, match=sentence):
        tokviz.compare(vlm, scene_image, QUESTION, [broken], budget=20)


def test_a_method_that_keeps_fewer_tokens_than_asked_says_so_on_the_run(vlm, scene_image):
    @tokviz.pruner("few", label="Only a few")
    def few(signals, keep, *, short: int = 13):
        return tokviz.keep_highest(signals.features.norm(dim=1), keep - short)

    @tokviz.pruner("summed")
    def summed(signals, keep, *, more: int = 0):
        rest = signals.features.mean(0, keepdim=True)
        return tokviz.Selection(torch.arange(keep - 1 + more), extra=rest)

    asked = [few, (few, {"short": 0}), summed]
    some, all_, added = tokviz.compare(vlm, scene_image, QUESTION, asked, budget=20).runs[1:]
    assert some.warnings == ["Only a few kept 7 of the 20 visual tokens that it was asked for."]
    assert not all_.warnings and not added.warnings, "an added token is one of those asked for"
    assert some.stages[0].score is not None and "ties_at_threshold" in some.stages[0].facts
    with pytest.raises(ValueError, match="summed was to keep 20 tokens and kept 21"):
        tokviz.compare(vlm, scene_image, QUESTION, [(summed, {"more": 1})], budget=20)


def test_where_only_patches_can_stay_their_number_is_enough():
    among = torch.arange(10) < 6
    stage = tokviz.pruner("patches")(
        lambda signals, keep: tokviz.keep_highest(signals.features[:, 0], keep, among=signals.candidates)
    )
    planned = stage.schedule(tokviz.Budget(8), tokviz.PlanningInfo(n_visual=10, n_layers=4), {}).stages[0]
    signals = tokviz.Signals(torch.randn(10, 3), candidates=among)
    selection = planned.select(signals, 8, {}, torch.Generator())
    assert selection.kept.tolist() == list(range(6)) and not selection.diagnostics.warnings


def test_two_different_methods_of_one_id_are_refused(vlm, scene_image):
    other = tokviz.pruner("apet")(lambda signals, keep: range(keep))
    with pytest.raises(tokviz.BadInput, match="Two different methods have the id 'apet'"):
        tokviz.compare(vlm, scene_image, QUESTION, ["apet", other])
    with pytest.raises(tokviz.BadInput, match="already a method with the id 'apet'"):
        tokviz.register(other)


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_found", None)


def test_a_registered_method_is_known_by_its_id(vlm, scene_image, clean_registry):
    with pytest.raises(tokviz.BadInput, match="There is no method 'my-norm'"):
        tokviz.compare(vlm, scene_image, QUESTION, ["my-norm"])
    assert tokviz.register(my_norm) is my_norm and tokviz.methods()[-1] is my_norm
    assert tokviz.compare(vlm, scene_image, QUESTION, ["my-norm"], budget=9)["my-norm"].family == "custom"
    newer = tokviz.register(replace(my_norm, label="Newer"))
    assert [p for p in tokviz.methods() if p.id == "my-norm"] == [newer]
    for wrong in (lambda signals, keep: None, "my-norm", replace(my_norm, id="a b"), replace(my_norm, id="a,b=c")):
        with pytest.raises(tokviz.BadInput):
            tokviz.register(wrong)


PLUGIN = """
import tokviz
tokviz.methods()  # asking while being asked for

@tokviz.pruner("from-a-package", label="From a package")
def made(signals, keep):
    return range(keep)

several = [made, tokviz.pruner("second")(lambda signals, keep: range(keep))]
shadow = tokviz.pruner("apet")(lambda signals, keep: range(keep))
no_pruner = 3
"""


def test_packages_bring_methods_and_a_broken_one_is_named_and_left_out(tmp_path, monkeypatch, clean_registry):
    (tmp_path / "plugged.py").write_text(PLUGIN)
    (tmp_path / "breaks.py").write_text("import there_is_no_such_package")
    info = tmp_path / "tokviz_more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tokviz-more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tokviz.pruners]\na = breaks:PRUNER\nb = plugged:several\nc = plugged:shadow\nd = plugged:no_pruner\n"
        "e = plugged:missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ids = [pruner.id for pruner in tokviz.methods()]
        assert [pruner.id for pruner in tokviz.methods()] == ids, "asked once"
    said = [str(warning.message) for warning in caught if "is left out" in str(warning.message)]
    assert ids[-2:] == ["from-a-package", "second"] and ids.count("apet") == 1
    assert len(said) == 4 and all("of tokviz-more is left out" in sentence for sentence in said)
    assert "'a'" in said[0] and "there_is_no_such_package" in said[0] and "another method with the id 'apet'" in said[1]
    monkeypatch.delitem(sys.modules, "plugged")


# -- one's own generate --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(vlm, scene_image):
    return tokviz.inputs_for(vlm, scene_image, QUESTION)


def processed(vlm, images, questions, **options):
    """What somebody makes with the processor alone."""
    texts = [
        vlm.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        for question in questions
    ]
    return vlm.processor(images=images, text=texts, return_tensors="pt", padding=True, padding_side="left", **options)


def said(vlm, ids):
    return vlm.processor.batch_decode(ids, skip_special_tokens=True)


EVERYTHING = [*tokviz.methods(), my_norm]


@pytest.fixture(scope="module")
def compared(vlm, scene_image):
    """Every method in one comparison; that none minds its company is tested in ``test_behaviour.py``."""
    return tokviz.compare(vlm, scene_image, QUESTION, EVERYTHING, budget=40, seed=5, max_new_tokens=6)


@pytest.mark.parametrize("pruner", EVERYTHING, ids=lambda pruner: pruner.id)
def test_every_method_keeps_and_answers_inside_generate_what_it_does_in_a_comparison(vlm, compared, inputs, pruner):
    run = compared[pruner.id]
    if pruner.encodes_anew:
        with pytest.raises(BadInput, match="smaller image"), tokviz.prune(vlm, inputs, pruner, budget=40):
            pass
        return
    if run.error:
        with pytest.raises(tokviz.BadInput) as refused, tokviz.prune(vlm, inputs, pruner, budget=40):
            pass
        assert str(refused.value) == run.error
        return
    with tokviz.prune(vlm, inputs, pruner, budget=40, seed=5) as pruned:
        out = vlm.model.generate(**pruned.inputs, max_new_tokens=6, do_sample=False)
    assert said(vlm, out)[0].strip() == run.answer
    everything = list(range(int(torch.isin(inputs["input_ids"], vlm.model.config.image_token_id).sum())))
    assert pruned.kept[0].tolist() == (everything if run.kept is None else run.kept)


def test_the_processors_own_inputs_do_as_well(vlm, scene_image, inputs):
    mine = processed(vlm, [scene_image], [QUESTION])
    assert torch.equal(mine["input_ids"], inputs["input_ids"])
    with tokviz.prune(vlm, mine, ("fastv", {"layer": 3}), budget=30) as pruned:
        out = vlm.model.generate(**pruned.inputs, max_new_tokens=6, do_sample=False)
    run = tokviz.compare(vlm, scene_image, QUESTION, [("fastv", {"layer": 3})], budget=30)["fastv"]
    assert pruned.kept[0].tolist() == run.kept and said(vlm, out)[0].strip() == run.answer
    mask = inputs.question_mask
    with tokviz.prune(vlm, mine, "cdpruner", budget=30, question_mask=mask) as pruned:
        vlm.model.generate(**pruned.inputs, max_new_tokens=1, do_sample=False)
    assert len(pruned.kept[0]) == 30


@pytest.mark.parametrize("method", ["random", "fastv", "tome"])
def test_beams_sampling_and_returned_sequences(vlm, inputs, method):
    with tokviz.prune(vlm, inputs, method, budget=24) as pruned:
        beams = vlm.model.generate(**pruned.inputs, num_beams=3, max_new_tokens=5, do_sample=False)
        beams_kept = [kept.tolist() for kept in pruned.kept]
        torch.manual_seed(1)
        sampled = vlm.model.generate(
            **pruned.inputs, do_sample=True, temperature=2.0, num_return_sequences=4, max_new_tokens=5
        )
        torch.manual_seed(1)
        again = vlm.model.generate(
            **pruned.inputs, do_sample=True, temperature=2.0, num_return_sequences=4, max_new_tokens=5
        )
        greedy = vlm.model.generate(**pruned.inputs, do_sample=False, max_new_tokens=5)
    assert len(beams) == 1 and len(sampled) == 4 and torch.equal(sampled, again)
    assert all(kept == beams_kept[0] and len(kept) == 24 for kept in [*beams_kept, pruned.kept[0].tolist()])
    assert said(vlm, greedy)[0]


@pytest.mark.parametrize("method", ["apet", "random", "pdrop", "tome"])
def test_a_row_of_a_batch_is_pruned_as_it_is_alone(vlm, scene_image, method):
    images = [scene_image, scene_image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    questions = [QUESTION, "how many red squares are there?"]
    both = processed(vlm, images, questions)
    options = {"budget": 33, "budget_as": "final", "seed": 3}
    with tokviz.prune(vlm, both, method, **options) as pruned:
        out = said(vlm, vlm.model.generate(**pruned.inputs, max_new_tokens=5, do_sample=False))
    for row, (image, question) in enumerate(zip(images, questions, strict=True)):
        with tokviz.prune(vlm, processed(vlm, [image], [question]), method, **options) as alone:
            answer = said(vlm, vlm.model.generate(**alone.inputs, max_new_tokens=5, do_sample=False))
        assert pruned.kept[row].tolist() == alone.kept[0].tolist() and out[row] == answer[0]


def test_streaming_from_a_thread(vlm, inputs):
    streamer = TextIteratorStreamer(vlm.processor.tokenizer, skip_special_tokens=True, timeout=60)
    with tokviz.prune(vlm, inputs, "fastv", budget=24) as pruned:
        options = {**pruned.inputs, "max_new_tokens": 5, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=pruned.bind(vlm.model.generate), kwargs=options)
        thread.start()
        streamed = "".join(streamer)
        thread.join()
        whole = said(vlm, vlm.model.generate(**pruned.inputs, max_new_tokens=5, do_sample=False))[0]
    assert streamed.strip() == whole.strip() and len(pruned.kept[0]) == 24


@pytest.mark.parametrize("method", ["fastv", "apet", "tome"])
def test_a_second_turn_goes_on_from_the_cache(vlm, inputs, method):
    more = vlm.processor.tokenizer(" and the square ?", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with tokviz.prune(vlm, inputs, method, budget=24) as pruned, torch.no_grad():
        first = vlm.model.generate(**pruned.inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
        kept, cache = pruned.kept[0].tolist(), pruned.cache
        assert cache is first.past_key_values
        ids = torch.cat([inputs["input_ids"], first.sequences, more], dim=1)
        second = vlm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=3, do_sample=False
        )
    assert torch.equal(second[:, : ids.shape[1]], ids) and second.shape[1] > ids.shape[1]
    assert 0 < len(kept) <= 24 and vlm.model.generate(**inputs, max_new_tokens=1) is not None


def test_prune_knows_the_evidence_that_the_inputs_were_made_with(vlm, inputs, scene_image):
    with pytest.raises(BadInput, match=r"Oracle needs evidence.*tokviz\.inputs_for"):
        tokviz.prune(vlm, inputs, "oracle", budget=9).__enter__()
    bare = dict(inputs.items())  # as a processor of one's own returns it
    with pytest.raises(BadInput, match="Oracle needs evidence"):
        tokviz.prune(vlm, bare, "oracle", budget=9).__enter__()
    box = (40.0, 30.0, 120.0, 90.0)
    marked = tokviz.inputs_for(vlm, scene_image, "what color is the star?", evidence=[box])
    assert marked.evidence == evidence_shares(marked.grid, [box])
    with tokviz.prune(vlm, marked, "oracle", budget=9) as pruned:
        vlm.model.generate(**pruned.inputs, max_new_tokens=1)
    compared = tokviz.compare(vlm, scene_image, "what color is the star?", ["oracle"], 9, evidence=[box])
    assert pruned.kept[0].tolist() == compared["oracle"].kept
    with pytest.raises(BadInput, match="evidence box"):
        tokviz.inputs_for(vlm, scene_image, "what?", evidence=[(9, 0, 3, 5)])
    with pytest.raises(BadInput, match="this is an image"):
        tokviz.inputs_for(vlm, scene_image, "what?", evidence=[box], evidence_frames=[0])


def test_other_threads_and_what_comes_after_are_not_pruned(vlm, inputs):
    plain = vlm.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    found = []
    with tokviz.prune(vlm, inputs, "random", budget=2) as pruned:
        thread = threading.Thread(
            target=lambda: found.append(vlm.model.generate(**inputs, max_new_tokens=4, do_sample=False))
        )
        thread.start()
        thread.join()
        vlm.model.generate(**pruned.inputs, max_new_tokens=1)
    assert torch.equal(found[0], plain)
    assert torch.equal(vlm.model.generate(**inputs, max_new_tokens=4, do_sample=False), plain)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "fasty"}, "There is no method 'fasty'; did you mean 'fastv'"),
        ({"method": ("apet", {"mod": "official"})}, "no parameter 'mod'; did you mean 'mode'"),
        ({"params": {"layr": 2}}, "no parameter 'layr'; did you mean 'layer'"),
        ({"budget": 0}, "budget must be a whole number of at least 1"),
        ({"budget_as": "finally"}, "must be counted as published, final, average"),
        ({"inputs": "an image"}, "inputs are what the model's processor returned, with input_ids, not a str"),
        ({"vlm": None}, r"as tokviz.load returns it, not None: write tokviz.prune\(tokviz.load"),
        ({"method": "globalcom2"}, "compares a thumbnail with its crops"),
    ],
)
def test_wrong_arguments_are_refused_before_the_block(vlm, inputs, changes, sentence):
    arguments = {"vlm": vlm, "inputs": inputs, "method": "fastv", "budget": 9} | changes
    with pytest.raises(tokviz.BadInput, match=sentence), tokviz.prune(**arguments):
        pytest.fail("entered")


def test_misspelt_keywords_name_the_nearest(vlm, inputs, scene_image):
    with pytest.raises(TypeError, match=r"^prune\(\) has no argument 'bugdet'; did you mean 'budget'\?$"):
        tokviz.prune(vlm, inputs, "apet", bugdet=3)
    with pytest.raises(TypeError, match=r"^inputs_for\(\) has no argument 'frame'; did you mean 'frames'\?$"):
        tokviz.inputs_for(vlm, scene_image, QUESTION, frame=3)
    with pytest.raises(tokviz.BadInput, match=r"parameters for 'apt', .*; did you mean 'apet'"):
        tokviz.compare(vlm, scene_image, QUESTION, ["apet"], params={"apt": {}})


# -- names ---------------------------------------------------------------------------------------------------------


def test_every_name_resolves_and_importing_costs_no_torch():
    code = (
        "import sys, tokviz; before = set(sys.modules); assert not {'torch', 'gradio', 'matplotlib'} & before\n"
        "assert set(tokviz.__all__) <= set(dir(tokviz)); assert tokviz.BadInput and tokviz.Comparison\n"
        "assert 'torch' not in sys.modules; print(tokviz.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == tokviz.__version__
    everything: dict = {}
    exec("from tokviz import *", everything)
    assert all(everything[name] is getattr(tokviz, name) for name in tokviz.__all__)
    with pytest.raises(AttributeError, match="'nosuch'"):
        _ = tokviz.nosuch


def test_what_type_checkers_see_is_what_there_is():
    lines = inspect.getsource(tokviz).partition("if TYPE_CHECKING:")[2].partition("\n# Resolved")[0]
    imported = set(re.findall(r"\w+", lines))
    missing = set(tokviz.__all__) - imported - {"__version__"}
    assert not missing and {entry.id for entry in tokviz.list_models()} >= {"tokviz-tiny"}


def test_a_video_is_prepared_too(video_vlm=None):
    vlm = tokviz.load("tokviz-tiny-video")
    clip = next((ROOT / "examples").glob("*/clip.*"))
    inputs = tokviz.inputs_for(vlm, clip, "what is it ?", frames=4)
    with tokviz.prune(vlm, inputs, "divprune", budget=32) as pruned:
        vlm.model.generate(**pruned.inputs, max_new_tokens=1)
    run = tokviz.compare(vlm, clip, "what is it ?", ["divprune"], budget=32, frames=4)["divprune"]
    assert pruned.kept[0].tolist() == run.kept
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(image, "PNG")
    with pytest.raises(tokviz.BadInput, match="setting for videos"):
        tokviz.inputs_for(vlm, image.getvalue(), "what is it ?", frames=4)


def test_contexts_cannot_be_nested_and_say_so_in_the_users_own_words(vlm, inputs):
    with tokviz.prune(vlm, inputs, "divprune", budget=20) as pruned:
        assert repr(pruned) == "Pruned(not run yet)"
        with pytest.raises(tokviz.BadInput, match="inside prune"), tokviz.prune(vlm, inputs, "fastv", budget=20):
            pass
        vlm.model.generate(**pruned.inputs, max_new_tokens=2)
        assert repr(pruned) == "Pruned(visual tokens left: 20)"
