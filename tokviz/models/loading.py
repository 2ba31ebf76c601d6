"""Load a stock vision-language model and say what it is: family, device, dtype, attention kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ..errors import BadInput, Unsupported
from ..records import ModelRecord
from .base import ModelFamily
from .catalog import find
from .embedded import EMBEDDED_MODEL, embedded_folder
from .families import FAMILIES

# What transformers and safetensors raise on damaged or odd folders (found by damaging them).
_BROKEN = (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, SafetensorError)


@dataclass
class VisionLanguageModel:
    """A loaded model with its processor. ``record`` is what sessions store about it."""

    model: Any
    processor: Any
    family: ModelFamily
    record: ModelRecord
    warm: bool = False

    @property
    def device(self) -> torch.device:
        """Where the embeddings lie."""
        return self.model.get_input_embeddings().weight.device

    @property
    def n_visual(self) -> int:
        """Visual tokens of one square picture."""
        return self.family.grid(self.model, self.processor, (1000, 1000), {}).n_tokens

    @property
    def text_config(self) -> Any:
        """Configuration of the language model."""
        return self.model.config.get_text_config()


def load(
    name_or_path: str | Path = EMBEDDED_MODEL,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
) -> VisionLanguageModel:
    """Load the embedded model, a local folder, or a hub id of a supported architecture.

    Args:
        name_or_path: ``"tokviz-tiny"``, a folder with a stock transformers checkpoint, or ``"owner/name"``.
        device: default ``cuda`` when there is one, else ``cpu``.
        dtype: default float32 on a CPU, bfloat16 (float16 on older cards) on a GPU.
        attention: transformers' ``attn_implementation``; default ``sdpa``. Never eager by tokviz's choice.

    Raises BadInput or Unsupported with one sentence: unknown name, unreachable hub, damaged folder, other architecture.
    """
    source, revision, name = _resolve(str(name_or_path))
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except _BROKEN as error:
        raise BadInput(_why_not(name, source, error)) from error
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise Unsupported(
            f"{name} is a {config.model_type!r} model; supported architectures are {', '.join(sorted(FAMILIES))}."
        )
    chosen_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    chosen_dtype = dtype or _default_dtype(chosen_device)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            revision=revision,
            dtype=chosen_dtype,
            attn_implementation=attention or "sdpa",
            trust_remote_code=False,
            output_loading_info=True,
        )
        processor = AutoProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
    except _BROKEN as error:
        raise BadInput(_why_not(name, source, error)) from error
    model, report = loaded
    # transformers fills what a checkpoint lacks with random numbers; such a model would answer, wrongly.
    if report["missing_keys"]:
        raise BadInput(
            f"{name} is incomplete: its checkpoint lacks {len(report['missing_keys'])} of the model's weights."
        )
    # Refuse what would fail at the first question.
    if not getattr(processor, "chat_template", None):
        raise BadInput(f"{name} has no chat template: add chat_template.jinja to its folder.")
    family.check(model, processor, name)
    model = model.to(chosen_device).eval()
    return VisionLanguageModel(model, processor, family, loaded_record(model, family, name))


def _default_dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _resolve(name_or_path: str) -> tuple[str, str | None, str]:
    """``(source for from_pretrained, revision, name to show)``."""
    if name_or_path == EMBEDDED_MODEL:
        if not (embedded_folder() / "config.json").is_file():
            raise BadInput(f"The embedded model is missing: {EMBEDDED_MODEL} is not in the assets folder.")
        return str(embedded_folder()), None, EMBEDDED_MODEL
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BadInput(f"The folder {path.name!r} holds no model: it has no config.json.")
        return str(path), None, path.resolve().name
    entry = find(name_or_path)
    if entry is not None:
        return entry.id, entry.revision, entry.id
    if name_or_path.count("/") == 1 and not name_or_path.startswith((".", "/", "~")):
        return name_or_path, None, name_or_path
    raise BadInput(
        f"There is no model {name_or_path!r}: give {EMBEDDED_MODEL!r}, a folder with a checkpoint, "
        "or a hub id 'owner/name'."
    )


def _why_not(name: str, source: str, error: Exception) -> str:
    detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if os.path.isdir(source) and not isinstance(error, ImportError):
        return f"The model folder {name!r} is incomplete or damaged: {detail}"
    if not isinstance(error, OSError):  # the files came, and are the trouble (or a package that they need is missing)
        return f"{name} could not be loaded: {detail}"
    return (
        f"{name} could not be loaded: the model hub cannot be reached, the id is wrong, or access is gated. "
        "Use a local folder or the embedded model instead."
    )


def loaded_record(model: Any, family: ModelFamily, name: str) -> ModelRecord:
    """What sessions store about a loaded model."""
    text = model.config.get_text_config()
    parameter = next(model.parameters())
    device = parameter.device
    return ModelRecord(
        name=name,
        family=family.id,
        n_blocks=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        attention=text._attn_implementation,
        embedded=name == EMBEDDED_MODEL,
    )
