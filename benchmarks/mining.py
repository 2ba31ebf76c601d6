"""How fast ``tokviz mine`` is beside a loop over ``tokviz.compare``, and what it takes for many cases.

    python -m benchmarks.mining                        # the ratio, over drawn scenes; prints a table
    python -m benchmarks.mining --cases 4 --seeds 1    # quicker, and what is left without seeds
    python -m benchmarks.mining --table 100,1000       # rate and memory over so many cases, by all workers

The loop is what a person would write: one ``compare`` per case, budget and seed, with all eight methods. Both do the
same cases in turn, so that whatever else the machine does hits both alike; the ratio is of the two sums.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
import torch

import tokviz
from tokviz.cases import open_cases
from tokviz.mining.answering import Task, mine_case
from tokviz.mining.local import default_workers, one_thread
from tokviz.mining.plan import checked_plan

from .drawn_cases import write_cases
from .machine import cpu_name

METHODS = ("apet", "fastv", "divprune", "visionzip", "cdpruner", "sparsevlm", "downsample", "random")
BUDGETS = (192, 128, 64)
_EVERY_S = 0.5


@dataclass(frozen=True)
class Ratio:
    """One comparison. Seconds per case: by the wall's clock and of the processor, of all threads together.

    threads: how many torch used in the loop; mining uses one per worker.
    """

    cases: int
    seeds: int
    threads: int
    loop_s: float
    loop_cpu_s: float
    mine_s: float
    mine_cpu_s: float

    @property
    def by_one_worker(self) -> float:
        """How many times faster one worker is than the loop."""
        return self.loop_s / self.mine_s

    @property
    def by_processor_time(self) -> float:
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


def ratio(folder: Path, n_cases: int, seeds: int, threads: int) -> Ratio:
    """Mine cases one by one in this process, and compare each in a loop right after."""
    vlm = tokviz.load()
    file = open_cases(write_cases(folder, n_cases + 1, per_scene=2))
    plan = checked_plan(
        vlm, METHODS, BUDGETS, params=None, budget_as="published", seeds=seeds, seed=0, max_new_tokens=32, frames=None,
        quick=False,
    )  # fmt: skip
    walls: dict[str, list[float]] = {"loop": [], "mine": []}
    processor: dict[str, list[float]] = {"loop": [], "mine": []}

    @contextmanager
    def timed(name: str):
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        walls[name].append(time.perf_counter() - wall)
        processor[name].append(time.process_time() - cpu)

    for number, case in enumerate(file):
        with timed("mine"), one_thread():
            mine_case(vlm, plan, Task(number, number, case, str(file.media_path(case))))
        torch.set_num_threads(threads)
        with timed("loop"):
            for budget in BUDGETS:
                for seed in range(seeds):
                    tokviz.compare(
                        vlm, file.media_path(case), case.question, METHODS, budget, seed=seed,
                        expected=case.answers[0], evidence=case.evidence,
                    )  # fmt: skip
    # The first case warms both up.
    sums = [sum(some[name][1:]) / n_cases for some in (walls, processor) for name in ("loop", "mine")]
    return Ratio(n_cases, seeds, threads, sums[0], sums[2], sums[1], sums[3])


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
    parser.add_argument("--cases", type=int, default=12, help="cases of the ratio (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of random (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's, in the loop")
    parser.add_argument("--table", help="numbers of cases to mine by all workers, e.g. 100,1000")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--json", type=Path, help="write what was measured")
    arguments = parser.parse_args(argv)
    found: dict[str, object] = {"cpu": cpu_name(), "load": psutil.getloadavg()[0], "cores": psutil.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        if arguments.table is None:
            one = ratio(Path(name), arguments.cases, arguments.seeds, arguments.threads)
            found["ratio"] = asdict(one)
            print(
                f"{one.cases} cases, {len(METHODS)} methods, {len(BUDGETS)} budgets, {one.seeds} seeds\n"
                f"loop over compare ({one.threads} threads): {one.loop_s:.2f} s per case, {one.loop_cpu_s:.2f} s CPU\n"
                f"mining (1 worker): {one.mine_s:.2f} s per case, {one.mine_cpu_s:.2f} s CPU\n"
                f"{one.by_one_worker:.2f} times faster by the clock, {one.by_processor_time:.2f} times less CPU"
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
