"""Procedural scenes: a picture, questions, the right answers and where the evidence lies, all from one seed."""

from scenes.generate import DEFAULT_SIZE, generate_scene
from scenes.moving import generate_clip
from scenes.moving_questions import CLIP_FAMILIES, CLIP_WORDS
from scenes.paths import PATHS
from scenes.questions import QuestionMaker
from scenes.types import (
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
from scenes.words import (
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
    "CLIP_FAMILIES",
    "CLIP_WORDS",
    "COLORS",
    "DEFAULT_SIZE",
    "EXAMPLE_SEEDS",
    "FAMILIES",
    "HELD_OUT_SEEDS",
    "MAX_COUNT",
    "PATHS",
    "PLACES",
    "RELATIONS",
    "SHAPES",
    "SIGN_KINDS",
    "SIGN_NUMBERS",
    "SIGN_WORDS",
    "SIZES",
    "TRAINING_SEEDS",
    "UNSEEN_PAIRS",
    "VALIDATION_SEEDS",
    "Box",
    "Clip",
    "ClipQuestion",
    "MovingObject",
    "MovingSign",
    "QuestionMaker",
    "Scene",
    "SceneObject",
    "SceneQuestion",
    "SceneSign",
    "generate_clip",
    "generate_scene",
]
