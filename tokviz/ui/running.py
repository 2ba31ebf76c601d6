"""A request of the page as plain data, the loaded model, and the one function that does the work.

Nothing here imports torch until a model is needed. Requests and events are plain data that can be pickled, because on
ZeroGPU the work happens in a forked process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..names import Box, BudgetMeaning

if TYPE_CHECKING:
    from ..comparing import Event
    from ..models.loading import VisionLanguageModel
    from ..types import PlanningInfo


@dataclass(frozen=True)
class RunRequest:
    """What the page or the API asks for; the fields mean what ``tokviz.compare_events`` says."""

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


SQUARE = (1000, 1000)
"""A picture that every model takes, in px: for questions about a model before there is one."""

Runner = Callable[[RunRequest, threading.Event], "Iterator[Event]"]
Loader = Callable[[str], Any]

_shelf: dict[str, VisionLanguageModel] = {}
_shelf_lock = threading.Lock()


def allowed_models() -> list[tuple[str, str]]:
    """``(label, id)`` of the models this page offers, the default first.

    ``TOKVIZ_MODEL`` lists ids or folders, separated by commas. Unset: the whole catalog, but on a Space only the
    embedded model (a visitor must not start a download of 16 GB).
    """
    from ..models.catalog import CATALOG, find

    wanted = [name.strip() for name in os.environ.get("TOKVIZ_MODEL", "").split(",") if name.strip()]
    if not wanted:
        entries = CATALOG[:1] if os.environ.get("SPACE_ID") else CATALOG
        return [(entry.label, entry.id) for entry in entries]
    known = [(find(name), name) for name in wanted]
    return [(entry.label if entry else os.path.basename(name.rstrip("/")), name) for entry, name in known]


def is_loaded(name: str) -> bool:
    """Whether ``model`` would return at once."""
    return name in _shelf


def model(name: str) -> VisionLanguageModel:
    """The model of this name; loaded on first use. Only the latest is kept. Raises BadInput for names not offered."""
    import tokviz

    if name not in [offered for _, offered in allowed_models()]:
        offers = ", ".join(offered for _, offered in allowed_models())
        raise BadInput(f"This page does not offer a model named {name!r}; it offers {offers}.")
    with _shelf_lock:
        if name not in _shelf:
            _shelf.clear()
            _shelf[name] = tokviz.load(name)
        return _shelf[name]


def planning(name: str) -> PlanningInfo | None:
    """What methods may know about a model that this page offers; None while that is known only by loading it."""
    if name not in [offered for _, offered in allowed_models()]:
        return None
    loaded = _shelf.get(name)
    if loaded is None:
        from ..models.planning import planning_before_loading

        return planning_before_loading(name)
    from ..lane import planning_info

    return planning_info(loaded, loaded.family.grid(loaded.model, loaded.processor, SQUARE, {}))


def run_request(request: RunRequest, stop: threading.Event) -> Iterator[Event]:
    """Carry a request out. Raises BadInput before the first event when it cannot be served."""
    import tokviz

    if request.picture is None:
        raise BadInput("There is no picture: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file.")
    yield from tokviz.compare_events(
        model(request.model),
        request.picture,
        request.question,
        methods=request.methods,
        budget=request.budget,
        budget_as=request.budget_as,
        params=request.params,
        seed=request.seed,
        repeats=request.repeats,
        max_new_tokens=request.max_new_tokens,
        expected=request.expected,
        evidence=request.evidence,
        stop=stop,
    )


class StopFlags:
    """One stop flag per browser tab. A flag is set by Stop (or a closed tab) and renewed by the next Compare."""

    def __init__(self) -> None:
        self._flags: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def renew(self, session: str) -> threading.Event:
        """A fresh flag for the tab's next run."""
        with self._lock:
            self._flags[session] = threading.Event()
            return self._flags[session]

    def of(self, session: str) -> threading.Event:
        """The tab's current flag."""
        with self._lock:
            return self._flags.setdefault(session, threading.Event())

    def stop(self, session: str) -> None:
        """Ask the tab's run to stop."""
        self.of(session).set()

    def forget(self, session: str) -> None:
        """Stop the tab's run and drop its flag (the tab was closed)."""
        with self._lock:
            flag = self._flags.pop(session, None)
        if flag is not None:
            flag.set()
