"""A second, much more varied world of drawn scenes, for training only."""

from scenes.wide.generate import generate_wide_scene
from scenes.wide.phrasings import KIND_FAMILIES, PHRASINGS, RESERVED, REWRITES, UNKNOWN, words_of
from scenes.wide.plan import MAX_WIDE_COUNT
from scenes.wide.questions import WideQuestionMaker
from scenes.wide.wording import Mention, WideQuestion

__all__ = [
    "KIND_FAMILIES",
    "MAX_WIDE_COUNT",
    "PHRASINGS",
    "RESERVED",
    "REWRITES",
    "UNKNOWN",
    "Mention",
    "WideQuestion",
    "WideQuestionMaker",
    "generate_wide_scene",
    "words_of",
]
