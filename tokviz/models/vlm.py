"""A loaded model with what tokviz knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..records import ModelRecord
from ..short import short_repr
from .base import ModelFamily
from .catalog import EMBEDDED, size_words
from .devices import Quantization
from .kernels import kernels_in_use
from .out_of_world import WorldStatistics


@dataclass(frozen=True, eq=False)
class VisionLanguageModel:
    """A loaded model with its processor. ``record`` is what sessions store about it; ``notices`` are for the user.

    world: what tells images that are unlike those it was trained on; only of models of a small, closed world.

    Equal to itself only, and hashable: whoever remembers something of a model keeps it in a (weak) table of his own.
    """

    model: Any
    processor: Any
    family: ModelFamily
    record: ModelRecord
    notices: tuple[str, ...] = ()
    world: WorldStatistics | None = None

    def __repr__(self) -> str:
        record = self.record
        facts = {"layers": record.n_layers, "device": record.device, "dtype": record.dtype}
        parameters = size_words(record.parameters)
        return short_repr(self, name=record.name, family=record.family, **facts, parameters=parameters)

    @property
    def device(self) -> torch.device:
        """Where the embeddings lie, or are brought when they are needed."""
        embeddings = self.model.get_input_embeddings()
        device: torch.device = embeddings.weight.device
        if device.type == "meta":  # accelerate keeps them elsewhere
            return torch.device(embeddings._hf_hook.execution_device)
        return device

    @property
    def n_visual(self) -> int:
        """Visual tokens of one square image."""
        return self.family.grid(self.model, self.processor, (1000, 1000), {}).n_tokens

    @property
    def text_config(self) -> Any:
        """Configuration of the language model."""
        return self.model.config.get_text_config()


def loaded_record(model: Any, family: ModelFamily, name: str, quantization: Quantization | None = None) -> ModelRecord:
    """What sessions store about a loaded model."""
    text = model.config.get_text_config()
    attention, tower = kernels_in_use(model, family.language_model(model))
    devices = _devices(model)
    return ModelRecord(
        name=name,
        family=family.id,
        n_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        dtype=str(model.dtype).removeprefix("torch."),
        device=devices[0],
        attention=attention,
        embedded=name in EMBEDDED,
        tower_attention=tower,
        quantization=quantization,
        parameters=model.num_parameters(),
        devices=devices if len(devices) > 1 else [],
    )


def _devices(model: Any) -> list[str]:
    """The devices that hold weights, for people; the one that holds most of the model first."""
    spread = getattr(model, "hf_device_map", None)
    if spread:
        held = [torch.device(f"cuda:{d}" if isinstance(d, int) else d) for d in spread.values() if d != "disk"]
    else:
        held = [parameter.device for parameter in model.parameters()]
    several = len({device for device in held if device.type == "cuda"}) > 1

    def shown(device: torch.device) -> str:
        if device.type != "cuda":
            return device.type
        return torch.cuda.get_device_name(device) + (f" ({device})" if several else "")

    return [shown(device) for device in sorted(set(held), key=lambda device: -held.count(device))]
