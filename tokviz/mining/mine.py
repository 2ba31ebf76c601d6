"""``tokviz.mine``: a data set goes in, a folder with every answer of every method comes out."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..cases import CaseFile, open_cases
from ..errors import BadInput, knows_its_keywords, need
from ..models.loading import VisionLanguageModel
from ..names import DEFAULT_METHODS, BudgetMeaning
from ..runs.inputs import check_whole
from ..runs.requests import MethodLike, check_model
from ..short import kind_of, passed
from .crew import Crew, mined_by
from .local import Processes, default_workers, mined_here
from .mapping import MAP, cases_map
from .mined import MinedRun, open_run
from .plan import Plan, checked_plan, only_here, positions
from .receipts import computed_by, receipt
from .sources import folder_of, source_of
from .store import RunStore
from .tasks import Mined, Task

Engine = Literal["local", "ray"]
DEFAULT_BUDGETS = (192, 128, 64)
_RECENT = 64
_FEWEST = 3
"""The rate is that of the last so many cases, and is told when there are a few."""


@dataclass(frozen=True)
class MiningProgress:
    """How far a mining is.

    done, total: cases on the disk, and asked for. mined: of those, in this call. seconds: since it began mining.
    rate: cases per second of late, None before there are a few. remaining: seconds that are left at that rate.
    notes: what was found damaged in the folder, as sentences; of the first event only.
    """

    done: int
    total: int
    mined: int
    rows: int
    seconds: float
    rate: float | None
    remaining: float | None
    notes: tuple[str, ...] = ()


@knows_its_keywords
def mine(
    vlm: VisionLanguageModel,
    cases: str | Path | CaseFile,
    methods: Sequence[MethodLike] = (*DEFAULT_METHODS, "random", "downsample"),
    budgets: Sequence[int | str] = DEFAULT_BUDGETS,
    *,
    out: str | Path,
    layout: str | None = None,
    media: str | Path | None = None,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 1,
    seed: int = 0,
    max_new_tokens: int = 32,
    frames: int | None = None,
    limit: int | None = None,
    quick: bool = False,
    workers: int | None = None,
    engine: Engine = "local",
    address: str | None = None,
    copy_media: bool = False,
    command: str | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[MiningProgress], None] | None = None,
) -> MinedRun:
    """Answer every question of a data set without pruning and with each method, and keep what became of each answer.

    Each case is on the disk as soon as it is finished: after a crash, repeat the call to go on. A call that is repeated
    when all is done changes nothing.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        cases: A case file or folder, or what ``tokviz.open_cases`` returned.
        methods: As for ``compare``; the unpruned run comes first, and need not be named.
        budgets: Visual tokens (64), or shares of a square image's as text ("25%"). An image that has fewer is not
            pruned.
        out: The folder of the run: absent, empty, or begun by the same call.
        layout: Name of the case file's layout; None recognises it.
        media: The folder that images and videos lie in, if it is not the case file's.
        budget_as: What the budgets count; see ``compare``.
        params: Parameters by method, ``{method: {name: value}}``.
        seeds: How many seeds a method runs with where it draws random numbers; others run once.
        seed: The first seed; the others follow it.
        max_new_tokens: The longest answer.
        frames: For videos, how many frames to sample.
        limit: Mine only so many cases, evenly spaced over the file.
        quick: Mine at most 40 cases, at the largest and the smallest budget, with one seed: a first look.
        workers: Processes (or Ray actors) that each hold the model. None: one per core if memory allows, and one for a
            GPU; on a cluster one per GPU, or per core without any.
        engine: ``"local"``, or ``"ray"``: the same on a Ray cluster.
        address: Of the Ray cluster; None starts one on this machine.
        copy_media: Copy images and videos into the folder, so that it can be moved without the data set.
        command: What the receipt says began the run; None: this process's command line.
        stop: An event that ends the mining early when it is set; what is finished is kept.
        on_progress: Called after each case.

    Raises:
        BadInput: If an argument cannot be used, the folder belongs to another call (which says what differs) or is in
            use, or the disk is full; the message says what to do, and nothing that was mined is lost. A case that
            cannot be answered is no reason to stop: its rows say why.

    Example:
        >>> run = tokviz.mine(vlm, "pope.jsonl", ["apet", "fastv", "random"], [192, 64], out="runs/pope", seeds=3)
        >>> run.rows(["case_id", "method", "budget", "outcome"])
    """
    check_model(vlm, "mine")
    need("pyarrow", "mine", "Mining")
    need("sklearn", "mine", "Mining")
    check_engine(engine, address, workers)
    plan = checked_plan(
        vlm, methods, budgets, params=params, budget_as=budget_as, seeds=seeds, seed=seed,
        max_new_tokens=max_new_tokens, frames=frames, quick=quick,
    )  # fmt: skip
    if limit is not None:
        check_whole("The limit", limit, 1, 2**31 - 1)
    file = opened(cases, layout, media)
    count = sum(1 for _ in file)
    problems = file.n_problems
    if not count:
        raise BadInput(f"{file.name!r} holds no case that can be used; tokviz cases check says what is wrong with it.")
    chosen = positions(count, limit, quick)
    command = command or _own_command()
    with ExitStack() as stack:
        crew: Crew | None = None
        if engine == "ray":  # its nodes compute, so the receipt is theirs
            check_known(plan)
            from .on_ray import Actors

            actors = stack.enter_context(closing(Actors(source_of(vlm), plan, workers, address)))
            crew, computed = actors, actors.computed
        else:
            computed = computed_by(vlm)
        manifest = receipt(computed, plan, file, count, len(chosen), command)
        store = stack.enter_context(RunStore(out, manifest))
        work = _Work(store, file, plan, chosen, copy_media, on_progress)
        if work.left and not (stop is not None and stop.is_set()):
            crew = crew or stack.enter_context(local_crew(vlm, plan, workers, work.left, store.payloads))
            work.run(vlm, crew, stop or threading.Event())
        if store.n_done == len(chosen) and store.manifest.status != "done":
            chart = cases_map(MinedRun(store.folder, store.manifest))
            if chart is not None:
                store.write(MAP, chart[0])
            store.finish(problems, None if chart is None else chart[1])
    return open_run(out)


@contextmanager
def local_crew(
    vlm: VisionLanguageModel, plan: Plan, workers: int | None, left: int, payloads: Path
) -> Iterator[Crew | None]:
    """Worker processes on this machine; None to work in this one. left: how many cases there are for them."""
    wanted = workers or (1 if only_here(plan) or not folder_of(vlm) else default_workers(vlm))
    if min(wanted, left) == 1:
        yield None
        return
    check_known(plan)
    with closing(Processes(source_of(vlm), plan, min(wanted, left), payloads)) as crew:
        yield crew


def check_known(plan: Plan) -> None:
    """Raises BadInput for methods that no other process knows."""
    unknown = only_here(plan)
    if unknown:
        raise BadInput(
            f"{unknown[0]} exists in this process only, so that no other can run it: make it an entry point of a "
            "package (docs/own_pruner.md), or mine with one worker on this machine."
        )


def check_engine(engine: str, address: str | None, workers: int | None) -> None:
    """Raises BadInput for what is no engine, or is not installed."""
    if engine not in ("local", "ray"):
        raise BadInput(f"engine must be local or ray, not {passed(engine)}.")
    if engine == "ray":
        need("ray", "ray", "Mining on a cluster")
    elif address is not None:
        raise BadInput("An address is that of a Ray cluster: it needs engine='ray' (--engine ray).")
    if workers is not None:
        check_whole("The number of workers", workers, 1, 4096)


def opened(cases: object, layout: str | None, media: str | Path | None) -> CaseFile:
    """The case file. Raises BadInput."""
    if isinstance(cases, CaseFile):
        if layout is not None or media is not None:
            raise BadInput("This case file is open already: layout and media go to tokviz.open_cases.")
        return cases
    if not isinstance(cases, str | Path):
        raise BadInput(f"cases is a case file, a folder, or what tokviz.open_cases returned, not {kind_of(cases)}.")
    return open_cases(cases, layout, media)


@dataclass
class _Work:
    """What is left to do in a folder."""

    store: RunStore
    file: CaseFile
    plan: Plan
    chosen: Sequence[int]
    copy_media: bool
    on_progress: Callable[[MiningProgress], None] | None
    rows: int = 0
    mined: int = 0
    finished: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def left(self) -> int:
        """How many cases are not on the disk yet."""
        return len(self.chosen) - self.store.n_done

    def tasks(self) -> Iterator[Task]:
        """The cases that are left, in the order of the file."""
        position = 0
        for ordinal, case in enumerate(self.file):
            if position == len(self.chosen):
                return
            if ordinal != self.chosen[position]:
                continue
            if not self.store.has(position):
                try:
                    yield Task(position, ordinal, case, str(self.file.media_path(case)))
                except BadInput as error:
                    yield Task(position, ordinal, case, problem=str(error))
            position += 1

    def run(self, vlm: VisionLanguageModel, crew: Crew | None, stop: threading.Event) -> None:
        """Mine what is left."""
        began = time.perf_counter()
        self._tell(began, tuple(self.store.notes))
        mined = (
            mined_here(vlm, self.plan, self.tasks(), stop)
            if crew is None
            else mined_by(crew, self.plan, self.tasks(), stop)
        )
        for each in mined:
            self._keep(each)
            self._tell(began)

    def _keep(self, mined: Mined) -> None:
        if self.copy_media and mined.media is not None:
            self.store.copy_media(*mined.media)
        self.store.add(mined.position, mined.payload, mined.seconds)
        self.rows += mined.rows
        self.mined += 1
        self.finished.append(time.perf_counter())

    def _tell(self, began: float, notes: tuple[str, ...] = ()) -> None:
        if self.on_progress is None:
            return
        now, times = time.perf_counter(), self.finished
        # From the first case on: until then the workers load the model.
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) >= _FEWEST else None
        remaining = self.left / rate if rate else None
        done, total = self.store.n_done, len(self.chosen)
        self.on_progress(MiningProgress(done, total, self.mined, self.rows, now - began, rate, remaining, notes))


def _own_command() -> str:
    """This process's command line, without the folder that its program lies in: receipts and reports are passed on."""
    program = Path(sys.argv[0]).name
    called = ["python", "-m", "tokviz"] if program == "__main__.py" else [program]
    return shlex.join([*called, *sys.argv[1:]])
