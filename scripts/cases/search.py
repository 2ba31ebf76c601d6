"""Find, over held-out scenes, the questions where pruning lost the answer for one method and kept it for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from math import exp
from typing import Any

from PIL import Image

from scenes import DEFAULT_SIZE, Scene, SceneQuestion, generate_scene
from tokviz.comparison import Comparison
from tokviz.media.images import read_image
from tokviz.models.loading import VisionLanguageModel
from tokviz.names import MethodFamily
from tokviz.records import Record, Run, TokenGrid
from tokviz.runs.compare import compare_events
from tokviz.runs.inputs import Source
from tokviz.runs.metrics import evidence_tokens, fates, verdict

from .difficulty import Kind, difficulty


class Outcome(Record):
    """What one method did with a question that the unpruned model answers right.

    sure: probability that the model gave to the first token of this answer, 0 to 1. evidence: how many of the patches
    that show the answer are left when the method is done, absorbed: how many are merged into others that are left.
    inside: whether it drops tokens inside the LLM, so that the first layers saw more than that.
    """

    label: str
    family: MethodFamily
    answer: str
    right: bool
    sure: float
    evidence: int
    inside: bool
    absorbed: int = 0


class FoundCase(Record):
    """One question on one held-out scene that some methods lost and others kept; the unpruned answer is right.

    size in px; outcomes by method id, in the order in which they ran; ``kinds`` and ``hard`` as in ``Difficulty``.
    """

    seed: int
    size: tuple[int, int]
    question: str
    expected: str
    question_family: str
    n_tokens: int
    n_evidence: int
    kinds: tuple[Kind, ...]
    hard: str
    sure: float
    outcomes: dict[str, Outcome]

    @property
    def lost(self) -> tuple[str, ...]:
        """Methods whose answer pruning made wrong."""
        return tuple(method for method, outcome in self.outcomes.items() if not outcome.right)

    @property
    def kept(self) -> tuple[str, ...]:
        """Methods whose answer stayed right."""
        return tuple(method for method, outcome in self.outcomes.items() if outcome.right)

    def recall(self, method: str) -> float:
        """Share of the evidence that a method left in the end."""
        return self.outcomes[method].evidence / self.n_evidence


def find_flips(
    vlm: VisionLanguageModel,
    seeds: Sequence[int],
    methods: Sequence[str],
    budget: int,
    *,
    first: Sequence[str] = (),
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
) -> Iterator[FoundCase]:
    """Yield of each scene, per family, the first question that separates the methods at ``budget`` visual tokens.

    Only questions count whose evidence is in the image and whose unpruned answer is right. The other methods run only
    where one of ``first`` lost the answer; empty: all of them run. ``size`` in px, ``seed`` of everything random.
    """
    for scene_seed in seeds:
        scene = generate_scene(scene_seed, size=size)
        told: set[str] = set()
        for question in scene.questions:
            if not question.evidence or question.family in told:
                continue
            found = examine(vlm, scene, question, methods, budget, first=first, seed=seed)
            if found is not None:
                told.add(question.family)
                yield found


def examine(
    vlm: VisionLanguageModel,
    scene: Scene,
    question: SceneQuestion,
    methods: Sequence[str],
    budget: int,
    *,
    first: Sequence[str] = (),
    seed: int = 0,
) -> FoundCase | None:
    """The case that one question makes, or None; stops at the first lane that shows that it makes none."""
    comparison = compare_while_open(
        vlm,
        read_image(Image.fromarray(scene.image)),
        question.text,
        methods,
        first=first,
        budget=budget,
        seed=seed,
        expected=question.answer,
        evidence=question.evidence,
        max_new_tokens=8,
    )
    if comparison is None:
        return None
    case = case_of(comparison, scene, question)
    return case if case.n_evidence and case.lost and case.kept else None


def compare_while_open(
    vlm: VisionLanguageModel,
    source: Source,
    question: str,
    methods: Sequence[str],
    *,
    first: Sequence[str],
    **options: Any,
) -> Comparison | None:
    """A comparison (``options`` as of ``compare_events``), or None as soon as a lane shows that nothing separates.

    The methods of ``first`` run first; empty: there is no shortlist.
    """
    shortlist = [method for method in methods if method in first] or list(methods)
    rest = [method for method in methods if method not in shortlist]
    events = compare_events(vlm, source, question, methods=[*shortlist, *rest], **options)
    with closing(events):  # type: ignore[type-var]
        for event in events:
            comparison = event.comparison
            if event.kind == "run" and _is_settled(comparison, len(shortlist)):
                return None
    return comparison


def _is_settled(comparison: Comparison, n_shortlist: int) -> bool:
    """Whether nothing can be shown any more: the model itself is wrong, or the shortlist lost nothing."""
    runs = comparison.runs
    baseline_wrong = verdict(runs[0].answer, runs[0].answer, comparison.request.expected_answer).kind != "right"
    return baseline_wrong or (len(runs) == 1 + n_shortlist and "flipped" not in verdicts_of(comparison).values())


def verdicts_of(comparison: Comparison) -> dict[str, str]:
    """The verdict on each pruned run that could be carried out, by method."""
    baseline, *pruned = comparison.runs
    expected = comparison.request.expected_answer
    return {run.method: verdict(run.answer, baseline.answer, expected).kind for run in pruned if run.error is None}


def case_of(comparison: Comparison, scene: Scene, question: SceneQuestion) -> FoundCase:
    """What is kept of a finished comparison: numbers and words, no maps."""
    facts = difficulty(scene, question, comparison.grid)
    evidence = evidence_tokens(comparison.grid, question.evidence)
    height, width = scene.image.shape[:2]
    return FoundCase(
        seed=scene.seed,
        size=(width, height),
        question=question.text,
        expected=question.answer,
        question_family=question.family,
        n_tokens=comparison.grid.n_tokens,
        n_evidence=facts.n_evidence,
        kinds=facts.kinds,
        hard=facts.sentence,
        sure=sure_of(comparison.runs[0]),
        outcomes=outcomes_of(comparison, evidence),
    )


def outcomes_of(comparison: Comparison, evidence: Sequence[int]) -> dict[str, Outcome]:
    """What became of the answer under each method that ran, and of the ``evidence`` tokens."""
    verdicts, n_tokens = verdicts_of(comparison), comparison.grid.n_tokens
    became = {run.method: fates(evidence, run.stages, n_tokens) for run in comparison.runs}
    return {
        run.method: Outcome(
            label=run.label,
            family=run.family,
            answer=run.answer,
            right=verdicts[run.method] == "right",
            sure=sure_of(run),
            evidence=len(became[run.method].kept),
            absorbed=len(became[run.method].absorbed),
            inside=_drops_inside(run),
        )
        for run in comparison.runs[1:]
        if run.error is None
    }


def left(run: Run, grid: TokenGrid) -> list[int]:
    """Visual tokens alive after the last stage of a run, ascending; all when it dropped none."""
    return list(range(grid.n_tokens)) if run.kept is None else run.kept


def _drops_inside(run: Run) -> bool:
    return any(isinstance(stage.site, int) and len(stage.kept) < stage.n_in for stage in run.stages)


def sure_of(run: Run) -> float:
    """The probability that the model gave to the first token of the answer."""
    first: Any = run.answer_tokens[0].logprob if run.answer_tokens else None
    return 0.0 if first is None else round(exp(first), 4)


def separate(comparison: Comparison) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The methods that lost a right unpruned answer and those that kept it; None unless there are both."""
    verdicts = verdicts_of(comparison)
    lost = tuple(method for method, kind in verdicts.items() if kind == "flipped")
    kept = tuple(method for method, kind in verdicts.items() if kind == "right")
    return (lost, kept) if lost and kept else None
