"""Scenes: what a seed gives, and that records, picture and owner map agree at every size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_oracle import recount, token_grid, touched_patches

from scenes import (
    COLORS,
    FAMILIES,
    HELD_OUT_SEEDS,
    SIGN_KINDS,
    TRAINING_SEEDS,
    Scene,
    SceneObject,
    drawing,
    generate_scene,
)
from scenes.layout import RADIUS, random_layout
from scenes.words import is_unseen
from tokviz.runs.metrics import evidence_tokens
from training.labels import patch_owners

SEEDS = [*HELD_OUT_SEEDS[1000:1150], *TRAINING_SEEDS[1000:1050]]
OTHER_SIZES = [(320, 240), (240, 320), (672, 336)]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [generate_scene(seed, questions_per_family=3) for seed in SEEDS]


def test_the_same_seed_gives_the_same_scene() -> None:
    first, second = generate_scene(42), generate_scene(42)
    assert np.array_equal(first.image, second.image)
    assert (first.objects, first.signs, first.questions) == (second.objects, second.signs, second.questions)
    assert not np.array_equal(first.image, generate_scene(43).image)


def test_the_picture_does_not_depend_on_how_much_is_asked() -> None:
    few, many = generate_scene(9, questions_per_family=1), generate_scene(9, questions_per_family=4)
    assert np.array_equal(few.image, many.image)
    assert len(few.questions) < len(many.questions)


@pytest.mark.generator
def test_boxes_hold_their_things_exactly(scenes: list[Scene]) -> None:
    for scene in scenes:
        for i, item in enumerate([*scene.objects, *scene.signs]):
            rows, cols = np.nonzero(scene.owner == i)
            x0, y0, x1, y1 = item.box
            assert cols.min() >= x0 - 1.5 and cols.max() + 1 <= x1 + 1.5, (scene.seed, item)
            assert rows.min() >= y0 - 1.5 and rows.max() + 1 <= y1 + 1.5, (scene.seed, item)
            # Tight as well: the thing reaches every side of its box.
            assert cols.min() <= x0 + 2 and cols.max() + 1 >= x1 - 2, (scene.seed, item)
            assert rows.min() <= y0 + 2 and rows.max() + 1 >= y1 - 2, (scene.seed, item)


@pytest.mark.generator
def test_objects_have_their_color_in_the_picture(scenes: list[Scene]) -> None:
    names, values = list(COLORS), np.array(list(COLORS.values()))
    for scene in scenes:
        for i, item in enumerate(scene.objects):
            pixels = scene.image[scene.owner == i]
            away = np.abs(pixels[:, None, :].astype(int) - values).sum(-1)
            votes = np.bincount(away.argmin(1)[away.min(1) < 120], minlength=len(names))
            assert names[int(votes.argmax())] == item.color, (scene.seed, item)


def test_things_do_not_overlap(scenes: list[Scene]) -> None:
    for scene in scenes:
        boxes = np.array([item.box for item in [*scene.objects, *scene.signs]])
        for i, box in enumerate(boxes):
            apart = (boxes[:, 0] >= box[2] - 4) | (boxes[:, 2] <= box[0] + 4)
            apart |= (boxes[:, 1] >= box[3] - 4) | (boxes[:, 3] <= box[1] + 4)
            apart[i] = True
            assert apart.all(), scene.seed


@pytest.mark.generator
def test_splashes_lines_and_dots_own_nothing_and_cover_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loud: list[np.ndarray] = []
    original = drawing.draw_distractors

    def watched(rng: np.random.Generator, picture: np.ndarray) -> None:
        before = picture.copy()
        original(rng, picture)
        loud.append((picture != before).any(-1))

    monkeypatch.setattr(drawing, "draw_distractors", watched)
    with_distractors, only_loud_patches = 0, 0
    for seed in SEEDS[:120]:
        loud.clear()
        scene = generate_scene(seed)
        with_distractors += bool(loud[0].any())
        blocks = np.stack([loud[0], scene.owner >= 0]).reshape(2, 24, 14, 24, 14).any(axis=(2, 4)).reshape(2, -1)
        alone = blocks[0] & ~blocks[1]
        only_loud_patches += int(alone.sum())
        assert (patch_owners(scene, 24)[alone] == -1).all(), seed
        for i in range(len(scene.objects)):
            # Well inside a thing there is its own colour only: whatever is loud lies behind it.
            inside = (scene.owner == i) & (np.roll(scene.owner, (2, 2), (0, 1)) == i)
            inside &= (np.roll(scene.owner, (-2, -2), (0, 1)) == i) & (np.roll(scene.owner, (2, -2), (0, 1)) == i)
            inside &= np.roll(scene.owner, (-2, 2), (0, 1)) == i
            if scene.objects[i].shape != "ring":
                assert len(np.unique(scene.image[inside], axis=0)) == 1, (seed, i)
    assert with_distractors > 80 and only_loud_patches > 1000


def test_a_picture_shows_at_most_one_sign_of_a_kind(scenes: list[Scene]) -> None:
    counts = Counter(len(scene.signs) for scene in scenes)
    assert set(counts) == {0, 1, 2, 3}
    for scene in scenes:
        kinds = [sign.kind for sign in scene.signs]
        assert len(kinds) == len(set(kinds)) and set(kinds) <= set(SIGN_KINDS)


@pytest.mark.generator
def test_letters_come_in_many_sizes() -> None:
    heights: dict[str, set[float]] = {kind: set() for kind in SIGN_KINDS}
    for seed in range(HELD_OUT_SEEDS.start, HELD_OUT_SEEDS.start + 600):
        for sign in random_layout(np.random.default_rng([seed, 0]), unseen=is_unseen(seed)).signs:
            heights[sign.kind].add(sign.font_height)
    assert heights["word"] == heights["number"] == set(range(9, 23))
    assert heights["digit"] == set(range(13, 24))


@pytest.mark.generator
def test_small_things_are_shown_by_few_patches(scenes: list[Scene]) -> None:
    """Measured on 19,500 small objects of 3,000 scenes.

    57 % touch at most four patches of 24 x 24 with any pixel at all, 91 % cover a sixteenth of at most four, and none
    covers a quarter of more than four.
    """
    masks = [
        scene.owner == i for scene in scenes for i, item in enumerate(scene.objects) if item.size == "small"
    ]  # fmt: skip
    assert len(masks) > 800
    assert 0.52 < np.mean([1 <= touched_patches(mask) <= 4 for mask in masks]) < 0.63
    assert np.mean([1 <= touched_patches(mask, 1 / 16) <= 4 for mask in masks]) > 0.88
    assert all(touched_patches(mask, 1 / 4) <= 4 for mask in masks)
    assert max(touched_patches(mask) for mask in masks) <= 9


def test_small_and_large_are_far_apart(scenes: list[Scene]) -> None:
    assert RADIUS["small"][1] * 1.5 < RADIUS["large"][0]
    for scene in scenes:
        for item in scene.objects:
            low, high = RADIUS[item.size]
            assert low <= item.radius / 1.75 <= high


def test_crowded_and_sparse_scenes_occur(scenes: list[Scene]) -> None:
    counts = [len(scene.objects) for scene in scenes]
    assert min(counts) <= 4 and max(counts) >= 18
    assert len(generate_scene(1, dense=True).signs) >= 2


@pytest.mark.parametrize("size", [*OTHER_SIZES, (480, 360), (192, 192)])
def test_other_sizes_scale_the_same_scene_into_the_central_square(size: tuple[int, int]) -> None:
    for seed in SEEDS[:12]:
        square_one, other = generate_scene(seed), generate_scene(seed, size)
        assert other.image.shape == (size[1], size[0], 3) and other.owner.shape == (size[1], size[0])
        side = min(size)
        assert other.square == ((size[0] - side) / 2, (size[1] - side) / 2, (size[0] + side) / 2, (size[1] + side) / 2)
        assert [(q.text, q.answer) for q in square_one.questions] == [(q.text, q.answer) for q in other.questions]
        for a, b in zip(square_one.objects, other.objects, strict=True):
            assert b.center == pytest.approx([a.center[k] * side / 336 + other.square[k] for k in (0, 1)])
        things = zip([*square_one.objects, *square_one.signs], [*other.objects, *other.signs], strict=True)
        for first, second in things:
            mapped = [edge * side / 336 + other.square[k % 2] for k, edge in enumerate(first.box)]
            # Signs snap to whole pixels at both sizes, with their corner and again with their width.
            off = 0.01 if isinstance(first, SceneObject) else 1 + side / 336
            assert second.box == pytest.approx(mapped, abs=off), (seed, size, first)


@pytest.mark.generator
@pytest.mark.parametrize("size", OTHER_SIZES)
def test_what_is_asked_about_lies_in_the_central_square(size: tuple[int, int]) -> None:
    for seed in SEEDS[:40]:
        scene = generate_scene(seed, size)
        rows, cols = np.nonzero(scene.owner >= 0)
        x0, y0, x1, y1 = scene.square
        assert x0 <= cols.min() and cols.max() + 1 <= x1 and y0 <= rows.min() and rows.max() + 1 <= y1
        for box in (box for question in scene.questions for box in question.evidence):
            assert x0 <= box[0] < box[2] <= x1 and y0 <= box[1] < box[3] <= y1, (seed, box)


@pytest.mark.generator
@pytest.mark.parametrize("size", OTHER_SIZES)
def test_the_evidence_falls_on_the_same_tokens_at_every_size(size: tuple[int, int]) -> None:
    agreement = []
    for seed in SEEDS[:25]:
        square_one, other = generate_scene(seed), generate_scene(seed, size)
        grids = token_grid(square_one), token_grid(other)
        for first, second in zip(square_one.questions, other.questions, strict=True):
            tokens = [set(evidence_tokens(g, q.evidence)) for g, q in zip(grids, (first, second), strict=True)]
            assert bool(tokens[0]) == bool(first.evidence)
            if first.evidence:
                agreement.append(len(tokens[0] & tokens[1]) / len(tokens[0] | tokens[1]))
    assert len(agreement) > 100
    # 672 x 336 holds the square of 336 itself; smaller pictures round signs to whole pixels of their own.
    assert min(agreement) == 1.0 if size == (672, 336) else np.mean(agreement) > 0.97


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), width=st.integers(96, 400), height=st.integers(96, 400), dense=st.booleans())
def test_every_seed_and_size_gives_a_sound_scene(seed: int, width: int, height: int, dense: bool) -> None:
    scene = generate_scene(seed, (width, height), dense=dense)
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert scene.owner.shape == (height, width)
    assert scene.objects
    for item in [*scene.objects, *scene.signs]:
        x0, y0, x1, y1 = item.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert x0 >= scene.square[0] - 1 and x1 <= scene.square[2] + 1
    for question in scene.questions:
        assert question.family in FAMILIES
        assert question.answer == recount(scene, question.text)[0]


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 96"):
        generate_scene(0, (192, 64))
