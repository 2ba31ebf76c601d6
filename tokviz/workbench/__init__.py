"""The failure workbench: a mined run is queried, sliced, tagged and exported. No model, no page: ``ui`` draws it.

Example:
    >>> from tokviz.workbench import Filter, Found, OpenRun, Outcome
    >>> lost = Outcome(method="apet", budget=64, results=("lost",))
    >>> with OpenRun("runs/pope") as run:
    ...     found = Found(run, Filter(conditions=(lost,)))
    ...     print(len(found), found.facets(64, "apet").words["family"])
"""

from __future__ import annotations

from .cards import cards
from .filters import (
    AnyOf,
    Filter,
    HasFlag,
    HasStatus,
    HasTag,
    HasText,
    InLasso,
    IsCase,
    IsOneOf,
    IsTrue,
    MeasureWithin,
    Outcome,
    Sort,
    Within,
)
from .queries import Facets, Found
from .run import OpenRun
from .service import Workbench
from .slices import automatic_slices
from .stored import stored_comparison
from .tabled import result_table
from .tags import Edit, TagStore

__all__ = [
    "AnyOf",
    "Edit",
    "Facets",
    "Filter",
    "Found",
    "HasFlag",
    "HasStatus",
    "HasTag",
    "HasText",
    "InLasso",
    "IsCase",
    "IsOneOf",
    "IsTrue",
    "MeasureWithin",
    "OpenRun",
    "Outcome",
    "Sort",
    "TagStore",
    "Within",
    "Workbench",
    "automatic_slices",
    "cards",
    "result_table",
    "stored_comparison",
]
