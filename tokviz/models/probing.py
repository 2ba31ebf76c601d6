"""A tiny call of a flash attention kernel, held against SDPA: whether it runs on a GPU, and gives the right numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import modeling_flash_attention_utils as flash

_LENGTH, _HEADS, _KV_HEADS, _WIDTH = 48, 4, 2, 64
_SPLIT = 17
"""Where the sequence is cut in two for the function that takes several at once (Qwen's frames)."""
_TOLERANCE = {torch.bfloat16: 0.03, torch.float16: 0.005}
"""Of outputs near 1, several times what rounding to these types moves them by."""


def why_not_right(name: str, devices: Sequence[torch.device], dtype: torch.dtype) -> str | None:
    """Why the kernel that transformers knows as ``name`` cannot be used on these devices; None when it was right.

    Once per process and device. The kernel must be installed or fetched: it is loaded here.
    """
    return next(filter(None, (_why_not_right(name, device, dtype) for device in dict.fromkeys(devices))), None)


@cache
def _why_not_right(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    loaded = flash.lazy_import_flash_attention
    where = f"on this GPU (compute capability {capability_of(device)})"
    query, key, value = _inputs(device, dtype)
    expected = _by_sdpa(query, key, value)
    try:  # a kernel is foreign machine code: anything can come out of it, and nothing of ours runs in here
        (whole, varlen, *_), _ = loaded(name)
        made = _by_kernel(whole, varlen, query, key, value)
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")[:160]
        return f"The attention kernel {name} does not run {where}: {type(error).__name__}{f', {said}' if said else ''}."
    for found, right in zip(made, expected, strict=False):
        difference = (found.float() - right).abs().max() if found.shape == right.shape else torch.inf
        if not difference <= _TOLERANCE.get(dtype, 0.03):  # NaN too
            return f"The attention kernel {name} gives wrong numbers {where}."
    return None


def capability_of(device: torch.device) -> str:
    """``12.0``."""
    if device.type != "cuda":
        return "none"
    return ".".join(map(str, torch.cuda.get_device_capability(device)))


def _inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Shape: ``(1, L, H, d)``, and fewer heads of keys and values; the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, _LENGTH, heads, _WIDTH, generator=generator).to(device, dtype)
        for heads in (_HEADS, _KV_HEADS, _KV_HEADS)
    )
    return query, key, value


def _by_sdpa(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """What is right, in float32: causal prefill, one token of decoding, two sequences that do not see each other."""

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        q, k, v = (part.transpose(1, 2).float() for part in (q, k, v))
        k, v = (part.repeat_interleave(_HEADS // _KV_HEADS, 1) for part in (k, v))
        return scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)

    places = slice(_SPLIT), slice(_SPLIT, None)
    return [
        attend(query, key, value, True),
        attend(query[:, -1:], key, value, False),
        torch.cat([attend(query[:, place], key[:, place], value[:, place], False) for place in places], dim=1)[0],
    ]


def _by_kernel(whole: Any, varlen: Any, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """The same by the kernel; the third only where it has a function for it."""
    made = [whole(query, key, value, causal=True), whole(query[:, -1:], key, value, causal=True)]
    if varlen is not None:
        ends = torch.tensor([0, _SPLIT, _LENGTH], dtype=torch.int32, device=query.device)
        longest = _LENGTH - _SPLIT
        made.append(varlen(query[0], key[0], value[0], ends, ends, longest, longest, causal=False))
    found: list[Tensor] = [(output[0] if isinstance(output, tuple) else output).detach() for output in made]
    if query.device.type == "cuda":
        torch.cuda.synchronize(query.device)  # errors of a kernel come late
    return found
