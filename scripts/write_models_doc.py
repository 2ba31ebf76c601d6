"""Write ``docs/models.md`` and README's list of families from what ``tokviz/models`` declares.

    python -m scripts.write_models_doc

Run it after a change to a family or its menu entries; a test checks that the committed files are what it writes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokviz.models.catalog import CATALOG, EMBEDDED_MODEL, CatalogEntry
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.families import FAMILIES
from tokviz.pruners import PRUNERS

ROOT = Path(__file__).resolve().parents[1]
DOC, README = ROOT / "docs" / "models.md", ROOT / "README.md"
BEGIN, END = "<!-- models: written by scripts/write_models_doc.py -->\n", "<!-- end of models -->\n"

INTRODUCTION = """\
# Models

Written by `python -m scripts.write_models_doc` from `tokviz/models`, one file per family. A family says where visual
tokens lie (which patches of which crop or frame each one is), and nothing about methods; methods say what to keep, and
nothing about families.

Any checkpoint of these architectures loads: an id of the hub, an entry of the menu below, or a local folder
(`tokviz.load("folder")`, `TOKVIZ_MODEL=folder make run`). Another architecture is refused by name.
`trust_remote_code` is never on.

## Families
"""
OUTRO = """\

## What is measured and what is not

Every family is tested on tiny stock models with random weights and on the real processors with small settings: pruning
before and inside the LLM equals masked attention on the full sequence, keeping everything is the stock model bit for
bit, each token's box is where a gradient image says (under 0.06 of a cell), and every method runs from a local folder
to an answer. The published checkpoints themselves were not at hand: memory is an estimate from the sizes, and where no
revision is given the newest one of the hub is loaded.
"""


def docs() -> str:
    """The whole of ``docs/models.md``."""
    return INTRODUCTION + "\n" + _families() + "\n" + _menu() + OUTRO


def _families() -> str:
    lines = [
        "| `model_type` | answers about | in short | ranks by | positions | methods refused |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES.values():
        infos = [planning_before_loading(entry.id) for entry in family.catalog]
        info = next(info for info in infos if info is not None)
        refused = [pruner.label for pruner in PRUNERS if pruner.missing(info) is not None]
        lines.append(
            f"| `{family.id}` | {_media(family.takes)} | {_first_paragraph(family)} | "
            f"{'[CLS] attention' if info.has_cls else 'attention received'} | "
            f"{'each method as published' if family.reindexes else 'kept: they have several axes'} | "
            f"{', '.join(refused) or 'none'} |"
        )
    return "\n".join(lines) + "\n"


def _first_paragraph(family: object) -> str:
    module = type(family).__module__
    alone = sum(type(other).__module__ == module for other in FAMILIES.values()) == 1
    text = (sys.modules[module] if alone else type(family)).__doc__ or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`")


def _media(takes: tuple[str, ...]) -> str:
    return " and ".join(f"{media}s" for media in takes)


def _menu() -> str:
    lines = [
        "## The menu",
        "",
        "Memory in GB is estimated: weights, the unpruned KV cache of the largest image and one block's activations.",
        "",
        "| id | size | bfloat16 | 4 bits | asks about | revision | licence |",
        "|---|---|---|---|---|---|---|",
        *(_entry(entry) for entry in CATALOG),
    ]
    return "\n".join(lines) + "\n"


def _entry(entry: CatalogEntry) -> str:
    memory = ["–" if not gb else f"{gb:g}" for gb in (entry.memory_gb, entry.memory_gb_4bit)]
    revision = f"`{entry.revision[:10]}`" if entry.revision else "newest"
    if entry.config is None:
        revision = "in the repository"
    return (
        f"| `{entry.id}` | {entry.size or '–'} | {memory[0]} | {memory[1]} | {_media(entry.takes)} | {revision} | "
        f"{entry.licence} |"
    )


def with_list(readme: str) -> str:
    """README with the list of families between its marks as it has to be now."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    lines = ["| family | answers about | on the menu |", "|---|---|---|"]
    for family in FAMILIES.values():
        # The embedded models are told of elsewhere.
        labels = [entry.label for entry in family.catalog if not entry.id.startswith(EMBEDDED_MODEL)]
        lines.append(f"| `{family.id}` | {_media(family.takes)} | {', '.join(labels)} |")
    return before + BEGIN + "\n".join(lines) + "\n" + END + after


def main() -> None:
    """Write both files."""
    DOC.write_text(docs(), encoding="utf-8")
    README.write_text(with_list(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
