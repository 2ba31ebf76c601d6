"""What somebody who loads a model may choose on this machine, and why not the rest."""

from __future__ import annotations

import gc

import torch


def why_not_faster() -> tuple[str | None, str | None]:
    """Why weights of fewer bits, and why kernels other than SDPA, make no sense on this machine; None where they do."""
    if not torch.cuda.is_available():
        return "Fewer bits need an NVIDIA GPU; there is none here.", "Flash attention needs an NVIDIA GPU."
    # Not at the top: both ask transformers, which takes seconds to import and has nothing to say without a GPU.
    from .kernels import why_no_flash, why_no_hub_kernel
    from .placing import why_not_quantized

    gpu = [torch.device("cuda:0")]
    flash, hub = (why(gpu, torch.bfloat16) for why in (why_no_flash, why_no_hub_kernel))
    return why_not_quantized(gpu[0]), flash if hub is not None else None


def release_memory() -> None:
    """Give what dropped models held back to the GPU: modules and hooks refer to each other, so they are collected."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
