"""How long selection alone takes, per method, against the procedure as published and against the machine's own floor.

    python -m benchmarks.selection            # CPU, and the GPU if there is one; writes benchmarks/selection.{md,json}
    python -m benchmarks.selection --quick    # tiny sizes, seconds; writes nothing unless --out is given

Nothing is asserted about time: the numbers are for reading.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch

from tokviz.pruners import methods

from .cases import CASES, Case, Size
from .inputs import features, make_signals
from .machine import cpu_name
from .measuring import REPEATS, SLOW_SECONDS, Machine, Measured, measure, measure_until, peak_scratch
from .wording import filled

SIZES = [(n, width) for n in (576, 2880, 8192) for width in (1024, 4096)]
QUICK_SIZES = [(144, 64)]
SHARE = 0.11
PUBLISHED_SECONDS = 5.0


@dataclass(frozen=True)
class Row:
    """One measured line; times in ms, memory in bytes. ``published_stopped``: its time is a lower bound."""

    device: str
    n: int
    width: int
    method: str
    keep: int
    ms: float
    samples: int
    published_ms: float
    published_samples: int
    published_stopped: bool
    floor_ms: float
    floor_rule: str
    scratch_bytes: int
    scratch_limit: int

    @property
    def to_published(self) -> float:
        """How many times faster than the published procedure."""
        return self.published_ms / self.ms

    @property
    def to_floor(self) -> float | None:
        """How many times the floor; None when the method has none."""
        return self.ms / self.floor_ms if self.floor_ms else None


def measure_case(case: Case, machine: Machine, size: Size) -> Row:
    """Selection through the stage's registered function, the published procedure and the floor, one after the other."""
    device, keep = machine.device, case.keep(size)
    pruner, stage = case.stage(size)
    signals = make_signals(stage, size.n, size.width, case.tiled, device, filmed=case.filmed)
    params = pruner.complete({})

    def select() -> object:
        return stage.select(signals, keep, params, torch.Generator().manual_seed(0))

    scratch = peak_scratch(select, device)  # warms up
    ours: Measured = measure(select, device, warm_up=False)
    theirs = measure_until(lambda tick: case.published(signals, keep, tick), device, PUBLISHED_SECONDS)
    return Row(
        device=device.type,
        n=size.n,
        width=size.width,
        method=case.method,
        keep=keep,
        ms=ours.ms,
        samples=ours.samples,
        published_ms=theirs.ms,
        published_samples=theirs.samples,
        published_stopped=theirs.stopped,
        floor_ms=case.floor(machine, size),
        floor_rule=case.rule,
        scratch_bytes=scratch,
        scratch_limit=machine.limit(),
    )


def run(devices: Iterable[torch.device], sizes: Sequence[tuple[int, int]], chosen: Sequence[str]) -> list[Row]:
    """Every chosen method at every size on every device, the sizes outermost."""
    available = {pruner.id for pruner in methods()}
    rows = []
    for device in devices:
        for n, width in sizes:
            size = Size(n, width, max(1, int(SHARE * n)))
            machine = Machine(features(n, width, torch.Generator().manual_seed(1)).to(device))
            for case in CASES:
                if case.method in available and (not chosen or case.method in chosen):
                    rows.append(measure_case(case, machine, size))
                    print(_line(rows[-1]), flush=True)
    return rows


def _line(row: Row) -> str:
    return f"{row.device} {row.n}x{row.width} " + " ".join(_cells(row))


def _cells(row: Row) -> list[str]:
    bound = "> " if row.published_stopped else ""
    floor = "-" if row.to_floor is None else f"{row.to_floor:.2f}"
    return [
        row.method,
        str(row.keep),
        f"{row.ms:.3g} ({row.samples})",
        f"{bound}{row.published_ms:.3g} ({row.published_samples})",
        f"{bound}{row.to_published:.2g}",
        f"{row.floor_ms:.3g}",
        floor,
        f"{row.scratch_bytes / 2**20:.1f}",
        row.floor_rule,
    ]


COLUMNS = (
    "method",
    "K",
    "median ms (runs)",
    "as published ms (runs)",
    "times faster",
    "floor ms",
    "times the floor",
    "scratch MiB",
    "what the floor is",
)

EXPLANATION = Path(__file__).with_name("templates") / "selection.md.j2"


def environment(command: str) -> dict[str, str | int]:
    """What the numbers depend on."""
    found: dict[str, str | int] = {
        "command": command,
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return found


def _summary(rows: Sequence[Row]) -> list[str]:
    """Which targets were met at every size: twice the floor, and the scratch limit."""
    lines = ["## Targets", ""]
    for device, n, width in dict.fromkeys((row.device, row.n, row.width) for row in rows):
        here = [
            row for row in rows if (row.device, row.n, row.width) == (device, n, width) and row.to_floor is not None
        ]
        slow = sorted((row for row in here if (row.to_floor or 0) > 2), key=lambda row: -(row.to_floor or 0))
        names = ", ".join(f"{row.method} {row.to_floor:.1f} ({row.ms:.3g} ms)" for row in slow) or "none"
        big = ", ".join(row.method for row in here if row.scratch_bytes > row.scratch_limit) or "none"
        lines.append(
            f"- {device.upper()}, {n} x {width}: {len(here) - len(slow)} of {len(here)} methods within twice their "
            f"floor; beyond: {names}. Above the scratch limit: {big}."
        )
    return [*lines, ""]


def as_markdown(rows: Sequence[Row], about: dict[str, str | int]) -> str:
    """A heading, what the columns mean, and one table per device and size."""
    lines = ["# Selection alone: time and memory", "", *(f"- {key}: `{value}`" for key, value in about.items())]
    explanation = filled(
        EXPLANATION, share=SHARE, repeats=REPEATS, slow_seconds=SLOW_SECONDS, published_seconds=PUBLISHED_SECONDS
    )
    lines += ["", explanation, *_summary(rows)]
    for device, n, width in dict.fromkeys((row.device, row.n, row.width) for row in rows):
        here = [row for row in rows if (row.device, row.n, row.width) == (device, n, width)]
        limit = here[0].scratch_limit / 2**20
        lines += [f"## {device.upper()}, N = {n}, D = {width} (scratch limit {limit:.0f} MiB)", ""]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---|" + "---:|" * (len(COLUMNS) - 2) + "---|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in here] + [""]
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> list[Row]:
    """The command line; returns what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, seconds, nothing written without --out")
    parser.add_argument("--methods", default="", help="comma-separated ids; default: all")
    parser.add_argument("--sizes", default="", help="comma-separated NxD, for example 576x1024; default: all six")
    parser.add_argument("--device", choices=("all", "cpu", "cuda"), default="all")
    parser.add_argument("--out", help="where to write, without ending; default: benchmarks/selection for a whole run")
    args = parser.parse_args(given)
    chosen = [name for name in args.methods.split(",") if name]
    asked = [tuple(int(part) for part in size.split("x")) for size in args.sizes.split(",") if size]
    sizes = [(n, width) for n, width in asked] or (QUICK_SIZES if args.quick else SIZES)
    kinds = [kind for kind in ("cpu", "cuda") if args.device in ("all", kind)]
    if args.device == "all" and not torch.cuda.is_available():
        kinds = ["cpu"]
    rows = run([torch.device(kind) for kind in kinds], sizes, chosen)
    whole = not (args.quick or chosen or asked or args.device != "all")
    out = args.out or (str(Path(__file__).with_name("selection")) if whole else None)
    if out:
        options = ["--quick"] * args.quick + [f"--methods {args.methods}"] * bool(chosen)
        options += [f"--sizes {args.sizes}"] * bool(asked) + [f"--device {args.device}"] * (args.device != "all")
        about = environment(" ".join(["python -m benchmarks.selection", *options]))
        Path(f"{out}.md").write_text(as_markdown(rows, about))
        results = [asdict(row) | {"to_published": row.to_published, "to_floor": row.to_floor} for row in rows]
        Path(f"{out}.json").write_text(json.dumps({"environment": about, "rows": results}, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
