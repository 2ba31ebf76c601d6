"""What every patch of a scene shows: the dense targets of the vision tower."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenes import COLORS, SHAPES, SIGN_NUMBERS, SIGN_WORDS, SIZES, Scene

TEXTS = (*SIGN_WORDS, *SIGN_NUMBERS, *(f"handwritten {digit}" for digit in SIGN_NUMBERS))
SIGN = len(SHAPES) + 1
"""The shape class of sign patches."""
HEADS = {
    "shape": len(SHAPES) + 2,
    "color": len(COLORS) + 1,
    "size": len(SIZES) + 1,
    "text": len(TEXTS) + 1,
    "center": 2,
}
"""Number of classes of each target; class 0 is "nothing" (for `center`: no centre lies here)."""
PAIRS = len(COLORS) * len(SHAPES)
_LEAST_COVER = 0.06
_COLOR_NAMES = tuple(COLORS)


def patch_owners(scene: Scene, grid: int) -> NDArray[np.int64]:
    """Which object or sign each patch shows: the one whose centre lies in it, else the one that covers most of it.

    Shape:
        returns: (grid * grid,) int64; -1 background, else the numbering of `Scene.owner`.
    """
    side = scene.owner.shape[0]
    pixels = side // grid
    things = len(scene.objects) + len(scene.signs)
    blocks = scene.owner.reshape(grid, pixels, grid, pixels).swapaxes(1, 2).reshape(grid * grid, -1).astype(np.int64)
    flat = (np.arange(grid * grid)[:, None] * (things + 1) + blocks + 1).ravel()
    counts = np.bincount(flat, minlength=grid * grid * (things + 1)).reshape(grid * grid, things + 1)[:, 1:]
    owners = np.full(grid * grid, -1, np.int64)
    if things:
        best = counts.argmax(1)
        covered = counts[np.arange(grid * grid), best] >= _LEAST_COVER * pixels * pixels
        owners[covered] = best[covered]
    for i, patch in enumerate(center_patches(scene, grid)):
        owners[patch] = i
    return owners


def center_patches(scene: Scene, grid: int) -> NDArray[np.int64]:
    """The patch in which each object's centre lies.

    Shape:
        returns: (number of objects,) int64.
    """
    pixels = scene.owner.shape[0] / grid
    centers = np.array([item.center for item in scene.objects]).reshape(-1, 2)
    cells = np.clip((centers / pixels).astype(np.int64), 0, grid - 1)
    return cells[:, 1] * grid + cells[:, 0]


def patch_labels(scene: Scene, grid: int) -> NDArray[np.int64]:
    """Classes per patch, columns in the order of HEADS.

    Shape:
        returns: (grid * grid, 5) int64.
    """
    table = np.zeros((len(scene.objects) + len(scene.signs) + 1, len(HEADS)), np.int64)
    for i, item in enumerate(scene.objects):
        color, size = _COLOR_NAMES.index(item.color), SIZES.index(item.size)
        table[i] = (SHAPES.index(item.shape) + 1, color + 1, size + 1, 0, 0)
    for j, sign in enumerate(scene.signs):
        name = f"handwritten {sign.text}" if sign.kind == "digit" else sign.text
        table[len(scene.objects) + j] = (SIGN, 0, 0, TEXTS.index(name) + 1, 0)
    labels = table[patch_owners(scene, grid)]  # owner -1 picks the last row, which stays zero
    labels[center_patches(scene, grid), 4] = 1
    return labels


def presence(scene: Scene) -> NDArray[np.float32]:
    """Which colour-shape pairs occur.

    Shape:
        returns: (PAIRS,) float32 of zeros and ones.
    """
    found = np.zeros(PAIRS, np.float32)
    for item in scene.objects:
        found[_COLOR_NAMES.index(item.color) * len(SHAPES) + SHAPES.index(item.shape)] = 1
    return found
