"""``pruning``: the context in which a stock model runs on fewer visual tokens."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily
from ..types import Selection, Signals, Stage
from .geometry import Geometry
from .hooks import HookPruner
from .intake import Told
from .prompt import Prompt
from .refusals import check_hooks, check_model, check_stages
from .registry import claim, here, release
from .stages import Choose, StageEvent

P = ParamSpec("P")
R = TypeVar("R")


class Trace:
    """What happened inside a ``pruning`` context, and the way to let other threads into it."""

    def __init__(self, pruner: HookPruner) -> None:
        self._pruner = pruner
        self._quiet = threading.Condition()
        self._running = 0
        self._closed = False

    @property
    def rows(self) -> list[list[StageEvent]]:
        """Per row of the last prefill, the events of its stages in order."""
        return self._pruner.intake.events

    @property
    def cache(self) -> Any:
        """The cache of the last forward, None without one."""
        return self._pruner.intake.cache

    def bind(self, function: Callable[P, R]) -> Callable[P, R]:
        """``function``, running inside this context in whatever thread calls it.

        For streaming: ``Thread(target=trace.bind(model.generate), kwargs=...)``. A thread that is not bound runs the
        model unpruned, as other users' threads must. Leaving the context waits for bound calls to end; when it is left
        by an exception they are stopped (``Stopped``) at their next token.
        """

        @wraps(function)
        def bound(*args: P.args, **kwargs: P.kwargs) -> R:
            if here(self._pruner.model) is self._pruner:
                return function(*args, **kwargs)
            with self._quiet:
                if self._closed:
                    raise Unsupported("The pruning context of this call has been left.")
                key = claim(self._pruner.model, self._pruner)
                self._running += 1
            try:
                return function(*args, **kwargs)
            finally:
                release(key)
                with self._quiet:
                    self._running -= 1
                    self._quiet.notify_all()

        return bound

    def _close(self, abort: bool) -> None:
        with self._quiet:
            self._closed = True
            self._pruner.aborted = abort
            self._quiet.wait_for(lambda: self._running == 0)


@contextmanager
def pruning(
    model: Any,
    family: ModelFamily,
    stages: Sequence[Stage],
    choose: Choose,
    *,
    visual_mask: Tensor | None = None,
    question_mask: Tensor | None = None,
    geometry: Sequence[Geometry | None] | None = None,
    prompt: Prompt | None = None,
    this_thread: bool = True,
) -> Iterator[Trace]:
    """Inside, ``model.generate(**inputs)`` (or ``model(**inputs)``) drops visual tokens as ``stages`` say.

    The decision is made once, while the prompt is prefilled. Acts in the thread that enters and in calls bound with
    ``Trace.bind``, in no other; several threads may hold contexts on one model at the same time. With
    ``this_thread=False`` only bound calls are pruned: use that in a generator that yields inside the block, since its
    steps may run in different threads.

    Args:
        choose: ``(stage, signals, row) -> Selection``. Copies of a prompt (beams, returned sequences) are rows too;
            give them the same selection.
        visual_mask: ``(B, L)`` bool, needed when the prompt arrives as ``inputs_embeds``.
        question_mask: ``(B, L)`` bool, the tokens that the user wrote; needed by methods that listen to nothing else.
        geometry: per row, where its visual tokens lie; None where that is not known.
        prompt: instead of masks and geometry, the prompt whose ``inputs_embeds`` arrive: original indices and vision
            signals of an already shortened prompt carry on.

    Raises Unsupported before any work when something cannot be pruned.
    """
    stages = tuple(stages)
    check_model(model, family)
    check_stages(model, family, stages, ())
    check_hooks(stages)
    pruner = HookPruner(model, family, stages, choose, Told(visual_mask, question_mask, geometry, prompt))
    trace = Trace(pruner)
    key = claim(model, pruner) if this_thread else None
    with ExitStack() as stack:
        if key is not None:
            stack.callback(release, key)
        pruner.install(stack)
        try:
            yield trace
        except BaseException:
            trace._close(abort=True)
            raise
        trace._close(abort=False)
    if not pruner.used:
        warnings.warn(
            "Nothing ran inside pruning(). If generate runs in another thread, start trace.bind(model.generate) there.",
            stacklevel=3,
        )


def running_on(
    model: Any, family: ModelFamily, prompt: Prompt, stages: Sequence[Stage] = (), choose: Choose | None = None
) -> AbstractContextManager[Trace | None]:
    """Inside, ``model.generate(**prompt.generate_inputs())`` runs as the whole model would, pruned by ``stages``.

    ``stages`` are those inside the LLM, ``choose`` as for ``pruning``. Without any, models whose embeddings say
    everything run without a hook, and there is no trace.
    """
    if not stages and prompt.deepstack is None:
        return nullcontext()
    return pruning(model, family, stages, choose or _nobody, prompt=prompt)


def _nobody(stage: Stage, signals: Signals, row: int) -> Selection:
    raise ValueError(f"running_on has stage {stage.title!r} and no choose callback")
