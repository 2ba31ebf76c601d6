"""The records that a picture of the second world consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenes.types import Box, SceneQuestion

CROWDED, SINGLE, UNIFORM = "crowded", "single", "uniform"
"""Kinds of pictures: many things; exactly one; one to six of the same colour and nothing else."""
SMALL_UP_TO, LARGE_FROM = 24.0, 38.0
"""Diameters in pixels up to (from) which a thing is plainly small (large); nothing is asked of the size in between."""


@dataclass(frozen=True)
class Thing:
    """One drawn thing.

    `shape` and `color` may be ones that the model has no word for. `center`, `diameter` and `box` (of what is visible)
    are in pixels; `visible` is the share of its pixels that nothing covers.
    """

    shape: str
    color: str
    center: tuple[float, float]
    diameter: float
    box: Box
    visible: float
    style: str

    @property
    def size(self) -> str | None:
        """ "small", "large", or None where neither word is plainly right."""
        if self.diameter <= SMALL_UP_TO:
            return "small"
        return "large" if self.diameter >= LARGE_FROM else None


@dataclass(frozen=True)
class Caption:
    """A printed word or number.

    `text` is lower case, `shown` is what stands there; `height` of its ink in pixels; `colors` names those of plate
    and letters.
    """

    text: str
    shown: str
    kind: str
    box: Box
    font: str
    height: float
    plate: bool
    colors: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """A picture with all that is known about it.

    Shape:
        image: (S, S, 3) uint8 RGB.
        owner: (S, S) int16; -1 background, i = things[i], len(things) + j = captions[j].
    """

    seed: int
    image: NDArray[np.uint8]
    owner: NDArray[np.int16]
    background: str
    things: tuple[Thing, ...]
    captions: tuple[Caption, ...]
    questions: tuple[SceneQuestion, ...]
