"""Tensors that say they lie on another device while their numbers lie here: what would fail on a GPU fails without one.

Operations on a tensor from there and one from here are refused, as on a GPU, but for those that torch lets pass there:
copies, numbers without dimensions, and indices from here into a tensor from there. The device is called ``meta``,
which torch can name and guard on every machine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

THERE = torch.device("meta")
_MAY_MIX = ("aten.copy_", "aten._to_copy", "aten.index.Tensor")


class There(Tensor):
    """A tensor on the pretended device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=THERE,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def item(self):
        return self.inner.item()

    def tolist(self):
        return self.inner.tolist()

    def __bool__(self):
        return bool(self.inner)

    def __int__(self):
        return int(self.inner)

    def __index__(self):
        return int(self.inner)

    def __float__(self):
        return float(self.inner)


def _here(value: Any) -> Any:
    return value.inner if isinstance(value, There) else value


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, There) for tensor in given)
    strangers = [tuple(tensor.shape) for tensor in given if not isinstance(tensor, There) and tensor.dim()]
    if there and strangers and not str(operation).startswith(_MAY_MIX):
        raise RuntimeError(f"{operation} on two devices; from here: {strangers}")
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]) == THERE
        kwargs = {**kwargs, "device": "cpu"}
    here_args, here_kwargs = tree_map(_here, (args, kwargs))
    result = operation(*here_args, **here_kwargs)

    def back(made: Any) -> Any:
        if not isinstance(made, Tensor):
            return made
        same = next((tensor for tensor in given if _here(tensor) is made), None)  # in place
        return same if same is not None else There(made) if there else made

    return tree_map(back, result)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch decides by device before an operation is dispatched."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention:
            given = {type(leaf) is There for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            assert len(given) == 1, "attention on two devices"
            here_args, here_kwargs = tree_map(_here, (args, kwargs))
            result = function(*here_args, **here_kwargs)
            return There(result) if given == {True} else result
        if function is Tensor.new_tensor:
            made = torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype))
            return There(made) if isinstance(args[0], There) else made
        if function is torch.tensor and kwargs.get("device") is not None:
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                made = torch.tensor(*args, **{**kwargs, "device": "cpu"})
            return There(made) if torch.device(kwargs["device"]) == THERE else made
        return function(*args, **kwargs)


class pretended_device:
    """Inside, tensors can be made on and moved to the pretended device."""

    def __enter__(self) -> None:
        self._modes = _Functions(), _Operations()
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


def move(module: torch.nn.Module) -> None:
    """All parameters and buffers to the pretended device."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(There(parameter.data), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = There(buffer)
