"""What a wide scene is to hold: how many things, which, and in what manner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenes.wide.colors import OTHER_COLORS
from scenes.wide.dice import between, pick
from scenes.wide.shapes import OTHER_SHAPES
from scenes.words import COLORS, SHAPES, SIGN_NUMBERS, SIGN_WORDS, UNSEEN_PAIRS

COLOR_NAMES = tuple(COLORS)
SEEN_PAIRS = tuple((c, s) for c in COLOR_NAMES for s in SHAPES if (c, s) not in UNSEEN_PAIRS)
"""The colour-shape pairs that training may show; the others stay for the held-out scenes."""
MAX_WIDE_COUNT = 10
STYLES = ("solid", "gradient", "bordered", "outline", "striped", "dotted", "mottled", "glassy")
_LEAST_OUTLINED, _LEAST_TEXTURED, _LEAST_BORDERED = 24.0, 20.0, 16.0
_LEAST_OUTLINED_CIRCLE = 44.0
"""An outlined circle must be much thinner than a ring, which is a seventh of its side thick and more."""
_STYLE_SHARES = np.cumsum((0.3, 0.16, 0.12, 0.16, 0.08, 0.05, 0.08, 0.05))


@dataclass(frozen=True)
class Wish:
    """A thing that is to be placed; size "" is between small and large."""

    shape: str
    color: str
    size: str


@dataclass(frozen=True)
class Manner:
    """What the things of one scene have in common.

    `overlapping`: things may hide parts of others; `nearness`: least distance of two centres in sums of their sides
    (0.5 is touching); `cut`: the edge may cut things; `style`: the one way of filling, or None for a mixture;
    `smooth`: edges are softened.
    """

    overlapping: bool
    nearness: float
    cut: bool
    upright: bool
    largest: float
    style: str | None
    smooth: bool


@dataclass(frozen=True)
class Plan:
    """All that a scene is to hold. `signs`: (text, kind)."""

    wishes: tuple[Wish, ...]
    signs: tuple[tuple[str, str], ...]
    manner: Manner


def random_style(rng: np.random.Generator) -> str:
    """One way of filling."""
    return STYLES[min(int(np.searchsorted(_STYLE_SHARES, rng.random())), len(STYLES) - 1)]


def fitting_style(style: str, shape: str, side: float) -> str:
    """The style, or "solid" where a thing is too small for it or would pass for another."""
    if style == "outline":
        fits = shape != "ring" and side >= (_LEAST_OUTLINED_CIRCLE if shape == "circle" else _LEAST_OUTLINED)
    elif style in ("striped", "dotted", "mottled"):
        fits = side >= _LEAST_TEXTURED
    else:
        fits = style != "bordered" or side >= _LEAST_BORDERED
    return style if fits else "solid"


class _Looks:
    """Draws colours, shapes and sizes; a few scenes also show what has no name."""

    def __init__(self, rng: np.random.Generator, crowded: bool) -> None:
        self.rng = rng
        self.other_shapes = 0.2 if rng.random() < 0.3 else 0.0
        self.other_colors = 0.2 if rng.random() < 0.2 else 0.0
        self.between = 0.3 if rng.random() < 0.25 else 0.0
        kind = rng.random()
        self.large = 0.0 if kind < 0.12 else 1.0 if kind > 0.9 and not crowded else 0.2 if crowded else 0.45

    def size(self) -> str:
        """Small, large, or (in some scenes) between both."""
        if self.rng.random() < self.between:
            return ""
        return "large" if self.rng.random() < self.large else "small"

    def named(self, color: str | None = None, shape: str | None = None) -> Wish:
        """A thing of named kind; the open properties at random, such that training may show the pair."""
        options = [pair for pair in SEEN_PAIRS if color in (None, pair[0]) and shape in (None, pair[1])]
        color, shape = pick(self.rng, options)
        return Wish(shape, color, self.size())

    def any(self) -> Wish:
        """A thing of any kind."""
        wish = self.named()
        shape = pick(self.rng, OTHER_SHAPES) if self.rng.random() < self.other_shapes else wish.shape
        color = pick(self.rng, OTHER_COLORS) if self.rng.random() < self.other_colors else wish.color
        size = "large" if shape in OTHER_SHAPES else wish.size
        return Wish(shape, color, size)

    def varied(self, count: int) -> list[Wish]:
        """Themes repeated with one property changed: near-duplicates abound."""
        wishes: list[Wish] = []
        while len(wishes) < count:
            theme = self.any()
            wishes.append(theme)
            if theme.shape in OTHER_SHAPES or theme.color in OTHER_COLORS:
                continue
            for _ in range(int(self.rng.random() * 3)):
                change = self.rng.random()
                if change < 0.35:
                    wishes.append(Wish(theme.shape, theme.color, self.size()))
                elif change < 0.7:
                    wishes.append(self.named(shape=theme.shape))
                else:
                    wishes.append(self.named(color=theme.color))
        return wishes[:count]

    def counted(self) -> list[Wish]:
        """0 to 10 things of one description among others that nearly fit it: what counting is learnt from."""
        # Mostly five and more: smaller counts abound in every scene.
        least = 5 if self.rng.random() < 0.75 else 0
        count = least + int(self.rng.random() * (MAX_WIDE_COUNT + 1 - least))
        color, shape = pick(self.rng, SEEN_PAIRS)
        kind = self.rng.random()
        goal_color, goal_shape = (color if kind < 0.75 else None), (shape if kind < 0.5 or kind > 0.75 else None)
        wishes = [self.named(goal_color, goal_shape) for _ in range(count)]
        for _ in range(int(self.rng.random() * 9)):
            near = self.rng.random()
            for _ in range(8):
                if near < 0.4 and goal_color:
                    other = self.named(color=goal_color) if goal_shape else self.any()
                elif near < 0.8 and goal_shape:
                    other = self.named(shape=goal_shape) if goal_color else self.any()
                else:
                    other = self.any()
                if goal_color not in (None, other.color) or goal_shape not in (None, other.shape):
                    wishes.append(other)
                    break
        return wishes


def _signs(rng: np.random.Generator, dense: bool) -> tuple[tuple[str, str], ...]:
    """At most one sign of a kind, so that "the sign" is one thing; several if `dense`."""
    if dense:
        kinds = [("word", "word", "number", "digit")[int(rng.random() * 4)] for _ in range(2 + int(rng.random() * 8))]
    else:
        kinds = [kind for kind, share in (("word", 0.42), ("number", 0.32), ("digit", 0.3)) if rng.random() < share]
    return tuple((pick(rng, SIGN_WORDS if kind == "word" else SIGN_NUMBERS), kind) for kind in kinds)


def _largest(rng: np.random.Generator, count: int) -> float:
    """The longest side of the largest thing in a scene of that many."""
    if count > 9:
        return between(rng, 44, 64)
    return between(rng, 90, 180) if count < 3 and rng.random() < 0.4 else between(rng, 50, 90)


def random_plan(rng: np.random.Generator, dense: bool = False) -> Plan:
    """What a scene is to hold: nothing, one thing, a few, a counted kind, or a crowd.

    Args: dense: a crowd and several signs, for the vision tower; not meant for questions.
    """
    kind = rng.random()
    crowded = dense or kind >= 0.82
    looks = _Looks(rng, crowded)
    if dense:
        wishes = looks.varied(12 + int(rng.random() * 25))
    elif kind < 0.03:
        wishes = []
    elif kind < 0.11:
        wishes = [looks.any()]
    elif kind < 0.2:
        wishes = looks.varied(2)
    elif kind < 0.5:
        wishes = looks.varied(3 + int(rng.random() * 6))
    elif kind < 0.82:
        wishes = looks.counted()
    else:
        wishes = looks.varied(10 + int(rng.random() * 15))
    # Large things first: small ones fit between them, the other way round they do not.
    order = rng.random(len(wishes)) + np.array([wish.size != "large" for wish in wishes], float)
    wishes = [wishes[i] for i in np.argsort(order, kind="stable")]
    signs = _signs(rng, dense)
    overlapping = rng.random() < 0.35
    manner = Manner(
        overlapping=overlapping,
        nearness=0.28 if overlapping else between(rng, 0.54, 0.7),
        cut=rng.random() < 0.15,
        upright=rng.random() < 0.3,
        largest=_largest(rng, len(wishes)),
        style=None if rng.random() < 0.45 else "solid" if rng.random() < 0.55 else random_style(rng),
        smooth=rng.random() < 0.85,
    )
    return Plan(tuple(wishes), signs, manner)
