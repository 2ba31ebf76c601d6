"""Mining on a Ray cluster: actors that each hold the model. The only file that imports ray.

Cases travel with the bytes of their image or video, so that nodes need not share a disk; what comes back is written by
the process that called. So a run on a cluster is a run folder like any other, with the same bytes.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections import Counter
from dataclasses import replace
from typing import Any

from ..errors import BadInput
from ..files import open_file
from .answering import encodings_of, mine_case
from .local import one_thread
from .plan import Plan
from .receipts import Computed, computed_by
from .sources import ModelSource
from .tasks import Mined, Task

_EACH = 2
"""Cases that an actor is given at a time: one to work on, one to go on with."""
_MOST_DEATHS = 3
"""How many actors in a row, for each that there should be, may die before any of them finishes a case."""
_MAX_MEDIA_BYTES = 500_000_000
_SOON_S = 5.0


class _Worker:
    """One actor: a model and a plan."""

    def __init__(self, source: ModelSource, plan: Plan, device: str | None) -> None:
        self._plan, self._vlm, self._seen = plan, None, encodings_of(plan)
        try:
            with one_thread():
                self._vlm = source.load(device)
            self._told: Computed | str = computed_by(self._vlm)
        except BadInput as error:
            self._told = str(error)

    def computed(self) -> Computed | str:
        """What this actor computes with, or why it cannot."""
        return self._told

    def mine(self, task: Task) -> Mined:
        """Mine a case."""
        if self._vlm is None:
            raise RuntimeError("This actor has no model.")
        try:
            with one_thread():
                return mine_case(self._vlm, self._plan, task, seen=self._seen)
        except Exception:
            raise RuntimeError(f"The case {task.case.id!r} failed in a worker:\n{traceback.format_exc()}") from None


class Actors:
    """Ray actors that mine cases; see ``Crew``."""

    def __init__(self, source: ModelSource, plan: Plan, workers: int | None, address: str | None) -> None:
        """Connect to a cluster, or start one on this machine, and wait for the first actor.

        workers: None for one per GPU, or per core where there is none.

        Raises:
            BadInput: If there is no such cluster, it has no room, or it cannot load the model.
        """
        self._tasks: dict[Any, tuple[Task, int]] = {}
        self._load: Counter[int] = Counter()
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._waiting_for: dict[int, Any] = {}
        self._deaths = self._number = 0
        self._computed: Computed | None = None
        self._began_ray = _connected(address, workers)
        try:
            self._begin(source, plan, workers)
        except BaseException:
            self.close()
            raise

    def _begin(self, source: ModelSource, plan: Plan, workers: int | None) -> None:
        import ray

        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        device = None
        if gpus and source.options["device"] != "cuda" and source.may_move:
            device = "cuda"
        on_gpu = (device or source.options["device"]) == "cuda"
        self._count = workers or (gpus if on_gpu else int(there.get("CPU", 1)))
        if not self._count:
            raise BadInput("The Ray cluster has no GPU for this model: load it on the CPU, or name another cluster.")
        resources: dict[str, Any] = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        self._remote = ray.remote(**resources)(_Worker)
        self._given = ray.put(source), ray.put(plan), device
        for _ in range(self._count):
            self._start()
        while not self._actors:
            self._await_actors(_SOON_S)

    @property
    def computed(self) -> Computed:
        """What the actors compute with, which the receipt tells."""
        if self._computed is None:
            raise RuntimeError("No actor is ready.")
        return self._computed

    @property
    def most(self) -> int:
        """How many cases may be in flight."""
        return max(1, _EACH * len(self._actors))

    def _start(self) -> None:
        self._number += 1
        actor: Any = self._remote.remote(*self._given)
        self._starting[actor.computed.remote()] = self._number
        self._waiting_for[self._number] = actor

    def submit(self, task: Task) -> None:
        """Give a case to the actor that has least to do."""
        while not self._actors:
            self._await_actors(_SOON_S)
        number = min(self._actors, key=lambda each: (self._load[each], each))
        ref = self._actors[number].mine.remote(_with_bytes(task))
        self._tasks[ref] = task, number
        self._load[number] += 1

    def wait(self) -> list[tuple[Task, Mined | None]]:
        """Wait for a case, or for an actor that is ready to take more (then there may be none)."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        done, _ = ray.wait([*self._tasks, *self._starting], num_returns=1)
        found: list[tuple[Task, Mined | None]] = []
        for ref in done:
            if ref in self._starting:
                self._await_actors(0.0)
                continue
            task, number = self._tasks.pop(ref)
            self._load[number] -= 1
            try:
                found.append((task, ray.get(ref)))
                self._deaths = 0
            except RayTaskError as error:
                raise RuntimeError(str(error.cause)) from error
            except (RayActorError, ObjectLostError):
                found.append((task, None))
                self._lost(number)
        return found

    def _lost(self, number: int) -> None:
        """Put another actor in the place of one that died."""
        if self._actors.pop(number, None) is None:
            return
        self._load.pop(number, None)
        self._count_death()
        self._start()

    def _count_death(self) -> None:
        self._deaths += 1
        if self._deaths > _MOST_DEATHS * self._count:
            raise BadInput(
                "The workers of the Ray cluster end again and again before they finish a case, probably because a node "
                "has too little memory for the model: ask for fewer of them (--workers). What was mined is kept."
            )

    def _await_actors(self, seconds: float) -> None:
        """Take in the actors that are ready, waiting for one at most so long."""
        import ray
        from ray.exceptions import RayActorError

        ready, _ = ray.wait([*self._starting], num_returns=1, timeout=seconds)
        for ref in ready:
            number = self._starting.pop(ref)
            actor = self._waiting_for.pop(number)
            try:
                told = ray.get(ref)
            except RayActorError:
                self._count_death()
                self._start()
                continue
            if isinstance(told, str):
                raise BadInput(f"A worker of the Ray cluster could not load the model: {told}")
            if self._computed is not None and told != self._computed:
                raise BadInput(f"The nodes of this cluster are not alike: {self._computed.unlike(told)}.")
            self._computed = told
            self._actors[number] = actor

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        import ray

        if not ray.is_initialized():
            return
        for actor in [*self._actors.values(), *self._waiting_for.values()]:
            ray.kill(actor)
        if self._began_ray:
            ray.shutdown()


def _with_bytes(task: Task) -> Task:
    """The case with its image or video."""
    if task.problem is not None:
        return task
    try:
        with open_file(task.path, "media") as file:
            data = file.read(_MAX_MEDIA_BYTES + 1)
    except BadInput as error:
        return replace(task, problem=str(error))
    if len(data) > _MAX_MEDIA_BYTES:
        return replace(task, problem=f"The file is larger than {_MAX_MEDIA_BYTES // 1_000_000} MB.")
    return replace(task, data=data)


def _connected(address: str | None, workers: int | None) -> bool:
    """Connect to a cluster, or start one here; whether this call did. Raises BadInput."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    known = address or os.environ.get("RAY_ADDRESS")
    try:
        if known:
            ray.init(known, **quiet)
        else:
            cores = max(workers or 0, os.cpu_count() or 1)
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"at {known}" if known else "on this machine"
        raise BadInput(f"There is no Ray cluster {where} that can be used: {first[:200]}") from error
    return True
