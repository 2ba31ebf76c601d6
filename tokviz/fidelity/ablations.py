"""The ablations of the papers on the embedded model: which variants they need, and what came of them.

    python -m tokviz bench ablations

The declarations are in ``ablation_papers.py`` and ``position_bias.py``, the document in ``ablation_tables.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import BadInput
from .ablation_papers import ABLATIONS, Ablation, Setting
from .outcomes import FAMILIES, FULL, About, Outcome, Variant, shared_questions
from .position_bias import METHODS, TRUTH, Estimate, Leaning, estimate, evidence_places, leanings, places
from .statistics import Floats, accuracies, count, mean_retention, resampled_accuracies, retention

NO_PRUNING = Variant(FULL, {}, "No pruning", None)
SEED = 0
"""Of the bootstrap."""

AGREES, DISAGREES = "agrees", "disagrees"
UNDECIDED = "no difference that these questions could show"
UNCHANGED = "the same tokens and answers as the reference in every question"
ONLY_HERE = "differs, where the paper prints no difference"
NOT_IN_PAPER = "differs; not in the paper"
REFERENCE = "reference"


@dataclass(frozen=True)
class Result:
    """What came of one setting.

    accuracy: percent per family, None where no question is. retention: mean over the families in percent of the
    unpruned model. difference: retention minus that of the reference, paired by scene. kept, average: means over the
    questions, see ``Outcome``. none_kept: share of the questions at whose end no visual token was left. verdict: beside
    the paper. why_not: why it was not run; then there is nothing else.
    """

    name: str
    method: str
    params: Mapping[str, object]
    budget: int | None
    printed: Sequence[float]
    paper_mean: float | None
    paper_difference: float | None
    accuracy: Sequence[float | None] = ()
    retention: Estimate | None = None
    difference: Estimate | None = None
    kept: float | None = None
    average: float | None = None
    none_kept: float | None = None
    verdict: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class AblationResult:
    """One ablation with all its settings. sentence: whether ours points the way of the paper."""

    ablation: Ablation
    results: Sequence[Result]
    sentence: str


@dataclass(frozen=True)
class Report:
    """All that the document says. families: those that the mean is taken over; unpruned: accuracy in percent."""

    about: About
    questions: int
    scenes: int
    families: Sequence[str]
    unpruned: Sequence[float | None]
    ablations: Sequence[AblationResult]
    positions: Sequence[Leaning]


def variants() -> list[Variant]:
    """Everything that the ablations need, the unpruned model first, nothing twice."""
    settings = (setting.variant for ablation in ABLATIONS for setting in ablation.settings)
    ranked = (method.variant for method in METHODS if method.variant is not None)
    return list(dict.fromkeys([NO_PRUNING, *settings, *ranked]))


def write(
    outcomes: Mapping[Variant, Sequence[Outcome]], about: About, folder: Path, docs: Path | None = None
) -> list[Path]:
    """Write ``ablations.md`` and ``ablations.json`` to ``folder``, and the former to ``docs`` too.

    outcomes: by variant, at least those of ``variants()`` that the model allows. Raises BadInput when the unpruned model
    or all questions are missing.
    """
    from .ablation_tables import document

    report = make_report(outcomes, about)
    text = document(report)
    paths = {folder / "ablations.json": json.dumps(asdict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"}
    for place in [folder, *([docs] if docs is not None else [])]:
        paths[place / "ablations.md"] = text
    for path, content in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return list(paths)


def make_report(outcomes: Mapping[Variant, Sequence[Outcome]], about: About) -> Report:
    """Compute everything on the questions that all variants of the ablations have. Raises BadInput, see ``write``."""
    here = {variant: outcomes[variant] for variant in variants() if variant in outcomes}
    if NO_PRUNING not in here:
        raise BadInput("The ablations need the outcomes of the unpruned model; run the benchmark with it.")
    ids = shared_questions(here)
    if not ids:
        raise BadInput("The variants of the ablations have no question in common; run the benchmark again.")
    wanted = set(ids)
    paired = {
        variant: sorted((outcome for outcome in each if outcome.id in wanted), key=lambda outcome: outcome.id)
        for variant, each in here.items()
    }
    measured = _Measured.of(paired)
    why = {(left["label"], left["budget"]): left["why"] for left in about["left_out"]}
    seeds = sorted({seed for seed, _ in ids})
    return Report(
        about=about,
        questions=len(ids),
        scenes=len(seeds),
        families=[name for name, counted in zip(FAMILIES, measured.families, strict=True) if counted],
        unpruned=_percent(measured.accuracy[measured.index[NO_PRUNING]]),
        ablations=[_ablation_result(ablation, paired, measured, why) for ablation in ABLATIONS],
        positions=_positions(paired, seeds, about["n_visual"]),
    )


@dataclass(frozen=True)
class _Measured:
    """Shape: accuracy ``(V, F)``, families ``(F,)`` bool, mean ``(V,)`` and samples ``(B, V)`` of mean retention."""

    index: Mapping[Variant, int]
    accuracy: Floats
    families: np.ndarray
    mean: Floats
    samples: Floats

    @staticmethod
    def of(paired: Mapping[Variant, Sequence[Outcome]]) -> _Measured:
        """Count, retain, resample. Families that the unpruned model never answers are left out of the mean."""
        index = {variant: v for v, variant in enumerate(paired)}
        full = index[NO_PRUNING]
        first = paired[NO_PRUNING]
        counts = count(
            np.array([[outcome.right for outcome in each] for each in paired.values()]),
            np.array([outcome.seed for outcome in first]),
            np.array([FAMILIES.index(outcome.family) for outcome in first]),
            len(FAMILIES),
        )
        accuracy = accuracies(counts)
        families = accuracy[full] > 0
        samples = retention(resampled_accuracies(counts, np.random.default_rng(SEED)), full)
        return _Measured(
            index,
            accuracy,
            families,
            mean_retention(retention(accuracy, full), families),
            mean_retention(samples, families),
        )


def _percent(row: Floats) -> list[float | None]:
    return [None if np.isnan(value) else 100 * float(value) for value in row]


def _ablation_result(
    ablation: Ablation,
    paired: Mapping[Variant, Sequence[Outcome]],
    measured: _Measured,
    why: Mapping[tuple[str, int | None], str],
) -> AblationResult:
    results = [_result(ablation, setting, paired, measured, why) for setting in ablation.settings]
    return AblationResult(ablation, results, sentence(ablation, results))


def _result(
    ablation: Ablation,
    setting: Setting,
    paired: Mapping[Variant, Sequence[Outcome]],
    measured: _Measured,
    why: Mapping[tuple[str, int | None], str],
) -> Result:
    variant, reference = setting.variant, ablation.by_name[ablation.reference].variant
    declared = (
        setting.name,
        variant.method,
        variant.params,
        variant.budget,
        setting.printed,
        ablation.paper_mean(setting),
        ablation.paper_difference(setting),
    )
    if variant not in paired:
        return Result(*declared, why_not=why.get((variant.label, variant.budget), "There are no outcomes of it."))
    mine, v = paired[variant], measured.index[variant]
    difference, verdict = None, REFERENCE
    if setting.name != ablation.reference:
        if reference in paired:
            r = measured.index[reference]
            difference = estimate(measured.mean[v] - measured.mean[r], measured.samples[:, v] - measured.samples[:, r])
        unchanged = reference in paired and all(map(_same, mine, paired[reference]))
        verdict = judged(ablation.paper_direction(setting), difference, unchanged)
    return Result(
        *declared,
        accuracy=_percent(measured.accuracy[v]),
        retention=estimate(measured.mean[v], measured.samples[:, v]),
        difference=difference,
        kept=sum(outcome.kept for outcome in mine) / len(mine),
        average=sum(outcome.average for outcome in mine) / len(mine),
        none_kept=sum(outcome.kept == 0 for outcome in mine) / len(mine),
        verdict=verdict,
    )


def _same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes of a question show no difference, in what was kept or answered."""
    return one == other


def judged(direction: int | None, difference: Estimate | None, unchanged: bool) -> str:
    """Our difference beside the paper's direction (1 above its reference, -1 below, 0 equal, None not said)."""
    if unchanged:
        return UNCHANGED
    if difference is None or difference.low is None or difference.high is None:
        return "undefined"
    if difference.low <= 0 <= difference.high:
        return UNDECIDED
    if direction is None:
        return NOT_IN_PAPER
    if direction == 0:
        return ONLY_HERE
    return AGREES if (difference.low > 0) == (direction > 0) else DISAGREES


def sentence(ablation: Ablation, results: Sequence[Result]) -> str:
    """In words: how many settings of the paper point its way here, against it, or cannot be told apart."""
    others = [result for result in results if result.name != ablation.reference]
    compared = [result for result in others if result.verdict and _in_paper(ablation, result)]
    if not compared:
        return "Nothing of the paper's ablation could be compared here."
    parts = [
        _counted(compared, AGREES, "point the way of the paper", "points the way of the paper"),
        _counted(compared, DISAGREES, "point the other way", "points the other way"),
        _counted(compared, ONLY_HERE, "differ where the paper prints no difference", ONLY_HERE),
        _counted(compared, UNCHANGED, "never changed what was kept or answered", "never changed what was kept or answered"),
        _counted(compared, "undefined", "are undefined", "is undefined"),
        _counted(
            compared,
            UNDECIDED,
            "show no difference that these questions could show",
            "shows no difference that these questions could show",
        ),
    ]
    comparisons = "The only comparison" if len(compared) == 1 else f"Of {len(compared)} comparisons"
    told = [part for part in parts if part]
    body = told[0].split(" ", 1)[1] if len(compared) == 1 else ", ".join(told)
    return f"{comparisons} with {ablation.reference}{' ' if len(compared) == 1 else ': '}{body}.{_best(results)}"


def _in_paper(ablation: Ablation, result: Result) -> bool:
    return ablation.paper_direction(ablation.by_name[result.name]) is not None


def _counted(results: Iterable[Result], verdict: str, many: str, one: str) -> str:
    names = [result.name for result in results if result.verdict == verdict]
    if not names:
        return ""
    return f"{len(names)} {one if len(names) == 1 else many} ({'; '.join(names)})"


def _best(results: Sequence[Result]) -> str:
    """Which setting is highest here and in the paper, of those that both have."""
    both = [r for r in results if r.paper_mean is not None and r.retention is not None and r.retention.value is not None]
    if len(both) < 2:
        return ""
    here = max(both, key=lambda result: result.retention.value)
    paper = max(both, key=lambda result: result.paper_mean)
    return (
        f" Highest here: {here.name} ({here.retention.value:.1f}%); "
        f"highest in the paper: {paper.name} ({paper.paper_mean:.1f}%)."
    )


def _positions(paired: Mapping[Variant, Sequence[Outcome]], seeds: Sequence[int], n_visual: int) -> list[Leaning]:
    rows = [(m, places(paired[m.variant])) for m in METHODS if m.variant is not None and m.variant in paired]
    if not rows:
        return []
    rows.append((TRUTH, evidence_places(seeds, n_visual)))
    return leanings(rows, seeds, n_visual, np.random.default_rng(SEED))
