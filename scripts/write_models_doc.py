"""Write ``docs/models.md``, a page per family and README's list from what ``tokviz/models`` declares.

    python -m scripts.write_models_doc

Run it after a change to a family or its menu entries; a test checks that the committed files are what it writes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from tokviz.models.base import ModelFamily
from tokviz.models.catalog import CATALOG, EMBEDDED_MODEL, CatalogEntry
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.families import FAMILIES
from tokviz.pruners import PRUNERS, Pruner
from tokviz.types import PlanningInfo

ROOT = Path(__file__).resolve().parents[1]
DOC, README, PAGES = ROOT / "docs" / "models.md", ROOT / "README.md", ROOT / "docs" / "families"
BEGIN, END = "<!-- models: written by scripts/write_models_doc.py -->\n", "<!-- end of models -->\n"

INTRODUCTION = """\
# Models

Written by `python -m scripts.write_models_doc` from `tokviz/models`, one file per family. A family declares where the
visual tokens are (which patches of which crop or frame each one covers) and knows nothing about methods; methods decide
what to keep and know nothing about families.

Any checkpoint of these architectures can be loaded: a Hub id, an entry of the menu below, or a local folder
(`tokviz.load("folder")`, `TOKVIZ_MODEL=folder make run`). Other architectures are refused with an error that names
them. `trust_remote_code` is never enabled.

## Families
"""
OUTRO = """\

## What is tested and what is not

Every family is tested on tiny stock models with random weights and on the real processors with small settings. The
tests check that pruning before and inside the LLM equals masked attention on the full sequence, that keeping everything
gives the stock model bit for bit, that each token's box is where a gradient image says it is (within 0.06 of a cell),
and that every method that a family can run does so end to end, from a local folder to an answer. The published
checkpoints themselves were not available to us: memory is estimated from their sizes, and if no revision is given, the
newest one on the Hub is loaded.
"""


def docs() -> str:
    """The whole of ``docs/models.md``."""
    return INTRODUCTION + "\n" + _families() + "\n" + _menu() + OUTRO


def pages() -> dict[str, str]:
    """A page for every family, by its id."""
    return {family.id: _page(family) for family in FAMILIES.values()}


def _page(family: ModelFamily) -> str:
    info = _planning(family)
    module = type(family).__module__.replace(".", "/") + ".py"
    patches = "several patches are merged into one token after it" if info.merges_patches else "one patch is one token"
    facts = [
        f"answers about {_media(family.takes)}",
        f"vision tower: {patches}; methods that rank by attention use "
        + ("[CLS] attention" if info.has_cls else "the attention that each patch receives, as there is no [CLS]"),
        "merging inside the tower: "
        + ("no" if info.merges_patches or info.n_vision_layers is None else f"in {info.n_vision_layers} layers"),
        "positions: "
        + ("as published for each method" if family.reindexes else "kept, because they have several axes"),
        f"published settings: {info.published_as or 'none of its own; those of other models are scaled in proportion'}",
    ]
    refused = [f"- {why}" for _, why in _refused(family)]
    lines = [
        "<!-- written by scripts/write_models_doc.py -->",
        f"# `{family.id}`",
        "",
        _first_paragraph(family),
        "",
        *(f"- {fact}" for fact in facts),
        f"- source: `{module}`",
        "",
        "## On the menu",
        "",
        "| id | size | bfloat16, GB | 4-bit, GB | answers about | revision | licence |",
        "|---|---|---|---|---|---|---|",
        *(_entry(entry) for entry in family.catalog),
        "",
        "Memory is estimated. Any other checkpoint of this `model_type` can be loaded too, from the Hub or a folder.",
        "",
        "## Methods it cannot run",
        "",
        *(refused or ["None."]),
        *_on_one_kind_only(family),
    ]
    return "\n".join(lines) + "\n"


def _planning(family: ModelFamily) -> PlanningInfo:
    return next(info for entry in family.catalog if (info := planning_before_loading(entry.id)) is not None)


def _kinds(family: ModelFamily) -> dict[str, PlanningInfo]:
    """What a method is asked to plan for, by what the question is about: an image or, if it is taken, a video."""
    info = _planning(family)
    film = replace(info, has_frames=True, has_tiles=False, n_views=max(2, info.n_views))
    return {media: film if media == "video" else info for media in family.takes}


def _refused(family: ModelFamily) -> list[tuple[Pruner, str]]:
    """The methods that run on nothing that the family takes, each with its reason."""
    kinds = list(_kinds(family).values())
    reasons = [(pruner, [pruner.missing(info) for info in kinds]) for pruner in PRUNERS]
    return [(pruner, found[0]) for pruner, found in reasons if found[0] is not None and None not in found]


def _on_one_kind_only(family: ModelFamily) -> list[str]:
    """Of a family that takes images and videos: the methods that run on one of them."""
    kinds = _kinds(family)
    lines = []
    for media, info in kinds.items():
        runs = [
            pruner.label
            for pruner in PRUNERS
            if pruner.missing(info) is None and any(pruner.missing(other) for other in kinds.values())
        ]
        if runs:
            lines += ["", f"On {media}s only: {', '.join(runs)}."]
    return lines


def _families() -> str:
    lines = [
        "| `model_type` | answers about | summary | ranks by | positions | methods it cannot run |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES.values():
        info = _planning(family)
        refused = [pruner.label for pruner, _ in _refused(family)]
        lines.append(
            f"| [`{family.id}`](families/{family.id}.md) | {_media(family.takes)} | {_first_paragraph(family)} | "
            f"{'[CLS] attention' if info.has_cls else 'attention received'} | "
            f"{'as published for each method' if family.reindexes else 'kept: they have several axes'} | "
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
        "Memory is in GB and estimated: weights, the unpruned KV cache of the largest image, one layer's activations.",
        "",
        "| id | size | bfloat16 | 4-bit | answers about | revision | licence |",
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
    """Write all files."""
    DOC.write_text(docs(), encoding="utf-8")
    PAGES.mkdir(exist_ok=True)
    for name, page in pages().items():
        (PAGES / f"{name}.md").write_text(page, encoding="utf-8")
    README.write_text(with_list(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
