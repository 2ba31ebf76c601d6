"""What ``import tokviz`` offers, in the hands of somebody who has not read the documentation."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

import tokviz
from tokviz import types
from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.media.images import read_image
from tokviz.pruners import PRUNERS
from tokviz.runs.events import Event
from tokviz.short import passed

QUESTION = "what color is the star?"


@pytest.fixture(scope="module")
def comparison(vlm, scene_image) -> Comparison:
    return tokviz.compare(vlm, scene_image, QUESTION, [pruner.id for pruner in PRUNERS], budget=64)


def test_every_public_name_is_there():
    everything = {}
    exec("from tokviz import *", everything)
    for name in tokviz.__all__:
        assert getattr(tokviz, name) is everything[name]
    assert tokviz.Comparison is Comparison and inspect.isclass(tokviz.VisionLanguageModel)
    assert tokviz.compare.__name__ == "compare" and tokviz.load.__doc__ and len(tokviz.methods()) == len(PRUNERS)
    with pytest.raises(AttributeError, match="'nosuch'"):
        _ = tokviz.nosuch


def test_every_signal_that_a_method_may_ask_for_is_public_and_described():
    offered = {name: value for name in tokviz.__all__ if isinstance(value := getattr(tokviz, name), tokviz.Need)}
    assert set(offered.values()) == {value for value in vars(types).values() if isinstance(value, tokviz.Need)}
    assert {need.kind for need in offered.values()} == set(get_args(types.SignalKind))
    page = (Path(__file__).resolve().parents[1] / "docs" / "own_pruner.md").read_text(encoding="utf-8")
    for name, need in offered.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        filled = set(line.split(" | ")[1].replace("`", "").split(", "))
        rows = {"last_row": "attention_rows", "text_rows": "attention_rows", "encoder_keys": "keys"}
        assert rows.get(need.kind, need.kind) in filled or need.kind == "llm_input"
        assert filled <= {field.name for field in fields(tokviz.Signals)}


def test_both_functions_take_the_same_keywords():
    one, other = (inspect.signature(function).parameters for function in (tokviz.compare, tokviz.compare_events))
    assert list(one) == list(other)
    assert {name: p.default for name, p in one.items()} == {name: p.default for name, p in other.items()}
    assert not [p for p in one.values() if p.kind is p.VAR_KEYWORD]


@pytest.mark.parametrize("name", ["compare", "compare_events"])
def test_a_misspelt_keyword_is_told_of_in_the_name_of_what_was_called(name, vlm, scene_image):
    with pytest.raises(TypeError) as refused:
        getattr(tokviz, name)(vlm, scene_image, QUESTION, bugdet=3)
    assert str(refused.value) == f"{name}() has no argument 'bugdet'; did you mean 'budget'?"
    with pytest.raises(TypeError, match=r"^load\(\) has no argument 'quantisation'; did you mean 'quantization'\?$"):
        tokviz.load(quantisation="4bit")


def test_a_model_object_is_not_loaded_or_compared_but_told_what_to_do(vlm, scene_image):
    model = vlm.model
    for given, sentence in (
        (model, r"not a LlavaForConditionalGeneration: .* tokviz\.wrap"),
        (vlm, "already loaded: pass it to tokviz.compare"),
        (None, "takes a name, not None"),
        (3, "takes a name, not an int"),
    ):
        with pytest.raises(BadInput, match=sentence) as refused:
            tokviz.load(given)
        assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)
    for given, kind in ((model, "a LlavaForConditionalGeneration"), ("tokviz-tiny", "a str"), (None, "None")):
        with pytest.raises(BadInput, match=f"as tokviz.load returns it, not {kind}") as refused:
            tokviz.compare(given, scene_image, QUESTION)
        assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["x" * 100_000, "/" + "x" * 5000, "a/" + "b" * 5000, "a\0b", "a/b\0c", "a\nb/c", "\udcff", "", "~nosuchuser/model",
     "../nosuch", "a/b/c", Path("nosuch"), Path("a/b"), Path("/nosuch/folder")],
)  # fmt: skip
def test_names_that_name_nothing_are_one_short_sentence(name):
    with pytest.raises(BadInput, match="There is no model") as refused:
        tokviz.load(name)
    said = str(refused.value)
    assert len(said) < 300 and said.isprintable()
    said.encode("utf-8")


WRONG = [
    ({"image": np.zeros((64, 64, 3))}, "not a ndarray"),
    ({"image": 3}, "not an int"),
    ({"image": "x" * 5000}, "file name too long"),
    ({"image": Path("/" + "x" * 5000)}, "file name too long"),
    ({"image": "a\0b.png"}, "no image file"),
    ({"methods": [["apet"]]}, r"\['apet'\] is none: a list"),
    ({"methods": [None]}, "None is none"),
    ({"methods": 3}, "methods must be a list, not 3"),
    ({"methods": None}, "methods must be a list"),
    ({"methods": ["x" * 5000]}, "There is no method 'xxx"),
    ({"budget": float("nan")}, "not nan"),
    ({"budget": float("inf")}, "not inf"),
    ({"budget": 10**6000}, "more than 60 digits"),
    ({"budget": "x" * 5000}, "not 'xxx"),
    ({"budget": [64]}, r"not \[64\]"),
    ({"seed": float("nan")}, "seed must be .* not nan"),
    ({"seed": float("inf")}, "seed must be .* not inf"),
    ({"repeats": float("nan")}, "repeats must be .* not nan"),
    ({"max_new_tokens": float("inf")}, "new tokens must be .* not inf"),
    ({"budget_as": ["final"]}, "budget_as must be"),
    ({"evidence": [(0, 0, float("nan"), 9)]}, "evidence box"),
    ({"evidence": [(0, 0, float("inf"), 9)]}, "evidence box"),
    ({"evidence": [(0, 0, 10**400, 9)]}, "evidence box"),
    ({"evidence": (0, 0, 9, 9)}, "evidence box .* not 0"),
    ({"evidence": ["1234"]}, "evidence box"),
    ({"evidence": [{"x0": 1}]}, "evidence box"),
    ({"evidence": [[[0], 0, 9, 9]]}, "evidence box"),
    ({"evidence": None}, "evidence must be a list"),
    ({"evidence_frames": 3}, "evidence_frames must be a list"),
    ({"params": {"apet": {"basis_tokens": float("nan")}}}, "finite number"),
    ({"params": {"apet": {"basis_tokens": float("-inf")}}}, "finite number"),
    ({"params": {"apet": {"basis_tokens": 10**6000}}}, "basis_tokens must lie between"),
    ({"params": {"apet": {"mode": ["official"]}}}, "mode must be one of"),
    ({"params": {"apet": {1: 2, "x": 3}}}, "no parameter 1"),
    ({"params": {"apet": [1]}}, "parameters of apet must be"),
    ({"params": {3: {}, "x": {}}}, "parameters for 3"),
    ({"params": [1]}, "params must be"),
    ({"expected": 3}, "expected answer must be text"),
    ({"question": 3}, "no question"),
    ({"frames": float("nan")}, "number of frames"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_wrong_values_are_one_short_sentence(vlm, scene_image, changes, sentence):
    request = {"image": scene_image, "question": QUESTION, "methods": ["apet"], "budget": 16} | changes
    with pytest.raises(BadInput, match=sentence) as refused:
        tokviz.compare(vlm, **request)
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)  # the longest names all methods


def test_values_are_shown_on_one_line_whatever_they_are():
    for value in ("a\nb", 10**9999, ["x" * 999] * 99, {"a": ["b"]}, torch.zeros(99, 99), object(), None, 1.5, (1,)):
        assert len(passed(value)) < 300 and "\n" not in passed(value)
    assert passed([1, "a"]) == "[1, 'a']" and passed((1, 2)) == "(1, 2)" and passed({"a": 1}) == "{'a': 1}"


def test_everything_shows_itself_in_a_few_lines(vlm, scene_image, comparison):
    image = read_image(scene_image)
    event = Event("text", 1, "word " * 9999, comparison)
    stage = comparison["apet"].stages[0]
    for thing in (comparison, comparison.runs[0], comparison["apet"], stage, stage.score, comparison.grid, image,
                  image.record, comparison.request, comparison.model, vlm, event):  # fmt: skip
        for shown in (repr(thing), str(thing), repr([thing])):
            assert len(shown) < 600 and shown.count("\n") < 8, type(thing)
            assert type(thing).__name__ in shown or shown == str(thing)
    assert comparison.runs[0].answer in repr(comparison) and QUESTION in repr(comparison)
    assert "tokviz-tiny" in repr(vlm) and "kept=<" in repr(stage) and "view=<576 entries>" in repr(comparison.grid)


def test_what_hostile_records_show_is_bounded(comparison):
    request = comparison.request.model_copy(update={"question": "q" * 9999, "methods": ["m" * 999] * 999})
    runs = [run.model_copy(update={"method": f"{n}" + "m" * 999, "answer": "a" * 9999})
            for n, run in enumerate(comparison.runs)]  # fmt: skip
    whole = comparison.model_copy(update={"request": request, "runs": runs})
    assert len(repr(whole)) < 900 and len(repr([whole])) < 900 and len(repr(request)) < 900


def test_a_video_shows_itself_in_a_few_lines():
    from clip_files import coded, grey_frames

    from tokviz.media.video import read_video

    video = read_video(coded(grey_frames(40)), lambda facts: list(range(30)))
    assert len(repr(video)) < 600 and len(repr([video])) < 600 and len(repr(video.record)) < 600
