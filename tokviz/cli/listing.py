"""``methods`` and ``models``: what there is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..render.tables import cell, new_table
from .terminal import out

if TYPE_CHECKING:
    from ..pruners.pruner import Param


def add_to(commands: Any) -> None:
    """Declare both commands."""
    _add_methods(commands)
    _add_models(commands)


def _add_methods(commands: Any) -> None:
    parser = commands.add_parser("methods", help="what there is, what each needs, its parameters")
    parser.set_defaults(run=run_methods)


def run_methods(arguments: argparse.Namespace) -> int:
    """Print every method with family, needed signals, parameters and claim."""
    from ..pruners import methods

    table = new_table(
        "Methods",
        ("id", "left"),
        ("family", "left"),
        ("needs", "left"),
        ("parameters", "left"),
        ("what it does", "left"),
    )
    for pruner in methods():
        nothing = "–" if pruner.family == "control" else "features only"
        needs = ", ".join(dict.fromkeys(need.kind.replace("_", " ") for need in pruner.needs)) or nothing
        params = ", ".join(f"{param.name}={_default(param)}" for param in pruner.params) or "–"
        table.add_row(
            cell(pruner.id, "bold"),
            cell(pruner.family.replace("-", " ")),
            cell(needs),
            cell(params),
            cell(pruner.claim),
        )
    out().print(table)
    return 0


def _default(param: Param) -> str:
    if param.kind == "choice":
        return "|".join([str(param.default), *(choice for choice in param.choices if choice != param.default)])
    return str(param.default).lower() if param.kind == "bool" else f"{param.default:g}"


def _add_models(commands: Any) -> None:
    parser = commands.add_parser("models", help="the menu of models")
    parser.set_defaults(run=run_models)


def run_models(arguments: argparse.Namespace) -> int:
    """Print the catalog of models: what each needs, takes and is; the memory is estimated."""
    from ..models.catalog import CATALOG, EMBEDDED

    table = new_table(
        "Models (GB are estimated)", ("id", "left"), ("family", "left"), ("size", "right"), ("GB, bf16", "right"),
        ("GB, 4 bits", "right"), ("takes", "left"), ("licence", "left"), ("revision", "left"), ("note", "left"),
    )  # fmt: skip
    table.columns[0].no_wrap = True  # ids are copied
    for entry in CATALOG:
        here = entry.id in EMBEDDED
        memory = [f"{gb:.1f}" if gb else "< 1" for gb in (entry.memory_gb, entry.memory_gb_4bit)]
        revision = entry.revision[:8] if entry.revision else "here" if here else "newest"
        table.add_row(
            cell(entry.id, "bold"), cell(entry.family), cell(entry.size or "–"), *(cell(gb) for gb in memory),
            cell(" ".join(entry.takes)), cell(entry.licence), cell(revision), cell(entry.note),
        )  # fmt: skip
    out().print(table)
    return 0
