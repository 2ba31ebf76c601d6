"""A request of the page as plain data, the one function that does the work, and how long that takes.

Nothing here imports torch until a model is needed. Requests and events are plain data that can be pickled, because on
ZeroGPU the work happens in a forked process.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInput, Stopped
from ..names import Box, BudgetMeaning
from .model_cache import ModelSpec, model
from .model_menu import id_of, model_option

if TYPE_CHECKING:
    from ..media.images import InputImage
    from ..media.video import Video
    from ..runs.events import Event


LEAST_S, MOST_S = 10, 120
"""GPU seconds that are asked for; a visitor's day has 120 without a login."""
_START_S = 4.0
"""Getting a GPU and moving the weights there."""
_HEADROOM = 1.5
_REMEMBERED = 20
_ANSWER_TOKENS = 8
"""What answers have where nothing limits them to fewer."""


@dataclass(frozen=True)
class RunSize:
    """lanes: with the unpruned one. executions: of each. new_tokens: longest answer."""

    lanes: int
    executions: int
    new_tokens: int

    @classmethod
    def of(cls, n_methods: int, repeats: int, new_tokens: int) -> RunSize:
        """Of a request: above one repeat there is a warm-up as well."""
        return cls(n_methods + 1, repeats + 1 if repeats > 1 else 1, new_tokens)


def is_zero_gpu() -> bool:
    """Whether GPU time is lent by the run and counted."""
    return bool(os.environ.get("SPACES_ZERO_GPU"))


class Pace:
    """Seconds per lane of each model, as measured. Thread-safe."""

    def __init__(self) -> None:
        self._measured: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def record(self, model: str, size: RunSize, seconds: float) -> None:
        """A run that went through to its end took so long, loading not counted."""
        with self._lock:
            samples = self._measured.setdefault(model, deque(maxlen=_REMEMBERED))
            samples.append(seconds / (size.lanes * size.executions))

    def n_measured(self, model: str) -> int:
        """Runs that an estimate for this model rests on."""
        with self._lock:
            return len(self._measured.get(model, ()))

    def seconds(self, model: str, parameters: int | None, size: RunSize) -> float:
        """What a run will take: the median of what was measured, else from the number of parameters."""
        with self._lock:
            samples = sorted(self._measured.get(model, ()))
        per_lane = samples[len(samples) // 2] if samples else guessed_lane_s(parameters, size.new_tokens)
        return per_lane * size.lanes * size.executions

    def declared(self, model: str, parameters: int | None, size: RunSize) -> int:
        """GPU seconds to ask ZeroGPU for: enough with headroom, and no more, as what is asked for counts."""
        wanted = _START_S + _HEADROOM * self.seconds(model, parameters, size)
        return max(LEAST_S, min(MOST_S, math.ceil(wanted)))


def guessed_lane_s(parameters: int | None, new_tokens: int) -> float:
    """Seconds of one lane on a data-centre GPU: prefill and an answer of usual length. A guess, never measured."""
    billions = (parameters or 7_000_000_000) / 1e9
    return 0.3 + 0.1 * billions + min(new_tokens, 2 * _ANSWER_TOKENS) * (0.015 + 0.003 * billions)


PACE = Pace()
"""Of this process."""


Kind = Literal["compare", "select_only", "sweep", "rescue", "inside", "horizon", "ask_with"]


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What the page or the API asks for; the fields mean what ``tokviz.compare_events`` says.

    evidence_at: of a video, the frame of the file (from 0) that each box of ``evidence`` lies in.
    precision, kernel: how the model is loaded, see ``ModelSpec``.
    media: the decoded ``image``, see ``opened``.
    kind: what is asked: a comparison, or one of ``studies``, with ``options`` of its own.
    """

    model: str
    image: str | None
    question: str
    methods: tuple[tuple[str, Mapping[str, Any]], ...]
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
    kind: Kind = "compare"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        """The model that answers, and how it is loaded."""
        return ModelSpec(id_of(self.model), self.precision, self.kernel)

    @property
    def size(self) -> RunSize:
        """How much is asked for."""
        return RunSize.of(len(self.methods), self.repeats, self.max_new_tokens)


Runner = Callable[[RunRequest, threading.Event], "Iterator[Event]"]
Loader = Callable[[ModelSpec], Iterable[str]]
"""Makes a model ready; yields what it is doing, for the notice of the page."""


def declared_seconds(request: RunRequest) -> int:
    """GPU seconds that ZeroGPU is asked for. What bounds itself asks for that, and for the runs in front of it."""
    parameters, bound = model_option(request.model).parameters, request.options.get("seconds")
    if bound is None:
        return PACE.declared(request.model, parameters, request.size)
    ahead = PACE.declared(request.model, parameters, RunSize.of(len(request.methods), 1, request.max_new_tokens))
    return min(MOST_S, ahead + math.ceil(bound))


def opened(request: RunRequest, stop: threading.Event) -> RunRequest:
    """The request with its image or video decoded, in a process with limits: files come from strangers.

    Raises BadInput; also when ``stop`` is set meanwhile.
    """
    if request.image is None:
        raise BadInput("There is no image: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file, or a video.")
    from ..media.video import is_video
    from ..runs.inputs import open_media

    vlm = model(request.spec)
    # The field for frames keeps its number while images are asked about.
    frames = request.frames if is_video(request.image) else None
    try:
        return replace(request, media=open_media(vlm, request.image, frames, isolated=True, stop=stop))
    except Stopped as error:
        raise BadInput("Stopped before the image was encoded.") from error


def run_request(request: RunRequest, stop: threading.Event) -> Iterator[Any]:
    """Carry a request out: events of a comparison, or what ``studies`` yields, of which the last one is the result.

    Raises BadInput before the first event when it cannot be served.
    """
    import tokviz

    from . import studies

    vlm = model(request.spec)
    media = request.media if request.media is not None else opened(request, stop).media
    shared: dict[str, Any] = {
        "seed": request.seed,
        "max_new_tokens": request.max_new_tokens,
        "expected": request.expected,
        "stop": stop,
        **_evidence(request, media),
    }
    events: Iterator[Any]
    if request.kind == "compare":
        choice: dict[str, Any] = {"budget": request.budget, "budget_as": request.budget_as, "params": request.params}
        events = tokviz.compare_events(
            vlm, media, request.question, methods=request.methods, repeats=request.repeats, **choice, **shared
        )
    else:
        events = studies.outputs(request, vlm, media, shared)
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


def _evidence(request: RunRequest, media: InputImage | Video) -> dict[str, Any]:
    """The evidence as ``compare_events`` wants it; of a video only what lies in frames that are looked at."""
    indices = getattr(media, "indices", None)
    if not request.evidence_at or indices is None:  # frames of an image are refused there
        return {"evidence": request.evidence, "evidence_frames": request.evidence_at}
    looked_at = {number: position for position, number in enumerate(indices)}
    boxes = zip(request.evidence, request.evidence_at, strict=True)
    there = [(box, looked_at[number]) for box, number in boxes if number in looked_at]
    return {"evidence": [box for box, _ in there], "evidence_frames": [position for _, position in there]}
