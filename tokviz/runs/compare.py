"""How a comparison is asked for: ``tokviz.compare`` and ``tokviz.compare_events``. What they ask is done by ``job``."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..comparison import Comparison
from ..errors import knows_its_keywords
from ..names import DEFAULT_METHODS, Box, BudgetMeaning
from .events import Event, relayed
from .inputs import Source

if TYPE_CHECKING:
    from ..models.loading import VisionLanguageModel
    from .requests import MethodLike

_P = ParamSpec("_P")
_R = TypeVar("_R")


@knows_its_keywords
def compare(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    methods: Sequence[MethodLike] = DEFAULT_METHODS,
    budget: int = 64,
    *,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    repeats: int = 1,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
) -> Comparison:
    """Answer a question about an image or video without pruning, and with each method at the same budget.

    Args:
        vlm: What ``tokviz.load`` or ``tokviz.wrap`` returned.
        image: The path or the bytes of an image or video file (told apart by their content), a PIL image, or an
            ``InputImage`` or ``Video`` that was read before.
        question: One question, up to 2,000 characters.
        methods: Ids, stacks of two (``"divprune+fastv"``), pruner objects (``tokviz.pruner``), or pairs of any of
            these with parameters: ``["apet", ("apet", {"mode": "official"}), my_norm]``. The unpruned run always comes
            first, and need not be named.
        budget: Visual tokens, 1 to N (of all frames of a video together).
        budget_as: What the budget counts: as the method's paper does ("published"), the tokens after the last
            stage ("final"), or their average over the layers of the LLM ("average").
        params: Parameters by method, ``{method: {name: value}}``.
        seed: Seed of everything random.
        repeats: How often each run is timed; if more than once, times are medians after a warm-up.
        max_new_tokens: The maximum length of an answer, in tokens.
        expected: The right answer, if it is known; answers are then judged by it.
        evidence: Boxes ``(x0, y0, x1, y1)`` in pixels of the image or video, around what answers the question: for the
            measures of evidence, and for methods that need to know it (``oracle``).
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames the model looks at, 1 to 64; None for the family's own choice.
        stop: An event that ends the comparison early when it is set.

    Raises:
        BadInput: If an argument cannot be used; the message is one sentence. A method that cannot run on this model
            gives a Run with ``error`` instead.

    Example:
        >>> tokviz.compare(vlm, "scene.png", "what color is the star?", ["apet", "random"], budget=64).answers
    """
    for event in compare_events(**locals()):  # written once: ``compare_events`` takes what this function takes
        last = event.comparison
    return last


def with_keywords_of(one: Callable[_P, object]) -> Callable[[Callable[..., _R]], Callable[_P, _R]]:
    """Decorate a function that hands all its arguments on: the keywords of both are written once."""

    def decorated(other: Callable[..., _R]) -> Callable[_P, _R]:
        returned = other.__annotations__["return"]
        other.__signature__ = inspect.signature(one).replace(return_annotation=returned)  # type: ignore[attr-defined]
        other.__annotations__ = {**one.__annotations__, "return": returned}
        return knows_its_keywords(other)

    return decorated


@with_keywords_of(compare)
def compare_events(*args: Any, **kwargs: Any) -> Iterator[Event]:
    """Like ``compare``, but yield an Event whenever something is new. Input is checked before the first event.

    If ``stop`` is set, the generator ends early, after a last ``done`` event with what there is. If it was set before
    the image was encoded, there is nothing to show, and BadInput says so.
    """
    from .job import job_for  # needs torch and transformers; what a comparison is asked with is read without them

    given = inspect.signature(compare).bind(*args, **kwargs)
    given.apply_defaults()
    job = job_for(SimpleNamespace(**given.arguments))
    return relayed(job.run, job.stop)
