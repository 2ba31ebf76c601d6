"""Grounds, clutter and the camera of the wide world."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from scenes.wide.colors import tints
from scenes.wide.dice import between, pick
from scenes.words import COLORS

Picture = NDArray[np.uint8]
SIDE = 336
GROUNDS = ("plain", "gradient", "noise", "stripes", "checker", "blobs", "photo")
_SHARES = np.cumsum((0.22, 0.12, 0.08, 0.1, 0.1, 0.16, 0.22))
_TILE = 512


@lru_cache(maxsize=1)
def _natural_tiles() -> NDArray[np.float32]:
    """Noise whose amplitude falls with the frequency as in photographs, of two slopes, periodic, mean 0, deviation 1.

    Shape:
        returns: (10, 512, 512) float32.
    """
    rng = np.random.default_rng(72)
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    tiles = np.empty((10, _TILE, _TILE), np.float32)
    for i in range(len(tiles)):
        spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) / radius ** (0.9 + 0.08 * i)
        tile = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
        tiles[i] = (tile - tile.mean()) / tile.std()
    return tiles


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.int16]:
    """Sensor noise of deviation 64, to be cut at random offsets and scaled.

    Shape:
        returns: (512, 512, 3) int16.
    """
    return np.round(np.random.default_rng(73).normal(0, 64, (_TILE, _TILE, 3))).astype(np.int16)


def _window(rng: np.random.Generator, tile: NDArray[np.float32]) -> NDArray[np.float32]:
    y, x = int(rng.random() * (_TILE - SIDE)), int(rng.random() * (_TILE - SIDE))
    part = tile[y : y + SIDE, x : x + SIDE]
    part = part.T if rng.random() < 0.5 else part
    return part[::-1] if rng.random() < 0.5 else part


def _color(rng: np.random.Generator, loud: bool) -> NDArray[np.float32]:
    """A ground colour: white, nearly black, muted, or (if `loud`) any."""
    kind = rng.random()
    if loud:
        return (30 + 205 * rng.random(3)).astype(np.float32)
    if kind < 0.22:
        return np.full(3, 255, np.float32)
    grey = between(rng, 18, 70) if kind < 0.36 else between(rng, 110, 245)
    return np.clip(grey + rng.normal(0, 11, 3), 0, 255).astype(np.float32)


def _weights(rng: np.random.Generator, kind: str) -> NDArray[np.float32]:
    """How much of the second colour each pixel takes.

    Shape:
        returns: (336, 336) float32 in 0..1.
    """
    if kind == "gradient":
        corners = rng.random((2, 2), dtype=np.float32)
        return np.asarray(cv2.resize(corners, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR))
    if kind == "blobs":
        cells = 3 + int(rng.random() * 12)
        coarse = rng.random((cells, cells), dtype=np.float32)
        return np.clip(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), 0, 1)
    if kind == "noise":
        cells = int(between(rng, 60, SIDE))
        return np.asarray(cv2.resize(rng.random((cells, cells), dtype=np.float32), (SIDE, SIDE)))
    pitch, lean = between(rng, 6, 60), between(rng, 0, math.pi)
    axis = np.arange(SIDE, dtype=np.float32) / np.float32(pitch)
    cosine, sine = np.float32(math.cos(lean)), np.float32(math.sin(lean))
    along = axis[None] * cosine + axis[:, None] * sine
    if kind == "stripes" and rng.random() < 0.4:
        return (0.5 + 0.5 * np.sin(along * np.float32(math.pi))).astype(np.float32)
    steps = np.floor(along)
    if kind == "checker":
        steps += np.floor(axis[:, None] * cosine - axis[None] * sine)
    return (steps % 2).astype(np.float32)


def _photo(rng: np.random.Generator) -> Picture:
    """Three mixed textures of natural statistics: no photograph, but as uneven and as colourful as one."""
    tiles = _natural_tiles()
    light = _window(rng, tiles[int(rng.random() * len(tiles))])
    hue = _window(rng, tiles[int(rng.random() * len(tiles))])
    swing, tint = between(rng, 14, 52), rng.normal(0, between(rng, 2, 16), 3)
    base = between(rng, 60, 200) + rng.normal(0, 22, 3)
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    for channel in range(3):
        mixed = light * np.float32(swing) + hue * np.float32(tint[channel]) + np.float32(base[channel])
        picture[..., channel] = np.clip(mixed, 0, 255, out=mixed)
    return picture


def ground(rng: np.random.Generator) -> Picture:
    """A random ground.

    Shape:
        returns: (336, 336, 3) uint8.
    """
    kind = GROUNDS[min(int(np.searchsorted(_SHARES, rng.random())), len(GROUNDS) - 1)]
    if kind == "photo":
        return _photo(rng)
    first = _color(rng, loud=rng.random() < 0.22)
    if kind == "plain":
        return np.broadcast_to(np.round(first).astype(np.uint8), (SIDE, SIDE, 3)).copy()
    second = np.clip(first + between(rng, 10, 60) * rng.choice((-1, 1)) + rng.normal(0, 9, 3), 0, 255)
    weight = _weights(rng, kind)
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    for channel in range(3):
        picture[..., channel] = weight * np.float32(second[channel] - first[channel]) + first[channel]
    return picture


def _any_color(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = pick(rng, tints(pick(rng, tuple(COLORS)))[0]).tolist()
    return red, green, blue


def _polyline(rng: np.random.Generator, picture: Picture, thick: int) -> None:
    """A wandering open line."""
    count = 3 + int(rng.random() * 8)
    steps = rng.normal(0, between(rng, 8, 36), (count, 2)).cumsum(axis=0) + rng.random(2) * SIDE
    cv2.polylines(picture, [steps.astype(np.int32)], False, _any_color(rng), thick, cv2.LINE_AA)


def clutter(rng: np.random.Generator, picture: Picture) -> None:
    """Lines, scribbles, arcs, dots, rays and grids in loud colours: too thin to be objects, and never asked about."""
    if rng.random() < 0.35:
        return
    if rng.random() < 0.45:
        for _ in range(1 + int(rng.random() * 5)):
            (x0, y0), (x1, y1) = (rng.random((2, 2)) * SIDE).astype(int).tolist()
            cv2.line(picture, (x0, y0), (x1, y1), _any_color(rng), 1 + int(rng.random() * 2.4), cv2.LINE_AA)
    if rng.random() < 0.35:
        for _ in range(1 + int(rng.random() * 3)):
            _polyline(rng, picture, 1 + int(rng.random() * 2))
    if rng.random() < 0.25:
        for _ in range(1 + int(rng.random() * 3)):
            x, y = (rng.random(2) * SIDE).astype(int).tolist()
            axes = (10 + int(rng.random() * 50), 10 + int(rng.random() * 50))
            start = rng.random() * 360
            end = start + between(rng, 40, 170)  # never closed: no ring, no circle
            cv2.ellipse(picture, (x, y), axes, 0, start, end, _any_color(rng), 1 + int(rng.random() * 2), cv2.LINE_AA)
    if rng.random() < 0.35:
        for x, y in (rng.random((1 + int(rng.random() * 24), 2)) * SIDE).astype(int).tolist():
            cv2.circle(picture, (x, y), 1 + int(rng.random() * 1.6), _any_color(rng), -1, cv2.LINE_AA)
    if rng.random() < 0.25:
        x, y = rng.random(2) * SIDE
        for angle in rng.random(8 + int(rng.random() * 12)) * 2 * math.pi:
            near, far = between(rng, 2, 7), between(rng, 9, 28)
            ends = [(int(x + reach * math.cos(angle)), int(y + reach * math.sin(angle))) for reach in (near, far)]
            cv2.line(picture, ends[0], ends[1], _any_color(rng), 1, cv2.LINE_AA)
    if rng.random() < 0.08:
        pitch, color = int(between(rng, 14, 60)), _any_color(rng)
        for at in range(int(rng.random() * pitch), SIDE, pitch):
            cv2.line(picture, (at, 0), (at, SIDE), color, 1)
            cv2.line(picture, (0, at), (SIDE, at), color, 1)


def camera(rng: np.random.Generator, picture: Picture, fine: bool) -> Picture:
    """What a camera or a file does: brightness, contrast, blur, noise, JPEG; a third of the pictures stay as drawn.

    Args:
        fine: something small is shown, so blur and compression stay mild.
    """
    if rng.random() < 0.33:
        return picture
    if rng.random() < 0.5:
        gain, shift = between(rng, 0.85, 1.1), between(rng, -12, 10)
        table = np.clip(np.arange(256) * gain + shift, 0, 255).astype(np.uint8)
        picture = np.asarray(cv2.LUT(picture, table))
    if rng.random() < 0.35:
        picture = np.asarray(cv2.GaussianBlur(picture, (5, 5), between(rng, 0.3, 0.6 if fine else 1.1)))
    if rng.random() < 0.35:
        y, x = int(rng.random() * (_TILE - SIDE)), int(rng.random() * (_TILE - SIDE))
        grain = (_grain()[y : y + SIDE, x : x + SIDE] * np.int16(1 + int(rng.random() * 10))) >> 6
        picture = np.asarray(cv2.add(picture, grain, dtype=cv2.CV_8U))
    if rng.random() < 0.3:
        # OpenCV takes the channels for BGR, both ways: only the weights of its luma differ.
        quality = int(between(rng, 70 if fine else 45, 95))
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return picture
