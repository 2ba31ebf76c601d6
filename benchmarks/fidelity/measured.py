"""What the pages need of a mined run beside ``tokviz.tables``: mean retention, evidence, tokens. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from tokviz.mining.manifest import MinedMethod
from tokviz.mining.mined import MinedRun
from tokviz.statistics import ImageBootstrap
from tokviz.tables import Results
from tokviz.tables.results import Flags, Floats

if TYPE_CHECKING:
    import pandas

FAMILIES = ("existence", "attribute", "relation", "counting", "reading")
"""Families of questions, in the order of the tables."""
MIRRORS = {
    "existence": "POPE",
    "attribute": "GQA (attribute)",
    "relation": "GQA (relation)",
    "counting": "MME (count)",
    "reading": "TextVQA",
}
"""The published benchmark whose kind of question each family mirrors. Nothing of those benchmarks is in it."""
BASELINES = ("random", "uniform", "pool", "downsample")
"""Ids of the controls that every method has to beat."""
ORACLE = "oracle"
RANDOM_AT = "random_at"


_MEANS = ("evidence_kept", "evidence_absorbed", "evidence_lost", "n_final", "average_tokens", "none_left")


class Estimate(TypedDict):
    """A number with its 95% interval over images; None where it is undefined, or there are too few images."""

    value: float | None
    low: float | None
    high: float | None


NOTHING = Estimate(value=None, low=None, high=None)


class Measured:
    """A mined run as the pages read it.

    Attributes:
        run: The run.
        results: Its answers as arrays.
        families: Those that were asked about and of which the unpruned model has something right, which means are over.
    """

    def __init__(self, run: MinedRun) -> None:
        self.run, self.results = run, Results(run)
        asked = self.results.cases["family"].astype("object").to_numpy()
        self._asked: dict[str, Flags] = {family: asked == family for family in FAMILIES if (asked == family).any()}
        self.families = tuple(name for name, there in self._asked.items() if self.results.unpruned[there].any())
        self._bootstrap = ImageBootstrap(self.results.images)

    def asked(self, family: str) -> Flags:
        """Which cases are of a family. Shape: ``(n,)``."""
        return self._asked[family]

    @property
    def per_family(self) -> dict[str, int]:
        """Number of questions."""
        return {family: int(there.sum()) for family, there in self._asked.items()}

    def key(self, method: str, params: Mapping[str, Any] | None = None) -> str | None:
        """The run's key of a method with these parameters and otherwise its defaults; None where it was not mined."""
        from tokviz.pruners import get

        wanted = dict(get(method).complete(params))
        found = (each.key for each in self.results.methods if each.id == method and each.params == wanted)
        return next(found, None)

    def default(self, method: MinedMethod) -> bool:
        """Whether a method ran with its default parameters."""
        return self.key(method.id) == method.key

    def retained(self, values: Floats) -> list[Estimate]:
        """The mean over the families of points in percent of the unpruned model's; cases with NaN leave both.

        Of the difference of two methods' points it is the paired difference of their mean retentions.

        Shape: values ``(m, n)``, points 0 to 100 -> m estimates.
        """
        if not len(values) or not self.families:
            return [NOTHING] * len(values)
        there: Flags = np.stack([self._asked[name] for name in self.families])[None] & ~np.isnan(values)[:, None]
        full = np.where(there, self.results.unpruned, 0.0)
        defined: Flags = (full.max(axis=2) > 0).min(axis=1)
        tops = np.where(there, 100 * np.nan_to_num(values)[:, None], 0.0)[defined]
        found = iter(self._bootstrap.mean_ratios(tops, full[defined], there[defined]) if defined.any() else ())
        made = []
        for known in defined:
            if known:
                interval = next(found)
                made.append(Estimate(value=interval.value, low=interval.low, high=interval.high))
            else:
                made.append(NOTHING)
        return made

    def by_family(self, values: Floats) -> dict[str, float | None]:
        """Points of each family, in the order of FAMILIES; None where nothing is known. Shape: values ``(n,)``."""
        known = ~np.isnan(values)
        return {
            family: float(values[there & known].mean()) if (there & known).any() else None
            for family, there in self._asked.items()
        }

    @cached_property
    def rows(self) -> pandas.DataFrame:
        """Every answer, and what was kept."""
        names = ("case_id", "ordinal", "method", "budget", "seed", "answer", "outcome", "kept")
        return self.run.rows([*names, *_MEANS[:-1]])

    @cached_property
    def _means(self) -> pandas.DataFrame:
        """Means over cases and seeds by method and budget. Evidence: over the questions that have some."""
        rows = self.rows[self.rows["outcome"] != "error"]
        rows = rows.assign(none_left=(rows["n_final"] == 0).astype(float))
        return rows.groupby(["method", "budget"], observed=True)[list(_MEANS)].mean()

    def means(self, key: str, budget: int) -> dict[str, float | None]:
        """Mean of every column in ``_MEANS``, None where there is none: shares of the evidence, visual tokens left at
        the end and per layer, share of the answers at whose end none is left."""
        if (key, budget) not in self._means.index:
            return dict.fromkeys(self._means.columns)
        return {
            name: None if value != value else float(value) for name, value in self._means.loc[(key, budget)].items()
        }


def most_frequent(questions: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    """Percent right per family of whoever gives, without a look, the answer that is most often right.

    Known per kind of question, which its first two words name ("what color", "how many"), on these very questions.
    questions: family, question, right answer.
    """
    answers: dict[tuple[str, str], Counter[str]] = {}
    for family, question, answer in questions:
        answers.setdefault((family, " ".join(question.split()[:2])), Counter())[answer] += 1
    asked = Counter(family for family, _, _ in questions)
    right: Counter[str] = Counter()
    for (family, _), counter in answers.items():
        right[family] += max(counter.values())
    return {family: 100 * right[family] / asked[family] for family in FAMILIES if asked[family]}
