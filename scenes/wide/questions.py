"""Questions about wide scenes that have exactly one right answer, in many wordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from scenes.types import Box, SceneObject, SceneSign
from scenes.wide.dice import pick
from scenes.wide.plan import COLOR_NAMES, MAX_WIDE_COUNT, SEEN_PAIRS
from scenes.wide.reading import ReadingMaker
from scenes.wide.wording import Named, WideQuestion, Writer, unknown_word, with_article
from scenes.words import FAMILIES, PLACES, RELATIONS, SHAPES, SIZES

Cell = tuple[int, int, int]
"""(size, colour, shape) as numbers from 1 on; 0 is left open."""
UNKNOWN_SHARE = 0.1
"""Share of the questions of `make` about things that no known word names."""
_CLEAR = 0.1
_BORDER = 0.03
_COUNT_WEIGHTS = np.array([0.4, 0.7, 1.0, 1.9, 3.4, 3.8, 5.0, 6.6, 8.4, 13.0, 14.0])
"""How much likelier a larger count is chosen where it is possible: large counts are possible more seldom."""
_ALLOWED = np.ones((len(SIZES) + 1, len(COLOR_NAMES) + 1, len(SHAPES) + 1), bool)
_ALLOWED[:, 1:, 1:] = [[(color, shape) in SEEN_PAIRS for shape in SHAPES] for color in COLOR_NAMES]


class WideQuestionMaker:
    """Draws random questions about one wide scene; all randomness comes from `rng`.

    The interface is that of `QuestionMaker`. No question names a held-out colour-shape pair; none of them rests on the
    size of things in a scene where some are neither small nor large.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        objects: Sequence[SceneObject],
        signs: Sequence[SceneSign],
        square: Box,
        *,
        paraphrased: float = 0.65,
        unknown_share: float = UNKNOWN_SHARE,
    ) -> None:
        self.rng, self.objects, self.square = rng, objects, square
        self.unknown_share = unknown_share
        self.write = Writer(rng, paraphrased)
        self.reader = ReadingMaker(self.write, len(objects), signs)
        self.keys = np.array([self._key(item) for item in objects], np.int64).reshape(-1, 3)
        self.counts = np.zeros(_ALLOWED.shape, np.int64)
        for size, color, shape in self.keys.tolist():
            for cell in {(z, c, s) for z in (0, size) for c in (0, color) for s in (0, shape)}:
                self.counts[cell] += 1
        self.allowed = _ALLOWED.copy()
        if not self.keys[:, 0].all():
            self.allowed[1:] = False

    @staticmethod
    def _key(item: SceneObject) -> Cell:
        """Numbers of the names; 0 for what has no name."""
        return (
            SIZES.index(item.size) + 1 if item.size in SIZES else 0,
            COLOR_NAMES.index(item.color) + 1 if item.color in COLOR_NAMES else 0,
            SHAPES.index(item.shape) + 1 if item.shape in SHAPES else 0,
        )

    def make(self, family: str) -> WideQuestion | None:
        """One question of the family, or None when this scene allows none."""
        makers: dict[str, Callable[[], WideQuestion | None]] = {
            "existence": self.existence,
            "attribute": self.attribute,
            "counting": self.counting,
            "spatial": self.spatial,
            "reading": self.reading,
        }
        if family not in makers:
            raise ValueError(f"expected one of {FAMILIES}, but got {family!r}")
        return self.unknown(family) if self.rng.random() < self.unknown_share else makers[family]()

    def things(self, cell: Cell) -> tuple[int, ...]:
        """Numbers of the objects that fit."""
        wanted = np.array(cell)
        return tuple(np.flatnonzero(((self.keys == wanted) | (wanted == 0)).all(axis=1)).tolist())

    def _boxes(self, things: Sequence[int]) -> tuple[Box, ...]:
        return tuple(self.objects[i].box for i in things)

    def _named(self, cell: Cell, about: str = "") -> Named:
        size, color, shape = cell
        return self.write.describe(
            SIZES[size - 1] if size else None,
            COLOR_NAMES[color - 1] if color else None,
            SHAPES[shape - 1] if shape else None,
            self.things(cell),
            about=about,
        )

    def _pick(self, mask: NDArray[np.bool_]) -> Cell | None:
        """One of the marked descriptions."""
        cells = np.argwhere(mask & self.allowed)
        if not len(cells):
            return None
        size, color, shape = pick(self.rng, cells).tolist()
        return size, color, shape

    def existence(self) -> WideQuestion | None:
        """Yes or no by a fair coin (None in a scene without objects, mostly), and "no" is usually a near miss."""
        rng = self.rng
        if not self.objects and rng.random() < 0.5:
            return None
        wanted = bool(self.objects) and rng.random() < 0.5
        kind = rng.random()
        cell: Cell | None = None
        axes = np.indices(self.counts.shape)
        open_axes = (axes == 0).sum(axis=0)
        fits = (self.counts > 0) == wanted
        if kind < 0.24:  # a shape or a colour alone, where some are there and some are not
            axis = 2 if kind < 0.12 else 1
            single = (open_axes == 2) & (axes[axis] > 0)
            if (self.counts[single] > 0).any() and (self.counts[single] == 0).any():
                cell = self._pick(fits & single)
        elif kind < 0.4:
            # Of one size by a fair coin, and only where that size allows both answers.
            sized = (axes[0] == 1 + int(rng.random() * 2)) & (axes[1] > 0) & (axes[2] > 0) & self.allowed
            present = sized & (self.counts > 0)
            absent = sized & (self.counts == 0) & (self.counts[[0, 2, 1]] > 0)
            if present.any() and absent.any():
                cell = self._pick(present if wanted else absent)
        if (kind < 0.02 and wanted) or (not self.objects and kind < 0.5):
            cell = (0, 0, 0)
        if cell is None:
            cell = self._pair(wanted)
        if cell is None:
            return None
        named = self._named(cell)
        return self.write.write("exists", "yes" if named.things else "no", self._boxes(named.things), thing=named)

    def _pair(self, wanted: bool) -> Cell | None:
        """Colour and shape that are there, or (in nine of ten) of which only one is."""
        there = self.counts[0] > 0
        pairs: NDArray[np.bool_] = there.copy()
        pairs[0], pairs[:, 0] = False, False
        if not wanted:
            chance = self.rng.random()
            near: NDArray[np.bool_] = np.logical_and(there[:, :1] if chance < 0.55 else there[:1], ~pairs)
            near[0], near[:, 0] = False, False
            pairs = near if chance < 0.9 and (near & self.allowed[0]).any() else ~pairs
            pairs[0], pairs[:, 0] = False, False
        mask = np.zeros_like(self.allowed)
        mask[0] = pairs
        return self._pick(mask)

    def attribute(self) -> WideQuestion | None:
        """What colour, shape or size a thing has that is there once, or (one in eight) not at all: "none"."""
        rng = self.rng
        asked = ("color", "color", "color", "shape", "shape", "shape", "size")[int(rng.random() * 7)]
        axis = ("size", "color", "shape").index(asked)
        checked = rng.random() < 0.28
        absent = not checked and rng.random() < 0.125
        mask = self.counts == (0 if absent else 1)
        mask &= np.indices(mask.shape)[axis] == 0
        if asked == "size" and not self.allowed[1:].any():
            return None
        if not absent:
            known = np.zeros_like(mask)
            for size, color, shape in self.keys[self.keys[:, axis] > 0].tolist():
                for z, c, s in {(z, c, s) for z in (0, size) for c in (0, color) for s in (0, shape)}:
                    known[z, c, s] = True
            mask &= known
        cell = self._pick(mask)
        if cell is None:
            return None
        named = self._named(cell, asked)
        if not named.things:
            return self.write.write(asked, "none", (), thing=named)
        value = str(getattr(self.objects[named.things[0]], asked))
        evidence = self._boxes(named.things)
        if not checked:
            return self.write.write(asked, value, evidence, thing=named)
        names: tuple[str, ...] = (SIZES, COLOR_NAMES, SHAPES)[axis]
        wanted = rng.random() < 0.5
        proposed = value if wanted else pick(rng, [name for name in names if name != value])
        slot = with_article(proposed) if asked == "shape" else proposed
        return self.write.write(f"is {asked}", "yes" if wanted else "no", evidence, thing=named, **{asked: slot})

    def counting(self) -> WideQuestion | None:
        """How many fit a description: the count is drawn first, such that 0 to 10 are about equally frequent."""
        axes = np.indices(self.counts.shape)
        usual = (axes[0] == 0) | (self.rng.random() < 0.1)
        possible = usual & self.allowed & (self.counts <= MAX_WIDE_COUNT)
        found = np.bincount(self.counts[possible], minlength=MAX_WIDE_COUNT + 1) > 0
        weights = np.where(found, _COUNT_WEIGHTS, 0.0)
        count = int(np.searchsorted(np.cumsum(weights), self.rng.random() * weights.sum(), side="right"))
        cell = self._pick(possible & (self.counts == count))
        if cell is None:
            return None
        named = self._named(cell)
        evidence = self._boxes(named.things)
        if self.rng.random() < 0.07:
            wanted = self.rng.random() < 0.5
            step = pick(self.rng, (-2, -1, 1, 2))
            other = count + step if 0 <= count + step <= MAX_WIDE_COUNT else count - step
            if (number := count if wanted else other) > 1:
                return self.write.write("is count", "yes" if wanted else "no", evidence, thing=named, n=str(number))
        return self.write.write("count", str(count), evidence, thing=named)

    def spatial(self) -> WideQuestion | None:
        """Where a thing is, or how two of them lie to each other."""
        return self.relation() if self.rng.random() < 0.6 else self.place()

    def _unique(self) -> list[tuple[Cell, int]]:
        """Descriptions that fit exactly one thing, with it: mostly colour and shape, else one of both."""
        kind = self.rng.random()
        levels = [(0, 1, 1)] if kind < 0.7 else [(0, 0, 1), (0, 1, 1)] if kind < 0.9 else [(0, 1, 0), (1, 1, 1)]
        result = []
        for number, key in enumerate(self.keys.tolist()):
            for level in levels:
                cell = (key[0] * level[0], key[1] * level[1], key[2] * level[2])
                # A thing without a name for what is asked would be described by less than the level says.
                complete = all(part for part, used in zip(cell, level, strict=True) if used)
                if complete and self.allowed[cell] and self.counts[cell] == 1:
                    result.append((cell, number))
                    break
        return result

    def _absent(self) -> Cell | None:
        return self._pair(False)

    def place(self) -> WideQuestion | None:
        """Where a thing is, in thirds of the square; "none" for one in twelve that is not there."""
        if self.rng.random() < 1 / 12:
            cell = self._absent()
            return None if cell is None else self.write.write("place", "none", (), thing=self._named(cell))
        clear = [(cell, self._place_of(number)) for cell, number in self._unique()]
        clear = [entry for entry in clear if entry[1] is not None]
        if not clear:
            return None
        cell, answer = pick(self.rng, clear)
        named = self._named(cell)
        return self.write.write("place", str(answer), self._boxes(named.things), thing=named)

    def _position(self, number: int) -> tuple[float, float]:
        """The centre as a share of the square, (x, y)."""
        side = self.square[2] - self.square[0]
        x, y = self.objects[number].center
        return (x - self.square[0]) / side, (y - self.square[1]) / side

    def _place_of(self, number: int) -> str | None:
        x, y = self._position(number)
        if any(abs(value - border) < _BORDER for value in (x, y) for border in (1 / 3, 2 / 3)):
            return None
        return PLACES[min(2, int(y * 3))][min(2, int(x * 3))]

    def relation(self) -> WideQuestion | None:
        """Yes or no by a fair coin, for each relation; one "no" in eight because one of the things is not there."""
        named = self._unique()
        if len(named) < 2:
            return None
        relation = pick(self.rng, RELATIONS)
        axis, forward = (0 if relation in RELATIONS[:2] else 1), relation in (RELATIONS[0], RELATIONS[2])
        along = np.array([self._position(number)[axis] for _, number in named])
        before = np.argwhere(along[None] - along[:, None] >= _CLEAR)  # (earlier, later) along the axis
        if not len(before):
            return None
        wanted = self.rng.random() < 0.5
        earlier, later = pick(self.rng, before).tolist()
        pair = (earlier, later) if wanted == forward else (later, earlier)
        phrase = self.write.relation(relation)
        first, second = (self._named(named[i][0]) for i in pair)
        if not wanted and self.rng.random() < 0.125 and (absent := self._absent()) is not None:
            first, second = (self._named(absent), second) if self.rng.random() < 0.5 else (first, self._named(absent))
        evidence = self._boxes((*first.things, *second.things))
        answer = "yes" if wanted else "no"
        return self.write.write("relation", answer, evidence, thing=first, other=second, relation=phrase)

    def reading(self) -> WideQuestion | None:
        """What is written, or whether this or that is; "none" where nothing is."""
        return self.reader.reading()

    def listing(self) -> WideQuestion | None:
        """Colour and shape of all things in reading order by rows of patches; None where some have no name, or many."""
        if len(self.objects) > 10 or not (self.keys[:, 1:] > 0).all():
            return None
        rows = [int(item.center[1] // 14) * 1000 + int(item.center[0] // 14) for item in self.objects]
        order = np.argsort(rows, kind="stable").tolist()
        answer = " ".join(self.objects[i].name for i in order) or "none"
        return self.write.write("list", answer, self._boxes(range(len(self.objects))))

    def unknown(self, family: str | None = None) -> WideQuestion:
        """A question about what no known word names: "no", "none" or "0"; of a random family unless one is given."""
        rng = self.rng
        family = family or pick(rng, FAMILIES)
        kind = rng.random()
        words: tuple[str, ...] = (unknown_word(rng),)
        if 0.5 <= kind < 0.7:
            words = (unknown_word(rng), pick(rng, (*SHAPES, "object")))
        elif 0.7 <= kind < 0.94:
            words = (pick(rng, (*COLOR_NAMES, *SIZES)), unknown_word(rng))
        elif kind >= 0.94:
            words = (unknown_word(rng), unknown_word(rng))
        named = Named(words)
        if family == "reading":
            return self.reader.unknown()
        if family == "existence":
            return self.write.write("exists", "no", (), thing=named)
        if family == "counting":
            return self.write.write("count", "0", (), thing=named)
        if family == "attribute":
            return self._unknown_attribute(named)
        if family == "spatial" and (rng.random() < 0.5 or not (there := self._unique())):
            return self.write.write("place", "none", (), thing=named)
        other = self._named(pick(rng, there)[0])
        first, second = (named, other) if rng.random() < 0.5 else (other, named)
        phrase = self.write.relation(pick(rng, RELATIONS))
        evidence = self._boxes(other.things)
        return self.write.write("relation", "no", evidence, thing=first, other=second, relation=phrase)

    def _unknown_attribute(self, named: Named) -> WideQuestion:
        asked = pick(self.rng, ("color", "color", "shape", "size"))
        there = self._unique()
        if there and self.rng.random() < 0.15:  # "is the star UNKNOWN?"
            known = self._named(pick(self.rng, there)[0], asked)
            word = unknown_word(self.rng)
            kind = pick(self.rng, ("color", "shape"))
            slots: dict[str, Named | str] = {"thing": known, kind: f"a {word}" if kind == "shape" else word}
            return self.write.write(f"is {kind}", "no", self._boxes(known.things), **slots)
        return self.write.write(asked, "none", (), thing=named)
