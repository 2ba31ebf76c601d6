"""README's numbers are those that were measured, and its commands exist."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def row(start: str) -> list[str]:
    line = next(line for line in README.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_accuracy_is_what_the_evaluation_measured():
    families = row("600 held-out scenes")
    measured = json.loads((ROOT / "assets" / "tokviz-tiny" / "evaluation.json").read_text())
    assert measured["scenes"] == 600 and measured["visual_tokens"] == 144
    for line, key in {"right answers": "accuracy", "best guess": "blind_majority"}.items():
        assert row(line) == [f"{100 * measured[key][name]:.1f}" for name in families]


def test_ci_calls_the_test_command_of_the_readme():
    assert "make test" in README
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert commands == ["make test"]


def test_the_files_it_links_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
