"""``docs/failure-cases.md``: what a mined run shows of how methods fail, in tables and figures of the tool itself.

    python -m benchmarks.failure_cases examples/runs/tokviz-tiny --media examples/runs/tokviz-tiny/media

What was learnt is written by hand, in ``templates/failure_cases_learnt.md``. Its first line names the weights that it
is about (``weights: 9bd21dfb2699``, as the page has them); it is left out of a page about others.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tokviz.errors import BadInput
from tokviz.files import write_whole, writing
from tokviz.mining.mined import open_run
from tokviz.names import UNPRUNED
from tokviz.tables import Cell, Results, ResultTable, TableRow, against, by_budget, by_slice
from tokviz.tables.results import names_of

from .wording import by_hand, render

if TYPE_CHECKING:
    import pandas

TEMPLATES = Path(__file__).with_name("templates")
LEARNT = TEMPLATES / "failure_cases_learnt.md"
REFERENCES = ("apet", "polymorphic", "todre", "adaptvtp")
"""Methods that figures show where they were mined; else the first ones that are no controls."""
COLUMNS, CASES = 4, 3
"""How many methods and cases a figure shows."""
COLORS, WIDTH = 128, 1500
"""Of a figure: masks and drawn images have few colours; a page shows no more pixels."""


@dataclass(frozen=True)
class Figure:
    """Cases of one kind. name: of the file. what: its caption. methods: shown. ordinals: of the cases."""

    name: str
    what: str
    methods: tuple[str, ...]
    ordinals: tuple[int, ...]


class Failures:
    """A run at one budget: a row per case and method, that of the first seed where a method has several.

    Attributes:
        results: The run's tables.
        budget: The budget.
        rows: With what is known of the case: ``family``, ``evidence_size``, ``question``; and ``there``, the share of
            the evidence that is left, kept or absorbed.
        pruners: Keys of the methods that are no controls and answered.
    """

    def __init__(self, folder: Path, budget: int | None = None) -> None:
        run = open_run(folder)
        self.run, self.results = run, Results(run)
        self.budget = self.results.check_budget(64 if budget is None and 64 in self.results.budgets else budget)
        rows = run.rows()
        rows = rows[
            (rows["budget"] == self.budget) & (rows["outcome"] != "error") & (rows["seed"] == run.manifest.seeds[0])
        ]
        cases = run.cases(["ordinal", "family", "evidence_size", "question"])
        rows = rows.merge(cases, on="ordinal")
        self.rows: pandas.DataFrame = rows.assign(there=rows["evidence_kept"] + rows["evidence_absorbed"])
        self.names = names_of(self.results.methods)
        answered = set(self.rows["method"])
        self.pruners = [m.key for m in self.results.methods if m.kind != "control" and m.key in answered]

    def of(self, method: str) -> pandas.DataFrame:
        """The rows of a method."""
        return self.rows[self.rows["method"] == method]

    # -- tables --------------------------------------------------------------------------------------------------------

    def outcomes(self) -> ResultTable:
        """What became of the answers, in cases."""
        columns = ("lost", "only it lost", "lost, random keeps it", "rescued", "another wrong answer")
        rows = []
        for key in self.pruners:
            own = self.of(key)
            beaten = own["random_beats_it"].fillna(False).astype(bool) & (own["outcome"] == "lost")
            counts = (
                (own["outcome"] == "lost").sum(),
                own["only_failure"].fillna(False).astype(bool).sum(),
                beaten.sum(),
                (own["outcome"] == "rescued").sum(),
                (own["outcome"] == "changed").sum(),
            )
            rows.append(TableRow(name=self.names[key], cells=tuple(Cell(value=int(n), digits=0) for n in counts)))
        first = self.of(self.pruners[0]) if self.pruners else self.rows
        failed = int(first["all_failed"].fillna(False).astype(bool).sum())
        notes = (
            f"Of {len(first):,} cases; all methods together lose {failed:,} that the unpruned model has right.",
            "Controls are no methods here; a method that draws random numbers is shown with its first seed.",
        )
        title = f"What became of the answers at {self.budget} tokens, in cases"
        return ResultTable(title=title, head="method", columns=columns, rows=tuple(rows), notes=notes)

    def evidence(self) -> ResultTable:
        """How much of the evidence is left where the answer is kept, and where it is lost."""
        columns = (
            "kept where right, %",
            "kept where lost, %",
            "kept or absorbed where lost, %",
            "lost with none left, % of lost",
            "layer at which it went (median)",
        )
        rows = []
        for key in self.pruners:
            own = self.of(key)
            own = own[own["there"].notna()]
            right, lost = own[own["outcome"] == "kept"], own[own["outcome"] == "lost"]
            gone = lost["evidence_gone_layer"].dropna()
            shares = (
                right["evidence_kept"].mean(),
                lost["evidence_kept"].mean(),
                lost["there"].mean(),
                (lost["there"] == 0).mean(),
            )
            cells = [Cell(value=None if share != share else 100 * float(share)) for share in shares]
            cells.append(Cell(value=float(gone.median()) if len(gone) else None, digits=0))
            rows.append(TableRow(name=self.names[key], cells=tuple(cells)))
        notes = (
            "Shares of the tokens that show what the question is about, over the questions that have some and that the "
            "unpruned model has right. Absorbed: merged into a token that is kept.",
            "Layer 0: before the language model.",
        )
        title = f"Evidence and lost answers at {self.budget} tokens"
        return ResultTable(title=title, head="method", columns=columns, rows=tuple(rows), notes=notes)

    # -- figures -------------------------------------------------------------------------------------------------------

    def figures(self) -> list[Figure]:
        """Cases that show how methods fail, chosen by the numbers; kinds of which there is none are left out."""
        made = [
            self._all_failed(),
            self._alone(),
            self._beaten_by_random(),
            self._in_spite_of_evidence(),
            self._rescued(),
        ]
        return [figure for figure in made if figure is not None and figure.ordinals]

    def _shown(self, *first: str) -> tuple[str, ...]:
        """Methods of a figure: these first, then the references."""
        wanted = [*first, *(key for key in REFERENCES if key in self.pruners), *self.pruners]
        return tuple(dict.fromkeys(wanted))[:COLUMNS]

    def _most(self, counts: Mapping[str, int]) -> str | None:
        """The method with the most; None where all have none."""
        best = max(counts, key=lambda key: counts[key], default=None)
        return best if best is not None and counts[best] else None

    def _spread(self, rows: pandas.DataFrame) -> tuple[int, ...]:
        """Cases of different families where there are such, in the order of the file."""
        ordered = rows.sort_values("ordinal").drop_duplicates("ordinal")
        first = ordered.drop_duplicates("family")
        rest = ordered[~ordered["ordinal"].isin(first["ordinal"])]
        chosen = [*first["ordinal"], *rest["ordinal"]][:CASES]
        return tuple(sorted(map(int, chosen)))

    def _all_failed(self) -> Figure:
        rows = self.rows[self.rows["all_failed"].fillna(False).astype(bool)]
        what = "All methods lose these answers."
        return Figure("all-fail", what, self._shown(), self._spread(rows))

    def _alone(self) -> Figure | None:
        alone = {key: int(self.of(key)["only_failure"].fillna(False).astype(bool).sum()) for key in self.pruners}
        key = self._most(alone)
        if key is None:
            return None
        rows = self.of(key)[self.of(key)["only_failure"].fillna(False).astype(bool)]
        what = f"Only {self.names[key]} loses these answers: it does so {alone[key]:,} times, more than any other."
        return Figure("alone", what, self._shown(key), self._spread(rows))

    def _beaten_by_random(self) -> Figure | None:
        def beaten(key: str) -> pandas.DataFrame:
            own = self.of(key)
            return own[own["random_beats_it"].fillna(False).astype(bool) & (own["outcome"] == "lost")]

        counts = {key: len(beaten(key)) for key in self.pruners}
        key = self._most(counts)
        if key is None or "random" not in set(self.rows["method"]):
            return None
        what = f"{self.names[key]} loses these answers and random tokens keep them: {counts[key]:,} times."
        return Figure("random-keeps-it", what, self._shown(key, "random"), self._spread(beaten(key)))

    def _in_spite_of_evidence(self) -> Figure | None:
        def kept(key: str) -> pandas.DataFrame:
            own = self.of(key)
            return own[(own["evidence_kept"] > 1 - 1e-9) & (own["outcome"] == "lost")]

        counts = {key: len(kept(key)) for key in self.pruners}
        key = self._most(counts)
        if key is None:
            return None
        what = (
            f"{self.names[key]} keeps every token that shows the evidence and loses the answer: {counts[key]:,} times."
        )
        return Figure("evidence-kept", what, self._shown(key), self._spread(kept(key)))

    def _rescued(self) -> Figure | None:
        counts = {key: int((self.of(key)["outcome"] == "rescued").sum()) for key in self.pruners}
        key = self._most(counts)
        if key is None:
            return None
        rows = self.of(key)[self.of(key)["outcome"] == "rescued"]
        what = f"Wrong without pruning and right with it: {self.names[key]} rescues {counts[key]:,} answers."
        return Figure("rescued", what, self._shown(key), self._spread(rows))

    def values(self, figures: Sequence[Figure], folder: str) -> dict[str, object]:
        """What the template names."""
        results, manifest = self.results, self.run.manifest
        weights = manifest.model.weights_sha256[:12]
        tables = [
            by_budget(results),
            by_slice(results, "family", self.budget),
            by_slice(results, "evidence_size", self.budget),
            against(results, self.budget, UNPRUNED),
        ]
        return {
            "manifest": manifest,
            "weights": weights,
            "learnt": by_hand(LEARNT, weights),
            "budget": self.budget,
            "run": self.run.path.as_posix(),
            "n": results.n,
            "images": len(set(results.images)),
            "budgets_table": tables[0].markdown(),
            "families_table": tables[1].markdown(),
            "sizes_table": tables[2].markdown(),
            "tests_table": tables[3].markdown(),
            "outcomes_table": self.outcomes().markdown(),
            "evidence_table": self.evidence().markdown(),
            "figures": figures,
            "folder": folder,
        }


def drawn(run_folder: Path, figure: Figure, budget: int, media: Sequence[Path], seed: int) -> bytes:
    """A figure as PNG."""
    from tokviz.viz.case_rows import cases_figure_bytes
    from tokviz.workbench import OpenRun, stored_comparison

    with OpenRun(run_folder) as run:
        shown = [
            stored_comparison(run, ordinal, figure.methods, budget, seed=seed, roots=media, thumbnail=True)
            for ordinal in figure.ordinals
        ]
        content = cases_figure_bytes(shown, "png")
    out, image = io.BytesIO(), Image.open(io.BytesIO(content)).convert("RGB")
    image.thumbnail((WIDTH, image.height))
    image.quantize(COLORS).save(out, "PNG", optimize=True)
    return out.getvalue()


def write(run_folder: Path, docs: Path, budget: int | None = None, media: Sequence[Path] = ()) -> list[Path]:
    """Write the page and its figures; return the paths. Raises BadInput for a run that has nothing to show."""
    failures = Failures(run_folder, budget)
    if not failures.pruners:
        raise BadInput(f"No method of this run but controls has answers at {failures.budget} tokens.")
    figures = failures.figures()
    folder = docs / "failure-cases"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
    seed = failures.run.manifest.seeds[0]
    contents = {
        folder / f"{figure.name}.png": drawn(run_folder, figure, failures.budget, media, seed) for figure in figures
    }
    page = render(TEMPLATES / "failure_cases.md.j2", **failures.values(figures, folder.name))
    contents[docs / "failure-cases.md"] = page.encode()
    for path, content in contents.items():
        write_whole(path, content)
    return list(contents)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page about a run. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that tokviz mine wrote")
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--budget", type=int, metavar="N", help="budget that is looked at (default: 64, or the smallest)"
    )
    missing = "where the images lie, if not in the run (repeatable; else their thumbnails are drawn)"
    parser.add_argument("--media", type=Path, action="append", default=[], metavar="DIR", help=missing)
    given = parser.parse_args(arguments)
    try:
        for path in write(given.run, given.docs, given.budget, given.media):
            print(path)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
