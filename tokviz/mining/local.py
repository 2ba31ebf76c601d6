"""Mining on this machine: in this process, or in several of one thread each, with the same results to the bit."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import BadInput, Stopped
from ..models.devices import free_gb
from ..models.loading import VisionLanguageModel
from .answering import encodings_of, mine_case
from .plan import Plan
from .sources import ModelSource
from .store import cannot_be_written
from .tasks import Mined, Task

_GB_BESIDE_WEIGHTS = 1.0
"""What a process takes besides the weights, estimated: torch, transformers, and a case."""


def default_workers(vlm: VisionLanguageModel) -> int:
    """As many processes as there are cores, if the memory holds a copy of the model for each; one with a GPU."""
    if vlm.device.type != "cpu":
        return 1
    weights = sum(tensor.numel() * tensor.element_size() for tensor in vlm.model.parameters()) / 1e9
    room = int(free_gb(torch.device("cpu")) // (weights * 1.2 + _GB_BESIDE_WEIGHTS))
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, room))


def mined_here(vlm: VisionLanguageModel, plan: Plan, tasks: Iterator[Task], stop: threading.Event) -> Iterator[Mined]:
    """Mine in this process, case by case."""
    seen = encodings_of(plan)
    for task in tasks:
        if stop.is_set():
            return
        try:
            with one_thread():
                mined = mine_case(vlm, plan, task, stop, seen)
        except Stopped:
            return
        yield mined


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread, as every worker does: sums over several are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Processes:
    """Worker processes that each load the model; see ``Crew``.

    What a case becomes travels in a file, and only its name through the pipe of the pool: a worker that is killed in
    the middle of a long message leaves the pool waiting for the rest of it for ever. A short one is written at once.
    """

    def __init__(self, source: ModelSource, plan: Plan, workers: int, payloads: Path) -> None:
        """Begin them. payloads: a folder for these files; removed with ``close``.

        Raises BadInput where that folder cannot be made.
        """
        self._source, self._plan, self._workers, self._payloads = source, plan, workers, payloads
        self._tasks: dict[Future[tuple[Mined, str]], tuple[Task, ProcessPoolExecutor]] = {}
        try:
            payloads.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_be_written(error) from error
        self._pool = self._begun()

    @property
    def most(self) -> int:
        """How many cases may be in flight."""
        return 2 * self._workers

    def _begun(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, _begin, (self._source, self._plan, self._payloads))

    def submit(self, task: Task) -> None:
        """Give a case to the next process that is free."""
        try:
            future = self._pool.submit(_mine, task)
        except BrokenProcessPool:  # it broke while nobody waited for anything
            self._renew()
            future = self._pool.submit(_mine, task)
        self._tasks[future] = task, self._pool

    def wait(self) -> list[tuple[Task, Mined | None]]:
        """Wait for a case. One process that dies takes its pool down, with all that was in flight in it."""
        done, _ = wait(self._tasks, return_when=FIRST_COMPLETED)
        found: list[tuple[Task, Mined | None]] = []
        for future in done:
            task, pool = self._tasks.pop(future)
            try:
                mined, payload = future.result()
                found.append((task, replace(mined, payload=Path(payload).read_bytes())))
                os.unlink(payload)
            except (BrokenProcessPool, CancelledError):
                found.append((task, None))
                if pool is self._pool:  # else there is another one already
                    self._renew()
        return found

    def _renew(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._begun()

    def close(self) -> None:
        """End the processes; each finishes the case that it is at."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._payloads, ignore_errors=True)


_worker: dict[str, Any] = {}
"""What a worker process holds: the plan, images it has seen, where payloads go, the model or why there is none."""


def _begin(source: ModelSource, plan: Plan, payloads: Path) -> None:
    """Set up a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to leave
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker["plan"], _worker["seen"], _worker["payloads"] = plan, encodings_of(plan), payloads
    try:
        _worker["vlm"] = source.load()
    except BadInput as error:
        _worker["refusal"] = str(error)


def _leave_with_the_parent() -> None:
    """End this process when the one that began it is gone, however it went: nobody would take the results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _mine(task: Task) -> tuple[Mined, str]:
    """A case without its payload, and the file that holds it."""
    if "refusal" in _worker:
        raise BadInput(f"A worker process could not load the model: {_worker['refusal']}")
    try:
        mined = mine_case(_worker["vlm"], _worker["plan"], task, seen=_worker["seen"])
    except Exception:
        raise RuntimeError(f"The case {task.case.id!r} failed in a worker:\n{traceback.format_exc()}") from None
    path = Path(_worker["payloads"], f"{task.position}-{os.getpid()}")
    try:
        path.write_bytes(mined.payload)
    except OSError as error:
        raise cannot_be_written(error) from error
    return replace(mined, payload=b""), str(path)
