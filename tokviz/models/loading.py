"""Load a stock vision-language model, or wrap one, and say what it is: family, device, dtype, attention kernel.

Loading has two steps: ``prepare`` does everything that can fail without touching a weight (the files are there, the
architecture is known, the kernel can be had, there is room), ``Prepared.load`` reads the weights. ``load`` does both.
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
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from ..errors import BadInput, Unsupported, knows_its_keywords
from ..short import kind_of, passed
from . import hub
from .base import ModelFamily
from .catalog import EMBEDDED, EMBEDDED_MODEL, Parameters, embedded_folder, find
from .checkpoint import architecture, check_files, count_parameters, folder_of, may_unpickle
from .devices import DeviceMap, LoadOptions, Quantization, check_room, choose_device_map
from .families import FAMILIES
from .hub import Progress, Report, weights_reported
from .kernels import Kernel, choose_kernel, kernels_in_use
from .load_errors import why_not_loaded
from .out_of_world import statistics_in
from .vlm import VisionLanguageModel, loaded_record

# What transformers and safetensors raise on damaged or odd folders (found by damaging them), and torch without memory.
_BROKEN: tuple[type[Exception], ...] = (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError)
_BROKEN += (AttributeError, MemoryError, SafetensorError, UnpicklingError)
_PARTLY_ON_CPU = "Not everything fits on the GPU: a part of the weights lies in the machine's memory, which is slow."


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be loaded: its files are on the disk and have been looked at."""

    name: str
    folder: Path
    family: ModelFamily
    processor: Any
    kernel: Kernel
    device_map: DeviceMap
    parameters: Parameters | None
    config: Any
    pickled: bool = False

    @property
    def needed_gb(self) -> float:
        """GB of the weights where they will lie; 0 when that is known only afterwards."""
        return 0.0 if self.parameters is None else self.device_map.needed_gb(self.parameters)

    def check_room(self, freed_gb: float = 0.0) -> None:
        """Raises BadInput when the weights do not fit, even after ``freed_gb`` of another model that will go."""
        check_room(self.name, self.device_map, self.parameters, freed_gb)

    def load(self, on_progress: Progress | None = None) -> VisionLanguageModel:
        """Read the weights. Raises BadInput or Unsupported with one sentence; nothing stays in memory then."""
        report = Report(on_progress)
        report("Loading weights", 0.0)
        device_map = self.device_map.options()
        with weights_reported(report):
            try:
                loaded: Any = AutoModelForImageTextToText.from_pretrained(
                    self.folder,
                    config=self.config,
                    dtype=self.device_map.dtype,
                    attn_implementation=self.kernel.name,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                    use_safetensors=not self.pickled,
                    **device_map,
                )
                model, info = loaded
                if not device_map:
                    model = model.to(self.device_map.device)
            except _BROKEN as error:
                report.raise_defect()
                raise why_not_loaded(self.name, error, self.folder) from error
        # transformers fills what a checkpoint lacks with random numbers; such a model would answer, wrongly.
        if info["missing_keys"]:
            n_missing = len(info["missing_keys"])
            raise BadInput(f"{self.name} is incomplete: its checkpoint lacks {n_missing} of the model's weights.")
        notices = (*self.device_map.notices, *filter(None, [self.kernel.notice]))
        quantization = self.device_map.quantization
        return _checked(model.eval(), self.processor, self.family, self.name, quantization, self.folder, notices)


def _checked(
    model: Any,
    processor: Any,
    family: ModelFamily,
    name: str,
    quantization: Quantization | None,
    folder: Path | None,
    notices: tuple[str, ...] = (),
) -> VisionLanguageModel:
    """Raises BadInput or Unsupported for a model and a processor that do not fit together or cannot be served."""
    _check_placeholders(model, processor, family, name)
    family.check(model, processor, name)
    record = loaded_record(model, family, name, quantization)
    if "cpu" in record.devices:
        notices += (_PARTLY_ON_CPU,)
    return VisionLanguageModel(model, processor, family, record, notices, statistics_in(folder))


def _check_placeholders(model: Any, processor: Any, family: ModelFamily, name: str) -> None:
    """Raises BadInput when the processor writes other placeholders than the model fills."""
    filled = family.visual_token_ids(model)
    for media in ("image", "video"):
        written = getattr(processor, f"{media}_token_id", None)
        if written is not None and written not in filled:
            raise BadInput(
                f"The files of {name} do not belong together: its processor writes token {written} for each part of "
                f"{'an image' if media == 'image' else 'a video'}, its config.json names {filled[0]}."
            )


def _check_template(processor: Any, name: str) -> None:
    """Raises BadInput for what would fail at the first question."""
    if not getattr(processor, "chat_template", None):
        raise BadInput(f"{name} has no chat template: add chat_template.jinja to its folder.")


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
        device: by default ``cuda`` where there is one, else ``cpu``.
        dtype: by default float32 on a CPU (bfloat16 where float32 does not fit), bfloat16 (float16 on older cards) on a
            GPU.
        attention: ``auto`` (default: flash attention where it is installed and can run, else SDPA), ``sdpa``,
            ``flash``, ``kernels`` (the hub's flash attention), ``kernels-community/...`` or ``eager``.
        quantization: ``"8bit"`` or ``"4bit"`` weights, by bitsandbytes on an NVIDIA GPU.
        device_map: ``"auto"`` spreads the weights over all GPUs; by default only if one GPU cannot hold them.
        allow_pickle: read a folder whose weights are pickled (``pytorch_model.bin``) instead of safetensors; for files
            whose author you trust. Default: no, unless ``TOKVIZ_ALLOW_PICKLE`` is 1.
        on_progress: called with what is being done, and the share of it that is done or None.

    Raises BadInput or Unsupported with one sentence: unknown name, unreachable hub, damaged folder, other architecture,
    no room, a missing package, a kernel that cannot run here.
    """
    options = LoadOptions(
        device=device,
        dtype=dtype,
        attention=attention,
        quantization=quantization,
        device_map=device_map,
        allow_pickle=allow_pickle,
    )
    prepared = prepare(name_or_path, options, on_progress)
    prepared.check_room()
    return prepared.load(on_progress)


def prepare(
    name_or_path: str | Path, options: LoadOptions | None = None, on_progress: Progress | None = None
) -> Prepared:
    """Everything that can fail before a weight is read; downloads what is not in the cache. Raises as ``load``."""
    options, report = options or LoadOptions(), Report(on_progress)
    source, revision, name = _resolve(name_or_path)
    report("Reading the configuration", None)
    local = isinstance(source, Path)
    config_file = source / "config.json" if isinstance(source, Path) else hub.fetch_config(source, revision)
    family = _family_of(architecture(name, config_file), name)

    entry = find(name)
    parameters = entry.parameters if entry is not None else None
    # What this machine cannot do is said before gigabytes come over the network.
    device_map = choose_device_map(options, parameters)
    folder = source if isinstance(source, Path) else hub.fetch(source, revision, report)
    if local or parameters is None:
        parameters = count_parameters(name, folder)
        device_map = choose_device_map(options, parameters)
    pickled = check_files(name, folder, may_unpickle(options.allow_pickle))
    kernel = choose_kernel(options.attention, device_map.devices, device_map.dtype)
    report("Loading the processor", None)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _BROKEN as error:
        raise why_not_loaded(name, error, folder) from error
    _check_template(processor, name)
    # A config.json can name a kernel, code of its author that transformers would fetch, in place of the one asked for.
    config._attn_implementation = kernel.name
    return Prepared(
        name=name,
        folder=folder,
        family=family,
        processor=processor,
        kernel=kernel,
        device_map=device_map,
        parameters=parameters,
        config=config,
        pickled=pickled,
    )


def _family_of(kind: str, name: str) -> ModelFamily:
    if kind not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise Unsupported(f"{name} is a {kind!r} model; supported architectures are {supported}.")
    return FAMILIES[kind]


@knows_its_keywords
def wrap(model: Any, processor: Any, *, name: str | None = None) -> VisionLanguageModel:
    """Take a transformers model and its processor, already loaded, as they are.

    Nothing is moved, cast or changed: not the mode either, so a model in training mode (dropout would make every answer
    another one) is refused rather than switched.

    Args:
        model: of a supported architecture, the class that ``AutoModelForImageTextToText`` makes of its checkpoints.
        processor: of the same checkpoint, by ``AutoProcessor``.
        name: what tables, pages and sessions call the model; default: the hub id or the folder's name it came from.

    Raises BadInput or Unsupported with one sentence: no such model, an architecture that tokviz does not know, an
    attention kernel that it cannot prune with, a processor of another kind or with other sizes than the model's.
    """
    if isinstance(model, VisionLanguageModel):
        raise BadInput("This model is already wrapped: pass it to tokviz.compare.")
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not isinstance(model, torch.nn.Module) or not isinstance(kind, str):
        raise BadInput(f"tokviz.wrap takes a transformers model and its processor, not {kind_of(model)} as the model.")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise BadInput(f"The name of a model is a text, not {passed(name)}.")
    name = name or _name_of(model)
    family = _family_of(kind, name)
    _check_classes(model, processor, name)
    if model.training:
        raise BadInput(f"{name} is in training mode, where answers differ by chance: call model.eval() first.")
    devices = [parameter.device for parameter in model.parameters()]
    if all(device.type == "meta" for device in devices):
        raise BadInput(f"{name} has no weights: all of them are on the device 'meta'.")
    _check_kernel(model, family, name, [device for device in dict.fromkeys(devices) if device.type != "meta"])
    _check_template(processor, name)
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    n_words, n_rows = len(processor.tokenizer), embeddings.num_embeddings
    if n_words > n_rows:
        raise BadInput(f"{name} knows {n_rows} tokens and its processor writes {n_words}: they do not belong together.")
    bits: dict[str, Quantization] = {"is_loaded_in_4bit": "4bit", "is_loaded_in_8bit": "8bit"}
    quantization = next((said for flag, said in bits.items() if getattr(model, flag, False)), None)
    return _checked(
        model, processor, family, name, quantization, folder_of(str(getattr(model.config, "name_or_path", "")))
    )


def _name_of(model: Any) -> str:
    """The hub id that a model was loaded from, or the name of the folder; else that of its class."""
    source = str(getattr(model.config, "name_or_path", "") or "")
    if _is_hub_id(source) and folder_of(source) is None:
        return source
    return Path(source).name or type(model).__name__


def _check_classes(model: Any, processor: Any, name: str) -> None:
    """Raises BadInput unless model and processor are the stock classes of the model's configuration."""
    config = type(model.config)
    stock: Any = AutoModelForImageTextToText._model_mapping.get(config, None)
    if stock is not None and not isinstance(model, stock):
        raise BadInput(
            f"tokviz.wrap takes the stock {stock.__name__} of {name}, not {kind_of(model)}: load it with "
            "AutoModelForImageTextToText, merge adapters into it, and pass it as it was before torch.compile."
        )
    expected: Any = PROCESSOR_MAPPING.get(config, None)
    if not isinstance(processor, expected if expected is not None else ProcessorMixin):
        wanted = f"a {expected.__name__}" if expected is not None else "its processor"
        raise BadInput(
            f"{name} needs {wanted}, not {kind_of(processor)}: take AutoProcessor.from_pretrained of the same "
            "checkpoint."
        )


def _check_kernel(model: Any, family: ModelFamily, name: str, devices: list[torch.device]) -> None:
    """Raises BadInput for attention kernels that ``load`` would not have used either."""
    for kernel in filter(None, kernels_in_use(model, family.language_model(model))):
        for part in kernel.split(" + "):
            try:
                choose_kernel(part, devices, model.dtype)
            except BadInput as error:
                raise BadInput(
                    f"{name} runs an attention kernel that tokviz cannot prune with. {error} "
                    "model.set_attn_implementation('sdpa') changes it."
                ) from error


def _resolve(name_or_path: object) -> tuple[Path | str, str | None, str]:
    """``(folder or hub id, revision, name to show)``."""
    if not isinstance(name_or_path, str | Path):
        if isinstance(name_or_path, VisionLanguageModel):
            raise BadInput("This model is already loaded: pass it to tokviz.compare.")
        held = " A model that you hold already goes to tokviz.wrap(model, processor)."
        raise BadInput(
            f"tokviz.load takes a name, not {kind_of(name_or_path)}: {EMBEDDED_MODEL!r}, a folder, or a hub id "
            f"'owner/name'.{held if isinstance(name_or_path, torch.nn.Module) else ''}"
        )
    name = str(name_or_path)
    if name in EMBEDDED and isinstance(name_or_path, str):
        if not (embedded_folder(name) / "config.json").is_file():
            raise BadInput(f"The embedded model is missing: {name} is not in the assets folder.")
        return embedded_folder(name), None, name
    path = folder_of(name_or_path)
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


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1
