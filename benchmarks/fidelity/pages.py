"""The numbers that the fidelity pages say, made from the stored document alone; their words are in ``templates/``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..wording import MISSING, cell, number, p_value, percent, points, render, span
from ..wording import names as listed
from .outcomes import BASELINES, EVIDENCE_ORACLE, FAMILIES, FULL, MIRRORS
from .statistics import EXACT_UP_TO, mean, spearman

TEMPLATES = Path(__file__).with_name("templates")
ALPHA = 0.05
DEARER = 1.1
"""From this multiple of the budget on, tokens per layer are worth a warning."""

Document = Mapping[str, Any]
Row = Mapping[str, Any]
Written = Callable[[float | None], str]
Rows = list[list[str]]


def written(template: str, document: Document, **more: Any) -> str:
    """One of the templates with the numbers of a document."""
    return render(TEMPLATES / f"{template}.md.j2", **_values(document), **more)


def separation_text(report: Mapping[str, Any], n_visual: int) -> str:
    """The report on the three demands in words, one paragraph per demand."""
    return render(TEMPLATES / "separation.md.j2", **report, n_visual=n_visual, families=len(FAMILIES))


def _values(document: Document) -> dict[str, Any]:
    """All that the templates name. Functions make the rows of tables."""
    labels, n_visual = labels_of(document), document["about"]["n_visual"]
    return {
        **document,
        **_at_judged(document),
        "n_visual": n_visual,
        "budgets": budgets_of(document),
        "labels": labels,
        "alpha": ALPHA,
        "dearer": DEARER,
        "exact_up_to": EXACT_UP_TO,
        "like": [f"{family} (like {MIRRORS[family].split(' (')[0]})" for family in FAMILIES],
        "falling": _falling(document),
        "agreement": agreement,
        "farthest": lambda at: [row for name in at["farthest"] for row in at["methods"] if row["method"] == name],
        "listed": lambda methods: listed(cell(labels[method]) for method in methods),
        "separation_text": separation_text(document["separation"], n_visual),
        "accuracy_rows": lambda budget, short: _accuracy_rows(rows_at(document, budget), short),
        "blind_rows": lambda width: _blind_rows(document, width),
        "retention_rows": lambda budget: _retention_rows(rows_at(document, budget)),
        "controls_at": lambda budget: _controls_at(document, budget),
        "test_rows": lambda budget: [
            _test_row(row, _controls_at(document, budget)) for row in rows_at(document, budget)
        ],
        "beaten": lambda budget: _beaten(document, budget),
        "band_rows": lambda: _band_rows(document),
        "depth_rows": lambda: _depth_rows(document["depth"]),
        "flip_heads": [f"{budget} tokens" for budget in budgets_of(document)],
        "flip_rows": lambda: _flip_rows(document),
        "ranking_rows": lambda ranking: [_ranking_row(row, labels) for row in ranking["methods"]],
        "fall_rows": lambda falls: [
            [cell(labels[row["method"]]), cell(row["source"]), number(row["published"]), number(row["ours"])]
            for row in falls
        ],
        "mirrored_rows": lambda mirrored: [_mirrored_row(each) for each in mirrored],
    }


# -- what is looked up -------------------------------------------------------------------------------------------------


def rows_at(document: Document, budget: int | None) -> list[Row]:
    """All rows of a budget, controls included, in the table's order."""
    return [row for row in document["rows"] if row["budget"] == budget]


def methods_at(document: Document, budget: int) -> list[Row]:
    """The rows that are neither controls nor the oracle and have a mean retention, best first."""
    rows = [row for row in rows_at(document, budget) if not row["control"]]
    rows = [row for row in rows if row["mean_retention"]["value"] is not None]
    return sorted(rows, key=lambda row: -row["mean_retention"]["value"])


def budgets_of(document: Document) -> list[int]:
    """The budgets that ran, descending."""
    return sorted({row["budget"] for row in document["rows"] if row["budget"] is not None}, reverse=True)


def labels_of(document: Document) -> dict[str, str]:
    """Method id -> label, of the variants with default parameters."""
    return {row["method"]: row["label"] for row in document["rows"] if not row["params"] or row["method"] == FULL}


def agreement(related: Mapping[str, Any]) -> str:
    """What a rank correlation shows, as a verb."""
    if related["p"] is None or related["p"] >= ALPHA:
        return "shows neither agreement nor disagreement beyond chance"
    return "is agreement beyond chance" if related["rho"] > 0 else "is disagreement beyond chance"


# -- what is concluded -------------------------------------------------------------------------------------------------


def _at_judged(document: Document) -> dict[str, Any]:
    """What the conclusions say of the budget at which the spread is judged."""
    judged, oracle = document["separation"]["budget"], document["separation"]["oracle"]
    rows, all_rows = methods_at(document, judged), rows_at(document, judged)
    tested = [(row["label"], test) for row in rows if (test := row["against"].get("random"))]
    sure = [(label, test) for label, test in tested if test["p_holm"] < ALPHA]
    wins = {label: test["only_ours"] > test["only_theirs"] for label, test in sure}
    controls = [next((r for r in all_rows if r["method"] == m), None) for m in (*BASELINES, EVIDENCE_ORACLE)]
    return {
        "judged": judged,
        "ranked": rows,
        "controls_at_judged": [row for row in controls if row is not None],
        "tested": tested,
        "better": [label for label, _ in sure if wins[label]],
        "worse": [label for label, _ in sure if not wins[label]],
        "types": _by_type(rows),
        "dear": [row for row in rows if row["average"] > DEARER * judged],
        "cheap": [row for row in rows if row["average"] <= DEARER * judged],
        "family_means": _family_means(rows),
        "evidence": _evidence(rows),
        "oracle_at": oracle and next((at for at in oracle["budgets"] if at["budget"] == judged), oracle["budgets"][-1]),
    }


def _by_type(rows: Sequence[Row]) -> list[tuple[str, float, int]]:
    """(type, mean of its methods' mean retention, how many), best first."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["type"]:
            values.setdefault(row["type"].replace("-", " "), []).append(row["mean_retention"]["value"])
    return sorted(((name, mean(own), len(own)) for name, own in values.items()), key=lambda entry: -entry[1])


def _family_means(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """(family, mean retention over the methods), worst first; without those that the unpruned model cannot answer."""
    found = []
    for family in FAMILIES:
        values = [row["retention"][family]["value"] for row in rows]
        if values and None not in values:
            found.append((family, mean(values)))
    return sorted(found, key=lambda entry: entry[1])


def _evidence(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Whether methods that keep more of the evidence answer better; None with fewer than three of them.

    Without those that end with no token: they keep no evidence, but layers before their last stage have seen it.
    """
    left = [row for row in rows if row["evidence_recall"]["mean"] is not None and row["kept"] >= 1]
    pairs = [(row["evidence_recall"]["mean"], row["mean_retention"]["value"]) for row in left]
    rho = spearman([a for a, _ in pairs], [b for _, b in pairs]).rho if len(pairs) >= 3 else None
    without = [row["label"] for row in rows if row["kept"] < 1]
    return None if rho is None else {"rho": rho, "n": len(pairs), "without": without}


def _controls_at(document: Document, budget: int) -> list[Row]:
    """The rows of the controls that methods have to beat, where they ran."""
    rows = {row["method"]: row for row in rows_at(document, budget)}
    return [rows[control] for control in BASELINES if control in rows]


def _beaten(document: Document, budget: int) -> dict[str, Any]:
    """Which methods answer more right than each control and than all of them, and which no more than any."""
    controls, methods = _controls_at(document, budget), methods_at(document, budget)
    by = {control["label"]: [row["label"] for row in methods if _beats(row, control["method"])] for control in controls}
    every = [row["label"] for row in methods if all(row["label"] in own for own in by.values())]
    none = [row["label"] for row in methods if not any(row["label"] in own for own in by.values())]
    return {"by": by, "every": every, "none": none, "methods": len(methods)}


def _beats(row: Row, control: str) -> bool:
    test = row["against"].get(control)
    return test is not None and test["p_holm"] < ALPHA and test["only_ours"] > test["only_theirs"]


def _falling(document: Document) -> dict[str, Any]:
    """Mean retention at every budget, over the same methods at all of them: who cannot run at one is left out."""
    at = {
        budget: {row["row"]: row["mean_retention"]["value"] for row in methods_at(document, budget)}
        for budget in budgets_of(document)
    }
    everywhere = [name for name in next(iter(at.values())) if all(name in own for own in at.values())]
    means = {budget: mean([own[name] for name in everywhere]) for budget, own in at.items()}
    return {"methods": len(everywhere), "means": means}


# -- rows of tables ----------------------------------------------------------------------------------------------------


def _marked(rows: Sequence[Row], values: Sequence[float | None], text: Written) -> list[str]:
    """A column with its best method bold and the second underlined; ties share the mark, controls have none.

    What looks the same is marked the same. With fewer than three methods there are no marks.
    """
    shown = [text(value) for value in values]
    methods = [i for i, row in enumerate(rows) if not row["control"]]
    known = [(value, shown[i]) for i in methods if (value := values[i]) is not None]
    best = list(dict.fromkeys(text for _, text in sorted(known, reverse=True)))[:2] if len(methods) >= 3 else []
    marks = dict(zip(best, ("**{}**", "<u>{}</u>"), strict=False))
    return [
        written if row["control"] else marks.get(written, "{}").format(written)
        for row, written in zip(rows, shown, strict=True)
    ]


def _accuracy_rows(rows: Sequence[Row], short: bool) -> Rows:
    columns = [_marked(rows, [row["accuracy"][family]["value"] for row in rows], percent) for family in FAMILIES]
    columns += [
        _marked(rows, [row["existence"]["f1"] for row in rows], percent),
        _marked(rows, [row["mean_retention"]["value"] for row in rows], number),
    ]
    return [
        [
            cell(row["label"]),
            cell(row["type"].replace("-", " ")),
            *numbers,
            span(row["mean_retention"]),
            percent(row["evidence_recall"]["mean"]),
            *([] if short else [cell(row["where"]), number(row["kept"]), number(row["average"])]),
            *_control_cells(row, short),
        ]
        for row, numbers in zip(rows, zip(*columns, strict=True), strict=True)
    ]


def _control_cells(row: Row, short: bool) -> list[str]:
    cells = []
    for control in ("random", "uniform"):
        if (test := row["against"].get(control)) is None:
            cells.append([MISSING, MISSING])
        else:
            p = test["p"] if test["p_holm"] is None else test["p_holm"]
            cells.append([number(test["difference"]["value"], sign=True), p_value(p)])
    if short:
        difference, p_text = cells[0]
        return [MISSING if difference == MISSING else f"{difference} ({p_text})"]
    return [*cells[0], *cells[1]]


def _blind_rows(document: Document, width: int) -> Rows:
    """Baselines without the picture: share right per family, and what mean retention that would be."""
    rows = []
    for name, own in document["blind"].items():
        shares = [percent(own["accuracy"].get(family)) for family in FAMILIES]
        line = [cell(name), "no picture", *shares, MISSING, number(own["mean_retention"])]
        rows.append([*line, *[""] * (width - len(line))])
    return rows


def _retention_rows(rows: Sequence[Row]) -> Rows:
    columns = []
    for family in FAMILIES:
        values = _marked(rows, [row["retention"][family]["value"] for row in rows], number)
        columns.append([f"{value} {span(row['retention'][family])}" for value, row in zip(values, rows, strict=True)])
    return [[cell(row["label"]), *cells] for row, cells in zip(rows, zip(*columns, strict=True), strict=True)]


def _test_row(row: Row, controls: Sequence[Row]) -> list[str]:
    """Paired difference of mean retention to each control, and the exact test, corrected where methods are many."""
    cells = [cell(row["label"])]
    for control in controls:
        if (test := row["against"].get(control["method"])) is None:
            cells += [MISSING] * 3
        else:
            p = test["p"] if test["p_holm"] is None else test["p_holm"]
            cells += [points(test["difference"]), f"{test['only_ours']} : {test['only_theirs']}", p_value(p)]
    return cells


def _band_rows(document: Document) -> Rows:
    return [
        [
            cell(band["label"]),
            str(band["budget"]),
            number(band["mean"]),
            f"{number(band['low'])} to {number(band['high'])}",
            ", ".join(number(draw) for draw in band["draws"]),
        ]
        for band in document["bands"]
    ]


def _depth_rows(depth: Mapping[str, Any]) -> Rows:
    """Layer by layer: random tokens with their lowest and highest drawing, and every method's difference to them."""
    rows = []
    for at in depth["layers"]:
        random = at["random"]
        row = [str(at["layer"]), f"{number(random['value'])} [{number(random['low'])}, {number(random['high'])}]"]
        for one in at["methods"]:
            row += [number(one["mean_retention"]["value"]), points(one["difference"])]
        rows.append(row)
    return rows


def _flip_rows(document: Document) -> Rows:
    """Answers that the unpruned model had right and the method wrong, and the other way round."""
    by_row: dict[str, dict[int, Row]] = {}
    for row in document["rows"]:
        if row["budget"] is not None:
            by_row.setdefault(row["row"], {})[row["budget"]] = row
    lines = []
    for own in by_row.values():
        shown = [own.get(budget) for budget in budgets_of(document)]
        counts = [MISSING if row is None else f"{row['flips']['lost']} / {row['flips']['gained']}" for row in shown]
        lines.append([cell(next(iter(own.values()))["label"]), *counts])
    return lines


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
