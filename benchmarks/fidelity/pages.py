"""The parts of the fidelity pages: lists of Markdown blocks, each made from the stored document alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .conclusions import LIMITS, agreement, budgets_of, labels_of, rows_at
from .outcomes import FAMILIES, MIRRORS
from .statistics import EXACT_UP_TO
from .wording import MISSING, cell, names, number, p_value, percent, points, span

Document = Mapping[str, Any]
Row = Mapping[str, Any]
_REASONS = (
    "The pictures are drawn: small objects whose evidence is a few tokens, on busy backgrounds, beside salient things "
    "that no question is about. Photographs repeat their evidence over many tokens.",
    "The embedded model was trained with visual tokens taken away, down to 80 of 576 and by lot, but those with an "
    "object's centre last: fewer tokens as such hurt it less, and to keep the objects is what it is used to, which "
    "may flatter methods that find them, and the oracle, over random tokens.",
    "Its [CLS] token was trained to know the objects, which is likely to flatter methods that rank by it.",
    "It has few and narrow blocks: a method that prunes inside the language model has little depth to read the picture "
    "before it prunes, and its block numbers are those of 32 blocks, scaled.",
    "The papers average other benchmarks than the families here, with other shares of reading and counting.",
)
"""Facts about both settings; none is a claim about the numbers."""

Value = Callable[[Row], float | None]
"""A row's number that is compared within a budget, None where undefined."""


def facts(document: Document) -> list[str]:
    """Where the numbers come from, as a list."""
    about, questions, bootstrap = document["about"], document["questions"], document["bootstrap"]
    per_family = ", ".join(f"{count} {family}" for family, count in questions["per_family"].items())
    lines = [
        ("command", f"`{about.get('command', '')}`"),
        ("machine", cell(about.get("machine", ""))),
        ("date", cell(about.get("date", ""))),
        ("model", f"{cell(about.get('model', ''))}, fingerprint `{cell(about.get('fingerprint', ''))}`"),
        ("versions", cell(", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items()))),
        ("scenes", f"{questions['scenes']} held-out, first seed {about.get('first_seed', MISSING)}"),
        ("questions", f"{questions['shared']}: {per_family}; {questions['with_evidence']} have evidence boxes"),
        ("intervals", f"{bootstrap['level']:.0%} percentile bootstrap, {bootstrap['resamples']} draws of whole scenes"),
        ("time", f"{number(about.get('seconds'), 0)} s of work, workers together: {about.get('workers', MISSING)}"),
    ]
    blocks = ["\n".join(f"- {name}: {text}" for name, text in lines)]
    if questions["not_shared"]:
        blocks.append(f"{questions['not_shared']} questions that not every variant has are left out.")
    if document["families_left_out"]:
        blocks.append(
            f"The unpruned model answers no question right of: {names(document['families_left_out'])}. Retention is "
            "undefined there, and the mean is over the other families."
        )
    if document["families_at_chance"]:
        blocks.append(
            f"The unpruned model is not better than the most frequent answer beyond error in: "
            f"{names(document['families_at_chance'])}. Pruning has little to lose there, and retention says little."
        )
    return blocks


def accuracy_tables(document: Document, *, short: bool = False) -> list[str]:
    """One table per budget in the shape of the papers' Table 1, the unpruned model first."""
    n_visual = document["about"]["n_visual"]
    full = [row for row in document["rows"] if row["budget"] is None]
    blocks = [f"**All {n_visual} tokens**", _accuracy_table(full, short, _blind_lines(document))]
    for budget in budgets_of(document):
        blocks += [
            f"**{budget} of {n_visual} tokens ({budget / n_visual:.1%})**",
            _accuracy_table(rows_at(document, budget), short, []),
        ]
    return blocks


def _accuracy_table(rows: Sequence[Row], short: bool, more: Sequence[list[str]]) -> str:
    marks = _Marks(rows)
    heads = [
        "method",
        "type",
        *(f"{f} (like {MIRRORS[f].split(' (')[0]})" for f in FAMILIES),
        "F1",
        "Avg. %",
        "95% interval",
        "evidence",
    ]
    heads += [] if short else ["where", "tokens left", "per block"]
    heads += ["vs random (p)"] if short else ["vs random", "p", "vs uniform", "p"]
    lines = [[*_accuracy_cells(row, marks), *_cost_cells(row, short), *_test_cells(row, short)] for row in rows]
    return _table(heads, [*lines, *([*line, *[""] * (len(heads) - len(line))] for line in more)], left=2)


def _accuracy_cells(row: Row, marks: _Marks) -> list[str]:
    families = [marks(row, _accuracy_of(f), percent) for f in FAMILIES]
    f1 = marks(row, _f1, percent)
    average = marks(row, _mean, number)
    recall = percent(row["evidence_recall"]["mean"])
    interval = span(row["mean_retention"])
    return [cell(row["label"]), cell(row["type"].replace("-", " ")), *families, f1, average, interval, recall]


def _cost_cells(row: Row, short: bool) -> list[str]:
    return [] if short else [cell(row["where"]), number(row["kept"]), number(row["average"])]


def _test_cells(row: Row, short: bool) -> list[str]:
    cells = []
    for control in ("random", "uniform"):
        test = row["against"].get(control)
        if test is None:
            cells.append([MISSING, MISSING])
        else:
            p = test["p"] if test["p_holm"] is None else test["p_holm"]
            cells.append([number(test["difference"]["value"], sign=True), p_value(p)])
    if short:
        difference, p = cells[0]
        return [MISSING if difference == MISSING else f"{difference} ({p})"]
    return [*cells[0], *cells[1]]


def _blind_lines(document: Document) -> list[list[str]]:
    """Baselines without the picture: share right per family, and what mean retention that would be."""
    return [
        [
            cell(name),
            "no picture",
            *(percent(own["accuracy"].get(family)) for family in FAMILIES),
            MISSING,
            number(own["mean_retention"]),
        ]
        for name, own in document["blind"].items()
    ]


def _accuracy_of(family: str) -> Value:
    return lambda row: row["accuracy"][family]["value"]


def _retention_of(family: str) -> Value:
    return lambda row: row["retention"][family]["value"]


def _f1(row: Row) -> float | None:
    return row["existence"]["f1"]


def _mean(row: Row) -> float | None:
    return row["mean_retention"]["value"]


class _Marks:
    """Marks the best (bold) and second best (underlined) method of a table; ties share the mark, controls have none."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if not row["control"]]

    def __call__(self, row: Row, value: Value, written: Callable[[float | None], str]) -> str:
        text = written(value(row))
        if row["control"] or text == MISSING or len(self.rows) < 3:
            return text
        # What looks the same is marked the same.
        every = [(own, written(own)) for own in map(value, self.rows) if own is not None]
        places = list(dict.fromkeys(shown for _, shown in sorted(every, reverse=True)))
        if text == places[0]:
            return f"**{text}**"
        return f"<u>{text}</u>" if text == places[1] else text


def retention_tables(document: Document) -> list[str]:
    """Per budget, every family's retention with its interval."""
    blocks = []
    for budget in budgets_of(document):
        rows = rows_at(document, budget)
        marks = _Marks(rows)
        lines = [
            [
                cell(row["label"]),
                *(f"{marks(row, _retention_of(f), number)} {span(row['retention'][f])}" for f in FAMILIES),
            ]
            for row in rows
        ]
        blocks += [f"**{budget} tokens**, percent of the unpruned accuracy", _table(["method", *FAMILIES], lines)]
    return blocks


def differences(document: Document) -> list[str]:
    """Per budget: paired difference of mean retention to each control, and the exact test."""
    blocks = [
        "Difference of mean retention in points with its paired interval; questions that only the method and only the "
        "control answers right; exact McNemar p, and Holm's correction over the methods of the budget (not for the "
        "controls and the oracle)."
    ]
    heads = ["method"]
    for control in ("random", "uniform"):
        heads += [f"minus {control}", "only it : only control", "p", "p (Holm)"]
    for budget in budgets_of(document):
        lines = []
        for row in rows_at(document, budget):
            line = [cell(row["label"])]
            for control in ("random", "uniform"):
                line += _comparison_cells(row["against"].get(control))
            lines.append(line)
        blocks += [f"**{budget} tokens**", _table(heads, lines)]
    return blocks


def _comparison_cells(test: Mapping[str, Any] | None) -> list[str]:
    if test is None:
        return [MISSING] * 4
    split = f"{test['only_ours']} : {test['only_theirs']}"
    return [points(test["difference"]), split, p_value(test["p"]), p_value(test["p_holm"])]


def flips(document: Document) -> list[str]:
    """Answers that the unpruned model had right and the method wrong, and the other way round."""
    budgets, total = budgets_of(document), document["questions"]["shared"]
    by_row: dict[str, dict[int, Row]] = {}
    for row in document["rows"]:
        if row["budget"] is not None:
            by_row.setdefault(row["row"], {})[row["budget"]] = row
    lines = []
    for own in by_row.values():
        shown = [own.get(budget) for budget in budgets]
        counts = [MISSING if row is None else f"{row['flips']['lost']} / {row['flips']['gained']}" for row in shown]
        lines.append([cell(next(iter(own.values()))["label"]), *counts])
    text = f"Of {total} questions: right without pruning and wrong with it / wrong without pruning and right with it."
    return [text, _table(["method", *(f"{budget} tokens" for budget in budgets)], lines)]


def comparison(document: Document) -> list[str]:
    """Rankings and falls beside the papers' tables, and what the budget means in both."""
    published, labels = document["published"], labels_of(document)
    blocks = [_sources(published)]
    for at in published["budgets"]:
        blocks.append(f"**{at['budget']} of 576 tokens**")
        rankings = [*((each["source"], each) for each in at["sources"]), ("all together", at["together"])]
        blocks.append("\n".join(_ranking_line(name, each, labels) for name, each in rankings if each["n"]))
        blocks.append(_ranking_table(at["together"], labels))
    blocks += _fall_blocks(published["falls"], labels)
    if published["mirrored"]:
        blocks += ["Each family beside the printed benchmark that it mirrors:", _mirrored_table(published["mirrored"])]
    blocks += ["Why ranks can differ:", reasons()]
    settings = [f"- {cell(labels[method])}: {text}" for method, text in published["settings"].items()]
    if settings:
        blocks += ["What the budget means here and in the printed rows:", "\n".join(settings)]
    without = [cell(labels[method]) for method in published["not_compared"]]
    if without:
        blocks.append(f"Without a printed row in these papers for LLaVA-1.5-7B: {names(without)}.")
    return blocks


def reasons() -> str:
    """What sets this benchmark apart from the papers', as a list."""
    return "\n".join(f"- {reason}" for reason in _REASONS)


def _sources(published: Mapping[str, Any]) -> str:
    lines = []
    for source in published["sources"]:
        column = f"column “{source['column']}”" if source["column"] else "average computed here"
        remark = f" {source['remark']}" if source["remark"] else ""
        lines.append(f"- {source['name']}: {source['title']}, {source['table']}, {column}.{remark}")
    return "LLaVA-1.5-7B at the same share of tokens:\n\n" + "\n".join(lines)


def _ranking_line(name: str, ranking: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    head = f"- {name}: n = {ranking['n']}"
    if ranking["rho"] is None:
        return f"{head}, too few or all tied: no rank correlation"
    words = f", Spearman's rho {number(ranking['rho'], 2, True)}, exact p = {p_value(ranking['p'])}, which "
    apart = names([cell(labels[method]) for method in ranking["farthest"]])
    return head + words + agreement(ranking) + f"; farthest apart: {apart}"


def _ranking_table(ranking: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    lines = [
        [
            cell(labels[row["method"]]),
            number(row["published"]),
            f"{row['published_rank']:g}",
            number(row["ours"]),
            f"{row['our_rank']:g}",
            f"{row['our_rank'] - row['published_rank']:+g}",
        ]
        for row in ranking["methods"]
    ]
    return _table(["method", "papers, average %", "rank", "here, average %", "rank", "rank difference"], lines)


def _fall_blocks(falls: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    if not falls["methods"]:
        return []
    lines = [
        [cell(labels[row["method"]]), cell(row["source"]), number(row["published"]), number(row["ours"])]
        for row in falls["methods"]
    ]
    text = f"Points of average lost from {falls['from']} to {falls['to']} tokens"
    if falls["rho"] is not None:
        text += f" (rank correlation {number(falls['rho'], 2, True)}, n = {falls['n']}, p = {p_value(falls['p'])}, a "
        text += "method that two papers print counting once)"
    return [text + ":", _table(["method", "printed by", "papers", "here"], lines, left=2)]


def _mirrored_table(mirrored: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [
            str(each["budget"]),
            cell(each["source"]),
            cell(each["benchmark"]),
            cell(" and ".join(each["families"])),
            str(each["n"]),
            number(each["rho"], 2, True),
            p_value(each["p"]),
        ]
        for each in mirrored
    ]
    return _table(["tokens", "paper", "benchmark", "here", "n", "rho", "p"], lines, left=4)


def left_out(document: Document) -> list[str]:
    """Variants that could not run, with the reason."""
    lines = []
    for entry in document["about"].get("left_out", []):
        budget = "" if entry["budget"] is None else f" at {entry['budget']}"
        lines.append(f"- {cell(entry['label'])}{budget}: {cell(entry['why'])}")
    return ["\n".join(lines) or "Nothing: every variant ran."]


def reading(document: Document) -> list[str]:
    """What the columns mean and what the numbers cannot say."""
    lines = [
        LIMITS,
        "**Avg. %** is the mean over the families of accuracy divided by that of the unpruned model, as in the papers' "
        "last column. **F1** is that of existence questions with yes as positive, as POPE reports it.",
        "**Evidence** is the share of the evidence tokens that are still there at the end, over questions that have "
        "evidence. A token that was merged into another counts as gone, although its content is not; methods that "
        "withdraw all tokens deep in the model have 0, although its first blocks have seen them. The oracle knows "
        "where the evidence lies and keeps it first, the best covered patches before the others; no method may. Where "
        "the answer rests on absence there is none, and it keeps tokens by lot.",
        "**No picture** is what can be had without looking: the most frequent answer gives, for each kind of "
        "question, the answer that is right most often among these very questions.",
        "The budget is counted as each method's paper counts it; **tokens left** is after the last stage and **per "
        "block** what the blocks of the language model process on average, both measured. Where they differ from the "
        "budget, the row costs more or less than its neighbours.",
        "**Bold** is the best method of a table, <u>underlined</u> the second; controls have no mark. Intervals draw "
        "whole scenes, as questions of one scene depend on each other; the exact tests take questions as independent. "
        "p in the tables of accuracy is McNemar's over all questions, Holm-corrected over the methods of the budget, "
        "uncorrected for the controls and the oracle. Intervals are not corrected for how many are looked at. "
        "A method can differ from a control in mean retention and not in the test, or the other way round: one weighs "
        "families alike, the other questions. Best and worst are chosen on the questions that they are judged on, "
        "which flatters their distance a little.",
        f"Rank correlations are exact over all orders up to {EXACT_UP_TO} methods; with so few, only strong ones show.",
    ]
    return ["\n".join(f"- {line}" for line in lines)]


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))
