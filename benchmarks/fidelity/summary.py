"""Everything the fidelity tables say, as one JSON document computed from the outcomes. Text is made from it elsewhere.

The document is complete: ``tables.py`` writes the Markdown pages and ``chart.py`` the chart from it alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tokviz.errors import BadInput
from tokviz.tables.published import published_budget

from . import statistics as stats
from .depth import depth_result, is_depth
from .draws import bands
from .outcomes import BASELINES, CONTROLS, FAMILIES, Outcome, Variant, judged_budget
from .published import Ours, compare
from .retained import Measured, Outcomes, estimate, measure
from .separation import separation

FORMAT = 2
"""2: pooling and downsampling are controls, draws of the controls, methods inside the LLM layer by layer."""
MOST_FREQUENT = "Most frequent answer"


def summarise(
    outcomes: Outcomes, about: Mapping[str, Any], *, resamples: int = stats.RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compute the document.

    Args:
        outcomes: per variant; compared on the questions that all of them have. One of them is the unpruned model.
        about: ``outcomes.About``; further, where given: ``methods`` {id: {"family", "where": {budget: text}}} for the
            columns on types and sites, and ``blind`` {name: {family: share right}} for baselines without the picture.
        resamples, seed: of the bootstrap.

    Raises BadInput without an unpruned run, without shared questions, when the same question differs between variants,
    and when the unpruned model answers nothing right, so that retention has no meaning.
    """
    drawing: dict[str, int] = {"resamples": resamples, "seed": seed}
    tables = {variant: own for variant, own in outcomes.items() if not variant.draw and not is_depth(variant)}
    tables = {variant: own for variant, own in tables.items() if variant.method not in BASELINES or not variant.params}
    measured = measure(tables, **drawing)
    rows = [_row(measured, v, about) for v in range(len(measured.variants))]
    _correct(rows)
    document = {
        "format": FORMAT,
        "about": {**about},
        "families": list(FAMILIES),
        "questions": _questions(measured, tables),
        "families_left_out": [name for name, good in zip(FAMILIES, measured.answerable, strict=True) if not good],
        "bootstrap": {"resamples": resamples, "seed": seed, "level": stats.LEVEL, "cluster": "scene"},
        "rows": rows,
        "blind": _blind(measured, about),
        "families_at_chance": _at_chance(rows[measured.full], measured),
        "bands": bands(outcomes, **drawing),
        "depth": depth_result(outcomes, **drawing),
        "separation": separation(measured, _judged_at(measured.variants, about)),
        "published": compare(_ours(rows, about)),
    }
    return without_nan(document)


def _row(measured: Measured, v: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """One variant: accuracies, retention, F1, evidence, flips, cost in tokens, and how it stands to the controls."""
    variant, own = measured.variants[v], measured.outcomes[v]
    described = about.get("methods", {}).get(variant.method, {})
    gained, lost = stats.discordant(measured.right[v], measured.right[measured.full])
    recalls = [outcome.evidence_recall for outcome in own if outcome.evidence_recall is not None]
    positions = [outcome.position_correlation for outcome in own if outcome.position_correlation is not None]
    return {
        "row": variant.row,
        "method": variant.method,
        "params": dict(variant.params),
        "label": variant.label,
        "budget": variant.budget,
        "type": described.get("family", ""),
        "where": described.get("where", {}).get(str(variant.budget), ""),
        "control": variant.method in CONTROLS,
        "accuracy": _per_family(measured.accuracy[v], measured.accuracy_samples[:, v]),
        "retention": _per_family(measured.families[v], measured.family_samples[:, v]),
        "mean_retention": measured.of(v),
        "existence": _existence(own),
        "against": {c: _against(measured, v, c) for c in BASELINES if variant.budget is not None},
        "evidence_recall": {"mean": stats.mean(recalls), "questions": len(recalls)},
        "flips": {"lost": lost, "gained": gained},
        "kept": stats.mean([outcome.kept for outcome in own]),
        "average": stats.mean([outcome.average for outcome in own]),
        "position_correlation": {"mean": stats.mean(positions), "questions": len(positions)},
    }


def _per_family(values: stats.Floats, samples: stats.Floats) -> dict[str, dict[str, float]]:
    return {family: estimate(values[f], samples[:, f]) for f, family in enumerate(FAMILIES)}


def _existence(own: Sequence[Outcome]) -> dict[str, Any]:
    asked = [outcome for outcome in own if outcome.family == "existence"]
    return asdict(stats.yes_no([o.expected for o in asked], [o.answer for o in asked]))


def _against(measured: Measured, v: int, control: str) -> dict[str, Any] | None:
    """The variant beside a control at the same budget; None for the control itself and where it did not run."""
    other = measured.find(control, measured.variants[v].budget)
    if other is None or other == v:
        return None
    better, worse = stats.discordant(measured.right[v], measured.right[other])
    return {
        "difference": measured.difference(v, other),
        "only_ours": better,
        "only_theirs": worse,
        "p": stats.mcnemar(better, worse),
        "p_holm": None,
    }


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in Holm's correction: over the methods of a budget, for each control apart."""
    for budget in {row["budget"] for row in rows}:
        for control in BASELINES:
            tests = [row["against"].get(control) for row in rows if row["budget"] == budget and not row["control"]]
            found = [test for test in tests if test is not None]
            for test, p in zip(found, stats.holm([test["p"] for test in found]), strict=True):
                test["p_holm"] = p


def _blind(measured: Measured, about: Mapping[str, Any]) -> dict[str, Any]:
    """Baselines that see no picture: the best constant answer per kind of question, and those that ``about`` brings.

    Each with its shares right and what mean retention it would have; a baseline that lacks a family has none.
    """
    baselines = {MOST_FREQUENT: most_frequent(measured.outcomes[0]), **about.get("blind", {})}
    blind = {}
    for name, shares in baselines.items():
        accuracy = np.array([shares.get(family, math.nan) for family in FAMILIES])
        retained = stats.retention(np.stack([measured.accuracy[measured.full], accuracy]), 0)
        mean = float(stats.mean_retention(retained, measured.answerable)[1])
        blind[name] = {"accuracy": dict(shares), "mean_retention": mean}
    return blind


def _at_chance(full: Mapping[str, Any], measured: Measured) -> list[str]:
    """Families where the lower end of the unpruned accuracy's interval is no better than guessing."""
    guessed = most_frequent(measured.outcomes[0])
    return [family for family, share in guessed.items() if full["accuracy"][family]["low"] <= share]


def most_frequent(questions: Sequence[Outcome]) -> dict[str, float]:
    """Share right per family of whoever gives, without a look, the answer that is most often right.

    Known per kind of question, which its first two words name ("what color", "how many"), on these very questions.
    """
    answers: dict[tuple[str, str], Counter[str]] = {}
    for outcome in questions:
        kind = " ".join(outcome.question.split()[:2])
        answers.setdefault((outcome.family, kind), Counter())[outcome.expected] += 1
    asked = Counter(outcome.family for outcome in questions)
    right: Counter[str] = Counter()
    for (family, _), counter in answers.items():
        right[family] += max(counter.values())
    return {family: right[family] / asked[family] for family in FAMILIES if asked[family]}


def _questions(measured: Measured, outcomes: Outcomes) -> dict[str, Any]:
    shared = measured.outcomes[0]
    return {
        "shared": len(shared),
        "not_shared": len({outcome.id for own in outcomes.values() for outcome in own}) - len(shared),
        "scenes": int(measured.counts.asked.shape[0]),
        "per_family": dict(zip(FAMILIES, measured.counts.per_family.astype(int).tolist(), strict=True)),
        "with_evidence": sum(outcome.evidence_recall is not None for outcome in shared),
    }


def _judged_at(variants: Sequence[Variant], about: Mapping[str, Any]) -> int:
    budgets = {variant.budget for variant in variants if variant.budget is not None}
    if not budgets:
        raise BadInput("There is nothing to compare: only the unpruned model ran.")
    return judged_budget(budgets, int(about["n_visual"]))


def _ours(rows: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> dict[str, dict[int, Ours]]:
    """Our methods with their default parameters, at the budgets that the papers print."""
    found: dict[str, dict[int, Ours]] = {}
    for row in rows:
        budget = None if row["budget"] is None else published_budget(row["budget"], int(about["n_visual"]))
        if budget is not None and not row["params"] and row["method"] not in CONTROLS:
            families = {name: each["value"] for name, each in row["retention"].items()}
            found.setdefault(row["method"], {})[budget] = Ours(row["mean_retention"]["value"], families)
    return found


def without_nan(value: Any) -> Any:
    """The same document with None for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
