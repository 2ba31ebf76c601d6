"""An independent reading of clips: answers from what the frames show (owner maps), not from paths or stored boxes."""

from __future__ import annotations

import re

import numpy as np

from scenes import COLORS, SHAPES, SIZES, Clip

SINGULAR = {**{shape: shape for shape in SHAPES}, **{f"{shape}s": shape for shape in SHAPES}, "crosses": "cross"}


def places(clip: Clip, thing: int) -> list[tuple[float, float] | None]:
    """Where each frame shows an object or sign: the middle of its pixels, (x, y), or None."""
    found: list[tuple[float, float] | None] = []
    for owner in clip.owners:
        rows, cols = np.nonzero(owner == thing)
        found.append((float(cols.mean()), float(rows.mean())) if len(rows) else None)
    return found


def shown_in(clip: Clip, thing: int) -> list[int]:
    """The frames that show it."""
    return [t for t, owner in enumerate(clip.owners) if (owner == thing).any()]


def described(clip: Clip, words: str) -> list[int]:
    """Numbers of the objects that "small red stars" means and that some frame shows."""
    result = [i for i in range(len(clip.objects)) if shown_in(clip, i)]
    for word in words.split():
        if word in COLORS:
            result = [i for i in result if clip.objects[i].color == word]
        elif word in SIZES:
            result = [i for i in result if clip.objects[i].size == word]
        elif word in SINGULAR:
            result = [i for i in result if clip.objects[i].shape == SINGULAR[word]]
        else:
            assert word in ("object", "objects"), words
    return result


def yes_or_no(holds: bool) -> str:
    return "yes" if holds else "no"


def moves(clip: Clip, thing: int) -> bool:
    """Whether its pixels are not the same in all frames that show it."""
    maps = [clip.owners[t] == thing for t in shown_in(clip, thing)]
    return any(not np.array_equal(maps[0], other) for other in maps[1:])


def way(clip: Clip, thing: int, axis: int) -> list[float]:
    """Its steps along an axis in pixels, from frame to frame."""
    seen = [place for place in places(clip, thing) if place is not None]
    return np.diff(np.array(seen)[:, axis]).tolist()


def recount(clip: Clip, text: str) -> tuple[str, list[int]]:
    """The only right answer and the things it rests on; fails where the question has none, or more than one."""
    if found := re.fullmatch(r"is there an? (.+)\?", text):
        things = described(clip, found[1])
        return yes_or_no(bool(things)), things
    if found := re.fullmatch(r"how many (.+) are there\?", text):
        things = described(clip, found[1])
        return str(len(things)), things
    if found := re.fullmatch(r"what (color|shape|size) is the (.+)\?", text):
        things = described(clip, found[2])
        assert len(things) <= 1
        return (getattr(clip.objects[things[0]], found[1]) if things else "none"), things
    if found := re.fullmatch(r"does the (.+) move\?", text):
        (thing,) = described(clip, found[1])
        return yes_or_no(moves(clip, thing)), [thing]
    if found := re.fullmatch(r"does the (.+) move to the (left|right|top|bottom)\?", text):
        (thing,) = described(clip, found[1])
        axis, sign = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}[found[2]]
        steps = [sign * step for step in way(clip, thing, axis)]
        # One direction all the time: else the question would have no single answer.
        # Pixels are coarse: a thing that moves less than one in a frame may seem to rest there.
        assert sum(steps) and (min(steps) >= 0 or max(steps) <= 0), (clip.seed, text, steps)
        return yes_or_no(sum(steps) > 0), [thing]
    if found := re.fullmatch(r"is the (.+) there before the (.+)\?", text):
        (first,), (second,) = described(clip, found[1]), described(clip, found[2])
        starts = shown_in(clip, first)[0], shown_in(clip, second)[0]
        assert starts[0] != starts[1]
        return yes_or_no(starts[0] < starts[1]), [first, second]
    found = re.fullmatch(r"what (word|number) is on the sign\?|what (digit) is handwritten\?", text)
    assert found, text
    kind = found[1] or found[2]
    things = [j for j, sign in enumerate(clip.signs, len(clip.objects)) if sign.kind == kind and shown_in(clip, j)]
    assert len(things) <= 1
    return (clip.signs[things[0] - len(clip.objects)].text if things else "none"), things
