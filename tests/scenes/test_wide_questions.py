"""Wide questions: each has one right answer, in every wording; answers do not lean to one side."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from wide_oracle import recount

from scenes import COLORS, RELATIONS, SHAPES, SIZES, UNSEEN_PAIRS, Scene
from scenes.wide import (
    KIND_FAMILIES,
    MAX_WIDE_COUNT,
    PHRASINGS,
    RESERVED,
    UNKNOWN,
    WideQuestion,
    WideQuestionMaker,
    generate_wide_scene,
    words_of,
)
from scenes.wide.phrasings import GENERIC_NOUNS, RELATION_PHRASES, WORDINGS, plural_of

KINDS = ("existence", "attribute", "counting", "place", "relation", "reading", "listing", "unknown")
Asked = list[tuple[Scene, WideQuestion]]


@cache
def wide_scene(seed: int) -> Scene:
    """What is there to ask about, drawn once; without the picture, at which no question looks."""
    scene = generate_wide_scene(seed, questions_per_family=0)
    bare = np.broadcast_to(np.int16(-1), scene.owner.shape)  # of which only the size is asked for
    return replace(scene, image=scene.image[:0].copy(), owner=bare)


@pytest.fixture(scope="module")
def asked() -> Asked:
    """Questions of all kinds about the same scenes, the same number of tries for each."""
    rng, found = np.random.default_rng(5), []
    for seed in range(450):
        scene = wide_scene(seed)
        maker = WideQuestionMaker(rng, scene.objects, scene.signs, scene.square, unknown_share=0.0)
        found += [(scene, q) for kind in KINDS for _ in range(3) if (q := getattr(maker, kind)()) is not None]
    return found


def test_answers_are_what_the_words_ask_for(asked: Asked) -> None:
    wrong = [(s.seed, q.text, q.answer) for s, q in asked if recount(s, q.text, q.phrasing) != q.answer]
    assert not wrong, wrong[:5]


def test_evidence_is_the_boxes_of_what_is_named(asked: Asked) -> None:
    for scene, question in asked:
        boxes = {item.box for item in (*scene.objects, *scene.signs)}
        assert set(question.evidence) <= boxes
        things = {i for mention in question.mentions for i in mention.things}
        if question.family in ("existence", "attribute", "counting", "spatial"):
            assert set(question.evidence) == {scene.objects[i].box for i in things}, question


def test_mentions_are_the_words_that_describe_things(asked: Asked) -> None:
    nouns = {n for noun in (*GENERIC_NOUNS, *SHAPES) for n in (noun, plural_of(noun))} | {UNKNOWN, *RESERVED}
    seen = 0
    for scene, question in asked:
        words = words_of(question.text)
        for mention in question.mentions:
            assert 0 <= mention.start < mention.end <= len(words)
            if question.family == "reading":
                assert mention.end == len(words)
                assert all(i >= len(scene.objects) for i in mention.things)
                continue
            assert words[mention.end - 1] in nouns, (question.text, mention)
            for word in words[mention.start : mention.end - 1]:
                if word in COLORS:
                    assert all(scene.objects[i].color == word for i in mention.things)
            seen += 1
    assert seen > 3000


def test_every_phrasing_is_asked_and_every_kind_has_a_family(asked: Asked) -> None:
    assert set(PHRASINGS.values()) == set(KIND_FAMILIES)
    counted = Counter(question.phrasing for _, question in asked)
    assert not set(counted) - set(PHRASINGS)
    common = [template for template in PHRASINGS if KIND_FAMILIES[PHRASINGS[template]] != "reading"]
    assert len([template for template in common if counted[template]]) >= 0.97 * len(common)
    canonical = [forms[0] for forms in WORDINGS.values()]
    assert all(counted[template] for template in canonical)
    assert len(PHRASINGS) >= 200


def test_the_old_canonical_forms_are_the_new_ones() -> None:
    firsts = {kind: forms[0] for kind, forms in WORDINGS.items()}
    assert firsts["exists"] == "is there {a}?"
    assert [firsts[k] for k in ("color", "shape", "size")] == [
        f"what {k} is {{the}}?" for k in ("color", "shape", "size")
    ]
    assert firsts["count"] == "how many {many} are there?"
    assert firsts["place"] == "where is {the}?"
    assert firsts["relation"] == "is {the} {relation} {other}?"
    assert [firsts[k] for k in ("word", "number")] == [f"what {k} is on the sign?" for k in ("word", "number")]
    assert firsts["digit"] == "what digit is handwritten?"
    assert [phrases[0] for phrases in RELATION_PHRASES.values()] == list(RELATIONS)


def test_yes_and_no_are_balanced(asked: Asked) -> None:
    known = [question for _, question in asked if not question.unknown]
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in known:
        if question.answer in ("yes", "no"):
            answers[question.family][question.answer] += 1
            if question.kind == "relation":
                words = set(words_of(question.text))
                for relation, phrases in RELATION_PHRASES.items():
                    if any(words >= set(phrase.split()) for phrase in phrases):
                        answers[relation][question.answer] += 1
    for name in ("existence", "attribute", "spatial", *RELATIONS):
        share = answers[name]["yes"] / answers[name].total()
        assert answers[name].total() > 160, name
        assert abs(share - 0.5) < 0.08, (name, answers[name])


@pytest.mark.generator
def test_no_word_gives_the_answer_away() -> None:
    """Without the picture, no word of an existence question makes yes or no much likelier."""
    rng, answers = np.random.default_rng(6), defaultdict(Counter)
    for seed in range(500):
        scene = wide_scene(seed)
        maker = WideQuestionMaker(rng, scene.objects, scene.signs, scene.square)
        for question in (maker.existence() for _ in range(12)):
            if question is not None:
                for word in {*words_of(question.text)} & {*COLORS, *SHAPES, *SIZES}:
                    answers[word][question.answer] += 1
    assert set(answers) == {*COLORS, *SHAPES, *SIZES}
    for word, counted in answers.items():
        assert abs(counted["yes"] / counted.total() - 0.5) < 0.12, (word, counted)


def test_counts_from_zero_to_ten_are_about_equally_frequent(asked: Asked) -> None:
    counted = Counter(q.answer for _, q in asked if q.kind == "count" and not q.unknown)
    assert set(counted) == {str(n) for n in range(MAX_WIDE_COUNT + 1)}
    shares = {answer: n / counted.total() for answer, n in counted.items()}
    assert min(shares.values()) > 0.04 and max(shares.values()) < 0.17, shares


def test_unknown_words_are_never_there(asked: Asked) -> None:
    unknown = [question for _, question in asked if question.unknown]
    assert {question.answer for question in unknown} == {"no", "none", "0"}
    words = Counter(word for q in unknown for word in words_of(q.text) if word.startswith("<"))
    assert set(words) == {UNKNOWN, *RESERVED}
    assert 0.4 < words[UNKNOWN] / words.total() < 0.6
    assert not any("<" in question.text for _, question in asked if not question.unknown)


def test_no_question_or_answer_names_a_held_out_pair(asked: Asked) -> None:
    named = set()
    for _, question in asked:
        words = words_of(question.text)
        for mention in question.mentions:
            part = words[mention.start : mention.end]
            named |= {(c, s) for c in COLORS for s in SHAPES if c in part and {s, plural_of(s)} & set(part)}
    assert not named & UNSEEN_PAIRS
    assert len(named) == len(COLORS) * len(SHAPES) - len(UNSEEN_PAIRS)


def test_the_only_object_is_the_object() -> None:
    rng, found = np.random.default_rng(3), set()
    for seed in range(150):
        scene = wide_scene(seed)
        maker = WideQuestionMaker(rng, scene.objects, scene.signs, scene.square, paraphrased=0.0)
        for _ in range(6):
            question = maker.attribute()
            if question and question.text == "what color is the object?":
                assert len(scene.objects) == 1
                found.add(question.answer)
    assert found


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("What's the colour of the star?", "what is the color of the star"),
        ("Isn’t there a red star?", "is not there a red star"),
        ("can't you see any stars?", "can not you see any stars"),
        ("Where's the circle", "where is the circle"),
        ("whats on the sign?", "what is on the sign"),
        ("I'd like to know, please", "i would like to know please"),
        ("top-left", "top left"),
        ("are there two stars and ten rings?", "are there 2 stars and 10 rings"),
    ],
)
def test_spellings_become_one(text: str, plain: str) -> None:
    assert words_of(text) == plain.split()
