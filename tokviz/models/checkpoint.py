"""What a folder with a checkpoint holds, and what it plans, told without transformers and without reading a weight."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import BadInput, Unsupported
from ..types import PlanningInfo
from .base import Unplanned
from .catalog import EMBEDDED, Parameters, embedded_folder, find
from .families import FAMILIES


def architecture(name: str, config_file: Path) -> str:
    """The ``model_type`` of a ``config.json``. Raises BadInput for a damaged file.

    transformers is not asked: it would want to run the code of architectures that it does not know.
    """
    kind = _object(config_file).get("model_type")
    if not isinstance(kind, str):
        raise BadInput(f"{_damaged(name)} its config.json cannot be read.")
    return kind


def may_unpickle(asked: bool | None) -> bool:
    """Whether pickled weights may be read: as asked, else as the operator says (``TOKVIZ_ALLOW_PICKLE=1``)."""
    return os.environ.get("TOKVIZ_ALLOW_PICKLE", "").strip() == "1" if asked is None else asked


def check_files(name: str, folder: Path, allow_pickle: bool = False) -> bool:
    """Whether the weights are pickled. Raises BadInput when there are none that may be read, or not all of an index."""
    pickled = not any(folder.glob("*.safetensors*"))
    suffix = ".bin" if pickled else ".safetensors"
    found = sorted(folder.glob(f"*{suffix}*"))
    if pickled and found and not allow_pickle:
        raise BadInput(
            f"The weights of {name!r} are pickled ({found[0].name}), and reading a pickle can run code that somebody "
            "put there: convert them to safetensors. If you trust their author, allow it with allow_pickle=True or "
            "TOKVIZ_ALLOW_PICKLE=1."
        )
    listed: set[str] = set()
    for index in folder.glob(f"*{suffix}.index.json"):
        listed |= _files_of(name, index)
    missing = [file for file in listed if not (folder / file).is_file()]
    if missing:
        raise BadInput(
            f"The model folder {name!r} is incomplete: {len(missing)} of its {len(listed)} files of weights are gone."
        )
    if not listed and not any(folder.glob(f"*{suffix}")):
        raise BadInput(f"The model folder {name!r} is incomplete: it holds no weights (model.safetensors).")
    return pickled


def _files_of(name: str, index: Path) -> set[str]:
    weights = _object(index).get("weight_map")
    if not isinstance(weights, dict) or not all(
        isinstance(file, str) and "\0" not in file for file in weights.values()
    ):
        raise BadInput(f"{_damaged(name)} {index.name} cannot be read.")
    return set(weights.values())


def count_parameters(name: str, folder: Path) -> Parameters | None:
    """Numbers in a folder's safetensors files, read from their headers; None without such files.

    What is a linear layer is told by shape and name: a matrix that is neither an embedding nor the output matrix.
    Raises BadInput for damaged files.
    """
    linear = other = 0
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        for tensor_name, shape in _shapes(name, file).items():
            count = math.prod(shape)
            if len(shape) == 2 and "embed" not in tensor_name and "lm_head" not in tensor_name:
                linear += count
            else:
                other += count
    return Parameters(linear, other) if files else None


def _shapes(name: str, file: Path) -> dict[str, list[int]]:
    """Of every tensor in a safetensors file. Raises BadInput for a damaged one: safetensors itself reads the header."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            return {tensor: tensors.get_slice(tensor).get_shape() for tensor in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{_damaged(name)} its weights cannot be read.") from error


def planning_before_loading(name: str) -> PlanningInfo | None:
    """What is known of a model of the menu or of a checkpoint folder from its configuration, for a square image.

    None when it can be known only by loading: a hub id that is not on the menu, another architecture, a configuration
    that leaves the counts to transformers' defaults, a damaged file (loading will say what is wrong with it).
    """
    folder = folder_of(embedded_folder(name) if name in EMBEDDED else name)
    entry = find(name)
    if folder is None:  # a folder goes before a hub id
        config = None if entry is None else entry.config
        return None if config is None else FAMILIES[config["model_type"]].planned(config)
    written = _object(folder / "config.json")
    kind = written.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        return None
    # Ours, beside what the file says: families whose processor decides how many tokens an image becomes ask for it.
    images = _object(folder / "processor_config.json").get("image_processor")
    config = {**written, "image_processor": images or _object(folder / "preprocessor_config.json")}
    try:
        return FAMILIES[kind].planned(config)
    except (Unplanned, Unsupported):
        return None


def folder_of(name: str | Path) -> Path | None:
    """The folder of this name; None when there is none, or none that can be looked up."""
    if not str(name):
        return None
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, not to be entered, somebody else's home
        return None


def _object(file: Path) -> dict[str, Any]:
    """What a file says, {} where it says nothing that can be used; a model's own is missed by whoever asks it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return {}
    return found if isinstance(found, dict) else {}


def _damaged(name: str) -> str:
    return f"The model folder {name!r} is incomplete or damaged:"
