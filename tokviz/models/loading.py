"""Load a stock vision-language model and say what it is: family, device, dtype, attention kernel.

In two steps: ``prepare`` does everything that can fail without touching a weight (the files are there, the architecture
is known, the kernel can be had, there is room), ``Prepared.load`` reads the weights. ``load`` does both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ..errors import BadInput, knows_its_keywords
from ..records import ModelRecord
from ..short import kind_of, passed, short_repr
from . import hub
from .base import ModelFamily
from .catalog import find
from .checkpoint import architecture, check_files, count_parameters, may_unpickle
from .embedded import EMBEDDED, EMBEDDED_MODEL, embedded_folder
from .failures import unsupported, why_not_loaded
from .families import FAMILIES
from .kernels import Kernel, choose_kernel, kernels_in_use
from .memory import Parameters
from .placing import Placement, Quantization, check_room, place
from .progress import Progress, unheard, weights_reported

# What transformers and safetensors raise on damaged or odd folders (found by damaging them), and torch without memory.
_BROKEN = (
    OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError, MemoryError, SafetensorError,
    UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; see ``load``."""

    device: str | None = None
    dtype: torch.dtype | str | None = None
    attention: str | None = None
    quantization: Quantization | None = None
    device_map: str | None = None
    allow_pickle: bool | None = None


@dataclass
class VisionLanguageModel:
    """A loaded model with its processor. ``record`` is what sessions store about it; ``notices`` are for the user."""

    model: Any
    processor: Any
    family: ModelFamily
    record: ModelRecord
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        record = self.record
        return short_repr(self, name=record.name, family=record.family, dtype=record.dtype, device=record.device,
                          attention=record.attention)  # fmt: skip

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
        """Visual tokens of one square picture."""
        return self.family.grid(self.model, self.processor, (1000, 1000), {}).n_tokens

    @property
    def text_config(self) -> Any:
        """Configuration of the language model."""
        return self.model.config.get_text_config()


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be loaded: its files are on the disk and have been looked at."""

    name: str
    folder: Path
    family: ModelFamily
    processor: Any
    kernel: Kernel
    placement: Placement
    parameters: Parameters | None
    config: Any
    pickled: bool = False

    @property
    def needed_gb(self) -> float:
        """GB of the weights where they will lie; 0 when that is known only afterwards."""
        return 0.0 if self.parameters is None else self.placement.needed_gb(self.parameters)

    def check_room(self, freed_gb: float = 0.0) -> None:
        """Raises BadInput when the weights do not fit, even after ``freed_gb`` of another model that will go."""
        check_room(self.name, self.placement, self.parameters, freed_gb)

    def load(self, on_progress: Progress | None = None) -> VisionLanguageModel:
        """Read the weights. Raises BadInput or Unsupported with one sentence; nothing stays in memory then."""
        report = on_progress or unheard
        report("Loading weights", 0.0)
        try:
            with weights_reported(report):
                model, missing = self._read()
        except _BROKEN as error:
            raise why_not_loaded(self.name, error, self.folder) from error
        # transformers fills what a checkpoint lacks with random numbers; such a model would answer, wrongly.
        if missing:
            raise BadInput(f"{self.name} is incomplete: its checkpoint lacks {missing} of the model's weights.")
        self._check_placeholders(model)
        self.family.check(model, self.processor, self.name)
        record = loaded_record(model, self.family, self.name, self.placement.quantization)
        notices = (*self.placement.notices, *filter(None, [self.kernel.notice]), *_asides(record))
        return VisionLanguageModel(model, self.processor, self.family, record, notices=notices)

    def _check_placeholders(self, model: Any) -> None:
        """Raises BadInput when the processor writes other placeholders than the model fills."""
        filled = self.family.visual_token_ids(model)
        for media in ("image", "video"):
            written = getattr(self.processor, f"{media}_token_id", None)
            if written is not None and written not in filled:
                raise BadInput(
                    f"The files of {self.name} do not belong together: its processor writes token {written} for each "
                    f"part of {'an image' if media == 'image' else 'a video'}, its config.json names {filled[0]}."
                )

    def _read(self) -> tuple[Any, int]:
        """The model where it belongs, and how many weights its checkpoint lacks."""
        placed = self.placement.options()
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            self.folder,
            config=self.config,
            dtype=self.placement.dtype,
            attn_implementation=self.kernel.name,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            use_safetensors=not self.pickled,
            **placed,
        )
        model, report = loaded
        if not placed:
            model = model.to(self.placement.device)
        return model.eval(), len(report["missing_keys"])


@knows_its_keywords
def load(
    name_or_path: str | Path = EMBEDDED_MODEL,
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    attention: str | None = None,
    quantization: Quantization | None = None,
    device_map: str | None = None,
    allow_pickle: bool | None = None,
    on_progress: Progress | None = None,
) -> VisionLanguageModel:
    """Load the embedded model, a local folder, or a hub id of a supported architecture.

    Args:
        name_or_path: ``"tokviz-tiny"``, a folder with a stock transformers checkpoint, or ``"owner/name"``.
        device: default ``cuda`` when there is one, else ``cpu``.
        dtype: default float32 on a CPU (bfloat16 where float32 does not fit), bfloat16 (float16 on older cards) on a
            GPU.
        attention: ``auto`` (default: flash attention where it is installed and can run, else SDPA), ``sdpa``,
            ``flash``, ``kernels`` (the hub's flash attention), ``kernels-community/...`` or ``eager``.
        quantization: ``"8bit"`` or ``"4bit"`` weights, by bitsandbytes on an NVIDIA GPU.
        device_map: ``"auto"`` spreads the weights over all GPUs; default: when one GPU cannot hold them.
        allow_pickle: read a folder whose weights are pickled (``pytorch_model.bin``) instead of safetensors; for files
            whose author you trust. Default: no, unless ``TOKVIZ_ALLOW_PICKLE`` is 1.
        on_progress: called with what is being done, and the share of it that is done or None.

    Raises BadInput or Unsupported with one sentence: unknown name, unreachable hub, damaged folder, other architecture,
    no room, a missing package, a kernel that cannot run here.
    """
    options = LoadOptions(device, dtype, attention, quantization, device_map, allow_pickle)
    prepared = prepare(name_or_path, options, on_progress)
    prepared.check_room()
    return prepared.load(on_progress)


def prepare(
    name_or_path: str | Path, options: LoadOptions | None = None, on_progress: Progress | None = None
) -> Prepared:
    """Everything that can fail before a weight is read; downloads what is not in the cache. Raises as ``load``."""
    options, report = options or LoadOptions(), on_progress or unheard
    source, revision, name = _resolve(name_or_path)
    report("Reading the configuration", None)
    local = isinstance(source, Path)
    config_file = source / "config.json" if isinstance(source, Path) else hub.fetch_config(source, revision)
    kind = architecture(name, config_file)
    if kind not in FAMILIES:
        raise unsupported(name, kind, list(FAMILIES))
    entry = find(name)
    parameters = entry.parameters if entry is not None else None
    # What this machine cannot do is said before gigabytes come over the network.
    placement = place(options.device, options.dtype, options.quantization, options.device_map, parameters)
    folder = source if isinstance(source, Path) else hub.fetch(source, revision, report)
    if local or parameters is None:
        parameters = count_parameters(name, folder)
        placement = place(options.device, options.dtype, options.quantization, options.device_map, parameters)
    pickled = check_files(name, folder, may_unpickle(options.allow_pickle))
    kernel = choose_kernel(options.attention, placement.devices, placement.dtype)
    report("Loading the processor", None)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _BROKEN as error:
        raise why_not_loaded(name, error, folder) from error
    # Refuse what would fail at the first question.
    if not getattr(processor, "chat_template", None):
        raise BadInput(f"{name} has no chat template: add chat_template.jinja to its folder.")
    # A config.json can name a kernel, code of its author that transformers would fetch, in place of the one asked for.
    config._attn_implementation = kernel.name
    return Prepared(name, folder, FAMILIES[kind], processor, kernel, placement, parameters, config, pickled)


def _resolve(name_or_path: object) -> tuple[Path | str, str | None, str]:
    """``(folder or hub id, revision, name to show)``."""
    if not isinstance(name_or_path, str | Path):
        raise BadInput(_no_name(name_or_path))
    name = str(name_or_path)
    if name in EMBEDDED and isinstance(name_or_path, str):
        if not (embedded_folder(name) / "config.json").is_file():
            raise BadInput(f"The embedded model is missing: {name} is not in the assets folder.")
        return embedded_folder(name), None, name
    path = _folder(name_or_path)
    if path is not None:
        if not (path / "config.json").is_file():
            raise BadInput(f"The folder {passed(path.resolve().name)} holds no model: it has no config.json.")
        return path, None, path.resolve().name
    entry = find(name)
    if entry is not None:
        return entry.id, entry.revision, entry.id
    if isinstance(name_or_path, str) and _is_hub_id(name):
        return name, None, name
    raise BadInput(
        f"There is no model {passed(name)}: give {EMBEDDED_MODEL!r}, a folder with a checkpoint, or a hub id "
        "'owner/name'."
    )


def _no_name(given: object) -> str:
    """What to pass instead of a model object or anything else that is no name."""
    said = f"tokviz.load takes a name, not {kind_of(given)}: {EMBEDDED_MODEL!r}, a folder, or a hub id 'owner/name'."
    if isinstance(given, VisionLanguageModel):
        return "This model is already loaded: pass it to tokviz.compare."
    if isinstance(given, torch.nn.Module):
        return f"{said} Write your model and its processor to one folder with save_pretrained, and load that folder."
    return said


def _folder(name: str | Path) -> Path | None:
    """The folder of this name; None when there is none, or none that can be looked up."""
    if not str(name):
        return None
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, not to be entered, somebody else's home
        return None


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def loaded_record(model: Any, family: ModelFamily, name: str, quantization: Quantization | None = None) -> ModelRecord:
    """What sessions store about a loaded model."""
    text = model.config.get_text_config()
    attention, tower = kernels_in_use(model, family.language_model(model))
    devices = _devices(model)
    return ModelRecord(
        name=name,
        family=family.id,
        n_blocks=text.num_hidden_layers,
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


def _asides(record: ModelRecord) -> list[str]:
    """What the user should know about how the model came out."""
    if "cpu" in record.devices:
        return ["Not everything fits on the GPU: a part of the weights lies in the machine's memory, which is slow."]
    return []
