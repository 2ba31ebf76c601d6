"""The answers of a mined run as arrays: one value per method, budget, seed and case, and the slices of the cases."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..cases.judging import mme_figures
from ..errors import BadInput, nearest
from ..mining.manifest import MinedMethod
from ..mining.mined import MinedRun
from ..names import UNPRUNED

if TYPE_CHECKING:
    import pandas

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
CATEGORIES = ("family", "split", "metric", "difficult")
NUMBERS = ("evidence_size", "cls_entropy", "effective_rank", "margin")
MOST_SLICES = 12
_PARTIAL = ("vqa", "anls")
"""Metrics of which the score counts, not whether it is right."""
_CASES = ("ordinal", "case_id", "answers", "metric", "image", "video", "media_sha256", "n_tokens", "right", "score")
Key = tuple[str, int]
"""Method and budget."""
_ROWS = ("ordinal", "method", "budget", "seed", "right", "score", "error")
_NO_REASON = "no answer."


@dataclass(frozen=True)
class Slice:
    """Cases that have something in common. where: the filter that says so, as in ``Cell.where``. Shape: there (n,)."""

    name: str
    there: Flags
    where: dict[str, Any]


class Results:
    """The judged cases of a run, and what each method made of them.

    Attributes:
        name: Of the case file. layout: Of the case file.
        methods: As the manifest has them.
        budgets: From large to small.
        cases: The judged cases, a row each, in file order. Their number is ``n``.
        not_judged: Cases without an expected answer, or that could not be mined.
        missing: Answers that failed, by method and budget; only where there are any.
        reasons: Why most of these did, as the run says it.
    """

    def __init__(self, run: MinedRun, case_ids: Collection[str] | None = None) -> None:
        """Read what tables need of a run.

        Args:
            run: The run.
            case_ids: Only these cases, such as a filter found.

        Raises:
            BadInput: If nothing of it can be judged, or a library or part is missing.
        """
        manifest = run.manifest
        self.name, self.layout = manifest.cases.name, manifest.cases.layout
        self.methods: tuple[MinedMethod, ...] = tuple(manifest.methods)
        self.budgets = sorted(set(manifest.budgets), reverse=True)
        self.model = manifest.model.id
        cases = run.cases([*_CASES, *CATEGORIES[:2], *CATEGORIES[3:], *NUMBERS])
        if case_ids is not None:
            cases = cases[cases["case_id"].isin(list(case_ids))]
        judged = cases[cases["right"].notna()].sort_values("ordinal").reset_index(drop=True)
        self.cases: pandas.DataFrame = judged
        self.not_judged = len(cases) - len(judged)
        if not len(judged):
            raise BadInput("No case of this run has an expected answer, so there is nothing to put into a table.")
        self.missing: dict[Key, int] = {}
        self.reasons: dict[Key, str] = {}
        self._values, self._right = self._arrays(run)

    def _arrays(self, run: MinedRun) -> tuple[dict[Key, Floats], dict[Key, Floats]]:
        """Points and right answers by method and budget, ``(seeds, n)`` each with NaN where missing, which is noted."""
        rows = run.rows(_ROWS)
        place = dict(zip(self.cases["ordinal"], range(self.n), strict=True))
        at = rows["ordinal"].map(place)
        rows, at = rows[at.notna()], at[at.notna()].astype(int)
        right = rows["right"].astype("float64").to_numpy()
        partial = self.cases["metric"].isin(_PARTIAL).to_numpy()[at]
        points = 100 * np.where(partial, rows["score"].astype("float64").to_numpy(), right)
        values: dict[Key, Floats] = {}
        rights: dict[Key, Floats] = {}
        seeds = {seed: number for number, seed in enumerate(sorted(rows["seed"].unique()))}
        number = rows["seed"].map(seeds).to_numpy()
        for key, places in rows.groupby(["method", "budget"], observed=True).indices.items():
            wanted = (str(key[0]), int(key[1]))
            failed = np.isnan(right[places])
            if failed.any():
                self.missing[wanted] = int(failed.sum())
                why = rows["error"].iloc[places[failed]].value_counts()
                self.reasons[wanted] = str(why.index[0]) if len(why) else _NO_REASON
            for target, source in ((values, points), (rights, right)):
                table = np.full((len(seeds), self.n), np.nan)
                table[number[places], at.to_numpy()[places]] = source[places]
                target[wanted] = table[~np.isnan(table).all(axis=1)]
        return values, rights

    @property
    def n(self) -> int:
        """Number of judged cases."""
        return len(self.cases)

    @cached_property
    def images(self) -> list[str]:
        """What each case is about: the digest of its image or video, else its path."""
        named = self.cases["media_sha256"].fillna(self.cases["image"]).fillna(self.cases["video"])
        return [str(name) for name in named]

    @cached_property
    def unpruned(self) -> Floats:
        """Points of the unpruned answers, 0 to 100. Shape: ``(n,)``."""
        partial = self.cases["metric"].isin(_PARTIAL).to_numpy()
        right, score = (self.cases[name].astype("float64").to_numpy() for name in ("right", "score"))
        return 100 * np.where(partial, score, right)

    @cached_property
    def unpruned_right(self) -> Floats:
        """Whether the unpruned answers are right, 0 or 1. Shape: ``(1, n)``."""
        return self.cases["right"].astype("float64").to_numpy()[None]

    @cached_property
    def n_tokens(self) -> int | None:
        """Visual tokens of every case; None where they differ."""
        numbers = self.cases["n_tokens"].dropna().unique()
        return int(numbers[0]) if len(numbers) == 1 else None

    def by_seed(self, method: str, budget: int) -> Floats:
        """Points of a method at a budget for every seed, 0 to 100, NaN for answers that failed.

        Shape: ``(seeds, n)``; no seeds where it was not mined.
        """
        return self._values.get((method, budget), np.empty((0, self.n)))

    def right_by_seed(self, method: str, budget: int) -> Floats:
        """Whether its answers are right, 0 or 1; otherwise as ``by_seed``."""
        return self._right.get((method, budget), np.empty((0, self.n)))

    def points(self, method: str, budget: int) -> Floats:
        """Mean over the seeds, NaN where every seed failed. Shape: ``(n,)``."""
        values = self.by_seed(method, budget)
        known = ~np.isnan(values)
        sums, counts = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
        return np.divide(sums, counts, out=np.full(self.n, np.nan), where=counts > 0)

    def most_right(self, method: str, budget: int) -> Floats:
        """Whether most seeds are right, 0 or 1; NaN where every seed failed. Shape: ``(n,)``."""
        values = self.right_by_seed(method, budget)
        known = (~np.isnan(values)).sum(axis=0)
        return np.where(known > 0, (2 * np.nansum(values, axis=0) > known).astype(float), np.nan)

    def method(self, key: str) -> MinedMethod:
        """A method by its key. Raises BadInput."""
        found = next((method for method in self.methods if method.key == key), None)
        if found is None:
            keys = [method.key for method in self.methods]
            near = nearest(key, keys)
            advice = f"did you mean {near!r}?" if near else f"there are {', '.join(keys)}."
            raise BadInput(f"This run has no method {key!r}; {advice}")
        return found

    def check_budget(self, budget: int | None) -> int:
        """A budget of the run, the smallest where it is None. Raises BadInput."""
        if budget is None:
            return self.budgets[-1]
        if budget not in self.budgets:
            raise BadInput(f"This run has the budgets {', '.join(map(str, self.budgets))}, not {budget}.")
        return budget

    @property
    def unit(self) -> str:
        """What a point is: percent right, or a score where the data set gives parts of an answer's credit."""
        metrics = set(self.cases["metric"])
        if len(metrics) > 1:
            return "score, %"
        return {"vqa": "VQA score, %", "anls": "ANLS, %"}.get(metrics.pop(), "right, %")

    def slices(self, column: str) -> list[Slice]:
        """The cases by a column: its values, the most frequent first, or thirds of its numbers.

        Raises:
            BadInput: For a column that cases are not sliced by.
        """
        if column in NUMBERS:
            return list(self._thirds(column))
        if column not in CATEGORIES:
            names = (*CATEGORIES, *NUMBERS)
            near = nearest(column, names)
            advice = f"did you mean {near!r}?" if near else f"there are {', '.join(names)}."
            raise BadInput(f"Cases are not sliced by {column!r}; {advice}")
        values = self.cases[column].astype("object")
        counts = values.value_counts()
        found = []
        for value in counts.index[:MOST_SLICES]:
            plain = bool(value) if column == "difficult" else str(value)
            name = {True: "difficult", False: "simple"}[plain] if isinstance(plain, bool) else plain
            found.append(Slice(name, (values == value).to_numpy(dtype=bool), {column: plain}))
        return found

    def _thirds(self, column: str) -> Iterator[Slice]:
        numbers = self.cases[column].astype("float64").to_numpy()
        known = numbers[np.isfinite(numbers)]
        if not len(known):
            return
        edges = np.unique(np.quantile(known, [0, 1 / 3, 2 / 3, 1]))
        for at, (low, high) in enumerate(pairwise(edges)):
            there = (numbers <= high) & ((numbers > low) if at else (numbers >= low))
            name = f"{low:.3g} to {high:.3g}"
            if there.any():
                yield Slice(name, there, {column: {"low": None if not at else float(low), "high": float(high)}})
        if len(edges) == 1:
            yield Slice(f"{edges[0]:.3g}", numbers == edges[0], {column: {"low": None, "high": float(edges[0])}})


def data_set_figure(results: Results, right: Floats, points: Floats, there: Flags) -> float | None:
    """The figure that the data set publishes, over some of its cases; None where it is undefined.

    POPE: F1 in percent. MME: sum over the categories of accuracy and accuracy+, each in percent. All others: mean
    points. Several seeds: their mean.

    Shape: right, points ``(seeds, n)``; there ``(n,)``.
    """
    metrics = set(results.cases["metric"][there])
    figures = []
    for flags, values in zip(right, points, strict=True):
        known = there & ~np.isnan(flags)
        if not known.any():
            continue
        if metrics == {"pope"}:
            figures.append(_f1(results, flags[known] == 1, known))
        elif metrics == {"mme"}:
            families = results.cases["family"].astype("object").fillna("").astype(str).to_numpy()[known]
            images = np.array(results.images)[known]
            figures.append(mme_figures(zip(families, images, flags[known] == 1, strict=True)).total)
        else:
            figures.append(float(values[known].mean()))
    defined = [figure for figure in figures if figure is not None]
    return sum(defined) / len(defined) if defined else None


def _f1(results: Results, right: Flags, known: Flags) -> float | None:
    """F1 of the answer yes, in percent: what was said follows from what is expected and whether it is right."""
    answers = results.cases["answers"][known]
    expected = np.array([str(some[0]).strip().casefold().startswith("yes") for some in answers], dtype=bool)
    hits, said = int((expected & right).sum()), int((expected == right).sum())
    whole = said + int(expected.sum())
    return 200 * hits / whole if whole else None


def names_of(methods: Sequence[MinedMethod]) -> dict[str, str]:
    """What each method is called in a table: its label, with what sets it apart where two have the same."""
    labels = [method.label for method in methods]
    return {
        m.key: m.label if labels.count(m.label) == 1 else f"{m.label} ({m.key})" for m in methods if m.id != UNPRUNED
    }
