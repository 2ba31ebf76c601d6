"""What a model is loaded with: kernel, number type, bits and place, chosen or refused by name; what goes wrong."""

import errno
import json
import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers.utils import logging as transformers_logging

import tokviz
from tokviz.errors import BadInput, Unsupported
from tokviz.models import checkpoint, devices, kernels, load_errors, loading
from tokviz.models.catalog import Parameters, embedded_folder
from tokviz.models.devices import LoadOptions
from tokviz.records import ModelRecord

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
SEVEN = Parameters(6_800_000_000, 260_000_000)


@pytest.fixture
def gpus(monkeypatch):
    """A machine with GPUs of so many free GB and this compute capability."""

    def machine(*free, capability=(8, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free[device.index] * 1e9), 0))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)

    return machine


@pytest.fixture
def packages(monkeypatch):
    """Only these of the optional packages are installed; flash_attn may be one that does not import."""

    def installed(*names, flash_imports=True, hub="fetched", probe=None):
        monkeypatch.setattr(kernels, "has_package", lambda name: name in names)
        monkeypatch.setattr(devices, "has_package", lambda name: name in names)
        monkeypatch.setattr(kernels, "is_kernels_available", lambda: "kernels" in names)
        monkeypatch.setattr(kernels.flash, "is_flash_attn_2_available", lambda: "flash_attn" in names)
        module = ModuleType("flash_attn") if flash_imports else None  # None: importing it raises ImportError
        monkeypatch.setitem(sys.modules, "flash_attn", module)

        def fetch(name):
            if hub != "fetched":
                raise ValueError(hub)

        monkeypatch.setattr(kernels.flash, "lazy_import_flash_attention", fetch)
        monkeypatch.setattr(kernels, "why_not_right", lambda name, devices, dtype: probe)

    return installed


# -- kernels -----------------------------------------------------------------------------------------------------------


def test_sdpa_where_nothing_else_is_installed(packages, monkeypatch):
    monkeypatch.delenv("TOKVIZ_KERNEL", raising=False)
    packages()
    for asked in (None, "auto"):
        assert kernels.choose_kernel(asked, [GPU], torch.bfloat16) == kernels.Kernel("sdpa")


def test_flash_attention_where_it_is_installed_and_can_run(packages, gpus, monkeypatch):
    monkeypatch.delenv("TOKVIZ_KERNEL", raising=False)
    gpus(80)
    packages("flash_attn")
    assert kernels.choose_kernel(None, [GPU], torch.bfloat16) == kernels.Kernel("flash_attention_2")
    assert kernels.choose_kernel("sdpa", [GPU], torch.bfloat16).name == "sdpa"
    assert kernels.choose_kernel("eager", [GPU], torch.bfloat16).name == "eager"


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "imports", "reason"),
    [
        (CPU, torch.bfloat16, (8, 0), True, "needs an NVIDIA GPU; the model lies on cpu"),
        (GPU, torch.float32, (8, 0), True, "bfloat16 or float16; the model is loaded in float32"),
        (GPU, torch.float16, (7, 5), True, "8.0 (Ampere) or newer; this one has 7.5"),
        (GPU, torch.bfloat16, (9, 0), False, "installed but does not import"),
    ],
)
def test_flash_attention_that_cannot_run_is_told_of_or_refused(
    packages, gpus, device, dtype, capability, imports, reason, monkeypatch
):
    monkeypatch.delenv("TOKVIZ_KERNEL", raising=False)
    gpus(80, capability=capability)
    packages("flash_attn", flash_imports=imports)
    found = kernels.choose_kernel(None, [device], dtype)
    assert found.name == "sdpa" and reason in found.notice and "SDPA is used instead" in found.notice
    with pytest.raises(BadInput) as refused:
        kernels.choose_kernel("flash", [device], dtype)
    assert reason in str(refused.value)


def test_the_hubs_kernel_only_when_asked_for(packages, gpus, monkeypatch):
    monkeypatch.delenv("TOKVIZ_KERNEL", raising=False)
    gpus(80)
    packages("kernels")
    assert kernels.choose_kernel(None, [GPU], torch.bfloat16).name == "sdpa"
    assert kernels.choose_kernel("kernels", [GPU], torch.bfloat16).name == kernels.HUB_KERNEL
    assert kernels.choose_kernel("kernels-community/other", [GPU], torch.bfloat16).name == "kernels-community/other"
    monkeypatch.setenv("TOKVIZ_KERNEL", "kernels")
    assert kernels.choose_kernel(None, [GPU], torch.bfloat16) == kernels.Kernel(kernels.HUB_KERNEL)
    packages("kernels", hub="no way to the hub")
    fallen = kernels.choose_kernel(None, [GPU], torch.bfloat16)
    assert fallen.name == "sdpa" and "no way to the hub" in fallen.notice
    with pytest.raises(BadInput, match="could not be fetched"):
        kernels.choose_kernel("kernels", [GPU], torch.bfloat16)
    packages()
    with pytest.raises(BadInput, match="package kernels is missing"):
        kernels.choose_kernel("kernels", [GPU], torch.bfloat16)


def test_flash_attention_is_chosen_only_where_it_is_settled_and_was_right(packages, gpus, monkeypatch):
    monkeypatch.delenv("TOKVIZ_KERNEL", raising=False)
    for capability in ((8, 0), (8, 9), (9, 0)):
        gpus(80, capability=capability)
        packages("flash_attn")
        assert kernels.choose_kernel(None, [GPU], torch.bfloat16).name == "flash_attention_2"
        packages("flash_attn", probe="It gives wrong numbers on this GPU.")
        found = kernels.choose_kernel(None, [GPU], torch.bfloat16)
        assert found == kernels.Kernel("sdpa", "It gives wrong numbers on this GPU. SDPA is used instead.")


@pytest.mark.parametrize("capability", [(10, 0), (12, 0), (12, 1)])
def test_on_newer_gpus_flash_attention_has_to_be_asked_for_and_to_be_right(packages, gpus, monkeypatch, capability):
    monkeypatch.delenv("TOKVIZ_KERNEL", raising=False)
    gpus(80, capability=capability)
    named = f"compute capability {capability[0]}.{capability[1]}"
    packages("flash_attn", "kernels")
    found = kernels.choose_kernel(None, [GPU], torch.bfloat16)
    assert found.name == "sdpa" and named in found.notice
    assert named in kernels.why_no_hub_kernel([GPU], torch.bfloat16)
    assert kernels.why_no_flash([GPU], torch.bfloat16) is None
    assert kernels.choose_kernel("flash", [GPU], torch.bfloat16).name == "flash_attention_2"
    assert kernels.choose_kernel("kernels", [GPU], torch.bfloat16).name == kernels.HUB_KERNEL
    packages("flash_attn", "kernels", probe="It does not run.")
    assert kernels.why_no_flash([GPU], torch.bfloat16) == "It does not run."
    for asked in ("flash", "kernels"):
        with pytest.raises(BadInput, match="It does not run"):
            kernels.choose_kernel(asked, [GPU], torch.bfloat16)
    monkeypatch.setenv("TOKVIZ_KERNEL", "kernels")
    assert kernels.choose_kernel(None, [GPU], torch.bfloat16).name == "sdpa"


def test_without_an_attached_gpu_flash_attention_is_not_tried(packages, gpus, monkeypatch):
    monkeypatch.delenv("TOKVIZ_KERNEL", raising=False)
    gpus(80)
    packages("flash_attn", "kernels")
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr(kernels, "why_not_right", lambda *_: pytest.fail("a kernel was called"))
    found = kernels.choose_kernel(None, [GPU], torch.bfloat16)
    assert found.name == "sdpa" and "ZeroGPU" in found.notice
    with pytest.raises(BadInput, match="ZeroGPU"):
        kernels.choose_kernel("kernels", [GPU], torch.bfloat16)


def test_machine_code_of_strangers_and_unknown_names_are_refused():
    with pytest.raises(BadInput, match="kernels-community only, not from 'stranger/kernel'"):
        kernels.choose_kernel("stranger/kernel", [GPU], torch.bfloat16)
    with pytest.raises(BadInput, match="no attention kernel 'warp'"):
        kernels.choose_kernel("warp", [CPU], torch.float32)


def test_eager_is_used_when_asked_for_and_recorded(monkeypatch):
    eager = tokviz.load(attention="eager")
    assert eager.record.attention == "eager" and eager.record.tower_attention is None
    towers = eager.model.model.vision_tower
    for part in towers.modules():
        if hasattr(part, "config"):
            part.config._attn_implementation_internal = "sdpa"
    record = loading.loaded_record(eager.model, eager.family, "x")
    assert (record.attention, record.tower_attention) == ("eager", "sdpa")


# -- place, number type, bits ------------------------------------------------------------------------------------------


def test_number_types_follow_device_and_room(gpus, monkeypatch):
    gpus()
    monkeypatch.setattr(devices, "_free_host_bytes", lambda: int(40e9))
    assert devices.choose_device_map(LoadOptions(), SEVEN).dtype == torch.float32
    monkeypatch.setattr(devices, "_free_host_bytes", lambda: int(20e9))
    narrow = devices.choose_device_map(LoadOptions(device="cpu"), SEVEN)
    assert narrow.dtype == torch.bfloat16 and "float32 they do not fit" in narrow.notices[0]
    assert devices.choose_device_map(LoadOptions(device="cpu", dtype="float16"), SEVEN).dtype == torch.float16
    gpus(24)
    assert devices.choose_device_map(LoadOptions(), SEVEN).dtype == torch.bfloat16
    gpus(24, capability=(7, 5))
    assert devices.choose_device_map(LoadOptions(), SEVEN).dtype == torch.float16


def test_several_gpus_are_used_when_one_is_too_small_or_when_asked(gpus, packages):
    packages("accelerate")
    gpus(24, 24)
    assert not devices.choose_device_map(LoadOptions(), SEVEN).spread
    assert devices.choose_device_map(LoadOptions(device_map="auto"), SEVEN).options() == {"device_map": "auto"}
    assert devices.choose_device_map(LoadOptions(), SEVEN).options() == {"device_map": {"": GPU}}
    gpus(12, 12)
    assert devices.choose_device_map(LoadOptions(), SEVEN).spread
    assert not devices.choose_device_map(LoadOptions(device="cuda:1"), SEVEN).spread
    packages()
    assert devices.choose_device_map(LoadOptions(device="cuda:1"), SEVEN).options() == {}
    with pytest.raises(BadInput, match="needs the package accelerate"):
        devices.choose_device_map(LoadOptions(device_map="auto"), SEVEN)


def test_bits_need_a_gpu_and_packages(gpus, packages):
    gpus()
    with pytest.raises(BadInput, match="need an NVIDIA GPU"):
        devices.choose_device_map(LoadOptions(quantization="4bit"), SEVEN)
    gpus(24)
    for installed, missing in (((), "bitsandbytes"), (("bitsandbytes",), "accelerate")):
        packages(*installed)
        with pytest.raises(BadInput, match=f"need the package {missing}"):
            devices.choose_device_map(LoadOptions(quantization="8bit"), SEVEN)
    packages("bitsandbytes", "accelerate")
    four = devices.choose_device_map(LoadOptions(quantization="4bit"), SEVEN)
    assert four.needed_gb(SEVEN) == pytest.approx(6.8 * 0.5625 + 0.52)
    with pytest.raises(BadInput, match="'8bit', '4bit' or nothing"):
        devices.choose_device_map(LoadOptions(quantization="3bit"), SEVEN)


def test_what_does_not_fit_is_refused_before_it_is_loaded(gpus, packages):
    packages("accelerate")
    gpus(10)
    found = devices.choose_device_map(LoadOptions(), SEVEN)
    with pytest.raises(BadInput, match=r"needs 14.1 GB for its weights and the GPU has 10.0 GB free: choose 8-bit"):
        devices.check_room("LLaVA", found, SEVEN)
    devices.check_room("LLaVA", found, SEVEN, freed_gb=5)
    devices.check_room("LLaVA", found, None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "cuda"}, "no CUDA GPU"),
        ({"device": "mps"}, "not on 'mps'"),
        ({"dtype": "int4"}, "number type"),
        ({"device_map": "balanced"}, "device_map"),
        ({"quantization": "8bit"}, "NVIDIA GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU cannot do")
def test_loading_refuses_what_this_machine_cannot_do(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        tokviz.load(**options)


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_the_record_says_how_it_was_loaded_and_older_records_open(vlm):
    assert vlm.record.parameters == sum(p.numel() for p in vlm.model.parameters())
    assert vlm.record.quantization is None and vlm.record.devices == [] and vlm.notices == ()
    old = {k: v for k, v in vlm.record.model_dump().items()
           if k not in ("tower_attention", "quantization", "parameters", "devices")}  # fmt: skip
    assert ModelRecord(**old).parameters == 0


def test_progress_is_told_and_transformers_hook_is_put_back():
    told, other = [], []

    def theirs(factory, args, kwargs):
        other.append(kwargs.get("desc"))
        return factory(*args, **kwargs)

    before = transformers_logging.set_tqdm_hook(theirs)
    try:
        tokviz.load(on_progress=lambda words, share: told.append((words, share)))
        assert transformers_logging.set_tqdm_hook(theirs) is theirs
    finally:
        transformers_logging.set_tqdm_hook(before)
    assert "Loading weights" in other and told[0] == ("Reading the configuration", None)
    assert told[-1] == ("Loading weights", 1.0) and ("Loading the processor", None) in told


def test_a_defect_in_what_hears_of_progress_is_not_blamed_on_the_files():
    def hears(words, share):
        if words == "Loading weights" and share:
            raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        tokviz.load(on_progress=hears)


def test_a_folders_parameters_are_counted_from_headers(vlm, tmp_path):
    counted = checkpoint.count_parameters("it", embedded_folder())
    assert counted.total == vlm.record.parameters
    linear = sum(m.weight.numel() for m in vlm.model.modules() if isinstance(m, torch.nn.Linear))
    assert counted.linear == linear - vlm.model.lm_head.weight.numel()
    assert checkpoint.count_parameters("it", tmp_path) is None


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "index.json cannot be read"),
        (lambda f: (f / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x", "b": "y"}})),
         "2 of its 2 files of weights are gone"),
        (lambda f: (f / "config.json").write_text('{"model_type": "fuyu", "auto_map": {"AutoConfig": "evil.X"}}'),
         "'fuyu' model; supported architectures are .*llava"),
        (lambda f: (f / "processor_config.json").write_text("{"), "damaged"),
    ],
)  # fmt: skip
def test_folders_that_are_not_whole_are_refused_without_paths(tmp_path, damage, sentence):
    folder = tmp_path / "copy"
    shutil.copytree(embedded_folder(), folder)
    damage(folder)
    with pytest.raises(BadInput, match=sentence) as refused:
        tokviz.load(folder)
    assert str(tmp_path) not in str(refused.value) and "\n" not in str(refused.value)


TROUBLES = {
    "no memory on the GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "GPU ran out"),
    "no memory": (MemoryError(), "This machine ran out of memory"),
    "no memory in torch": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        "machine ran out",
    ),
    "no memory to map": (OSError(errno.ENOMEM, "Cannot allocate memory"), "This machine ran out of memory"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
    "a package": (ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece"), "pip install sentence"),
    "a kernel": (
        ValueError("X does not support Flash Attention 2 yet."),
        "cannot be loaded with this attention kernel",
    ),
    "damage": (ValueError("bad header in /home/me/secret/model.safetensors"), "damaged: bad header in model.safetens"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_each_trouble_while_loading_has_its_own_sentence(trouble, monkeypatch):
    error, sentence = TROUBLES[trouble]

    def fails(*arguments, **options):
        try:
            raise error
        except Exception as cause:
            if isinstance(cause, ImportError | ValueError):
                raise
            raise RuntimeError("while loading /home/me/secret/x") from cause

    monkeypatch.setattr(loading.AutoModelForImageTextToText, "from_pretrained", fails)
    with pytest.raises(BadInput, match=sentence) as refused:
        tokviz.load()
    assert "secret" not in str(refused.value) and "home" not in str(refused.value)
    assert isinstance(refused.value, Unsupported) == (trouble == "a kernel")


def test_troubles_of_the_hub_that_its_test_server_cannot_make():
    response = SimpleNamespace(headers={}, request=None, status_code=503)
    sick = HfHubHTTPError("503 Server Error", response=response)
    wrapped = LocalEntryNotFoundError("not in the cache")
    wrapped.__cause__ = sick
    said = str(load_errors.why_not_fetched("a/b", wrapped))
    assert "answered with error 503" in said and "try again later" in said
    for error, sentence in (
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), "disk is full"),
        (PermissionError(errno.EACCES, "denied", "/srv/cache"), "cache folder cannot be written"),
        (OSError(errno.EROFS, "Read-only file system", "/data"), "cache folder cannot be written"),
        (TimeoutError("read timed out"), "hub cannot be reached"),
    ):
        found = str(load_errors.why_not_fetched("a/b", error))
        assert sentence in found and "/srv" not in found and "/data" not in found


def test_memory_that_runs_out_while_answering_is_a_sentence_too():
    assert "while LLaVA answered" in str(load_errors.out_of_memory("LLaVA", torch.OutOfMemoryError("CUDA")))
    assert "This machine" in str(load_errors.out_of_memory("LLaVA", MemoryError()))
    assert load_errors.out_of_memory("LLaVA", ValueError("no")) is None


def test_files_that_name_different_placeholders_are_refused(tmp_path):
    """A config without its image token gets transformers' default, which no prompt of this tokenizer holds."""
    folder = tmp_path / "torn"
    shutil.copytree(embedded_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    named = config.pop("image_token_id", None) or config.pop("image_token_index")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=f"torn do not belong together: its processor writes token {named} .* names"):
        tokviz.load(folder)


def test_weights_of_other_shapes_than_the_config_says_are_refused(tmp_path):
    folder = tmp_path / "torn"
    shutil.copytree(embedded_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"torn do not belong together: its weights have other shapes"):
        tokviz.load(folder)
