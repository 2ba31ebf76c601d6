"""The numbers behind the picture of a run: a row for every visual token; and tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..comparison import Comparison
from ..errors import BadInput
from ..records import Run
from ..runs.metrics import carriers, distance_map, evidence_tokens
from .overlays import survival_map

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet would compute."""


def patch_rows(comparison: Comparison, run: Run) -> list[dict[str, Any]]:
    """See ``Comparison.patches``."""
    if run.error is not None:
        raise BadInput(f"{run.label} could not run, so it has no patches: {run.error}")
    grid, asked, n = comparison.grid, comparison.request, comparison.grid.n_tokens
    shows = set(evidence_tokens(grid, asked.evidence, asked.evidence_frames))
    survived = survival_map(run, n).values
    carried = carriers(run.stages, n)
    maps = _maps(comparison, run)
    rows = []
    for token in range(n):
        view = grid.views[grid.view[token]] if grid.view[token] >= 0 else None
        is_patch = grid.row[token] >= 0
        box = grid.box[token] or (None, None, None, None)
        rows.append(
            {
                "token": token,
                "view": "" if view is None else view.name,
                "row": grid.row[token] if is_patch else None,
                "column": grid.col[token] if is_patch else None,
                **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
                "fate": "kept" if carried[token] == token else "merged" if carried[token] >= 0 else "dropped",
                "in_token": carried[token] if carried[token] >= 0 else None,
                "stages_survived": int(survived[token] or 0),
                "evidence": token in shows,
                **{name: values[token] for name, values in maps.items()},
            }
        )
    return rows


def _maps(comparison: Comparison, run: Run) -> dict[str, Sequence[float | int | None]]:
    """Every map of every stage and the order of its picks, by a name that no other has."""
    found: dict[str, Sequence[float | int | None]] = {}
    for number, stage in enumerate(run.stages, 1):
        of = f"stage {number}: " if len(run.stages) > 1 else ""
        maps = [one for one in (stage.score, *stage.maps) if one is not None]
        if 0 < len(stage.kept) < stage.n_in:
            maps.append(distance_map(comparison.grid, stage.kept))
        for one in maps:
            name = f"{of}{one.label}" + (f", {one.unit}" if one.unit else "")
            while name in found:
                name += "'"
            found[name] = one.values
        if stage.order is not None:
            found[f"{of}picked at step"] = [step + 1 if step >= 0 else None for step in stage.order]
    return found


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; empty where there is no value. A text cannot become a formula in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(rows[0]) if rows else []
    writer.writerow(map(_cell, names))
    writer.writerows([_cell(row[name]) for name in names] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value
