"""What a folder with a checkpoint holds, told without transformers and without reading a weight."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ..errors import BadInput
from .memory import Parameters


def architecture(name: str, config_file: Path) -> str:
    """The ``model_type`` of a ``config.json``. Raises BadInput for a damaged file.

    transformers is not asked: it would want to run the code of architectures that it does not know.
    """
    try:
        return str(json.loads(config_file.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{_damaged(name)} its config.json cannot be read.") from error


def check_files(name: str, folder: Path) -> None:
    """Raises BadInput when there are no weights, or not all that the index lists."""
    listed: set[str] = set()
    for index in folder.glob("*.index.json"):
        try:
            listed |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{_damaged(name)} {index.name} cannot be read.") from error
    missing = [file for file in listed if not (folder / file).is_file()]
    if missing:
        raise BadInput(
            f"The model folder {name!r} is incomplete: {len(missing)} of its {len(listed)} files of weights are gone."
        )
    if not listed and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise BadInput(f"The model folder {name!r} is incomplete: it holds no weights (model.safetensors).")


def count_parameters(name: str, folder: Path) -> Parameters | None:
    """Numbers in a folder's safetensors files, read from their headers; None without such files.

    What is a linear layer is told by shape and name: a matrix that is neither an embedding nor the output matrix.
    Raises BadInput for damaged files.
    """
    linear = other = 0
    files = sorted(folder.glob("*.safetensors"))
    try:
        for file in files:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            header.pop("__metadata__", None)
            for tensor_name, tensor in header.items():
                count = math.prod(tensor["shape"])
                if len(tensor["shape"]) == 2 and "embed" not in tensor_name and "lm_head" not in tensor_name:
                    linear += count
                else:
                    other += count
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise BadInput(f"{_damaged(name)} its weights cannot be read.") from error
    return Parameters(linear, other) if files else None


def _damaged(name: str) -> str:
    return f"The model folder {name!r} is incomplete or damaged:"
