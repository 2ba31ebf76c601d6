"""From a picture and a question to the model's inputs, and which of the tokens are the user's own words."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from .loading import VisionLanguageModel

# A private-use character: no template and no tokenizer knows it.
_PLACE = "\ue000"


def model_inputs(
    vlm: VisionLanguageModel, image: Image.Image, question: str
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The processor's output for one picture and question, with the model's own chat template, on its device.

    The second value is the question mask: ``(1, L)`` bool, True for tokens that hold something the user wrote; None
    when template or tokenizer do not let them be told apart.
    """
    processor = vlm.processor
    text = _rendered(vlm, question)
    options = {"return_offsets_mapping": True} if processor.tokenizer.is_fast else {}
    inputs = dict(processor(images=[image], text=[text], return_tensors="pt", **options))
    offsets = inputs.pop("offset_mapping", None)
    span, mask = question_span(text, _rendered(vlm, _PLACE), question), None
    if offsets is not None and span is not None:
        placeholders = torch.tensor(vlm.family.visual_token_ids(vlm.model))
        visual = torch.isin(inputs["input_ids"][0], placeholders)
        mask = question_tokens(text, span, processor.image_token, offsets[0], visual)
    dtype = vlm.model.dtype
    on_device = {
        name: tensor.to(vlm.device, dtype if tensor.is_floating_point() else None) for name, tensor in inputs.items()
    }
    return on_device, None if mask is None else mask[None].to(vlm.device)


def _rendered(vlm: VisionLanguageModel, question: str) -> str:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text: str = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    return text


def question_span(text: str, with_place: str, question: str) -> tuple[int, int] | None:
    """Where the question stands in the rendered prompt: what it is around does not matter, even if it says the same.

    ``with_place`` is the prompt rendered with a character in the question's place that occurs nowhere else. None when
    the template writes the question several times, not at all or in other words.
    """
    before, *rest = with_place.split(_PLACE)
    if len(rest) != 1 or text != before + question + rest[0]:
        return None
    return len(before), len(before) + len(question)


def question_tokens(
    text: str, span: tuple[int, int], placeholder: str, offsets: Tensor, visual: Tensor
) -> Tensor | None:
    """Tokens that hold a visible character of ``text[start:end]``.

    Shape: offsets ``(L, 2)`` and visual ``(L,)`` bool, of the tokens -> ``(L,)`` bool.
    The processor widens each ``placeholder`` to as many as there are visual tokens, so offsets behind the picture are
    shifted: by what the last visual token says. None for a question between two pictures.
    """
    start, end = span
    first, last = text.find(placeholder), text.rfind(placeholder)
    shift = 0
    if last >= 0 and start >= last + len(placeholder):
        shift = int(offsets[visual][-1, 1]) - (last + len(placeholder))
    elif first >= 0 and end > first:
        return None
    tokens = [
        any(start <= place < end and not text[place].isspace() for place in range(low - shift, high - shift))
        if high - shift > start and low - shift < end
        else False
        for low, high in offsets.tolist()
    ]
    return torch.tensor(tokens, dtype=torch.bool)
