"""What the page about the ablations says, from the stored document alone; its words are in ``templates/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..wording import MISSING, cell, number, render, with_span
from .measured import FAMILIES, MIRRORS
from .pages import TEMPLATES
from .position_bias import BUDGET, largest_correlation

Found = Mapping[str, Any]
CONTROLS = ("control", "truth")


def page(document: Found) -> str:
    """The whole Markdown document."""
    verdicts = [setting["verdict"] for found in document["ablations"] for setting in _compared(found)]
    positions = document["positions"]
    return render(
        TEMPLATES / "ablations.md.j2",
        **document,
        left_out=[name for name in FAMILIES if name not in document["families"]],
        mirrors=MIRRORS,
        verdicts=verdicts,
        setting_rows=lambda found: [_setting_row(setting, found["reference"]) for setting in found["settings"]],
        position_budget=BUDGET,
        position_rows=[_position_row(row) for row in positions],
        largest=largest_correlation(BUDGET, document["about"]["n_visual"]),
        by_verdict=_grouped(positions, lambda row: row["verdict"] if row["late"] else None),
        by_side=_grouped(positions, lambda row: None if row["by"] in CONTROLS else _side(row["lean"])),
    )


def sentence(found: Found) -> str:
    """Whether ours points the way of the paper, and which setting is highest in both."""
    by_verdict: dict[str, list[str]] = {}
    for setting in _compared(found):
        by_verdict.setdefault(setting["verdict"], []).append(setting["name"])
    both = [each for each in found["settings"] if "verdict" in each and each["paper_mean"] is not None]
    return render(
        TEMPLATES / "ablation_sentence.md.j2",
        reference=found["reference"],
        by_verdict=by_verdict,
        here=_highest([(each["name"], each["retained"]["value"]) for each in both]),
        paper=_highest([(each["name"], each["paper_mean"]) for each in both]),
    ).strip()


def _compared(found: Found) -> list[Found]:
    """The settings that were run and that the paper compares with its reference."""
    run = [setting for setting in found["settings"] if "verdict" in setting and setting["verdict"] != "reference"]
    return [setting for setting in run if setting["paper_direction"] is not None]


def _highest(values: Sequence[tuple[str, float]]) -> tuple[list[str], float] | None:
    """The names that share the highest value, and the value; None where there are not two to compare."""
    if len(values) < 2:
        return None
    most = max(value for _, value in values)
    return [name for name, value in values if value == most], most


def _setting_row(setting: Found, reference: str) -> list[str]:
    printed = setting["paper"] or {}
    if printed:
        shown = " / ".join(f"{value:g}" for value in printed.values())
    else:
        shown = "worse, no numbers" if setting["paper_direction"] == -1 else MISSING
    difference = MISSING if setting["name"] == reference else number(setting["paper_difference"], sign=True)
    paper = [cell(setting["name"]), shown, number(setting["paper_mean"]), difference]
    if "left_out" in setting:
        return [*paper, *[MISSING] * 4, f"not run: {cell(setting['left_out'])}"]
    return [
        *paper,
        " / ".join(number(value) for value in setting["accuracy"].values()),
        with_span(setting["retained"]),
        MISSING if setting["difference"] is None else with_span(setting["difference"], sign=True),
        f"{number(setting['kept'])}; {number(setting['average'])}",
        setting["verdict"],
    ]


def _position_row(row: Found) -> list[str]:
    return [
        row["name"],
        row["by"],
        number(row["patches"]),
        *(with_span(row[name], 2, sign=True) for name in ("correlation", "lean")),
        *(with_span(row[name]) for name in ("top", "middle", "bottom")),
        MISSING if row["difference"] is None else with_span(row["difference"], 2, sign=True),
        row["verdict"],
    ]


def _grouped(rows: Sequence[Found], key: Any) -> dict[str, list[str]]:
    """Names of the rows by what ``key`` says of each; without those of which it says None."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if (words := key(row)) is not None:
            found.setdefault(words, []).append(row["name"])
    return found


def _side(lean: Found) -> str:
    if lean["low"] is None or lean["high"] is None:
        return "undefined"
    if lean["low"] > 0:
        return "late"
    return "early" if lean["high"] < 0 else "no side that these scenes could show"
