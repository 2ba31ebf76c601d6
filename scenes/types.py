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


@dataclass(frozen=True)
class MovingObject:
    """One thing of a clip; shape, colour, size and angle stay, the place changes.

    `path` is one of PATHS, `radius` in pixels. `centers` and `boxes` hold an entry per frame: (x, y) and the box in
    pixels, None where the frame does not show it. The frames that show it follow one another.
    """

    shape: str
    color: str
    size: str
    radius: float
    angle: float
    path: str
    centers: tuple[tuple[float, float] | None, ...]
    boxes: tuple[Box | None, ...]

    @property
    def name(self) -> str:
        """Colour and shape, as a question would say it."""
        return f"{self.color} {self.shape}"

    @property
    def shown(self) -> tuple[int, int]:
        """First frame that shows it, and the first after it that does not."""
        return _span([box is not None for box in self.boxes])


@dataclass(frozen=True)
class MovingSign:
    """A sign of a clip: it stands still, and only some frames show it. Fields as in SceneSign, a box per frame."""

    text: str
    kind: str
    font: str
    boxes: tuple[Box | None, ...]

    @property
    def shown(self) -> tuple[int, int]:
        """First frame that shows it, and the first after it that does not."""
        return _span([box is not None for box in self.boxes])


@dataclass(frozen=True)
class ClipQuestion:
    """A question about a whole clip with its only right answer.

    `evidence` holds, per frame, the boxes of the asked things that this frame shows; it is empty in every frame where
    the answer rests on absence.
    """

    text: str
    answer: str
    family: str
    evidence: tuple[tuple[Box, ...], ...]

    @property
    def interval(self) -> tuple[int, int] | None:
        """First frame with evidence, and the first behind the last one; None without evidence."""
        seen = [bool(boxes) for boxes in self.evidence]
        return (seen.index(True), len(seen) - seen[::-1].index(True)) if any(seen) else None


@dataclass(frozen=True)
class Clip:
    """A short film with all that is known about it.

    Shape:
        frames: (T, H, W, 3) uint8 RGB.
        owners: (T, H, W) int16; -1 background, i = objects[i], len(objects) + j = signs[j].
    """

    seed: int
    frames: NDArray[np.uint8]
    owners: NDArray[np.int16]
    objects: tuple[MovingObject, ...]
    signs: tuple[MovingSign, ...]
    questions: tuple[ClipQuestion, ...]
    square: Box
    """The central square, as in Scene; everything asked about stays in it."""


def _span(shown: list[bool]) -> tuple[int, int]:
    first = shown.index(True)
    return first, first + sum(shown)
