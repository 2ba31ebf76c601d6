"""What a saved folder answers, in its own words, to many questions behind one picture.

`scoring.check` says whether an answer is the expected one; here is what was answered and how sure. Everything comes
from the folder (chat template, tokenizer, sizes), so that a model with another vocabulary or depth is asked alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, LlavaForConditionalGeneration, LlavaProcessor

MOST_WORDS = 4
"""Longest answer to any question that is asked here, with a word to spare."""


@dataclass(frozen=True)
class Reply:
    """The greedy answer, and how likely its first word was "yes" and "no"."""

    answer: str
    yes: float
    no: float


@dataclass(frozen=True)
class Seen:
    """What the tower makes of pictures.

    Shape:
        states: the tower's hidden states that the projector reads, (B, N, V); tokens: projected, (B, N, D).
    """

    states: Tensor
    tokens: Tensor


@torch.no_grad()
def look(model: LlavaForConditionalGeneration, processor: LlavaProcessor, images: Sequence[NDArray[np.uint8]]) -> Seen:
    """Pictures through the stock image processor, the tower and the projector."""
    pixels = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    return look_at_pixels(model, pixels)


@torch.no_grad()
def look_at_pixels(model: LlavaForConditionalGeneration, pixels: Tensor) -> Seen:
    """The same for pixels that are processed already.

    Shape:
        pixels: (B, 3, H, W).
    """
    out = model.model.vision_tower(pixels, output_hidden_states=True)
    states = out.hidden_states[model.config.vision_feature_layer][:, 1:]
    return Seen(states, model.model.multi_modal_projector(states))


def token_ids(processor: LlavaProcessor, question: str) -> tuple[list[int], list[int]]:
    """The prompt before and behind the image, by the chat template."""
    content: Any = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    ids = processor.tokenizer(text)["input_ids"]
    at = ids.index(processor.image_token_id)
    return ids[:at], ids[at + 1 :]


class Behind:
    """A picture in the language model's cache; questions behind it see the picture and themselves only."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, tokens: Tensor) -> None:
        """Args: tokens: projected visual tokens of one picture, (N, D)."""
        self.model, self.processor = model, processor
        self.words = model.get_input_embeddings()
        self.before = token_ids(processor, "")[0]
        whole = torch.cat([self.words(torch.tensor(self.before)), tokens])[None]
        self.length = whole.shape[1]
        self.cache = DynamicCache()
        with torch.no_grad():
            model.model.language_model(inputs_embeds=whole, past_key_values=self.cache, use_cache=True)

    @torch.no_grad()
    def ask(self, questions: Sequence[str]) -> list[Reply]:
        """The answer to each question, as if it were asked alone."""
        if not questions:
            return []
        parts = [token_ids(self.processor, question)[1] for question in questions]
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        offsets = np.concatenate([np.arange(len(part)) for part in parts])
        logits = self._step([word for part in parts for word in part], owners, offsets, owners)
        ends = np.cumsum([len(part) for part in parts]) - 1
        first = torch.softmax(logits[torch.from_numpy(ends)], dim=-1)
        vocabulary = self.processor.tokenizer.get_vocab()
        chances = {word: first[:, vocabulary[word]].tolist() for word in ("yes", "no")}
        said = self._go_on(first.argmax(-1).numpy(), owners, np.array([len(part) for part in parts]))
        self.cache.crop(self.length - self.cache.get_seq_length())
        answers = [self.processor.tokenizer.decode(words, skip_special_tokens=True).strip() for words in said]
        return [Reply(*row) for row in zip(answers, chances["yes"], chances["no"], strict=True)]

    def _go_on(self, best: NDArray[Any], known: NDArray[Any], lengths: NDArray[Any]) -> list[list[int]]:
        """Every answer to its end, one word of all at a time."""
        said: list[list[int]] = [[] for _ in best]
        open_ones = np.arange(len(best))
        end = self.processor.tokenizer.eos_token_id
        for step in range(MOST_WORDS):
            open_ones, best = open_ones[best != end], best[best != end]
            for number, word in zip(open_ones, best, strict=True):
                said[number].append(int(word))
            if not len(open_ones):
                break
            known = np.concatenate([known, open_ones])
            best = self._step(best.tolist(), open_ones, lengths[open_ones] + step, known).argmax(-1).numpy()
        return said

    def _step(self, ids: list[int], owners: NDArray[Any], offsets: NDArray[Any], known: NDArray[Any]) -> Tensor:
        """Logits behind new words.

        Args:
            owners: the question of each new word.
            offsets: its place behind the picture.
            known: the question of every word in the cache behind the picture, the new ones last.

        Shape:
            returns: (words, vocabulary).
        """
        same = torch.from_numpy(owners[:, None] == known[None, :])
        order = torch.arange(len(known))
        same &= order[None, :] <= order[len(known) - len(ids) :, None]
        mask = torch.cat([torch.ones(len(ids), self.length, dtype=torch.bool), same], dim=1)[None, None]
        positions = torch.from_numpy(self.length + offsets)[None]
        out = self.model.model.language_model(
            inputs_embeds=self.words(torch.tensor(ids))[None], attention_mask=mask, position_ids=positions,
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        return self.model.lm_head(out.last_hidden_state[0])
