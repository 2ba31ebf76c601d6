"""A LLaVA looked at from inside: its tower, its projected tokens, every block of its decoder, text by text.

The picture is read once; all questions about it then stand behind it in one sequence, where each sees the picture and
itself only and its positions restart, so that everything equals single prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokviz.errors import BadInput
from training.scoring import load_folder


@dataclass(frozen=True)
class Picture:
    """One picture as the model sees it.

    Shape:
        tower: (N, D_v), what enters the projector; cls: (blocks of the tower, N), attention of [CLS] on the patches,
        mean over heads; states: (L + 1, N, D), what enters each decoder block, and what leaves the last, not normed.
    """

    tower: Tensor
    cls: Tensor
    states: Tensor
    cache: Any
    """Keys and values of everything up to the last visual token."""
    first: int
    """Tokens before the picture."""

    @property
    def projected(self) -> Tensor:
        """What the projector made, and the decoder gets. Shape: (N, D)."""
        return self.states[0]

    @property
    def changes(self) -> Tensor:
        """How far each decoder block moves each visual token (L2). Shape: (L, N)."""
        return (self.states[1:] - self.states[:-1]).norm(dim=-1)

    @property
    def length(self) -> int:
        """Tokens up to the last visual one."""
        return self.first + len(self.projected)


@dataclass(frozen=True)
class Prompt:
    """One question behind a picture: token ids after the picture, and those of its right answer.

    own: the ids that the user wrote; the others are the template's. labels: the answer and the end.
    """

    ids: list[int]
    own: range
    answer: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Heard:
    """One prompt's text in every decoder block: its attention on the visual tokens (mean over heads), and its states.

    Shape:
        asking: (L, M, N), rows of the M tokens between picture and answer; answering: (L, A, N), of the A answer
        tokens; states: (L, M, D), what enters each block of the former.
    """

    asking: Tensor
    answering: Tensor
    states: Tensor


@dataclass(frozen=True)
class _Sheet:
    """Prompts in one sequence. Shape: words (T, D); positions (1, T) int64; mask (1, 1, T, P + T), added to logits."""

    words: Tensor
    positions: Tensor
    mask: Tensor
    starts: list[int]


class Subject:
    """A stock LLaVA with a [CLS] tower, whatever its depths and widths, and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        """Raises BadInput when its features are not one layer of patches without [CLS]."""
        config = model.config
        layer = config.vision_feature_layer
        if config.vision_feature_select_strategy != "default" or not isinstance(layer, int):
            raise BadInput("This measures models whose visual tokens are the patches of one layer behind a [CLS].")
        self.model, self.processor = model, processor
        model.set_attn_implementation("eager")
        self.tower, self.decoder = model.model.vision_tower, model.model.language_model
        self.grid: int = config.vision_config.image_size // config.vision_config.patch_size
        self.image_size: int = config.vision_config.image_size
        self.feature_layer: int = layer % (config.vision_config.num_hidden_layers + 1)
        """Index into the tower's hidden states; the block that made it is one less."""
        end = model.generation_config.eos_token_id
        self.end: int = end[0] if isinstance(end, list) else end
        self.before, self._frame = self._prompt_ids("")

    @classmethod
    def of(cls, folder: Path) -> Subject:
        """Load a folder of stock LLaVA classes."""
        return cls(*load_folder(folder))

    @property
    def depth(self) -> int:
        """Blocks of the decoder."""
        return len(self.decoder.layers)

    @property
    def tower_depth(self) -> int:
        """Blocks of the tower."""
        return int(self.model.config.vision_config.num_hidden_layers)

    @property
    def words(self) -> Tensor:
        """The word embeddings. Shape: (rows of the vocabulary, D)."""
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    def word_id(self, word: str) -> int | None:
        """The id of a word that is one token, None for others and for unknown ones."""
        tokenizer = self.processor.tokenizer
        ids = tokenizer(word, add_special_tokens=False).input_ids
        return int(ids[0]) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None

    def word_of(self, token: int) -> str:
        """The word that a token id stands for, without a tokenizer's sign for the space before it."""
        return str(self.processor.tokenizer.convert_ids_to_tokens(token)).lstrip("▁Ġ")

    def prompt(self, question: str, answer: str) -> Prompt:
        """A question by the chat template, with the answer that is right."""
        _, ids = self._prompt_ids(question)
        head = _common(ids, self._frame)
        tail = min(_common(ids[::-1], self._frame[::-1]), len(self._frame) - head, len(ids) - head)
        said = self.processor.tokenizer(answer, add_special_tokens=False).input_ids
        return Prompt(ids, range(head, len(ids) - tail), said, [*said, self.end])

    def _prompt_ids(self, question: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the picture."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        ids = self.processor.tokenizer(text).input_ids
        at = ids.index(self.model.config.image_token_id)
        return ids[:at], ids[at + 1 :]

    def look(self, image: NDArray[np.uint8]) -> Picture:
        """Run tower, projector and decoder on a picture.

        Shape:
            image: (H, W, 3) uint8.
        """
        pixels = self.processor.image_processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
        seen = self.tower(pixels, output_hidden_states=True, output_attentions=True)
        tower = seen.hidden_states[self.feature_layer][0, 1:]
        projected = self.model.model.multi_modal_projector(tower[None])[0]
        cls = torch.stack([block[0, :, 0, 1:].mean(0) for block in seen.attentions])
        first = len(self.before)
        out, states = self._through(torch.cat([self.words[self.before], projected]), use_cache=True)
        return Picture(tower, cls, states[:, first:], out.past_key_values, first)

    def _through(self, words: Tensor, **kwargs: Any) -> tuple[Any, Tensor]:
        """Run the decoder on embeddings; also what enters each block, and what leaves the last before the final norm.

        Shape:
            words: (T, D); returns the decoder's output, (L + 1, T, D).
        """
        states = [words]
        with ExitStack() as stack:
            for layer in self.decoder.layers:
                hook = layer.register_forward_hook(
                    lambda _module, _args, out: states.append((out[0] if isinstance(out, tuple) else out)[0])
                )
                stack.callback(hook.remove)
            out = self.decoder(inputs_embeds=words[None], **kwargs)
        return out, torch.stack(states)

    def listen(self, picture: Picture, prompts: Sequence[Prompt]) -> tuple[list[Heard], list[bool]]:
        """Attention and states of every prompt's text, and whether the greedy answer is the right one."""
        sheet = self._sheet(picture, prompts)
        out, states = self._read(picture, sheet, attentions=True)
        visual = slice(picture.first, picture.length)
        rows = torch.stack([block[0, :, :, visual].mean(0) for block in out.attentions])
        found = []
        for start, prompt in zip(sheet.starts, prompts, strict=True):
            end = start + len(prompt.ids)
            answering = rows[:, end : end + len(prompt.answer)]
            found.append(Heard(rows[:, start:end], answering, states[:-1, start:end]))
        return found, self._verdicts(out, sheet, prompts)

    def withdrawn(self, picture: Picture, prompts: Sequence[Prompt], block: int) -> list[bool]:
        """Whether the greedy answers are right when no text sees a visual token from decoder block `block` on.

        Everything keeps its position, as VTW does it.
        """
        sheet = self._sheet(picture, prompts)
        blind = sheet.mask.clone()
        blind[..., picture.first : picture.length] = torch.finfo(blind.dtype).min
        with self._masked_from(block, blind):
            out, _ = self._read(picture, sheet, attentions=False)
        return self._verdicts(out, sheet, prompts)

    def _sheet(self, picture: Picture, prompts: Sequence[Prompt]) -> _Sheet:
        ids = [[*prompt.ids, *prompt.answer] for prompt in prompts]
        sizes = [len(own) for own in ids]
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        number = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor(sizes))
        place = torch.cat([torch.arange(size) for size in sizes])
        sees = (number[:, None] == number) & (place[:, None] >= place)
        sees = torch.cat([torch.ones(len(place), picture.length, dtype=torch.bool), sees], dim=1)
        least = torch.finfo(self.words.dtype).min
        mask = torch.zeros(sees.shape, dtype=self.words.dtype).masked_fill(~sees, least)
        tokens = torch.tensor([token for own in ids for token in own])
        return _Sheet(self.words[tokens], place[None] + picture.length, mask[None, None], starts)

    def _read(self, picture: Picture, sheet: _Sheet, attentions: bool) -> tuple[Any, Tensor]:
        return self._through(
            sheet.words,
            position_ids=sheet.positions,
            attention_mask=sheet.mask,
            past_key_values=copy.deepcopy(picture.cache),  # the model writes into it
            use_cache=True,
            output_attentions=attentions,
        )

    def _verdicts(self, out: Any, sheet: _Sheet, prompts: Sequence[Prompt]) -> list[bool]:
        best = self.model.lm_head(out.last_hidden_state[0]).argmax(-1).tolist()
        right = []
        for start, prompt in zip(sheet.starts, prompts, strict=True):
            first = start + len(prompt.ids) - 1  # the last token of the prompt says the first of the answer
            right.append(best[first : first + len(prompt.labels)] == prompt.labels)
        return right

    @contextmanager
    def _masked_from(self, block: int, mask: Tensor) -> Iterator[None]:
        """Inside, the decoder's blocks from `block` on get this mask."""

        def swap(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "attention_mask": mask}

        with ExitStack() as stack:
            for layer in self.decoder.layers[block:]:
                stack.callback(layer.register_forward_pre_hook(swap, with_kwargs=True).remove)
            yield


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their start on."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
