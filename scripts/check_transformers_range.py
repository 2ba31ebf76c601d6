"""Run the tests of engine and model families on both ends of the range of transformers that requirements.txt allows.

    python -m scripts.check_transformers_range                      # both ends, writes docs/transformers_range.md
    python -m scripts.check_transformers_range --versions 5.17.0 --tests tests/engine/test_engine_deepstack.py --dry

Each version is installed into an environment of its own in a temporary folder; torch and everything else comes from the
environment this runs in, unless that version of transformers asks for something else (5.17 for an older
huggingface_hub). Needs a package index that pip can reach. Takes several minutes per version on two cores. Exits with 1
when a test failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "transformers_range.md"
TESTS = ("tests/engine", "tests/models")
NOTES = (
    "Between these two versions, transformers itself changed the temporal positions of Qwen2.5-VL: between two grids "
    "of a video, 5.17 counts only whole seconds, while 5.23 also counts fractions. The pruned and the unpruned model "
    "agree in both.",
)
SHOWN = ("transformers", "huggingface_hub", "tokenizers", "torch")


@dataclass(frozen=True)
class Outcome:
    """What one environment did. ``failed`` are names of tests, ``seconds`` the duration of all."""

    versions: dict[str, str]
    passed: int
    skipped: int
    failed: list[str]
    seconds: float


def main() -> int:
    """Run, print and (unless ``--dry``) write the page; 1 when a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="+", help="of transformers (default: both ends of requirements.txt)")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="files and folders (default: %(default)s)")
    parser.add_argument("--only", default="", help="an expression for pytest's -k, to run a part of them")
    parser.add_argument("--folder", type=Path, help="keep the environments here, for another run")
    parser.add_argument("--dry", action="store_true", help="do not write docs/transformers_range.md")
    arguments = parser.parse_args()
    wanted = arguments.versions or ends((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        outcomes = []
        for number, wish in enumerate(wanted):
            python = environment(folder / str(number), wish)
            outcomes.append(run(python, arguments.tests, arguments.only, folder / f"{number}.xml"))
    text = page(outcomes, arguments.tests, arguments.only)
    print(text)
    if not arguments.dry:
        PAGE.write_text(text, encoding="utf-8")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def ends(requirements: str) -> list[str]:
    """The oldest and the newest version of the range, as pip understands them: ``["5.17.0", ">=5.17,<5.24"]``.

    Raises ValueError when the line is no range.
    """
    line = re.search(r"^transformers>=([\d.]+),<([\d.]+)$", requirements, re.MULTILINE)
    if line is None:
        raise ValueError("requirements.txt has no line transformers>=a,<b")
    oldest = line[1] if line[1].count(".") == 2 else f"{line[1]}.0"
    return [oldest, f">={line[1]},<{line[2]}"]


def environment(folder: Path, wish: str) -> Path:
    """The interpreter of an environment with this version of transformers; what it lacks is looked up in ours."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=False, symlinks=True)
    site = Path(_answer(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    requirement = f"transformers{wish}" if wish[0] in "<>=" else f"transformers=={wish}"
    # --upgrade: the newest of a range, even where ours is in it and older.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--upgrade", "--quiet", requirement]
    subprocess.run(pip, check=True)
    return python


def run(python: Path, tests: Sequence[str], only: str, report: Path) -> Outcome:
    """Run pytest there and read its report."""
    names = ", ".join(repr(name) for name in SHOWN)
    versions = _answer(python, f"from importlib.metadata import version as v; print(*map(v, [{names}]))").split()
    command = [str(python), "-m", "pytest", *tests, "-k", only, "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        raise ValueError(f"{report} holds no test suite")
    cases = list(suite.iter("testcase"))
    failed = [f"{case.get('classname')}.{case.get('name')}" for case in cases
              if case.find("failure") is not None or case.find("error") is not None]  # fmt: skip
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - skipped - len(failed)
    return Outcome(dict(zip(SHOWN, versions, strict=True)), passed, skipped, failed, float(suite.get("time", "nan")))


def _answer(python: Path, code: str) -> str:
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def page(outcomes: Sequence[Outcome], tests: Sequence[str], only: str) -> str:
    """The outcome as a page of Markdown."""
    rows = [
        f"| {' | '.join(outcome.versions.values())} | {outcome.passed:,} | {len(outcome.failed)} | {outcome.skipped} "
        f"| {outcome.seconds / 60:.1f} |"
        for outcome in outcomes
    ]
    failures = [
        f"- transformers {outcome.versions['transformers']}: `{name}`"
        for outcome in outcomes
        for name in outcome.failed
    ]
    return "\n".join([
        "# Oldest and newest supported transformers",
        "",
        f"Written by `python -m scripts.check_transformers_range`, on Python {sys.version.split()[0]}. Tests: "
        f"{' '.join(f'`{test}`' for test in tests)}{f' (`-k {only!r}`)' if only else ''}. Skipped tests are "
        "combinations that do not exist, such as renumbered positions in a model with several position axes.",
        "",
        *NOTES,
        "",
        f"| {' | '.join(SHOWN)} | passed | failed | skipped | minutes |",
        f"|{'---|' * len(SHOWN)}---:|---:|---:|---:|",
        *rows,
        "",
        *(["## Failed", "", *failures, ""] if failures else []),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
