"""Whether an answer is right, as each data set judges it, and the data set's figure over many answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..runs.metrics import normalised
from ..vqa import vqa_score
from .boxes import box_score, place_in
from .case import Case, Metric

HALF = 0.5
"""From which score an answer counts as right: two of ten people for VQA, ANLS's threshold, an overlap of one half."""
PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_OPTION = re.compile(r"^\s*\(?([A-Z])\)?\s*[.):]\s*(\S.*?)\s*$", re.MULTILINE)
_SAID_LETTER = re.compile(r"\b(?i:answer|option|choice)(?i:\s+(?:is|would be))?\s*:?\s*\(?([A-Z])\b")
_LONGEST = 4_000
"""Characters of an answer that ANLS compares; a model writes at most 1,024 tokens."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class Judgement:
    """An answer judged. right: None where the case has no expected answer. score: 0 to 1, likewise."""

    right: bool | None
    score: float | None


def judge(case: Case, answer: str, size: tuple[int, int] | None = None) -> Judgement:
    """Judge an answer as the case's data set does; docs/cases.md says how each metric does it.

    Args:
        case: The question, its right answers and its metric.
        answer: What the model said.
        size: Width and height of the image in pixels, for boxes and points in shares of it.

    Example:
        >>> case = Case(id="1", image="a.png", question="Is there a dog?", answers=("yes",), metric="pope")
        >>> judge(case, "Yes, a dog.")
        Judgement(right=True, score=1.0)
    """
    if not case.answers:
        return Judgement(None, None)
    score = _SCORES[case.metric](case, answer, size)
    return Judgement(score >= HALF, score)


def pope_says(answer: str) -> str:
    """What POPE takes an answer for: "no" if its first sentence has the word No, no or not, else "yes"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def mme_says(answer: str) -> str:
    """What MME takes an answer for: "yes" or "no" among its first four characters, else "other"."""
    said = answer.lower().strip().replace(".", "")
    if said in ("y", "n"):
        return {"y": "yes", "n": "no"}[said]
    return next((word for word in ("yes", "no") if word in said[:4]), "other") if len(said) > 1 else "other"


def options_of(question: str) -> dict[str, str]:
    """The lettered options that a question lists, one per line: ``A. a dog``, ``(B) a cat``."""
    return dict(_OPTION.findall(question))


def choice_says(answer: str, options: dict[str, str]) -> str | None:
    """The letter an answer chooses: alone or in front ("B. a cat"), behind "the answer is", or by the option's text."""
    said = answer.strip()
    letters = "".join(options) or "ABCDEFGHIJ"
    if match := re.match(rf"\(?([{letters}])(?:\)|[.:,]|\s*$)", said):
        return match[1]
    named = set(_SAID_LETTER.findall(said)) & set(letters)
    if len(named) == 1:
        return named.pop()
    if len(said) == 1 and said.upper() in letters:
        return said.upper()
    same = [letter for letter, text in options.items() if normalised(text) == normalised(said)]
    return same[0] if len(same) == 1 else None


def anls(answer: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity with the nearest of the answers; 0 below one half. Case is ignored.

    Source: Biten et al., Scene Text Visual Question Answering, ICCV 2019, and the evaluation of DocVQA.
    """
    said = " ".join(answer[:_LONGEST].lower().split())
    best = 0.0
    for other in answers:
        wanted = " ".join(other[:_LONGEST].lower().split())
        longest = max(len(said), len(wanted))
        best = max(best, 1 - edit_distance(said, wanted) / longest if longest else 1.0)
    return best if best >= HALF else 0.0


def edit_distance(left: str, right: str) -> int:
    """Levenshtein's distance: the fewest characters to insert, delete or replace."""
    target = np.frombuffer(right.encode("utf-32-le"), dtype=np.uint32)
    places = np.arange(len(target) + 1)
    row = places.copy()
    for step, character in enumerate(np.frombuffer(left.encode("utf-32-le"), dtype=np.uint32), start=1):
        above = np.empty_like(row)
        above[0] = step
        above[1:] = np.minimum(row[1:] + 1, row[:-1] + (target != character))
        # An insertion costs one per place: the running minimum of what is left when the place is taken off.
        row = np.minimum.accumulate(above - places) + places
    return int(row[-1])


def _exact(case: Case, answer: str, size: tuple[int, int] | None) -> float:
    return float(normalised(answer) in map(normalised, case.answers))


def _pope(case: Case, answer: str, size: tuple[int, int] | None) -> float:
    return float(pope_says(answer) == normalised(case.answers[0]))


def _mme(case: Case, answer: str, size: tuple[int, int] | None) -> float:
    return float(mme_says(answer) == normalised(case.answers[0]))


def _choice(case: Case, answer: str, size: tuple[int, int] | None) -> float:
    options = options_of(case.question)
    wanted = {choice_says(right, options) or normalised(right) for right in case.answers}
    return float((choice_says(answer, options) or normalised(answer)) in wanted)


def _box(case: Case, answer: str, size: tuple[int, int] | None) -> float:
    wanted = [(x[0], x[1], x[2], x[3]) for text in case.answers if (x := place_in(text, size)) and len(x) == 4]
    return box_score(place_in(answer, size), wanted or case.evidence)


_SCORES: dict[Metric, Callable[[Case, str, tuple[int, int] | None], float]] = {
    "exact": _exact,
    "vqa": lambda case, answer, size: vqa_score(answer, case.answers),
    "pope": _pope,
    "mme": _mme,
    "choice": _choice,
    "anls": lambda case, answer, size: anls(answer, case.answers),
    "box": _box,
}


@dataclass(frozen=True)
class YesNo:
    """POPE's figures, "yes" being positive, 0 to 1; None where one is undefined. yes_ratio: share answered "yes"."""

    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    yes_ratio: float


def pope_figures(expected: Sequence[str], answers: Sequence[str]) -> YesNo:
    """Accuracy, precision, recall, F1 and yes ratio over questions with the answers yes and no.

    Raises:
        ValueError: If there are none, their numbers differ, or another answer is expected.
    """
    wanted, said = [normalised(text) for text in expected], [pope_says(text) for text in answers]
    if not wanted or len(wanted) != len(said) or not {*wanted} <= {"yes", "no"}:
        raise ValueError("POPE's figures need as many answers as questions, each with yes or no expected")
    both = sum(a == b == "yes" for a, b in zip(wanted, said, strict=True))
    right = sum(a == b for a, b in zip(wanted, said, strict=True))
    yes, positive, n = said.count("yes"), wanted.count("yes"), len(wanted)
    return YesNo(
        accuracy=right / n,
        precision=both / yes if yes else None,
        recall=both / positive if positive else None,
        f1=2 * both / (yes + positive) if yes + positive else None,
        yes_ratio=yes / n,
    )


@dataclass(frozen=True)
class MmeFigures:
    """MME's figures: per category acc + acc+, each in percent, so 0 to 200; the sums over the two groups that exist."""

    categories: dict[str, float]
    perception: float
    cognition: float

    @property
    def total(self) -> float:
        """The sum over all categories, also such as are in neither group."""
        return sum(self.categories.values())


def mme_figures(answers: Iterable[tuple[str, str, bool]]) -> MmeFigures:
    """Sum accuracy and accuracy+ (all questions of an image right) per category.

    Args:
        answers: Category, image and whether the answer is right, of each question. Images have two questions in MME.
    """
    images: dict[str, dict[str, list[bool]]] = {}
    for category, image, right in answers:
        images.setdefault(category, {}).setdefault(image, []).append(right)
    scores = {category: _acc(list(of.values())) for category, of in images.items()}
    return MmeFigures(
        scores,
        perception=sum(scores.get(category, 0.0) for category in PERCEPTION),
        cognition=sum(scores.get(category, 0.0) for category in COGNITION),
    )


def _acc(images: Sequence[Sequence[bool]]) -> float:
    every = [right for answers in images for right in answers]
    return 100 * sum(every) / len(every) + 100 * sum(map(all, images)) / len(images)
