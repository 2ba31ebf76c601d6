"""The shipped examples are true: found cases, and what the embedded model does today."""

import json
from pathlib import Path

import pytest

import tokviz
from tokviz.cases.search import separate
from tokviz.images import stored_image
from tokviz.measures import overlap, seen_by_llm, verdict
from tokviz.records import Comparison

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/session.json"))


def session(folder: Path) -> Comparison:
    return Comparison.from_json((folder / "session.json").read_text())


def test_at_least_two_examples_show_one_method_losing_and_another_keeping_the_answer():
    separating = [folder for folder in FOLDERS if separate(session(folder), 0, "") is not None]
    assert len(separating) >= 2


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_case_agrees_with_its_session(folder):
    case = json.loads((folder / "case.json").read_text())
    comparison = session(folder)
    assert case["question"] == comparison.request.question
    assert case["answer"] == comparison.request.expected_answer
    assert comparison.request.evidence
    assert case["title"] and case["why"] and case["licence"]
    assert verdict(comparison.runs[0].answer, comparison.runs[0].answer, case["answer"]).kind == "right"
    found = separate(comparison, 0, case["family"])
    assert found is not None
    for run in comparison.runs[1:]:
        assert set(seen_by_llm(run, comparison.grid.n_tokens)) <= set(range(comparison.grid.n_tokens))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_model_still_answers_and_keeps_as_stored(folder, vlm):
    stored = session(folder)
    request = stored.request
    again = tokviz.compare(
        vlm, stored_image(stored.picture), request.question, request.methods, request.budget, seed=request.seed,
        budget_as=request.budget_as, params=request.params, max_new_tokens=request.max_new_tokens,
    )  # fmt: skip
    for before, now in zip(stored.runs, again.runs, strict=True):
        assert now.answer == before.answer, before.method
        # Another processor rounds differently, so a near-tie may fall the other way; the picture must be the same.
        everything = range(stored.grid.n_tokens)
        assert overlap(now.kept or everything, before.kept or everything) > 0.8, before.method
