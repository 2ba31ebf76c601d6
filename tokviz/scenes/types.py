"""The plain records that a scene consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the picture, x to the right, y down, end exclusive."""


@dataclass(frozen=True)
class SceneObject:
    """One drawn thing. `center` is (x, y) in pixels of the picture, `angle` in degrees."""

    shape: str
    color: str
    size: str
    center: tuple[float, float]
    radius: float
    angle: float
    box: Box

    @property
    def name(self) -> str:
        """Colour and shape, as a question would say it."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class SceneSign:
    """A plate with a word or a number on it.

    `kind` is one of SIGN_KINDS; `text` is lower case; `font` is the file of the letters, or the number of the
    handwritten image.
    """

    text: str
    kind: str
    box: Box
    font: str = ""


@dataclass(frozen=True)
class SceneQuestion:
    """A question with its only right answer.

    `evidence` holds the boxes of everything one must see to answer; it is empty where the answer rests on absence.
    """

    text: str
    answer: str
    family: str
    evidence: tuple[Box, ...]


@dataclass(frozen=True)
class Scene:
    """A picture with all that is known about it.

    Shape:
        image: (H, W, 3) uint8 RGB.
        owner: (H, W) int16; -1 background, i = objects[i], len(objects) + j = signs[j].
    """

    seed: int
    image: NDArray[np.uint8]
    owner: NDArray[np.int16]
    objects: tuple[SceneObject, ...]
    signs: tuple[SceneSign, ...]
    questions: tuple[SceneQuestion, ...]
    square: Box
    """The central square, which a shortest-edge-and-centre-crop processor sees; everything asked about lies in it."""
