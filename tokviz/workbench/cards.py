"""What a page shows of each of its cases: thumbnail, question, answers, verdicts, and what some methods kept."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from .compiler import Compiler
from .kept import drawn, unpacked
from .run import OUTCOMES, OpenRun

MOST_LANES = 4
"""Methods whose kept sets a card shows."""
_LONGEST = 600
"""Characters of a text on a card; a case's own view shows all of it."""
_CASE = (
    'case_id, ordinal, question, answers, family, split, answer, "right", score, margin, evidence, evidence_size, '
    "n_tokens, grid_rows, grid_cols, grid, media_width, media_height, thumbnail, video IS NOT NULL AS is_video, "
    "cls_entropy, effective_rank, difficult"
)
_ROW = (
    'ordinal, method, budget, seed, answer, "right", outcome, kept, n_kept, n_final, margin, evidence_kept, '
    "evidence_absorbed, evidence_lost, only_failure, all_failed, random_beats_it, flip_budget, agreement, error"
)


def cards(
    run: OpenRun, ordinals: Sequence[int], methods: Sequence[str], budget: int, seed: int | None = None
) -> list[dict[str, Any]]:
    """Cards of some cases, in the order given, as JSON data.

    Args:
        methods: Keys of at most ``MOST_LANES`` methods that each card shows.
        seed: Which of the seeds of random methods is shown; None: the first.

    Texts are as they are in the run, not escaped. Raises BadInput for what was not mined.
    """
    wanted = [int(ordinal) for ordinal in ordinals]
    compiler = Compiler(run.methods, run.manifest.budgets)
    for method in methods:
        compiler.place(method, budget)
    cases = {case["ordinal"]: case for case in read_cases(run, wanted, _CASE)}
    rows = read_rows(run, wanted, _ROW, methods, budget)
    shown = _by_case(rows, seed)
    verdicts = _outcomes(run, wanted, budget)
    return [
        _card(cases[ordinal], [shown.get((ordinal, method)) for method in methods], verdicts.get(ordinal, {}))
        for ordinal in wanted
        if ordinal in cases
    ]


def read_cases(run: OpenRun, ordinals: Sequence[int], columns: str) -> list[dict[str, Any]]:
    """Columns of some cases from the files, in any order. columns: of ours, never of a request."""
    if not ordinals:
        return []
    sql = f"SELECT {columns} FROM read_parquet($1) WHERE ordinal IN (SELECT unnest($2::INTEGER[]))"
    return _dicts(run.cursor(sql, [run.files("cases", ordinals), list(ordinals)]))


def read_rows(
    run: OpenRun, ordinals: Sequence[int], columns: str, methods: Sequence[str] | None = None, budget: int | None = None
) -> list[dict[str, Any]]:
    """Columns of the rows of some cases from the files, in any order; None: of every method, at every budget."""
    if not ordinals:
        return []
    sql = f"SELECT {columns} FROM read_parquet($1) WHERE ordinal IN (SELECT unnest($2::INTEGER[]))"
    values: list[Any] = [run.files("rows", ordinals), list(ordinals)]
    if methods is not None:
        values.append(list(methods))
        sql += f" AND method IN (SELECT unnest(${len(values)}::VARCHAR[]))"
    if budget is not None:
        values.append(budget)
        sql += f" AND budget = ${len(values)}"
    return _dicts(run.cursor(sql, values))


def _dicts(cursor: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _by_case(rows: Sequence[Mapping[str, Any]], seed: int | None) -> dict[tuple[int, str], Mapping[str, Any]]:
    """One row per case and method: that of the seed, or the first."""
    chosen: dict[tuple[int, str], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["seed"] != seed, row["seed"])):
        chosen.setdefault((row["ordinal"], row["method"]), row)
    return chosen


def _outcomes(run: OpenRun, ordinals: Sequence[int], budget: int) -> dict[int, dict[str, str]]:
    """What became of each case under every method at a budget (of most seeds): the row of dots on a card."""
    sql = (
        "SELECT c.ordinal, m.key, c.verdict FROM cells c JOIN methods m ON m.m = c.m "
        "WHERE c.budget = $1 AND c.ordinal IN (SELECT unnest($2::INTEGER[]))"
    )
    found: dict[int, dict[str, str]] = {}
    for ordinal, key, verdict in run.query(sql, [budget, list(ordinals)]):
        found.setdefault(ordinal, {})[key] = OUTCOMES[verdict]
    return found


def _card(
    case: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None], outcomes: dict[str, str]
) -> dict[str, Any]:
    size = (case["media_width"] or 1, case["media_height"] or 1)
    thumbnail = case["thumbnail"]
    return {
        "ordinal": case["ordinal"],
        "id": _cut(case["case_id"]),
        "question": _cut(case["question"]),
        "expected": [_cut(answer) for answer in (case["answers"] or [])[:5]],
        "family": _cut(case["family"]),
        "answer": _cut(case["answer"]),
        "right": case["right"],
        "margin": _number(case["margin"]),
        "difficult": case["difficult"],
        "video": case["is_video"],
        "image": base64.b64encode(thumbnail).decode() if thumbnail else "",
        "size": size,
        "evidence": [
            [round(1000 * edge / side) for edge, side in zip(box, size * 2, strict=True)]
            for box in case["evidence"] or []
        ],
        "lanes": [None if row is None else _lane(case, row) for row in rows],
        "outcomes": outcomes,
    }


def _lane(case: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    kept = unpacked(row["kept"], case["n_tokens"] or 0)
    mask = None if kept is None else drawn(kept, case["grid_rows"], case["grid_cols"], case["grid"])
    return {
        "method": row["method"],
        "seed": row["seed"],
        "answer": _cut(row["answer"]),
        "right": row["right"],
        "outcome": row["outcome"],
        "kept": row["n_kept"],
        "mask": None if mask is None else mask.to_json(),
        "evidence_kept": _number(row["evidence_kept"]),
        "evidence_lost": _number(row["evidence_lost"]),
        "only_failure": row["only_failure"],
        "random_beats_it": row["random_beats_it"],
        "flip_budget": row["flip_budget"],
        "error": _cut(row["error"]),
    }


def _number(value: float | None) -> float | None:
    """Four significant digits; None for what is no number."""
    return None if value is None or value != value or abs(value) == float("inf") else float(f"{value:.4g}")


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
