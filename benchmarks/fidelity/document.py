"""Everything the fidelity pages say, computed from the mined runs, as one JSON document; text is made of it elsewhere.

python -m benchmarks.fidelity.document benchmarks/fidelity.json --docs docs    # writes the pages again
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokviz.errors import BadInput
from tokviz.files import write_whole
from tokviz.names import UNPRUNED
from tokviz.tables import Cell, ResultTable, TableRow, against, retention
from tokviz.tables.published import published_budget
from tokviz.tables.results import names_of

from .chart import FORMATS, chart_bytes
from .depth import depth_result
from .measured import BASELINES, FAMILIES, RANDOM_AT, Measured, most_frequent
from .pages import written
from .published import Ours, compare

FORMAT = 3
"""3: made from mined runs."""
BLIND = "Most frequent answer, no picture"

Document = dict[str, Any]
Row = dict[str, Any]


def document(measured: Measured, layers: Measured | None, about: Mapping[str, Any]) -> Document:
    """Compute the document.

    Args:
        measured: Every method at every budget.
        layers: Methods inside the LLM layer by layer, where that was mined.
        about: ``command.about``.

    Raises BadInput where the unpruned model answers nothing right, so that retention has no meaning.
    """
    if not measured.families:
        raise BadInput("The unpruned model answers no question right, so there is nothing that pruning could retain.")
    results, n_visual = measured.results, int(about["n_visual"])
    rows = _rows(measured, about)
    blind = _blind(measured)
    return {
        "format": FORMAT,
        "about": {**about},
        "questions": {"all": results.n, "images": len(set(results.images)), "per_family": measured.per_family},
        "families": list(measured.families),
        "unpruned": measured.by_family(results.unpruned),
        "blind": blind,
        "rows": rows,
        "retention": _dumped(_with_blind(retention([results]), blind)),
        "tests": _tests(measured),
        "depth": None if layers is None else depth_result(layers),
        "published": compare(_ours(rows, n_visual)),
    }


def _dumped(table: ResultTable) -> dict[str, Any]:
    found: dict[str, Any] = table.model_dump(mode="json")
    return found


def _rows(measured: Measured, about: Mapping[str, Any]) -> list[Row]:
    """Every method at every budget, the budgets descending: what it retains, of the evidence too, at what cost."""
    results = measured.results
    names = names_of(results.methods)
    cells = [(m, b) for b in results.budgets for m in results.methods if m.id != UNPRUNED]
    cells = [(method, budget) for method, budget in cells if len(results.by_seed(method.key, budget))]
    points = np.array([results.points(method.key, budget) for method, budget in cells]).reshape(-1, results.n)
    means = measured.retained(points)
    beside = {control: _beside(measured, control) for control in BASELINES}
    rows = []
    for (method, budget), mean, own in zip(cells, means, points, strict=True):
        accuracy = measured.by_family(own)
        whole = measured.by_family(np.where(np.isnan(own), np.nan, results.unpruned))
        draws = measured.retained(results.by_seed(method.key, budget))
        rows.append(
            {
                "key": method.key,
                "method": method.id,
                "label": names[method.key],
                "budget": budget,
                "type": method.kind,
                "control": method.kind == "control",
                "default": measured.default(method),
                "retention": mean,
                "families": {f: _share(accuracy[f], whole[f]) for f in measured.families},
                "draws": [draw["value"] for draw in draws] if len(draws) > 1 else [],
                **measured.means(method.key, budget),
                "where": about["where"].get(method.key, {}).get(str(budget), ""),
                "minus": {c: found[method.key, budget] for c, found in beside.items() if (method.key, budget) in found},
            }
        )
    return rows


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else 100 * part / whole


def _beside(measured: Measured, control: str) -> dict[tuple[str, int], Any]:
    """The paired difference of every method's mean retention to that of a control, by method and budget."""
    results, reference = measured.results, measured.key(control)
    pairs = [
        (method.key, budget)
        for budget in results.budgets
        for method in results.methods
        if reference is not None and method.key != reference and len(results.by_seed(method.key, budget))
    ]
    gaps = [results.points(key, budget) - results.points(reference, budget) for key, budget in pairs if reference]
    return dict(zip(pairs, measured.retained(np.array(gaps).reshape(-1, results.n)), strict=True))


def _blind(measured: Measured) -> dict[str, Any]:
    """The baseline that sees no picture: percent right per family, and what mean retention that would be."""
    cases = measured.run.cases(["family", "question", "answers", "right"])
    cases = cases[cases["right"].notna()]
    asked = [(str(f), q, a[0]) for f, q, a in zip(cases["family"], cases["question"], cases["answers"], strict=True)]
    accuracy, full = most_frequent(asked), measured.by_family(measured.results.unpruned)
    shares = [100 * accuracy[family] / (full[family] or 1.0) for family in measured.families]
    return {"accuracy": accuracy, "retention": sum(shares) / len(shares)}


def _with_blind(table: ResultTable, blind: Mapping[str, Any]) -> ResultTable:
    """The table with the blind baseline behind the unpruned model."""
    cells = [Cell(value=blind["accuracy"].get(column)) for column in table.columns[:-1]]
    row = TableRow(
        name=BLIND, cells=(*cells, Cell(value=blind["retention"])), kind="control", group=table.rows[0].group
    )
    return table.model_copy(update={"rows": (table.rows[0], row, *table.rows[1:])})


def _tests(measured: Measured) -> dict[str, dict[str, Any]]:
    """Tables of tests by budget: against every control that was mined, and against the unpruned model."""
    results = measured.results
    references = [key for control in BASELINES if (key := measured.key(control)) is not None]
    return {
        str(budget): {key: _dumped(against(results, budget, key)) for key in (*references, UNPRUNED)}
        for budget in results.budgets
    }


def _ours(rows: Sequence[Row], n_visual: int) -> dict[str, dict[int, Ours]]:
    """Our methods with their default parameters, at the budgets that the papers print."""
    found: dict[str, dict[int, Ours]] = {}
    for row in rows:
        budget = published_budget(row["budget"], n_visual)
        usable = budget is not None and row["default"] and not row["control"] and row["method"] != RANDOM_AT
        if usable and row["retention"]["value"] is not None and None not in row["families"].values():
            families = {family: row["families"].get(family, np.nan) for family in FAMILIES}
            found.setdefault(row["method"], {})[int(budget or 0)] = Ours(row["retention"]["value"], families)
    return found


# -- files -------------------------------------------------------------------------------------------------------------


def write(found: Document, folder: Path, docs: Path | None = None) -> list[Path]:
    """Write ``fidelity.json``, the page and the chart to ``folder``, the short page to ``docs``; return the paths."""
    stored = folder / "fidelity.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(stored, as_json(found))
    return [stored, *write_pages(found, folder, docs)]


def as_json(found: Document) -> bytes:
    """A document as the content of a file. Raises ValueError for NaN, which JSON does not know."""
    return (json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def write_with_page(name: str, found: Document, text: str, folder: Path, docs: Path | None = None) -> list[Path]:
    """Write ``NAME.md`` and ``NAME.json`` to ``folder``, and the former to ``docs`` too; return the paths."""
    texts = {folder / f"{name}.json": as_json(found)}
    texts |= {place / f"{name}.md": text.encode() for place in (folder, docs) if place is not None}
    for path, content in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return list(texts)


def write_pages(found: Document, folder: Path, docs: Path | None = None) -> list[Path]:
    """Write everything but the JSON file from its content."""
    page = folder / "fidelity.md"
    contents = {page: written("fidelity", found, short=False).encode()}
    contents |= {folder / f"fidelity.{form}": chart_bytes(found, form) for form in FORMATS}
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        seen_from_docs = Path(os.path.relpath(folder, docs)).as_posix()
        contents[docs / page.name] = written("fidelity_short", found, short=True, folder=seen_from_docs).encode()
    for path, content in contents.items():
        write_whole(path, content)
    return list(contents)


def read(path: Path, form: int = FORMAT) -> Document:
    """Read a document. Raises BadInput when it is missing, damaged or of another format version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise BadInput(f"{str(path)!r} cannot be read: {reason}.") from error
    except ValueError as error:
        raise BadInput(f"{str(path)!r} is no JSON file.") from error
    if not isinstance(found, dict) or found.get("format") != form:
        raise BadInput(f"{str(path)!r} is no document of format {form}.")
    return found


def _written_again(file: Path, docs: Path | None) -> list[Path]:
    """Write the pages of one of the three benchmarks from its numbers."""
    if file.stem == "fidelity":
        return write_pages(read(file), file.parent, docs)
    from . import ablations, positions

    benchmark = {"ablations": ablations, "positions": positions}.get(file.stem)
    if benchmark is None:
        raise BadInput(f"{file.name!r} is no fidelity.json, ablations.json or positions.json.")
    return benchmark.write(read(file, benchmark.FORMAT), file.parent, docs)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages again from a stored JSON file. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity.document", description=main.__doc__)
    parser.add_argument("file", type=Path, help="fidelity.json, ablations.json or positions.json")
    parser.add_argument("--docs", type=Path, help="folder for the short page")
    given = parser.parse_args(arguments)
    try:
        for path in _written_again(given.file, given.docs):
            print(path)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
