"""One seed, one wide scene."""

from __future__ import annotations

import numpy as np

from scenes.types import Box, Scene, SceneObject, SceneQuestion, SceneSign
from scenes.wide.backgrounds import SIDE, Picture, camera, clutter, ground
from scenes.wide.layout import Placed, Stage
from scenes.wide.lettering import SignDesign, design_sign, paint_sign
from scenes.wide.paint import paint
from scenes.wide.plan import Plan, random_plan
from scenes.wide.questions import WideQuestionMaker
from scenes.words import FAMILIES

_SQUARE: Box = (0.0, 0.0, float(SIDE), float(SIDE))


def generate_wide_scene(seed: int, *, questions_per_family: int = 2, dense: bool = False) -> Scene:
    """Draw the wide scene of a seed and ask about it: for training only, 336 x 336.

    Unlike `generate_scene` it varies how things are drawn: fillings, tints, sizes, turns, grounds, letters, camera.
    Things may hide parts of one another, and some have a shape or colour that no question names (`shape` and `color`
    then hold names outside SHAPES and COLORS; `size` is "" where a thing is neither small nor large). Whatever the
    seed, it shows nothing that is held out: no UNSEEN_PAIRS, no held-out font, no held-out handwriting.

    Args:
        seed: any non-negative integer; training and validation keep to TRAINING_SEEDS and VALIDATION_SEEDS.
        questions_per_family: how many questions to try for each family; a scene may allow fewer.
        dense: a crowd and several signs, no questions; only for training the vision tower.

    Example:
        >>> generate_wide_scene(7).image.shape
        (336, 336, 3)
    """
    rng = np.random.default_rng([seed, 10])
    plan, stage, picture = arrange(rng, dense)
    for placed in stage.objects:
        paint(rng, placed, picture, plan.manner.smooth)
    for design, x, y in stage.signs:
        paint_sign(rng, design, x, y, picture)
    objects = tuple(_record(placed) for placed in stage.objects)
    signs = tuple(_record_sign(*sign) for sign in stage.signs)
    fine = any(placed.side < 20 for placed in stage.objects) or any(d.ink.shape[0] < 16 for d, _, _ in stage.signs)
    owner = stage.owner
    owner[owner < -1] = len(objects) - 2 - owner[owner < -1]
    questions: tuple[SceneQuestion, ...] = ()
    if not dense and questions_per_family:
        maker = WideQuestionMaker(np.random.default_rng([seed, 11]), objects, signs, _SQUARE)
        questions = _ask(maker, questions_per_family)
    return Scene(seed, camera(rng, picture, fine), owner, objects, signs, questions, _SQUARE)


def arrange(rng: np.random.Generator, dense: bool) -> tuple[Plan, Stage, Picture]:
    """What is to be drawn, where each thing lies, and the ground to draw it on."""
    plan = random_plan(rng, dense)
    picture = ground(rng)
    clutter(rng, picture)
    stage = Stage(rng, picture, plan.manner)
    for text, kind in plan.signs:
        stage.add_sign(design_sign(rng, text, kind))
    stage.close_signs()
    for wish in plan.wishes:
        stage.add_object(wish)
    return plan, stage, picture


def _clipped(low: np.ndarray, high: np.ndarray) -> Box:
    x0, y0 = np.clip(low, 0, SIDE).tolist()
    x1, y1 = np.clip(high, 0, SIDE).tolist()
    return (x0, y0, x1, y1)


def _record(placed: Placed) -> SceneObject:
    box = _clipped(placed.points.min(axis=0), placed.points.max(axis=0))
    return SceneObject(
        placed.shape, placed.color, placed.size, (placed.x, placed.y), placed.side / 2, placed.angle, box
    )


def _record_sign(design: SignDesign, x: float, y: float) -> SceneSign:
    outer = (design.corners if design.plate is None else design.plate) + (x, y)
    return SceneSign(design.text, design.kind, _clipped(outer.min(axis=0), outer.max(axis=0)), design.font)


def _ask(maker: WideQuestionMaker, per_family: int) -> tuple[SceneQuestion, ...]:
    """Up to `per_family` different questions of each family, in the order of FAMILIES."""
    questions: list[SceneQuestion] = []
    for family in FAMILIES:
        chosen: dict[str, SceneQuestion] = {}
        for _ in range(per_family * 3):
            question = maker.make(family) if len(chosen) < per_family else None
            if question is not None:
                chosen.setdefault(question.text, question)
        questions.extend(chosen.values())
    return tuple(questions)
