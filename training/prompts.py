"""Scenes as token sequences: one picture, many questions, each of which sees only the picture and itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tokviz.scenes import FAMILIES, QuestionMaker, Scene
from training.architecture import BOS, EOS, GRID, PAD, vocabulary
from training.labels import center_patches, patch_owners

WORDS = vocabulary()
PREFIX = 2
"""Tokens before the picture: beginning of sequence, "user"."""
QUESTION_SHARES = {
    "existence": 0.1, "attribute": 0.1, "counting": 0.26, "place": 0.34, "relation": 0.14, "reading": 0.06,
}  # fmt: skip
"""What is asked how often; place and relation are the two kinds of spatial questions, and are learnt last."""
EARLY_SHARES = {
    "existence": 0.15, "attribute": 0.5, "counting": 0.1, "place": 0.15, "relation": 0.02, "reading": 0.08,
}  # fmt: skip
LIST_LIMIT = 10
_KEY_COVER = 0.25


@dataclass(frozen=True)
class Block:
    """One question with its answer as token ids; `weight` scales its loss."""

    question: list[int]
    answer: list[int]
    family: str
    weight: float = 1.0


@dataclass(frozen=True)
class Packed:
    """Sequences of one batch behind their pictures.

    Shape:
        tokens, blocks, offsets, labels: (B, T) int64; weights: (B, T) float32. `blocks` numbers the question each token
        belongs to (-1 padding), `offsets` is the place within it, `labels` the token that follows (-100 none).
    """

    tokens: NDArray[np.int64]
    blocks: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]


def encode(text: str) -> list[int]:
    """Token ids of lower-case words; question marks do not count."""
    return [WORDS[word] for word in text.replace("?", "").split()]


def question_block(text: str, answer: str, family: str) -> Block:
    """A question as the chat template would write it, from after the picture on."""
    return Block([*encode(text), WORDS["assistant"]], encode(answer), family)


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
    kinds, seen = list(shares), set()
    for pick in rng.choice(len(kinds), 60, p=list(shares.values())):
        question = makers[kinds[pick]]()
        if question is None or question.text in seen:
            continue
        seen.add(question.text)
        block = question_block(question.text, question.answer, question.family)
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
    weights = np.zeros(shape, np.float32)
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
            at += len(ids)
    return Packed(tokens, blocks, offsets, labels, weights)


def prefix_tokens() -> list[int]:
    """Token ids before the picture."""
    return [BOS, WORDS["user"]]


def key_patches(scene: Scene) -> NDArray[np.bool_]:
    """Patches that random dropping spares: those with a centre, or covered to a quarter by one thing.

    Shape:
        returns: (GRID * GRID,) bool.
    """
    pixels = scene.owner.shape[0] // GRID
    covered = (scene.owner >= 0).reshape(GRID, pixels, GRID, pixels).mean(axis=(1, 3)).ravel() >= _KEY_COVER
    key = covered & (patch_owners(scene, GRID) >= 0)
    key[center_patches(scene, GRID)] = True
    return key


def choose_visible(key: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` patches in ascending order: the key patches first, the rest at random.

    Shape:
        key: (N,) bool; returns (count,) int64.
    """
    return np.sort(np.argsort(rng.random(len(key)) - key, kind="stable")[:count])
