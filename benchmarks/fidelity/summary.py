"""Everything the fidelity tables say, as one JSON document computed from the outcomes. Text is made from it elsewhere.

The document is complete: ``tables.py`` writes the Markdown pages and ``chart.py`` the chart from it alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokviz.errors import BadInput

from . import statistics as stats
from .outcomes import EVIDENCE_ORACLE, FAMILIES, FULL, Outcome, Variant, shared_questions
from .published import Ours, compare, published_budget
from .separation import CONTROLS, Measured, difference, estimate, separation

FORMAT = 1
MOST_FREQUENT = "Most frequent answer"
JUDGED_AT = 64
"""Of 576 tokens: where the spread between methods is judged."""

Outcomes = Mapping[Variant, Sequence[Outcome]]


@dataclass(frozen=True)
class _Answers:
    """The shared questions and every variant's outcomes on them, in the same order.

    Shape:
        right: ``(V, Q)``. scene, family: ``(Q,)``.
    """

    variants: list[Variant]
    outcomes: list[list[Outcome]]
    right: NDArray[np.bool_]
    scene: NDArray[np.int64]
    family: NDArray[np.int_]


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
    answers = _aligned(outcomes)
    full = [variant.method for variant in answers.variants].index(FULL)
    counts = stats.count(answers.right, answers.scene, answers.family, len(FAMILIES))
    accuracy = stats.accuracies(counts)
    samples = stats.resampled_accuracies(counts, np.random.default_rng(seed), resamples)
    answerable = np.nan_to_num(accuracy[full]) > 0
    if not answerable.any():
        raise BadInput("The unpruned model answers no question right, so there is nothing that pruning could retain.")
    measured = _measured(answers, accuracy, samples, full, answerable)
    rows = [_row(answers, v, accuracy, samples, measured, about) for v in range(len(answers.variants))]
    _correct(rows)
    document = {
        "format": FORMAT,
        "about": {**about},
        "families": list(FAMILIES),
        "questions": _questions(answers, counts, outcomes),
        "families_left_out": [name for name, good in zip(FAMILIES, answerable, strict=True) if not good],
        "bootstrap": {"resamples": resamples, "seed": seed, "level": stats.LEVEL, "cluster": "scene"},
        "rows": rows,
        "blind": _blind(answers, about, accuracy[full], answerable),
        "families_at_chance": _at_chance(rows[full], answers),
        "separation": separation(measured, _judged_at(answers.variants, about)),
        "published": compare(_ours(rows, about)),
    }
    return without_nan(document)


def _aligned(outcomes: Outcomes) -> _Answers:
    variants = sorted(outcomes, key=lambda v: -math.inf if v.budget is None else -v.budget)  # stable: given order
    if sum(variant.method == FULL for variant in variants) != 1:
        raise BadInput("Retention needs exactly one run of the unpruned model among the outcomes.")
    ids = shared_questions(outcomes)
    if not ids:
        raise BadInput("The variants have no question in common.")
    by_id = [{outcome.id: outcome for outcome in outcomes[variant]} for variant in variants]
    ordered = [[of[key] for key in ids] for of in by_id]
    for own in ordered:
        for ours, first in zip(own, ordered[0], strict=True):
            if (ours.family, ours.question, ours.expected) != (first.family, first.question, first.expected):
                raise BadInput(f"Question {ours.id} is not the same for all variants; were the scenes generated anew?")
    return _Answers(
        variants=variants,
        outcomes=ordered,
        right=np.array([[outcome.right for outcome in own] for own in ordered], dtype=bool),
        scene=np.array([seed for seed, _ in ids], dtype=np.int64),
        family=np.array([FAMILIES.index(outcome.family) for outcome in ordered[0]]),
    )


def _measured(
    answers: _Answers, accuracy: stats.Floats, samples: stats.Floats, full: int, answerable: NDArray[np.bool_]
) -> Measured:
    retained, drawn = stats.retention(accuracy, full), stats.retention(samples, full)
    return Measured(
        rows=[variant.row for variant in answers.variants],
        labels=[variant.label for variant in answers.variants],
        methods=[variant.method for variant in answers.variants],
        budgets=[variant.budget for variant in answers.variants],
        mean=stats.mean_retention(retained, answerable),
        families=retained,
        mean_samples=stats.mean_retention(drawn, answerable),
        family_samples=drawn,
    )


def _row(
    answers: _Answers,
    v: int,
    accuracy: stats.Floats,
    samples: stats.Floats,
    measured: Measured,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """One variant: accuracies, retention, F1, evidence, flips, cost in tokens, and how it stands to the controls."""
    variant, own = answers.variants[v], answers.outcomes[v]
    described = about.get("methods", {}).get(variant.method, {})
    full = measured.find(FULL, None)
    assert full is not None  # _aligned has checked
    gained, lost = stats.discordant(answers.right[v], answers.right[full])
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
        "control": variant.method in (FULL, EVIDENCE_ORACLE, *CONTROLS),
        "accuracy": {f: estimate(accuracy[v, i], samples[:, v, i]) for i, f in enumerate(FAMILIES)},
        "retention": {
            f: estimate(measured.families[v, i], measured.family_samples[:, v, i]) for i, f in enumerate(FAMILIES)
        },
        "mean_retention": estimate(measured.mean[v], measured.mean_samples[:, v]),
        "existence": _existence(own),
        "against": {c: _against(answers, v, c, measured) for c in CONTROLS if variant.budget is not None},
        "evidence_recall": {"mean": _mean(recalls), "questions": len(recalls)},
        "flips": {"lost": lost, "gained": gained},
        "kept": _mean([outcome.kept for outcome in own]),
        "average": _mean([outcome.average for outcome in own]),
        "position_correlation": {"mean": _mean(positions), "questions": len(positions)},
    }


def _existence(own: Sequence[Outcome]) -> dict[str, Any]:
    asked = [outcome for outcome in own if outcome.family == "existence"]
    figures = stats.yes_no([o.expected for o in asked], [o.answer for o in asked])
    return {
        "f1": figures.f1,
        "precision": figures.precision,
        "recall": figures.recall,
        "yes_ratio": figures.yes_ratio,
        "neither": figures.neither,
    }


def _against(answers: _Answers, v: int, control: str, measured: Measured) -> dict[str, Any] | None:
    """The variant beside a control at the same budget; None for the control itself and where it did not run."""
    other = measured.find(control, answers.variants[v].budget)
    if other is None or other == v:
        return None
    better, worse = stats.discordant(answers.right[v], answers.right[other])
    return {
        "difference": difference(measured, v, other),
        "only_ours": better,
        "only_theirs": worse,
        "p": stats.mcnemar(better, worse),
        "p_holm": None,
    }


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in Holm's correction: over the methods of a budget, for each control apart."""
    for budget in {row["budget"] for row in rows}:
        for control in CONTROLS:
            tests = [row["against"].get(control) for row in rows if row["budget"] == budget and not row["control"]]
            found = [test for test in tests if test is not None]
            for test, p in zip(found, stats.holm([test["p"] for test in found]), strict=True):
                test["p_holm"] = p


def _blind(
    answers: _Answers, about: Mapping[str, Any], unpruned: stats.Floats, answerable: NDArray[np.bool_]
) -> dict[str, Any]:
    """Baselines that see no picture: the best constant answer per kind of question, and those that ``about`` brings.

    Each with its shares right and what mean retention it would have; a baseline that lacks a family has none.
    """
    baselines = {MOST_FREQUENT: most_frequent(answers.outcomes[0]), **about.get("blind", {})}
    blind = {}
    for name, shares in baselines.items():
        accuracy = np.array([shares.get(family, math.nan) for family in FAMILIES])
        retained = stats.retention(np.stack([unpruned, accuracy]), 0)
        blind[name] = {"accuracy": dict(shares), "mean_retention": float(stats.mean_retention(retained, answerable)[1])}
    return blind


def _at_chance(full: Mapping[str, Any], answers: _Answers) -> list[str]:
    """Families where the lower end of the unpruned accuracy's interval is no better than guessing."""
    guessed = most_frequent(answers.outcomes[0])
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


def _questions(answers: _Answers, counts: stats.Counts, outcomes: Outcomes) -> dict[str, Any]:
    with_evidence = sum(outcome.evidence_recall is not None for outcome in answers.outcomes[0])
    return {
        "shared": len(answers.scene),
        "not_shared": len({o.id for own in outcomes.values() for o in own}) - len(answers.scene),
        "scenes": int(counts.asked.shape[0]),
        "per_family": dict(zip(FAMILIES, counts.per_family.astype(int).tolist(), strict=True)),
        "with_evidence": with_evidence,
    }


def _judged_at(variants: Sequence[Variant], about: Mapping[str, Any]) -> int:
    """The budget that is 64 of 576; the smallest one when that was not run."""
    budgets = sorted({variant.budget for variant in variants if variant.budget is not None})
    same = [budget for budget in budgets if published_budget(budget, int(about["n_visual"])) == JUDGED_AT]
    if not budgets:
        raise BadInput("There is nothing to compare: only the unpruned model ran.")
    return same[0] if same else budgets[0]


def _ours(rows: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> dict[str, dict[int, Ours]]:
    """Our methods with their default parameters, at the budgets that the papers print."""
    found: dict[str, dict[int, Ours]] = {}
    for row in rows:
        budget = None if row["budget"] is None else published_budget(row["budget"], int(about["n_visual"]))
        if budget is not None and not row["params"] and row["method"] not in (*CONTROLS, EVIDENCE_ORACLE):
            families = {name: each["value"] for name, each in row["retention"].items()}
            found.setdefault(row["method"], {})[budget] = Ours(row["mean_retention"]["value"], families)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def without_nan(value: Any) -> Any:
    """The same document with None for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
