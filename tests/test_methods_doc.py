"""What docs say about methods is what the methods declare now."""

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


by_id = pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner.id)


def written(pruner):
    return (writer.PAGES / f"{pruner.id}.md").read_text(encoding="utf-8")


def test_the_committed_files_are_current():
    assert writer.DOC.read_text(encoding="utf-8") == writer.methods_doc(), f"docs/methods.md {AGAIN}"
    readme = writer.README.read_text(encoding="utf-8")
    assert writer.with_list(readme) == readme, f"README.md {AGAIN}"
    assert {file.stem for file in writer.PAGES.glob("*.md")} == {pruner.id for pruner in PRUNERS} | {"not-here"}


@by_id
def test_every_method_has_a_page_with_its_declaration(pruner):
    text = written(pruner)
    assert text == writer.page(pruner, text), f"docs/methods/{pruner.id}.md {AGAIN}"
    assert f"[{pruner.label}](methods/{pruner.id}.md)" in writer.methods_doc()
    assert all(param.help in text for param in pruner.params)
    assert pruner.paper is None or pruner.paper.url in text


@by_id
def test_what_stands_below_the_head_is_kept(pruner):
    old = writer.page(pruner, writer.HEAD + "out of date" + writer.TAIL + "by hand\n")
    assert old.endswith(writer.TAIL + "by hand\n")
    assert "out of date" not in old


@by_id
def test_every_published_method_says_where_it_follows_what(pruner):
    by_hand = written(pruner).partition(writer.TAIL)[2]
    assert len(by_hand) > 80
    assert pruner.family == "control" or "## Where paper and code differ\n\n- " in by_hand


@by_id
def test_the_page_and_agents_get_the_notes_without_headings_and_links(pruner):
    from tokviz.ui.api import method_notes

    notes = method_notes(pruner.id)
    assert len(notes) == len(re.findall(r"^- ", written(pruner).partition(writer.TAIL)[2], re.MULTILINE))
    assert not [note for note in notes if "## " in note or re.search(r"\]\(\S+\.md", note) or "\n" in note]


def test_it_names_no_machine():
    assert not re.search(r"/(work|root|home|tmp)/", writer.methods_doc() + "".join(map(written, PRUNERS)))


def test_apet_and_tome_as_examples():
    apet, tome = (writer.head(pruner) for pruner in PRUNERS if pruner.id in ("apet", "tome"))
    assert "| 192 | encoder output, before the projector: 288; before layer 16: 96 | 96 | 192.0 | 186.0 |" in apet
    assert "- `mode` (**paper** / official):" in apet
    assert "| 192 | inside vision layers 0 to 22: 559, 542, … 192 | 192 | 192.0 | 192.0 |" in tome
