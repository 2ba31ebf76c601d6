"""The one loaded model of the page, and how it is exchanged for another without leaving the page without a model."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInput

if TYPE_CHECKING:
    from ..models.loading import VisionLanguageModel

Progress = Callable[[str, float | None], None]
Precision = Literal["auto", "8bit", "4bit"]


@dataclass(frozen=True)
class Wanted:
    """A model and how it is to be loaded. ``kernel`` as ``tokviz.load`` says of ``attention``."""

    name: str
    precision: str = "auto"
    kernel: str = "auto"


def prepared(wanted: Wanted, on_progress: Progress) -> Any:
    """The model's files, looked at and ready to be loaded. Raises BadInput."""
    from ..models.loading import LoadOptions, prepare

    precision: Any = None if wanted.precision == "auto" else wanted.precision
    return prepare(wanted.name, LoadOptions(attention=wanted.kernel, quantization=precision), on_progress)


class Shelf:
    """Holds the latest model. Who asked for one before keeps it alive until its request is answered."""

    def __init__(self, prepare: Callable[[Wanted, Progress], Any] = prepared) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._held: tuple[Wanted, VisionLanguageModel] | None = None

    def find(self, name: str) -> VisionLanguageModel | None:
        """The model of this name if it is loaded, however it was."""
        held = self._held
        return held[1] if held is not None and held[0].name == name else None

    def has(self, wanted: Wanted) -> bool:
        """Whether ``get`` would return at once."""
        held = self._held
        return held is not None and held[0] == wanted

    def get(self, wanted: Wanted, on_progress: Progress = lambda words, share: None) -> VisionLanguageModel:
        """The model, loaded if it is not there. Raises BadInput; the model that was there stays then."""
        with self._lock:
            if self._held is None or self._held[0] != wanted:
                ready = self._prepare(wanted, on_progress)
                if self._fits_beside(ready):
                    self._held = wanted, ready.load(on_progress)
                else:
                    self._exchange(wanted, ready, on_progress)
                _release()
            assert self._held is not None
            return self._held[1]

    def _fits_beside(self, ready: Any) -> bool:
        try:
            ready.check_room()
        except BadInput:
            if self._held is None:
                raise
            return False
        return True

    def _exchange(self, wanted: Wanted, ready: Any, on_progress: Progress) -> None:
        """There is no room for both: the old model goes first, and comes back when the new one does not load."""
        assert self._held is not None
        before, old = self._held
        ready.check_room(freed_gb=old.model.get_memory_footprint() / 1e9)
        in_use = weakref.ref(old)
        self._held = None
        del old
        _release()
        try:
            ready.check_room()  # a request that is still being answered holds the old one
            self._held = wanted, ready.load(on_progress)
        except BadInput:
            _release()
            back = in_use()
            if back is None:
                on_progress(f"Going back to {before.name}", None)
                back = self._prepare(before, on_progress).load(on_progress)
            self._held = before, back
            raise


def _release() -> None:
    from ..models.devices import release_memory

    release_memory()


def steps(work: Callable[[Progress], object]) -> Iterator[str]:
    """Run ``work`` in a thread and yield what it says it is doing, with share and seconds, about three times a second.

    Raises what ``work`` raises.
    """
    told: queue.Queue[tuple[str, float | None]] = queue.Queue()
    trouble: list[BaseException] = []

    def run() -> None:
        try:
            work(lambda words, share: told.put((words, share)))
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=run, daemon=True)
    started, words, share = time.monotonic(), "Looking for the model", None
    thread.start()
    while thread.is_alive():
        thread.join(0.3)
        while not told.empty():
            words, share = told.get_nowait()
        percent = "" if share is None else f", {share:.0%}"
        yield f"{words}{percent} … {time.monotonic() - started:.0f} s"
    if trouble:
        raise trouble[0]
