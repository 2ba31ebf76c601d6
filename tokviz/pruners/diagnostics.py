"""What views show of a selection, made only when somebody asks.

Every function here is called from a ``Selection.diagnose``, never while a stage selects: nothing in this file may cost
anything when nobody looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..types import Chart, Diagnostics, Selection, TokenMap
from .ops import required, spread

UNRANKABLE = "No token has a finite score or feature: evenly spaced tokens were kept instead of ranked ones."


def explained(
    score: TokenMap | None = None,
    *,
    non_finite: int,
    of: int,
    facts: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    **shown: Any,
) -> Diagnostics:
    """Diagnostics that also say how many of the ``of`` tokens could not be compared, in the facts and as a warning.

    shown: The other fields of ``Diagnostics``.
    """
    facts = {**(facts or {}), "non_finite": non_finite}
    warnings = (*non_finite_warnings(non_finite, of), *warnings)
    fixed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in shown.items()}
    return Diagnostics(score, facts=facts, warnings=warnings, **fixed)


def non_finite_warnings(non_finite: int, n: int) -> tuple[str, ...]:
    """The sentence for the user when ``non_finite`` of ``n`` tokens could not be ranked; empty when all could."""
    if non_finite == 0:
        return ()
    return (f"{non_finite} of {n} tokens have a score or feature that is not finite; NaN was ranked last.",)


def group_sizes(selection: Selection, n: int, direction: str = "0 is dropped") -> TokenMap:
    """How many tokens each kept one carries, itself included. Shape: values ``(n,)``."""
    carried = selection.kept if selection.assignment is None else selection.assignment
    sizes = torch.bincount(carried[carried >= 0], minlength=n).float()
    return TokenMap("group_size", "Tokens merged into one", sizes, unit="tokens", direction=direction)


def lengths(features: Tensor, selection: Selection, marked: Tensor, what: str) -> tuple[tuple[TokenMap, ...], Chart]:
    """Lengths of the features before and after merging, as maps and as a chart with the tokens ``marked (m,)``.

    what: the marked tokens in a word or two. Shape: features ``(N, D)``, those that the stage was given.
    """
    kept, before = selection.kept, features.float().norm(dim=1)
    after = required(selection.features, "features").float().norm(dim=1)
    compared = "decides nothing; compare it with the length after merging"
    longer = f"{what} of rule sum are about twice as long as before"
    everywhere = spread(after, kept, len(before), torch.nan)
    maps = (
        TokenMap("length", "Length of the feature", before, "L2 norm", compared),
        TokenMap("length_after", "Length after merging", everywhere, "L2 norm", longer),
    )
    label, numbers = "Length of kept features before and after merging", torch.searchsorted(kept, marked).tolist()
    x_label, y_label, x, y = "before", f"after ({what} marked)", before[kept].tolist(), after.tolist()
    return maps, Chart(
        "lengths", label, "scatter", y, x, x_label=x_label, y_label=y_label, tokens=kept.tolist(), marked=numbers
    )


def lines_per_view(
    name: str, label: str, views: Sequence[tuple[Tensor, Tensor]], x_label: str, y_label: str
) -> list[Chart]:
    """A line over the steps 1, 2, ... of a loop for each view in which it went on; ``name`` has a {} for its number.

    Shape: views, for each its rows ``(n_v,)`` and the values of the steps ``(steps,)``.
    """
    return [
        Chart(
            name.format(number),
            label,
            "line",
            y=values.tolist(),
            x=list(range(1, len(values) + 1)),
            x_label=x_label,
            y_label=y_label,
            about=int(rows[0]) if len(views) > 1 else None,
        )
        for number, (rows, values) in enumerate(views)
        if len(values)
    ]
