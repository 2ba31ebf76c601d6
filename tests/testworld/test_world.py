"""The second world is fixed by its seed, fair to whoever looks, and shares no drawing with the first."""

from __future__ import annotations

import ast
import colorsys
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

import testworld
from scenes.lettering import FONT_FILES as SCENE_FONTS
from testworld import CROWDED, SINGLE, UNIFORM, World, backgrounds, generate_world, lettering, paint, shapes
from training.architecture import vocabulary

SEEDS = range(40)


@lru_cache(maxsize=64)
def world_of(seed: int, kind: str = CROWDED) -> World:
    return generate_world(seed, kind)


def test_a_seed_is_a_picture() -> None:
    one, other = generate_world(3), generate_world(3)
    assert np.array_equal(one.image, other.image) and np.array_equal(one.owner, other.owner)
    assert (one.things, one.captions, one.questions) == (other.things, other.captions, other.questions)
    assert not np.array_equal(one.image, generate_world(4).image)


def test_questions_do_not_change_the_picture() -> None:
    silent = generate_world(3, questions_per_family=0)
    assert np.array_equal(silent.image, world_of(3).image) and silent.questions == ()


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="crowded"):
        generate_world(1, "empty")
    with pytest.raises(ValueError, match="224"):
        generate_world(1, side=100)


def test_boxes_hold_what_is_visible() -> None:
    for seed in SEEDS:
        world = world_of(seed)
        assert world.image.shape == (336, 336, 3) and world.image.dtype == np.uint8
        for number, thing in enumerate((*world.things, *world.captions)):
            rows, cols = np.nonzero(world.owner == number)
            x0, y0, x1, y1 = thing.box
            assert (x0, y0, x1, y1) == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
            assert 0 <= x0 < x1 <= 336 and 0 <= y0 < y1 <= 336


def test_nothing_is_hidden_or_too_small() -> None:
    overlaps = 0
    for seed in SEEDS:
        world = world_of(seed)
        for thing in world.things:
            assert thing.visible >= 0.8, (seed, thing)
            least = shapes.SMALLEST.get(thing.shape, shapes.SMALLEST_UNNAMED)
            assert least <= thing.diameter <= 80
            overlaps += thing.visible < 0.99
        for caption in world.captions:
            assert caption.height >= 9 and caption.box[2] - caption.box[0] < 300
    assert overlaps >= 20


def test_things_are_the_colour_that_they_are_called() -> None:
    """The median pixel of every thing has the hue of its name, up to what small things blend with the ground."""
    wrong: list[object] = []
    for seed in SEEDS:
        world = world_of(seed)
        for number, thing in enumerate(world.things):
            pixels = world.image[world.owner == number].astype(float) / 255
            hue, saturation, value = colorsys.rgb_to_hsv(*np.median(pixels, axis=0))
            if saturation < 0.2 or value < 0.27:
                dull = "black" if value < 0.3 else "white" if value > 0.78 else "gray"
                if thing.color != dull:
                    wrong.append((seed, thing.color, dull))
                continue
            (low, high), *_ = {**paint.NAMED, **paint.UNNAMED}[thing.color]
            if (360 * hue - low + 12) % 360 > high - low + 24:
                wrong.append((seed, thing.color, 360 * hue))
    assert not wrong, wrong


def test_things_can_be_told_from_what_is_around_them() -> None:
    """A thing has another colour than the ground around it, or a rim that has."""
    faint = []
    for seed in SEEDS:
        world = world_of(seed)
        colors = paint.lab(world.image.astype(np.float32) / 255)
        for number, thing in enumerate(world.things):
            mask = (world.owner == number).astype(np.uint8)
            inside = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
            rings = [(cv2.dilate(mask, np.ones((k, k), np.uint8)) > 0) & (mask == 0) for k in (3, 5)]  # rim; ground
            tone = np.median(colors[inside if inside.any() else mask > 0], axis=0)
            if max(np.median(np.linalg.norm(colors[ring] - tone, axis=1)) for ring in rings) < 18:
                faint.append((seed, thing.shape, thing.color))
    assert not faint, faint


def test_letters_stand_out() -> None:
    for seed in SEEDS:
        world = world_of(seed)
        for number, _ in enumerate(world.captions, len(world.things)):
            light = paint.lightness(world.image[world.owner == number].astype(np.float32) / 255)
            assert np.percentile(light, 99.5) - np.percentile(light, 0.5) > 25, (seed, number)


def test_single_and_uniform_pictures() -> None:
    counts = set()
    for seed in range(20):
        assert len(world_of(seed, SINGLE).things) == 1 and not world_of(seed, SINGLE).captions
        uniform = world_of(seed, UNIFORM)
        assert len({thing.color for thing in uniform.things}) == 1
        counts.add(len(uniform.things))
    assert len(counts) >= 5


def test_it_shows_what_the_first_world_does_not() -> None:
    things = [thing for seed in SEEDS for thing in world_of(seed).things]
    captions = [caption for seed in SEEDS for caption in world_of(seed).captions]
    known = vocabulary()
    assert {t.shape for t in things} - set(known) == set(shapes.UNNAMED)
    assert {t.color for t in things} - set(known)
    assert {c.shown.islower() for c in captions} == {True, False} and {c.plate for c in captions} == {True, False}
    assert {world_of(seed).background for seed in SEEDS} == set(backgrounds.KINDS)
    assert not set(lettering.FONT_FILES) & set(SCENE_FONTS)
    assert all(text in known for c in captions for text in [c.text])


def test_it_shares_no_drawing_with_the_first_world() -> None:
    allowed = {"scenes.words", "scenes.types"}
    for path in Path(testworld.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.split(".")[0] in ("scenes", "training", "tokviz"):
                assert module in allowed, (path.name, module)


def test_no_training_script_draws_from_it() -> None:
    folder = Path(testworld.__file__).parents[1]
    learning = ("vision", "language", "video", "grow", "labels", "prompts", "clip_prompts", "loop", "export", "card")
    for path in (*(folder / "training" / f"{name}.py" for name in learning), *(folder / "scenes").glob("*.py")):
        assert "testworld" not in path.read_text(), path.name


def test_photographs_are_there() -> None:
    pictures = backgrounds.photographs()
    assert len(pictures) == 12 and set(backgrounds.BEHIND) <= set(pictures)
    for picture in pictures.values():
        assert min(picture.shape[:2]) == 352 and picture.std() > 5
        assert backgrounds.cut(picture, 336, np.random.default_rng(0)).shape == (336, 336, 3)


def test_a_bare_zero_is_no_ring() -> None:
    rng = np.random.default_rng(0)
    assert all(lettering.letter("0", rng, 200).plate.any() for _ in range(30))
    assert not all(lettering.letter("4", rng, 200).plate.any() for _ in range(30))
