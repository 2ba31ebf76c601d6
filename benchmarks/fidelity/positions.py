"""What becomes of the positions of the tokens behind a gap, ``keep`` or ``reindex``, and what that does to answers.

    python -m tokviz bench positions

The same selections twice, so that question by question nothing differs but the position ids. Where-questions and
relations stand apart from the others: they are about places. The document is complete: ``position_pages.py`` writes
the Markdown page from it alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokviz.errors import BadInput
from tokviz.files import write_whole
from tokviz.pruners import get
from tokviz.types import Budget, PlanningInfo

from ..wording import cell, p_value, percent, render
from .outcomes import FULL, About, Outcome, Variant, judged_budget, shared_questions
from .retained import Outcomes
from .statistics import discordant, holm, mcnemar

FORMAT = 1
METHODS = (
    "random", "fastervlm", "visionzip", "vispruner", "apet", "divprune", "todre", "cdpruner", "fastv", "dart",
    "sparsevlm", "pdrop",
)  # fmt: skip
POLICIES = ("keep", "reindex")
KINDS = ("where", "relation", "other")
"""Where-questions ("where is the red star?"), yes-or-no questions on two things' places, and all others."""
MOST_CASES = 12


def variants(n_visual: int) -> list[Variant]:
    """The unpruned model, and every method with either policy at the budget that is 64 of 576."""
    budget = judged_budget([max(1, round(n_visual / 9))], n_visual)
    made = [Variant(FULL, {}, "No pruning", None)]
    for method in METHODS:
        made += [Variant(method, {"positions": policy}, get(method).label, budget) for policy in POLICIES]
    return made


def kind_of(outcome: Outcome) -> str:
    """Which of ``KINDS`` a question is."""
    if outcome.family != "relation":
        return "other"
    return "where" if outcome.question.startswith("where") else "relation"


def document(outcomes: Outcomes, about: About) -> dict[str, Any]:
    """Compute everything, as JSON data, on the questions that all variants have.

    Raises BadInput without shared questions, or where no method ran with both policies.
    """
    shared = set(shared_questions(outcomes))
    if not shared:
        raise BadInput("The variants have no question in common.")
    own = {v: {outcome.id: outcome for outcome in found if outcome.id in shared} for v, found in outcomes.items()}
    by = {(variant.method, variant.params.get("positions")): found for variant, found in own.items()}
    rows = [
        _row(m, by[m, "keep"], by[m, "reindex"], about) for m in METHODS if (m, "keep") in by and (m, "reindex") in by
    ]
    if not rows:
        raise BadInput("No method ran with both policies, so there is nothing to compare.")
    for kind in KINDS:
        tests = [row["kinds"][kind] for row in rows]
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
    full = by[FULL, None].values()
    return {
        "format": FORMAT,
        "about": {**about},
        "questions": {kind: sum(kind_of(outcome) == kind for outcome in full) for kind in KINDS},
        "unpruned": {kind: _share([o.right for o in full if kind_of(o) == kind]) for kind in KINDS},
        "rows": rows,
        "cases": _cases(by),
    }


def _row(
    method: str, keep: dict[tuple[int, int], Outcome], reindex: dict[tuple[int, int], Outcome], about: About
) -> dict[str, Any]:
    kinds = {}
    for kind in KINDS:
        ids = [id for id, outcome in keep.items() if kind_of(outcome) == kind]
        kept, renumbered = [keep[id].right for id in ids], [reindex[id].right for id in ids]
        only_keep, only_reindex = discordant(np.array(kept, bool), np.array(renumbered, bool))
        kinds[kind] = {
            "keep": _share(kept),
            "reindex": _share(renumbered),
            "only_keep": only_keep,
            "only_reindex": only_reindex,
            "p": mcnemar(only_keep, only_reindex),
        }
    same = [keep[id].answer == reindex[id].answer for id in keep]
    return {
        "method": method,
        "label": get(method).label,
        "source": _policy_of_source(method, about),
        "kinds": kinds,
        "same_answer": _share(same),
    }


def _policy_of_source(method: str, about: About) -> str:
    pruner = get(method)
    info = PlanningInfo(about["n_visual"], about["n_layers"])
    stages = pruner.schedule(Budget(max(about["budgets"])), info, pruner.complete({})).stages
    return ", then ".join(dict.fromkeys(stage.positions for stage in stages))


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _cases(by: dict[tuple[str, Any], dict[tuple[int, int], Outcome]]) -> list[dict[str, Any]]:
    """Where-questions that the unpruned model answers right and a method with one policy alone, the first of them."""
    found = []
    for id, full in by[FULL, None].items():
        for method in METHODS if kind_of(full) == "where" and full.right else ():
            keep, reindex = (by.get((method, policy), {}).get(id) for policy in POLICIES)
            if keep is not None and reindex is not None and keep.right != reindex.right:
                asked = {"seed": full.seed, "method": method, "question": full.question, "right": full.expected}
                found.append({**asked, "keep": keep.answer, "reindex": reindex.answer})
    return found[:MOST_CASES]


def write(outcomes: Outcomes, about: About, folder: Path, docs: Path | None = None) -> list[Path]:
    """Write ``positions.md`` and ``positions.json`` to ``folder``, and the former to ``docs`` too."""
    found = document(outcomes, about)
    texts = {folder / "positions.json": json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"}
    for place in (folder, docs):
        if place is not None:
            texts[place / "positions.md"] = page(found)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    return list(texts)


def read(path: Path) -> dict[str, Any]:
    """Read ``positions.json``. Raises BadInput for another format version."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise BadInput(f"{str(path)!r} is no document about positions of format {FORMAT}.")
    return found


def page(found: dict[str, Any]) -> str:
    """The whole Markdown document."""
    flips = [
        {
            "kind": kind,
            "keep": sum(row["kinds"][kind]["only_keep"] for row in found["rows"]),
            "reindex": sum(row["kinds"][kind]["only_reindex"] for row in found["rows"]),
            "sure": [row["label"] for row in found["rows"] if row["kinds"][kind]["p_holm"] < 0.05],
        }
        for kind in KINDS
    ]
    return render(
        Path(__file__).with_name("templates") / "positions.md.j2",
        **found,
        flips=flips,
        budget=found["about"]["budgets"][0],
        table_rows=[_cells(row) for row in found["rows"]],
        case_rows=[
            [str(case["seed"]), cell(get(case["method"]).label)]
            + [cell(case[name]) for name in ("question", "right", *POLICIES)]
            for case in found["cases"]
        ],
    )


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [cell(row["label"]), row["source"]]
    for kind in KINDS:
        own = row["kinds"][kind]
        cells += [
            percent(own["keep"]),
            percent(own["reindex"]),
            f"{own['only_keep']} : {own['only_reindex']} ({p_value(own['p_holm'])})",
        ]
    return [*cells, percent(row["same_answer"])]
