"""Open hostile session files as the page does, and say what became of each.

    python -m scripts.hostile_sessions --minutes 10

Every file is made from a shipped example and numbers of its own, the same each time; each is read, made into what the
page draws, and drawn as figures, in a process of its own. Exit code 1 when one of them ends otherwise than opened or
refused with a sentence, or takes more than ``--seconds`` of CPU to be read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.ui.payload import to_payload
from tokviz.viz.figures import figure_bytes

from .hostile_session_files import all_cases

MOST_CPU_S = 600
"""After so many seconds of CPU a file is given up: one that takes as long is a defect anyway."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file: ``opened``, ``refused`` with a sentence, or the name of what escaped; CPU in seconds."""

    kind: str
    words: str
    read_s: float
    payload_s: float = 0.0
    figures_s: float = 0.0


def opened(data: bytes, *, figures: bool = True) -> Outcome:
    """Read a session file, make the page's payload of it and the four figures."""
    clock = [time.process_time()]

    def ending(kind: str, words: str) -> Outcome:
        marks = [*clock, time.process_time()]
        spent = [round(later - earlier, 2) for earlier, later in pairwise(marks)]
        return Outcome(kind, words, *spent[:3])

    try:
        comparison = Comparison.from_json(data)
        clock.append(time.process_time())
        if not comparison.runs:
            raise BadInput("The session contains no runs, so there is nothing to show.")
        json.dumps(to_payload(comparison), allow_nan=False)
        clock.append(time.process_time())
        for view in ("kept", "score", "clusters", "dropped") if figures else ():
            figure_bytes(comparison, "png", view=view, dpi=60)
    except BadInput as error:
        words = str(error)
        return ending("refused" if words.endswith(".") and "\n" not in words else "no sentence", words)
    except Exception as error:  # whatever it is, a visitor would see "Something went wrong"
        return ending(type(error).__name__, str(error)[:200])
    return ending("opened", "")


def in_child(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns (JSON data) when it runs in a process of its own, and that process's peak memory in MB.

    The result is None when the process ended without one (killed, or out of its CPU time).
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    used = os.wait4(child, 0)[2]
    return (json.loads(told) if told else None), used.ru_maxrss / 1024


def examine(make: Callable[[], bytes], path: Path) -> tuple[int, Outcome, float]:
    """Write a file, open it; its size in bytes, what became of it, and peak memory in MB beside an idle process's."""
    size, _ = in_child(lambda: path.write_bytes(make()))
    _, idle = in_child(lambda: None)
    found, peak = in_child(lambda: asdict(opened(path.read_bytes())))
    outcome = Outcome(**found) if found else Outcome("killed", f"after {MOST_CPU_S} s of CPU or without memory", 0.0)
    return size or 0, outcome, max(peak - idle, 0.0)


def worst_of_mutations(ended_well: list[tuple[Outcome, float]]) -> Iterator[str]:
    """Rows of the table for files changed by lot, which are too many for one each."""
    for kind in ("opened", "refused"):
        same = [(outcome, peak) for outcome, peak in ended_well if outcome.kind == kind]
        if same:
            read, payload = (max(getattr(o, part) for o, _ in same) for part in ("read_s", "payload_s"))
            figures, peak = max(o.figures_s for o, _ in same), max(peak for _, peak in same)
            yield (
                f"| {len(same)} files changed by lot | | {kind} | ≤ {read:.2f} | ≤ {payload:.2f} | ≤ {figures:.2f} | "
                f"≤ {peak:.0f} |"
            )


def main() -> int:
    """Run the corpus and print a table of what became of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="start no further file after so long (default: 10)")
    parser.add_argument("--mutations", type=int, default=300, help="files changed by lot (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU that reading may take (default: %(default)s)")
    parser.add_argument("--only", default="", help="only files whose names hold this")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    wrong = left_out = done = 0
    print("| file | bytes | outcome | read, CPU s | payload | figures | peak MB |\n|---|---|---|---|---|---|---|")
    changed_by_lot: list[tuple[Outcome, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in all_cases(arguments.mutations):
            if arguments.only not in name:
                continue
            if time.monotonic() > deadline:
                left_out += 1
                continue
            size, outcome, peak = examine(make, Path(folder) / "session.json")
            done += 1
            is_wrong = outcome.kind not in ("opened", "refused") or outcome.read_s > arguments.seconds
            wrong += is_wrong
            if name.startswith("mutation ") and not is_wrong:
                changed_by_lot.append((outcome, peak))
                continue
            words = f"{outcome.kind}: {outcome.words}" if outcome.words else outcome.kind
            print(
                f"| {name} | {size:,} | {words} | {outcome.read_s:.2f} | {outcome.payload_s:.2f} | "
                f"{outcome.figures_s:.2f} | {peak:.0f} |",
                flush=True,
            )
    for line in worst_of_mutations(changed_by_lot):
        print(line)
    print(f"\n{done} files; {wrong} ended otherwise than they should; {left_out} not run for want of time.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
