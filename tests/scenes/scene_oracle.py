"""An independent reading of scenes: answers worked out from the records alone, and what patches show."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from scenes import COLORS, PLACES, SHAPES, SIZES, Scene, SceneObject
from tokviz.names import Box
from tokviz.records import GridView, TokenGrid

GRID = 24
SINGULAR = {**{shape: shape for shape in SHAPES}, **{f"{shape}s": shape for shape in SHAPES}, "crosses": "cross"}


def described(scene: Scene, words: str) -> list[SceneObject]:
    """The objects that "small red stars" means."""
    result = list(scene.objects)
    for word in words.split():
        if word in COLORS:
            result = [item for item in result if item.color == word]
        elif word in SIZES:
            result = [item for item in result if item.size == word]
        elif word in SINGULAR:
            result = [item for item in result if item.shape == SINGULAR[word]]
        else:
            assert word in ("object", "objects"), words
    return result


def place_of(scene: Scene, item: SceneObject) -> str:
    """The ninth of the central square in which a centre lies."""
    side = scene.square[2] - scene.square[0]
    col = int((item.center[0] - scene.square[0]) / side * 3)
    row = int((item.center[1] - scene.square[1]) / side * 3)
    return PLACES[row][col]


def recount(scene: Scene, text: str) -> tuple[str, list[Box]]:
    """The only right answer and its evidence boxes; fails where the question has none, or more than one."""
    if found := re.fullmatch(r"is there an? (.+)\?", text):
        items = described(scene, found[1])
        return ("yes" if items else "no"), [item.box for item in items]
    if found := re.fullmatch(r"how many (.+) are there\?", text):
        items = described(scene, found[1])
        return str(len(items)), [item.box for item in items]
    if found := re.fullmatch(r"what (color|shape|size) is the (.+)\?", text):
        items = described(scene, found[2])
        assert len(items) <= 1, "a question about the one thing of a kind needs exactly one"
        return (getattr(items[0], found[1]) if items else "none"), [item.box for item in items]
    if found := re.fullmatch(r"where is the (.+)\?", text):
        (item,) = described(scene, found[1])
        return place_of(scene, item), [item.box]
    if found := re.fullmatch(r"is the (.+) (left of|right of|above|below) the (.+)\?", text):
        (first,), (second,) = described(scene, found[1]), described(scene, found[3])
        axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[found[2]]
        holds = sign * (second.center[axis] - first.center[axis]) > 0
        return ("yes" if holds else "no"), [first.box, second.box]
    found = re.fullmatch(r"what (word|number) is on the sign\?", text) or re.fullmatch(
        r"what (digit) is handwritten\?", text
    )
    assert found, text
    signs = [sign for sign in scene.signs if sign.kind == found[1]]
    assert len(signs) <= 1, "a question about the sign needs exactly one of its kind"
    return (signs[0].text if signs else "none"), [sign.box for sign in signs]


def kind_of(text: str) -> str:
    """The question with its content words taken out: what someone who does not see the picture still knows.

    Size words stay ("is there a small C S?"), since blind guesses may lean on them.
    """
    kinds = {**dict.fromkeys(COLORS, "C"), **dict.fromkeys(SINGULAR, "S"), "an": "a"}
    return " ".join(kinds.get(word, word) for word in text.rstrip("?").split())


def touched_patches(mask: NDArray[np.bool_], share: float = 0.0) -> int:
    """How many patches of the 24 x 24 grid the mask touches, or covers to at least `share`.

    Shape:
        mask: (336, 336) bool.
    """
    side = mask.shape[0] // GRID
    covered = mask.reshape(GRID, side, GRID, side).sum(axis=(1, 3))
    return int((covered >= max(1.0, share * side * side)).sum())


def token_grid(scene: Scene) -> TokenGrid:
    """The 24 x 24 grid of a model that sees the central square, in pixels of the picture."""
    height, width = scene.image.shape[:2]
    step = (scene.square[2] - scene.square[0]) / GRID
    rows, cols = (axis.ravel().tolist() for axis in np.mgrid[:GRID, :GRID])
    boxes: list[Box | None] = [
        (scene.square[0] + c * step, scene.square[1] + r * step,
         scene.square[0] + (c + 1) * step, scene.square[1] + (r + 1) * step)
        for r, c in zip(rows, cols, strict=True)
    ]  # fmt: skip
    view = GridView(name="picture", rows=GRID, cols=GRID, seen=scene.square)
    return TokenGrid(image_size=(width, height), views=[view], view=[0] * len(boxes), row=rows, col=cols, box=boxes)
