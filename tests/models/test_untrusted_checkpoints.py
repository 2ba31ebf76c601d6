"""A checkpoint of a stranger: nothing in its files runs code or names code that is fetched."""

import json
import os
import pickle
import shutil

import pytest
import torch
from transformers import modeling_utils
from transformers.integrations import hub_kernels

import tokviz
from tokviz.errors import BadInput
from tokviz.models import checkpoint
from tokviz.models.catalog import embedded_folder


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model."""
    return shutil.copytree(embedded_folder(), tmp_path / "copy")


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def pickled(folder, content):
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        if isinstance(content, Malicious):
            pickle.dump(content, file)
        else:
            torch.save(content, file)


def test_pickled_weights_are_refused_and_never_run(folder, tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    pickled(folder, Malicious(f"touch {mark}"))
    monkeypatch.delenv("TOKVIZ_ALLOW_PICKLE", raising=False)
    with pytest.raises(BadInput, match=r"'copy' are pickled \(pytorch_model.bin\).*convert them to safetensors"):
        tokviz.load(folder)
    for allowed in ({"allow_pickle": True}, {}):
        monkeypatch.setenv("TOKVIZ_ALLOW_PICKLE", "0" if allowed else "1")
        with pytest.raises(BadInput) as refused:  # torch reads tensors only
            tokviz.load(folder, **allowed)
        assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value)
    monkeypatch.setenv("TOKVIZ_ALLOW_PICKLE", "1")
    with pytest.raises(BadInput, match="are pickled"):
        tokviz.load(folder, allow_pickle=False)
    assert not mark.exists()


def test_pickled_weights_that_the_operator_allows_are_the_same_model(folder, vlm, monkeypatch):
    pickled(folder, vlm.model.state_dict())
    monkeypatch.setenv("TOKVIZ_ALLOW_PICKLE", "1")
    found = tokviz.load(folder).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in vlm.model.state_dict().items())


def test_safetensors_go_before_a_pickle_beside_them(folder, tmp_path):
    mark = tmp_path / "ran"
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Malicious(f"touch {mark}"), file)
    assert tokviz.load(folder, allow_pickle=True).record.name == "copy"
    assert not mark.exists()


@pytest.mark.parametrize("value", ["stranger/kernel", "kernels-community/flash-attn2", "flash_attention_2", "eager"])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
def test_a_config_does_not_choose_the_kernel(folder, key, value, monkeypatch):
    def fetched(*asked, **options):
        raise AssertionError(f"a kernel was asked for: {asked}")

    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", fetched)
    monkeypatch.setattr(hub_kernels, "get_kernel", fetched)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    loaded = tokviz.load(folder, attention="sdpa")
    kernels = {part.config._attn_implementation for part in loaded.model.modules() if hasattr(part, "config")}
    assert kernels == {"sdpa"} and (loaded.record.attention, loaded.record.tower_attention) == ("sdpa", None)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", '{"model_type": null}', '{"model_type": 3}', "[" * 100_000, "\udcff"]
)
def test_a_damaged_config_is_a_sentence(folder, content):
    (folder / "config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(BadInput, match=r"its config.json cannot be read"):
        tokviz.load(folder)


@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x08" + b"\0" * 7 + b'{"a": 3}', b"\x02" + b"\0" * 6]
)
def test_damaged_weights_are_a_sentence(folder, header):
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(BadInput, match=r"its weights cannot be read"):
        checkpoint.count_parameters("copy", folder)


def test_defects_of_our_own_are_not_blamed_on_the_files(folder, monkeypatch):
    monkeypatch.setattr(checkpoint.math, "prod", lambda shape: {}["a defect"])
    with pytest.raises(KeyError, match="a defect"):
        checkpoint.count_parameters("copy", folder)
