"""What went wrong while a model was fetched or loaded, in one sentence that names no path: each cause has its own."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import BadInput, Unsupported

_NETWORK = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
"""Packages whose errors mean that something between here and the hub did not work."""
_NO_DISK = {errno.ENOSPC, errno.EDQUOT}
_OTHERWISE = "Use a local folder or the embedded model instead."


def why_not_fetched(name: str, error: BaseException) -> BadInput:
    """Of an error that ``huggingface_hub`` raised while files of the model ``name`` were asked for."""
    causes = list(_causes(error))
    for fits, sentence in _HUB:
        if any(fits(cause) for cause in causes):
            return BadInput(sentence.format(name=name))
    answer = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if answer is not None:
        return BadInput(
            f"The model hub answered with error {answer.response.status_code} when asked for {name}: try again later. "
            f"{_OTHERWISE}"
        )
    if isinstance(error, ImportError):
        return _missing_package(name, error)
    return BadInput(f"{name} could not be fetched from the model hub: {_first_line(error)}")


def why_not_loaded(name: str, error: BaseException, folder: Path) -> BadInput:
    """Of an error that transformers, torch or safetensors raised while the files in ``folder`` became a model."""
    no_memory = _no_memory(
        error, f"while {name} was loaded: choose", "8-bit or 4-bit weights, or a smaller model", "a smaller model"
    )
    if no_memory is not None:
        return no_memory
    if any(isinstance(cause, OSError) and cause.errno in _NO_DISK for cause in _causes(error)):
        return BadInput(f"The disk is full: {name} could not be unpacked. Make room and try again.")
    if isinstance(error, ImportError):
        return _missing_package(name, error)
    if "ignore_mismatched_sizes" in str(error):
        return BadInput(
            f"The files of {name} do not belong together: its weights have other shapes than config.json says."
        )
    detail = _first_line(error).replace(str(folder), name)
    if "does not support" in detail and ("attention" in detail.lower() or "sdpa" in detail.lower()):
        return Unsupported(f"{name} cannot be loaded with this attention kernel: {detail}")
    return BadInput(f"The model folder {name!r} is incomplete or damaged: {detail}")


def out_of_memory(name: str, error: BaseException) -> BadInput | None:
    """The sentence for an error while a loaded model answered, where it says that memory ran out; else None."""
    on_gpu = "8-bit or 4-bit weights, a smaller model or a smaller image"
    return _no_memory(error, f"while {name} answered: choose", on_gpu, "a smaller model or image")


def _no_memory(error: BaseException, when: str, on_gpu: str, on_host: str) -> BadInput | None:
    causes = list(_causes(error))
    if any(isinstance(cause, torch.OutOfMemoryError) for cause in causes):
        return BadInput(f"The GPU ran out of memory {when} {on_gpu}.")
    if any(_is_host_memory(cause) for cause in causes):
        return BadInput(f"This machine ran out of memory {when} {on_host}.")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it; transformers and the hub wrap what they caught."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop(0)
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            pending += [current.__cause__, current.__context__]


def _is_host_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return False
    words = str(error)
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in words or "not enough memory" in words))
    )


def _is_disk(error: BaseException) -> bool:
    # The hub's own downloader reports the system's words, without the number.
    return (isinstance(error, OSError) and error.errno in _NO_DISK) or "No space left on device" in str(error)


def _is_network(error: BaseException) -> bool:
    if getattr(error, "response", None) is not None:  # somebody answered
        return False
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or package in _NETWORK


def _is(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


# In this order: a gated repository is also one that was not found, and an error of the disk may follow one of the net.
_HUB: tuple[tuple[Callable[[BaseException], bool], str], ...] = (
    (_is_disk, "The disk is full: {name} could not be downloaded. Make room, or set HF_HOME to a larger disk."),
    (
        lambda e: isinstance(e, PermissionError) or (isinstance(e, OSError) and e.errno == errno.EROFS),
        "{name} could not be downloaded: the hub's cache folder cannot be written. Set HF_HOME to one that can.",
    ),
    (
        _is(GatedRepoError),
        "{name} is gated: accept its licence on its page of the model hub, log in with that account (hf auth login), "
        "and load it again.",
    ),
    (
        _is(RevisionNotFoundError),
        "The model hub has {name}, but not the version of it that was asked for. Use a local folder instead.",
    ),
    (_is(DisabledRepoError), "{name} was withdrawn from the model hub. " + _OTHERWISE),
    (
        _is(RepositoryNotFoundError),
        "The model hub has no model {name}, or it is private: check how the id is written. " + _OTHERWISE,
    ),
    (_is(HFValidationError), "{name} is no id of the model hub: ids look like 'owner/name'."),
    (
        _is(OfflineModeIsEnabled),
        "The model hub cannot be reached, because HF_HUB_OFFLINE is set, and {name} is not in the cache. " + _OTHERWISE,
    ),
    (
        lambda e: isinstance(e, EntryNotFoundError) and not isinstance(e, LocalEntryNotFoundError),
        "{name} holds no model: it has no config.json.",
    ),
    (
        _is_network,
        "The model hub cannot be reached, and {name} is not in the cache: check the connection. " + _OTHERWISE,
    ),
    (
        lambda e: isinstance(e, LocalEntryNotFoundError) and not isinstance(e.__cause__, HfHubHTTPError),
        "{name} is not completely in the cache, and the model hub cannot be reached. " + _OTHERWISE,
    ),
)


def _missing_package(name: str, error: ImportError) -> BadInput:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return BadInput(f"{name} could not be loaded: it needs the package {package} (pip install {package}).")
    return BadInput(f"{name} could not be loaded: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    """The first line of what an error says, without folders: sentences go to strangers."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return re.sub(r"(?<![\w:/.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\"]+[/\\])*", "", line)[:300]
