"""docs/models.md and README's list are what the families declare now."""

import importlib.util
import re
from pathlib import Path

from tokviz.models.catalog import CATALOG
from tokviz.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("write_models_doc", ROOT / "scripts" / "write_models_doc.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)
AGAIN = "is out of date: run `python -m scripts.write_models_doc`"


def test_the_committed_files_are_current():
    assert writer.DOC.read_text(encoding="utf-8") == writer.docs(), f"docs/models.md {AGAIN}"
    written = {path.stem: path.read_text(encoding="utf-8") for path in writer.PAGES.glob("*.md")}
    assert written == writer.pages(), f"docs/families {AGAIN}"
    readme = writer.README.read_text(encoding="utf-8")
    assert writer.with_list(readme) == readme, f"README.md {AGAIN}"


def test_every_family_and_model_has_a_line_of_whole_cells():
    text = writer.docs()
    for family in FAMILIES.values():
        (line,) = re.findall(rf"^\| \[`{family.id}`\].*$", text, re.MULTILINE)
        assert line.count(" | ") == 5 and "  " not in line
    for entry in CATALOG:
        (line,) = re.findall(rf"^\| `{re.escape(entry.id)}` \|.*$", text, re.MULTILINE)
        assert line.count(" | ") == 6 and line.endswith(f"{entry.licence} |")


def test_it_names_no_machine():
    for text in (writer.docs(), *writer.pages().values()):
        assert not re.search(r"/(work|root|home|tmp)/|https?://", text)
