"""What a folder answers outside its own world: the measurements behind `evaluate_general`, one picture at a time."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scenes import HELD_OUT_SEEDS, Scene, SceneQuestion, generate_scene
from testworld import CROWDED, SINGLE, UNIFORM, World, generate_world
from training import phrasings, tally, unknown_words
from training.replies import Behind, look
from training.scoring import load_folder
from training.tally import Answered

SEED = 11
CHUNK = 4
"""Pictures that pass the tower together."""
GREY = np.full((336, 336, 3), 128, np.uint8)
SIZES = ((16.0, "12-16 px"), (24.0, "16-24 px"), (38.0, "24-38 px"), (np.inf, "38-80 px"))
"""(below, name): diameter of the smallest thing that a question rests on, or height of the ink of a caption."""
OWN, SECOND = "own world", "second world"
HELD_OUT_FROM = 1_000_000
"""Of the held-out seeds, where the scenes begin that are asked here; `evaluate` asks the first ones."""
PHRASING_WORLDS = ((CROWDED, 0.6), (SINGLE, 0.6), (UNIFORM, 0.4))
"""Kinds of pictures of the second world whose questions are rephrased, and their number per scene of the own one."""


@dataclass(frozen=True)
class Rephrased:
    """A question asked another way; `canonical` and `other` are what was answered."""

    world: str
    form: str
    template: str
    right: str
    canonical: str
    other: str


@dataclass(frozen=True)
class Denied:
    """A question about what the model has no word for; `yes` is how likely that was."""

    world: str
    kind: str
    text: str
    answer: str
    yes: float


class Asked:
    """A folder that is asked; keeps the tower's states of nothing but the present picture."""

    def __init__(self, folder: Path) -> None:
        self.model, self.processor = load_folder(folder)

    def see(self, name: str, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[Tensor, Behind]]:
        """For every picture the tower's states and the language model behind it; says on stderr how far it is.

        Shape:
            yields: (N, V) states.
        """
        for start in range(0, len(images), CHUNK):
            seen = look(self.model, self.processor, images[start : start + CHUNK])
            for states, tokens in zip(seen.states, seen.tokens, strict=True):
                yield states, Behind(self.model, self.processor, tokens)
            print(f"\r{name}: {min(start + CHUNK, len(images))} of {len(images)}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)


def groups_of(world: World, question: SceneQuestion) -> tuple[str, ...]:
    """The slices of the report that a question belongs to: background, and size and kind of what it rests on."""
    ground = f"background: {world.background}"
    if question.family == "reading":
        captions = [caption for caption in world.captions if caption.box in question.evidence]
        if not captions:
            return ground, "no such sign"
        caption = captions[0]
        case = next((c for c in ("lower", "upper") if getattr(caption.shown, f"is{c}")()), "title")
        letters = "digit" if caption.kind == "number" else f"{case} case"
        size = next(name for below, name in SIZES if caption.height < below)
        return ground, size, f"{letters}, {'on a plate' if caption.plate else 'no plate'}"
    things = [thing for thing in world.things if thing.box in question.evidence]
    if not things:
        return ground, "about what is not there"
    smallest = min(thing.diameter for thing in things)
    return ground, next(name for below, name in SIZES if smallest < below)


def best_guesses(questions: Sequence[SceneQuestion]) -> dict[str, str]:
    """The most frequent answer to each kind of question among these: no blind guesser does better on them."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[tally.blind_kind(question)][question.answer] += 1
    return {kind: str(tally.most_frequent(answers)) for kind, answers in counts.items()}


def ask_second_world(asked: Asked, worlds: Sequence[World]) -> list[Answered]:
    """Every question behind its own picture ("full"), the one before ("shuffled"), a grey one, and guessed blind."""
    guesses = best_guesses([question for world in worlds for question in world.questions])
    _, grey = next(asked.see("grey picture", [GREY]))
    rows: list[list[Answered]] = []
    for world in worlds:
        said = grey.ask([question.text for question in world.questions])
        rows.append([
            Answered(world.seed, question, groups_of(world, question), {
                "grey": reply.answer == question.answer,
                "blind": guesses[tally.blind_kind(question)] == question.answer,
            })
            for question, reply in zip(world.questions, said, strict=True)
        ])  # fmt: skip
    for i, (_, behind) in enumerate(asked.see(SECOND, [world.image for world in worlds])):
        following = rows[(i + 1) % len(rows)]
        replies = behind.ask([row.question.text for row in (*rows[i], *following)])
        for row, reply in zip(rows[i], replies, strict=False):
            row.right["full"] = reply.answer == row.question.answer
        for row, reply in zip(following, replies[len(rows[i]) :], strict=True):
            row.right["shuffled"] = reply.answer == row.question.answer
    return [row for part in rows for row in part]


def held_out(first: int, count: int) -> list[Scene]:
    """Held-out scenes of the own world."""
    return [generate_scene(HELD_OUT_SEEDS[HELD_OUT_FROM + first + i]) for i in range(count)]


def ask_other_ways(asked: Asked, count: int) -> list[Rephrased]:
    """The questions of `count` pictures of each world, and all other ways to say them."""
    second = [
        generate_world(50_000 + i, kind) for kind, share in PHRASING_WORLDS for i in range(max(1, round(share * count)))
    ]
    rows: list[Rephrased] = []
    pictures: dict[str, Sequence[Scene | World]] = {OWN: held_out(0, count), SECOND: second}
    for world, shown in pictures.items():
        for picture, (_, behind) in zip(shown, asked.see(f"phrasings, {world}", [p.image for p in shown]), strict=True):
            things, signs = _numbers(picture)
            ways = [(q, way) for q in picture.questions for way in phrasings.rephrase(q, things, signs)]
            plain = behind.ask([question.text for question in picture.questions])
            canonical = {q.text: reply.answer for q, reply in zip(picture.questions, plain, strict=True)}
            others = behind.ask([text for _, (_, _, text) in ways])
            rows += [
                Rephrased(world, form.name, template, question.answer, canonical[question.text], reply.answer)
                for (question, (form, template, _)), reply in zip(ways, others, strict=True)
            ]
    return rows


def _numbers(picture: Scene | World) -> tuple[int, int]:
    if isinstance(picture, World):
        return len(picture.things), len(picture.captions)
    return len(picture.objects), len(picture.signs)


def ask_the_unknown(asked: Asked, count: int) -> list[Denied]:
    """Questions about unknown nouns and colours behind `count` pictures of each world."""
    nouns = unknown_words.strangers(asked.processor, unknown_words.NOUNS)
    colors = unknown_words.strangers(asked.processor, unknown_words.UNKNOWN_COLORS)
    rng = np.random.default_rng(SEED)
    rows: list[Denied] = []
    pictures: dict[str, Sequence[Scene | World]] = {
        OWN: held_out(10_000, count),
        SECOND: [generate_world(60_000 + i) for i in range(count)],
    }
    for world, shown in pictures.items():
        for picture, (_, behind) in zip(
            shown, asked.see(f"unknown words, {world}", [p.image for p in shown]), strict=True
        ):
            things: Any = picture.things if isinstance(picture, World) else picture.objects
            questions = unknown_words.absent_questions(things, nouns, colors, rng)
            replies = behind.ask([question.text for question in questions])
            rows += [
                Denied(world, question.kind, question.text, reply.answer, reply.yes)
                for question, reply in zip(questions, replies, strict=True)
            ]
    return rows
