"""The images and films that cases are about, pixel by pixel the same everywhere: whole numbers only."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZES = {"square": (48, 48), "wide": (100, 20), "tall": (31, 90), "tiny": (9, 8), "flat": (60, 40), "still": (48, 48),
         "scene": (480, 480)}  # fmt: skip
"""Width and height in px. flat: one colour but for a corner, so that many patches look exactly alike; half of wide
likewise. still: an image shown to a model that is otherwise shown videos. scene: what the embedded model knows."""
SCENE = Path(__file__).resolve().parents[2] / "examples" / "04-attribute" / "image.png"
N_FILM = 8


@cache
def image(kind: str) -> Image.Image:
    """One of ``SIZES``."""
    if kind == "scene":
        return Image.open(SCENE).convert("RGB")
    return Image.fromarray(_pixels(kind, 0))


def frames(kind: str) -> list[NDArray[np.uint8]]:
    """A film in which half of each frame stays as it is."""
    first, width = _pixels(kind, 0), SIZES[kind][0]
    made = [_pixels(kind, number) for number in range(N_FILM)]
    for frame in made:
        frame[:, : width // 2] = first[:, : width // 2]
    return made


def _pixels(kind: str, number: int) -> NDArray[np.uint8]:
    width, height = SIZES[kind]
    noise = np.random.default_rng([len(kind), width, number]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "wide":
        noise[:, width // 2 :] = (30, 60, 200)
    if kind == "flat":
        corner = noise[:9, :9].copy()
        noise[:] = (200, 40, 40)
        noise[:9, :9] = corner
    return noise
