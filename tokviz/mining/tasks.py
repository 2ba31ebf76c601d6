"""A case to be mined, what came of it, and its columns as far as they are known before anything is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..cases import Case
from ..runs.requests import ChosenMethod
from .outcomes import Row
from .plan import Plan
from .schema import schema_of
from .store import payload_of


@dataclass(frozen=True)
class Task:
    """A case to be mined.

    position: among those asked for. ordinal: in the case file. path: of its image or video; or ``problem``, a sentence.
    data: what is in that file, for a process that may not see it.
    """

    position: int
    ordinal: int
    case: Case
    path: str = ""
    problem: str | None = None
    data: bytes | None = None


@dataclass(frozen=True)
class Mined:
    """A case that was mined.

    payload: see ``store.payload_of``. seconds: what it took. rows: how many it has. media: its image or video and the
    SHA-256 of that file, None where there is none that could be read.
    """

    position: int
    payload: bytes
    seconds: float
    rows: int
    media: tuple[str, str] | None = None


def refused(plan: Plan, task: Task, why: str) -> Mined:
    """A case that could not be mined: every row says why."""
    case, rows = refused_tables(plan, task, why)
    return Mined(task.position, payload_of(case, rows), 0.0, len(rows))


def refused_tables(plan: Plan, task: Task, why: str) -> tuple[dict[str, Any], list[Row]]:
    """The case's row and its rows, all of them saying why there is no more."""
    rows = [failed_row(task, plan, chosen, budget, why) for chosen, budget in cells(plan)]
    return case_columns(task, plan) | {"error": why}, rows


def cells(plan: Plan) -> list[tuple[ChosenMethod, int]]:
    """Every method at every budget."""
    return [(chosen, budget) for chosen in plan.methods for budget in plan.budgets]


def case_columns(task: Task, plan: Plan) -> dict[str, Any]:
    """The case's row with what the case file says of it."""
    case = task.case
    return {
        **dict.fromkeys(schema_of("cases").names),
        "case_id": case.id,
        "ordinal": task.ordinal,
        "question": case.question,
        "answers": list(case.answers),
        "metric": case.metric,
        "family": case.family,
        "split": case.split,
        "image": case.image,
        "video": case.video,
        "evidence": [list(box) for box in case.evidence],
        "evidence_frames": list(case.evidence_frames),
        "others": json.dumps(dict(case.others), ensure_ascii=False) if case.others else None,
        "model": plan.model_id,
        "warnings": [],
    }


def row_columns(task: Task, plan: Plan, chosen: ChosenMethod, budget: int, seed: int) -> Row:
    """A row with what was asked for."""
    return {
        **dict.fromkeys(schema_of("rows").names),
        "case_id": task.case.id,
        "ordinal": task.ordinal,
        "method": chosen.requested.key,
        "method_id": chosen.pruner.id,
        "params": json.dumps(chosen.requested.params, sort_keys=True),
        "kind": chosen.pruner.family,
        "budget": budget,
        "budget_as": plan.budget_as,
        "seed": seed,
        "warnings": [],
    }


def failed_row(task: Task, plan: Plan, chosen: ChosenMethod, budget: int, why: str) -> Row:
    """One row that says why a method gave no answer at a budget."""
    row = row_columns(task, plan, chosen, budget, plan.seeds[0])
    return row | {"outcome": "error", "error": why}
