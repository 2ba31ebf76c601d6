"""A mined run that is written by hand, so that every number of its tables can be worked out."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokviz.mining.manifest import MANIFEST, Manifest, MinedFile, MinedMethod, MinedModel, Part
from tokviz.mining.schema import schema_of

N = 576


def method(
    id: str,
    *,
    key: str | None = None,
    label: str | None = None,
    kind: str = "diversity",
    params: dict[str, Any] | None = None,
) -> MinedMethod:
    label = label or {"apet": "ApET", "random": "Random"}.get(id, id)
    return MinedMethod(key=key or id, id=id, label=label, kind=kind, params=params or {}, code_sha256="0" * 64)


def write_run(
    folder: Path,
    cases: list[dict[str, Any]],
    answers: dict[tuple[str, int], list[list[bool | None]]],
    methods: list[MinedMethod],
    *,
    layout: str = "jsonl",
    name: str = "cases.jsonl",
    columns: dict[tuple[str, int], dict[str, Any]] | None = None,
) -> Path:
    """Write a run.

    cases: right (of the unpruned answer) and whatever else a column of theirs should hold. answers: by method and
    budget, for every seed, whether each case is right; None where the answer failed. columns: by method and budget what
    other columns of every row hold.
    """
    full = [_case(number, case) for number, case in enumerate(cases)]
    rows = [
        _row(full[number], key, budget, seed, right) | (columns or {}).get((key, budget), {})
        for (key, budget), seeds in answers.items()
        for seed, flags in enumerate(seeds)
        for number, right in enumerate(flags)
    ]
    for table, records in (("cases", full), ("rows", rows)):
        (folder / table).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(records, schema=schema_of(table)), folder / table / "part-00000.parquet")
    zero = "0" * 64
    manifest = Manifest(
        created="2026-11-29T09:00:00Z",
        command="by hand",
        cases=MinedFile(name=name, digest=zero, layout=layout, count=len(full), asked=len(full)),
        model=MinedModel(id="made-up", revision=None, family="llava", weights_sha256=zero, settings_sha256=zero),
        methods=methods,
        budgets=sorted({budget for _, budget in answers}),
        budget_as="published",
        seeds=[0, 1, 2],
        seed=0,
        max_new_tokens=8,
        frames=None,
        device="cpu",
        dtype="float32",
        kernel="sdpa",
        versions={},
        part_cases=len(full),
        status="done",
        parts=[
            Part(name="part-00000", cases=len(full), rows=len(rows), sha256=zero, cases_sha256=zero, seconds=1.0),
        ],
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return folder


def _case(number: int, given: dict[str, Any]) -> dict[str, Any]:
    case = {
        "case_id": f"c{number}",
        "ordinal": number,
        "question": "q",
        "answers": ["yes"],
        "metric": "exact",
        "image": f"{number}.png",
        "media_sha256": f"{number:064d}",
        "n_tokens": N,
        **given,
    }
    return case | {"score": given.get("score", None if case["right"] is None else float(case["right"]))}


def _row(case: dict[str, Any], key: str, budget: int, seed: int, right: bool | None) -> dict[str, Any]:
    return {
        "case_id": case["case_id"],
        "ordinal": case["ordinal"],
        "method": key,
        "method_id": key.split(":")[0],
        "budget": budget,
        "seed": seed,
        "right": right,
        "score": None if right is None else float(right),
        "outcome": "error" if right is None else "kept",
        "error": f"{key} cannot." if right is None else None,
    }
