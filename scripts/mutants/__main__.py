"""Defects that a change of the code could bring in, and which test notices each.

    python -m scripts.mutants check                       # do all still apply? (a second; a test asks, too)
    python -m scripts.mutants list
    python -m scripts.mutants run [--room R] [--only ID]  # in a scratch copy, one at a time; writes caught.json
    python -m scripts.mutants run --survivors             # only those that are not recorded as caught
    python -m scripts.mutants run --suite full            # with all tests instead of those that each mutant names

Every mutant names the files of tests that are to catch it; a rename of code or tests renames them here, too. ``run``
begins with the test that caught it before, stops at the first failing one, notes it, and at the end makes sure that
these tests pass without any mutant. A cut in the tests is good when ``run`` still finds every mutant. ``before.json``
says which of them the suite caught when they were written. Exits with 1 when a mutant survives or does not apply.
Tests in a browser need TOKVIZ_CHROMIUM.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from .catalog import FOLDER, Mutant, complaints, load
from .running import Outcome, fail_anyway, scratch_copy, try_mutant

CAUGHT = FOLDER / "caught.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 1 when a mutant survives or does not apply."""
    asked = _parser().parse_args(arguments)
    mutants = [m for m in load() if asked.room in (None, m.room) and (not asked.only or m.id in asked.only)]
    if asked.survivors:
        mutants = [mutant for mutant in mutants if not caught().get(mutant.id)]
    if not mutants:
        print("No mutant of that name.")
        return 1
    if asked.command == "list":
        for mutant in mutants:
            print(f"{mutant.room:16} {mutant.id:32} {mutant.breaks}")
        return 0
    stale = complaints(mutants)
    print("\n".join(stale) if stale else f"{len(mutants)} mutants apply.")
    if stale or asked.command == "check":
        return int(bool(stale))
    return _run(mutants, asked.jobs, asked.suite == "full")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=("run", "list", "check"), default="check")
    parser.add_argument("--room", help="only those of one file")
    parser.add_argument("--only", action="append", help="only this one (may be given several times)")
    parser.add_argument("--survivors", action="store_true", help="only those that are not recorded as caught")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time, each in a copy of its own")
    parser.add_argument("--suite", choices=("named", "full"), default="named", help="of tests (default: %(default)s)")
    return parser


def _run(mutants: list[Mutant], jobs: int, full: bool) -> int:
    copies: SimpleQueue[Path] = SimpleQueue()
    record = {} if full else caught()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            copies.put(scratch_copy(Path(folder) / str(number)))

        def one(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                return try_mutant(mutant, copy, ["tests"] if full else mutant.tests, record.get(mutant.id))
            finally:
                copies.put(copy)

        outcomes = []
        # One at a time in this thread, where an interrupt ends the tests, too.
        for outcome in pool.map(one, mutants) if jobs > 1 else map(one, mutants):
            print(f"{outcome.seconds:6.0f} s  {outcome.mutant.id:32} {outcome.caught_by or 'SURVIVED'}", flush=True)
            note(outcome)
            outcomes.append(outcome)
        proofs = fail_anyway({outcome.caught_by for outcome in outcomes if outcome.caught_by}, copies.get())
    for outcome in outcomes:
        if outcome.caught_by in proofs:
            print(f"{outcome.mutant.id}: {outcome.caught_by} fails without it, too: no proof")
            note(replace(outcome, caught_by=None))
    n_caught = sum(outcome.caught_by not in (None, *proofs) for outcome in outcomes)
    print(f"{n_caught} of {len(mutants)} caught.")
    return int(n_caught < len(mutants))


def caught(path: Path = CAUGHT) -> dict[str, str | None]:
    """The recorded outcome per mutant: the test that caught it, None for a survivor."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def note(outcome: Outcome, path: Path = CAUGHT) -> None:
    """Write an outcome into the record, in the order of the mutants' files; mutants that are gone leave it."""
    found = {**caught(path), outcome.mutant.id: outcome.caught_by}
    ordered = {mutant.id: found[mutant.id] for mutant in load() if mutant.id in found}
    path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
