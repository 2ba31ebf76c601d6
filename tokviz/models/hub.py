"""Fetching a checkpoint from the hub: its configuration first, then room on the disk, then its files with progress."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

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
    with _told_in_a_sentence(name):
        return Path(hf_hub_download(name, "config.json", revision=revision))


def fetch(name: str, revision: str | None, on_progress: Progress) -> Path:
    """The folder with a checkpoint's files, downloaded where they are not in the cache yet.

    Raises BadInput with one sentence, before anything is downloaded when the disk has no room for it.
    """
    options: dict[str, Any] = {"revision": revision, "allow_patterns": _FILES, "ignore_patterns": _FOLDERS}
    missing = _bytes_to_download(name, options)
    _check_room(name, missing)
    report = _reporting(on_progress, missing)
    with _told_in_a_sentence(name, report.defects):
        return Path(snapshot_download(name, tqdm_class=report, **options))


@contextmanager
def _told_in_a_sentence(name: str, defects: Sequence[Exception] = ()) -> Iterator[None]:
    """Around one call of the hub's client: what it raises becomes BadInput, and its retries are not logged.

    defects: what went wrong in functions of ours that it called; the first of them is raised as it is.
    """
    try:
        with _quietly():
            yield
    except Exception as error:
        if defects:
            raise defects[0] from None
        raise why_not_fetched(name, error) from error


def _bytes_to_download(name: str, options: dict[str, Any]) -> int:
    with _told_in_a_sentence(name):
        try:
            files = snapshot_download(name, dry_run=True, tqdm_class=_Silent, **options)
        except DryRunError:  # no way to the hub: what is in the cache may be enough
            return 0
    return sum(file.file_size for file in files if file.will_download)


class _NotOurs(logging.Filter):
    """Drops what the hub's client logs while a thread of ours asks it: the sentence behind it says it all."""

    def __init__(self) -> None:
        super().__init__()
        self._asking = threading.local()
        self._anywhere = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        # The client's own worker threads are nobody's: theirs are dropped while anybody asks.
        ours = getattr(self._asking, "depth", 0) > 0
        return not ours and not (self._anywhere and threading.current_thread().name.startswith("ThreadPoolExecutor"))

    @contextmanager
    def asking(self) -> Iterator[None]:
        with self._lock:
            self._anywhere += 1
        self._asking.depth = getattr(self._asking, "depth", 0) + 1
        try:
            yield
        finally:
            self._asking.depth -= 1
            with self._lock:
                self._anywhere -= 1


_filter = _NotOurs()
_LOGGERS = (
    "huggingface_hub.utils._http",
    "huggingface_hub.file_download",
    "huggingface_hub._snapshot_download",
    "httpx",
)
for _name in _LOGGERS:  # a filter works on the very logger that a record was made by
    logging.getLogger(_name).addFilter(_filter)


def _quietly() -> AbstractContextManager[None]:
    return _filter.asking()


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


class _Reporting(_Silent):
    """Keeps what went wrong in the function that it tells of progress."""

    defects: ClassVar[list[Exception]]


def _reporting(on_progress: Progress, total: int) -> type[_Reporting]:
    """A progress bar that tells ``on_progress`` how many bytes of ``total`` have come, and prints nothing."""

    class Reporting(_Reporting):
        defects: ClassVar[list[Exception]] = []

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Files are counted by one bar, bytes by two: as they come over the network, and as they are written.
            self.counts = kwargs.get("unit") == "B" and not str(kwargs.get("desc", "")).startswith("Downloading")
            self.bytes = 0.0
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> None:
            if self.counts and total:
                self.bytes += n or 0
                share = min(self.bytes / total, 1.0)
                try:
                    on_progress(f"Downloading {share * total / 1e9:.1f} of {total / 1e9:.1f} GB", share)
                except Exception as error:  # else it would pass for an error of the hub
                    self.defects.append(error)
                    raise

    return Reporting
