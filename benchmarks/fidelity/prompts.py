"""Prompts of many questions about few pictures, from one encoding per picture.

What stands in front of the question (template, visual tokens) does not depend on it. So a picture is encoded once, and
where a stage does not listen to the question it is carried out once; then the question's tokens are exchanged.

For variants whose stages are all carried out before the question is read, keys and values of what stands in front are
the same for every question too, as attention is causal: ``generate`` gets them as a cache that it continues, as stock
transformers does when a conversation goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from tokviz.engine import Geometry, Prompt, encode
from tokviz.errors import Unsupported
from tokviz.models.loading import VisionLanguageModel
from tokviz.models.prompts import model_inputs
from tokviz.records import TokenGrid
from tokviz.types import Need


@dataclass(frozen=True)
class TextBehind:
    """The prompt's tokens behind the picture, for one question.

    Shape: ids ``(1, T)``, embeds ``(1, T, D)``, asked ``(1, T)`` bool: what the user wrote, None when nobody can tell.
    """

    ids: Tensor
    embeds: Tensor
    asked: Tensor | None


@dataclass(frozen=True)
class EncodedImage:
    """One picture, encoded with some question, and the texts of every question about it."""

    prompt: Prompt
    texts: tuple[TextBehind, ...]


def encode_image(
    vlm: VisionLanguageModel, grid: TokenGrid, image: Image.Image, questions: Sequence[str], needs: Iterable[Need]
) -> EncodedImage:
    """Run the vision tower once for all ``questions`` (at least one).

    Raises as ``encode`` does, and Unsupported for models whose positions have several axes: what stands behind a
    picture is not exchanged here.
    """
    if not vlm.family.reindexes:
        raise Unsupported(
            "The benchmark cannot put other questions behind a picture whose positions have several axes."
        )
    made = [model_inputs(vlm, image, question) for question in questions]
    inputs, mask = made[0]
    geometry = Geometry(cell=torch.tensor([grid.row, grid.col]).T)
    prompt = encode(vlm.model, vlm.family, inputs, needs, question_mask=mask, geometry=[geometry])
    end = end_of_image(prompt)
    words = vlm.model.get_input_embeddings()
    texts = []
    for other, asked in made:
        ids = other["input_ids"]
        if not torch.equal(ids[:, :end], inputs["input_ids"][:, :end]):
            raise RuntimeError("The prompt in front of the question depends on the question.")
        texts.append(TextBehind(ids[:, end:], words(ids[:, end:]), None if asked is None else asked[:, end:]))
    return EncodedImage(prompt, tuple(texts))


def end_of_image(prompt: Prompt) -> int:
    """The column of the first token behind the picture, in an encoded or shortened prompt of one row."""
    if prompt.text_mask is not None:
        return int(prompt.text_mask[0].nonzero().min())
    return int(prompt.visual_mask[0].nonzero().max()) + 1


def with_text(prompt: Prompt, text: TextBehind) -> Prompt:
    """The same picture (encoded, or shortened by stages that do not read the text) with another question behind it.

    ``prompt`` is one row without pads. Positions of the text go on where they went on before. Raises Unsupported where
    merged tokens weigh as many as they carry.
    """
    if prompt.carried is not None:
        raise Unsupported("The benchmark cannot put other questions behind merged tokens that weigh as many (rectify).")
    end, length = end_of_image(prompt), text.ids.shape[1]

    def behind(mask: Tensor | None, value: bool) -> Tensor | None:
        return None if mask is None else pad(mask[:, :end], (0, length), value=value)

    visual = pad(prompt.visual_mask[:, :end], (0, length))
    positions = prompt.position_ids
    if positions is not None:
        counted = torch.arange(length, device=positions.device)
        positions = torch.cat([positions[:, :end], positions[:, end : end + 1] + counted], dim=1)
    asked = prompt.question_mask
    if asked is not None and text.asked is not None:
        asked = torch.cat([asked[:, :end], text.asked.to(asked.device)], dim=1)
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids[:, :end], text.ids], dim=1),
        inputs_embeds=torch.cat([prompt.inputs_embeds[:, :end], text.embeds], dim=1),
        attention_mask=pad(prompt.attention_mask[:, :end], (0, length), value=1),
        position_ids=positions,
        visual_mask=visual,
        question_mask=asked if text.asked is not None else None,
        text_mask=pad(torch.zeros_like(visual[:, :end]), (0, length), value=True),
        added_mask=behind(prompt.added_mask, False),
    )


def joined(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one row each as one batch, padded on the left as the engine pads.

    Pixels do not come along: stages inside the vision tower belong before this.
    """
    width = max(prompt.input_ids.shape[1] for prompt in prompts)

    def stacked(name: str) -> Any:
        columns = [getattr(prompt, name) for prompt in prompts]
        if all(column is None for column in columns):
            return None
        columns = [torch.zeros_like(p.visual_mask) if c is None else c for p, c in zip(prompts, columns, strict=True)]
        behind = (0, 0) if columns[0].dim() == 3 else ()
        return torch.cat([pad(column, (*behind, width - column.shape[1], 0)) for column in columns])

    firsts = [prompt.first_position for prompt in prompts if prompt.first_position is not None]

    def listed(name: str) -> Any:
        return None if getattr(prompts[0], name) is None else [getattr(prompt, name)[0] for prompt in prompts]

    masks = ("visual_mask", "question_mask", "text_mask", "added_mask")
    return Prompt(
        **{name: stacked(name) for name in ("input_ids", "inputs_embeds", "attention_mask", "position_ids", *masks)},
        **{name: listed(name) for name in ("vision", "alive", "geometry", "sizes")},
        first_position=torch.cat(firsts) if firsts else None,
        vision_ms=sum(prompt.vision_ms for prompt in prompts),
    )


def shared_prefix(
    vlm: VisionLanguageModel, images: Sequence[Prompt], image_of_row: Sequence[int], batch: Prompt
) -> Any:
    """A cache that holds the first columns of ``batch``, for ``generate(**batch.generate_inputs(), past_key_values=)``.

    Args:
        pictures: prompts of one row each, encoded or shortened, whose positions are counted.
        picture_of_row: for each row of ``batch`` the picture that its question was put behind.
        batch: the joined prompts. Its cache ends where the longest question begins: all that any row shares.
    """
    ends = [end_of_image(image) for image in images]
    cache = _prefill(vlm, images, ends)
    longest = max(ends)
    width = batch.input_ids.shape[1]
    lengths = batch.attention_mask.sum(dim=1).tolist()
    texts = [length - ends[image] for length, image in zip(lengths, image_of_row, strict=True)]
    shared = width - max(texts)

    def columns(found: Tensor) -> Tensor:
        rows = []
        for length, image in zip(lengths, image_of_row, strict=True):
            n = max(0, shared - (width - length))
            first = longest - ends[image]  # the images are padded on the left, like the batch
            rows.append(pad(found[image, :, first : first + n], (0, 0, shared - n, 0)))
        return torch.stack(rows)

    for layer in cache.layers:
        layer.keys, layer.values = columns(layer.keys), columns(layer.values)
    return cache


def _prefill(vlm: VisionLanguageModel, images: Sequence[Prompt], ends: Sequence[int]) -> Any:
    """The model's cache of what stands in front of the questions.

    Shape: keys and values of each layer ``(pictures, H, longest, d)``, padded on the left.
    """
    longest = max(ends)
    embeds = torch.cat(
        [pad(image.inputs_embeds[:, :end], (0, 0, longest - end, 0)) for image, end in zip(images, ends, strict=True)]
    )
    pads = torch.tensor([longest - end for end in ends], device=embeds.device)
    counted = torch.arange(longest, device=embeds.device) - pads[:, None]
    output = vlm.model(
        inputs_embeds=embeds,
        attention_mask=(counted >= 0).long(),
        position_ids=counted.clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    return output.past_key_values
