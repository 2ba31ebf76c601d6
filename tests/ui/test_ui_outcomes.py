"""What the page says about an example before it is opened: who loses the answer, by the stored answers alone."""

import base64
import io

import pytest
from PIL import Image
from synthetic import write_examples

import tokviz
from tokviz.runs.examples import load_examples
from tokviz.ui.outcomes import cards, outcomes

PRUNERS = tokviz.methods()
ANSWERS = {
    "fastervlm": "Blue.", "visionzip": "blue", "vispruner": " CYAN ", "divprune": "cyan", "dart": "cyan", "apet": "red",
    "random": "blue", "uniform": "cyan", "no such method": "cyan",
}  # fmt: skip
"""Attention loses by two to one, diversity and approximation error are of one mind, controls are undecided."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return load_examples(folder)


def answered(example, answers):
    return type(example)(
        example.id, example.case.model_copy(update={"answers": answers, "answer": "cyan"}), example.comparison
    )


def test_answers_are_judged_as_those_of_lanes_are_and_losers_come_first(examples):
    told = outcomes(answered(examples[0], ANSWERS), PRUNERS)
    right = {one["id"]: one["right"] for one in told}
    assert right == {
        "fastervlm": False, "visionzip": False, "vispruner": True, "divprune": True, "dart": True, "apet": False,
        "random": False, "uniform": True, "todre": True,
    }, "todre is a lane of the session only"  # fmt: skip
    kinds = list(dict.fromkeys(one["family"] for one in told))
    assert kinds == ["approximation error", "attention", "control", "diversity"]
    assert [one["label"] for one in told if one["family"] == "attention"] == ["FasterVLM", "VisionZip", "VisPruner"]


def test_a_card_names_the_kinds_that_lose_and_that_win_with_their_methods(examples):
    (card,) = cards([answered(examples[0], ANSWERS)], PRUNERS)
    assert card["loses"] == [["approximation error", ["ApET"]], ["attention", ["FasterVLM", "VisionZip"]]]
    assert card["wins"] == [["diversity", ["DART", "DivPrune", "ToDRE"]]], "controls are undecided: neither"
    picture = Image.open(io.BytesIO(base64.b64decode(card["thumb"].removeprefix("data:image/webp;base64,"))))
    assert picture.size[0] == picture.size[1] <= 128 and len(card["thumb"]) < 6000


def test_without_a_case_file_s_answers_the_lanes_are_what_is_known(examples):
    told = outcomes(answered(examples[0], {}), PRUNERS)
    assert {one["id"] for one in told} == {run.method for run in examples[0].comparison.runs} - {"full"}
