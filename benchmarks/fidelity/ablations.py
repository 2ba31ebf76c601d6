"""The ablations of the papers on the embedded model: which variants they need, and what came of them beside the paper.

    python -m tokviz bench ablations

What is varied and what the papers print is in ``papers/``; position bias in ``position_bias.py``. The document is
complete: ``ablation_pages.py`` writes the Markdown page from it alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tokviz.errors import BadInput
from tokviz.files import write_whole

from .ablation_pages import page, sentence
from .outcomes import FAMILIES, FULL, About, Variant
from .papers import ABLATIONS, Ablation, Setting
from .position_bias import METHODS, TRUTH, Leaning, agreement, evidence_places, leanings, places
from .retained import Measured, Outcomes, measure
from .statistics import mean
from .summary import without_nan

FORMAT = 2
"""2: with the notes of each ablation, and whether it may withdraw all tokens."""

NO_PRUNING = Variant(FULL, {}, "No pruning", None)
SEED = 0
"""Of the bootstrap."""

REFERENCE = "reference"
NOT_IN_PAPER = "differs; not in the paper"
AGREES = "agrees"
DISAGREES = "disagrees"
ONLY_HERE = "differs; equal in the paper"
UNDECIDED = "no difference that these questions could show"
UNCHANGED = "no effect: the same outcome in every question"
UNDEFINED = "undefined"
"""Verdicts on a setting beside the paper."""


def variants() -> list[Variant]:
    """Everything that the ablations need, the unpruned model first, nothing twice."""
    settings = (setting.variant for ablation in ABLATIONS for setting in ablation.settings)
    ranked = (method.variant for method in METHODS if method.variant is not None)
    return list(dict.fromkeys([NO_PRUNING, *settings, *ranked]))


def write(outcomes: Outcomes, about: About, folder: Path, docs: Path | None = None) -> list[Path]:
    """Write ``ablations.md`` and ``ablations.json`` to ``folder``, and the former to ``docs`` too.

    outcomes: by variant, those of ``variants()`` that the model allows. Raises BadInput when the unpruned model or
    shared questions are missing.
    """
    found = document(outcomes, about)
    texts = {folder / "ablations.json": json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"}
    for place in (folder, docs):
        if place is not None:
            texts[place / "ablations.md"] = page(found)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    return list(texts)


def document(outcomes: Outcomes, about: About) -> dict[str, Any]:
    """Compute everything, as JSON data, on the questions that all variants of the ablations have.

    None is what is undefined. Raises BadInput, see ``write``.
    """
    measured = measure({variant: outcomes[variant] for variant in variants() if variant in outcomes}, seed=SEED)
    why = {(left["label"], left["budget"]): left["why"] for left in about["left_out"]}
    seeds = sorted({outcome.seed for outcome in measured.outcomes[0]})
    unpruned = measured.accuracy[measured.full]
    whole = {
        "format": FORMAT,
        "about": {**about},
        "questions": len(measured.outcomes[0]),
        "scenes": len(seeds),
        "families": [name for name, counted in zip(FAMILIES, measured.answerable, strict=True) if counted],
        "unpruned": _in_percent(unpruned),
        "ablations": [ablation_result(ablation, measured, why) for ablation in ABLATIONS],
        "positions": [{**asdict(row), "verdict": agreement(row)} for row in _positions(measured, seeds, about)],
    }
    found: dict[str, Any] = without_nan(whole)
    return found


def _in_percent(accuracy: Sequence[float]) -> dict[str, float]:
    return {family: 100 * float(share) for family, share in zip(FAMILIES, accuracy, strict=True)}


def _positions(measured: Measured, seeds: Sequence[int], about: About) -> list[Leaning]:
    outcomes, n_visual = dict(zip(measured.variants, measured.outcomes, strict=True)), about["n_visual"]
    rows = [(m, places(outcomes[m.variant])) for m in METHODS if m.variant in outcomes]
    if not rows:
        return []
    return leanings([*rows, (TRUTH, evidence_places(seeds, n_visual))], seeds, n_visual, np.random.default_rng(SEED))


def ablation_result(
    ablation: Ablation, measured: Measured, why: Mapping[tuple[str, int | None], str]
) -> dict[str, Any]:
    """What came of every setting of an ablation, beside the paper, and a sentence that says it.

    why: label and budget of variants that were left out -> the reason; the budget is None where it does not matter.
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
    ablation: Ablation, setting: Setting, measured: Measured, why: Mapping[tuple[str, int | None], str]
) -> dict[str, Any]:
    variant = setting.variant
    paper = {
        "name": setting.name,
        "method": variant.method,
        "params": dict(variant.params),
        "budget": variant.budget,
        "paper": None if setting.printed is None else ablation.table.columns(setting.printed),
        "paper_mean": ablation.paper_mean(setting),
        "paper_difference": ablation.paper_difference(setting),
        "paper_direction": ablation.paper_direction(setting),
    }
    if variant in measured.variants:
        return {**paper, **_result(ablation, setting, measured)}
    reasons = [why[key] for key in ((variant.label, variant.budget), (variant.label, None)) if key in why]
    return {**paper, "left_out": reasons[0] if reasons else "There are no outcomes of it."}


def _result(ablation: Ablation, setting: Setting, measured: Measured) -> dict[str, Any]:
    """What came of a setting that was run.

    accuracy: percent per family. retained: mean retention with its interval. difference: that minus the reference's,
    paired by scene; None for the reference itself. kept, average: means over the questions, see ``Outcome``. none_kept:
    share of the questions at whose end no visual token was left. verdict: beside the paper.
    """
    v, reference = measured.variants.index(setting.variant), ablation.reference_setting.variant
    mine, difference, verdict = measured.outcomes[v], None, REFERENCE
    if setting.name != ablation.reference:
        unchanged = False
        if reference in measured.variants:
            other = measured.variants.index(reference)
            difference = measured.difference(v, other)
            unchanged = mine == measured.outcomes[other]
        verdict = judged(ablation.paper_direction(setting), difference, unchanged)
    return {
        "accuracy": _in_percent(measured.accuracy[v]),
        "retained": measured.of(v),
        "difference": difference,
        "kept": mean(outcome.kept for outcome in mine),
        "average": mean(outcome.average for outcome in mine),
        "none_kept": mean(outcome.kept == 0 for outcome in mine),
        "verdict": verdict,
    }


def judged(direction: int | None, difference: Mapping[str, float] | None, unchanged: bool) -> str:
    """Our difference beside the paper's direction: 1 above its reference, -1 below, 0 equal, None not said."""
    if unchanged:
        return UNCHANGED
    if difference is None or math.isnan(difference["low"]):
        return UNDEFINED
    if difference["low"] <= 0 <= difference["high"]:
        return UNDECIDED
    if direction is None:
        return NOT_IN_PAPER
    if direction == 0:
        return ONLY_HERE
    return AGREES if (difference["low"] > 0) == (direction > 0) else DISAGREES


def read(path: Path) -> dict[str, Any]:
    """Read ``ablations.json``. Raises BadInput for another format version."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise BadInput(f"{str(path)!r} is no document of ablations of format {FORMAT}.")
    return found
