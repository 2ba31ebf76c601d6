"""What training may see and what it never sees: pairs, fonts, handwriting and seeds."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from scenes import (
    COLORS,
    EXAMPLE_SEEDS,
    HELD_OUT_SEEDS,
    SHAPES,
    TRAINING_SEEDS,
    UNSEEN_PAIRS,
    VALIDATION_SEEDS,
    QuestionMaker,
    Scene,
    generate_scene,
)
from scenes.lettering import FONT_FILES, TRAINING_FONTS, handwritten_numbers
from scenes.words import is_unseen

FAST = (96, 96)
"""The size changes neither what is shown nor what is asked, and small pictures are drawn fast."""
HELD_OUT_FONTS = set(FONT_FILES[TRAINING_FONTS:])
HELD_OUT_HANDWRITING = {str(number) for digit in range(10) for number in handwritten_numbers(digit, True)}


def some_seeds(seeds: range, count: int) -> list[int]:
    """The first and last seeds of a range, and some in between."""
    step = (len(seeds) - 1) // (count - 1)
    return [*(seeds[i * step] for i in range(count - 1)), seeds[-1]]


def named_pairs(text: str) -> set[tuple[str, str]]:
    """Colour and shape wherever the question puts them side by side."""
    singular = {plural: shape for shape in SHAPES for plural in (shape, f"{shape}s", f"{shape}es")}
    words = re.findall(r"\w+", text)
    return {(a, singular[b]) for a, b in pairwise(words) if a in COLORS and b in singular}


def shown_pairs(scene: Scene) -> set[tuple[str, str]]:
    return {(item.color, item.shape) for item in scene.objects}


def unseen_signs(scene: Scene) -> list[bool]:
    """Of each sign, whether its font or handwriting is held out."""
    return [sign.font in (HELD_OUT_HANDWRITING if sign.kind == "digit" else HELD_OUT_FONTS) for sign in scene.signs]


def test_seed_ranges_are_disjoint() -> None:
    ranges = sorted([TRAINING_SEEDS, VALIDATION_SEEDS, HELD_OUT_SEEDS, EXAMPLE_SEEDS], key=lambda r: r.start)
    assert all(left.stop <= right.start for left, right in pairwise(ranges))
    for seeds, unseen in (
        (TRAINING_SEEDS, False),
        (VALIDATION_SEEDS, False),
        (HELD_OUT_SEEDS, True),
        (EXAMPLE_SEEDS, True),
    ):
        assert is_unseen(seeds[0]) is unseen and is_unseen(seeds[-1]) is unseen


def test_every_shape_and_colour_is_trained_although_a_pair_is_not() -> None:
    assert all(color in COLORS and shape in SHAPES for color, shape in UNSEEN_PAIRS)
    assert len({color for color, _ in UNSEEN_PAIRS}) == len({shape for _, shape in UNSEEN_PAIRS}) == len(UNSEEN_PAIRS)


@pytest.mark.generator
@pytest.mark.parametrize(
    ("seeds", "dense"),
    [
        pytest.param(TRAINING_SEEDS, False, id="training"),
        pytest.param(TRAINING_SEEDS, True, id="training-dense", marks=pytest.mark.generator),
        pytest.param(VALIDATION_SEEDS, False, id="validation", marks=pytest.mark.generator),
        pytest.param(VALIDATION_SEEDS, True, id="validation-dense", marks=pytest.mark.generator),
    ],
)
def test_training_and_validation_never_show_or_name_what_is_held_out(seeds: range, dense: bool) -> None:
    pairs, signs = 0, 0
    for seed in some_seeds(seeds, 150):
        scene = generate_scene(seed, FAST, dense=dense, questions_per_family=4)
        assert not shown_pairs(scene) & UNSEEN_PAIRS, seed
        assert not any(unseen_signs(scene)), seed
        for question in scene.questions:
            assert not named_pairs(question.text) & UNSEEN_PAIRS, (seed, question.text)
            pairs += len(named_pairs(question.text))
        signs += len(scene.signs)
    assert signs > 100 and (dense or pairs > 1000)


def test_training_with_its_own_question_maker_never_names_an_unseen_pair() -> None:
    # Training asks many more questions of a scene than the scene itself carries.
    for seed in some_seeds(TRAINING_SEEDS, 30):
        scene = generate_scene(seed, FAST, questions_per_family=0)
        maker = QuestionMaker(np.random.default_rng([seed, 99]), scene.objects, scene.signs, scene.square)
        for family in ("existence", "attribute", "counting", "spatial") * 20:
            question = maker.make(family)
            assert question is None or not named_pairs(question.text) & UNSEEN_PAIRS, (seed, question)


@pytest.mark.generator
@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(HELD_OUT_SEEDS, id="held out"),
        pytest.param(EXAMPLE_SEEDS, id="examples", marks=pytest.mark.generator),
    ],
)
def test_held_out_scenes_show_and_name_in_part_what_training_never_saw(seeds: range) -> None:
    scenes = [generate_scene(seed, FAST) for seed in some_seeds(seeds, 250)]
    fresh = [flag for scene in scenes for flag in unseen_signs(scene)]
    assert 0.4 < np.mean(fresh) < 0.6
    shown = [(item.color, item.shape) in UNSEEN_PAIRS for scene in scenes for item in scene.objects]
    # 6 of 48 pairs are held out, and held-out scenes treat all pairs alike.
    assert 0.08 < np.mean(shown) < 0.17
    named = set().union(*(named_pairs(question.text) for scene in scenes for question in scene.questions))
    assert named >= UNSEEN_PAIRS


@pytest.mark.generator
def test_an_unseen_pair_is_asked_about_as_often_when_it_is_there_as_when_it_is_not() -> None:
    answers = []
    for seed in range(HELD_OUT_SEEDS.start + 40_000, HELD_OUT_SEEDS.start + 40_120):
        scene = generate_scene(seed, FAST, questions_per_family=0)
        rng = np.random.default_rng([seed, 99])
        maker = QuestionMaker(rng, scene.objects, scene.signs, scene.square, unseen=True)
        asked = [maker.existence() for _ in range(30)]
        answers += [question.answer for question in asked if named_pairs(question.text) & UNSEEN_PAIRS]
    assert len(answers) > 200 and 0.4 < answers.count("yes") / len(answers) < 0.6
