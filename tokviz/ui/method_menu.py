"""The menu of methods: one component that holds which are chosen, their parameters, and which the model cannot serve.

It is built from the ``Pruner`` objects alone. What never changes (labels, claims, papers, parameter specs) is handed to
the script once as ``families``; the value holds only what a visitor or a model changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..pruners.pruner import Pruner
from ..types import PlanningInfo
from . import text
from .patch_view import asset
from .payload import UNPRUNED


class MethodMenu(gr.HTML):
    """Checkboxes by family, settings of the chosen methods. The value is the dict of ``menu_value``.

    Gradio makes such an object anew from its arguments on updates, so every argument is plain data with a default.
    ``families`` is the list of the function of that name.
    """

    def __init__(self, value: dict[str, Any] | None = None, *, families: Sequence[Any] = (), **settings: Any):
        super().__init__(
            value=value,
            html_template=asset("method_menu.html"),
            css_template=asset("method_menu.css"),
            js_on_load=asset("method_menu.js"),
            apply_default_css=False,
            families=list(families),
            **settings,
        )

    def api_info(self) -> dict[str, Any]:
        """The value is an object, not a string."""
        return {"type": "object"}


def offered(pruners: Sequence[Pruner]) -> list[Pruner]:
    """The methods that can be chosen, in the order of the menu; the unpruned run is always there and has no entry."""
    order = list(text.FAMILY_LABELS)
    return sorted((p for p in pruners if p.id != UNPRUNED), key=lambda pruner: order.index(pruner.family))


def families(pruners: Sequence[Pruner]) -> list[dict[str, Any]]:
    """What the menu shows, by family: captions, methods with claim and paper, parameter specs."""
    groups: dict[str, dict[str, Any]] = {}
    for pruner in offered(pruners):
        group = groups.setdefault(
            pruner.family,
            {"label": text.FAMILY_LABELS[pruner.family], "why": text.FAMILY_EXPLAINED[pruner.family], "methods": []},
        )
        paper = pruner.paper
        group["methods"].append({
            "id": pruner.id,
            "label": pruner.label,
            "claim": pruner.claim,
            "paper": {"year": paper.year, "url": paper.url, "about": f"{paper.title} ({paper.authors}, {paper.year})"}
            if paper
            else None,
            "params": [{**vars(param), "choices": list(param.choices)} for param in pruner.params],
        })  # fmt: skip
    return list(groups.values())


def menu_value(
    chosen: Sequence[str], params: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]
) -> dict[str, Any]:
    """The menu's whole value. An update may leave keys out: the page keeps what it has."""
    return {"chosen": list(chosen), "params": {k: dict(v) for k, v in params.items()}, "missing": dict(missing)}


def missing_by_method(pruners: Sequence[Pruner], info: PlanningInfo | None) -> dict[str, str]:
    """What each method lacks on a model, as sentences; empty when nothing is known of the model yet."""
    if info is None:
        return {}
    sentences = {pruner.id: pruner.missing(info) for pruner in offered(pruners)}
    return {method: sentence for method, sentence in sentences.items() if sentence is not None}


def read_menu(pruners: Sequence[Pruner], value: Any) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Chosen method ids in the order of the menu, and the parameters of each.

    The value comes from a browser. Raises BadInput when it has not the shape of ``menu_value``; parameter values are
    checked by the methods themselves.
    """
    chosen = value.get("chosen") if isinstance(value, Mapping) else None
    params = value.get("params", {}) if isinstance(value, Mapping) else None
    if not isinstance(chosen, list) or not isinstance(params, Mapping):
        raise BadInput("The page sent no list of methods; please reload it.")
    picked = tuple(pruner.id for pruner in offered(pruners) if pruner.id in chosen)
    given = {method: params.get(method, {}) for method in picked}
    if not all(isinstance(values, Mapping) for values in given.values()):
        raise BadInput("The page sent settings that cannot be read; please reload it.")
    return picked, {method: dict(values) for method, values in given.items()}
