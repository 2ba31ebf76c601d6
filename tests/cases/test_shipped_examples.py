"""The shipped examples are true: found cases, fair to every family of methods, what the embedded model does today."""

import json
from pathlib import Path

import numpy as np
import pytest

import tokviz
from scenes import EXAMPLE_SEEDS, FAMILIES, generate_scene
from scripts.cases.building import leaves, stored_why
from scripts.cases.choosing import METHOD_FAMILIES, WANTED_KINDS
from scripts.cases.difficulty import difficulty
from scripts.cases.search import Outcome, left, separate
from tokviz.comparison import Comparison
from tokviz.media.images import stored_image
from tokviz.runs.metrics import evidence_recall, evidence_tokens, fates, normalised, stages_before_llm, verdict

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("[0-9]*/session.json"))
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def session(folder: Path) -> Comparison:
    return Comparison.from_json((folder / "session.json").read_text())


def case_of(folder: Path) -> dict:
    return json.loads((folder / "case.json").read_text())


def families(of: int) -> set[str]:
    """Families of the methods that lost (0) or kept (1) the answer in some example, as its lanes show."""
    return {
        comparison[method].family
        for comparison in map(session, FOLDERS)
        for method in (separate(comparison) or ((), ()))[of]
    }


def test_there_are_at_least_eight():
    assert len(FOLDERS) >= 8
    assert len({case_of(folder)["scene"]["seed"] for folder in FOLDERS}) == len(FOLDERS)


def test_every_family_of_methods_loses_at_least_one_example_and_wins_at_least_one():
    assert families(0) >= set(METHOD_FAMILIES) - {"custom"}
    assert families(1) >= set(METHOD_FAMILIES) - {"custom"}


def test_they_are_varied():
    assert {case_of(folder)["family"] for folder in FOLDERS} == set(FAMILIES)
    assert {kind for folder in FOLDERS for kind in case_of(folder)["kinds"]} >= set(WANTED_KINDS)


def test_the_page_opens_on_attention_apet_diversity_and_random():
    opening = [folder for folder in FOLDERS if case_of(folder).get("opening")]
    assert len(opening) == 1
    shown = {run.method: run.family for run in session(opening[0]).runs[1:]}
    assert {"apet", "random"} <= set(shown) and {"attention-ranked", "diversity"} <= set(shown.values())


@each
def test_the_case_agrees_with_its_session(folder):
    case, comparison = case_of(folder), session(folder)
    request, runs = comparison.request, comparison.runs
    assert (case["question"], case["answer"]) == (request.question, request.expected_answer)
    assert request.evidence and case["title"] and case["licence"]
    assert verdict(runs[0].answer, runs[0].answer, case["answer"]).kind == "right"
    lost, kept = separate(comparison)
    assert len({run.family for run in runs[1:]}) == len(runs) - 1 == len(lost) + len(kept)
    for run in runs[1:]:
        assert run.answer == case["answers"][run.method]
        assert run.label in case["title"] or run.family == "control"
        assert all(set(stage.kept) <= set(range(comparison.grid.n_tokens)) for stage in stages_before_llm(run))
    recalls = {
        run.method: evidence_recall(comparison.grid, request.evidence, left(run, comparison.grid)) for run in runs[1:]
    }
    assert max(recalls[method] for method in kept) - min(recalls[method] for method in lost) >= 0.5


@each
def test_why_it_is_hard_is_what_its_scene_and_its_answers_say(folder):
    case, comparison = case_of(folder), session(folder)
    seed, size = case["scene"]["seed"], tuple(case["scene"]["size"])
    assert seed in EXAMPLE_SEEDS
    scene = generate_scene(seed, size=size)
    drawn, stored = scene.image.astype(int), np.asarray(stored_image(comparison.image), dtype=int)
    assert drawn.shape == stored.shape and np.abs(drawn - stored).mean() < 1, "another processor may round an edge"
    question = next(question for question in scene.questions if question.text == case["question"])
    assert [list(box) for box in comparison.request.evidence] == [list(box) for box in question.evidence]
    facts = difficulty(scene, question, comparison.grid)
    assert (case["hard"], case["kinds"]) == (facts.sentence, list(facts.kinds))
    assert case["why"].startswith(f"{facts.sentence} ")
    wrong = sum(normalised(answer) != normalised(case["answer"]) for answer in case["answers"].values())
    assert case["why"].endswith(f" {wrong} of {len(case['answers'])} methods lose this answer.")


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in EXAMPLES.glob("*/session.json")), ids=lambda p: p.name
)
def test_why_says_what_became_of_the_evidence(folder):
    assert case_of(folder)["why"] == stored_why(case_of(folder), session(folder))


def test_merged_evidence_is_not_told_as_lost():
    folder = EXAMPLES / "03-existence"
    comparison = session(folder)
    tokens = evidence_tokens(comparison.grid, comparison.request.evidence)
    became = fates(tokens, comparison["tome"].stages, comparison.grid.n_tokens)
    assert (len(became.kept), len(became.absorbed), len(became.lost)) == (0, 4, 0)
    assert "ToMe merges all of them into other tokens and answers" in case_of(folder)["why"]


@pytest.mark.parametrize(
    ("kept", "absorbed", "inside", "words"),
    [
        (0, 0, False, "hands none of them to the language model"),
        (4, 0, True, "leaves all of them inside the language model"),
        (0, 4, False, "merges all of them into other tokens"),
        (0, 3, False, "keeps none of them, merges 3 into other tokens, loses 1"),
        (1, 3, True, "keeps 1 of them, merges 3 into other tokens"),
    ],
)
def test_what_a_method_did_with_the_evidence_in_words(kept, absorbed, inside, words):
    outcome = Outcome(
        label="", family="merging", answer="", right=False, sure=1.0, evidence=kept, inside=inside, absorbed=absorbed
    )
    assert leaves(outcome, 4) == words


EVERY_SECOND = [  # one of every kind at least; `make test-all` asks about all
    pytest.param(folder, marks=pytest.mark.generator if number % 2 else (), id=folder.name)
    for number, folder in enumerate(FOLDERS)
]


@pytest.mark.parametrize("folder", EVERY_SECOND)
def test_the_model_still_answers_and_keeps_as_stored(folder, vlm):
    stored = session(folder)
    request = stored.request
    assert stored.grid.n_tokens == vlm.model.config.image_seq_length
    again = tokviz.compare(
        vlm, stored_image(stored.image), request.question, request.methods, request.budget, seed=request.seed,
        budget_as=request.budget_as, max_new_tokens=request.max_new_tokens,
    )  # fmt: skip
    for before, now in zip(stored.runs, again.runs, strict=True):
        assert now.answer == before.answer, before.method
        # Another processor rounds differently, so a near-tie may fall the other way; the image must be the same.
        everything = range(stored.grid.n_tokens)
        now_kept, before_kept = (set(run.kept or everything) for run in (now, before))
        assert len(now_kept & before_kept) > 0.8 * len(now_kept | before_kept), before.method
