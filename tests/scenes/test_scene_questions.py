"""Questions: one right answer each, balanced, and hard to guess without the picture. Shares were measured; see each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from scene_oracle import described, kind_of, recount

from scenes import (
    COLORS,
    EXAMPLE_SEEDS,
    FAMILIES,
    HELD_OUT_SEEDS,
    SHAPES,
    SIGN_NUMBERS,
    SIGN_WORDS,
    TRAINING_SEEDS,
    Scene,
    SceneQuestion,
    generate_scene,
)

FAST = (96, 96)
"""The size does not change what is asked, and small pictures are drawn fast."""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [generate_scene(HELD_OUT_SEEDS[1000 + i], FAST) for i in range(600)]


@pytest.fixture(scope="module")
def questions(scenes: list[Scene]) -> list[SceneQuestion]:
    return [question for scene in scenes for question in scene.questions]


def share(group: list[SceneQuestion], answer: str) -> float:
    return sum(question.answer == answer for question in group) / len(group)


@pytest.mark.parametrize(
    "seeds",
    [HELD_OUT_SEEDS, *(pytest.param(seeds, marks=pytest.mark.generator) for seeds in (TRAINING_SEEDS, EXAMPLE_SEEDS))],
)
def test_answers_and_evidence_agree_with_a_recount(seeds: range) -> None:
    for seed in seeds[7000:7150]:
        scene = generate_scene(seed, questions_per_family=4)
        for question in scene.questions:
            answer, boxes = recount(scene, question.text)
            assert question.answer == answer, (seed, question)
            assert sorted(question.evidence) == sorted(boxes), (seed, question)


@pytest.mark.generator
def test_no_question_comes_twice(scenes: list[Scene]) -> None:
    for scene in scenes:
        texts = [question.text for question in scene.questions]
        assert len(texts) == len(set(texts))


@pytest.mark.generator
def test_every_family_is_asked_and_answers_come_from_the_closed_vocabulary(questions: list[SceneQuestion]) -> None:
    by_family = {family: [q for q in questions if q.family == family] for family in FAMILIES}
    assert all(len(group) >= 1000 for group in by_family.values())
    assert {q.answer for q in by_family["reading"]} == {*SIGN_WORDS, *SIGN_NUMBERS, "none"}
    assert {q.answer for q in by_family["counting"]} == {str(n) for n in range(10)}
    assert 0.05 < share(by_family["attribute"], "none") < 0.25


@pytest.mark.generator
def test_yes_and_no_are_balanced(questions: list[SceneQuestion]) -> None:
    kinds = {
        "any": [q for q in questions if q.family == "existence"],
        "pair": [q for q in questions if kind_of(q.text) == "is there a C S"],
        "color": [q for q in questions if kind_of(q.text) == "is there a C object"],
        "shape": [q for q in questions if kind_of(q.text) == "is there a S"],
        "relation": [q for q in questions if q.text.startswith("is the ")],
    }
    for kind, group in kinds.items():
        assert len(group) > 80, kind
        assert 0.4 < share(group, "yes") < 0.6, kind
    # Each relation word is as often true as false.
    for word in ("left", "right", "above", "below"):
        assert 0.38 < share([q for q in kinds["relation"] if f" {word} " in q.text], "yes") < 0.62, word


# The most that someone gets who answers every question of a kind alike. Measured on 1,500 held-out scenes: existence
# and relations .51-.54 (with a size word .63: small things are more often there), place .12, counting .34 for colour
# and shape and .25 for one of them, attributes .14-.18, size .55, word .27, number .32, digit .33.
BLIND_BOUNDS = {
    "is there a C S": 0.58, "is there a C object": 0.6, "is there a S": 0.6,
    "is there a small C S": 0.7, "is there a large C S": 0.7,
    "is the C S left of the C S": 0.6, "is the C S right of the C S": 0.6,
    "is the C S above the C S": 0.6, "is the C S below the C S": 0.6,
    "where is the C S": 0.17,
    "how many C S are there": 0.4, "how many S are there": 0.3, "how many C objects are there": 0.3,
    "what color is the S": 0.25, "what color is the small S": 0.25, "what color is the large S": 0.25,
    "what shape is the C object": 0.27, "what shape is the small C object": 0.25,
    "what shape is the large C object": 0.25,
    "what size is the C S": 0.62,
    "what word is on the sign": 0.36, "what number is on the sign": 0.41, "what digit is handwritten": 0.41,
}  # fmt: skip


@pytest.mark.generator
def test_the_best_blind_guess_stays_low_for_every_kind_of_question(questions: list[SceneQuestion]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[kind_of(question.text)][question.answer] += 1
    # Nothing else is ever asked, so no kind escapes a bound.
    assert set(answers) == set(BLIND_BOUNDS)
    for kind, counted in answers.items():
        assert counted.most_common(1)[0][1] / counted.total() < BLIND_BOUNDS[kind], (kind, counted)


@pytest.mark.generator
def test_no_is_mostly_a_near_miss(scenes: list[Scene]) -> None:
    near, asked = 0, 0
    for scene in scenes:
        for question in scene.questions:
            found = re.fullmatch(r"is there an? (\w+) (\w+)\?", question.text)
            if found and question.answer == "no" and found[1] in COLORS and found[2] in SHAPES:
                asked += 1
                near += bool(described(scene, found[1])) or bool(described(scene, found[2]))
    assert asked > 50 and near / asked > 0.8


@pytest.mark.generator
def test_near_duplicates_abound(scenes: list[Scene]) -> None:
    """Measured: 97 % of the objects share colour or shape with another, 57 % share both."""
    one, both = [], []
    for scene in scenes:
        for item in scene.objects:
            others = [other for other in scene.objects if other is not item]
            one.append(any(other.color == item.color or other.shape == item.shape for other in others))
            both.append(any(other.name == item.name for other in others))
    assert sum(one) / len(one) > 0.93
    assert 0.5 < sum(both) / len(both) < 0.7


@pytest.mark.generator
def test_counting_goes_up_to_nine_in_crowds(scenes: list[Scene]) -> None:
    asked = [(len(scene.objects), q) for scene in scenes for q in scene.questions if q.family == "counting"]
    assert {q.answer for _, q in asked} == {str(n) for n in range(10)}
    crowded = [int(q.answer) for things, q in asked if things >= 15]
    sparse = [int(q.answer) for things, q in asked if things <= 8]
    assert len(crowded) > 100
    # Measured: 2.9 against 1.6 on average; every ninth answer in a crowd is six or more.
    assert sum(crowded) / len(crowded) > sum(sparse) / len(sparse) + 0.7
    assert sum(count >= 6 for count in crowded) / len(crowded) > 0.08


@pytest.mark.generator
def test_absence_has_no_evidence_and_presence_has_some(questions: list[SceneQuestion]) -> None:
    for question in questions:
        nothing = {"existence": "no", "attribute": "none", "counting": "0", "reading": "none"}
        absent = question.answer == nothing.get(question.family)
        assert bool(question.evidence) is not absent, question
