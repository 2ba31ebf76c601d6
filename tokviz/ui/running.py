"""A request of the page as plain data, the loaded model, and the one function that does the work.

Nothing here imports torch until a model is needed. Requests and events are plain data that can be pickled, because on
ZeroGPU the work happens in a forked process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, Stopped
from ..names import Box, BudgetMeaning
from ..serving.gpu_time import PACE, RunSize
from .offers import id_of, loaded_facts, offer, offers
from .shelf import Shelf, Wanted, steps

if TYPE_CHECKING:
    from ..media.images import Picture
    from ..media.video import Video
    from ..models.loading import VisionLanguageModel
    from ..runs.compare import Event
    from ..types import PlanningInfo


@dataclass(frozen=True)
class RunRequest:
    """What the page or the API asks for; the fields mean what ``tokviz.compare_events`` says.

    evidence_at: of a video, the frame of the file (from 0) that each box of ``evidence`` lies in. precision and kernel:
    how the model is loaded, of ``PRECISIONS`` and ``KERNELS``. media: the decoded ``picture``, see ``opened``.
    """

    model: str
    picture: str | None
    question: str
    methods: tuple[str, ...]
    budget: int
    budget_as: BudgetMeaning = "published"
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    repeats: int = 1
    max_new_tokens: int = 32
    expected: str | None = None
    evidence: tuple[Box, ...] = ()
    evidence_at: tuple[int, ...] = ()
    frames: int | None = None
    precision: str = "auto"
    kernel: str = "auto"
    media: Any = None


PRECISIONS = ("auto", "8bit", "4bit")
KERNELS = ("auto", "sdpa", "flash", "kernels")
SQUARE = (1000, 1000)
"""A picture that every model takes, in px: for questions about a model before there is one."""

Runner = Callable[[RunRequest, threading.Event], "Iterator[Event]"]
Loader = Callable[[RunRequest], Iterable[str]]
"""Makes a request's model ready; yields what it is doing, for the notice of the page."""

_shelf = Shelf()


def allowed_models() -> list[tuple[str, str]]:
    """``(label, name)`` of the models this page offers, the default first; see ``offers``."""
    return [(one.label, one.shown) for one in offers()]


def is_loaded(request: RunRequest) -> bool:
    """Whether the request's model is at hand."""
    return _shelf.has(_wanted(request))


def loaded(name: str) -> VisionLanguageModel | None:
    """The model of this name if it is loaded."""
    return _shelf.find(id_of(name))


def load_steps(request: RunRequest) -> Iterator[str]:
    """Load the request's model. Raises BadInput; the model that was loaded before goes on working then."""
    wanted = _checked(_wanted(request))
    yield from steps(lambda report: _shelf.get(wanted, report))


def model(name: str, precision: str = "auto", kernel: str = "auto") -> VisionLanguageModel:
    """The model of this name; loaded on first use. Only the latest is kept. Raises BadInput for names not offered."""
    return _shelf.get(_checked(Wanted(id_of(name), precision, kernel)))


def _wanted(request: RunRequest) -> Wanted:
    return Wanted(id_of(request.model), request.precision, request.kernel)


def _checked(wanted: Wanted) -> Wanted:
    offer(wanted.name)
    if wanted.precision not in PRECISIONS or wanted.kernel not in KERNELS:
        raise BadInput(f"Weights are {', '.join(PRECISIONS)} and kernels {', '.join(KERNELS)} on this page.")
    return wanted


def model_facts(name: str) -> str:
    """One line about a model: how it is loaded, or what is known of it before; empty for one that is not offered."""
    vlm = _shelf.find(id_of(name))
    if vlm is not None:
        return loaded_facts(vlm.record)
    return next((one.facts() for one in offers() if one.shown == name), "")


def loading_notices(name: str) -> str:
    """What the user should know about how the model was loaded; empty when there is nothing."""
    vlm = _shelf.find(id_of(name))
    return "" if vlm is None else " ".join(vlm.notices)


def why_not_faster() -> tuple[str | None, str | None]:
    """See ``models.devices.why_not_faster``."""
    from ..models import devices

    return devices.why_not_faster()


def size_of(request: RunRequest) -> RunSize:
    """How much a request asks for."""
    return RunSize.of(len(request.methods), request.repeats, request.max_new_tokens)


def declared_seconds(request: RunRequest) -> int:
    """GPU seconds that ZeroGPU is asked for."""
    return PACE.declared(request.model, offer(request.model).parameters, size_of(request))


def planning(name: str) -> PlanningInfo | None:
    """What methods may know about a model that this page offers; None while that is known only by loading it."""
    if name not in [offered for _, offered in allowed_models()]:
        return None
    vlm = _shelf.find(id_of(name))
    if vlm is None:
        from ..models.checkpoint import planning_before_loading

        return planning_before_loading(id_of(name))
    from ..runs.execute import planning_info

    return planning_info(vlm, vlm.family.grid(vlm.model, vlm.processor, SQUARE, {}))


def opened(request: RunRequest, stop: threading.Event) -> RunRequest:
    """The request with its picture or video decoded, in a process with limits: files come from strangers.

    Raises BadInput; also when ``stop`` is set meanwhile.
    """
    if request.picture is None:
        raise BadInput("There is no picture: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file, or a video.")
    from ..media.video import is_video
    from ..runs.inputs import open_media

    vlm = model(request.model, request.precision, request.kernel)
    # The field for frames keeps its number while pictures are asked about.
    frames = request.frames if is_video(request.picture) else None
    try:
        return replace(request, media=open_media(vlm, request.picture, frames, isolated=True, stop=stop))
    except Stopped as error:
        raise BadInput("Stopped before the picture was encoded.") from error


def run_request(request: RunRequest, stop: threading.Event) -> Iterator[Event]:
    """Carry a request out. Raises BadInput before the first event when it cannot be served."""
    import tokviz

    vlm = model(request.model, request.precision, request.kernel)
    media = request.media if request.media is not None else opened(request, stop).media
    events = tokviz.compare_events(
        vlm,
        media,
        request.question,
        methods=request.methods,
        budget=request.budget,
        budget_as=request.budget_as,
        params=request.params,
        seed=request.seed,
        repeats=request.repeats,
        max_new_tokens=request.max_new_tokens,
        expected=request.expected,
        stop=stop,
        **_evidence(request, media),
    )
    try:
        yield from events
    except Exception as error:
        from ..models.devices import release_memory
        from ..models.load_errors import out_of_memory

        sentence = out_of_memory(vlm.record.name, error)
        if sentence is None:
            raise
        release_memory()
        raise sentence from error


def _evidence(request: RunRequest, media: Picture | Video) -> dict[str, Any]:
    """The evidence as ``compare_events`` wants it; of a video only what lies in frames that are looked at."""
    if not request.evidence_at:
        return {"evidence": request.evidence}
    looked_at = {number: place for place, number in enumerate(getattr(media, "indices", ()))}
    there = [
        (box, looked_at[at]) for box, at in zip(request.evidence, request.evidence_at, strict=True) if at in looked_at
    ]
    return {"evidence": [box for box, _ in there], "evidence_frames": [place for _, place in there]}


class StopFlags:
    """One stop flag per browser tab. A flag is set by Stop (or a closed tab) and renewed by the next Compare."""

    def __init__(self) -> None:
        self._flags: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def renew(self, session: str) -> threading.Event:
        """A fresh flag for the tab's next run; the one before is stopped."""
        with self._lock:
            former, fresh = self._flags.get(session), threading.Event()
            self._flags[session] = fresh
        if former is not None:
            former.set()
        return fresh

    def of(self, session: str) -> threading.Event | None:
        """The flag of the tab's latest run; None when there is none, or what it shows now is not a run's."""
        with self._lock:
            return self._flags.get(session)

    def stop(self, session: str) -> None:
        """Ask the tab's run to stop."""
        flag = self.of(session)
        if flag is not None:
            flag.set()

    def stop_all(self) -> None:
        """The server ends: every run does."""
        with self._lock:
            flags = [*self._flags.values()]
        for flag in flags:
            flag.set()

    def forget(self, session: str) -> None:
        """Stop the tab's run and drop its flag (the tab was closed)."""
        with self._lock:
            flag = self._flags.pop(session, None)
        if flag is not None:
            flag.set()
