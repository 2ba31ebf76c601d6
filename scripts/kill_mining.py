"""Kill mining again and again at random moments, go on each time, and compare the tables with those of a quiet run.

    python -m scripts.kill_mining                     # 30 kills of tokviz mine, by SIGKILL
    python -m scripts.kill_mining --kills 300 --store # of a process that only writes, hundreds of cases per second

A kill comes while the process starts, or a random moment after it has told of one to three more cases: so every start
is killed, however slow the machine is, and a folder takes several. Each time it is checked that nothing that was on the
disk is gone; at the end of each folder, that every part has the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokviz.files import IMPORT_FOLDER
from tokviz.mining.manifest import MANIFEST, read_manifest
from tokviz.mining.store import scanned_log

PART_CASES = 3
_PROGRESS = re.compile(r"[\d,]+ of ")
_METHODS = ("apet", "fastv", "random")
_MOST_CASES = 3
"""A process is killed after at most so many cases."""
_AT_START = 0.25
"""Share of the kills that come before any case."""
_MINE = """
import sys
from tokviz.mining import receipts
from tokviz.cli import main, mine
receipts.PART_CASES = {part}
mine._LINE_EVERY_S = -1.0  # tell of every case
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
_STORE = """
import sys
sys.path.insert(0, {root!r} + "/tests/mining")
from test_store import asked, payload
from tokviz.mining.manifest import MinedFile
from tokviz.mining.store import RunStore
count = int(sys.argv[1])
cases = MinedFile(name="c", digest="0", layout="lines", count=count, asked=count)
with RunStore(sys.argv[2], asked(cases=cases)) as store:
    payload(0)
    for position in range(count):
        print(position, "of", count, file=sys.stderr, flush=True)
        if not store.has(position):
            store.add(position, payload(position), 1.0)
    store.finish(0, None)
"""


def finished(folder: Path) -> int:
    """How many cases a folder holds, in parts and beside them."""
    if not (folder / MANIFEST).is_file():
        return 0
    manifest = read_manifest(folder)
    done = {part.name for part in manifest.parts}
    logs = [path for path in (folder / "pending").glob("part-*.log") if path.stem not in done]
    return sum(part.cases for part in manifest.parts) + sum(len(scanned_log(path)) for path in logs)


def digests(folder: Path) -> list[tuple[str, str, str]]:
    """The parts of a run that is done."""
    manifest = read_manifest(folder)
    assert manifest.status == "done", manifest.status
    return [(part.name, part.sha256, part.cases_sha256) for part in manifest.parts]


@dataclass(frozen=True)
class Kill:
    """When a process is killed: so many seconds after it has told of so many cases; None for after it was started."""

    cases: int | None
    seconds: float


def run(command: Sequence[str], kill: Kill | None = None) -> bool:
    """Run a command, and kill it; whether it was killed before it was done."""
    environment = os.environ | {"PYTHONPATH": str(IMPORT_FOLDER)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    told: list[str] = []
    due = threading.Event()
    if kill is not None and kill.cases is None:
        due.set()

    def read(lines=process.stderr) -> None:
        events = 0
        for line in lines:
            told.append(line)
            events += _PROGRESS.match(line) is not None
            if kill is not None and kill.cases is not None and events > kill.cases:  # the first says where it begins
                due.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    if kill is not None:
        while not due.wait(0.02) and process.poll() is None:
            pass
        try:
            process.wait(kill.seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    code = process.wait()
    reader.join(30)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"it ended with {code}:\n{''.join(told)[-3000:]}")
    return code != 0


def kill_and_compare(command: Sequence[str], folder: Path, kills: int, longest: float, seed: int) -> int:
    """Kill a command that fills a folder so many times; how many folders were finished on the way.

    command: without the folder, which comes last. longest: seconds between a case and a kill. Raises AssertionError.
    """
    draw = random.Random(seed)
    began = time.perf_counter()
    run([*command, str(folder / "quiet")])
    whole = time.perf_counter() - began
    rounds = done = before = 0
    expected = digests(folder / "quiet")
    while done < kills:
        place = folder / str(rounds)
        at_start = draw.random() < _AT_START
        kill = (
            Kill(None, draw.uniform(0, whole / 2))
            if at_start
            else Kill(draw.randrange(_MOST_CASES), draw.uniform(0, longest))
        )
        killed = run([*command, str(place)], kill)
        now = finished(place)
        assert now >= before, f"{before} cases were on the disk, {now} are left"
        done, before = done + killed, now
        print(f"kill {done}: {now} cases on the disk (folder {rounds})", flush=True)
        if not killed:
            assert digests(place) == expected
            rounds, before = rounds + 1, 0
    run([*command, str(folder / str(rounds))])
    assert digests(folder / str(rounds)) == expected
    return rounds


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds between a case and a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true", help="kill a process that only writes")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if arguments.store:
            command = [sys.executable, "-c", _STORE.format(root=str(IMPORT_FOLDER)), str(arguments.cases)]
            longest = min(arguments.longest, 0.3)
        else:
            from benchmarks.drawn_cases import write_cases

            file = write_cases(root / "data", arguments.cases)
            command = [sys.executable, str(_script(root)), "mine", "--cases", str(file), "--budgets", "64,32"]
            command += ["--methods", ",".join(_METHODS), "--seeds", "2", "--workers", str(arguments.workers), "--out"]
            longest = arguments.longest
        began = time.perf_counter()
        rounds = kill_and_compare(command, root / "runs", arguments.kills, longest, arguments.seed)
        seconds = time.perf_counter() - began
    print(f"{arguments.kills} kills in {seconds:.0f} s, {rounds} runs finished on the way: every table is the same.")
    return 0


def _script(root: Path) -> Path:
    """A file for the command, as worker processes import the main module again."""
    path = root / "mine.py"
    path.write_text(_MINE.format(part=PART_CASES))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
