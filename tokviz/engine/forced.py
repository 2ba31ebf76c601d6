"""A known answer scored again and again, with fewer visual tokens from some LLM layer on.

Prompt and answer run once through the stock model, and what entered the asked layers is remembered. From there copies
go on side by side through the model's own layers, each without the tokens that a stage before that layer drops: the
layers below, which all copies have in common, are not run again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily
from ..types import Stage
from .capture import before_forward, lifted
from .context import running_on
from .generate import greedily
from .prefill import View, causal_mask
from .prompt import Prompt
from .sequence import State, rotary_axes
from .signals import SignalReader
from .stages import Chooser, Decisions, Select, StageRunner

FARTHEST = 0.1
"""Nats per token that our walk through the layers may differ from the stock model's: rounding of 16 bits, not more."""


class ForcedAnswer:
    """The log-probability of one answer to one prompt, whatever is dropped before a layer.

    Attributes:
        logprobs: ``(T,)``, natural log-probability of each token of the answer, as the stock model has it.
        length: Tokens of prompt and answer that a copy holds when nothing is dropped.
    """

    @torch.inference_mode()
    def __init__(
        self, model: Any, family: ModelFamily, prompt: Prompt, token_ids: Sequence[int], layers: Collection[int]
    ) -> None:
        """Run prompt (one row) and answer once; ``layers``: before which tokens are to be dropped.

        Raises Unsupported where the model's layers, called one by one, do not give what the model gives.
        """
        if len(prompt.alive) != 1 or not token_ids:
            raise ValueError("a forced answer belongs to one prompt and has at least one token")
        self.model, self.family = model, family
        self.language_model, self.layers = family.language_model(model), family.layers(model)
        self.prompt = with_answer(model, prompt, token_ids)
        self.length = self.prompt.inputs_embeds.shape[1]
        self._answer = torch.tensor(list(token_ids))
        self._entered: dict[int, Tensor] = {}
        self._kwargs: dict[str, Any] = {}
        mine = get_ident()
        with ExitStack() as stack:
            stack.enter_context(running_on(model, family, self.prompt))
            for layer in sorted({*layers}):  # behind the hooks of the context, which may still add to what enters
                see = partial(self._see, layer)
                stack.callback(before_forward(self.layers[layer], see, lambda: get_ident() == mine))
            kept = len(token_ids)
            logits = model(**self.prompt.generate_inputs(), use_cache=False, logits_to_keep=kept).logits
        self.logprobs = self._of_answer(logits[:, -kept:])[0]
        self._check(layers)

    def _see(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._entered[layer] = args[0] if args else kwargs["hidden_states"]
        self._kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}

    def _check(self, layers: Collection[int]) -> None:
        walked = self._finish(min(layers), State(self.prompt.own_rows, self._entered[min(layers)]))
        if not bool((self._of_answer(walked)[0] - self.logprobs).abs().max() < FARTHEST):
            raise Unsupported("This model's layers cannot be run one by one: its answer comes out differently.")

    def scores(self, stage: Stage, select: Select, copies: int) -> Tensor:
        """Log-probability of the whole answer in every copy, of which ``stage`` drops what ``select`` says.

        stage: before an LLM layer that was asked for. select: called with the copy's number for its row.
        Shape: ``(copies,)``, in float32 or more, on the CPU.
        """
        return self.judged((stage,), select, copies)[0]

    @torch.inference_mode()
    def judged(self, stages: Sequence[Stage], select: Select, copies: int) -> tuple[Tensor, Tensor]:
        """The log-probability of the whole answer in every copy, and whether greedy decoding would give this answer.

        It would where each token of the answer is chosen after those before it; see ``greedily``.

        Args:
            stages: Before LLM layers, ascending; the first before a layer that was asked for.
            select: Called with the copy's number for its row.
            copies: How many sequences go on side by side.

        Shape: both ``(copies,)``, on the CPU; log-probabilities in float32 or more.
        """
        first = stages[0].site
        if not isinstance(first, int) or first not in self._entered:
            raise ValueError(f"nothing is known of what enters {stages[0].site_label}")
        prompt = self.prompt
        real, visual = (mask.expand(copies, -1) for mask in (prompt.attention_mask.bool(), prompt.visual_mask))
        rows = prompt.rows(real, visual, prompt.own_rows.positions)
        decisions = Decisions([[] for _ in range(copies)])
        project = partial(self.family.project, self.model)
        runner = StageRunner(Chooser(select), decisions, SignalReader(None), project)
        logits = self._finish(first, State(rows, self._entered[first].expand(copies, -1, -1)), stages, runner)
        greedy = greedily(self.model, logits, self._answer.tolist()).all(dim=1)
        return self._of_answer(logits).sum(dim=1).cpu(), greedy.cpu()

    def _finish(
        self, layer: int, state: State, stages: Sequence[Stage] = (), runner: StageRunner | None = None
    ) -> Tensor:
        """Logits of the answer's tokens after the layers from ``layer`` on. Shape: ``(B, T, vocabulary)``."""
        lm, deepstack = self.language_model, self.prompt.deepstack
        given: dict[str, Any] | None = None
        for number in range(layer, len(self.layers)):
            if deepstack is not None and number > layer:
                state = replace(state, hidden=deepstack.added(number - 1, state.hidden, state.rows))
            for at, stage in enumerate(stages):
                if runner is not None and stage.site == number:
                    state, given = runner.run(at, stage, state)[0], None
            given = given or self._view(state).given_to(self._kwargs)
            made = self.layers[number](state.hidden, **given)
            state = replace(state, hidden=made if isinstance(made, Tensor) else made[0])
        logits: Tensor = self.model.get_output_embeddings()(lm.norm(state.hidden[:, -len(self._answer) :]))
        return logits

    def _view(self, state: State) -> View:
        rows, hidden, lm = state.rows, state.hidden, self.language_model
        mask = causal_mask(lm.config, hidden, rows.real if rows.padded else None, 0)
        return View(mask, lm.rotary_emb(hidden, rotary_axes(rows.positions).to(hidden.device)))

    def _of_answer(self, logits: Tensor) -> Tensor:
        """Shape: logits ``(B, T, vocabulary)`` -> ``(B, T)``."""
        index = self._answer.to(logits.device)[None, :, None].expand(len(logits), -1, 1)
        return lifted(logits).log_softmax(dim=-1).gather(2, index)[..., 0]


def with_answer(model: Any, prompt: Prompt, token_ids: Sequence[int]) -> Prompt:
    """The prompt with all but the last token of an answer behind it, as text; the last one is predicted, not fed."""
    device = prompt.inputs_embeds.device
    ids = torch.tensor([list(token_ids[:-1])], dtype=torch.int64, device=device)
    embeds = model.get_input_embeddings()(ids).to(device, prompt.inputs_embeds.dtype)

    def longer(mask: Tensor | None, value: int) -> Tensor | None:
        return None if mask is None else torch.cat([mask, mask.new_full(ids.shape, value)], dim=1)

    positions = prompt.position_ids
    if positions is not None:  # every axis goes on from the last token, which is text
        further = torch.arange(1, ids.shape[1] + 1, device=positions.device)
        positions = torch.cat([positions, positions[..., -1:] + further], dim=-1)
    more: dict[str, Any] = {
        "visual_mask": longer(prompt.visual_mask, 0),
        "attention_mask": longer(prompt.attention_mask, 1),
        "question_mask": longer(prompt.question_mask, 0),
        "text_mask": longer(prompt.text_mask, 1),
        "added_mask": longer(prompt.added_mask, 0),
    }
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, ids], dim=1),
        inputs_embeds=torch.cat([prompt.inputs_embeds, embeds], dim=1),
        position_ids=positions,
        **more,
    )
