"""What would go wrong on a GPU and can be told without one: tensors of the wrong device, and waiting for every step."""

import pytest
import torch
from loops import each
from pruner_signals import each_variant
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def keeps_of(variant, n):
    return (None,) if variant.adaptive else (0,) if variant.withdraws else (n // 2 + 1, n - 2)


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, also those that torch lets pass (indexing)."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        devices = {leaf.device for leaf in leaves if isinstance(leaf, torch.Tensor)}
        assert len(devices) < 2, f"{operation} on {devices}"
        return operation(*args, **(kwargs or {}))


@each_variant(only=lambda variant: not variant.pruner.id.startswith("random"))  # which draw on the CPU
@each("kind", ["nan", "all nan"])
def test_every_tensor_is_made_where_the_signals_are(variant, kind):
    """With ``meta`` as the default device a tensor that is made without one cannot meet those of the signals."""
    for layout in variant.layouts()[-2:]:
        signals, _ = variant.signals(1, layout, kind)
        for keep in keeps_of(variant, layout.n):
            with torch.device("meta"), OneDevice():
                selection = variant.select(signals, keep)
            assert selection.kept.device == signals.features.device


def test_a_tensor_on_the_default_device_is_noticed():
    here = torch.zeros(3)
    with torch.device("meta"), OneDevice():
        for mixed in (lambda: here[torch.arange(2)], lambda: here + torch.arange(3)):
            with pytest.raises((AssertionError, RuntimeError)):
                mixed()


class HostReads(TorchDispatchMode):
    """Counts how often a number was fetched from a tensor, or a shape depended on its content."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count += 1
        return operation(*args, **(kwargs or {}))


def test_fetched_numbers_are_counted():
    numbers = torch.arange(5.0)
    with HostReads() as mode:
        assert sum(float(numbers[step]) for step in range(5)) == 10
    assert mode.count == 5


@each_variant(only=lambda v: v.pruner.family != "control" and not v.adaptive and not v.withdraws)
def test_more_steps_do_not_mean_more_waiting(variant):
    """Greedy loops run without fetching numbers: twice the budget does not fetch twice as many."""
    layout = max((found for found in variant.layouts() if found.candidates is None), key=lambda found: found.n)
    signals, _ = variant.signals(2, layout)
    reads = []
    for keep in (layout.n // 2 + 1, layout.n - 3):
        with HostReads() as mode:
            variant.select(signals, keep)
        reads.append(mode.count)
    assert abs(reads[1] - reads[0]) <= 2
