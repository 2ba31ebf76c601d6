"""``prune``: the context in which a stock model runs on fewer visual tokens."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily
from ..types import Stage
from .capture import claim, here
from .checks import check_hooks, check_kernel, check_model, check_stages
from .hooks import HookPruner
from .prefill import PromptHints
from .prompt import Prompt, encode, merged_prompt
from .sequence import Rows
from .signals import Geometry
from .stages import Chooser, Select, StageEvent, selector

P = ParamSpec("P")
R = TypeVar("R")


class Pruned:
    """What happened inside a ``prune`` context, and the way to let other threads into it."""

    def __init__(self, pruner: HookPruner) -> None:
        self._pruner = pruner
        self._quiet = threading.Condition()
        self._running = 0
        self._closed = False

    def __repr__(self) -> str:
        kept = [len(alive) for alive in self._pruner.reader.alive]
        left = f"visual tokens left: {', '.join(map(str, kept))}" if kept else "not run yet"
        return f"Pruned({left})"

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What ``model.generate`` takes; it returns the new tokens only."""
        prompt = self._pruner.reader.hints.prompt
        if prompt is None:
            raise Unsupported("This context was given no inputs; call generate with your own.")
        return prompt.generate_inputs()

    @property
    def events(self) -> list[list[StageEvent]]:
        """Per row of the last prefill, the events of its stages in order."""
        return self._pruner.reader.events

    @property
    def kept(self) -> list[Tensor]:
        """Per row of the last prefill, the original indices of the visual tokens that are left. Shape: ``(K,)``."""
        return [alive.sort().values.cpu() for alive in self._pruner.reader.alive]

    @property
    def rows(self) -> Rows | None:
        """While this thread prefills: the sequence as the layer at hand gets it. None elsewhere."""
        return self._pruner.current_rows

    @property
    def cache(self) -> Any:
        """The cache of the last forward, None without one."""
        return self._pruner.reader.cache

    def bind(self, function: Callable[P, R]) -> Callable[P, R]:
        """``function``, running inside this context in whatever thread calls it.

        For streaming: ``Thread(target=pruned.bind(model.generate), kwargs=...)``. A thread that is not bound runs the
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
                release = claim(self._pruner.model, self._pruner)
                self._running += 1
            try:
                return function(*args, **kwargs)
            finally:
                release()
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
def prune(
    model: Any,
    family: ModelFamily,
    inputs: Mapping[str, Any] | Prompt | None,
    stages: Sequence[Stage],
    select: Select,
    *,
    visual_mask: Tensor | None = None,
    question_mask: Tensor | None = None,
    geometry: Sequence[Geometry | None] | None = None,
    this_thread: bool = True,
    diagnose: bool = False,
) -> Iterator[Pruned]:
    """Run the model's own ``generate`` inside the block on fewer visual tokens, as ``stages`` say.

    Serves every stage: those inside the vision tower, before the LLM and inside it; see ``tokviz.prune``. To
    ``generate`` the sequence keeps its full length. Acts in the thread that enters and in calls bound with
    ``Pruned.bind``, in no other; several threads may hold contexts on one model at the same time.

    Args:
        inputs: What the processor made (encoded at once, before the block is entered), a prompt from ``encode``
            (shortened or not), or None to call ``generate`` with inputs of one's own. The latter cannot serve stages
            inside the vision tower.
        stages: In the order in which a prompt passes them.
        select: ``(stage, signals, row) -> Selection``, called while a prompt is prefilled; see ``selector``. Without
            ``inputs``, copies of a prompt (beams, returned sequences) are rows of their own: give them the same
            selection.
        visual_mask: ``(B, L)`` bool, needed when inputs of one's own are ``inputs_embeds``.
        question_mask: ``(B, L)`` bool, the tokens that the user wrote; needed by methods that listen to nothing else.
        geometry: Per row, where its visual tokens lie; None where that is not known.
        this_thread: False to prune bound calls only. Use it in a generator that yields inside the block, since its
            steps may run in different threads.
        diagnose: True to fill ``StageEvent.diagnostics``.

    Raises:
        Unsupported: Before any work, when something cannot be pruned.
    """
    stages = tuple(stages)
    check_model(model, family)
    check_stages(model, family, stages, ())
    chooser = Chooser(select, diagnose)
    if inputs is None:
        check_hooks(stages)
        prompt = None
    elif isinstance(inputs, Prompt):
        prompt = inputs
    else:
        needs = {need for stage in stages for need in stage.needs}
        prompt = encode(model, family, inputs, needs, question_mask=question_mask, geometry=geometry)
    merging = None if prompt is None else merged_prompt(model, family, prompt, stages, chooser)
    if prompt is not None and prompt.carried is not None:
        check_kernel(model, family)
    pruner = HookPruner(
        model, family, stages, chooser, PromptHints(visual_mask, question_mask, geometry, prompt, merging)
    )
    pruned = Pruned(pruner)
    release = claim(model, pruner) if this_thread else None
    with ExitStack() as stack:
        if release is not None:
            stack.callback(release)
        pruner.install(stack)
        try:
            yield pruned
        except BaseException:
            pruned._close(abort=True)
            raise
        pruned._close(abort=False)
    if not pruner.used:
        warnings.warn(
            "Nothing ran inside prune(). If generate runs in another thread, start pruned.bind(model.generate) there.",
            stacklevel=3,
        )


def running_on(
    model: Any,
    family: ModelFamily,
    prompt: Prompt,
    stages: Sequence[Stage] = (),
    select: Select | None = None,
    *,
    diagnose: bool = False,
) -> AbstractContextManager[Pruned | None]:
    """Inside, ``model.generate(**prompt.generate_inputs())`` runs as the whole model would, pruned by ``stages``.

    ``stages`` are those inside the LLM, ``select`` as for ``prune``. Without any, models whose embeddings say
    everything run without a hook, and ``None`` is returned.
    """
    if not stages and prompt.deepstack is None and prompt.carried is None:
        return nullcontext()
    return prune(model, family, prompt, stages, select or selector({}, 0), diagnose=diagnose)
