"""Questions about a picture of the second world, in the words that the embedded model has, each with one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from scenes.types import SceneQuestion
from scenes.words import FAMILIES, PLACES, SIZES, plural
from testworld import paint, shapes
from testworld.types import Caption, Thing

Named = tuple[str | None, str | None, str | None]
"""(size, colour, shape); None where it is left open."""
COLORS, SHAPES = tuple(paint.NAMED), shapes.NAMED
MOST = 9
_FEWER = {0: 0.5, 1: 0.7}
"""Weights of counts that occur in every picture."""
_APART = 0.12
"""Two middles must differ by this share of the picture before one is called left of or above the other."""
_UNCLEAR = 0.035
"""A middle this near (share of the picture) to a border between thirds has no clear place."""
T = TypeVar("T")


class Asker:
    """Draws questions about one picture. What is to be "yes" alternates with the seed, so that half of all are."""

    def __init__(
        self, rng: np.random.Generator, things: Sequence[Thing], captions: Sequence[Caption], side: int, seed: int
    ) -> None:
        self.rng, self.things, self.captions, self.side = rng, things, captions, side
        self.turn = seed

    def ask(self, per_family: int) -> tuple[SceneQuestion, ...]:
        """Up to `per_family` different questions of each family, in the order of FAMILIES."""
        makers: dict[str, Callable[[], SceneQuestion | None]] = {
            "existence": self.existence, "attribute": self.attribute, "counting": self.counting,
            "spatial": self.spatial, "reading": self.reading,
        }  # fmt: skip
        result: list[SceneQuestion] = []
        for family in FAMILIES:
            found: dict[str, SceneQuestion] = {}
            # Another try at a reading question would only ask about what is missing.
            for attempt in range(per_family if family == "reading" else 4 * per_family):
                self.turn = self.turn + 1 if attempt and len(found) == 1 else self.turn
                question = makers[family]() if len(found) < per_family else None
                if question is not None:
                    found.setdefault(question.text, question)
            result += found.values()
        return tuple(result)

    def find(self, named: Named) -> list[Thing]:
        """Everything that fits."""
        size, color, shape = named
        return [
            thing
            for thing in self.things
            if size in (None, thing.size) and color in (None, thing.color) and shape in (None, thing.shape)
        ]

    def clear(self, named: Named) -> bool:
        """Whether the words fit plainly or plainly not.

        A size word must be right or wrong for everything it could mean; and where plates or letters have the colour,
        "red objects" could mean them too.
        """
        size, color, shape = named
        if shape is None and any(color in caption.colors for caption in self.captions):
            return False
        return size is None or all(thing.size is not None for thing in self.find((None, color, shape)))

    def _one(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    @staticmethod
    def say(named: Named, many: bool = False) -> str:
        """In words: "small red star", "blue objects"."""
        size, color, shape = named
        noun = shape or "object"
        return " ".join(word for word in (size, color, plural(noun) if many else noun) if word)

    def _evidence(self, named: Named) -> tuple[tuple[float, float, float, float], ...]:
        return tuple(thing.box for thing in self.find(named))

    def existence(self) -> SceneQuestion | None:
        """ "is there a red star?"; where the answer is no, a thing that is there has been changed in one word."""
        wanted = self.turn % 2 == 0
        known = [t for t in self.things if t.color in COLORS and t.shape in SHAPES]
        for _ in range(20 if known else 0):
            named = self._existing(known, wanted)
            if named is not None and self.clear(named) and bool(self.find(named)) == wanted:
                words = self.say(named)
                article = "an" if words[0] in "aeiou" else "a"
                answer = "yes" if wanted else "no"
                return SceneQuestion(f"is there {article} {words}?", answer, "existence", self._evidence(named))
        return None

    def _existing(self, known: list[Thing], wanted: bool) -> Named | None:
        """Words for one of these things, with one of them changed unless it is to be there; None without such a thing.

        A size word is drawn before the thing: else "large" would mostly mean "no", as large things are few.
        """
        form = self.rng.random()
        if form < 0.25:
            size = self._one(SIZES)
            sized = [t for t in known if t.size and (t.size == size) == wanted]
            thing = self._one(sized) if sized else None
            return (size, thing.color, thing.shape) if thing else None
        thing = self._one(known)
        color, shape = thing.color, thing.shape
        if not wanted and self.rng.random() < 0.5:
            color = self._one(COLORS)
        elif not wanted:
            shape = self._one(SHAPES)
        if form < 0.38:
            return None, None, shape
        return (None, color, None) if form < 0.5 else (None, color, shape)

    def attribute(self) -> SceneQuestion | None:
        """ "what color is the star?" about a thing that is there once, or (one in ten) not at all: "none"."""
        wanted = 0 if self.rng.random() < 0.1 else 1
        for _ in range(4):  # what is unique in colour may not be in shape
            asked = self._one(("color", "color", "shape", "shape", "size"))
            options: list[Named] = [
                (size, color, shape)
                for size in ((None,) if asked == "size" else (None, None, *SIZES))
                for color in ((None,) if asked == "color" else COLORS)
                for shape in ((None,) if asked == "shape" else SHAPES)
            ]
            fitting = [n for n in options if self.clear(n) and self._answers(asked, self.find(n), wanted)]
            by_answer: dict[str, list[Named]] = {}
            for named in fitting:
                found = self.find(named)
                by_answer.setdefault(str(getattr(found[0], asked)) if found else "none", []).append(named)
            if fitting:  # first the answer, evenly: most sizes would be "small" otherwise
                answer = self._one(sorted(by_answer))
                named = self._one(by_answer[answer])
                text = f"what {asked} is the {self.say(named)}?"
                return SceneQuestion(text, answer, "attribute", self._evidence(named))
        return None

    @staticmethod
    def _answers(asked: str, found: list[Thing], wanted: int) -> bool:
        """Whether there are as many as wanted, with an answer that the model has a word for."""
        if len(found) != wanted:
            return False
        words = {"color": COLORS, "shape": SHAPES, "size": SIZES}[asked]
        return not found or getattr(found[0], asked) in words

    def counting(self) -> SceneQuestion:
        """ "how many red stars are there?": first the count, nearly evenly among those that occur here."""
        every: list[Named] = [(None, c, s) for c in COLORS for s in SHAPES]
        every += [(None, c, None) for c in COLORS] + [(None, None, s) for s in SHAPES]
        by_count: dict[int, list[Named]] = {}
        for named in filter(self.clear, every):
            by_count.setdefault(len(self.find(named)), []).append(named)
        counts = sorted(count for count in by_count if count <= MOST)
        weights = np.array([_FEWER.get(count, 1.0) for count in counts])
        count = counts[int(self.rng.choice(len(counts), p=weights / weights.sum()))]
        # For zero, what shares a word with a thing that is there: else most questions would be far from the picture.
        near = [n for n in by_count[count] if self.find((None, n[1], None)) or self.find((None, None, n[2]))]
        named = self._one(near or by_count[count])
        text = f"how many {self.say(named, many=True)} are there?"
        return SceneQuestion(text, str(count), "counting", self._evidence(named))

    def _unique(self) -> list[tuple[str, Thing]]:
        return [
            (f"{t.color} {t.shape}", t)
            for t in self.things
            if t.color in COLORS and t.shape in SHAPES and len(self.find((None, t.color, t.shape))) == 1
        ]

    def spatial(self) -> SceneQuestion | None:
        """ "where is the red star?" or "is the red star left of the blue circle?"."""
        return self.relation() if self.rng.random() < 0.6 else self.place()

    def place(self) -> SceneQuestion | None:
        """ "where is the red star?", in thirds of the picture."""
        clear = [(name, thing, place) for name, thing in self._unique() if (place := self.place_of(thing))]
        if not clear:
            return None
        name, thing, place = self._one(clear)
        return SceneQuestion(f"where is the {name}?", place, "spatial", (thing.box,))

    def place_of(self, thing: Thing) -> str | None:
        """The ninth of the picture in which its middle lies; None near a border."""
        x, y = (value / self.side for value in thing.center)
        if any(abs(value - border) < _UNCLEAR for value in (x, y) for border in (1 / 3, 2 / 3)):
            return None
        return PLACES[int(3 * y)][int(3 * x)]

    def relation(self) -> SceneQuestion | None:
        """ "is the red star left of the blue circle?"."""
        named = self._unique()
        wanted = "yes" if self.turn % 2 == 0 else "no"
        for _ in range(12 if len(named) > 1 else 0):
            (name, one), (other_name, other) = (named[i] for i in self.rng.choice(len(named), 2, replace=False))
            axis = int(self.rng.integers(2))
            gap = (other.center[axis] - one.center[axis]) / self.side
            if abs(gap) < _APART:
                continue
            true, false = (("left of", "right of"), ("above", "below"))[axis][:: 1 if gap > 0 else -1]
            text = f"is the {name} {true if wanted == 'yes' else false} the {other_name}?"
            return SceneQuestion(text, wanted, "spatial", (one.box, other.box))
        return None

    def reading(self) -> SceneQuestion | None:
        """ "what word is on the sign?", or number; sometimes about what is missing: "none"."""
        present = [caption.kind for caption in self.captions]
        missing = [kind for kind in ("word", "number") if kind not in present]
        if missing and self.rng.random() < 0.1:
            kind = self._one(missing)
        elif present:
            kind = self._one(present)
        else:
            return None
        found = [caption for caption in self.captions if caption.kind == kind]
        answer = found[0].text if found else "none"
        return SceneQuestion(f"what {kind} is on the sign?", answer, "reading", tuple(c.box for c in found))
