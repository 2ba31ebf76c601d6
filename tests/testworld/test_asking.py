"""Questions about the second world have one answer, in words that the model has, and none is a good guess."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from world_oracle import recount

from scenes import FAMILIES, SceneQuestion
from testworld import World, generate_world
from training.architecture import vocabulary
from training.tally import blind_kind

PICTURES = 90


@lru_cache(maxsize=1)
def worlds() -> list[World]:
    return [generate_world(1000 + i) for i in range(PICTURES)]


def asked(family: str) -> list[SceneQuestion]:
    return [q for world in worlds() for q in world.questions if q.family == family]


def test_every_answer_and_its_evidence_can_be_read_from_the_picture() -> None:
    for world in worlds():
        for question in world.questions:
            answer, boxes = recount(world, question)
            assert answer == question.answer, (world.seed, question)
            assert sorted(boxes) == sorted(question.evidence), (world.seed, question)


def test_every_word_is_known() -> None:
    known = vocabulary()
    for world in worlds():
        for question in world.questions:
            for word in (question.text.replace("?", "") + " " + question.answer).split():
                assert word in known, (word, question)


def test_enough_questions_of_every_family() -> None:
    for family in FAMILIES:
        assert len(asked(family)) >= 1.2 * PICTURES, family


def test_yes_and_no_are_balanced() -> None:
    for family in ("existence", "spatial"):
        answers = Counter(q.answer for q in asked(family) if q.answer in ("yes", "no"))
        share = answers["yes"] / answers.total()
        assert 0.42 <= share <= 0.58, (family, answers)


def test_a_size_word_gives_nothing_away() -> None:
    for word in ("small", "large"):
        answers = Counter(q.answer for q in asked("existence") if word in q.text)
        assert 0.25 <= answers["yes"] / answers.total() <= 0.75, (word, answers)


def test_counts_are_spread() -> None:
    answers = Counter(q.answer for q in asked("counting"))
    assert max(answers.values()) <= 0.27 * answers.total(), answers
    assert all(answers[str(count)] >= 0.04 * answers.total() for count in range(7)), answers


def test_no_guess_is_good() -> None:
    kinds: dict[str, Counter[str]] = {}
    for family in FAMILIES:
        for question in asked(family):
            kinds.setdefault(f"{family} {blind_kind(question)}", Counter())[question.answer] += 1
    for kind, answers in kinds.items():
        if answers.total() >= 30:
            assert max(answers.values()) <= 0.58 * answers.total(), (kind, answers)


def test_colours_of_plates_and_letters_are_not_asked_of_objects() -> None:
    for world in worlds():
        colors = {color for caption in world.captions for color in caption.colors}
        for question in world.questions:
            words = question.text.replace("?", "").split()
            for color in colors & set(words):
                assert words[words.index(color) + 1] not in ("object", "objects"), (world.seed, question)
