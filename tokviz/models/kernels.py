"""Which attention kernel a model is loaded with: flash attention where it can run, SDPA elsewhere. Never eager unasked.

A wish that cannot be granted is refused when the caller spelt it out (``load(attention=...)``), and leads to SDPA with
a notice when it is a preference of the installation (the environment variable ``TOKVIZ_KERNEL``). Flash attention is
held against SDPA in a tiny call first: whether it runs on a GPU, and gives the right numbers.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import modeling_flash_attention_utils as flash
from transformers.utils import is_kernels_available

from ..errors import BadInput
from .devices import has_package, on_zero_gpu

HUB_KERNEL = "kernels-community/flash-attn2"
"""What ``kernels`` stands for: the hub's build of FlashAttention 2, in the version that transformers pins."""

CHOICES = ("auto", "sdpa", "flash", "kernels", "eager")
_TRUSTED = "kernels-community/"
_AMPERE = (8, 0)
_SETTLED = (8, 9)
"""Major compute capabilities on which flash attention is known to run; on all others it is used only when asked for."""


@dataclass(frozen=True)
class Kernel:
    """``name`` is transformers' ``attn_implementation``; ``notice`` says why it is not what somebody might expect."""

    name: str
    notice: str | None = None


def choose_kernel(asked: str | None, devices: Sequence[torch.device], dtype: torch.dtype) -> Kernel:
    """The kernel for a model that will lie on these devices.

    Args: asked: one of ``CHOICES``, ``flash_attention_2``, or a kernel of the hub, ``kernels-community/...``; None or
    ``auto``: what ``TOKVIZ_KERNEL`` says, else flash attention if it is installed, known to run on this kind of GPU and
    right in a tiny call, else SDPA.
    Raises BadInput, with the reason, for a kernel that was asked for and cannot be had.
    """
    if asked not in (None, "", "auto"):
        return Kernel(_demanded(str(asked), devices, dtype))
    preferred = os.environ.get("TOKVIZ_KERNEL", "").strip()
    if preferred not in ("", "auto"):
        try:
            return Kernel(_demanded(preferred, devices, dtype))
        except BadInput as error:
            return Kernel("sdpa", f"TOKVIZ_KERNEL asks for {preferred!r}. {error} SDPA is used instead.")
    if not has_package("flash_attn"):
        return Kernel("sdpa")
    reason = _why_not_here(devices, dtype) or _why_unsettled(devices) or why_no_flash(devices, dtype)
    return Kernel("flash_attention_2") if reason is None else Kernel("sdpa", f"{reason} SDPA is used instead.")


def why_no_flash(devices: Sequence[torch.device], dtype: torch.dtype) -> str | None:
    """Why flash-attn cannot serve a model of this type on these devices, as a sentence; None when it can."""
    return _why_not_here(devices, dtype) or _why_no_package() or why_not_right("flash_attention_2", devices, dtype)


def why_no_hub_kernel(devices: Sequence[torch.device], dtype: torch.dtype) -> str | None:
    """Why kernels of the hub cannot serve such a model, as a sentence; None when they can.

    Nothing is fetched here, so where flash attention is not settled, nothing can be promised: it has to be asked for.
    """
    return _why_no_hub_package(devices, dtype) or _why_unsettled(devices)


def _why_no_hub_package(devices: Sequence[torch.device], dtype: torch.dtype) -> str | None:
    if not is_kernels_available():
        return "The package kernels is missing or too old (pip install 'tokviz[gpu]')."
    return _why_not_here(devices, dtype)


def _demanded(asked: str, devices: Sequence[torch.device], dtype: torch.dtype) -> str:
    if asked in ("sdpa", "eager"):
        return asked
    if asked in ("flash", "flash_attention_2"):
        reason = why_no_flash(devices, dtype)
        name = "flash_attention_2"
    elif asked == "kernels" or asked.startswith(_TRUSTED):
        name = HUB_KERNEL if asked == "kernels" else asked
        reason = _why_no_hub_package(devices, dtype) or _why_not_fetched(name) or why_not_right(name, devices, dtype)
    elif "/" in asked:
        # A kernel is machine code of its author.
        raise BadInput(f"Attention kernels come from {_TRUSTED.rstrip('/')} only, not from {asked!r}.")
    else:
        raise BadInput(f"There is no attention kernel {asked!r}: choose {', '.join(CHOICES[:-1])} or {CHOICES[-1]}.")
    if reason is not None:
        raise BadInput(reason)
    return name


def _why_not_here(devices: Sequence[torch.device], dtype: torch.dtype) -> str | None:
    """GPUs and number types that no build of flash attention serves."""
    if any(device.type != "cuda" for device in devices):
        return f"Flash attention needs an NVIDIA GPU; the model lies on {devices[0].type}."
    if on_zero_gpu():
        return (
            "Flash attention has to be tried on the GPU, and none is attached while a model is loaded here (ZeroGPU)."
        )
    capability = min(torch.cuda.get_device_capability(device) for device in devices)
    if capability < _AMPERE:
        return (
            f"Flash attention needs a GPU of compute capability 8.0 (Ampere) or newer; this one has "
            f"{capability[0]}.{capability[1]}."
        )
    if dtype not in (torch.float16, torch.bfloat16):
        return f"Flash attention needs bfloat16 or float16; the model is loaded in {str(dtype).rpartition('.')[2]}."
    return None


def _why_unsettled(devices: Sequence[torch.device]) -> str | None:
    """GPUs on which builds of flash attention are too new to be chosen unasked."""
    new = next((d for d in devices if torch.cuda.get_device_capability(d)[0] not in _SETTLED), None)
    if new is None:
        return None
    return (
        f"Flash attention is not settled on GPUs of compute capability {capability_of(new)}, so it is used only when "
        "it is asked for and a tiny call gives the right numbers."
    )


def _why_no_package() -> str | None:
    """A build for another torch is found and does not import, so it is imported here."""
    if not has_package("flash_attn"):
        return "The package flash-attn is not installed (pip install flash-attn --no-build-isolation)."
    try:
        importlib.import_module("flash_attn")
    except Exception as error:  # whatever a foreign build raises; nothing of ours is imported by it
        return f"The package flash-attn is installed but does not import ({type(error).__name__}): build it again."
    if not flash.is_flash_attn_2_available():
        return "The installed flash-attn is not one that transformers can use: install version 2."
    return None


def _why_not_fetched(name: str) -> str | None:
    """Fetch a kernel of the hub (or take it from the cache) and register it with transformers."""
    load = flash.lazy_import_flash_attention
    try:
        load(name)
    except Exception as error:  # of the network, the hub, the disk or the kernel's own module
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"The attention kernel {name} could not be fetched from the hub ({type(error).__name__}: {first[:200]})."
    return None


def kernels_in_use(model: Any, language_model: nn.Module) -> tuple[str, str | None]:
    """What the layers of the LLM run, and what the vision tower runs where that is another kernel.

    Read from the configuration that each attention module looks its kernel up in.
    """
    inside = {id(module) for module in language_model.modules()}
    llm: dict[str, None] = {}
    elsewhere: dict[str, None] = {}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        kernel = getattr(config, "_attn_implementation", None)
        if kernel is not None and name.rpartition(".")[2] in ("self_attn", "attn", "attention"):
            (llm if id(module) in inside else elsewhere)[str(kernel)] = None
    others = [kernel for kernel in elsewhere if kernel not in llm]
    return " + ".join(llm), " + ".join(others) or None


# -- the tiny call -----------------------------------------------------------------------------------------------------

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
    where = f"on this GPU (compute capability {capability_of(device)})"
    inputs = _inputs(device, dtype)
    expected, load = _by_sdpa(*inputs), flash.lazy_import_flash_attention
    calls = _calls(*inputs)
    outputs = []
    try:  # a kernel is foreign machine code: anything can come out of it, and nothing of ours runs in here
        (whole, varlen, *_), _ = load(name)
        for packed, arguments, options in calls:
            kernel = varlen if packed else whole
            if kernel is not None:
                outputs.append(kernel(*arguments, **options))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # errors of a kernel come late
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")[:160]
        return f"The attention kernel {name} does not run {where}: {type(error).__name__}{f', {said}' if said else ''}."
    for output, right in zip(outputs, expected, strict=False):  # not every kernel takes several sequences
        found = output[0] if isinstance(output, tuple) else output
        fits = isinstance(found, Tensor) and found.shape == right.shape
        if not fits or not (found.float() - right).abs().max() <= _TOLERANCE.get(dtype, 0.03):  # NaN too
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

    sequences = slice(_SPLIT), slice(_SPLIT, None)
    apart = [attend(query[:, part], key[:, part], value[:, part], False) for part in sequences]
    return [attend(query, key, value, True), attend(query[:, -1:], key, value, False), torch.cat(apart, dim=1)[0]]


def _calls(query: Tensor, key: Tensor, value: Tensor) -> list[tuple[bool, tuple[Any, ...], dict[str, bool]]]:
    """The same for a kernel: whether of the function for several sequences at once, arguments, options."""
    ends = torch.tensor([0, _SPLIT, _LENGTH], dtype=torch.int32, device=query.device)
    longest = _LENGTH - _SPLIT
    return [
        (False, (query, key, value), {"causal": True}),
        (False, (query[:, -1:], key, value), {"causal": True}),
        (True, (query[0], key[0], value[0], ends, ends, longest, longest), {"causal": False}),
    ]
