"""The search finds what plain comparisons find, does no work that cannot matter, and goes on where it stopped."""

import pytest
from PIL import Image

import tokviz
from scenes import EXAMPLE_SEEDS, generate_scene
from scripts.cases import search
from scripts.cases.building import Cache
from scripts.cases.search import FoundCase, Outcome, examine, find_flips, left, separate, verdicts_of
from tokviz.runs.events import Event
from tokviz.runs.metrics import evidence_tokens, normalised

METHODS = ("random", "fastervlm", "fastv")


def plain(vlm, scene, question, budget):
    """What a comparison of all methods says of one question: (lost, kept) or None, and the comparison."""
    comparison = tokviz.compare(
        vlm, Image.fromarray(scene.image), question.text, METHODS, budget, expected=question.answer,
        evidence=question.evidence, max_new_tokens=8,
    )  # fmt: skip
    rights = {run.method: normalised(run.answer) == normalised(question.answer) for run in comparison.runs}
    lost = tuple(method for method in METHODS if not rights[method])
    kept = tuple(method for method in METHODS if rights[method])
    return comparison, ((lost, kept) if rights["full"] and lost and kept else None)


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.generator)], ids=lambda n: f"{n} scenes")
def seeds(request):
    return EXAMPLE_SEEDS[: request.param]


@pytest.fixture(scope="module")
def asked(vlm, budget, seeds):
    """(scene, question, comparison, plain result) of every question with evidence in the scenes."""
    scenes = [generate_scene(seed) for seed in seeds]
    return [
        (scene, question, *plain(vlm, scene, question, budget))
        for scene in scenes
        for question in scene.questions
        if question.evidence
    ]


@pytest.mark.generator
def test_it_finds_what_plain_comparisons_find(vlm, budget, seeds, asked):
    found = {(case.seed, case.question): case for case in find_flips(vlm, seeds, METHODS, budget)}
    expected, told = {}, set()
    for scene, question, _, result in asked:
        if result is not None and (scene.seed, question.family) not in told:  # the first of each family
            told.add((scene.seed, question.family))
            expected[scene.seed, question.text] = result
    assert {key: (case.lost, case.kept) for key, case in found.items()} == expected
    assert expected, "no question separates the methods"
    for scene, question, comparison, result in asked:
        assert separate(comparison) == result
        case = found.get((scene.seed, question.text))
        if case is None:
            continue
        evidence = set(evidence_tokens(comparison.grid, question.evidence))
        assert case.n_evidence == len(evidence) and case.n_tokens == comparison.grid.n_tokens
        for method, outcome in case.outcomes.items():
            run = comparison[method]
            assert (outcome.answer, outcome.label, outcome.family) == (run.answer, run.label, run.family)
            assert outcome.evidence == len(evidence & set(left(run, comparison.grid)))
            assert outcome.inside == (method == "fastv") and 0 < outcome.sure <= 1


@pytest.mark.generator
def test_a_shortlist_that_loses_nothing_ends_the_question(vlm, budget, asked, monkeypatch):
    """Stored runs are handed out one by one, so that it is known which of them would have been carried out."""
    ran = []
    for scene, question, comparison, result in asked:

        def replay(*arguments, methods, comparison=comparison, **options):
            runs = [comparison[method] for method in ("full", *methods)]
            for lane, run in enumerate(runs):
                ran.append(run.method)
                yield Event("run", lane, run.answer, comparison.model_copy(update={"runs": runs[: lane + 1]}))

        monkeypatch.setattr(search, "compare_events", replay)
        ran.clear()
        found = examine(vlm, scene, question, METHODS, budget, first=("fastervlm",))
        if normalised(comparison.runs[0].answer) != normalised(question.answer):
            assert found is None and ran == ["full"]
        elif verdicts_of(comparison)["fastervlm"] == "right":
            assert found is None and ran == ["full", "fastervlm"]
        else:
            assert ran == ["full", "fastervlm", "random", "fastv"]
            assert (None if found is None else (set(found.lost), set(found.kept))) == (
                None if result is None else tuple(map(set, result))
            )


def a_case(seed):
    outcome = Outcome(label="A", family="merging", answer="x", right=True, sure=0.1, evidence=1, inside=True)
    return FoundCase(
        seed=seed, size=(9, 9), question="?", expected="x", question_family="reading", n_tokens=4, n_evidence=2,
        kinds=("relation",), hard="So.", sure=0.5, outcomes={"a": outcome},
    )  # fmt: skip


def test_the_cache_goes_on_where_it_stopped_and_forgets_another_model(tmp_path):
    path = tmp_path / "new" / "cache.jsonl"
    cache = Cache(path, "one")
    assert cache.get(3) is None
    cache.put(3, [a_case(3), a_case(3)])
    cache.put(4, [])
    again = Cache(path, "one")
    assert again.get(3) == [a_case(3), a_case(3)] and again.get(4) == [] and again.get(5) is None
    assert a_case(3).recall("a") == 0.5
    assert Cache(path, "two").get(3) is None
    assert Cache(path, "one").get(3) is None, "the other model's file replaced it"
