"""What a missing optional package is told of; test_wheel.py compares with the core alone."""

import re
import tomllib
from pathlib import Path

import pytest

from tokviz import cli, errors
from tokviz.errors import BadInput

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_extra_that_a_sentence_names_exists():
    named = {
        extra
        for path in (ROOT / "tokviz").rglob("*.py")
        for extra in re.findall(r"tokviz\[(\w+)\]", path.read_text())
        + re.findall(r"need\(\"\w+\", \"(\w+)\"", path.read_text())
    }
    assert {"ui", "video", "gpu"} <= named <= set(PROJECT["optional-dependencies"])


def test_a_missing_package_is_told_of_in_a_sentence():
    errors.need("json", "ui", "This")
    with pytest.raises(BadInput, match=r"^This needs the package nosuch, .*: pip install 'tokviz\[ui\]'\.$"):
        errors.need("nosuch", "ui", "This")


def test_the_page_without_gradio_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(errors, "is_installed", lambda package: package != "gradio")
    assert cli.main(["serve"]) == 2
    told = capsys.readouterr().err
    assert told == "tokviz: The page needs the package gradio, which is not installed: pip install 'tokviz[ui]'.\n"
