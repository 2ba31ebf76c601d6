"""Grounds to draw on: pastel, sloping, cloudy, ruled, dotted, and photographs."""

from __future__ import annotations

import colorsys
import io
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Page = NDArray[np.float32]
PHOTOGRAPHS_FILE = Path(__file__).with_name("photographs.npz")
"""Free photographs that scikit-image distributes; see `scripts/pack_photographs.py` for sources and rights."""
BEHIND = ("brick", "camera", "chelsea", "grass", "gravel", "rocket")
"""Photographs without anything that a question could mean (the others show round, red or orange things)."""
KINDS = ("pastel", "slope", "clouds", "ruled", "dotted", "photograph")
_SHARES = (0.2, 0.17, 0.15, 0.11, 0.11, 0.26)


@lru_cache(maxsize=1)
def photographs() -> dict[str, NDArray[np.uint8]]:
    """All packed photographs by name.

    Shape:
        every value: (H, W, 3) uint8, shorter edge 352.
    """
    with np.load(PHOTOGRAPHS_FILE) as stored:
        return {name: np.asarray(Image.open(io.BytesIO(stored[name].tobytes()))) for name in sorted(stored)}


def cut(photograph: NDArray[np.uint8], side: int, rng: np.random.Generator, least: float = 0.55) -> NDArray[np.uint8]:
    """A random square part, at least `least` of the shorter edge, perhaps mirrored, scaled to `side`.

    Shape:
        photograph: (H, W, 3) uint8; returns (side, side, 3) uint8.
    """
    height, width = photograph.shape[:2]
    edge = int(min(height, width) * rng.uniform(least, 1.0))
    y, x = int(rng.integers(height - edge + 1)), int(rng.integers(width - edge + 1))
    part = photograph[y : y + edge, x : x + edge]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return np.asarray(
        cv2.resize(np.ascontiguousarray(part), (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8
    )


def _pastel(rng: np.random.Generator) -> NDArray[np.float64]:
    """A muted colour of any hue, light (in two of three pictures) or dark."""
    value = rng.uniform(0.72, 0.97) if rng.random() < 0.68 else rng.uniform(0.2, 0.4)
    return np.array(colorsys.hsv_to_rgb(float(rng.random()), float(rng.uniform(0.03, 0.3)), float(value)))


def _photograph(side: int, rng: np.random.Generator) -> Page:
    """A photograph, paler and softer than it was, so that what is drawn on it can be told from it."""
    part = cut(photographs()[BEHIND[int(rng.integers(len(BEHIND)))]], side, rng).astype(np.float32) / 255
    grey = part.mean(axis=2, keepdims=True)
    pale = grey + rng.uniform(0.1, 0.6) * (part - grey)
    toward = np.float32(rng.uniform(0.35, 0.8))
    return np.asarray(toward + rng.uniform(0.4, 0.75) * (pale - pale.mean()), dtype=np.float32)


def ground(side: int, rng: np.random.Generator) -> tuple[str, Page]:
    """Kind and page of a random background.

    Shape:
        returns: name, (side, side, 3) float32 in 0..1.
    """
    kind = KINDS[int(rng.choice(len(KINDS), p=_SHARES))]
    base = _pastel(rng)
    other = np.clip(base + rng.choice([-1, 1]) * rng.uniform(0.05, 0.16) + rng.normal(0, 0.03, 3), 0.08, 1)
    ys, xs = np.mgrid[:side, :side] / side
    turn = rng.uniform(0, np.pi)
    along, across = xs * np.cos(turn) + ys * np.sin(turn), ys * np.cos(turn) - xs * np.sin(turn)
    waves = rng.uniform(20, 70)
    if kind == "photograph":
        return kind, np.clip(_photograph(side, rng), 0, 1)
    if kind == "clouds":
        share = np.zeros((side, side), np.float32)
        for cells, weight in ((4, 0.5), (9, 0.3), (31, 0.2)):
            coarse = rng.random((cells, cells)).astype(np.float32)
            share += np.float32(weight) * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    else:
        share = {
            "pastel": np.zeros_like(xs),
            "slope": np.clip(along, 0, 1),
            "ruled": (np.sin(along * waves) > 0.9).astype(float),
            "dotted": ((np.sin(along * waves) > 0.6) & (np.sin(across * waves) > 0.6)).astype(float),
        }[kind].astype(np.float32)
    page = base + share[..., None] * (other - base)
    return kind, np.clip(page, 0, 1).astype(np.float32)
