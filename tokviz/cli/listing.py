"""``methods`` and ``models``: what there is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..viz.tables import cell, new_table
from .terminal import out

if TYPE_CHECKING:
    from ..pruners.pruner import Param


def add_to(commands: Any) -> None:
    """Declare both commands."""
    methods = commands.add_parser("methods", help="what there is, what each needs, its parameters")
    methods.set_defaults(run=run_methods)
    models = commands.add_parser("models", help="the menu of models")
    models.set_defaults(run=run_models)


def run_methods(arguments: argparse.Namespace) -> int:
    """Print every method with family, needed signals, parameters and claim."""
    from ..pruners import methods

    table = new_table("Methods", "id", "family", "needs", "parameters", "what it does")
    for pruner in methods():
        nothing = "–" if pruner.family == "control" else "features only"
        needs = ", ".join(dict.fromkeys(need.kind.replace("_", " ") for need in pruner.needs)) or nothing
        params = ", ".join(f"{param.name}={_default(param)}" for param in pruner.params) or "–"
        rest = (pruner.family.replace("-", " "), needs, params, pruner.claim)
        table.add_row(cell(pruner.id, "bold"), *map(cell, rest))
    out().print(table)
    return 0


def _default(param: Param) -> str:
    if param.kind == "choice":
        return "|".join([str(param.default), *(choice for choice in param.choices if choice != param.default)])
    return str(param.default).lower() if param.kind == "bool" else f"{param.default:g}"


def run_models(arguments: argparse.Namespace) -> int:
    """Print the catalog of models: what each needs, takes and is; the memory is estimated."""
    from ..models.catalog import CATALOG, EMBEDDED

    title = "Models (GB are estimated)"
    sizes = (">size", ">GB, bf16", ">GB, 4 bits")
    table = new_table(title, "id", "family", *sizes, "takes", "licence", "revision", "note")
    table.columns[0].no_wrap = True  # ids are copied
    for entry in CATALOG:
        here = entry.id in EMBEDDED
        memory = [f"{gb:.1f}" if gb else "< 1" for gb in (entry.memory_gb, entry.memory_gb_4bit)]
        revision = entry.revision[:8] if entry.revision else "here" if here else "newest"
        rest = (entry.family, entry.size or "–", *memory, " ".join(entry.takes), entry.licence, revision, entry.note)
        table.add_row(cell(entry.id, "bold"), *map(cell, rest))
    out().print(table)
    return 0
