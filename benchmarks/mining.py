"""How fast ``tokviz mine`` is beside a loop over ``tokviz.compare``, and what it takes for many cases.

    python -m benchmarks.mining                        # the ratio, over drawn scenes; prints a table
    python -m benchmarks.mining --seeds 3              # with three seeds of what is random
    python -m benchmarks.mining --workers 1 --threads 1  # one core beside one core
    python -m benchmarks.mining --table 100,1000       # rate and memory over so many cases, by all workers

The loop is what a person would write: one ``compare`` per case, budget and seed, with all eight methods and as many
threads as torch takes by itself. Mining has a worker per core, as ``tokviz mine`` has. Both do the same cases in turn,
a few at a time, so that whatever else the machine does hits both alike; the ratio is of the two sums.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
import torch

import tokviz
from tokviz.cases import open_cases
from tokviz.mining.answering import encodings_of, mine_case
from tokviz.mining.crew import mined_by
from tokviz.mining.local import default_workers, one_thread
from tokviz.mining.mine import local_crew
from tokviz.mining.plan import checked_plan
from tokviz.mining.tasks import Task

from .drawn_cases import write_cases
from .machine import cpu_name

METHODS = ("apet", "fastv", "divprune", "visionzip", "cdpruner", "sparsevlm", "downsample", "random")
BUDGETS = (192, 128, 64)
BLOCK = 5
"""Cases that each worker does before the loop has its turn: those of one scene."""
_EVERY_S = 0.5


@dataclass(frozen=True)
class Ratio:
    """One comparison. Seconds per case: by the wall's clock, and of the processor, of all threads and processes.

    threads: how many torch used in the loop; a worker uses one.
    """

    cases: int
    images: int
    seeds: int
    threads: int
    workers: int
    loop_s: float
    loop_cpu_s: float
    mine_s: float
    mine_cpu_s: float

    @property
    def faster(self) -> float:
        """How many times faster mining is than the loop, by the clock."""
        return self.loop_s / self.mine_s

    @property
    def less_processor_time(self) -> float:
        """How many times less processor time it takes."""
        return self.loop_cpu_s / self.mine_cpu_s


@dataclass(frozen=True)
class Many:
    """Mining of many cases. memory_mb: the largest sum over all processes; per_worker_mb: the largest of one.

    growth_mb: how much the largest worker grew from a quarter of the way to the end. bytes: of the run folder.
    """

    cases: int
    workers: int
    rows: int
    seconds: float
    rate: float
    memory_mb: float
    per_worker_mb: float
    growth_mb: float
    bytes: int


class _Sums:
    """Seconds by the clock and of the processor, of this process and its workers, by name."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _processor_time()
        yield
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += _processor_time() - cpu


def _processor_time() -> float:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def ratio(folder: Path, n_cases: int, seeds: int, threads: int, workers: int) -> Ratio:
    """Mine some cases by so many workers (1: in this process), and compare them in a loop right after, in turn."""
    vlm = tokviz.load()
    file = open_cases(write_cases(folder, n_cases + workers))
    plan = checked_plan(
        vlm, METHODS, BUDGETS, params=None, budget_as="published", seeds=seeds, seed=0, max_new_tokens=32, frames=None,
        quick=False,
    )  # fmt: skip
    tasks = [Task(number, number, case, str(file.media_path(case))) for number, case in enumerate(file)]
    sums, seen = _Sums(), encodings_of(plan)

    with local_crew(vlm, plan, workers, len(tasks), folder / "payloads") as crew:
        starts = [0, *range(workers, len(tasks), BLOCK * workers)]
        for first, after in zip(starts, [*starts[1:], len(tasks)], strict=True):
            block = tasks[first:after]
            with sums.timed("mine" if first else "warm-up"):
                if crew is None:
                    with one_thread():
                        for task in block:
                            mine_case(vlm, plan, task, seen=seen)
                else:
                    list(mined_by(crew, plan, iter(block), threading.Event()))
            torch.set_num_threads(threads)
            with sums.timed("loop" if first else "warm-up"):
                for task in block:
                    _compared(vlm, task, seeds)
    walls = [sums.wall[name] / n_cases for name in ("loop", "mine")]
    cpus = [sums.cpu[name] / n_cases for name in ("loop", "mine")]
    images = len({task.path for task in tasks[workers:]})
    return Ratio(n_cases, images, seeds, threads, workers, walls[0], cpus[0], walls[1], cpus[1])


def _compared(vlm: tokviz.VisionLanguageModel, task: Task, seeds: int) -> None:
    """One case as a person would ask for it."""
    case = task.case
    for budget in BUDGETS:
        for seed in range(seeds):
            tokviz.compare(
                vlm, task.path, case.question, METHODS, budget, seed=seed, expected=case.answers[0],
                evidence=case.evidence,
            )  # fmt: skip


def many(folder: Path, n_cases: int, seeds: int, workers: int | None) -> Many:
    """Mine drawn cases by worker processes, and watch their memory."""
    file = write_cases(folder / "data", n_cases)
    vlm = tokviz.load()
    workers = workers or default_workers(vlm)
    sampled: list[tuple[float, float]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY_S):
            sizes = []
            for process in psutil.Process().children(recursive=True):
                try:
                    sizes.append(process.memory_info().rss / 1e6)
                except psutil.Error:
                    continue
            own = psutil.Process().memory_info().rss / 1e6
            sampled.append((own + sum(sizes), max(sizes, default=own)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    run = tokviz.mine(vlm, file, METHODS, BUDGETS, out=folder / "run", seeds=seeds, workers=workers)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    early = median(one for _, one in sampled[len(sampled) // 4 : len(sampled) // 4 + 20])
    late = median(one for _, one in sampled[-20:])
    return Many(
        n_cases, workers, run.n_rows, seconds, n_cases / seconds, max(whole for whole, _ in sampled),
        max(one for _, one in sampled), late - early,
        sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file()),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON where it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20, help="cases of the ratio (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of random (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's, in the loop")
    parser.add_argument("--table", help="numbers of cases to mine by all workers, e.g. 100,1000")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--json", type=Path, help="write what was measured")
    arguments = parser.parse_args(argv)
    found: dict[str, object] = {"cpu": cpu_name(), "load": psutil.getloadavg()[0], "cores": psutil.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        if arguments.table is None:
            workers = arguments.workers or default_workers(tokviz.load())
            one = ratio(Path(name), arguments.cases, arguments.seeds, arguments.threads, workers)
            found["ratio"] = {
                **asdict(one), "faster": one.faster, "less_processor_time": one.less_processor_time,
            }  # fmt: skip
            print(
                f"{one.cases} cases about {one.images} images, {len(METHODS)} methods, {len(BUDGETS)} budgets, "
                f"{one.seeds} seed(s)\n"
                f"loop over compare, {one.threads} thread(s): {one.loop_s:.2f} s per case, {one.loop_cpu_s:.2f} s CPU\n"
                f"mining, {one.workers} worker(s): {one.mine_s:.2f} s per case, {one.mine_cpu_s:.2f} s CPU\n"
                f"{one.faster:.2f} times faster by the clock, {one.less_processor_time:.2f} times less CPU"
            )
        else:
            rows = [
                many(Path(name) / count, int(count), arguments.seeds, arguments.workers)
                for count in arguments.table.split(",")
            ]
            found["many"] = [asdict(row) for row in rows]
            print("cases  workers   rows  cases/s  all MB  one MB  growth MB  folder MB")
            for row in rows:
                print(
                    f"{row.cases:5}  {row.workers:7}  {row.rows:5}  {row.rate:7.2f}  {row.memory_mb:6.0f}  "
                    f"{row.per_worker_mb:6.0f}  {row.growth_mb:9.0f}  {row.bytes / 1e6:9.1f}"
                )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
