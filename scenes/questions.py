"""Questions about a scene that have exactly one right answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from scenes.types import Box, SceneObject, SceneQuestion, SceneSign
from scenes.words import (
    COLORS,
    FAMILIES,
    MAX_COUNT,
    PLACES,
    RELATIONS,
    SHAPES,
    SIGN_KINDS,
    SIZES,
    UNSEEN_PAIRS,
    plural,
)

Description = tuple[str | None, str | None, str | None]
"""(size, colour, shape); None where it is left open."""
T = TypeVar("T")
_COLOR_NAMES = tuple(COLORS)
_CLEAR = 0.12
"""Two centres must differ by this share of the square before a question calls one left of or above the other."""
_BORDER = 0.035
"""A centre this near (share of the square) to a border between thirds has no clear place."""


def matches(item: SceneObject, description: Description) -> bool:
    """Whether an object fits a description."""
    size, color, shape = description
    return size in (None, item.size) and color in (None, item.color) and shape in (None, item.shape)


def say(description: Description, many: bool = False) -> str:
    """The description in words: "small red star", "blue objects"."""
    size, color, shape = description
    noun = shape or "object"
    return " ".join(word for word in (size, color, plural(noun) if many else noun) if word)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


class QuestionMaker:
    """Draws random questions about one scene; all randomness comes from `rng`.

    Questions name a pair of UNSEEN_PAIRS only where `unseen` allows it.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        objects: Sequence[SceneObject],
        signs: Sequence[SceneSign],
        square: Box,
        *,
        unseen: bool = False,
    ) -> None:
        self.pairs = [(c, s) for c in _COLOR_NAMES for s in SHAPES if unseen or (c, s) not in UNSEEN_PAIRS]
        self.rng = rng
        self.objects = objects
        self.signs = signs
        self.square = square

    def make(self, family: str) -> SceneQuestion | None:
        """One question of the family, or None when this scene allows none."""
        makers: dict[str, Callable[[], SceneQuestion | None]] = {
            "existence": self.existence,
            "attribute": self.attribute,
            "counting": self.counting,
            "spatial": self.spatial,
            "reading": self.reading,
        }
        if family not in makers:
            raise ValueError(f"expected one of {FAMILIES}, but got {family!r}")
        return makers[family]()

    def find(self, description: Description) -> list[SceneObject]:
        """All objects that fit."""
        return [item for item in self.objects if matches(item, description)]

    def existence(self) -> SceneQuestion:
        """ "is there a red circle?": yes or no by a fair coin, and "no" is usually a near miss."""
        wanted = bool(self.rng.random() < 0.5)
        kind = self.rng.random()
        description: Description | None = None
        if kind < 0.12:
            description = self._single(wanted, [(None, None, shape) for shape in SHAPES])
        elif kind < 0.24:
            description = self._single(wanted, [(None, color, None) for color in _COLOR_NAMES])
        elif kind < 0.4:
            description = self._sized(wanted)
        if description is None:
            description = self._pair(wanted)
        found = self.find(description)
        evidence = tuple(item.box for item in found)
        words = say(description)
        article = "an" if words[0] in "aeiou" else "a"
        return SceneQuestion(f"is there {article} {words}?", "yes" if found else "no", "existence", evidence)

    def _single(self, wanted: bool, options: list[Description]) -> Description | None:
        """One of the options that is (or is not) present; None unless both kinds exist, so that the coin stays fair."""
        present = [option for option in options if self.find(option)]
        absent = [option for option in options if option not in present]
        if not present or not absent:
            return None
        return _pick(self.rng, present if wanted else absent)

    def _sized(self, wanted: bool) -> Description | None:
        """Size, colour and shape; the absent one exists in the other size."""
        there = {(item.size, item.color, item.shape) for item in self.objects}
        absent = [(_other_size(size), c, s) for size, c, s in sorted(there) if (_other_size(size), c, s) not in there]
        if not there or not absent:
            return None
        return _pick(self.rng, sorted(there) if wanted else absent)

    def _pair(self, wanted: bool) -> Description:
        there = sorted({(item.color, item.shape) for item in self.objects})
        if wanted:
            color, shape = _pick(self.rng, there)
            return (None, color, shape)
        for _ in range(12):
            color, shape = _pick(self.rng, there)
            change = self.rng.random()
            if change < 0.45:
                color = _pick(self.rng, _COLOR_NAMES)
            elif change < 0.9:
                shape = _pick(self.rng, SHAPES)
            else:
                color, shape = _pick(self.rng, _COLOR_NAMES), _pick(self.rng, SHAPES)
            if (color, shape) not in there and (color, shape) in self.pairs:
                return (None, color, shape)
        color, shape = _pick(self.rng, [pair for pair in self.pairs if pair not in there])
        return (None, color, shape)

    def attribute(self) -> SceneQuestion | None:
        """ "what color is the star?" about a thing that is there once, or (one in eight) not at all: "none"."""
        asked = _pick(self.rng, ("color", "color", "shape", "shape", "size"))
        sizes: tuple[str | None, ...] = (None, *SIZES) if asked != "size" else (None,)
        colors: tuple[str | None, ...] = (None,) if asked == "color" else _COLOR_NAMES
        shapes: tuple[str | None, ...] = (None,) if asked == "shape" else SHAPES
        wanted = 0 if self.rng.random() < 0.125 else 1
        options = [
            (z, c, s)
            for z in sizes
            for c in colors
            for s in shapes
            if (c is None or s is None or (c, s) in self.pairs) and len(self.find((z, c, s))) == wanted
        ]
        if not options:
            return None
        description = _pick(self.rng, options)
        found = self.find(description)
        answer = (
            "none" if not found else {"color": found[0].color, "shape": found[0].shape, "size": found[0].size}[asked]
        )
        text = f"what {asked} is the {say(description)}?"
        return SceneQuestion(text, answer, "attribute", tuple(item.box for item in found))

    def counting(self) -> SceneQuestion:
        """ "how many red stars are there?": the count is drawn first, evenly among those that occur here."""
        options: dict[int, list[Description]] = {}
        every: list[Description] = [(None, c, s) for c, s in self.pairs]
        every += [(None, c, None) for c in _COLOR_NAMES] + [(None, None, s) for s in SHAPES]
        for description in every:
            options.setdefault(len(self.find(description)), []).append(description)
        counts = sorted(count for count in options if count <= MAX_COUNT)
        weights = np.array([0.5 if count == 0 else 1.0 for count in counts])
        count = counts[int(self.rng.choice(len(counts), p=weights / weights.sum()))]
        description = _pick(self.rng, options[count])
        evidence = tuple(item.box for item in self.find(description))
        return SceneQuestion(f"how many {say(description, many=True)} are there?", str(count), "counting", evidence)

    def _unique(self) -> list[tuple[str, SceneObject]]:
        """Objects that a colour and a shape, or a shape alone, name without doubt; with that name."""
        named: list[tuple[str, SceneObject]] = []
        for item in self.objects:
            if len(self.find((None, item.color, item.shape))) == 1:
                named.append((item.name, item))
        return named

    def spatial(self) -> SceneQuestion | None:
        """ "where is the red star?" or "is the red star left of the blue circle?"."""
        return self.relation() if self.rng.random() < 0.6 else self.place()

    def place(self) -> SceneQuestion | None:
        """ "where is the red star?", in thirds of the square."""
        named = [(name, item, self._place_of(item)) for name, item in self._unique()]
        clear = [entry for entry in named if entry[2] is not None]
        if not clear:
            return None
        name, item, answer = _pick(self.rng, clear)
        return SceneQuestion(f"where is the {name}?", str(answer), "spatial", (item.box,))

    def _position(self, item: SceneObject) -> tuple[float, float]:
        """The centre as a share of the square, (x, y)."""
        side = self.square[2] - self.square[0]
        return (item.center[0] - self.square[0]) / side, (item.center[1] - self.square[1]) / side

    def _place_of(self, item: SceneObject) -> str | None:
        x, y = self._position(item)
        if any(abs(value - border) < _BORDER for value in (x, y) for border in (1 / 3, 2 / 3)):
            return None
        return PLACES[min(2, int(y * 3))][min(2, int(x * 3))]

    def relation(self) -> SceneQuestion | None:
        """ "is the red star left of the blue circle?": yes or no by a fair coin."""
        named = self._unique()
        if len(named) < 2:
            return None
        for _ in range(10):
            first, second = self.rng.choice(len(named), 2, replace=False)
            (name_a, a), (name_b, b) = named[first], named[second]
            (ax, ay), (bx, by) = self._position(a), self._position(b)
            sideways = bool(self.rng.random() < 0.5)
            gap = bx - ax if sideways else by - ay
            if abs(gap) < _CLEAR:
                continue
            wanted = bool(self.rng.random() < 0.5)
            true_word, false_word = RELATIONS[:2] if sideways else RELATIONS[2:]
            if gap < 0:
                true_word, false_word = false_word, true_word
            text = f"is the {name_a} {true_word if wanted else false_word} the {name_b}?"
            return SceneQuestion(text, "yes" if wanted else "no", "spatial", (a.box, b.box))
        return None

    def reading(self) -> SceneQuestion:
        """ "what word is on the sign?", or number, or "what digit is handwritten?"; "none" where there is none."""
        present = [sign.kind for sign in self.signs]
        # Mostly about what is there; else the answer would be "none" half of the time.
        if present and self.rng.random() < 0.88:
            kind = _pick(self.rng, present)
        else:
            kind = _pick(self.rng, SIGN_KINDS)
        found = [sign for sign in self.signs if sign.kind == kind]
        answer = found[0].text if found else "none"
        text = "what digit is handwritten?" if kind == "digit" else f"what {kind} is on the sign?"
        return SceneQuestion(text, answer, "reading", tuple(sign.box for sign in found))


def _other_size(size: str) -> str:
    return SIZES[1 - SIZES.index(size)]
