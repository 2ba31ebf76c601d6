"""Questions about what the model has no word for, and words that it has but was never shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from transformers import LlavaProcessor

from scenes import COLORS, SHAPES, TRAINING_SEEDS, generate_scene
from training.prompts import EARLY_SHARES, QUESTION_SHARES, WORDS, random_blocks

NOUNS = (
    "dog", "car", "house", "tree", "chair", "table", "bird", "boat", "bicycle", "flower", "apple", "banana", "bottle",
    "lamp", "train", "airplane", "elephant", "guitar", "umbrella", "clock", "phone", "book", "shoe", "hat", "key",
    "spoon", "bridge", "whale", "spider", "piano", "pizza", "tractor", "violin", "candle", "ladder", "pencil", "hammer",
    "hexagon", "spiral", "pyramid",
)  # fmt: skip
"""Nothing that either world draws, or that is on the photographs behind it."""
UNKNOWN_COLORS = ("beige", "silver", "khaki", "ivory", "teal", "cyan", "bronze", "olive", "tan", "copper")
"""Colours that no thing of a picture has, where all its things have colours that the model knows."""
KINDS = ("noun", "plural noun", "known colour, noun", "unknown colour, shape", "unknown colour, object")


class Looks(Protocol):
    """What things of both worlds have."""

    @property
    def shape(self) -> str:
        """In one word, perhaps one that the model has not."""

    @property
    def color(self) -> str:
        """In one word, perhaps one that the model has not."""


@dataclass(frozen=True)
class Absent:
    """A question whose right answer is "no", because it names what nobody drew."""

    kind: str
    text: str


def strangers(processor: LlavaProcessor, words: Sequence[str]) -> list[str]:
    """Those of the words that the tokenizer does not have (a model may have learnt some)."""
    known = processor.tokenizer.get_vocab()
    return [word for word in words if word not in known]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def absent_questions(
    things: Sequence[Looks], nouns: Sequence[str], colors: Sequence[str], rng: np.random.Generator
) -> list[Absent]:
    """Questions about unknown nouns and colours: with words that fit the picture, so that only the unknown one decides.

    Args:
        things: what the picture shows.
        nouns, colors: unknown words.
    """

    def pick(options: Sequence[str], count: int) -> list[str]:
        return [options[i] for i in rng.permutation(len(options))[:count]]

    result = [Absent("noun", f"is there {_article(word)} {word}?") for word in pick(nouns, 4)]
    result += [Absent("plural noun", f"are there any {word}s?") for word in pick(nouns, 2)]
    there = sorted({thing.color for thing in things if thing.color in COLORS})
    for word, color in zip(pick(nouns, 3), pick(there * 3, 3), strict=False):
        result.append(Absent("known colour, noun", f"is there {_article(color)} {color} {word}?"))
    if all(thing.color in COLORS for thing in things):
        shapes = sorted({thing.shape for thing in things if thing.shape in SHAPES})
        for color, shape in zip(pick(colors, 3), pick(shapes * 3, 3), strict=False):
            result.append(Absent("unknown colour, shape", f"is there {_article(color)} {color} {shape}?"))
        result += [Absent("unknown colour, object", f"is there {_article(c)} {c} object?") for c in pick(colors, 1)]
    return result


def words_shown(scenes: int) -> set[str]:
    """The words in questions and answers of this many training scenes, asked as stage 2 asks them."""
    shown: set[int] = {WORDS["user"]}
    for number in range(scenes):
        scene = generate_scene(TRAINING_SEEDS[number], questions_per_family=0)
        for shares in (EARLY_SHARES, QUESTION_SHARES):
            rng = np.random.default_rng([number, 9])
            for block in random_blocks(scene, rng, 200, shares, 0.3):
                shown.update(block.question, block.answer)
    names = {number: word for word, number in WORDS.items()}
    return {names[number] for number in shown}


def never_shown(vocabulary: Iterable[str], shown: set[str]) -> list[str]:
    """Words of a tokenizer that training does not show, special tokens left out, in alphabetical order."""
    return sorted(word for word in set(vocabulary) - shown if not word.startswith("<"))
