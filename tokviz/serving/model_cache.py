"""The one loaded model of a server, and how it is exchanged for another without leaving the server without a model."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from .model_menu import id_of, loaded_facts, model_option, model_options

if TYPE_CHECKING:
    from ..models.loading import VisionLanguageModel
    from ..types import PlanningInfo

Progress = Callable[[str, float | None], None]
PRECISIONS = ("auto", "8bit", "4bit")
KERNELS = ("auto", "sdpa", "flash", "kernels")
SQUARE = (1000, 1000)
"""An image that every model takes, in px: for questions about a model before there is one."""


@dataclass(frozen=True)
class ModelSpec:
    """A model and how to load it. precision and kernel: one of ``PRECISIONS`` and ``KERNELS``."""

    name: str
    precision: str = "auto"
    kernel: str = "auto"

    def checked(self) -> ModelSpec:
        """Itself. Raises BadInput when this server does not offer it."""
        model_option(self.name)
        if self.precision not in PRECISIONS or self.kernel not in KERNELS:
            raise BadInput(f"Weights are {', '.join(PRECISIONS)} and kernels {', '.join(KERNELS)} on this page.")
        return self


def prepared(spec: ModelSpec, on_progress: Progress) -> Any:
    """Look at the model's files and make them ready to be loaded. Raises BadInput."""
    from ..models.loading import LoadOptions, prepare

    precision: Any = None if spec.precision == "auto" else spec.precision
    return prepare(spec.name, LoadOptions(attention=spec.kernel, quantization=precision), on_progress)


class ModelCache:
    """Holds the latest model. Who asked for one before keeps it alive until its request is answered."""

    def __init__(self, prepare: Callable[[ModelSpec, Progress], Any] = prepared) -> None:
        self._prepare = prepare
        self._lock = threading.Lock()
        self._held: tuple[ModelSpec, VisionLanguageModel] | None = None

    def find(self, name: str) -> VisionLanguageModel | None:
        """The model of this name if it is loaded, however it was."""
        held = self._held
        return held[1] if held is not None and held[0].name == name else None

    def has(self, spec: ModelSpec) -> bool:
        """Whether ``get`` would return at once."""
        held = self._held
        return held is not None and held[0] == spec

    def get(self, spec: ModelSpec, on_progress: Progress = lambda words, share: None) -> VisionLanguageModel:
        """The model, loaded if it is not there. Raises BadInput; the model that was there stays then."""
        with self._lock:
            if (held := self._held) is not None and held[0] == spec:
                return held[1]
            del held  # the old model must be free to go
            model = self._load(self._prepare(spec, on_progress), on_progress)
            self._held = spec, model
            _release()
            return model

    def _load(self, ready: Any, on_progress: Progress) -> VisionLanguageModel:
        """Beside the old model where there is room, else instead of it; it comes back when the new one fails."""
        held = self._held
        try:
            ready.check_room()
        except BadInput:
            if held is None:
                raise
        else:
            return ready.load(on_progress)
        before, old = held
        ready.check_room(freed_gb=old.model.get_memory_footprint() / 1e9)
        in_use = weakref.ref(old)
        self._held = None
        del held, old
        _release()
        try:
            ready.check_room()  # a request that is still being answered holds the old one
            return ready.load(on_progress)
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
    reports: queue.Queue[tuple[str, float | None]] = queue.Queue()
    trouble: list[BaseException] = []

    def run() -> None:
        try:
            work(lambda words, share: reports.put((words, share)))
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=run, daemon=True)
    started, words, share = time.monotonic(), "Looking for the model", None
    thread.start()
    while thread.is_alive():
        thread.join(0.3)
        while not reports.empty():
            words, share = reports.get_nowait()
        percent = "" if share is None else f", {share:.0%}"
        yield f"{words}{percent} … {time.monotonic() - started:.0f} s"
    if trouble:
        raise trouble[0]


CACHE = ModelCache()
"""Of this process."""


def is_loaded(spec: ModelSpec) -> bool:
    """Whether the model is at hand."""
    return CACHE.has(spec)


def model(spec: ModelSpec) -> VisionLanguageModel:
    """The model; loaded on first use. Raises BadInput for one that is not offered."""
    return CACHE.get(spec.checked())


def load_steps(spec: ModelSpec) -> Iterator[str]:
    """Load a model and yield what is going on. Raises BadInput; the model that was loaded before goes on working."""
    spec.checked()
    yield from steps(lambda report: CACHE.get(spec, report))


def loaded(name: str) -> VisionLanguageModel | None:
    """The model of this name if it is loaded."""
    return CACHE.find(id_of(name))


def model_facts(name: str) -> str:
    """One line about a model: how it is loaded, or what is known of it before; empty for one that is not offered."""
    vlm = loaded(name)
    if vlm is not None:
        return loaded_facts(vlm.record)
    return next((option.facts() for option in model_options() if option.shown == name), "")


def loading_notices(name: str) -> str:
    """What the user should know about how the model was loaded; empty when there is nothing."""
    vlm = loaded(name)
    return "" if vlm is None else " ".join(vlm.notices)


def planning(name: str) -> PlanningInfo | None:
    """What methods may know about a model that this server offers; None while that is known only by loading it."""
    if name not in [option.shown for option in model_options()]:
        return None
    vlm = loaded(name)
    if vlm is None:
        from ..models.checkpoint import planning_before_loading

        return planning_before_loading(id_of(name))
    from ..runs.execute import planning_info

    return planning_info(vlm, vlm.family.grid(vlm.model, vlm.processor, SQUARE, {}))
