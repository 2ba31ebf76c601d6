"""Greedy generation from a prepared prompt, with clocks per token, a Stop button and a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from .cache import PrunedCache, kv_cache_bytes
from .prompt import Prompt
from .stages import synchronise


@dataclass(frozen=True)
class Answer:
    """What ``answer`` produced: token ids, their natural log-probabilities, and what it took.

    runners_up: for each token the log-probability of the most likely other one, -inf where there is none. prefill_ms
    runs from the call to the first token; decode_ms holds one entry per further token. kv_bytes is the size of the real
    cache after prefill. peak_bytes is the device's peak during generation, None where it reports none.
    """

    token_ids: list[int]
    logprobs: list[float]
    runners_up: list[float]
    prefill_ms: float
    decode_ms: list[float]
    kv_bytes: int
    peak_bytes: int | None
    stopped: bool


def answer(
    model: Any,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    on_tokens: Callable[[list[int]], None],
    stop: threading.Event,
) -> Answer:
    """Generate greedily from ``prompt`` (one sequence) through the stock ``model.generate``.

    Call it inside ``prune(...)`` to carry out in-LLM stages. ``on_tokens`` receives the ids so far after each token.
    """
    if prompt.inputs_embeds.shape[0] != 1:
        raise ValueError(f"answer takes one sequence, got {prompt.inputs_embeds.shape[0]}.")
    device = prompt.inputs_embeds.device
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    cache = PrunedCache(config=model.config.get_text_config())
    listener = _TokenListener(device, cache, stop, on_tokens)
    output = model.generate(
        **prompt.generate_inputs(),
        past_key_values=cache,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
        stopping_criteria=StoppingCriteriaList([listener]),
    )
    token_ids = output.sequences[0].tolist()
    scores = [scored(logits[0], token) for logits, token in zip(output.logits, token_ids, strict=True)]
    ticks = listener.ticks
    return Answer(
        token_ids=token_ids,
        logprobs=[said for said, _ in scores],
        runners_up=[other for _, other in scores],
        prefill_ms=(ticks[1] - ticks[0]) * 1000,
        decode_ms=[(after - before) * 1000 for before, after in pairwise(ticks[1:])],
        kv_bytes=listener.kv_bytes,
        peak_bytes=torch.cuda.max_memory_allocated(device) if on_cuda else None,
        stopped=stop.is_set(),
    )


def scored(logits: Tensor, token: int) -> tuple[float, float]:
    """The log-probability of ``token`` and that of the most likely other token, -inf without any.

    Shape: logits ``(vocabulary,)``.
    """
    logprobs = torch.log_softmax(logits.float(), -1)
    said = float(logprobs[token])
    logprobs[token] = -torch.inf
    return said, float(logprobs.max())


class _TokenListener(StoppingCriteria):
    """``generate`` calls it after every token: the one place where time, Stop and the stream meet."""

    def __init__(
        self, device: torch.device, cache: Any, stop: threading.Event, on_tokens: Callable[[list[int]], None]
    ) -> None:
        self._device, self._cache, self._stop, self._on_tokens = device, cache, stop, on_tokens
        self.ticks: list[float] = []
        self.kv_bytes = 0
        self.tick()

    def tick(self) -> None:
        synchronise(self._device)
        self.ticks.append(time.perf_counter())

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.tick()
        if len(self.ticks) == 2:
            self.kv_bytes = kv_cache_bytes(self._cache)
        # With inputs_embeds, generate's input_ids hold the new tokens only.
        self._on_tokens(input_ids[0].tolist())
        return torch.full((input_ids.shape[0],), self._stop.is_set(), dtype=torch.bool, device=input_ids.device)
