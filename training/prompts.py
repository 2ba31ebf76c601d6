"""Scenes as token sequences: one picture, many questions, each of which sees only the picture and itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenes import COLORS, FAMILIES, SHAPES, SIZES, QuestionMaker, Scene
from scenes.types import SceneObject, SceneSign
from training.architecture import BOS, EOS, GRID, PAD, vocabulary
from training.labels import center_patches, patch_owners

WORDS = vocabulary()
PREFIX = 2
"""Tokens before the picture: beginning of sequence, "user"."""
QUESTION_SHARES = {
    "existence": 0.07, "attribute": 0.08, "counting": 0.45, "place": 0.08, "relation": 0.2, "reading": 0.12,
}  # fmt: skip
"""What is asked how often; place and relation are the kinds of spatial questions. Counts and relations come last."""
EARLY_SHARES = {
    "existence": 0.15, "attribute": 0.5, "counting": 0.1, "place": 0.15, "relation": 0.02, "reading": 0.08,
}  # fmt: skip
LIST_LIMIT = 10
_KEY_COVER = 0.25
NOUNS: dict[str, str | None] = {"object": None, **{shape: shape for shape in SHAPES}}
"""Singular nouns, and the shape that each means."""


@dataclass(frozen=True)
class Block:
    """One question with its answer as token ids; `weight` scales its loss."""

    question: list[int]
    answer: list[int]
    family: str
    weight: float = 1.0
    points: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Where the thing lies that the word at this place of the question names, (x, y) as shares of the picture."""


@dataclass(frozen=True)
class Packed:
    """Sequences of one batch behind their pictures.

    Shape:
        tokens, blocks, offsets, labels: (B, T) int64; weights: (B, T) float32; points: (B, T, 2) float32. `blocks`
        numbers the question each token belongs to (-1 padding), `offsets` is the place within it, `labels` the token
        that follows (-100 none), `points` where the named thing lies, (x, y) in 0..1 (NaN where a word names none),
        `counting` ((B, T) bool) marks the questions whose answer is a count.
    """

    tokens: NDArray[np.int64]
    blocks: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    points: NDArray[np.float32]
    counting: NDArray[np.bool_]


def encode(text: str) -> list[int]:
    """Token ids of lower-case words; question marks do not count."""
    return [WORDS[word] for word in text.replace("?", "").split()]


def question_block(text: str, answer: str, family: str, scene: Scene | None = None) -> Block:
    """A question as the chat template would write it, from after the picture on; with points if the scene is given."""
    points = named_points(text, scene) if scene is not None else {}
    return Block([*encode(text), WORDS["assistant"]], encode(answer), family, points=points)


def named_things(text: str, objects: Sequence[Any], signs: Sequence[Any]) -> dict[int, Any]:
    """Which words of a question name exactly one thing, and that thing, of a picture or of a clip.

    A noun with the size and colour before it names an object ("small red star", at "star"); the last word of a reading
    question names its sign.
    """
    words = text.replace("?", "").split()
    things: dict[int, Any] = {}
    size = color = None
    for place, word in enumerate(words):
        if word in SIZES:
            size = word
        elif word in COLORS:
            color = word
        elif word in NOUNS:
            shape = NOUNS[word]
            named = [
                item
                for item in objects
                if size in (None, item.size) and color in (None, item.color) and shape in (None, item.shape)
            ]
            if len(named) == 1:
                things[place] = named[0]
        if word not in SIZES and word not in COLORS:
            size = color = None
    if words[-1] in ("sign", "handwritten"):
        things.update({len(words) - 1: sign for sign in signs if sign.kind == words[1]})
    return things


def named_points(text: str, scene: Scene) -> dict[int, tuple[float, float]]:
    """Where the things lie that words of a question name: {place of the word: centre as shares of the sides}."""
    height, width = scene.owner.shape

    def centre(thing: SceneObject | SceneSign) -> tuple[float, float]:
        if isinstance(thing, SceneObject):
            return thing.center[0] / width, thing.center[1] / height
        x0, y0, x1, y1 = thing.box
        return (x0 + x1) / 2 / width, (y0 + y1) / 2 / height

    return {place: centre(thing) for place, thing in named_things(text, scene.objects, scene.signs).items()}


def list_block(scene: Scene) -> Block | None:
    """ "list the objects": colour and shape of all, in reading order by rows of patches; None in crowded scenes."""
    if not 0 < len(scene.objects) <= LIST_LIMIT:
        return None
    order = np.argsort(center_patches(scene, GRID), kind="stable")
    answer = " ".join(scene.objects[i].name for i in order)
    return Block([*encode("list the objects"), WORDS["assistant"]], encode(answer), "list", 0.3)


def random_blocks(
    scene: Scene, rng: np.random.Generator, room: int, shares: dict[str, float], list_share: float
) -> list[Block]:
    """Random questions about a scene until `room` tokens are full."""
    blocks: list[Block] = []
    listed = list_block(scene) if rng.random() < list_share else None
    if listed is not None:
        blocks.append(listed)
        room -= len(listed.question) + len(listed.answer)
    if not scene.objects:
        return blocks
    maker = QuestionMaker(rng, scene.objects, scene.signs, scene.square)
    makers = {
        **{family: partial(maker.make, family) for family in FAMILIES},
        "place": maker.place,
        "relation": maker.relation,
    }
    if len({sign.kind for sign in scene.signs}) < len(scene.signs):
        shares = {**shares, "reading": 0.0}  # "the sign" must be one thing
    kinds, seen = list(shares), set()
    weights = np.array(list(shares.values()))
    for pick in rng.choice(len(kinds), 60, p=weights / weights.sum()):
        question = makers[kinds[pick]]()
        if question is None or question.text in seen:
            continue
        seen.add(question.text)
        block = question_block(question.text, question.answer, question.family, scene)
        size = len(block.question) + len(block.answer)
        if size > room:
            break
        blocks.append(block)
        room -= size
    return blocks


def pack(batch: list[list[Block]], length: int, end_weight: float = 0.1) -> Packed:
    """Lay the blocks of every picture behind one another, padded to `length`."""
    shape = (len(batch), length)
    tokens, blocks = np.full(shape, PAD, np.int64), np.full(shape, -1, np.int64)
    offsets, labels = np.zeros(shape, np.int64), np.full(shape, -100, np.int64)
    weights, points = np.zeros(shape, np.float32), np.full((*shape, 2), np.nan, np.float32)
    counting = np.zeros(shape, bool)
    for row, items in enumerate(batch):
        at = 0
        for number, item in enumerate(items):
            ids = [*item.question, *item.answer]
            span = slice(at, at + len(ids))
            tokens[row, span], blocks[row, span], offsets[row, span] = ids, number, np.arange(len(ids))
            first = at + len(item.question) - 1  # the token "assistant" predicts the first word of the answer
            target = [*item.answer, EOS]
            labels[row, first : first + len(target)] = target
            weights[row, first : first + len(target)] = item.weight
            weights[row, first + len(item.answer)] = item.weight * end_weight
            counting[row, span] = item.family == "counting"
            for place, point in item.points.items():
                points[row, at + place] = point
            at += len(ids)
    return Packed(tokens, blocks, offsets, labels, weights, points, counting)


def prefix_tokens() -> list[int]:
    """Token ids before the picture."""
    return [BOS, WORDS["user"]]


def patch_priorities(scene: Scene) -> NDArray[np.int8]:
    """Which patches random dropping spares longest: 2 with a centre, 1 covered to a quarter by one thing, else 0.

    So every object stays visible in few patches; else its question would teach to guess.

    Shape:
        returns: (GRID * GRID,) int8.
    """
    pixels = scene.owner.shape[0] // GRID
    covered = (scene.owner >= 0).reshape(GRID, pixels, GRID, pixels).mean(axis=(1, 3)).ravel() >= _KEY_COVER
    priorities = (covered & (patch_owners(scene, GRID) >= 0)).astype(np.int8)
    priorities[center_patches(scene, GRID)] = 2
    return priorities


def choose_visible(priorities: NDArray[np.int8], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` patches in ascending order: by priority, and at random among equals.

    Shape:
        priorities: (N,) int8; returns (count,) int64.
    """
    return np.sort(np.argsort(rng.random(len(priorities)) - priorities, kind="stable")[:count])
