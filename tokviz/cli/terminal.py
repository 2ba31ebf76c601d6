"""What the commands share: options that load a model, the console, files that are checked before the work."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import BadInput
from ..files import writing
from ..short import passed
from ..viz.saving import figure_format

_PIPE_WIDTH = 160
"""Columns of a table that goes to a file or another program."""
_LOADING = ("device", "device_map", "dtype", "attention", "quantization")


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Declare where a model goes, how precise it is, which kernel it runs; without them ``tokviz.load`` chooses."""
    add = parser.add_argument
    add("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    spread = "auto: spread the weights over all GPUs (default: only if they do not fit on one)"
    add("--device-map", choices=("auto",), help=spread)
    kinds = ("auto", "float32", "bfloat16", "float16")
    numbers = "data type of the weights (default: float32 on a CPU, 16-bit on a GPU)"
    add("--dtype", default="auto", choices=kinds, help=numbers)
    kernels = (
        "auto, sdpa, flash, kernels (flash attention from the Hub) or eager (default: flash if installed, else sdpa)"
    )
    add("--attention", default="auto", metavar="KERNEL", help=kernels)
    add("--quantization", choices=("8bit", "4bit"), help="quantize the weights with bitsandbytes, on an NVIDIA GPU")


def loading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of ``tokviz.load``."""
    return {name: getattr(arguments, name) for name in _LOADING}


def one_file(arguments: argparse.Namespace) -> str:
    """The image or video, given in one of two ways. Raises BadInput."""
    named: list[str] = [name for name in (arguments.file, arguments.image) if name is not None]
    if getattr(arguments, "example", None) is not None:
        named.append(_example_file(arguments.example))
    if len(named) != 1:
        raise BadInput('Name one image or video, e.g. compare scene.png --question "what color is the star?".')
    return named[0]


def _example_file(name: str) -> str:
    """The image or clip of a stored example. Raises BadInput."""
    from ..runs.examples import load_examples

    found = {example.id: example.clip or example.image for example in load_examples()}
    if found.get(name) is None:
        raise BadInput(f"There is no example {passed(name)}; there are {', '.join(found)}.")
    return str(found[name])


def checked_outputs(arguments: argparse.Namespace) -> str:
    """The image or video, once it is sure that the files can be written. Raises BadInput."""
    outputs = [Path(name) for name in (arguments.json, arguments.figure) if name]
    if arguments.figure:
        figure_format(arguments.figure)
    source = one_file(arguments)
    for path in outputs:
        check_writable(path, source)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise BadInput("--json and --figure name the same file; give them different names.")
    return source


def out() -> Console:
    """Standard output; wide when no terminal shows it."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def quiet_unless(terminal: bool) -> None:
    """Keep the loader's progress bars out of logs. Works because transformers is imported only after this."""
    if not terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def check_writable(path: Path, image: str | None = None) -> None:
    """Raise BadInput when a file cannot be written at ``path``, or would overwrite the image. Leaves no file."""
    if image is not None and path.exists() and Path(image).exists() and path.samefile(image):
        raise BadInput(f"{path.name!r} is the image itself; give the output another name.")
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder; give a file name.")
    with writing(path):
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
