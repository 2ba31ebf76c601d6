"""Fetching a checkpoint from the hub: its configuration first, then room on the disk, then its files with progress."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import DryRunError
from tqdm.std import tqdm

from ..errors import BadInput
from .failures import why_not_fetched
from .progress import Progress

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""No pickled weights, and no Python: ``trust_remote_code`` is never on."""
_FOLDERS = ["original/*", "*/*"]
_ROOM = 0.2e9
"""Bytes of the disk that a download leaves free."""


def fetch_config(name: str, revision: str | None) -> Path:
    """The path of a checkpoint's ``config.json``. Raises BadInput with one sentence."""
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:
        raise why_not_fetched(name, error) from error


def fetch(name: str, revision: str | None, on_progress: Progress) -> Path:
    """The folder with a checkpoint's files, downloaded where they are not in the cache yet.

    Raises BadInput with one sentence, before anything is downloaded when the disk has no room for it.
    """
    options: dict[str, Any] = {"revision": revision, "allow_patterns": _FILES, "ignore_patterns": _FOLDERS}
    try:
        missing = _bytes_to_download(name, options)
        _check_room(name, missing)
        report = _reporting(on_progress, missing)
        return Path(snapshot_download(name, tqdm_class=report, **options))
    except BadInput:
        raise
    except Exception as error:
        raise why_not_fetched(name, error) from error


def _bytes_to_download(name: str, options: dict[str, Any]) -> int:
    try:
        files = snapshot_download(name, dry_run=True, tqdm_class=_Silent, **options)
    except DryRunError:  # no way to the hub: what is in the cache may be enough
        return 0
    return sum(file.file_size for file in files if file.will_download)


def _check_room(name: str, needed: int) -> None:
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed and free < needed + _ROOM:
        raise BadInput(
            f"There is no room on the disk for {name}: it needs {needed / 1e9:.1f} GB more and {free / 1e9:.1f} GB are "
            "free. Make room, or set HF_HOME to a larger disk."
        )


class _Silent(tqdm):  # type: ignore[type-arg]
    """A progress bar that prints nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)
        super().__init__(*args, **{**kwargs, "disable": True})


def _reporting(on_progress: Progress, total: int) -> type[tqdm]:  # type: ignore[type-arg]
    """A progress bar that tells ``on_progress`` how many bytes of ``total`` have come, and prints nothing."""

    class Reporting(_Silent):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Files are counted by one bar, bytes by two: as they come over the network, and as they are written.
            self.counts = kwargs.get("unit") == "B" and not str(kwargs.get("desc", "")).startswith("Downloading")
            self.bytes = 0.0
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> None:
            if self.counts and total:
                self.bytes += n or 0
                share = min(self.bytes / total, 1.0)
                on_progress(f"Downloading {share * total / 1e9:.1f} of {total / 1e9:.1f} GB", share)

    return Reporting
