"""Fetch a checkpoint from the hub: its configuration first, then room on the disk, then its files with progress."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import DryRunError
from tqdm.std import tqdm
from transformers.utils import logging as transformers_logging

from ..errors import BadInput
from .load_errors import why_not_fetched

Progress = Callable[[str, float | None], None]
"""``(what is being done, share of it that is done or None)``; called from any thread."""
T = TypeVar("T")

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""No pickled weights, and no Python: ``trust_remote_code`` is never on."""
_FOLDERS = ["original/*", "*/*"]
_ROOM = 0.2e9
"""Bytes of the disk that a download leaves free."""


def fetch_config(name: str, revision: str | None) -> Path:
    """The path of a checkpoint's ``config.json``. Raises BadInput with one sentence."""
    return Path(_ask(name, lambda: hf_hub_download(name, "config.json", revision=revision)))


def fetch(name: str, revision: str | None, report: Report) -> Path:
    """The folder with a checkpoint's files, downloaded where they are not in the cache yet.

    Raises BadInput with one sentence, before anything is downloaded when the disk has no room for it.
    """
    options: dict[str, Any] = {"revision": revision, "allow_patterns": _FILES, "ignore_patterns": _FOLDERS}
    missing = _bytes_to_download(name, options)
    _check_room(name, missing)
    bar = _reporting(report, missing)
    return Path(_ask(name, lambda: snapshot_download(name, tqdm_class=bar, **options), report))


class Report:
    """Tells somebody how far loading has come, called by us and by libraries.

    Keeps what goes wrong in the function that is told: else it would pass for an error of the library that called.
    """

    def __init__(self, on_progress: Progress | None) -> None:
        self._on_progress = on_progress
        self._defect: Exception | None = None

    def __call__(self, words: str, share: float | None) -> None:
        """Tell it; see ``Progress``."""
        if self._on_progress is None:
            return
        try:
            self._on_progress(words, share)
        except Exception as error:
            self._defect = error
            raise

    def raise_defect(self) -> None:
        """Raise what went wrong in the function that was told, if anything did."""
        if self._defect is not None:
            raise self._defect from None


def _ask(name: str, client: Callable[[], T], report: Report | None = None) -> T:
    """One call of the hub's client: what it raises becomes BadInput, and its retries are not logged."""
    with _filter.asking():
        try:
            return client()
        except DryRunError:
            raise
        except Exception as error:  # of the network, the hub, the disk
            if report is not None:
                report.raise_defect()
            raise why_not_fetched(name, error) from error


def _bytes_to_download(name: str, options: dict[str, Any]) -> int:
    try:
        files: Any = _ask(name, lambda: snapshot_download(name, dry_run=True, tqdm_class=_Silent, **options))
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


def _reporting(report: Report, total: int) -> type[_Silent]:
    """A progress bar that says how many bytes of ``total`` have come, and prints nothing."""

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
                report(f"Downloading {share * total / 1e9:.1f} of {total / 1e9:.1f} GB", share)

    return Reporting


_bars = threading.Lock()


@contextmanager
def weights_reported(report: Report) -> Iterator[None]:
    """Tell ``report`` how far transformers has come with the weights that this thread loads; others are not touched.

    transformers makes its bars through one hook for the whole process; the one that was there is put back.
    """
    thread = threading.get_ident()

    def hook(factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bar = previous(factory, args, kwargs) if previous else factory(*args, **kwargs)
        if threading.get_ident() != thread or not args or kwargs.get("desc") != "Loading weights":
            return bar
        return _counted(bar, len(args[0]), report)

    with _bars:
        previous = transformers_logging.set_tqdm_hook(hook)
        try:
            yield
        finally:
            transformers_logging.set_tqdm_hook(previous)


def _counted(bar: Any, total: int, report: Report) -> Iterator[Any]:
    """The weights of a progress bar, reported as they pass."""
    for number, item in enumerate(bar):
        yield item
        report("Loading weights", (number + 1) / max(total, 1))
