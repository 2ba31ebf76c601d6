"""Boxes and points in answers: how models write them, and how far they are right."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..names import Box

_NUMBER = r"[-+]?\d+(?:\.\d+)?|[-+]?\.\d+"
_BRACKETED = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})(?:\s*,\s*({_NUMBER})\s*,\s*({_NUMBER}))?\s*[\])]")
_PERCENT_POINT = re.compile(rf"<point\s+x=[\"']?({_NUMBER})[\"']?\s+y=[\"']?({_NUMBER})")
_ALONE = re.compile(rf"(?<![\w.])(?:{_NUMBER})(?![\w])")
_THOUSANDTHS = ("<|box_start|>", "<box>", "<|point_start|>")
_LONGEST = 4_000
"""Characters of an answer that are looked at."""

Place = tuple[float, ...]
"""A box (x0, y0, x1, y1) or a point (x, y), in pixels."""


def place_in(answer: str, size: tuple[int, int] | None = None) -> Place | None:
    """The first box or point of an answer, in pixels; None where there is none.

    Read are ``[x0, y0, x1, y1]``, ``(x, y)``, ``(x0, y0), (x1, y1)``, and two or four bare numbers. Numbers are pixels
    of the original image, but: all from 0 to 1 are shares of it; between the marks of Qwen-VL and InternVL
    (``<|box_start|>``, ``<box>``) they are thousandths, in Molmo's ``<point x="…" y="…">`` percent.

    Args:
        answer: What the model said.
        size: Width and height of the image in pixels. Without it shares, thousandths and percent cannot be placed.
    """
    answer = answer[:_LONGEST]
    point = _PERCENT_POINT.search(answer)
    numbers = [float(number) for number in point.groups()] if point else _numbers(answer)
    if numbers is None:
        return None
    unit = 100.0 if point else 1000.0 if any(mark in answer for mark in _THOUSANDTHS) else None
    if unit is None and all(0 <= number <= 1 for number in numbers):
        unit = 1.0
    if unit is not None:
        if size is None:
            return None
        numbers = [number / unit * size[at % 2] for at, number in enumerate(numbers)]
    if len(numbers) == 4:
        (x0, x1), (y0, y1) = sorted(numbers[::2]), sorted(numbers[1::2])
        return (x0, y0, x1, y1)
    return tuple(numbers)


def _numbers(answer: str) -> list[float] | None:
    found = [[float(number) for number in match.groups() if number] for match in _BRACKETED.finditer(answer)]
    if found:
        return [*found[0], *found[1]] if len(found) == 2 and len(found[0]) == len(found[1]) == 2 else found[0]
    alone = [float(number) for number in _ALONE.findall(answer)]
    return alone if len(alone) in (2, 4) else None


def overlap(box: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1; 0 where neither has an area."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = _area(box) + _area(other) - shared
    return shared / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def box_score(place: Place | None, boxes: Sequence[Box]) -> float:
    """How right a box or point is: the best overlap with one of the boxes; for a point 1 in a box, else 0."""
    if place is None:
        return 0.0
    if len(place) == 2:
        x, y = place
        return float(any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes))
    x0, y0, x1, y1 = place
    return max((overlap((x0, y0, x1, y1), box) for box in boxes), default=0.0)
