"""Three paragraphs that say what the numbers say: every claim in them is chosen by a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .outcomes import EVIDENCE_ORACLE, FAMILIES, FULL
from .statistics import spearman
from .wording import names, number, p_value, points, span, verdict

ALPHA = 0.05
DEARER = 1.1
"""From this multiple of the budget on, tokens per block are worth a warning."""
LIMITS = (
    "A model of a few million parameters on drawn scenes claims nothing about models of 7 billion parameters on "
    "photographs: the table says how the methods behave here, where the right answer and its evidence are known."
)

Row = Mapping[str, Any]


def conclusions(document: Mapping[str, Any]) -> list[str]:
    """The paragraphs: what separates, how it falls with the budget, how the papers compare."""
    return [_separates(document), _falls(document), _beside_the_papers(document)]


def rows_at(document: Mapping[str, Any], budget: int | None) -> list[Row]:
    """All rows of a budget, controls included, in the table's order."""
    return [row for row in document["rows"] if row["budget"] == budget]


def methods_at(document: Mapping[str, Any], budget: int) -> list[Row]:
    """The rows that are neither controls nor the oracle and have a mean retention, best first."""
    rows = [row for row in rows_at(document, budget) if not row["control"]]
    rows = [row for row in rows if row["mean_retention"]["value"] is not None]
    return sorted(rows, key=lambda row: -row["mean_retention"]["value"])


def budgets_of(document: Mapping[str, Any]) -> list[int]:
    """The budgets that ran, descending."""
    return sorted({row["budget"] for row in document["rows"] if row["budget"] is not None}, reverse=True)


def _control(document: Mapping[str, Any], method: str, budget: int | None) -> Row | None:
    return next((row for row in rows_at(document, budget) if row["method"] == method), None)


def _kept(row: Row) -> str:
    return f"{number(row['mean_retention']['value'])}% {span(row['mean_retention'])}"


def _separates(document: Mapping[str, Any]) -> str:
    budget, n_visual = document["separation"]["budget"], document["about"]["n_visual"]
    rows = methods_at(document, budget)
    if not rows:
        return f"At {budget} of {n_visual} tokens no method ran."
    text = f"**At {budget} of {n_visual} tokens** the {len(rows)} methods keep from {_kept(rows[-1])} "
    text += f"({rows[-1]['label']}) to {_kept(rows[0])} ({rows[0]['label']}) of the unpruned accuracy, as the mean "
    text += "over the families"
    controls = [_control(document, method, budget) for method in ("random", "uniform", EVIDENCE_ORACLE)]
    text += "".join(f"; {row['label']} {_kept(row)}" for row in controls if row is not None)
    text += (
        "".join(
            f"; {name.lower()} without the picture {number(own['mean_retention'])}%"
            for name, own in document["blind"].items()
        )
        + ". "
    )
    tested = [(row, row["against"].get("random")) for row in rows]
    better = [row["label"] for row, test in tested if test and test["p_holm"] < ALPHA and _wins(test)]
    worse = [row["label"] for row, test in tested if test and test["p_holm"] < ALPHA and not _wins(test)]
    if any(test for _, test in tested):
        text += f"Question by question, {len(better)} answer more right than random (exact McNemar, Holm-corrected "
        text += f"p < {ALPHA}): {names(better)}; {len(worse)} fewer: {names(worse)}. "
    types = _by_type(rows)
    if len(types) > 1:
        text += (
            "Mean by type of method: " + ", ".join(f"{name} {number(mean)}% ({n})" for name, mean, n in types) + ". "
        )
    more = [f"{row['label']} ({number(row['average'])})" for row in rows if row["average"] > DEARER * budget]
    if more:
        text += (
            f"Counted as their papers count, these process over {DEARER - 1:.0%} more than {budget} tokens per block "
        )
        text += f"on average: {names(more)}. {_within(rows, budget)}"
    spread = document["separation"]["spread"]
    return text + (
        f"The demand that methods separate beyond their intervals {verdict(spread['holds'])}." if spread else ""
    )


def _within(rows: Sequence[Row], budget: int) -> str:
    """The spread of the methods that process no more than the budget: what is left when dear ones do not count."""
    rows = [row for row in rows if row["average"] <= DEARER * budget]
    if len(rows) < 2:
        return ""
    best, worst = rows[0], rows[-1]
    return f"The other {len(rows)} keep from {_kept(worst)} ({worst['label']}) to {_kept(best)} ({best['label']}). "


def _wins(test: Mapping[str, Any]) -> bool:
    return bool(test["only_ours"] > test["only_theirs"])


def _by_type(rows: Sequence[Row]) -> list[tuple[str, float, int]]:
    """(type, mean of its methods' mean retention, how many), best first."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["type"]:
            values.setdefault(row["type"].replace("-", " "), []).append(row["mean_retention"]["value"])
    return sorted(((name, _mean(own), len(own)) for name, own in values.items()), key=lambda entry: -entry[1])


def _falls(document: Mapping[str, Any]) -> str:
    text = f"**With the budget** {_mean_by_budget(document)}. "
    fall, oracle = document["separation"]["fall"], document["separation"]["oracle"]
    if fall["compared"]:
        text += f"The demand that every method falls with the budget within error {verdict(fall['holds'])} "
        text += (
            f"({len(fall['violations'])} of {fall['compared']} steps rise beyond it, controls and oracle included). "
        )
    judged = document["separation"]["budget"]
    rows = methods_at(document, judged)
    families = _family_means(rows)
    if families:
        text += f"At {judged} tokens {families[0][0]} suffers most ({number(families[0][1])}% retained on average) and "
        text += f"{families[-1][0]} least ({number(families[-1][1])}%). "
    text += _evidence(rows)
    if oracle is None:
        return text
    at = next((entry for entry in oracle["budgets"] if entry["budget"] == judged), oracle["budgets"][-1])
    return text + (
        f"The oracle that keeps the evidence differs from the unpruned model by {points(at)} at {at['budget']} tokens; "
        f"the demand that it loses less than {document['separation']['near']:.0f} points at every budget "
        f"{verdict(oracle['holds'])}."
    )


def _mean_by_budget(document: Mapping[str, Any]) -> str:
    """Mean retention at every budget, over the same methods at all of them: who cannot run at one is left out."""
    budgets = budgets_of(document)
    at = {
        budget: {row["row"]: row["mean_retention"]["value"] for row in methods_at(document, budget)}
        for budget in budgets
    }
    everywhere = [name for name in at[budgets[0]] if all(name in own for own in at.values())]
    if not everywhere:
        return "no method ran at every budget"
    falling = ", ".join(f"{number(_mean(own[name] for name in everywhere))}% at {b}" for b, own in at.items())
    n_visual = document["about"]["n_visual"]
    return f"the mean over the {len(everywhere)} methods that ran at every budget goes {falling} of {n_visual} tokens"


def _family_means(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """(family, mean retention over the methods), worst first; without those that the unpruned model cannot answer."""
    found = []
    for family in FAMILIES:
        values = [row["retention"][family]["value"] for row in rows]
        if values and None not in values:
            found.append((family, _mean(values)))
    return sorted(found, key=lambda entry: entry[1])


def _evidence(rows: Sequence[Row]) -> str:
    """Whether methods that keep more of the evidence answer better; nothing with fewer than three of them.

    Without those that end with no token: they keep no evidence, but blocks before their last stage have seen it.
    """
    left = [row for row in rows if row["evidence_recall"]["mean"] is not None and row["kept"] >= 1]
    pairs = [(row["evidence_recall"]["mean"], row["mean_retention"]["value"]) for row in left]
    rho = spearman([a for a, _ in pairs], [b for _, b in pairs]).rho if len(pairs) >= 3 else None
    if rho is None:
        return ""
    text = "Over the methods, evidence recall at the end and mean retention have a rank correlation of "
    without = [row["label"] for row in rows if row["kept"] < 1]
    note = f"; without {names(without)}, which end with no token" if without else ""
    return text + f"{number(rho, 2, True)} (n = {len(pairs)}{note}). "


def _beside_the_papers(document: Mapping[str, Any]) -> str:
    published, labels = document["published"], labels_of(document)
    parts = []
    for at in published["budgets"]:
        together = at["together"]
        if together["rho"] is None:
            continue
        text = f"at {at['budget']} Spearman's rho is {number(together['rho'], 2, True)} (n = {together['n']}, exact "
        text += f"p = {p_value(together['p'])}), which {agreement(together)}"
        farthest = [f"{labels[m]} ({_places(together, m)})" for m in together["farthest"]]
        parts.append(text + (f"; farthest apart: {names(farthest)}" if farthest else "; no rank differs"))
    if not parts:
        return f"**Beside the papers** nothing can be ranked: fewer than two methods have a printed number. {LIMITS}"
    text = "**Beside the papers** (LLaVA-1.5-7B, all that print a method together), ranked by average: "
    text += ". ".join(part[0].upper() + part[1:] for part in parts) + ". "
    falls = published["falls"]
    if falls["rho"] is not None:
        text += f"The points lost from {falls['from']} to {falls['to']} tokens correlate with rho "
        text += f"{number(falls['rho'], 2, True)} (n = {falls['n']}, p = {p_value(falls['p'])}). "
    return text + LIMITS


def agreement(related: Mapping[str, Any]) -> str:
    """What a rank correlation shows, as a verb."""
    if related["p"] is None or related["p"] >= ALPHA:
        return "shows neither agreement nor disagreement beyond chance"
    return "is agreement beyond chance" if related["rho"] > 0 else "is disagreement beyond chance"


def labels_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Method id -> label, of the variants with default parameters."""
    return {row["method"]: row["label"] for row in document["rows"] if not row["params"] or row["method"] == FULL}


def _places(ranking: Mapping[str, Any], method: str) -> str:
    row = next(row for row in ranking["methods"] if row["method"] == method)
    return f"rank {row['our_rank']:g} here, {row['published_rank']:g} in the papers"


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every) if every else float("nan")
