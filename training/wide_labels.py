"""What every patch of a wide scene shows: as `labels`, with classes for what has no name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenes import COLORS, SHAPES, SIZES, Scene
from training.labels import HEADS, PAIRS, SIGN, TEXTS, center_patches, patch_owners

OTHER_SHAPE = SIGN + 1
"""The shape class of things of no named kind."""
OTHER_COLOR = len(COLORS) + 1
"""The colour class of things of no named colour."""
IGNORED = -100
"""Size of things between small and large; `cross_entropy` leaves it out."""
WIDE_HEADS = {**HEADS, "shape": HEADS["shape"] + 1, "color": HEADS["color"] + 1}
"""Number of classes of each target; the classes of HEADS keep their numbers."""
_COLOR_NAMES = tuple(COLORS)


def wide_patch_labels(scene: Scene, grid: int) -> NDArray[np.int64]:
    """Classes per patch, columns in the order of WIDE_HEADS.

    Shape:
        returns: (grid * grid, 5) int64.
    """
    table = np.zeros((len(scene.objects) + len(scene.signs) + 1, len(WIDE_HEADS)), np.int64)
    for i, item in enumerate(scene.objects):
        shape = SHAPES.index(item.shape) + 1 if item.shape in SHAPES else OTHER_SHAPE
        color = _COLOR_NAMES.index(item.color) + 1 if item.color in COLORS else OTHER_COLOR
        table[i] = (shape, color, SIZES.index(item.size) + 1 if item.size else IGNORED, 0, 0)
    for j, sign in enumerate(scene.signs):
        name = f"handwritten {sign.text}" if sign.kind == "digit" else sign.text
        table[len(scene.objects) + j] = (SIGN, 0, 0, TEXTS.index(name) + 1, 0)
    labels = table[patch_owners(scene, grid)]  # owner -1 picks the last row, which stays zero
    labels[center_patches(scene, grid), 4] = 1
    return labels


def wide_presence(scene: Scene) -> NDArray[np.float32]:
    """Which colour-shape pairs of known names occur.

    Shape:
        returns: (PAIRS,) float32 of zeros and ones.
    """
    found = np.zeros(PAIRS, np.float32)
    for item in scene.objects:
        if item.color in COLORS and item.shape in SHAPES:
            found[_COLOR_NAMES.index(item.color) * len(SHAPES) + SHAPES.index(item.shape)] = 1
    return found
