"""Answers counted: what kind each question is, what sets it apart, and how sure an accuracy is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scenes import COLORS, FAMILIES, SHAPES, SIZES, UNSEEN_PAIRS, ClipQuestion, Scene, SceneQuestion
from scenes.lettering import FONT_FILES, TRAINING_FONTS, handwritten_numbers
from scenes.types import SceneSign

Z = 1.959964
"""Normal quantile of 95% intervals."""
OBJECT_BINS = ((8, "3-8 objects"), (14, "9-14 objects"), (24, "15-24 objects"))
"""(most objects, name), as the layout draws their number; fewer than 3 only where there was no room."""
TEXT_BINS = ((24.0, "sign below 24 px"), (31.0, "sign of 24-31 px"), (math.inf, "sign above 31 px"))
"""(height of the sign in pixels of a 336 px picture, name)."""
_PAIR = re.compile(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})(?:es|s)?\b")


@dataclass(frozen=True)
class Answered:
    """A held-out question, and under which conditions the model's greedy answer to it was right.

    `groups` are the slices that it belongs to ("named pair: unseen"); `right` maps a condition ("full", "grey", ...).
    """

    seed: int
    question: SceneQuestion | ClipQuestion
    groups: tuple[str, ...]
    right: dict[str, bool]


def kind_of(question: SceneQuestion | ClipQuestion) -> str:
    """The question without its colours, shapes and sizes: "is there a * *"."""
    words = "|".join([*COLORS, *(f"{shape}(?:es|s)?" for shape in SHAPES), *SIZES, "objects?"])
    bare = re.sub(rf"\b({words})\b", "*", question.text.rstrip("?"))
    relation = re.sub(r"\b(left of|right of|above|below)\b", "beside", bare) if question.family == "spatial" else bare
    kind = re.sub(r"\* (\* )*\*|\*", "*", relation).replace("an *", "a *")
    return kind + (" (none)" if question.answer == "none" else "")


def blind_kind(question: SceneQuestion | ClipQuestion) -> str:
    """What a blind guesser knows of a question: its kind, but not whether the answer is "none"."""
    return kind_of(question).removesuffix(" (none)")


def named_pairs(text: str) -> set[tuple[str, str]]:
    """The (colour, shape) pairs that a question names, in the singular or the plural."""
    return set(_PAIR.findall(text))


def groups_of(scene: Scene, question: SceneQuestion) -> tuple[str, ...]:
    """The slices of the report that a question of this scene belongs to."""
    count = len(scene.objects)
    groups = [next(name for most, name in OBJECT_BINS if count <= most)]
    if question.family == "reading":
        asked = "digit" if "handwritten" in question.text else question.text.split()[1]
        return (*groups, *_sign_groups(next((sign for sign in scene.signs if sign.kind == asked), None)))
    pairs = named_pairs(question.text)
    if pairs:
        return (*groups, "named pair: unseen" if pairs & UNSEEN_PAIRS else "named pair: seen")
    if question.family == "attribute" and _shown_pairs(scene, question):
        hidden = _shown_pairs(scene, question) <= UNSEEN_PAIRS
        groups.append("pair behind the answer: unseen" if hidden else "pair behind the answer: seen")
    return tuple(groups)


def _shown_pairs(scene: Scene, question: SceneQuestion) -> set[tuple[str, str]]:
    return {(item.color, item.shape) for item in scene.objects if item.box in question.evidence}


def _sign_groups(sign: SceneSign | None) -> tuple[str, ...]:
    if sign is None:
        return ("no such sign",)
    if sign.kind == "digit":
        new = int(sign.font) in handwritten_numbers(int(sign.text), True)
        look = "handwriting: held out" if new else "handwriting: of training"
    else:
        look = "font: held out" if sign.font in FONT_FILES[TRAINING_FONTS:] else "font: of training"
    height = sign.box[3] - sign.box[1]
    return look, next(name for most, name in TEXT_BINS if height < most)


def wilson(right: int, asked: int) -> tuple[float, float]:
    """The 95% interval of a share, by Wilson's score; (0, 1) where nothing was asked.

    Example:
        >>> wilson(98, 100)
        (0.93, 0.9945)
    """
    if asked == 0:
        return 0.0, 1.0
    share = right / asked
    middle = share + Z**2 / (2 * asked)
    half = Z * math.sqrt(share * (1 - share) / asked + Z**2 / (4 * asked**2))
    low, high = (middle - half) / (1 + Z**2 / asked), (middle + half) / (1 + Z**2 / asked)
    return round(max(0.0, low), 4), round(min(1.0, high), 4)


def share(rows: Sequence[Answered], condition: str = "full") -> dict[str, Any]:
    """Accuracy of these answers with its interval and their number."""
    right = sum(row.right[condition] for row in rows)
    low, high = wilson(right, len(rows))
    return {"accuracy": round(right / max(1, len(rows)), 4), "low": low, "high": high, "n": len(rows)}


def grouped(rows: Iterable[Answered], keys: Callable[[Answered], Iterable[str]]) -> dict[str, dict[str, Any]]:
    """Accuracy of every group, in alphabetical order; a question may belong to several."""
    members: dict[str, list[Answered]] = {}
    for row in rows:
        for key in keys(row):
            members.setdefault(key, []).append(row)
    return {key: share(members[key]) for key in sorted(members)}


def by_family(rows: Sequence[Answered], condition: str = "full") -> dict[str, dict[str, Any]]:
    """Accuracy per family of questions."""
    return {family: share([row for row in rows if row.question.family == family], condition) for family in FAMILIES}


def accuracies(rows: Sequence[Answered], condition: str = "full") -> dict[str, float]:
    """Accuracy per family, the bare numbers."""
    return {family: entry["accuracy"] for family, entry in by_family(rows, condition).items()}


def paired_difference(rows: Sequence[Answered], one: str, other: str) -> dict[str, float | int]:
    """How much more often condition `other` is right than `one` on the same questions, with its 95% interval."""
    gained = sum(row.right[other] and not row.right[one] for row in rows)
    lost = sum(row.right[one] and not row.right[other] for row in rows)
    count = max(1, len(rows))
    mean = (gained - lost) / count
    half = Z * math.sqrt(max(0.0, (gained + lost) / count - mean**2) / count)
    return {
        "difference": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4),
        "gained": gained, "lost": lost, "n": len(rows),
    }  # fmt: skip


def most_frequent(counts: Counter[str]) -> str | None:
    """The most frequent answer, ties to the alphabetically first; None without any."""
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else None
