"""The ablations of the papers on the embedded model: which variants they need, and what came of them beside the paper.

    python -m tokviz bench ablations

What is varied and what the papers print is in ``papers/``; position bias in ``position_bias.py``. The document is
complete: ``ablation_pages.py`` writes the Markdown page from it alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokviz.pruners import get

from .ablation_pages import page, sentence
from .document import write_with_page
from .measured import Estimate, Measured
from .papers import ABLATIONS, Ablation, Setting
from .plan import Mining
from .position_bias import BUDGET, METHODS, agreement, leanings

FORMAT = 3
"""3: made from mined runs."""

REFERENCE = "reference"
NOT_IN_PAPER = "differs; not in the paper"
AGREES = "agrees"
DISAGREES = "disagrees"
ONLY_HERE = "differs; equal in the paper"
UNDECIDED = "no difference that these questions could show"
UNCHANGED = "no effect: the same outcome in every question"
UNDEFINED = "undefined"
"""Verdicts on a setting beside the paper."""


def minings() -> list[Mining]:
    """Everything that the ablations need, a run for each budget, nothing twice."""
    wanted: dict[int, list[tuple[str, Mapping[str, Any]]]] = {}
    for ablation in ABLATIONS:
        wanted.setdefault(ablation.budget, []).extend((ablation.method, s.params) for s in ablation.settings)
    wanted.setdefault(BUDGET, []).extend((method.id, method.params) for method in METHODS)
    return [
        Mining(f"at-{budget}", tuple(pair for n, pair in enumerate(pairs) if pair not in pairs[:n]), (budget,))
        for budget, pairs in sorted(wanted.items())
    ]


def document(measured: Mapping[str, Measured], about: Mapping[str, Any]) -> dict[str, Any]:
    """Compute everything, as JSON data. None is what is undefined.

    measured: the runs of ``minings`` by name; a run that is not there yet is told. about: ``command.about``.
    """
    why = {(left["label"], left["budget"]): left["why"] for left in about["left_out"]}
    first = next(iter(measured.values()))
    at_budget = measured.get(f"at-{BUDGET}")
    positions = leanings(at_budget) if at_budget is not None else []
    found: dict[str, Any] = without_nan(
        {
            "format": FORMAT,
            "about": {**about},
            "questions": first.results.n,
            "images": len(set(first.results.images)),
            "families": list(first.families),
            "unpruned": first.by_family(first.results.unpruned),
            "ablations": [ablation_result(each, measured.get(f"at-{each.budget}"), why) for each in ABLATIONS],
            "positions": [{**asdict(row), "verdict": agreement(row)} for row in positions],
        }
    )
    return found


def without_nan(value: Any) -> Any:
    """The same document with None for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def ablation_result(
    ablation: Ablation, measured: Measured | None, why: Mapping[tuple[str, int | None], str]
) -> dict[str, Any]:
    """What came of every setting of an ablation, beside the paper, and a sentence that says it.

    why: label and budget of methods that were left out -> the reason; the budget is None where it does not matter.
    """
    found: dict[str, Any] = {
        "id": ablation.id,
        "title": ablation.title,
        "varies": ablation.varies,
        "source": f"{ablation.table.paper}, {ablation.table.table}",
        "on": ablation.on,
        "claim": ablation.claim,
        "reference": ablation.reference,
        "paper_unpruned": ablation.table.columns(ablation.table.unpruned),
        "settings": [_setting(ablation, setting, measured, why) for setting in ablation.settings],
        "notes": list(ablation.notes),
        "may_withdraw": ablation.may_withdraw,
    }
    return {**found, "sentence": sentence(found)}


def _setting(
    ablation: Ablation, setting: Setting, measured: Measured | None, why: Mapping[tuple[str, int | None], str]
) -> dict[str, Any]:
    paper = {
        "name": setting.name,
        "method": ablation.method,
        "params": dict(setting.params),
        "budget": ablation.budget,
        "paper": None if setting.printed is None else ablation.table.columns(setting.printed),
        "paper_mean": ablation.paper_mean(setting),
        "paper_difference": ablation.paper_difference(setting),
        "paper_direction": ablation.paper_direction(setting),
    }
    key = None if measured is None else measured.key(ablation.method, setting.params)
    if measured is None or key is None or not len(measured.results.by_seed(key, ablation.budget)):
        label = get(ablation.method).label
        reasons = [why[place] for place in ((label, ablation.budget), (label, None)) if place in why]
        return {**paper, "left_out": reasons[0] if reasons else "It was not mined."}
    return {**paper, **_result(ablation, setting, measured, key)}


def _result(ablation: Ablation, setting: Setting, measured: Measured, key: str) -> dict[str, Any]:
    """What came of a setting that was run.

    accuracy: percent per family. retained: mean retention with its interval. difference: that minus the reference's,
    paired by image; None for the reference itself. kept, average: tokens left at the end and per layer. none_kept:
    share of the answers at whose end no visual token was left. verdict: beside the paper.
    """
    results, budget = measured.results, ablation.budget
    points, means = results.points(key, budget), measured.means(key, budget)
    difference, verdict = None, REFERENCE
    if setting.name != ablation.reference:
        reference, unchanged = measured.key(ablation.method, ablation.reference_setting.params), False
        if reference is not None:
            difference = measured.retained((points - results.points(reference, budget))[None])[0]
            unchanged = _same_rows(measured, key, reference, budget)
        verdict = judged(ablation.paper_direction(setting), difference, unchanged)
    return {
        "accuracy": measured.by_family(points),
        "retained": measured.retained(points[None])[0],
        "difference": difference,
        "kept": means["n_final"],
        "average": means["average_tokens"],
        "none_kept": means["none_left"],
        "verdict": verdict,
    }


def _same_rows(measured: Measured, one: str, other: str, budget: int) -> bool:
    """Whether two settings gave the same answer and kept the same tokens in every case."""
    columns = ["case_id", "seed", "answer", "kept", "n_final", "average_tokens"]
    rows = measured.rows
    rows = rows[rows["budget"] == budget]
    pair = [rows[rows["method"] == key][columns].reset_index(drop=True) for key in (one, other)]
    return bool(pair[0].equals(pair[1]))


def judged(direction: int | None, difference: Estimate | None, unchanged: bool) -> str:
    """Our difference beside the paper's direction: 1 above its reference, -1 below, 0 equal, None not said."""
    if unchanged:
        return UNCHANGED
    low, high = (None, None) if difference is None else (difference["low"], difference["high"])
    if low is None or high is None:
        return UNDEFINED
    if low <= 0 <= high:
        return UNDECIDED
    if direction is None:
        return NOT_IN_PAPER
    if direction == 0:
        return ONLY_HERE
    return AGREES if (low > 0) == (direction > 0) else DISAGREES


def write(found: dict[str, Any], folder: Path, docs: Path | None = None) -> list[Path]:
    """Write ``ablations.md`` and ``ablations.json`` to ``folder``, and the former to ``docs`` too; return the paths."""
    return write_with_page("ablations", found, page(found), folder, docs)
