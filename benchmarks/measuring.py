"""Medians, scratch memory, and what a machine needs for the elementary steps that no method can do without."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tokviz.pruners import ops

SLOW_SECONDS = 1.5
"""What takes longer than this is measured once; anything else up to ``REPEATS`` times within this time."""
REPEATS = 9


class OutOfTime(Exception):
    """A procedure was stopped because it took longer than it was given."""


@dataclass
class Deadline:
    """Called in the loops of slow procedures; raises OutOfTime after ``seconds``."""

    seconds: float
    started: float = field(default_factory=time.perf_counter)

    def __call__(self) -> None:
        """Raise OutOfTime when the time is up."""
        if time.perf_counter() - self.started > self.seconds:
            raise OutOfTime


@dataclass(frozen=True)
class Measured:
    """A duration in ms: the median of ``samples`` runs, or what had passed when a run was stopped."""

    ms: float
    samples: int
    stopped: bool = False


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one run, device included."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return 1e3 * (time.perf_counter() - start)


def measure(work: Callable[[], object], device: torch.device, warm_up: bool = True) -> Measured:
    """Median duration. The first run warms up and does not count, unless it was slow: then it is the measurement."""
    if warm_up and (first := timed(work, device)) > 1e3 * SLOW_SECONDS:
        return Measured(first, 1)
    samples = [timed(work, device)]
    while len(samples) < REPEATS and sum(samples) < 1e3 * SLOW_SECONDS:
        samples.append(timed(work, device))
    return Measured(median(samples), len(samples))


def measure_until(work: Callable[[Deadline], object], device: torch.device, seconds: float) -> Measured:
    """``measure`` for a procedure that may be too slow: stopped after ``seconds``, which is then a lower bound."""

    def bounded() -> None:
        work(Deadline(seconds))

    start = time.perf_counter()
    try:
        return measure(bounded, device)
    except OutOfTime:
        return Measured(1e3 * (time.perf_counter() - start), 1, stopped=True)


def peak_scratch(work: Callable[[], object], device: torch.device) -> int:
    """Most bytes that ``work`` held at one time beside what was there before, its result included.

    On CUDA the allocator's own maximum. On the CPU the allocations and releases that torch's profiler records, summed
    in their order; buffers that BLAS and LAPACK keep inside are not seen there.
    """
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        work()
    changes = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most


@dataclass
class Machine:
    """What elementary steps cost on this device for features ``(N, D)``; measured once and remembered, in ms."""

    features: Tensor

    def __post_init__(self) -> None:
        self.device = self.features.device
        self.product = lru_cache(None)(self._product)
        self.read_of = lru_cache(None)(self._read_of)
        self.step = lru_cache(None)(self._step)
        self.copied = lru_cache(None)(lambda: measure(self.features.clone, self.device).ms)

    @property
    def read(self) -> float:
        """One pass over the features: a matrix-vector product."""
        return self.read_of(*self.features.shape)

    @property
    def copy(self) -> float:
        """A new copy of the features."""
        return self.copied()

    def _read_of(self, n: int, width: int) -> float:
        matrix = self.features if (n, width) == self.features.shape else torch.rand(n, width, device=self.device)
        vector = torch.rand(width, device=self.device)
        return measure(lambda: matrix @ vector, self.device).ms

    def _product(self, n: int, m: int, width: int) -> float:
        """``(n, width) @ (width, m)``. Beyond 2e11 operations: that of fewer columns, in proportion."""
        few = max(1, min(m, int(1e11 / (n * width))))
        left, right = (torch.rand(size, width, device=self.device) for size in (n, few))
        return measure(lambda: left @ right.T, self.device).ms * m / few

    def _step(self, n: int) -> float:
        """One step of a greedy loop that has its row: running minimum, then the largest. Of ``n`` tokens."""
        row, nearest = torch.rand(n, device=self.device), torch.rand(n, device=self.device)

        def steps() -> None:
            for _ in range(32):
                torch.minimum(nearest, row, out=nearest)
                nearest.argmax()

        return measure(steps, self.device).ms / 32

    def greedy(self, n: int, steps: int) -> float:
        """The cheaper of one read of ``n`` features per step and the product of all with all and its rows."""
        width = self.features.shape[1]
        reads = steps * self.read * n / len(self.features)
        return min(reads, self.product(n, n, width) + steps * self.step(n))

    def limit(self) -> int:
        """Bytes of scratch memory that a selection may hold."""
        return ops.scratch_limit(self.features)
