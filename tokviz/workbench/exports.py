"""What is taken away of a filtered set: rows as JSONL, CSV or Parquet, cases to mine again, a figure, a report.

Texts are those of the run. In CSV, a cell that a spreadsheet would take for a formula begins with an apostrophe.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cases.case import Case
from ..errors import BadInput
from .cards import read_cases
from .kept import unpacked
from .queries import Found
from .requests import View
from .run import OpenRun
from .stored import stored_comparison
from .tags import TagStore

if TYPE_CHECKING:
    import pyarrow

    from .service import Workbench

MOST_CASES = 100_000
MOST_ROWS = 400_000
"""Rows of one JSONL, CSV or Parquet file; the run's own Parquet files hold all of them."""
FIGURE_CASES = 8
"""Cases of a figure: the first of the filter, in its order."""
REPORT_CASES = 200
_CASE_COLUMNS = ("question", "answers", "metric", "family", "split", "image", "video", "evidence_size")
_UNPRUNED = ("answer", "right", "score", "margin")
_ROW_COLUMNS = (
    "case_id",
    "ordinal",
    "method",
    "method_id",
    "params",
    "kind",
    "budget",
    "budget_as",
    "seed",
    "answer",
    "right",
    "score",
    "outcome",
    "flipped",
    "margin",
    "logprob",
    "reference_logprob",
    "n_kept",
    "n_final",
    "average_tokens",
    "evidence_kept",
    "evidence_absorbed",
    "evidence_lost",
    "evidence_gone_layer",
    "only_failure",
    "all_failed",
    "random_beats_it",
    "agreement",
    "flip_budget",
    "effective_rank",
    "error",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def exported(bench: Workbench, kind: str, asked: Any) -> tuple[str, str, bytes]:
    """A view as a file: its name, its type, its content. Raises BadInput for an unknown kind, or too much of it."""
    kinds: Mapping[str, tuple[str, str, Callable[..., bytes]]] = {
        "jsonl": ("rows.jsonl", "application/x-ndjson", _rows_as(jsonl)),
        "csv": ("rows.csv", "text/csv", _rows_as(as_csv)),
        "parquet": ("rows.parquet", "application/vnd.apache.parquet", _rows_as(parquet)),
        "cases": ("cases.jsonl", "application/x-ndjson", lambda run, _, found, *__: cases_jsonl(run, found.ordinals())),
        "figure-pdf": ("cases.pdf", "application/pdf", _figure_as("pdf")),
        "figure-png": ("cases.png", "image/png", _figure_as("png")),
        "figure-svg": ("cases.svg", "image/svg+xml", _figure_as("svg")),
        "report": ("report.html", "text/html", _report),
    }
    if kind not in kinds:
        raise BadInput(f"There is no export {kind[:40]!r}; there are {', '.join(kinds)}.")
    run, view, found = bench.view(asked)
    if not len(found):
        raise BadInput("No case fits the filters, so there is nothing to export.")
    name, mime, make = kinds[kind]
    return f"{run.name}-{name}", mime, make(run, view, found, bench.tags(view.run), bench.media)


def rows_table(run: OpenRun, ordinals: Sequence[int], tags: TagStore | None = None) -> pyarrow.Table:
    """All rows of some cases with what is known of the case, and what people said, as a table.

    Columns of the unpruned run begin with ``unpruned_``. Raises BadInput for more than ``MOST_ROWS`` rows.
    """
    ids = list(map(int, ordinals))
    per_case = len(run.methods) * len(run.manifest.budgets) * max(1, len(run.manifest.seeds))
    if len(ids) * per_case > MOST_ROWS and run.count_rows(ids) > MOST_ROWS:
        raise BadInput(
            f"These {len(ids):,} cases have more than {MOST_ROWS:,} rows: filter for fewer, or read the Parquet "
            "files of the run itself."
        )
    columns = ", ".join(
        [
            *(f"r.{name}" for name in _ROW_COLUMNS),
            "r.kept",
            "c.n_tokens",
            *(f"c.{name}" for name in _CASE_COLUMNS),
            *(f"c.{name} AS unpruned_{name}" for name in _UNPRUNED),
        ]
    )
    sql = (
        f"SELECT {columns} FROM read_parquet($1) r JOIN read_parquet($2) c ON c.ordinal = r.ordinal "
        "WHERE r.ordinal IN (SELECT unnest($3::INTEGER[])) AND c.ordinal IN (SELECT unnest($3::INTEGER[])) "
        "ORDER BY r.ordinal, r.method, r.budget DESC, r.seed"
    )
    table = run.arrow(sql, [run.files("rows", ids), run.files("cases", ids), ids])
    return _with_review(table, tags)


def _with_review(table: pyarrow.Table, tags: TagStore | None) -> pyarrow.Table:
    import pyarrow as pa

    ids = table["case_id"].to_pylist()
    given = {} if tags is None else tags.given(list(dict.fromkeys(ids)))
    review = [given.get(one) for one in ids]
    columns = {
        "tags": pa.array([[] if one is None else one.tags for one in review], pa.list_(pa.string())),
        "status": pa.array(["unreviewed" if one is None else one.status for one in review], pa.string()),
        "note": pa.array(["" if one is None else one.note for one in review], pa.string()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def jsonl(table: pyarrow.Table) -> bytes:
    """One JSON object a line; kept tokens as a list."""
    out = io.StringIO()
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            row["kept"] = unpacked(row["kept"], row["n_tokens"] or 0) if row["kept"] is not None else None
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    return out.getvalue().encode()


def as_csv(table: pyarrow.Table) -> bytes:
    """A header and a line per row, without the kept tokens; lists as JSON."""
    names = [name for name in table.column_names if name != "kept"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for batch in table.select(names).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            writer.writerow([_cell(row[name]) for name in names])
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def parquet(table: pyarrow.Table) -> bytes:
    """As it is, kept tokens packed as mined runs store them."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def cases_jsonl(run: OpenRun, ordinals: Sequence[int]) -> bytes:
    """Cases that ``tokviz mine`` takes, in the order of the filter; media paths are those of the case file that was
    mined, so it is mined with ``--media`` and that folder.
    """
    wanted = list(map(int, ordinals))
    if len(wanted) > MOST_CASES:
        raise BadInput(f"At most {MOST_CASES:,} cases are written at once; these are {len(wanted):,}.")
    columns = (
        "case_id, ordinal, image, video, question, answers, family, evidence, evidence_frames, split, metric, others"
    )
    by_ordinal = {case["ordinal"]: case for case in read_cases(run, wanted, columns)}
    lines = [_case_of(by_ordinal[ordinal]) for ordinal in wanted if ordinal in by_ordinal]
    return "".join(f"{line}\n" for line in lines).encode()


def _case_of(row: Mapping[str, Any]) -> str:
    others = json.loads(row["others"]) if row["others"] else {}
    case = Case(
        id=row["case_id"],
        image=row["image"],
        video=row["video"],
        question=row["question"],
        answers=tuple(row["answers"] or ()),
        family=row["family"],
        evidence=tuple(tuple(box) for box in row["evidence"] or ()),
        evidence_frames=tuple(row["evidence_frames"] or ()),
        split=row["split"],
        metric=row["metric"] or "exact",
        others=others if isinstance(others, dict) else {},
    )
    return case.model_dump_json(exclude_defaults=True)


def _rows_as(write: Callable[[pyarrow.Table], bytes]) -> Callable[..., bytes]:
    def make(run: OpenRun, view: View, found: Found, tags: TagStore, media: Sequence[Path]) -> bytes:
        return write(rows_table(run, found.ordinals(view.sort).tolist(), tags))

    return make


def _figure_as(file_format: str) -> Callable[..., bytes]:
    def make(run: OpenRun, view: View, found: Found, tags: TagStore, media: Sequence[Path]) -> bytes:
        from ..viz.case_rows import cases_figure_bytes

        some = found.ordinals(view.sort)[:FIGURE_CASES].tolist()
        shown = [
            stored_comparison(run, one, view.methods, view.budget, seed=view.seed, roots=media, thumbnail=True)
            for one in some
        ]
        return cases_figure_bytes(shown, file_format)

    return make


def _report(run: OpenRun, view: View, found: Found, tags: TagStore, media: Sequence[Path]) -> bytes:
    from .report import report_html

    return report_html(run, view, found, tags, media).encode()
