"""Procedural scenes: a picture, questions, the right answers and where the evidence lies, all from one seed."""

from tokviz.scenes.generate import DEFAULT_SIZE, generate_scene
from tokviz.scenes.questions import QuestionMaker
from tokviz.scenes.types import Box, Scene, SceneObject, SceneQuestion, SceneSign
from tokviz.scenes.words import (
    COLORS,
    EXAMPLE_SEEDS,
    FAMILIES,
    HELD_OUT_SEEDS,
    MAX_COUNT,
    PLACES,
    RELATIONS,
    SHAPES,
    SIGN_KINDS,
    SIGN_NUMBERS,
    SIGN_WORDS,
    SIZES,
    TRAINING_SEEDS,
    UNSEEN_PAIRS,
    VALIDATION_SEEDS,
)

__all__ = [
    "COLORS", "DEFAULT_SIZE", "EXAMPLE_SEEDS", "FAMILIES", "HELD_OUT_SEEDS", "MAX_COUNT", "PLACES", "RELATIONS",
    "SHAPES", "SIGN_KINDS", "SIGN_NUMBERS", "SIGN_WORDS", "SIZES", "TRAINING_SEEDS", "UNSEEN_PAIRS", "VALIDATION_SEEDS",
    "Box", "QuestionMaker", "Scene", "SceneObject", "SceneQuestion", "SceneSign", "generate_scene",
]  # fmt: skip
