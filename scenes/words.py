"""The closed vocabulary of the procedural scenes: what can be drawn, asked and answered."""

from __future__ import annotations

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 40),
    "orange": (247, 140, 22),
    "yellow": (246, 220, 40),
    "green": (38, 160, 62),
    "blue": (36, 84, 214),
    "purple": (128, 44, 160),
    "pink": (250, 140, 190),
    "black": (24, 24, 26),
}
SIZES: tuple[str, ...] = ("small", "large")
SIGN_WORDS: tuple[str, ...] = (
    "stop",
    "open",
    "exit",
    "sale",
    "cafe",
    "bus",
    "taxi",
    "hotel",
    "bank",
    "shop",
    "park",
    "zoo",
    "food",
    "gift",
    "pay",
    "menu",
)
SIGN_NUMBERS: tuple[str, ...] = tuple(str(digit) for digit in range(10))
SIGN_KINDS: tuple[str, ...] = ("word", "number", "digit")
"""Printed words, printed numbers, handwritten digits; a picture shows at most one of each."""
UNSEEN_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "ring"),
        ("orange", "star"),
        ("yellow", "cross"),
        ("green", "circle"),
        ("blue", "triangle"),
        ("pink", "square"),
    }
)
"""Colour-shape pairs that no training scene shows and no training question names."""
FAMILIES: tuple[str, ...] = ("existence", "attribute", "counting", "spatial", "reading")
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
PLACES: tuple[tuple[str, str, str], ...] = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
MAX_COUNT = 9
"""No question asks for a count above this."""

# Disjoint seed ranges: whoever draws a scene for training must stay inside the first one. Scenes of the first two
# ranges avoid UNSEEN_PAIRS, held-out fonts and held-out handwriting; scenes of all other seeds may show them.
TRAINING_SEEDS = range(100_000_000)
VALIDATION_SEEDS = range(100_000_000, 110_000_000)
HELD_OUT_SEEDS = range(200_000_000, 210_000_000)
EXAMPLE_SEEDS = range(300_000_000, 310_000_000)


def is_unseen(seed: int) -> bool:
    """Whether the scene of this seed may show what training never showed (pairs, fonts, handwriting)."""
    return seed not in TRAINING_SEEDS and seed not in VALIDATION_SEEDS


def plural(shape: str) -> str:
    """The plural of a shape word ("cross" becomes "crosses")."""
    return shape + "es" if shape.endswith("s") else shape + "s"
