"""Sixty-odd ways to say what the worlds ask in one way each: for testing, never for training.

A phrasing is a template whose gaps are filled from the canonical question, so that it has the same right answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from scenes import SHAPES, SceneQuestion
from scenes.words import plural


@dataclass(frozen=True)
class Form:
    """A canonical question: its name, what it looks like, and other ways to say it."""

    name: str
    pattern: str
    phrasings: tuple[str, ...]


EXISTENCE = Form("existence", r"is there (?P<a>an?) (?P<thing>.+)\?", (
    "is there any {thing}?",
    "are there any {things}?",
    "are there {things}?",
    "do you see {a} {thing}?",
    "do you see any {things}?",
    "can you see {a} {thing}?",
    "does the image show {a} {thing}?",
    "does the picture contain {a} {thing}?",
    "is there {a} {thing} in the image?",
    "is there {a} {thing} in the picture?",
    "is {a} {thing} there?",
    "is {a} {thing} in the image?",
    "there's {a} {thing}, isn't there?",
))  # fmt: skip
COLOR = Form("color", r"what color is the (?P<thing>.+)\?", (
    "what colour is the {thing}?",
    "what is the color of the {thing}?",
    "what's the color of the {thing}?",
    "what is the colour of the {thing}?",
    "which color is the {thing}?",
    "which color does the {thing} have?",
    "what color does the {thing} have?",
    "the {thing} is what color?",
    "what's the {thing}'s color?",
    "what color is the object?",
    "what colour is the object?",
))  # fmt: skip
SHAPE = Form("shape", r"what shape is the (?P<thing>.+)\?", (
    "what is the shape of the {thing}?",
    "what's the shape of the {thing}?",
    "which shape is the {thing}?",
    "what shape does the {thing} have?",
    "which shape does the {thing} have?",
    "what shape is the object?",
))  # fmt: skip
SIZE = Form("size", r"what size is the (?P<thing>.+)\?", (
    "what is the size of the {thing}?",
    "what's the size of the {thing}?",
    "how big is the {thing}?",
    "how large is the {thing}?",
    "is the {thing} small or large?",
))  # fmt: skip
COUNT = Form("counting", r"how many (?P<things>.+) are there\?", (
    "how many {things} do you see?",
    "how many {things} can you see?",
    "how many {things} are in the image?",
    "how many {things} are in the picture?",
    "how many {things} are there in the image?",
    "how many {things} does the image show?",
    "how many {things}?",
    "what is the number of {things}?",
    "what's the number of {things}?",
    "count the {things}.",
    "how many objects are there?",
    "how many objects are in the image?",
))  # fmt: skip
PLACE = Form("where", r"where is the (?P<thing>.+)\?", (
    "where's the {thing}?",
    "where is the {thing} in the image?",
    "where is the {thing} located?",
    "where do you see the {thing}?",
    "where can you see the {thing}?",
    "in which part of the image is the {thing}?",
    "what is the position of the {thing}?",
))  # fmt: skip
RELATION = Form("relation", r"is the (?P<thing>.+) (?P<side>left of|right of|above|below) the (?P<other>.+)\?", (
    "is the {thing} to the {side} the {other}?",
    "is the {thing} on the {side} the {other}?",
    "is the {thing} over the {other}?",
    "is the {thing} higher than the {other}?",
    "is the {thing} under the {other}?",
    "is the {thing} underneath the {other}?",
    "does the {thing} lie {side} the {other}?",
    "is {one} {side} {another}?",
))  # fmt: skip
READING = Form("reading", r"what (?P<kind>word|number) is on the sign\?", (
    "what does the sign say?",
    "what's on the sign?",
    "what is on the sign?",
    "what is written on the sign?",
    "which {kind} is on the sign?",
    "what is the {kind} on the sign?",
    "what's the {kind} on the sign?",
    "what {kind} does the sign show?",
    "what {kind} does the sign say?",
    "what {kind} do you see on the sign?",
    "read the sign.",
))  # fmt: skip
FORMS = (EXISTENCE, COLOR, SHAPE, SIZE, COUNT, PLACE, RELATION, READING)
ONLY_FOR = {"over": "above", "higher": "above", "under": "below", "underneath": "below"}
"""Words that stand for one relation."""


def _one_of_many(things: str) -> str:
    """The singular: "red crosses" as "red cross"."""
    *words, noun = things.split()
    singular = {plural(shape): shape for shape in (*SHAPES, "object")}
    return " ".join([*words, singular[noun]])


def form_of(question: SceneQuestion) -> tuple[Form, dict[str, str]] | None:
    """The form of a canonical question with what fills its gaps; None for one that has no other phrasings here."""
    for form in FORMS:
        found = re.fullmatch(form.pattern, question.text)
        if found:
            gaps = found.groupdict()
            if "things" in gaps:
                gaps["thing"] = _one_of_many(gaps["things"])
            gaps["a"] = "an" if gaps.get("thing", "x")[0] in "aeiou" else "a"
            *before, noun = gaps.get("thing", "object").split()
            gaps["things"] = " ".join([*before, plural(noun)])
            for whole, name in (("one", "thing"), ("another", "other")):
                named = gaps.get(name, "")
                gaps[whole] = f"{'an' if named[:1] in tuple('aeiou') else 'a'} {named}"
            return form, gaps
    return None


def _fits(template: str, form: Form, gaps: dict[str, str], right: str, things: int, signs: int) -> bool:
    """Whether the phrasing means the same here: "the object" and "the sign" must be one thing, "objects" all."""
    if "object" in template.replace("{thing", ""):
        return things == int(right) if form is COUNT else things == 1 and right != "none"
    if form is SIZE and right == "none":  # "small or large?" takes for granted that there is one
        return " or " not in template
    if form is READING and "{kind}" not in template:
        return signs == 1 and right != "none"
    if form is RELATION:
        side = next((ONLY_FOR[word] for word in template.split() if word in ONLY_FOR), None)
        if side is not None:
            return side == gaps["side"]
        return not template.startswith(("is the {thing} to", "is the {thing} on")) or gaps["side"].endswith(" of")
    return True


def rephrase(question: SceneQuestion, things: int, signs: int) -> Iterator[tuple[Form, str, str]]:
    """Every other way to say a canonical question that means the same in its picture.

    Args:
        things: how many objects the picture shows.
        signs: how many signs.

    Yields:
        form, template, question.
    """
    found = form_of(question)
    if found is None:
        return
    form, gaps = found
    for template in form.phrasings:
        if _fits(template, form, gaps, question.answer, things, signs):
            yield form, template, template.format(**gaps)
