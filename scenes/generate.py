"""One seed, one scene."""

from __future__ import annotations

import numpy as np

from scenes.drawing import central_square, draw
from scenes.layout import CANVAS, random_layout
from scenes.lettering import FONT_FILES
from scenes.questions import QuestionMaker
from scenes.types import Scene, SceneObject, SceneQuestion, SceneSign
from scenes.words import FAMILIES, is_unseen

DEFAULT_SIZE = (336, 336)


def generate_scene(
    seed: int, size: tuple[int, int] = DEFAULT_SIZE, *, questions_per_family: int = 2, dense: bool = False
) -> Scene:
    """Draw the scene of a seed and ask about it.

    The same seed gives the same arrangement at every size (scaled into the central square), and the same picture
    however many questions are asked.

    Args:
        seed: any non-negative integer; see `HELD_OUT_SEEDS` for the ranges that training never touches.
        size: (width, height) in pixels, each at least 96.
        questions_per_family: how many questions to try for each family; a scene may allow fewer.
        dense: many objects and several signs, no questions; only for training the vision tower.

    Example:
        >>> scene = generate_scene(200_000_000)
        >>> scene.image.shape
        (336, 336, 3)
    """
    width, height = size
    if min(width, height) < 96:
        raise ValueError(f"expected a width and height of at least 96 pixels, but got {width} x {height}")
    unseen = is_unseen(seed)
    layout = random_layout(np.random.default_rng([seed, 0]), dense, unseen)
    picture, owner, object_boxes, sign_boxes = draw(np.random.default_rng([seed, 1]), layout, width, height)
    square = central_square(width, height)
    scale = (square[2] - square[0]) / CANVAS
    objects = tuple(
        SceneObject(
            shape=placed.shape,
            color=placed.color,
            size=placed.size,
            center=(square[0] + placed.x * scale, square[1] + placed.y * scale),
            radius=placed.radius * scale,
            angle=placed.angle,
            box=box,
        )
        for placed, box in zip(layout.objects, object_boxes, strict=True)
    )
    signs = tuple(
        SceneSign(p.text, p.kind, box, str(p.font) if p.kind == "digit" else FONT_FILES[p.font])
        for p, box in zip(layout.signs, sign_boxes, strict=True)
    )
    questions: tuple[SceneQuestion, ...] = ()
    if not dense and objects:
        maker = QuestionMaker(np.random.default_rng([seed, 2]), objects, signs, square, unseen=unseen)
        questions = _ask(maker, questions_per_family)
    return Scene(seed, picture, owner, objects, signs, questions, square)


def _ask(maker: QuestionMaker, per_family: int) -> tuple[SceneQuestion, ...]:
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
