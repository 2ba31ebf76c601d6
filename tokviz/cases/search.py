"""Find, over held-out scenes, the questions where pruning lost the answer for one method and kept it for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from ..comparing import compare
from ..images import read_image
from ..measures import evidence_recall, seen_by_llm, verdict
from ..models.loading import VisionLanguageModel
from ..records import Comparison
from ..scenes import DEFAULT_SIZE, generate_scene


@dataclass(frozen=True)
class FoundCase:
    """One question on one held-out scene that some methods lost and others kept.

    lost, kept: method ids whose answer was flipped by pruning / stayed right. The unpruned answer is right.
    """

    seed: int
    question_family: str
    comparison: Comparison
    lost: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def contrast(self) -> float:
        """How plainly the picture explains it: best evidence recall of a keeper minus worst of a loser, −1…1."""
        return max(map(self._recall, self.kept)) - min(map(self._recall, self.lost))

    @property
    def confidence(self) -> float:
        """Sum of the log-probabilities of the unpruned answer (0 is certain)."""
        return sum(token.logprob or 0.0 for token in self.comparison.runs[0].answer_tokens)

    def _recall(self, method: str) -> float:
        comparison = self.comparison
        recall = evidence_recall(
            comparison.grid, comparison.request.evidence, seen_by_llm(comparison.run(method), comparison.grid.n_tokens)
        )
        return 0.0 if recall is None else recall


def find_flips(
    vlm: VisionLanguageModel,
    seeds: Sequence[int],
    methods: Sequence[str],
    budget: int,
    *,
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
) -> Iterator[FoundCase]:
    """Yield every question of the scenes ``seeds`` that separates the methods at ``budget`` visual tokens.

    Only questions count whose evidence is in the picture and whose unpruned answer is right. ``size`` in px.
    """
    for scene_seed in seeds:
        scene = generate_scene(scene_seed, size=size)
        picture = read_image(Image.fromarray(scene.image))
        for question in scene.questions:
            if not question.evidence:
                continue
            comparison = compare(
                vlm, picture, question.text, methods, budget, seed=seed, expected=question.answer,
                evidence=question.evidence, max_new_tokens=8,
            )  # fmt: skip
            found = separate(comparison, scene_seed, question.family)
            if found is not None:
                yield found


def separate(comparison: Comparison, seed: int, question_family: str) -> FoundCase | None:
    """The case if the unpruned answer is right, at least one method flipped it and at least one kept it."""
    baseline, *pruned = comparison.runs
    expected = comparison.request.expected_answer
    kinds = {run.method: verdict(run.answer, baseline.answer, expected).kind for run in pruned if run.error is None}
    lost = tuple(method for method, kind in kinds.items() if kind == "flipped")
    kept = tuple(method for method, kind in kinds.items() if kind == "right")
    return FoundCase(seed, question_family, comparison, lost, kept) if lost and kept else None
