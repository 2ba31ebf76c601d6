"""Mine the run that comes with tokviz: held-out drawn scenes, the embedded model, every method that runs on it.

    python -m scripts.shipped_run              # writes examples/runs/tokviz-tiny
    python -m scripts.shipped_run --check      # mines again and compares with what is there

The same weights and code give the same tables, byte for byte. Where they are the same the folder is left as it is, its
date and seconds too. It goes on where it was stopped (``--cache``), and takes its images along.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import tokviz
from scripts.scene_cases import write_scenes
from tokviz.errors import BadInput
from tokviz.files import IMPORT_FOLDER
from tokviz.mining.manifest import MANIFEST, Manifest, read_manifest
from tokviz.mining.mapping import MAP
from tokviz.models.loading import VisionLanguageModel
from tokviz.names import DEFAULT_METHODS, UNPRUNED
from tokviz.runs.execute import planning_of

PLACE = IMPORT_FOLDER / "examples" / "runs" / "tokviz-tiny"
MODEL = "tokviz-tiny"
SCENES = 36
"""About 345 cases: 11 kB each with all that their rows hold, of which the image is 2."""
BUDGETS = (192, 128, 64, 32)
SEEDS = 3
MOST_MB = 6.0
"""What the folder may take in the repository and in the package."""
COMMAND = "python -m scripts.shipped_run"
_PER_RUN = ("created", "command")
"""What a receipt tells of one mining, and not of what was mined."""


def mined(
    folder: Path,
    scenes: int,
    *,
    methods: Sequence[str] | None = None,
    budgets: Sequence[int] = BUDGETS,
    seeds: int = SEEDS,
    most: int | None = None,
    workers: int | None = None,
    on_progress: Callable[[tokviz.MiningProgress], None] | None = None,
) -> Path:
    """Mine held-out scenes into ``folder/run``, with the data set in ``folder/data``, and return the run's folder.

    methods: None for every one that runs on the model. most: cases.
    """
    data, run = folder / "data", folder / "run"
    if not (data / "cases.jsonl").is_file():
        shutil.rmtree(data, ignore_errors=True)
        write_scenes(data, scenes, most=most)
    vlm = tokviz.load(MODEL)
    tokviz.mine(
        vlm, data / "cases.jsonl", methods or every_method(vlm), budgets, out=run, seeds=seeds, workers=workers,
        copy_media=True, command=COMMAND, on_progress=on_progress,
    )  # fmt: skip
    return run


def every_method(vlm: VisionLanguageModel) -> list[str]:
    """Ids of all methods that run on a model; the page opens with the first ones, so that controls come last."""
    info = planning_of(vlm, vlm.n_visual)
    able = [pruner for pruner in tokviz.methods() if pruner.id != UNPRUNED and pruner.missing(info) is None]
    return [pruner.id for pruner in sorted(able, key=lambda p: (p.family == "control", p.id not in DEFAULT_METHODS))]


def differences(there: Path, run: Path) -> list[str]:
    """What two run folders do not have in common, as words; none where only date and duration differ."""
    if not (there / MANIFEST).is_file():
        return ["there was none"]
    old, new = (_lasting(read_manifest(folder)) for folder in (there, run))
    return [name for name in new if old[name] != new[name]]


def _lasting(manifest: Manifest) -> dict[str, object]:
    found = manifest.model_dump(exclude=set(_PER_RUN))
    return found | {"parts": [{**part, "seconds": 0.0} for part in found["parts"]]}


def ship(run: Path, place: Path) -> float:
    """Put a finished run in its place, without what only mining needs, and return its size in MB.

    Raises BadInput where it is unfinished or too large; then the place is as it was before.
    """
    manifest = read_manifest(run)
    if manifest.status != "done":
        raise BadInput("The run is not finished: repeat the command to go on.")
    names = [MANIFEST, MAP, *(f"{table}/{part.name}.parquet" for table in ("rows", "cases") for part in manifest.parts)]
    files = [run / name for name in names] + sorted((run / "media").iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    if size > MOST_MB:
        raise BadInput(f"The run takes {size:.1f} MB, and {MOST_MB:.0f} are the most: mine fewer scenes (--scenes).")
    shutil.rmtree(place, ignore_errors=True)
    for file in files:
        target = place / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return size


def main(argv: Sequence[str] | None = None) -> int:
    """Mine, and ship or compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=SCENES, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--out", type=Path, default=PLACE, metavar="DIR", help="default: examples/runs/tokviz-tiny")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where it is mined, to go on after a stop")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where another run comes out")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            run = mined(given.cache or Path(temporary), given.scenes, workers=given.workers, on_progress=_tell)
            changed = differences(given.out, run)
            if given.check or not changed:
                print(f"It differs: {', '.join(changed)}." if changed else "It is the same.")
                return int(bool(changed))
            size = ship(run, given.out)
        except BadInput as error:
            print(error, file=sys.stderr)
            return 2
    manifest = read_manifest(given.out)
    rows = sum(part.rows for part in manifest.parts)
    print(f"{manifest.cases.asked} cases, {len(manifest.methods)} methods, {rows} rows: {size:.2f} MB in {given.out}")
    return 0


def _tell(event: tokviz.MiningProgress) -> None:
    if event.done % 10 == 0 or event.done == event.total:
        left = "" if event.remaining is None else f", {event.remaining / 60:.0f} min left"
        print(f"{event.done} of {event.total} cases{left}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
