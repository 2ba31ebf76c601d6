"""``bench``: how many right answers each method keeps on held-out drawn scenes, and the ablations of the papers."""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from tokviz.cli.terminal import out, quiet_unless
from tokviz.errors import BadInput
from tokviz.files import writing
from tokviz.models.catalog import EMBEDDED_MODEL, embedded_folder
from tokviz.viz.format import plain_text

if TYPE_CHECKING:
    from .cache import Complete
    from .outcomes import About, LeftOut, Variant
    from .workers import Job, Step

SCENES, QUICK_SCENES = 250, 5
DRAWS = 5
_LINE_EVERY_S = 20.0
"""How often progress is written where no terminal draws a bar."""


def add_to(commands: Any) -> None:
    """Declare the command with its two benchmarks."""
    parser = commands.add_parser("bench", help="measure the accuracy of every method on held-out scenes; ablations")
    kinds = parser.add_subparsers(title="benchmarks", required=True, metavar="benchmark")
    fidelity = kinds.add_parser(
        "fidelity", allow_abbrev=False, help="all methods at the papers' budgets, in tables like theirs"
    )
    fidelity.set_defaults(run=run_fidelity)
    fidelity.add_argument(
        "--methods",
        default="all",
        metavar="ID,ID",
        help="method ids, or all (default); no pruning and the controls always run",
    )
    fidelity.add_argument(
        "--budgets",
        metavar="N,N",
        help="visual tokens to keep, or percentages of them (default: 192,128,64,32 of 576, scaled for other models)",
    )
    fidelity.add_argument(
        "--draws",
        type=int,
        default=DRAWS,
        metavar="N",
        help="how often random and uniform are drawn, for their band (default: %(default)s; 1: no band)",
    )
    fidelity.add_argument(
        "--layers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also FastV and DART, where asked for, beside random tokens at every layer of the language model",
    )
    ablations = kinds.add_parser(
        "ablations", allow_abbrev=False, help="settings that the papers vary, next to their own results"
    )
    ablations.set_defaults(run=run_ablations)
    positions = kinds.add_parser(
        "positions", allow_abbrev=False, help="kept against renumbered positions, where-questions apart"
    )
    positions.set_defaults(run=run_positions)
    for kind in (fidelity, ablations, positions):
        add = kind.add_argument
        add("--model", default=EMBEDDED_MODEL, metavar="FOLDER", help="model folder (default: %(default)s)")
        add("--scenes", type=int, metavar="N", help=f"held-out scenes, ten questions each (default: {SCENES})")
        add("--workers", type=int, default=2, metavar="N", help="single-threaded processes (default: %(default)s)")
        add(
            "--minutes",
            type=float,
            metavar="M",
            help="start no new scenes after this many minutes, and build the table from the finished ones",
        )
        add(
            "--cache",
            default="out/fidelity-cache",
            metavar="DIR",
            help="where results are cached (default: %(default)s); use another folder after changing a method's code",
        )
        add(
            "--out",
            default=f"out/{kind.prog.split()[-1]}",
            metavar="DIR",
            help="where to write the table (default: %(default)s)",
        )
        add("--docs", metavar="DIR", help="also write the short page to this folder")
        add("--quick", action="store_true", help=f"only {QUICK_SCENES} scenes, to try the command; not a result")


def run_fidelity(arguments: argparse.Namespace) -> int:
    """All methods at all budgets; writes fidelity.md and fidelity.json."""
    _quiet()
    from .depth import depth_variants
    from .draws import MOST_DRAWS
    from .outcomes import judged_budget
    from .plan import parse_budgets, parse_methods, variants
    from .tables import write

    methods = parse_methods(arguments.methods)
    if not 1 <= arguments.draws <= MOST_DRAWS:
        raise BadInput(f"The number of draws must lie between 1 and {MOST_DRAWS}, not {arguments.draws}.")

    def wanted(n_visual: int, n_layers: int) -> list[Variant]:
        budgets = parse_budgets(arguments.budgets, n_visual)
        inside = depth_variants(methods, judged_budget(budgets, n_visual), n_layers) if arguments.layers else []
        return [*variants(methods, budgets, arguments.draws), *inside]

    return _run(arguments, wanted, write)


def run_ablations(arguments: argparse.Namespace) -> int:
    """The papers' ablations; writes ablations.md and ablations.json."""
    _quiet()
    from .ablations import variants, write

    return _run(arguments, lambda n_visual, n_layers: variants(), write)


def run_positions(arguments: argparse.Namespace) -> int:
    """Kept against renumbered positions; writes positions.md and positions.json."""
    _quiet()
    from .positions import variants, write

    return _run(arguments, lambda n_visual, n_layers: variants(n_visual), write)


def _quiet() -> None:
    """To be called before anything that imports transformers."""
    quiet_unless(Console(stderr=True).is_terminal)


def _run(
    arguments: argparse.Namespace,
    wanted: Callable[[int, int], list[Variant]],
    write: Callable[[dict[Variant, Any], About, Path, Path | None], list[Path]],
) -> int:
    """Check everything, run what the cache lacks, write the table of the scenes that all variants have."""
    scenes = arguments.scenes
    if scenes is None:
        scenes = QUICK_SCENES if arguments.quick else SCENES
    if not 1 <= arguments.workers <= 64:
        raise BadInput(f"The number of workers must lie between 1 and 64, not {arguments.workers}.")
    if arguments.minutes is not None and not 0 < arguments.minutes < float("inf"):
        raise BadInput(f"--minutes must be a positive number, not {arguments.minutes:g}.")
    model_folder = _model_folder(arguments.model)
    cache_folder, out_folder = _writable(arguments.cache), _writable(arguments.out)
    docs_folder = None if arguments.docs is None else _writable(arguments.docs)
    progress = Console(stderr=True)

    import tokviz

    from .cache import OutcomeCache, fingerprint
    from .plan import plan
    from .questions import chunks
    from .running import benchmark_grid
    from .workers import Job

    parts = chunks(scenes)
    vlm = tokviz.load(arguments.model)
    grid = benchmark_grid(vlm)
    recipes, left_out = plan(vlm, grid, wanted(grid.n_tokens, vlm.record.n_layers))
    cache = OutcomeCache(cache_folder, fingerprint(model_folder))
    job = Job(arguments.model, vlm, grid, recipes, parts, cache)
    cache.sweep()
    try:
        _answer(job, arguments, progress)
    except KeyboardInterrupt:
        done = cache.complete(parts, job.variants).scenes
        hint = f"; --scenes {done} makes their table" if done else ""
        progress.print(Text(f"{done} of {scenes} scenes are finished and stored{hint}. The same command goes on."))
        raise
    finished = cache.complete(parts, job.variants)
    if not finished.scenes:
        raise BadInput("No scene was finished in this time; allow more --minutes. What was answered is stored.")
    about = _about(arguments, job, left_out, finished)
    console = out()
    with writing(out_folder):
        written = write(finished.outcomes, about, out_folder, docs_folder)
    for path in written:
        console.print(Text(str(path)))
    return 0


def _model_folder(name: str) -> Path:
    try:
        folder = embedded_folder() if name == EMBEDDED_MODEL else Path(name).expanduser()
        there = folder.is_dir()
    except (OSError, RuntimeError):  # too long a name, somebody else's home
        there = False
    if not there:
        raise BadInput(f"There is no model folder {name!r}: the benchmark takes {EMBEDDED_MODEL!r} or a folder.")
    return folder


def _writable(name: str) -> Path:
    try:
        folder = Path(name).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadInput(f"{name!r} cannot be written: {(error.strerror or 'unknown reason').lower()}.") from error
    except RuntimeError as error:
        raise BadInput(f"{name!r} cannot be written: there is no such home folder.") from error
    return folder


def _answer(job: Job, arguments: argparse.Namespace, console: Console) -> None:
    """Run what is missing, with a bar on a terminal and a line now and then elsewhere."""
    from .workers import run_here, run_in_workers

    missing = job.missing()
    if not missing:
        return
    first, total = job.chunks[0].start, sum(missing.values())
    limit = None if arguments.minutes is None else time.monotonic() + arguments.minutes * 60

    def enough() -> bool:
        return limit is not None and time.monotonic() > limit

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Answering", total=total)
        lines = _Lines(console, total)

        def on_step(step: Step) -> None:
            budget = "" if step.variant.budget is None else f" {step.variant.budget}"
            name = f"scene {step.chunk.start - first + 1} {plain_text(step.variant.label)}{budget}"
            bar.update(task, advance=step.work, description=name)
            lines.step(step.work, name)

        if arguments.workers == 1:
            run_here(job, missing, on_step, enough)
        else:
            run_in_workers(job, missing, min(arguments.workers, len(missing)), on_step, enough)


class _Lines:
    """Progress as text, for logs: share done, time used, time left."""

    def __init__(self, console: Console, total: float) -> None:
        self._console, self._total = console, total
        self._done, self._start = 0.0, time.monotonic()
        self._last = self._start

    def step(self, work: float, name: str) -> None:
        """Count a step; write a line when the last one is old enough."""
        self._done += work
        now = time.monotonic()
        if self._console.is_terminal or now - self._last < _LINE_EVERY_S:
            return
        self._last = now
        used = now - self._start
        left = used / self._done * (self._total - self._done)
        share = self._done / self._total
        self._console.print(Text(f"{share:.0%}, {used / 60:.1f} min, {left / 60:.1f} min left: {name}"), soft_wrap=True)


def _about(arguments: argparse.Namespace, job: Job, left_out: list[LeftOut], finished: Complete) -> About:
    from tokviz.runs.execute import planning_info

    from ..machine import machine, versions
    from .outcomes import About
    from .plan import describe
    from .questions import first_seed

    return About(
        command=_command(arguments, finished.scenes),
        machine=machine(),
        date=datetime.now(UTC).date().isoformat(),
        versions=versions(),
        model=job.vlm.record.name,
        fingerprint=job.cache.model,
        n_visual=job.grid.n_tokens,
        n_layers=job.vlm.record.n_layers,
        first_seed=first_seed(),
        scenes=finished.scenes,
        budgets=sorted({v.budget for v in job.variants if v.budget is not None}, reverse=True),
        workers=arguments.workers,
        seconds=round(finished.seconds, 1),
        left_out=left_out,
        methods=describe(job.variants, planning_info(job.vlm, job.grid)),
    )


def _command(arguments: argparse.Namespace, finished: int) -> str:
    """The command line that makes the same table, paths of cache and output aside.

    How far a run comes in ``--minutes`` depends on the machine, so the scenes that it finished stand there instead.
    """
    kind = arguments.run.__name__.removeprefix("run_")
    words = ["python", "-m", "tokviz", "bench", kind]
    for name in ("model", "methods", "budgets"):
        value = getattr(arguments, name, None)
        if value is not None and value not in (EMBEDDED_MODEL, "all"):
            words += [f"--{name}", str(value)]
    if getattr(arguments, "draws", DRAWS) != DRAWS:
        words += ["--draws", str(arguments.draws)]
    if not getattr(arguments, "layers", True):
        words.append("--no-layers")
    return shlex.join([*words, "--scenes", str(finished)])
