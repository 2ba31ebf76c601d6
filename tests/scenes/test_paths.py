"""Paths of moving things: inside the canvas, smooth, and of the kind that they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenes.layout import CANVAS
from scenes.paths import BOUNCING_SPEED, CIRCLE_REACH, CIRCLE_TURN, LINEAR_SPEED, PATHS, random_path


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(PATHS), frames=st.integers(2, 64), radius=st.floats(4.6, 16.0))
def test_every_path_stays_inside_and_moves_on_in_every_frame(seed: int, kind: str, frames: int, radius: float) -> None:
    path = random_path(np.random.default_rng(seed), kind, frames, radius)
    assert path.shape == (frames, 2)
    assert (path >= radius + 1 - 1e-9).all() and (path <= CANVAS - radius - 1 + 1e-9).all()
    steps = np.hypot(*np.diff(path, axis=0).T)
    if kind == "still":
        assert (steps == 0).all()
    else:
        assert (steps > 0).all()
        # Circles are turned through fastest where few frames show much of a wide one.
        fastest = 2 * math.pi * CIRCLE_TURN[1] * CIRCLE_REACH[1] / (frames - 1)
        drift = 0.5 * CANVAS / (frames - 1)
        limits = {"linear": LINEAR_SPEED[1], "bouncing": BOUNCING_SPEED[1] + drift, "circling": fastest}
        assert steps.max() <= limits[kind] + 1e-9


def some_paths(kind: str, frames: int = 8) -> list[np.ndarray]:
    return [random_path(np.random.default_rng(seed), kind, frames, 6.0) for seed in range(200)]


def test_linear_paths_keep_speed_and_direction_and_go_everywhere() -> None:
    directions = []
    for path in some_paths("linear"):
        steps = np.diff(path, axis=0)
        assert np.allclose(steps, steps[0])
        directions.append(np.sign(steps[0]))
    counts = np.mean(np.array(directions) > 0, axis=0)
    assert ((counts > 0.4) & (counts < 0.6)).all()


def test_bouncing_paths_turn_once_at_a_border() -> None:
    for path in some_paths("bouncing"):
        turns = [np.count_nonzero(np.diff(np.sign(np.diff(path[:, axis])))) for axis in (0, 1)]
        # The other axis only drifts.
        assert sorted(turns) == [0, 1]
        axis = turns.index(1)
        near = np.minimum(path[:, axis] - 7, CANVAS - 7 - path[:, axis]).min()
        assert near <= BOUNCING_SPEED[1] / 2, "it turns where the border is"


def test_circling_paths_keep_their_distance_from_one_point_and_never_come_back() -> None:
    for path in some_paths("circling"):
        # The centre of the circle, by least squares: |p|^2 = 2 p.c + k.
        system = np.hstack([2 * path, np.ones((len(path), 1))])
        center = np.linalg.lstsq(system, (path**2).sum(1), rcond=None)[0][:2]
        reach = np.hypot(*(path - center).T)
        assert np.allclose(reach, reach[0], rtol=1e-6)
        assert CIRCLE_REACH[0] - 1e-6 <= reach[0] <= CIRCLE_REACH[1] + 1e-6
        apart = np.hypot(*(path[:, None] - path[None]).transpose(2, 0, 1))
        assert apart[~np.eye(len(path), dtype=bool)].min() > 0.5


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="zigzag"):
        random_path(np.random.default_rng(0), "zigzag", 8, 6.0)
