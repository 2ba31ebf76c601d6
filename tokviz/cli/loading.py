"""Options of commands that load a model: where it goes, how precise it is, which attention kernel it runs."""

from __future__ import annotations

import argparse
from typing import Any


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options; without them ``tokviz.load`` chooses."""
    add = parser.add_argument
    add("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    add("--device-map", choices=("auto",), help="auto: spread the weights over all GPUs (default: when one cannot hold "
        "them)")  # fmt: skip
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="number type of the "
        "weights (default: float32 on a CPU, 16 bits on a GPU)")  # fmt: skip
    add("--attention", default="auto", metavar="KERNEL", help="auto, sdpa, flash, kernels (the hub's flash attention) "
        "or eager (default: flash where it is installed, else sdpa)")  # fmt: skip
    add("--quantization", choices=("8bit", "4bit"), help="weights of fewer bits, by bitsandbytes on an NVIDIA GPU")


def loading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of ``tokviz.load``."""
    names = ("device", "device_map", "dtype", "attention", "quantization")
    return {name: getattr(arguments, name) for name in names}
