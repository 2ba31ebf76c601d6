"""What becomes of the positions of the tokens behind a gap, ``keep`` or ``reindex``, and what that does to answers.

    python -m tokviz bench positions

The same selections twice, so that question by question nothing differs but the position ids. Where-questions and
relations stand apart from the others: they are about places. The page is made from the stored document alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.statistics import Paired, compare_paired
from tokviz.tables.results import Flags
from tokviz.types import Budget, PlanningInfo

from ..wording import cell, number, p_value, render
from .document import write_with_page
from .measured import Measured
from .plan import Mining, judged_budget

FORMAT = 2
"""2: made from a mined run."""
METHODS = (
    "random", "fastervlm", "visionzip", "vispruner", "apet", "divprune", "todre", "cdpruner", "fastv", "dart",
    "sparsevlm", "pdrop",
)  # fmt: skip
POLICIES = ("keep", "reindex")
KINDS = ("where", "relation", "other")
"""Where-questions ("where is the red star?"), yes-or-no questions on two things' places, and all others."""
MOST_CASES = 12


def mining(n_visual: int) -> Mining:
    """Every method with either policy at the budget that is 64 of 576."""
    budget = judged_budget([max(1, round(n_visual / 9))], n_visual)
    pairs = tuple((method, {"positions": policy}) for method in METHODS for policy in POLICIES)
    return Mining("positions", pairs, (budget,))


def kinds_of(measured: Measured) -> dict[str, Flags]:
    """Which cases are of which of ``KINDS``. Shape: ``(n,)`` each."""
    cases = measured.run.cases(["ordinal", "question"]).set_index("ordinal")["question"]
    asked = cases.loc[measured.results.cases["ordinal"]]
    related = (measured.results.cases["family"].astype("object") == "relation").to_numpy(dtype=bool)
    places = asked.str.startswith("where").to_numpy(dtype=bool)
    return {"where": related & places, "relation": related & ~places, "other": ~related}


def document(measured: Measured, about: Mapping[str, Any]) -> dict[str, Any]:
    """Compute everything, as JSON data. Raises BadInput where no method ran with both policies."""
    keys = {
        method: {policy: measured.key(method, {"positions": policy}) or "" for policy in POLICIES} for method in METHODS
    }
    results, budget = measured.results, measured.results.budgets[0]
    keys = {
        method: pair for method, pair in keys.items() if all(len(results.by_seed(key, budget)) for key in pair.values())
    }
    if not keys:
        raise BadInput("No method ran with both policies, so there is nothing to compare.")
    right = {key: results.most_right(key, budget) for pair in keys.values() for key in pair.values()}
    kinds = kinds_of(measured)
    tests = {}
    for kind, there in kinds.items():
        own = {key: np.where(there, flags, np.nan) for key, flags in right.items()}
        found = compare_paired(own, [(pair["keep"], pair["reindex"]) for pair in keys.values()])
        tests[kind] = dict(zip(keys, found, strict=True))
    answers = _answers(measured, budget)
    full = results.unpruned_right[0]
    return {
        "format": FORMAT,
        "about": {**about},
        "questions": {kind: int(there.sum()) for kind, there in kinds.items()},
        "unpruned": {kind: _percent(np.where(there, full, np.nan)) for kind, there in kinds.items()},
        "rows": [
            {
                "method": method,
                "label": get(method).label,
                "source": _policy_of_source(method, about),
                "kinds": {
                    kind: _kind(tests[kind][method], *(np.where(there, right[pair[p]], np.nan) for p in POLICIES))
                    for kind, there in kinds.items()
                },
                "same_answer": _same(answers[pair["keep"]], answers[pair["reindex"]]),
            }
            for method, pair in keys.items()
        ],
        "cases": _cases(measured, keys, right, answers, kinds["where"]),
    }


def _kind(test: Paired, keep: np.ndarray, reindex: np.ndarray) -> dict[str, Any]:
    return {
        "keep": _percent(keep),
        "reindex": _percent(reindex),
        "only_keep": test.only_first,
        "only_reindex": test.only_second,
        "p_holm": test.p_holm,
    }


def _percent(right: np.ndarray) -> float | None:
    return None if np.isnan(right).all() else 100 * float(np.nanmean(right))


def _answers(measured: Measured, budget: int) -> dict[str, dict[tuple[int, int], str]]:
    """Every answer by method, then case and seed."""
    rows = measured.rows
    rows = rows[(rows["budget"] == budget) & (rows["outcome"] != "error")]
    found: dict[str, dict[tuple[int, int], str]] = {}
    for method, ordinal, seed, answer in zip(*(rows[c] for c in ("method", "ordinal", "seed", "answer")), strict=True):
        found.setdefault(str(method), {})[int(ordinal), int(seed)] = answer
    return found


def _same(one: Mapping[tuple[int, int], str], other: Mapping[tuple[int, int], str]) -> float | None:
    """Percent of the answers of both that are the same."""
    both = one.keys() & other.keys()
    return 100 * sum(one[key] == other[key] for key in both) / len(both) if both else None


def _policy_of_source(method: str, about: Mapping[str, Any]) -> str:
    pruner = get(method)
    info = PlanningInfo(about["n_visual"], about["n_layers"])
    stages = pruner.schedule(Budget(max(about["budgets"])), info, pruner.complete({})).stages
    return ", then ".join(dict.fromkeys(stage.positions for stage in stages))


def _cases(
    measured: Measured,
    keys: Mapping[str, Mapping[str, str]],
    right: Mapping[str, np.ndarray],
    answers: Mapping[str, Mapping[tuple[int, int], str]],
    there: Flags,
) -> list[dict[str, Any]]:
    """Where-questions that the unpruned model answers right and a method with one policy alone, the first of them."""
    results, seed = measured.results, measured.run.manifest.seeds[0]
    cases = measured.run.cases(["ordinal", "case_id", "question", "answers"]).set_index("ordinal")
    found: list[dict[str, Any]] = []
    for at in np.flatnonzero(there & (results.unpruned_right[0] == 1)):
        case = cases.loc[(ordinal := int(results.cases["ordinal"].iloc[at]))]
        for method, pair in keys.items():
            flags = {policy: right[pair[policy]][at] for policy in POLICIES}
            if sum(flags.values()) == 1:
                said = {policy: answers[pair[policy]].get((ordinal, seed), "") for policy in POLICIES}
                asked = {"id": case["case_id"], "method": method, "question": case["question"]}
                found.append({**asked, "right": case["answers"][0], **said})
    return found[:MOST_CASES]


def write(found: dict[str, Any], folder: Path, docs: Path | None = None) -> list[Path]:
    """Write ``positions.md`` and ``positions.json`` to ``folder``, and the former to ``docs`` too; return the paths."""
    return write_with_page("positions", found, page(found), folder, docs)


def page(found: dict[str, Any]) -> str:
    """The whole Markdown document."""
    flips = [
        {
            "kind": kind,
            "keep": sum(row["kinds"][kind]["only_keep"] for row in found["rows"]),
            "reindex": sum(row["kinds"][kind]["only_reindex"] for row in found["rows"]),
            "sure": [row["label"] for row in found["rows"] if (row["kinds"][kind]["p_holm"] or 1.0) < 0.05],
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
            [cell(case["id"]), cell(get(case["method"]).label)]
            + [cell(case[name]) for name in ("question", "right", *POLICIES)]
            for case in found["cases"]
        ],
    )


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [cell(row["label"]), row["source"]]
    for kind in KINDS:
        own = row["kinds"][kind]
        test = "too few to test" if own["p_holm"] is None else p_value(own["p_holm"])
        cells += [number(own["keep"]), number(own["reindex"]), f"{own['only_keep']} : {own['only_reindex']} ({test})"]
    return [*cells, number(row["same_answer"])]
