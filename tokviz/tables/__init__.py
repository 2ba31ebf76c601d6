"""What a mined run says, as tables: methods by slice and by budget, tests, retention beside what the papers print.

Example:
    >>> results = Results(tokviz.open_run("runs/pope"))
    >>> print(by_slice(results, "family", 64).markdown())
"""

from __future__ import annotations

from .results import CATEGORIES, NUMBERS, Results
from .retention import retention
from .table import Cell, ResultTable, TableRow
from .tabulate import against, by_budget, by_slice

__all__ = [
    "CATEGORIES",
    "NUMBERS",
    "Cell",
    "ResultTable",
    "Results",
    "TableRow",
    "against",
    "by_budget",
    "by_slice",
    "retention",
]
