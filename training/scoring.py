"""A saved folder answers questions: many behind one picture for counting, one by one through the stock classes.

An answer counts when every word of it, and the end, is the model's first choice given the words before: that is exactly
when greedy generation gives this answer. Many questions then share one pass over the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextVideoForConditionalGeneration,
    LlavaProcessor,
)

from scenes import SceneQuestion
from scenes.types import Box
from training.architecture import GRID, PATCH
from training.language import positions_and_mask
from training.prompts import PREFIX, Block, pack, prefix_tokens, question_block

PATCHES = GRID * GRID


def load_folder(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Model (float32, evaluation mode) and processor of a folder, through the Auto classes alone.

    Raises:
        TypeError: the folder does not hold stock LLaVA classes.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    if type(model) is not LlavaForConditionalGeneration or type(processor) is not LlavaProcessor:
        raise TypeError(f"expected stock LLaVA classes, but got {type(model).__name__}, {type(processor).__name__}")
    return model.eval(), processor


def project(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Visual tokens as the language model gets them.

    Shape:
        pixels: (B, 3, 336, 336); returns (B, N, D).
    """
    out = model.model.vision_tower(pixels, output_hidden_states=True)
    layer = model.config.vision_feature_layer
    return model.model.multi_modal_projector(out.hidden_states[layer][:, 1:])


def blocks_of(questions: Sequence[SceneQuestion]) -> list[Block]:
    """The questions as token ids."""
    return [question_block(q.text, q.answer, q.family) for q in questions]


def check(
    model: LlavaForConditionalGeneration,
    features: Tensor,
    visible: NDArray[np.int64],
    rows: Sequence[Sequence[SceneQuestion]],
    closed: bool = False,
) -> list[list[bool]]:
    """Whether the greedy answer to each question is the right one.

    Args:
        closed: whether positions close the gaps that missing patches leave ("re-indexed").

    Shape:
        features: (B, V, D) projected; visible: (B, V) int64; rows: B lists of questions; returns B lists.
    """
    return check_blocks(model, features, visible, [blocks_of(questions) for questions in rows], closed)


def check_blocks(
    model: LlavaForConditionalGeneration | LlavaNextVideoForConditionalGeneration,
    features: Tensor,
    visible: NDArray[np.int64],
    blocks: Sequence[list[Block]],
    closed: bool = False,
    patches: int = PATCHES,
) -> list[list[bool]]:
    """Whether the greedy answer to each block's question is its own; `patches` as in `positions_and_mask`.

    Shape:
        as in `check`; blocks: B lists.
    """
    length = max(sum(len(b.question) + len(b.answer) for b in row) for row in blocks)
    packed = pack(list(blocks), length)
    positions, mask = positions_and_mask(visible, packed, np.full(len(blocks), closed), patches)
    words = model.get_input_embeddings()
    prefix = words(torch.tensor(prefix_tokens())).expand(len(blocks), -1, -1)
    whole = torch.cat([prefix, features, words(torch.from_numpy(packed.tokens))], dim=1)
    out = model.model.language_model(inputs_embeds=whole, attention_mask=mask, position_ids=positions, use_cache=False)
    best = model.lm_head(out.last_hidden_state[:, PREFIX + features.shape[1] :]).argmax(-1).numpy()
    good = (best == packed.labels) | (packed.labels < 0)
    return [[bool(good[i][packed.blocks[i] == n].all()) for n in range(len(row))] for i, row in enumerate(blocks)]


def patch_cover(box: Box) -> NDArray[np.float64]:
    """How many pixels of a box each patch holds.

    Shape:
        returns: (N,) float64.
    """
    x0, y0, x1, y1 = box
    edges = np.arange(GRID) * PATCH
    across = np.clip(np.minimum(x1, edges + PATCH) - np.maximum(x0, edges), 0, None)
    down = np.clip(np.minimum(y1, edges + PATCH) - np.maximum(y0, edges), 0, None)
    return (down[:, None] * across[None, :]).ravel()


def evidence_ranks(boxes: tuple[Box, ...]) -> NDArray[np.int64]:
    """How soon the patches that hold evidence are needed: 0 for the fullest patch of every box, then 1, and so on.

    Every box gets its best patch before any gets its second, so that a large thing does not crowd out small ones.

    Shape:
        returns: (N,) int64; N where a patch holds nothing of any box.
    """
    ranks = np.full(PATCHES, PATCHES, np.int64)
    for box in boxes:
        cover = patch_cover(box)
        order = np.argsort(-cover, kind="stable")[: int((cover > 0).sum())]
        ranks[order] = np.minimum(ranks[order], np.arange(len(order)))
    return ranks


def choose(question: SceneQuestion | None, keep: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`keep` patches in ascending order: those that the question's evidence needs first, at random without a question.

    Shape:
        returns: (keep,) int64.
    """
    late = rng.random(PATCHES)
    if question is not None:
        late = late + evidence_ranks(question.evidence)
    return np.sort(np.argsort(late, kind="stable")[:keep])


def ask(model: LlavaForConditionalGeneration, processor: LlavaProcessor, picture: Image.Image, question: str) -> str:
    """The answer to one question, by the stock processor and `generate`."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=picture, text=text, return_tensors="pt")
    out = model.generate(**inputs)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
