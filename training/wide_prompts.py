"""Wide scenes as token sequences, in the wide vocabulary; what they become is `prompts.Block`, as for old scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scenes import Scene
from scenes.wide import WideQuestion, WideQuestionMaker, words_of
from training.architecture import wide_vocabulary
from training.prompts import Block

WIDE_WORDS = wide_vocabulary()
WIDE_SHARES = {
    "existence": 0.1, "attribute": 0.12, "counting": 0.32, "place": 0.08, "relation": 0.18, "reading": 0.12,
    "unknown": 0.08,
}  # fmt: skip
"""What is asked how often; "unknown" are questions of all families about what no known word names."""
WIDE_EARLY_SHARES = {
    "existence": 0.15, "attribute": 0.47, "counting": 0.1, "place": 0.15, "relation": 0.02, "reading": 0.08,
    "unknown": 0.03,
}  # fmt: skip
LIST_WEIGHT = 0.3


def encode_wide(text: str) -> list[int]:
    """Token ids of a question or an answer, as the wide tokenizer gives them. Raises KeyError for an unknown word."""
    return [WIDE_WORDS[word] for word in words_of(text)]


def wide_block(question: WideQuestion, scene: Scene) -> Block:
    """A question as the chat template would write it, from after the picture on.

    Its `points` say where the things lie that single words name (nouns; for a reading question its last word).
    """
    points = {m.end - 1: centre(scene, m.things[0]) for m in question.mentions if len(m.things) == 1}
    weight = LIST_WEIGHT if question.family == "list" else 1.0
    ids = [*encode_wide(question.text), WIDE_WORDS["assistant"]]
    return Block(ids, encode_wide(question.answer), question.family, weight, points)


def centre(scene: Scene, thing: int) -> tuple[float, float]:
    """Where an object or sign lies, numbered as in `Scene.owner`: (x, y) as shares of the sides."""
    height, width = scene.owner.shape
    if thing < len(scene.objects):
        x, y = scene.objects[thing].center
    else:
        x0, y0, x1, y1 = scene.signs[thing - len(scene.objects)].box
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x / width, y / height


def random_wide_blocks(
    scene: Scene, rng: np.random.Generator, room: int, shares: dict[str, float], list_share: float
) -> list[Block]:
    """Random questions about a wide scene until `room` tokens are full; the counterpart of `random_blocks`."""
    maker = WideQuestionMaker(rng, scene.objects, scene.signs, scene.square, unknown_share=0.0)
    makers: dict[str, Callable[[], WideQuestion | None]] = {
        "existence": maker.existence,
        "attribute": maker.attribute,
        "counting": maker.counting,
        "place": maker.place,
        "relation": maker.relation,
        "reading": maker.reading,
        "unknown": maker.unknown,
    }
    blocks: list[Block] = []
    seen: set[str] = set()

    def fits(question: WideQuestion | None) -> bool:
        """Add the question; False when there is no room for it."""
        nonlocal room
        if question is None or question.text in seen:
            return True
        block = wide_block(question, scene)
        size = len(block.question) + len(block.answer)
        if size > room:
            return False
        seen.add(question.text)
        blocks.append(block)
        room -= size
        return True

    if rng.random() < list_share:
        fits(maker.listing())
    kinds = list(shares)
    weights = np.array(list(shares.values()))
    for chosen in rng.choice(len(kinds), 60, p=weights / weights.sum()):
        if not fits(makers[kinds[chosen]]()):
            break
    return blocks
