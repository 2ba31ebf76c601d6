"""The ablations of the papers on the embedded model: which variants they need, and what came of them.

    python -m tokviz bench ablations

What is varied and what the papers print is in ``ablation_papers.py``; position bias in ``position_bias.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tokviz.errors import BadInput
from tokviz.files import write_whole

from .ablation_papers import ABLATIONS
from .ablation_results import NO_PRUNING, SEED, AblationResult, Paired, Report, Result, ablation_result, measure
from .ablation_tables import document
from .outcomes import FAMILIES, About, Outcome, Variant, shared_questions
from .position_bias import METHODS, TRUTH, Leaning, agreement, evidence_places, leanings, places
from .summary import without_nan

FORMAT = 1


def variants() -> list[Variant]:
    """Everything that the ablations need, the unpruned model first, nothing twice."""
    settings = (setting.variant for ablation in ABLATIONS for setting in ablation.settings)
    ranked = (method.variant for method in METHODS if method.variant is not None)
    return list(dict.fromkeys([NO_PRUNING, *settings, *ranked]))


def write(
    outcomes: Mapping[Variant, Sequence[Outcome]], about: About, folder: Path, docs: Path | None = None
) -> list[Path]:
    """Write ``ablations.md`` and ``ablations.json`` to ``folder``, and the former to ``docs`` too.

    outcomes: by variant, those of ``variants()`` that the model allows. Raises BadInput when the unpruned model or
    shared questions are missing.
    """
    report = make_report(outcomes, about)
    stored = json.dumps(as_json(report), indent=1, allow_nan=False, ensure_ascii=False)
    texts = {folder / "ablations.json": stored + "\n"}
    for place in (folder, docs):
        if place is not None:
            texts[place / "ablations.md"] = document(report)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    return list(texts)


def make_report(outcomes: Mapping[Variant, Sequence[Outcome]], about: About) -> Report:
    """Compute everything on the questions that all variants of the ablations have. Raises BadInput, see ``write``."""
    paired = _paired({variant: outcomes[variant] for variant in variants() if variant in outcomes})
    measured = measure(paired)
    why = {(left["label"], left["budget"]): left["why"] for left in about["left_out"]}
    seeds = sorted({outcome.seed for outcome in paired[NO_PRUNING]})
    return Report(
        about=about,
        questions=len(paired[NO_PRUNING]),
        scenes=len(seeds),
        families=[name for name, counted in zip(FAMILIES, measured.answerable, strict=True) if counted],
        unpruned=[100 * float(share) for share in measured.accuracy[measured.index[NO_PRUNING]]],
        ablations=[ablation_result(ablation, paired, measured, why) for ablation in ABLATIONS],
        positions=_positions(paired, seeds, about["n_visual"]),
    )


def _paired(outcomes: Mapping[Variant, Sequence[Outcome]]) -> Paired:
    """The questions that all variants have, in the same order."""
    if NO_PRUNING not in outcomes:
        raise BadInput("The ablations need the outcomes of the unpruned model; run the benchmark with it.")
    ids = shared_questions(outcomes)
    if not ids:
        raise BadInput("The variants of the ablations have no question in common; run the benchmark again.")
    by_id = {variant: {outcome.id: outcome for outcome in each} for variant, each in outcomes.items()}
    return {variant: [each[question] for question in ids] for variant, each in by_id.items()}


def _positions(paired: Paired, seeds: Sequence[int], n_visual: int) -> list[Leaning]:
    rows = [(m, places(paired[m.variant])) for m in METHODS if m.variant is not None and m.variant in paired]
    if not rows:
        return []
    return leanings([*rows, (TRUTH, evidence_places(seeds, n_visual))], seeds, n_visual, np.random.default_rng(SEED))


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON data, None for what is undefined."""
    whole = {
        "format": FORMAT,
        "about": {**report.about},
        "questions": report.questions,
        "scenes": report.scenes,
        "families": list(report.families),
        "unpruned": dict(zip(FAMILIES, report.unpruned, strict=True)),
        "ablations": [_ablation_json(found) for found in report.ablations],
        "positions": [{**asdict(row), "verdict": agreement(row)} for row in report.positions],
    }
    found: dict[str, Any] = without_nan(whole)
    return found


def _ablation_json(found: AblationResult) -> dict[str, Any]:
    ablation, settings = found.ablation, []
    for setting in ablation.settings:
        result = found.results[setting.name]
        entry: dict[str, Any] = {
            "name": setting.name,
            "method": setting.variant.method,
            "params": dict(setting.variant.params),
            "budget": setting.variant.budget,
            "paper": dict(zip(ablation.columns, setting.printed, strict=True)) if setting.printed else None,
            "paper_mean": ablation.paper_mean(setting),
            "paper_difference": ablation.paper_difference(setting),
            "paper_direction": ablation.paper_direction(setting),
        }
        if isinstance(result, Result):
            entry |= {**asdict(result), "accuracy": dict(zip(FAMILIES, result.accuracy, strict=True))}
        else:
            entry["left_out"] = result
        settings.append(entry)
    return {
        "id": ablation.id,
        "title": ablation.title,
        "varies": ablation.varies,
        "source": ablation.source,
        "on": ablation.on,
        "claim": ablation.claim,
        "reference": ablation.reference,
        "paper_unpruned": dict(zip(ablation.columns, ablation.unpruned, strict=True)),
        "settings": settings,
        "sentence": found.sentence,
    }
