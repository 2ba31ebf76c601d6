"""Tables and sentences of the model card and the README, from the numbers of evaluation.json and the logs."""

from __future__ import annotations

import textwrap
from typing import Any

from scenes import FAMILIES

TARGETS = {"existence": 0.95, "attribute": 0.95, "counting": 0.85, "spatial": 0.85, "reading": 0.85}
"""Accuracy that the model was meant to reach."""
BASELINES = (
    ("blind_majority", "most frequent answer"),
    ("grey_picture", "grey picture"),
    ("shuffled_picture", "another scene's picture"),
)
RELATION = "spatial: is the * beside the *"
PLACE = "spatial: where is the *"
SAME_WITHIN = 0.02
"""Original and closed-up positions count as equal up to this difference."""
CURVE_ROWS = 10
LEAST_ASKED = 20
"""Kinds and groups with fewer questions are left out of tables (evaluation.json has them)."""


def percent(value: float) -> str:
    """0.9312 as "93.1"."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """-0.0123 as "-1.2", with its sign."""
    return f"{100 * value:+.1f}"


def interval(entry: dict[str, Any]) -> str:
    """ "93.1 (92.0-94.1)" of an entry with accuracy, low and high."""
    return f"{percent(entry['accuracy'])} ({percent(entry['low'])}-{percent(entry['high'])})"


def flow(text: str, bullet: bool = False) -> str:
    """One paragraph, or one item of a list, in lines of 120 characters."""
    first, later = ("- ", "  ") if bullet else ("", "")
    return textwrap.fill(
        " ".join(text.split()), 120, initial_indent=first, subsequent_indent=later,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _family(numbers: dict[str, Any], family: str) -> str:
    low, high = numbers["interval"][family]
    return interval({"accuracy": numbers["accuracy"][family], "low": low, "high": high})


def accuracy_table(numbers: dict[str, Any]) -> str:
    """Families as rows; the model beside what needs no picture or sees the wrong one."""
    head = ["family", "questions", "model", "target", *(title for _, title in BASELINES)]
    rows = [
        [family, str(numbers["questions"][family]), _family(numbers, family), f"{100 * TARGETS[family]:.0f}",
         *(percent(numbers[key][family]) for key, _ in BASELINES)]
        for family in FAMILIES
    ]  # fmt: skip
    return markdown(head, rows)


def short_table(numbers: dict[str, Any]) -> str:
    """Families as columns, for the README."""
    head = [f"{numbers['scenes']} held-out scenes, {numbers['visual_tokens']} visual tokens", *FAMILIES]
    lines = {"right answers, %": "accuracy", "best guess without the picture, %": "blind_majority"}
    return markdown(
        head, [[title, *(percent(numbers[key][family]) for family in FAMILIES)] for title, key in lines.items()]
    )


def targets_sentence(numbers: dict[str, Any]) -> str:
    """Which targets were met, and by how much the others were missed."""
    gaps = {family: numbers["accuracy"][family] - TARGETS[family] for family in FAMILIES}
    met = [f"{family} ({percent(TARGETS[family])}%)" for family in FAMILIES if gaps[family] >= 0]
    missed = [
        f"{family} by {-100 * gaps[family]:.1f} points ({percent(TARGETS[family])}% wanted)"
        for family in FAMILIES
        if gaps[family] < 0
    ]
    parts = [f"Targets met: {', '.join(met) or 'none'}."]
    return " ".join([*parts, f"Targets missed: {', '.join(missed)}."] if missed else parts)


def relation_sentence(numbers: dict[str, Any]) -> str:
    """Whether left, right, above and below between two things are understood, from the interval."""
    relation, place = numbers["kinds"][RELATION], numbers["kinds"][PLACE]
    verdict = "is answered" if relation["low"] > 0.5 else "is not answered better than by chance"
    return (
        f'"Is the red star left of the blue circle?" {verdict}: {interval(relation)}% right, where guessing gives 50%. '
        f'"Where is ...?" has {interval(place)}%.'
    )


def kinds_table(numbers: dict[str, Any]) -> str:
    """Every kind of question."""
    rows = [
        [kind, str(entry["n"]), interval(entry)]
        for kind, entry in numbers["kinds"].items()
        if entry["n"] >= LEAST_ASKED
    ]
    return markdown(["kind of question", "questions", "% right"], rows)


_UNSEEN = (
    ("pair that the question names", "named pair: seen", "named pair: unseen"),
    ("pair of the thing asked about", "pair behind the answer: seen", "pair behind the answer: unseen"),
    ("font of the sign", "font: of training", "font: held out"),
    ("handwriting", "handwriting: of training", "handwriting: held out"),
)


def unseen_table(numbers: dict[str, Any]) -> str:
    """Accuracy on what training had beside what it never had."""
    groups, rows = numbers["groups"], []
    for title, seen, unseen in _UNSEEN:
        for family in FAMILIES:
            pair = [groups.get(f"{family}: {name}") for name in (seen, unseen)]
            if all(entry and entry["n"] >= LEAST_ASKED for entry in pair):
                rows.append([family, title, *(f"{interval(entry)}, n = {entry['n']}" for entry in pair if entry)])
    return markdown(["family", "", "as in training, % right", "never in training, % right"], rows)


def difficulty_table(numbers: dict[str, Any]) -> str:
    """Accuracy per family by the number of objects, and of reading by the size of the sign."""
    rows = [
        [*key.split(": ", 1), str(entry["n"]), interval(entry)]
        for key, entry in sorted(numbers["groups"].items(), key=lambda item: _difficulty_order(item[0]))
        if entry["n"] >= LEAST_ASKED and ("objects" in key or "px" in key)
    ]
    return markdown(["family", "", "questions", "% right"], rows)


def _difficulty_order(key: str) -> tuple[int, int, int, str]:
    family, group = key.split(": ", 1)
    size = {"below": 0, "of": 1, "above": 2}[group.split()[1]] if "px" in group else 0
    first = int(group.split("-")[0]) if "objects" in group else 0
    return FAMILIES.index(family), first, size, group


def pruned_table(numbers: dict[str, Any]) -> str:
    """What few patches leave of it."""
    whole = [str(numbers["visual_tokens"]), "all", "-", *(percent(numbers["pruned_full"][f]) for f in FAMILIES)]
    rows = [
        [str(row["kept"]), row["selection"], row["positions"], *(percent(row["accuracy"][f]) for f in FAMILIES)]
        for row in numbers["pruned"]
    ]
    return markdown(["kept", "selection", "positions", *FAMILIES], [whole, *rows])


def positions_sentence(numbers: dict[str, Any]) -> str:
    """What closing up the positions changes, and whether that stays within two points."""
    changes = numbers["re_indexed_minus_original"]
    parts = [
        f"{row['kept']} {row['selection']} {points(row['difference'])} ({points(row['low'])} to {points(row['high'])})"
        for row in changes
    ]
    worst = max(changes, key=lambda row: abs(row["difference"]))
    limit = f"{100 * SAME_WITHIN:.0f} points"
    verdict = f"All lie within {limit}."
    if abs(worst["difference"]) > SAME_WITHIN:
        verdict = f"The largest, at {worst['kept']} {worst['selection']}, is beyond the {limit} that were allowed."
    return f"Re-indexed minus original positions, all families, in points (95% interval): {'; '.join(parts)}. {verdict}"


def sizes_table(numbers: dict[str, Any]) -> str:
    """The same scenes drawn at several sizes, through the stock processor."""
    rows = [
        [name, str(entry["all"]["n"]), interval(entry["all"]), *(percent(entry["accuracy"][f]) for f in FAMILIES)]
        for name, entry in numbers["picture_sizes"]["sizes"].items()
    ]
    return markdown(["pixels", "questions", "all, % right", *FAMILIES], rows)


def sizes_sentence(numbers: dict[str, Any]) -> str:
    """Whether pictures that are not square do as well as square ones."""
    verdicts = [
        f"{name}: {points(row['difference'])} points ({points(row['low'])} to {points(row['high'])}), "
        + ("the same within error" if row["low"] <= 0 <= row["high"] else "not the same within error")
        for name, row in numbers["picture_sizes"]["minus_square"].items()
    ]
    return f"Against the square picture, on the same questions (95% interval): {'; '.join(verdicts)}."


def curve_table(validations: list[dict[str, Any]], rows: int = CURVE_ROWS) -> str:
    """Validation accuracy over time: at most `rows` lines, evenly spaced, the last one among them."""
    last = len(validations) - 1
    picked = sorted({round(i * last / max(1, rows - 1)) for i in range(rows)})
    names = [key for key in validations[-1] if key.startswith("val_")]
    head = ["minutes", "step", *(name.removeprefix("val_") for name in names)]
    body = [
        [f"{line['seconds'] / 60:.1f}", str(line["step"]), *(percent(line[name]) for name in names)]
        for line in (validations[i] for i in picked)
    ]
    return markdown(head, body)
