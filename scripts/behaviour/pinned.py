"""One arithmetic on many machines: settings under which torch computes the same bits, and a probe that shows it.

torch, MKL and oneDNN pick kernels by the processor's instruction set, and kernels round differently. The settings below
ask each of them for its oldest code path and must be there before torch is imported, hence a process of its own. What
remains is in the C library and in numpy, whose exponentials use FMA and AVX2 where there are any: the probe tells.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from .store import digest

SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
}
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "torchvision")
_MARK = "TOKVIZ_BEHAVIOUR_PINNED"


def is_pinned() -> bool:
    """Whether this process was started by ``run_pinned``."""
    return os.environ.get(_MARK) == "yes"


def run_pinned(module: str, arguments: Sequence[str]) -> int:
    """Run ``python -m module arguments`` under the settings; its exit code."""
    environment = {**os.environ, **SETTINGS, _MARK: "yes"}
    return subprocess.run([sys.executable, "-m", module, *arguments], env=environment, check=False).returncode


def pin_torch() -> None:
    """The settings that torch takes from code only: no convolutions and half-precision products chosen by processor."""
    import torch

    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)
    torch.backends.nnpack.set_flags(False)
    torch.use_deterministic_algorithms(True, warn_only=True)


def made_with() -> dict[str, str]:
    """What decides about bits and sentences here: versions, processor family, and the digest of ``probe``."""
    return {**{name: _version(name) for name in PACKAGES}, "machine": platform.machine(), "arithmetic": digest(probe())}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def probe() -> list[str]:
    """Digests of the arithmetic that models are made of, on fixed numbers.

    Machines that agree here give the same floats; elsewhere a difference in floats says nothing about our code.
    """
    import numpy as np
    import torch

    from .store import tensor_digest

    numbers = torch.from_numpy(np.random.default_rng(0).integers(-4000, 4000, (64, 96)).astype(np.float32) / 1000)
    torch.manual_seed(0)
    image = numbers[:48].reshape(1, 3, 16, 96)
    results = [torch.empty(500).normal_()]
    for x in (numbers, numbers.double(), numbers.bfloat16()):
        results += [x @ x.T, x[0] @ x.T, torch.linalg.vector_norm(x, dim=1), x.softmax(-1), x.mean(0), x.cumsum(0)]
        results += [torch.nn.functional.gelu(x), torch.nn.functional.silu(x), x.exp(), x.cos(), x.abs().log1p()]
        results += [torch.nn.functional.layer_norm(x, (96,)), torch.nn.functional.normalize(x, dim=1), x.rsqrt()]
        results += [torch.nn.functional.conv2d(image.to(x.dtype), image[..., :8, :8].to(x.dtype), stride=8)]
        query = x.view(1, 4, 16, 96)
        results += [torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)]
    results += [torch.cdist(numbers, numbers), torch.from_numpy(np.exp(numbers.numpy()).sum(0))]
    for size in ((20, 50), (7, 200)):
        for mode in ("bilinear", "bicubic"):
            results.append(torch.nn.functional.interpolate(image, size, mode=mode, antialias=True))
    return [str(tensor_digest(result)["sha"]) for result in results]
