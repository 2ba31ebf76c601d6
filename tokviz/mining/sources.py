"""A model that other processes load again: the same files, device, data type and kernel, under the same name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..models.loading import VisionLanguageModel, load


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, small enough to be sent. options: as ``tokviz.load`` takes them."""

    name: str
    place: str
    options: dict[str, Any]

    def load(self, device: str | None = None) -> VisionLanguageModel:
        """Load it. device: another one than the first model's. Raises BadInput as ``tokviz.load`` does."""
        options = self.options if device is None else self.options | {"device": device}
        vlm = load(self.place, **options)
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
    return ModelSource(record.name, place, {"device": vlm.device.type, **options})


def folder_of(vlm: VisionLanguageModel) -> str:
    """The folder that a model was read from; empty where there is none any more."""
    folder = str(getattr(vlm.model.config, "name_or_path", "") or "")
    return str(Path(folder).resolve()) if folder and (Path(folder) / "config.json").is_file() else ""
