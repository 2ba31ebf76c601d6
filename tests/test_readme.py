"""README's numbers are those that were measured, and its commands exist."""

import re
from pathlib import Path

from tokviz import cli
from training.card import FOLDER, read_numbers, readme_section, with_section

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_accuracy_is_what_the_evaluation_measured():
    """`python -m training.card` writes this part; whatever else the README says of it would be stale one day."""
    assert with_section(README, readme_section(read_numbers(FOLDER))) == README


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


def test_the_shell_commands_that_are_shown_exist(capsys):
    pages = [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]
    shown = {
        " ".join(words.split())
        for page in pages
        for words in re.findall(r"(?:^|`|-m )tokviz ([a-z]+(?: (?:fidelity|ablations|vtw|check))?)", page, re.MULTILINE)
    }
    commands = {
        "compare",
        "sweep",
        "rescue",
        "horizon",
        "inside",
        "cases check",
        "mine",
        "tables",
        "report",
        "methods",
        "models",
        "serve",
        "calibrate vtw",
        "bench fidelity",
        "bench ablations",
    }
    shown.discard("runs")  # "tokviz runs a vision-language model" is a sentence
    assert commands <= shown <= commands | {"bench", "calibrate"}
    for words in shown:
        assert cli.main([*words.split(), "--help"]) == 0, words
        assert f"tokviz {words.split()[0]}" in capsys.readouterr().out
