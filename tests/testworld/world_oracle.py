"""An independent reading of the second world: answers worked out from what pixels belong to, not from stored boxes."""

from __future__ import annotations

import re

import numpy as np

from scenes import SceneQuestion
from testworld import Thing, World

COLOR_WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SHAPE_WORDS = ("circle", "square", "triangle", "star", "cross", "ring")
NINTHS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")


def middle(world: World, thing: Thing) -> tuple[float, float]:
    """The middle of the visible pixels' extent."""
    rows, cols = np.nonzero(world.owner == world.things.index(thing))
    return (cols.min() + cols.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2


def meant(world: World, words: str) -> list[Thing]:
    """Everything that "small red stars" means."""
    found = [thing for i, thing in enumerate(world.things) if (world.owner == i).any()]
    for word in words.split():
        single = {"crosses": "cross"}.get(word, word.removesuffix("s") if word not in ("cross",) else word)
        if word == "small":
            assert all(t.diameter <= 24 or t.diameter >= 38 for t in meant(world, words.replace(word, "")))
            found = [t for t in found if t.diameter <= 24]
        elif word == "large":
            assert all(t.diameter <= 24 or t.diameter >= 38 for t in meant(world, words.replace(word, "")))
            found = [t for t in found if t.diameter >= 38]
        elif word in COLOR_WORDS:
            found = [t for t in found if t.color == word]
        elif single in SHAPE_WORDS:
            found = [t for t in found if t.shape == single]
        else:
            assert single == "object", words
    return found


def recount(world: World, question: SceneQuestion) -> tuple[str, list[tuple[float, ...]]]:
    """The only right answer and the boxes that it rests on."""
    text = question.text
    if found := re.fullmatch(r"is there an? (.+)\?", text):
        things = meant(world, found[1])
        return ("yes" if things else "no"), [t.box for t in things]
    if found := re.fullmatch(r"how many (.+) are there\?", text):
        things = meant(world, found[1])
        return str(len(things)), [t.box for t in things]
    if found := re.fullmatch(r"what (color|shape) is the (.+)\?", text):
        things = meant(world, found[2])
        assert len(things) <= 1
        return (getattr(things[0], found[1]) if things else "none"), [t.box for t in things]
    if found := re.fullmatch(r"what size is the (.+)\?", text):
        things = meant(world, found[1])
        assert len(things) <= 1
        sizes = ["small" if t.diameter <= 24 else "large" if t.diameter >= 38 else "unclear" for t in things]
        return (sizes[0] if sizes else "none"), [t.box for t in things]
    if found := re.fullmatch(r"where is the (.+)\?", text):
        (thing,) = meant(world, found[1])
        x, y = middle(world, thing)
        return NINTHS[int(y / 112) * 3 + int(x / 112)], [thing.box]
    if found := re.fullmatch(r"is the (.+) (left of|right of|above|below) the (.+)\?", text):
        (one,), (other,) = meant(world, found[1]), meant(world, found[3])
        (x, y), (u, v) = middle(world, one), middle(world, other)
        gap = {"left of": u - x, "right of": x - u, "above": v - y, "below": y - v}[found[2]]
        assert abs(gap) >= 40, "too near each other to be called left of or above"
        return ("yes" if gap > 0 else "no"), [one.box, other.box]
    found = re.fullmatch(r"what (word|number) is on the sign\?", text)
    assert found, text
    captions = [c for c in world.captions if c.kind == found[1]]
    assert len(captions) <= 1
    return (captions[0].shown.lower() if captions else "none"), [c.box for c in captions]
