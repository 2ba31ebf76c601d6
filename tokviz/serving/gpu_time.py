"""How long a run takes: guessed from the size of the model until runs of it have been measured here."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from dataclasses import dataclass

LEAST_S, MOST_S = 10, 120
"""GPU seconds that are asked for; a visitor's day has 120 without a login."""
_START_S = 4.0
"""Getting a GPU and moving the weights there."""
_HEADROOM = 1.5
_REMEMBERED = 20
_ANSWER_TOKENS = 8
"""What answers have where nothing limits them to fewer."""


@dataclass(frozen=True)
class RunSize:
    """lanes: with the unpruned one. shots: executions of each. new_tokens: longest answer."""

    lanes: int
    shots: int
    new_tokens: int

    @classmethod
    def of(cls, n_methods: int, repeats: int, new_tokens: int) -> RunSize:
        """Of a request: above one repeat there is a warm-up as well."""
        return cls(n_methods + 1, repeats + 1 if repeats > 1 else 1, new_tokens)


def is_zero_gpu() -> bool:
    """Whether GPU time is lent by the run and counted."""
    return bool(os.environ.get("SPACES_ZERO_GPU"))


class Pace:
    """Seconds per lane of each model, as measured. Thread-safe."""

    def __init__(self) -> None:
        self._measured: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def record(self, model: str, size: RunSize, seconds: float) -> None:
        """A run that went through to its end took so long, loading not counted."""
        with self._lock:
            samples = self._measured.setdefault(model, deque(maxlen=_REMEMBERED))
            samples.append(seconds / (size.lanes * size.shots))

    def n_measured(self, model: str) -> int:
        """Runs that an estimate for this model rests on."""
        with self._lock:
            return len(self._measured.get(model, ()))

    def seconds(self, model: str, parameters: int | None, size: RunSize) -> float:
        """What a run will take: the median of what was measured, else from the number of parameters."""
        with self._lock:
            samples = sorted(self._measured.get(model, ()))
        per_lane = samples[len(samples) // 2] if samples else guessed_lane_s(parameters, size.new_tokens)
        return per_lane * size.lanes * size.shots

    def declared(self, model: str, parameters: int | None, size: RunSize) -> int:
        """GPU seconds to ask ZeroGPU for: enough with headroom, and no more, as what is asked for counts."""
        wanted = _START_S + _HEADROOM * self.seconds(model, parameters, size)
        return max(LEAST_S, min(MOST_S, math.ceil(wanted)))


def guessed_lane_s(parameters: int | None, new_tokens: int) -> float:
    """Seconds of one lane on a data-centre GPU: prefill and an answer of usual length. A guess, never measured."""
    billions = (parameters or 7_000_000_000) / 1e9
    return 0.3 + 0.1 * billions + min(new_tokens, 2 * _ANSWER_TOKENS) * (0.015 + 0.003 * billions)


PACE = Pace()
"""Of this process."""
