"""The numbers that the fidelity pages say, made from the stored document alone; their words are in ``templates/``.

``why.md``, beside this file, is written by hand: why methods do well or badly on the embedded model. Its first line
names the weights that it is about (``weights: 9bd21dfb2699``, as the page's facts have them), and it is left out of the
pages of any others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokviz.tables import ResultTable

from ..wording import MISSING, by_hand, cell, number, p_value, percent, points, render
from ..wording import names as listed
from .measured import BASELINES, MIRRORS, ORACLE
from .published import EXACT_UP_TO, mean, spearman

TEMPLATES = Path(__file__).with_name("templates")
WHY = Path(__file__).with_name("why.md")
ALPHA = 0.05
DEARER = 1.1
"""From this multiple of the budget on, tokens per layer are worth a warning."""

Document = Mapping[str, Any]
Row = Mapping[str, Any]


def written(template: str, document: Document, **more: Any) -> str:
    """One of the templates with the numbers of a document."""
    return render(TEMPLATES / f"{template}.md.j2", **_values(document), **more)


def _values(document: Document) -> dict[str, Any]:
    """All that the templates name. Functions make the rows of tables."""
    labels = {row["method"]: row["label"] for row in document["rows"] if row["default"]}
    tests = {budget: {c: _table(t) for c, t in own.items()} for budget, own in document["tests"].items()}
    return {
        **document,
        **_at_judged(document),
        "n_visual": document["about"]["n_visual"],
        "budgets": budgets_of(document),
        "labels": labels,
        "alpha": ALPHA,
        "dearer": DEARER,
        "exact_up_to": EXACT_UP_TO,
        "mirrors": MIRRORS,
        "why": by_hand(WHY, document["about"]["weights"]),
        "falling": _falling(document),
        "agreement": agreement,
        "farthest": lambda at: [row for name in at["farthest"] for row in at["methods"] if row["method"] == name],
        "listed": lambda methods: listed(cell(labels.get(method, method)) for method in methods),
        "retention_table": _table(document["retention"]).markdown(),
        "tests_at": lambda budget, control: tests[str(budget)][control].markdown(),
        "references": lambda budget: list(tests[str(budget)]),
        "cost_rows": lambda budget: [_cost_row(row) for row in rows_at(document, budget)],
        "beaten": lambda budget: _beaten(document, budget),
        "drawn_rows": [_drawn_row(row) for row in document["rows"] if row["draws"]],
        "depth_rows": lambda: _depth_rows(document["depth"]),
        "ranking_rows": lambda ranking: [_ranking_row(row, labels) for row in ranking["methods"]],
        "fall_rows": lambda falls: [
            [cell(labels[row["method"]]), cell(row["source"]), number(row["published"]), number(row["ours"])]
            for row in falls
        ],
        "mirrored_rows": lambda mirrored: [_mirrored_row(each) for each in mirrored],
    }


def _table(stored: Mapping[str, Any]) -> ResultTable:
    return ResultTable.model_validate(stored)


# -- what is looked up -------------------------------------------------------------------------------------------------


def rows_at(document: Document, budget: int) -> list[Row]:
    """All rows of a budget, controls included, in the table's order."""
    return [row for row in document["rows"] if row["budget"] == budget]


def methods_at(document: Document, budget: int) -> list[Row]:
    """The rows that are no controls and have a mean retention, best first."""
    rows = [row for row in rows_at(document, budget) if not row["control"] and row["retention"]["value"] is not None]
    return sorted(rows, key=lambda row: -row["retention"]["value"])


def budgets_of(document: Document) -> list[int]:
    """The budgets that ran, descending."""
    return sorted({row["budget"] for row in document["rows"]}, reverse=True)


def agreement(related: Mapping[str, Any]) -> str:
    """What a rank correlation shows, as a verb."""
    if related["p"] is None or related["p"] >= ALPHA:
        return "shows neither agreement nor disagreement beyond chance"
    return "is agreement beyond chance" if related["rho"] > 0 else "is disagreement beyond chance"


def _verdicts(document: Document, budget: int, control: str) -> dict[str, str]:
    """What a table of tests says of each method: "more right" or "fewer right" where it differs."""
    stored = document["tests"][str(budget)].get(control)
    return {} if stored is None else {row.name: row.cells[-1].text for row in _table(stored).rows}


# -- what is concluded -------------------------------------------------------------------------------------------------


def _at_judged(document: Document) -> dict[str, Any]:
    """What the conclusions say of the budget at which methods are ranked."""
    judged = document["about"]["judged"]
    rows, every = methods_at(document, judged), rows_at(document, judged)
    verdicts = _verdicts(document, judged, "random")
    controls = [next((r for r in every if r["method"] == m and r["default"]), None) for m in (*BASELINES, ORACLE)]
    return {
        "judged": judged,
        "ranked": rows,
        "controls_at_judged": [row for row in controls if row is not None and row["retention"]["value"] is not None],
        "tested": bool(verdicts),
        "better": [row["label"] for row in rows if verdicts.get(row["label"]) == "more right"],
        "worse": [row["label"] for row in rows if verdicts.get(row["label"]) == "fewer right"],
        "types": _by_type(rows),
        "dear": [row for row in rows if row["average_tokens"] > DEARER * judged],
        "cheap": [row for row in rows if row["average_tokens"] <= DEARER * judged],
        "family_means": _family_means(document, rows),
        "evidence": _evidence(rows),
    }


def _by_type(rows: Sequence[Row]) -> list[tuple[str, float, int]]:
    """(type, mean of its methods' mean retention, how many), best first."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["type"].replace("-", " "), []).append(row["retention"]["value"])
    return sorted(((name, mean(own), len(own)) for name, own in values.items()), key=lambda entry: -entry[1])


def _family_means(document: Document, rows: Sequence[Row]) -> list[tuple[str, float]]:
    """(family, mean retention over the methods), worst first."""
    found = []
    for family in document["families"]:
        values = [row["families"][family] for row in rows]
        if values and None not in values:
            found.append((family, mean(values)))
    return sorted(found, key=lambda entry: entry[1])


def reaching(row: Row) -> float:
    """The share of the evidence tokens that is there at the end, itself or merged into another token."""
    return float(row["evidence_kept"] + row["evidence_absorbed"])


def _evidence(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Whether methods that keep more of the evidence answer better; None with fewer than three of them.

    Without those that end with no token: they keep no evidence, but layers before their last stage have seen it.
    """
    left = [row for row in rows if row["evidence_kept"] is not None and row["n_final"] >= 1]
    without = [row["label"] for row in rows if row["n_final"] < 1]
    if len(left) < 3:
        return None
    retained = [row["retention"]["value"] for row in left]
    kept, there = (
        spearman([of(row) for row in left], retained).rho for of in (lambda row: row["evidence_kept"], reaching)
    )
    return None if kept is None or there is None else {"kept": kept, "there": there, "n": len(left), "without": without}


def _beaten(document: Document, budget: int) -> dict[str, Any]:
    """Which methods answer more right than each control and than all of them, and which than none."""
    methods, by = [row["label"] for row in methods_at(document, budget)], {}
    for control in BASELINES:
        verdicts = _verdicts(document, budget, control)
        if verdicts:
            label = next(row["label"] for row in rows_at(document, budget) if row["key"] == control)
            by[label] = [method for method in methods if verdicts.get(method) == "more right"]
    every = [method for method in methods if by and all(method in own for own in by.values())]
    none = [method for method in methods if not any(method in own for own in by.values())]
    return {"by": by, "every": every, "none": none, "methods": len(methods)}


def _falling(document: Document) -> dict[str, Any]:
    """Mean retention at every budget, over the same methods at all of them: who cannot run at one is left out."""
    at = {
        budget: {row["key"]: row["retention"]["value"] for row in methods_at(document, budget)}
        for budget in budgets_of(document)
    }
    everywhere = [name for name in next(iter(at.values())) if all(name in own for own in at.values())]
    return {
        "methods": len(everywhere),
        "means": {budget: mean([own[name] for name in everywhere]) for budget, own in at.items()},
    }


# -- rows of tables ----------------------------------------------------------------------------------------------------


def _cost_row(row: Row) -> list[str]:
    """Mean retention, the same minus random's, what became of the evidence, tokens, sites."""
    minus = row["minus"].get("random")
    return [
        cell(row["label"]),
        cell(row["type"].replace("-", " ")),
        number(row["retention"]["value"]),
        MISSING if minus is None else points(minus).replace(" points", ""),
        *(percent(row[f"evidence_{fate}"]) for fate in ("kept", "absorbed", "lost")),
        number(row["n_final"]),
        number(row["average_tokens"]),
        cell(row["where"]),
    ]


def _drawn_row(row: Row) -> list[str]:
    draws = row["draws"]
    spread = f"{number(min(draws))} to {number(max(draws))}"
    return [
        cell(row["label"]), str(row["budget"]), number(mean(draws)), spread, ", ".join(number(draw) for draw in draws)
    ]  # fmt: skip


def _depth_rows(depth: Mapping[str, Any]) -> list[list[str]]:
    """Layer by layer: random tokens with their lowest and highest seed, and every method's difference to them."""
    rows = []
    for at in depth["layers"]:
        drawn = f"{number(at['random']['value'])} [{number(min(at['draws']))}, {number(max(at['draws']))}]"
        row = [str(at["layer"]), drawn]
        for one in at["methods"]:
            row += [number(one["retention"]["value"]), points(one["minus"])]
        rows.append(row)
    return rows


def _ranking_row(row: Row, labels: Mapping[str, str]) -> list[str]:
    ours, theirs = row["our_rank"], row["published_rank"]
    return [
        cell(labels[row["method"]]),
        number(row["published"]),
        f"{theirs:g}",
        number(row["ours"]),
        f"{ours:g}",
        f"{ours - theirs:+g}",
    ]


def _mirrored_row(each: Row) -> list[str]:
    texts = [cell(text) for text in (each["source"], each["benchmark"], " and ".join(each["families"]))]
    return [str(each["budget"]), *texts, str(each["n"]), number(each["rho"], 2, True), p_value(each["p"])]
