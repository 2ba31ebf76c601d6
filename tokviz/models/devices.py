"""Where a model goes and how precise it is: device, number type, quantisation, whether there is room, what else this
machine offers.
"""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import BadInput
from .catalog import Parameters, weights_gb

Quantization = Literal["4bit", "8bit"]
_BITS: dict[Quantization | None, Literal[16, 8, 4]] = {None: 16, "8bit": 8, "4bit": 4}


def on_zero_gpu() -> bool:
    """Whether this is a ZeroGPU Space, where a GPU is only pretended to be at hand while models are loaded: it has no
    memory to measure or to load into.
    """
    return bool(os.environ.get("SPACES_ZERO_GPU"))


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; see ``load``."""

    device: str | None = None
    dtype: torch.dtype | str | None = None
    attention: str | None = None
    quantization: Quantization | None = None
    device_map: str | None = None
    allow_pickle: bool | None = None


@dataclass(frozen=True)
class DeviceMap:
    """Where the weights go. ``spread``: over all devices that accelerate finds, GPUs first."""

    device: torch.device
    dtype: torch.dtype
    quantization: Quantization | None = None
    spread: bool = False
    notices: tuple[str, ...] = ()

    @property
    def devices(self) -> list[torch.device]:
        """Every device that may hold weights."""
        if self.spread and torch.cuda.is_available():
            return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        return [self.device]

    def needed_gb(self, parameters: Parameters) -> float:
        """GB (10^9 bytes) of the weights as they will lie there."""
        gb = weights_gb(parameters, _BITS[self.quantization])
        return gb * 2 if self.dtype == torch.float32 and self.quantization is None else gb

    def free_gb(self) -> float:
        """GB that are free where the weights go now."""
        return sum(free_gb(device) for device in self.devices)

    def options(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        if self.spread:
            where: dict[str, Any] = {"device_map": "auto"}
        elif self.device.type == "cuda" and has_package("accelerate") and not on_zero_gpu():
            # Straight to where they stay: a copy in the machine's memory first would have to fit there too.
            where = {"device_map": {"": self.device}}
        else:
            where = {}
        if self.quantization is not None:
            from transformers import BitsAndBytesConfig

            four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": self.dtype}
            bits = four if self.quantization == "4bit" else {"load_in_8bit": True}
            where["quantization_config"] = BitsAndBytesConfig(**bits)
        return where


def choose_device_map(options: LoadOptions, parameters: Parameters | None) -> DeviceMap:
    """Check what was asked for and choose the rest.

    Args: parameters: of the checkpoint, None when they are not known before it is loaded.
    Raises BadInput, with the reason, for what cannot be had on this machine.
    """
    quantization = options.quantization
    if quantization not in _BITS:
        raise BadInput(f"Quantization is '8bit', '4bit' or nothing, not {quantization!r}.")
    if options.device_map not in (None, "auto"):
        raise BadInput(f"device_map is 'auto' or nothing, not {options.device_map!r}.")
    chosen = _device(options.device)
    if quantization is not None and (reason := why_not_quantized(chosen)):
        raise BadInput(reason)
    kind, notices = _dtype(options.dtype, chosen, parameters)
    found = DeviceMap(device=chosen, dtype=kind, quantization=quantization, notices=notices)
    if options.device_map == "auto" or (options.device is None and _needs_several(found, parameters)):
        if not has_package("accelerate"):
            raise BadInput("Spreading a model over several devices needs the package accelerate (pip install it).")
        return replace(found, spread=True)
    return found


def check_room(name: str, device_map: DeviceMap, parameters: Parameters | None, freed_gb: float = 0.0) -> None:
    """Raises BadInput when the weights alone cannot fit, even after ``freed_gb`` of a model that will go."""
    on_gpu = device_map.device.type == "cuda"
    # Spread: what the GPUs do not hold goes to the machine's memory.
    if parameters is None or device_map.spread or (on_zero_gpu() and on_gpu):
        return
    needed, free = device_map.needed_gb(parameters), device_map.free_gb() + freed_gb
    if needed <= free:
        return
    fewer_bits = "8-bit or 4-bit weights, or " if on_gpu and not device_map.quantization else ""
    raise BadInput(
        f"{name} needs {needed:.1f} GB for its weights and {'the GPU' if on_gpu else 'this machine'} has {free:.1f} GB "
        f"free: choose {fewer_bits}a smaller model."
    )


def why_not_faster() -> tuple[str | None, str | None]:
    """Why weights of fewer bits, and why kernels other than SDPA, make no sense on this machine; None where they do."""
    if not torch.cuda.is_available():
        return "Fewer bits need an NVIDIA GPU; there is none here.", "Flash attention needs an NVIDIA GPU."
    # Not at the top: it asks transformers, which takes seconds to import and has nothing to say without a GPU.
    from .kernels import why_no_flash, why_no_hub_kernel

    gpu = [torch.device("cuda:0")]
    flash, hub = (why(gpu, torch.bfloat16) for why in (why_no_flash, why_no_hub_kernel))
    return why_not_quantized(gpu[0]), flash if hub is not None else None


def release_memory() -> None:
    """Give what dropped models held back to the GPU: modules and hooks refer to each other, so they are collected."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def why_not_quantized(device: torch.device | None = None) -> str | None:
    """Why 8-bit and 4-bit weights cannot be had here, as a sentence; None when they can."""
    if (device or _device(None)).type != "cuda":
        return "8-bit and 4-bit weights need an NVIDIA GPU; there is none in use here."
    for package in ("bitsandbytes", "accelerate"):
        if not has_package(package):
            return f"8-bit and 4-bit weights need the package {package} (pip install {package})."
    return None


def has_package(name: str) -> bool:
    """Whether a package is installed; it is not imported."""
    return importlib.util.find_spec(name) is not None


def parse_dtype(name: str | None) -> torch.dtype | None:
    """``float32``, ``bfloat16`` or ``float16`` as a dtype; None for None and ``auto``. Raises BadInput."""
    if name in (None, "auto"):
        return None
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in kinds:
        raise BadInput(f"The number type is {', '.join(kinds)} or auto, not {name!r}.")
    return kinds[name]


def free_gb(device: torch.device) -> float:
    """GB (10^9 bytes) that are free on a GPU (what torch keeps for later included), or in this machine's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + kept) / 1e9
    return _free_host_bytes() / 1e9


def _free_host_bytes() -> int:
    """What this process may still take: of the machine, and of the container that it runs in."""
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    limit, used = _lines(group / "memory.max"), _lines(group / "memory.current")
    if limit and used and limit[0].isdigit():
        cache = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith("inactive_file ")]
        free.append(int(limit[0]) - int(used[0]) + sum(cache))
    return max(min(free), 0)


def _lines(path: str | Path) -> Sequence[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _device(device: str | None) -> torch.device:
    if device in (None, "", "auto"):
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(str(device))
    except RuntimeError as error:
        raise BadInput(f"There is no device {device!r}: choose 'cpu', 'cuda' or 'cuda:1'.") from error
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise BadInput("There is no CUDA GPU here: load the model on 'cpu'.")
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise BadInput(f"There is no {device}: this machine has {torch.cuda.device_count()} GPU(s).")
        return torch.device("cuda", chosen.index or 0)
    if chosen.type != "cpu":
        raise BadInput(f"tokviz runs on 'cpu' and 'cuda', not on {chosen.type!r}.")
    return chosen


def _dtype(
    asked: torch.dtype | str | None, device: torch.device, parameters: Parameters | None
) -> tuple[torch.dtype, tuple[str, ...]]:
    """The number type, and what to tell about it."""
    if isinstance(asked, str) or asked is None:
        asked = parse_dtype(asked)
    if asked is not None:
        return asked, ()
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16, ()
    if parameters is not None:
        free = free_gb(device)
        if weights_gb(parameters, 16) <= free < 2 * weights_gb(parameters, 16):
            return torch.bfloat16, ("The weights are loaded in bfloat16: in float32 they do not fit in memory here.",)
    return torch.float32, ()


def _needs_several(device_map: DeviceMap, parameters: Parameters | None) -> bool:
    """Several GPUs are used when one cannot hold the model with a tenth to spare; one alone is faster."""
    if device_map.device.type != "cuda" or torch.cuda.device_count() < 2 or not has_package("accelerate"):
        return False
    return parameters is None or device_map.needed_gb(parameters) > 0.9 * free_gb(device_map.device)
