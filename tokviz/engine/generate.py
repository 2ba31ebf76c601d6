"""Greedy generation from a prepared prompt, with clocks per token, a Stop button and a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, StoppingCriteria, StoppingCriteriaList

from .cache import PrunedCache, kv_cache_bytes
from .prompt import Prompt
from .stages import synchronise


@dataclass(frozen=True)
class Answer:
    """What ``answer`` produced: token ids, their natural log-probabilities, and what it took.

    runners_up: for each token the log-probability of the most likely other one, -inf where there is none. prefill_ms
    runs from the call to the first token; decode_ms holds one entry per further token. kv_bytes is the size of the real
    cache after prefill. peak_bytes is the device's peak during generation, None where it reports none.
    reference_logprobs: of the tokens of the reference answer that ``answer`` was given, after the same pruned prompt.
    """

    token_ids: list[int]
    logprobs: list[float]
    runners_up: list[float]
    prefill_ms: float
    decode_ms: list[float]
    kv_bytes: int
    peak_bytes: int | None
    stopped: bool
    reference_logprobs: list[float] = field(default_factory=list)


def answer(
    model: Any,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    on_tokens: Callable[[list[int]], None],
    stop: threading.Event,
    reference: Sequence[int] = (),
) -> Answer:
    """Generate greedily from ``prompt`` (one sequence) through the stock ``model.generate``.

    Call it inside ``prune(...)`` to carry out in-LLM stages. ``on_tokens`` receives the ids so far after each token.
    ``reference``: ids of another answer, whose log-probability is wanted too; it is read off the same cache after the
    clocks and the memory were.
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
    peak_bytes = torch.cuda.max_memory_allocated(device) if on_cuda else None
    wanted = [] if stop.is_set() else list(reference)
    return Answer(
        token_ids=token_ids,
        logprobs=[said for said, _ in scores],
        runners_up=[other for _, other in scores],
        prefill_ms=(ticks[1] - ticks[0]) * 1000,
        decode_ms=[(after - before) * 1000 for before, after in pairwise(ticks[1:])],
        kv_bytes=listener.kv_bytes,
        peak_bytes=peak_bytes,
        stopped=stop.is_set(),
        reference_logprobs=reference_logprobs(model, prompt, cache, token_ids, output.logits, wanted),
    )


@torch.no_grad()
def reference_logprobs(
    model: Any, prompt: Prompt, cache: Any, said: Sequence[int], logits: Sequence[Tensor], wanted: Sequence[int]
) -> list[float]:
    """The log-probability of each token of another answer than the one that was just generated.

    As long as both agree, and for the first token in which they differ, it is what ``generate`` computed, bit for bit.
    The rest runs in one forward pass on the same cache, shortened to what both answers share.

    Args:
        model: Inside the context in which it generated.
        prompt: What it generated from.
        cache: What ``generate`` left: the prompt and all that was said but its last token.
        said: The ids generated.
        logits: ``(1, vocabulary)`` for each of them.
        wanted: The ids of the other answer.
    """
    pairs = enumerate(zip(said, wanted, strict=False))
    shared = next((at for at, (one, other) in pairs if one != other), min(len(said), len(wanted)))
    known = min(shared + 1, len(said), len(wanted))
    found = [scored(logits[at][0], wanted[at])[0] for at in range(known)]
    if known == len(wanted):
        return found
    if len(said) > known:
        cache.crop(known - len(said))
    fed = torch.tensor([list(wanted[known - 1 : -1])], device=prompt.inputs_embeds.device)
    mask = prompt.attention_mask
    further = torch.arange(known, known + fed.shape[1], device=mask.device)
    positions = prompt.position_ids
    last = mask.sum(dim=1, keepdim=True) - 1 if positions is None else positions[..., -1:]
    output = model(
        input_ids=fed,
        attention_mask=torch.cat([mask, mask.new_ones(1, known - 1 + fed.shape[1])], dim=1),
        position_ids=last + further.to(last.device),
        past_key_values=cache,
        use_cache=True,
    )
    return [*found, *(scored(row, token)[0] for row, token in zip(output.logits[0], wanted[known:], strict=True))]


def scored(logits: Tensor, token: int) -> tuple[float, float]:
    """The log-probability of ``token`` and that of the most likely other token, -inf without any.

    Shape: logits ``(vocabulary,)``.
    """
    logprobs = torch.log_softmax(logits.float(), -1)
    said = float(logprobs[token])
    logprobs[token] = -torch.inf
    return said, float(logprobs.max())


def greedily(model: Any, logits: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Whether ``answer`` would choose each of these tokens after those before it.

    With the two settings that models come with and that change the choice: tokens that are never said, and a penalty on
    tokens said before.
    Shape: logits ``(B, T, vocabulary)`` -> ``(B, T)`` bool.
    """
    settings, ids = model.generation_config, torch.tensor([list(token_ids)], device=logits.device)
    penalty, never = settings.repetition_penalty, settings.suppress_tokens
    chosen = []
    for at in range(len(token_ids)):
        scores = logits[:, at].float()
        if penalty and penalty != 1.0 and at:
            said = ids[:, :at].expand(len(scores), -1)
            scores = RepetitionPenaltyLogitsProcessor(penalty)(said, scores)
        if never:
            scores = scores.index_fill(1, torch.tensor(list(never), device=scores.device), -torch.inf)
        chosen.append(scores.argmax(dim=-1))
    return torch.stack(chosen, dim=1) == ids


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
