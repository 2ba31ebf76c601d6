"""docs/methods.md and README's list are what the methods declare now."""

import importlib.util
import re
from pathlib import Path

import pytest

from tokviz.pruners import PRUNERS

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("write_methods_doc", ROOT / "scripts" / "write_methods_doc.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)
AGAIN = "is out of date: run `python -m scripts.write_methods_doc`"


def test_the_committed_files_are_current():
    assert writer.DOC.read_text(encoding="utf-8") == writer.methods_doc(), f"docs/methods.md {AGAIN}"
    readme = writer.README.read_text(encoding="utf-8")
    assert writer.with_list(readme) == readme, f"README.md {AGAIN}"


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner.id)
def test_every_method_has_a_section_that_its_links_find(pruner):
    text = writer.methods_doc()
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert headings.count(pruner.label) == 1
    assert f"[{pruner.label}](#{writer.anchors()[pruner.id]})" in text
    assert all(param.help in text for param in pruner.params)
    assert all(note in text for note in pruner.notes)
    assert pruner.paper is None or pruner.paper.url in text


def test_anchors_are_those_of_the_headings():
    assert len(set(writer.anchors().values())) == len(PRUNERS)
    assert writer.anchors()["full"] == "no-pruning"
    assert writer.anchors()["cdpruner"] == "cdpruner"


def test_every_published_method_says_where_it_follows_what():
    assert [pruner.id for pruner in PRUNERS if pruner.family != "control" and not pruner.notes] == []


def test_it_names_no_machine():
    assert not re.search(r"/(work|root|home|tmp)/", writer.methods_doc())


def test_apet_as_an_example():
    apet = next(pruner for pruner in PRUNERS if pruner.id == "apet")
    text = writer.section(apet)
    assert "| 192 | encoder output, before the projector: 288; before block 16: 96 | 96 | 192.0 | 186.0 |" in text
    assert "- `mode` (**paper** / official):" in text
    tome = next(pruner for pruner in PRUNERS if pruner.id == "tome")
    assert "| 192 | inside vision blocks 0 to 22: 559, 542, … 192 | 192 | 192.0 | 192.0 |" in writer.section(tome)
