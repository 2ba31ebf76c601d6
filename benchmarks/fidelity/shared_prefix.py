"""Keys and values of what stands in front of the questions, computed once per picture instead of once per question.

For variants whose stages are all carried out before the question is read, every question about a picture follows the
same tokens. Attention is causal, so their keys and values are the same too: ``generate`` gets them as a cache that it
continues, as stock transformers does when a conversation goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokviz.engine import Prompt
from tokviz.models.loading import VisionLanguageModel

from .prompts import end_of_picture


def shared_prefix(
    vlm: VisionLanguageModel, pictures: Sequence[Prompt], picture_of_row: Sequence[int], batch: Prompt
) -> Any:
    """A cache that holds the first columns of ``batch``, for ``generate(**batch.generate_inputs(), past_key_values=)``.

    Args:
        pictures: prompts of one row each, encoded or shortened, whose positions are counted.
        picture_of_row: for each row of ``batch`` the picture that its question was put behind.
        batch: the joined prompts. Its cache ends where the longest question begins: all that any row shares.
    """
    ends = [end_of_picture(picture) for picture in pictures]
    cache = _prefill(vlm, pictures, ends)
    longest = max(ends)
    width = batch.input_ids.shape[1]
    lengths = batch.attention_mask.sum(dim=1).tolist()
    texts = [length - ends[picture] for length, picture in zip(lengths, picture_of_row, strict=True)]
    shared = width - max(texts)

    def columns(found: Tensor) -> Tensor:
        rows = []
        for length, picture in zip(lengths, picture_of_row, strict=True):
            n = max(0, shared - (width - length))
            first = longest - ends[picture]  # the pictures are padded on the left, like the batch
            rows.append(pad(found[picture, :, first : first + n], (0, 0, shared - n, 0)))
        return torch.stack(rows)

    for layer in cache.layers:
        layer.keys, layer.values = columns(layer.keys), columns(layer.values)
    return cache


def _prefill(vlm: VisionLanguageModel, pictures: Sequence[Prompt], ends: Sequence[int]) -> Any:
    """The model's cache of what stands in front of the questions.

    Shape: keys and values of each block ``(pictures, H, longest, d)``, padded on the left.
    """
    longest = max(ends)
    embeds = torch.cat(
        [
            pad(picture.inputs_embeds[:, :end], (0, 0, longest - end, 0))
            for picture, end in zip(pictures, ends, strict=True)
        ]
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
