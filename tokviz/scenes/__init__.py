"""Procedural scenes: a picture, questions, the right answers and where the evidence lies, all from one seed."""

from tokviz.scenes.generate import DEFAULT_SIZE, generate_scene
from tokviz.scenes.moving import generate_clip
from tokviz.scenes.moving_questions import CLIP_FAMILIES, CLIP_WORDS
from tokviz.scenes.paths import PATHS
from tokviz.scenes.questions import QuestionMaker
from tokviz.scenes.types import (
    Box,
    Clip,
    ClipQuestion,
    MovingObject,
    MovingSign,
    Scene,
    SceneObject,
    SceneQuestion,
    SceneSign,
)
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
    "CLIP_FAMILIES", "CLIP_WORDS", "COLORS", "DEFAULT_SIZE", "EXAMPLE_SEEDS", "FAMILIES", "HELD_OUT_SEEDS", "MAX_COUNT",
    "PATHS", "PLACES", "RELATIONS", "SHAPES", "SIGN_KINDS", "SIGN_NUMBERS", "SIGN_WORDS", "SIZES", "TRAINING_SEEDS",
    "UNSEEN_PAIRS", "VALIDATION_SEEDS",
    "Box", "Clip", "ClipQuestion", "MovingObject", "MovingSign", "QuestionMaker", "Scene", "SceneObject",
    "SceneQuestion", "SceneSign", "generate_clip", "generate_scene",
]  # fmt: skip
