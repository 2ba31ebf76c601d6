"""Time, measured honestly: the device is made to finish before the clock is read."""

from __future__ import annotations

import time

import torch


def synchronise(device: torch.device | str) -> None:
    """Wait until ``device`` has finished its queue; nothing to wait for on the CPU."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Milliseconds between entering and leaving a block, device work included.

    Example: ``with Stopwatch(model.device) as watch: ...`` and then ``watch.milliseconds``.
    """

    milliseconds: float

    def __init__(self, device: torch.device | str) -> None:
        self.device = device
        self.milliseconds = 0.0

    def __enter__(self) -> Stopwatch:
        synchronise(self.device)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.milliseconds = self.elapsed()

    def elapsed(self) -> float:
        """Milliseconds since the block was entered."""
        synchronise(self.device)
        return (time.perf_counter() - self._start) * 1000
