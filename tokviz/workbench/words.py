"""Filters as words, for reports and the command line; the page says the same of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .filters import Filter

_COLUMNS = {
    "cls_entropy": "attention entropy",
    "answer": "unpruned answer",
    "right": "unpruned answer is right",
    "difficult": "downsampling fails",
    "is_video": "video",
    "only_failure": "only it fails",
    "all_failed": "all methods fail",
    "random_beats_it": "random beats it",
    "flipped": "verdict flipped",
}


def filter_words(asked: Filter, labels: Mapping[str, str] | None = None) -> str:
    """A filter in words, not escaped. labels: what methods are called, by key."""
    return "; ".join(condition_words(one, labels or {}) for one in asked.conditions) or "all cases"


def condition_words(condition: Any, labels: Mapping[str, str]) -> str:
    """One condition in words."""
    said = _said(condition, labels)
    return f"not ({said})" if condition.negate else said


def _said(condition: Any, labels: Mapping[str, str]) -> str:
    column = getattr(condition, "column", "")
    name = _COLUMNS.get(column, column.replace("_", " "))
    at = (
        f"{labels.get(condition.method, condition.method)} at {condition.budget}"
        if hasattr(condition, "method")
        else ""
    )
    match condition.kind:
        case "is":
            return f"{name}: {' or '.join('none' if value is None else value for value in condition.values)}"
        case "bool":
            words = {True: "yes", False: "no", None: "not known"}
            return f"{name}: {' or '.join(words[value] for value in condition.values)}"
        case "range":
            return f"{name} {_ends(condition)}"
        case "outcome":
            seeds = "" if condition.seeds == "most" else f" ({condition.seeds} seeds)"
            return f"{at} {' or '.join(condition.results)}{seeds}"
        case "measure":
            return f"{at}: {name} {_ends(condition)}"
        case "flag":
            return f"{at}: {'' if condition.value else 'not '}{name}"
        case "text":
            return f"“{condition.text}”" + ("" if condition.where == "all" else f" in {condition.where}")
        case "tag" | "status":
            return f"{condition.kind}: {' or '.join(condition.values)}"
        case "cases":
            return f"{len(condition.ordinals):,} chosen cases"
        case "any":
            return " or ".join(condition_words(one, labels) for one in condition.of)
        case "note":
            return "has a note"
        case _:
            return "inside the lasso"


def _ends(condition: Any) -> str:
    low, high = condition.low, condition.high
    if low is None and high is None:
        return "is known"
    if low is None:
        return f"≤ {high:.4g}"
    return f"≥ {low:.4g}" if high is None else f"{low:.4g} – {high:.4g}"
