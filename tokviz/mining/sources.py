"""A model that other processes load again: the same files, device, data type and kernel, under the same name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import BadInput
from ..models.loading import VisionLanguageModel, load


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, small enough to be sent.

    place: its name or folder; where there is no such folder (on another node), ``name`` is looked for. options: as
    ``tokviz.load`` takes them. may_move: whether it lies on a CPU only because this machine has no GPU.
    """

    name: str
    place: str
    options: dict[str, Any]
    may_move: bool = False

    def load(self, device: str | None = None) -> VisionLanguageModel:
        """Load it. device: another one than the first model's. Raises BadInput as ``tokviz.load`` does."""
        options = self.options if device is None else self.options | {"device": device}
        there = self.place == self.name or Path(self.place).is_dir()
        vlm = load(self.place if there else self.name, **options)
        return replace(vlm, record=vlm.record.model_copy(update={"name": self.name}))


def source_of(vlm: VisionLanguageModel) -> ModelSource:
    """Where other processes find this model.

    Raises:
        BadInput: If it exists in this process only, or is spread over several devices.
    """
    record, place = vlm.record, folder_of(vlm)
    if record.embedded:
        place = record.name
    if not place:
        raise BadInput(
            f"{record.name} exists in this process only, so that no other can load it: save it to a folder "
            "(model.save_pretrained, processor.save_pretrained) and load that, or mine with one worker."
        )
    if record.devices:
        raise BadInput(f"{record.name} is spread over several devices: mine with one worker.")
    options = {"dtype": record.dtype, "attention": record.attention, "quantization": record.quantization}
    may_move = vlm.device.type == "cpu" and not torch.cuda.is_available()
    return ModelSource(record.name, place, {"device": vlm.device.type, **options}, may_move)


def folder_of(vlm: VisionLanguageModel) -> str:
    """The folder that a model was read from; empty where there is none any more."""
    folder = str(getattr(vlm.model.config, "name_or_path", "") or "")
    return str(Path(folder).resolve()) if folder and (Path(folder) / "config.json").is_file() else ""
