"""Run the tests on one mutant at a time, in a scratch copy of the checkout."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .catalog import ROOT, Mutant, mutated

TIMEOUT_S = 900
"""Of one run of pytest: longer than any file of tests takes, short enough for a mutant that never ends."""
NO_END = " (no end)"
SUMMARY = "short test summary info"
FIRST_FAILURE = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """``caught_by``: the first failing test, None for a survivor."""

    mutant: Mutant
    caught_by: str | None
    seconds: float


class NoProof(RuntimeError):
    """Tests fail whatever the mutant does, or pytest did not get as far as a test."""


def scratch_copy(folder: Path, root: Path = ROOT) -> Path:
    """Copy what git tracks or would track (as it is now, uncommitted changes included) to ``folder``; returns it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


def try_mutant(mutant: Mutant, copy: Path, tests: Sequence[str], recorded: str | None = None) -> Outcome:
    """Run ``tests``, file after file, on the mutant until one fails. Raises Stale for one that does not apply.

    ``recorded`` caught it before and is tried first: a single test instead of all that come before it in its file.
    """
    began, caught = time.monotonic(), None
    with applied(mutant, copy):
        if recorded is not None:
            with suppress(NoProof):  # that test is gone, or was renamed
                caught = first_failure(copy, [recorded])
        for path in tests if caught is None else ():
            caught = first_failure(copy, [path])
            if caught is not None:
                break
    return Outcome(mutant, caught, time.monotonic() - began)


def fail_anyway(tests: Iterable[str], copy: Path) -> set[str]:
    """Which of ``tests`` fail on the unchanged code, too, so that they are no proof of anything."""
    asked = {test.removesuffix(NO_END): test for test in tests}
    found: set[str] = set()
    while (left := [test for test in sorted(asked) if asked[test] not in found]) and (
        failed := first_failure(copy, left)
    ) is not None:
        if failed not in asked:
            raise NoProof(f"{failed} fails on the unchanged code")
        found.add(asked[failed])
    return found


@contextmanager
def applied(mutant: Mutant, copy: Path) -> Iterator[None]:
    """The defect is in the copy while the layer runs."""
    path, text = copy / mutant.file, mutated(mutant, copy)
    before = path.read_bytes()
    path.write_text(text, encoding="utf-8")
    _forget_bytecode(path)
    try:
        yield
    finally:
        path.write_bytes(before)
        _forget_bytecode(path)


def _forget_bytecode(path: Path) -> None:
    """Python trusts bytecode of the same second and size, which a mutant and the original may share."""
    if path.suffix == ".py":
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def first_failure(copy: Path, tests: Sequence[str]) -> str | None:
    """The first failing test, None when all pass. A file that never ends counts, marked ``NO_END``.

    Raises NoProof when pytest ended otherwise.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["COLUMNS"] = "400"  # pytest shortens names to the width
    process = subprocess.Popen(
        command, cwd=copy, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return tests[0] + NO_END
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode == 0:
        return None
    failed = FIRST_FAILURE.search(output.rpartition(SUMMARY)[2])  # logs above it have lines of that kind, too
    if failed is None:
        asked, tail = " ".join(tests), output[-2000:]
        raise NoProof(f"pytest on {asked} ended with {process.returncode} and named no test:\n{tail}")
    return failed[1]
