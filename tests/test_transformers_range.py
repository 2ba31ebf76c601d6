"""The script that checks both ends of the supported transformers: what it reads, and what it writes."""

from pathlib import Path

import pytest

from scripts.check_transformers_range import SHOWN, Outcome, ends, page

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"


def test_the_ends_are_those_of_the_requirements():
    assert ends("torch==2\ntransformers>=5.17,<5.24\nx>=1,<2\n") == ["5.17.0", ">=5.17,<5.24"]
    assert ends("transformers>=5.17.2,<6\n")[0] == "5.17.2"
    oldest, newest = ends(REQUIREMENTS.read_text())
    assert newest.startswith(">=") and newest[2:].split(",")[0] in oldest
    with pytest.raises(ValueError, match="no line transformers"):
        ends("transformers==5.17\n")


def test_the_page_names_what_failed_and_what_ran():
    versions = dict(zip(SHOWN, ("5.17.0", "1.33.0", "0.23", "2.11"), strict=True))
    good, bad = Outcome(versions, 1200, 3, [], 90.0), Outcome(versions, 1199, 3, ["tests.a.test_b[c]"], 60.0)
    text = page([good, bad], ["tests/engine"], "not eager")
    assert "| 5.17.0 | 1.33.0 | 0.23 | 2.11 | 1,200 | 0 | 3 | 1.5 |" in text
    assert "- transformers 5.17.0: `tests.a.test_b[c]`" in text and "(`-k 'not eager'`)" in text
    assert "## Failed" not in page([good], ["tests/engine"], "") and "-k" not in page([good], ["tests/engine"], "")
