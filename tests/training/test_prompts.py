"""Prompts of the training: which questions, what nouns point at, which patches stay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from scenes import COLORS, HELD_OUT_SEEDS, SHAPES, TRAINING_SEEDS, UNSEEN_PAIRS, VALIDATION_SEEDS, generate_scene
from training.architecture import GRID, UNKNOWN, build_tokenizer, vocabulary
from training.labels import center_patches
from training.language import COUNTS, FIRST_SEED, count_loss
from training.prompts import (
    EARLY_SHARES,
    QUESTION_SHARES,
    choose_visible,
    encode,
    named_points,
    pack,
    patch_priorities,
    question_block,
    random_blocks,
)
from training.tally import kind_of

PATCHES = GRID * GRID
NAMES = {index: word for word, index in vocabulary().items()}


def test_every_question_and_answer_is_in_the_vocabulary() -> None:
    tokenizer = build_tokenizer()
    for seed in [*range(40), *HELD_OUT_SEEDS[:40]]:
        for question in generate_scene(seed).questions:
            ids = tokenizer(f"USER: <image>\n{question.text} ASSISTANT: {question.answer}")["input_ids"]
            assert UNKNOWN not in ids, question
            assert ids[3:] == [*encode(question.text), vocabulary()["assistant"], *encode(question.answer)]


@pytest.mark.generator
@pytest.mark.parametrize("shares", [QUESTION_SHARES, EARLY_SHARES])
def test_training_prompts_never_show_or_name_an_unseen_pair(shares: dict[str, float]) -> None:
    rng, named = np.random.default_rng(0), set()
    for number in range(60):
        scene = generate_scene(FIRST_SEED + number, questions_per_family=0)
        assert not {(item.color, item.shape) for item in scene.objects} & UNSEEN_PAIRS
        for block in random_blocks(scene, rng, 120, shares, 0.5):
            words = [NAMES[token] for token in (*block.question, *block.answer)]
            for color, noun in itertools.pairwise(words):
                shape = next((shape for shape in SHAPES if noun in (shape, shape + "s", shape + "es")), None)
                # In a list one thing's name ends where the next begins: only "colour shape" is a pair.
                if color in COLORS and shape:
                    named.add((color, shape))
    assert not named & UNSEEN_PAIRS
    assert len(named) > 30  # of the 42 that training has: the check saw what there is to see


@pytest.mark.generator
def test_held_out_scenes_do_show_and_name_unseen_pairs() -> None:
    shown = {(item.color, item.shape) for i in range(60) for item in generate_scene(HELD_OUT_SEEDS[i]).objects}
    assert shown >= UNSEEN_PAIRS


def test_training_seeds_of_both_stages_are_training_seeds() -> None:
    assert FIRST_SEED in TRAINING_SEEDS and FIRST_SEED not in VALIDATION_SEEDS


@pytest.mark.generator
def test_nouns_point_at_the_one_thing_they_name() -> None:
    checked = 0
    for number in range(40):
        scene = generate_scene(TRAINING_SEEDS[number])
        height, width = scene.owner.shape
        for question in scene.questions:
            words = question.text.rstrip("?").split()
            for place, (x, y) in named_points(question.text, scene).items():
                pixel = scene.owner[int(y * height), int(x * width)]
                assert words[place] in (*SHAPES, "object", "sign", "handwritten")
                # The point lies in a box of the evidence; and in the middle of what it names, unless that is hollow.
                assert any(x0 <= x * width <= x1 and y0 <= y * height <= y1 for x0, y0, x1, y1 in question.evidence)
                if words[place] in SHAPES and words[place] != "ring":
                    assert pixel >= 0 and scene.objects[pixel].shape == words[place]
                checked += 1
    assert checked > 100


@pytest.mark.generator
def test_a_relation_points_at_both_things_and_plurals_at_none() -> None:
    relations = counts = 0
    for number in range(30):
        scene = generate_scene(TRAINING_SEEDS[number])
        for question in scene.questions:
            points = named_points(question.text, scene)
            if "beside" in kind_of(question):
                assert len(points) == 2, question
                relations += 1
            if question.family == "counting":
                assert points == {}
                counts += 1
    assert relations > 10 and counts > 30


def test_packed_points_stand_behind_their_words() -> None:
    scene = next(
        scene
        for scene in (generate_scene(seed) for seed in range(100))
        if any(named_points(q.text, scene) for q in scene.questions)
    )
    blocks = [question_block(q.text, q.answer, q.family, scene) for q in scene.questions]
    packed = pack([blocks], sum(len(b.question) + len(b.answer) for b in blocks) + 5)
    for number, block in enumerate(blocks):
        at = packed.blocks[0] == number
        known = ~np.isnan(packed.points[0, at, 0])
        assert set(packed.offsets[0, at][known].tolist()) == set(block.points)
        for place, point in block.points.items():
            assert packed.points[0, at][place] == pytest.approx(point, abs=1e-6)
    assert np.isnan(packed.points[0, packed.blocks[0] == -1]).all()


def test_counts_are_targets_where_a_count_comes_next_and_nowhere_else() -> None:
    blocks = [
        question_block("how many red stars are there?", "7", "counting"),
        question_block("what number is on the sign?", "3", "reading"),
    ]
    packed = pack([blocks], 24)
    before = len(blocks[0].question) - 1
    right = torch.zeros(1, 24)
    right[0, before] = 0.7
    assert count_loss(right, packed) == pytest.approx(0.0, abs=1e-12)
    assert count_loss(torch.zeros(1, 24), packed) == pytest.approx(0.49)  # the 3 on the sign is no count
    assert count_loss(torch.ones(1, 24), pack([blocks[1:]], 24)) == 0.0


@pytest.mark.generator
def test_a_sign_is_asked_about_only_where_it_is_one_thing() -> None:
    rng, doubled = np.random.default_rng(1), 0
    for number in range(25):
        scene = generate_scene(TRAINING_SEEDS[number], questions_per_family=0, dense=True)
        kinds = [sign.kind for sign in scene.signs]
        families = {block.family for block in random_blocks(scene, rng, 120, QUESTION_SHARES, 0.0)}
        if len(set(kinds)) < len(kinds):
            doubled += 1
            assert "reading" not in families and "counting" in families
    assert doubled > 10


def test_centres_then_covered_patches_survive_dropping() -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        scene = generate_scene(TRAINING_SEEDS[number], questions_per_family=0)
        priorities = patch_priorities(scene)
        visible = choose_visible(priorities, COUNTS[0], rng)
        assert len(visible) == COUNTS[0] and (np.diff(visible) > 0).all()
        assert set(center_patches(scene, GRID)) <= set(visible)
        dropped = np.setdiff1d(np.arange(PATCHES), visible)
        assert priorities[dropped].max() <= priorities[visible].min()
