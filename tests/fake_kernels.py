"""Flash attention for a machine without a GPU: transformers' own glue around functions that are SDPA underneath."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import modeling_flash_attention_utils as flash
from transformers.integrations import hub_kernels
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

HUB_KERNEL = "kernels-community/flash-attn2"
KERNELS = ("eager", "flash_attention_2", HUB_KERNEL)


class Calls:
    """How often each function of the fake kernel ran."""

    def __init__(self) -> None:
        self.whole = self.varlen = 0


def _attend(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> Tensor:
    """Shape: ``(B, L_q, H, d)`` and ``(B, L_k, H_kv, d)`` -> ``(B, L_q, H, d)``; causal from the bottom right."""
    n_q, n_k = query.shape[1], key.shape[1]
    mask = torch.ones(n_q, n_k, dtype=torch.bool).tril(n_k - n_q) if causal else None
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=grouped).transpose(1, 2)


def _functions(calls: Calls) -> tuple[Any, Any]:
    # The names of the parameters are flash-attn's: transformers reads them to know what the kernel can do.
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None,
                        causal: bool = False) -> Tensor:  # fmt: skip
        calls.whole += 1
        return _attend(q, k, v, causal, softmax_scale)

    def flash_attn_varlen_func(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
                               max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = 0.0,
                               softmax_scale: float | None = None, causal: bool = False) -> Tensor:  # fmt: skip
        calls.varlen += 1
        q_sizes, k_sizes = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
        assert max(q_sizes) <= max_seqlen_q and max(k_sizes) <= max_seqlen_k
        parts = zip(q.split(q_sizes), k.split(k_sizes), v.split(k_sizes), strict=True)
        return torch.cat([_attend(a[None], b[None], c[None], causal, softmax_scale)[0] for a, b, c in parts])

    return flash_attn_func, flash_attn_varlen_func


@contextmanager
def fake_kernel(name: str) -> Iterator[Calls]:
    """While the layer runs, flash attention of this name works on the CPU; nothing of it is left afterwards.

    A kernel of the hub goes through the registration of transformers itself; only its download is faked.
    """
    calls = Calls()
    whole, varlen = _functions(calls)
    real_imports = flash._lazy_imports

    def imports(implementation: str | None, *more: Any, **options: Any) -> Any:
        if implementation == "flash_attention_2":
            return whole, varlen, None, flash._pad_input, flash._unpad_input
        return real_imports(implementation, *more, **options)

    module = ModuleType("fake_flash")
    module.__dict__.update(flash_attn_func=whole, flash_attn_varlen_func=varlen)
    with (
        patch.object(flash, "_lazy_imports", imports),
        patch.object(flash, "_loaded_implementation", None),
        patch.object(hub_kernels, "is_kernels_available", lambda: True),
        patch.object(hub_kernels, "get_kernel", lambda *_, **__: module),
        patch.dict(ALL_ATTENTION_FUNCTIONS._global_mapping),
        patch.dict(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping),
    ):
        if "/" in name:
            flash.lazy_import_flash_attention(name)
        yield calls


def use_kernel(model: Any, name: str) -> None:
    """What loading with ``attn_implementation=name`` leaves behind, in every part of the model."""
    model.config._attn_implementation = name
    for part in model.modules():
        config = getattr(part, "config", None)
        if config is not None:
            config._attn_implementation_internal = name


def kernels_of(model: Any) -> SimpleNamespace:
    """The kernel of every part that has a configuration, by its name in the model."""
    return SimpleNamespace(
        **{name or "model": part.config._attn_implementation for name, part in model.named_modules()
           if hasattr(part, "config")}
    )  # fmt: skip
