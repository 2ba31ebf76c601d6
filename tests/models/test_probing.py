"""The tiny call that a flash attention kernel has to pass, with kernels that are right, wrong and broken."""

import pytest
import torch
from fake_kernels import HUB_KERNEL, fake_kernel
from transformers import modeling_flash_attention_utils as flash

from tokviz.models import kernels

CPU = [torch.device("cpu")]
DTYPES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def fresh():
    """Nothing is remembered of another kernel of the same name."""
    kernels._why_not_right.cache_clear()
    yield
    kernels._why_not_right.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["flash_attention_2", HUB_KERNEL])
def test_a_right_kernel_passes_and_is_called_once(name, dtype):
    with fake_kernel(name) as calls:
        for _ in range(3):
            assert kernels.why_not_right(name, CPU, dtype) is None
        assert (calls.whole, calls.varlen) == (2, 1)


def spoilt(monkeypatch, part, change):
    """flash attention whose functions (``whole`` or ``varlen``) return something else than they should."""
    functions = list(flash.lazy_import_flash_attention("flash_attention_2")[0])
    place = ("whole", "varlen").index(part)
    right = functions[place]
    functions[place] = lambda *args, **options: change(right(*args, **options))
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: (tuple(functions), (None, None)))


def broken(_):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", ["whole", "varlen"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda out: out * 0, "gives wrong numbers"),
        (lambda out: out + 0.1, "gives wrong numbers"),
        (lambda out: out * torch.nan, "gives wrong numbers"),
        (lambda out: out.flip(-2), "gives wrong numbers"),
        (lambda out: out[..., :1], "gives wrong numbers"),
        (broken, "does not run"),
        (lambda out: None, "does not run|wrong numbers"),
        (lambda out: (out, None), None),
    ],
)
def test_a_kernel_that_is_wrong_or_broken_is_told_of(monkeypatch, part, change, said, dtype):
    monkeypatch.setattr(kernels, "capability_of", lambda device: "12.0")
    with fake_kernel("flash_attention_2"):
        spoilt(monkeypatch, part, change)
        found = kernels.why_not_right("flash_attention_2", CPU, dtype)
    if said is None:
        assert found is None
    else:
        assert any(part in found for part in said.split("|"))
        assert "compute capability 12.0" in found and "\n" not in found


def test_every_device_is_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(kernels, "_why_not_right", lambda name, device, dtype: tried.append(device) or None)
    kernels.why_not_right("x", [torch.device("cuda", 0), torch.device("cuda", 1)], torch.bfloat16)
    assert len(tried) == 2


@pytest.mark.parametrize("ours", ["_by_sdpa", "_calls", "_inputs"])
def test_defects_of_our_own_are_no_reason(monkeypatch, ours):
    monkeypatch.setattr(kernels, ours, lambda *_: {}["a defect"])
    with fake_kernel("flash_attention_2"), pytest.raises(KeyError, match="a defect"):
        kernels.why_not_right("flash_attention_2", CPU, torch.bfloat16)
