"""What views show of a selection, made only when somebody asks.

Every function here is called from a ``Selection.diagnose``, never while a stage selects: nothing in this file may cost
anything when nobody looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..types import Chart, Diagnostics, Reading, Selection, TextScores, TokenMap
from .ops import required, spread

UNRANKABLE = "No token has a finite score or feature: evenly spaced tokens were kept instead of ranked ones."


def explained(
    score: TokenMap | None = None,
    *,
    non_finite: int,
    of: int,
    facts: Mapping[str, Any] | None = None,
    maps: Sequence[TokenMap] = (),
    charts: Sequence[Chart] = (),
    readings: Sequence[Reading] = (),
    text: TextScores | None = None,
    order_is_basis: bool = False,
    extra_name: str = "",
    warnings: Sequence[str] = (),
) -> Diagnostics:
    """Diagnostics that also say how many of the ``of`` tokens could not be compared, in the facts and as a warning."""
    return Diagnostics(
        score=score,
        maps=tuple(maps),
        charts=tuple(charts),
        readings=tuple(readings),
        text=text,
        order_is_basis=order_is_basis,
        extra_name=extra_name,
        facts={**(facts or {}), "non_finite": non_finite},
        warnings=(*non_finite_warnings(non_finite, of), *warnings),
    )


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
    before = features.float().norm(dim=1)
    after = required(selection.features, "features").float().norm(dim=1)
    direction = "decides nothing; compare it with the length after merging"
    longer = f"{what} of rule sum are about twice as long as before"
    maps = (
        TokenMap("length", "Length of the feature", before, "L2 norm", direction),
        TokenMap(
            "length_after",
            "Length after merging",
            spread(after, selection.kept, len(before), torch.nan),
            "L2 norm",
            longer,
        ),
    )
    chart = Chart(
        "lengths",
        "Length of kept features before and after merging",
        "scatter",
        x=before[selection.kept].tolist(),
        y=after.tolist(),
        tokens=selection.kept.tolist(),
        marked=torch.searchsorted(selection.kept, marked).tolist(),
        x_label="before",
        y_label=f"after ({what} marked)",
    )
    return maps, chart


def over_steps(
    name: str, label: str, values: Tensor, x_label: str, y_label: str, about: int | None = None, **more: Any
) -> Chart:
    """A line over the steps 1, 2, ... of a loop. Shape: values ``(steps,)``."""
    steps = list(range(1, len(values) + 1))
    return Chart(name, label, "line", values.tolist(), steps, x_label=x_label, y_label=y_label, about=about, **more)
