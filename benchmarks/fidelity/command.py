"""``bench``: how many right answers each method keeps on held-out drawn scenes, and the ablations of the papers.

A benchmark is a few runs of ``tokviz mine`` over the same case file of drawn scenes, and pages that are made of them.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tokviz.cli.mine import interruptible, told
from tokviz.cli.terminal import out, quiet_unless
from tokviz.errors import BadInput
from tokviz.files import writing
from tokviz.models.catalog import EMBEDDED_MODEL
from tokviz.names import UNPRUNED

if TYPE_CHECKING:
    from tokviz.mining.mined import MinedRun
    from tokviz.models.loading import VisionLanguageModel
    from tokviz.types import PlanningInfo

    from .measured import Measured
    from .plan import LeftOut, Mining

SCENES, QUICK_SCENES = 250, 5
SEEDS = 3
MAX_NEW_TOKENS = 8
"""Right answers have a word or two and an end; what has not ended by now is wrong."""
_RUNS = "out/benchmark-runs"
Write = Callable[["dict[str, Measured]", "dict[str, Any]", Path, "Path | None"], "list[Path]"]


def add_to(commands: Any) -> None:
    """Declare the command with its benchmarks."""
    parser = commands.add_parser("bench", help="measure the accuracy of every method on held-out scenes; ablations")
    kinds = parser.add_subparsers(title="benchmarks", required=True, metavar="benchmark")
    how = (
        "The scenes become a case file, which tokviz mine answers: the runs lie under --runs, where tokviz serve "
        "--runs and tokviz tables open them too. The same command goes on where it stopped, and mines nothing twice."
    )
    fidelity = kinds.add_parser(
        "fidelity",
        allow_abbrev=False,
        help="all methods at the papers' budgets, in tables like theirs",
        description=how,
    )
    fidelity.set_defaults(run=run_fidelity)
    fidelity.add_argument(
        "--methods", default="all", metavar="ID,ID", help="method ids, or all (default); the controls always run"
    )
    fidelity.add_argument(
        "--budgets",
        metavar="N,N",
        help="visual tokens to keep, or percentages of them (default: 192,128,64,32 of 576, scaled for other models)",
    )
    fidelity.add_argument(
        "--layers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also FastV and DART, where asked for, beside random tokens at every layer of the language model",
    )
    ablations = kinds.add_parser(
        "ablations",
        allow_abbrev=False,
        help="settings that the papers vary, next to their own results",
        description=how,
    )
    ablations.set_defaults(run=run_ablations)
    positions = kinds.add_parser(
        "positions",
        allow_abbrev=False,
        help="kept against renumbered positions, where-questions apart",
        description=how,
    )
    positions.set_defaults(run=run_positions)
    for kind in (fidelity, ablations, positions):
        _add_common(kind)


def _add_common(kind: argparse.ArgumentParser) -> None:
    add = kind.add_argument
    add("--model", default=EMBEDDED_MODEL, metavar="NAME", help="menu entry, folder, or Hub id (default: %(default)s)")
    add("--scenes", type=int, metavar="N", help=f"held-out scenes, ten questions each (default: {SCENES})")
    drawn = "seeds of methods that draw random numbers, for their band (default: %(default)s; was --draws)"
    add("--seeds", "--draws", type=int, default=SEEDS, metavar="N", help=drawn)
    add("--workers", type=int, default=2, metavar="N", help="single-threaded processes (default: %(default)s)")
    limit = "stop after this many minutes, and make the tables of what is mined: whole parts of 100 questions"
    add("--minutes", type=float, metavar="M", help=limit)
    kept = "where the mined runs lie, a folder for each model and number of scenes (default: %(default)s; was --cache)"
    add("--runs", "--cache", default=_RUNS, metavar="DIR", help=kept)
    name = kind.prog.split()[-1]
    add("--out", default=f"out/{name}", metavar="DIR", help="where to write the table (default: %(default)s)")
    add("--docs", metavar="DIR", help="also write the short page to this folder")
    add("--quick", action="store_true", help=f"only {QUICK_SCENES} scenes, to try the command; not a result")


def run_fidelity(arguments: argparse.Namespace) -> int:
    """All methods at all budgets; writes fidelity.md and fidelity.json."""
    _quiet()
    from ..wording import by_hand
    from .document import document, write
    from .pages import WHY
    from .plan import fidelity_minings, parse_budgets, parse_methods

    methods = parse_methods(arguments.methods)

    def minings(info: PlanningInfo) -> list[Mining]:
        return fidelity_minings(methods, parse_budgets(arguments.budgets, info.n_visual), info, arguments.layers)

    def made(found: dict[str, Measured], about: dict[str, Any], folder: Path, docs: Path | None) -> list[Path]:
        if not by_hand(WHY, about["weights"]):
            told = f"{WHY.name} is about other weights than {about['weights']}, so its text is left out of the pages."
            Console(stderr=True).print(Text(told), soft_wrap=True)
        return write(document(found["methods"], found.get("layers"), about), folder, docs)

    return _run(arguments, minings, made)


def run_ablations(arguments: argparse.Namespace) -> int:
    """The papers' ablations; writes ablations.md and ablations.json."""
    _quiet()
    from .ablations import document, minings, write

    return _run(arguments, lambda info: minings(), lambda found, about, *to: write(document(found, about), *to))


def run_positions(arguments: argparse.Namespace) -> int:
    """Kept against renumbered positions; writes positions.md and positions.json."""
    _quiet()
    from .positions import document, mining, write

    return _run(
        arguments,
        lambda info: [mining(info.n_visual)],
        lambda found, about, *to: write(document(found["positions"], about), *to),
    )


def _quiet() -> None:
    """To be called before anything that imports transformers."""
    quiet_unless(Console(stderr=True).is_terminal)


def _run(arguments: argparse.Namespace, minings: Callable[[PlanningInfo], list[Mining]], write: Write) -> int:
    """Check everything, mine what is missing, write the tables of what is there."""
    scenes = arguments.scenes
    if scenes is None:
        scenes = QUICK_SCENES if arguments.quick else SCENES
    if arguments.minutes is not None and not 0 < arguments.minutes < float("inf"):
        raise BadInput(f"--minutes must be a positive number, not {arguments.minutes:g}.")
    runs_folder, out_folder = _writable(arguments.runs), _writable(arguments.out)
    docs_folder = None if arguments.docs is None else _writable(arguments.docs)
    console = Console(stderr=True)

    import tokviz

    from .measured import Measured
    from .plan import benchmark_info, possible

    vlm = tokviz.load(arguments.model)
    info = benchmark_info(vlm)
    planned = [possible(mining, info) for mining in minings(info)]
    left_out = [entry for n, (_, own) in enumerate(planned) for entry in own if n == 0 or entry["budget"] is not None]
    folder = runs_folder / f"{_weights(vlm)}-{scenes}-scenes"
    with writing(folder):
        cases = case_file(folder / "cases", scenes)
    runs = _mined(vlm, cases, [mining for mining, _ in planned], folder, arguments, console)
    if runs is None:
        return 130
    if not runs:
        raise BadInput("No 100 questions were finished in this time; allow more --minutes. What was answered is kept.")
    facts = about(arguments, vlm, info, [mining for mining, _ in planned], runs, left_out)
    with writing(out_folder):
        written = write({name: Measured(run) for name, run in runs.items()}, facts, out_folder, docs_folder)
    for path in written:
        out().print(Text(str(path)))
    return 0


def case_file(folder: Path, scenes: int) -> Path:
    """The case file of so many scenes, drawn where it is not there yet. Raises BadInput for a count that cannot be."""
    from scripts.scene_cases import write_scenes

    if not (folder / "cases.jsonl").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".drawing-") as drawn:
            write_scenes(Path(drawn) / "cases", scenes)
            if folder.exists():  # images without the case file: somebody's half of a copy
                shutil.rmtree(folder)
            (Path(drawn) / "cases").rename(folder)
    return folder / "cases.jsonl"


def _weights(vlm: VisionLanguageModel) -> str:
    """A folder's name for this model and its weights."""
    from tokviz.mining.receipts import weights_digest

    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in Path(vlm.record.name).name)
    return f"{name[:60].lstrip('.')}-{weights_digest(vlm.model)[:8]}"


def _mined(
    vlm: VisionLanguageModel,
    cases: Path,
    minings: Sequence[Mining],
    folder: Path,
    arguments: argparse.Namespace,
    console: Console,
) -> dict[str, MinedRun] | None:
    """Every run, mined until it is done or the time is up; those that hold a whole part. None: it was interrupted."""
    import tokviz

    runs, over = {}, threading.Event()
    with interruptible(console) as stop, told(console) as on_progress, _timed(arguments.minutes, stop, over):
        for mining in minings:
            run = tokviz.mine(
                vlm, cases, mining.methods, mining.budgets, out=folder / mining.name, seeds=arguments.seeds,
                max_new_tokens=MAX_NEW_TOKENS, workers=arguments.workers, command=_command(arguments), stop=stop,
                on_progress=on_progress,
            )  # fmt: skip
            if run.n_cases:
                runs[mining.name] = run
    if stop.is_set() and not over.is_set():
        console.print("Interrupted; what is mined is kept, and the same command goes on.", soft_wrap=True)
        return None
    return runs


@contextmanager
def _timed(minutes: float | None, stop: threading.Event, over: threading.Event) -> Iterator[None]:
    """Set both events when the time is up."""

    def end() -> None:
        over.set()
        stop.set()

    timer = threading.Timer(minutes * 60, end) if minutes is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


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


def about(
    arguments: argparse.Namespace,
    vlm: VisionLanguageModel,
    info: PlanningInfo,
    minings: Sequence[Mining],
    runs: dict[str, MinedRun],
    left_out: list[LeftOut],
) -> dict[str, Any]:
    """What a page says beside its numbers.

    weights: their SHA-256, first digits. cases, asked: questions in the tables, and in the case file. failed: cases
    that could not be mined. seconds: of work, over all workers. where: by key and budget at which sites a method drops
    tokens. properties: the table of ``training.properties`` for these weights, empty where there is none.
    """
    from scripts.scene_cases import FIRST_SEED

    from ..machine import machine
    from .plan import judged_budget, where

    first = next(iter(runs.values()))
    manifest, cases = first.manifest, first.cases(["media_sha256", "error"])
    budgets = sorted({budget for mining in minings for budget in mining.budgets}, reverse=True)
    return {
        "command": _command(arguments),
        "machine": machine(),
        "date": manifest.created[:10],
        "model": manifest.model.id,
        "weights": manifest.model.weights_sha256[:12],
        "versions": manifest.versions,
        "n_visual": info.n_visual,
        "n_layers": info.n_layers,
        "first_seed": FIRST_SEED,
        "cases": first.n_cases,
        "asked": manifest.cases.asked,
        "images": int(cases["media_sha256"].nunique()),
        "failed": int(cases["error"].notna().sum()),
        "seeds": list(manifest.seeds),
        "seconds": round(sum(part.seconds for run in runs.values() for part in run.manifest.parts), 1),
        "budgets": budgets,
        "judged": judged_budget(budgets, info.n_visual),
        "left_out": left_out,
        "where": {
            method.key: {str(budget): where(method.id, method.params, budget, info) for budget in manifest.budgets}
            for method in manifest.methods
            if method.id != UNPRUNED
        },
        "properties": _properties(vlm),
    }


def _properties(vlm: VisionLanguageModel) -> str:
    """The measured properties of these weights as a table; empty where they were not measured."""
    import json

    from tokviz.mining.sources import folder_of
    from training.properties import fingerprint
    from training.property_tables import summary_table

    stored, folder = Path(__file__).parents[2] / "training" / "properties.json", folder_of(vlm)
    if not folder or not stored.is_file():
        return ""
    weights = fingerprint(Path(folder))
    found = {name: one for name, one in json.loads(stored.read_text()).items() if one.get("weights") == weights}
    return summary_table({vlm.record.name: list(found.values())[-1]}) if found else ""


def _command(arguments: argparse.Namespace) -> str:
    """The command line that makes the same tables, folders aside."""
    kind = arguments.run.__name__.removeprefix("run_")
    words = ["python", "-m", "tokviz", "bench", kind]
    for name in ("model", "methods", "budgets", "scenes", "seeds"):
        value = getattr(arguments, name, None)
        if value is not None and value not in (EMBEDDED_MODEL, "all") and (name, value) != ("seeds", SEEDS):
            words += [f"--{name}", str(value)]
    words += ["--quick"] * arguments.quick + ["--no-layers"] * (not getattr(arguments, "layers", True))
    return shlex.join(words)
