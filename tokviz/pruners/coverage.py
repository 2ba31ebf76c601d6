"""How well the kept tokens cover the others: the diagram and the number that greedy diverse methods leave."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..types import Chart, Diagnostics, Selection


def with_coverage(selection: Selection) -> Selection:
    """Add the distances at which tokens were picked and the coverage radius to what ``diverse_selection`` returned.

    The radius is the largest distance of any usable token to its nearest kept one (k-center minimises it). The diagram
    starts at the second pick, because the first has nothing to be far from. Unchanged when nothing was picked.
    """
    order = selection.order
    if order is None:
        return selection

    def covered(found: Diagnostics) -> Diagnostics:
        if found.score is None:
            return found
        picks = torch.argsort(order)[-int((order >= 0).sum()) :]
        radius = float(next(m for m in found.maps if m.name == "nearest_kept").values.nan_to_num(0.0).max())
        facts = {**found.facts, "coverage_radius": float(f"{radius:.6g}")}
        if len(picks) < 2:
            return replace(found, facts=facts)
        chart = Chart(
            "distance_over_picks",
            "Distance of each pick to the nearest earlier one",
            "line",
            y=found.score.values[picks[1:]].tolist(),
            x=list(range(2, len(picks) + 1)),
            x_label="pick",
            y_label="cosine distance",
            line=facts["coverage_radius"],
            tokens=picks[1:].tolist(),
        )
        return replace(found, charts=(*found.charts, chart), facts=facts)

    return selection.with_diagnostics(covered)
