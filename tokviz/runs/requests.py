"""What a request must be before anything is computed; everything else is refused with a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..errors import BadInput, nearest
from ..models.loading import VisionLanguageModel
from ..models.prompts import placeholders
from ..names import UNPRUNED, Box
from ..pruners import Pruner, get
from ..records import RequestedMethod, TokenGrid
from ..session_limits import MAX_EVIDENCE
from ..short import kind_of, passed
from .inputs import check_whole

MAX_QUESTION_CHARACTERS = 2000
MAX_NEW_TOKENS = 1024

MethodLike = str | Pruner | tuple[str | Pruner, Mapping[str, Any]] | RequestedMethod
"""What names a method: its id, the object itself, either with parameters of its own, or what a session asked for."""


@dataclass(frozen=True)
class ChosenMethod:
    """A method of a request with all its parameters; ``requested`` is what the session stores of it."""

    pruner: Pruner
    requested: RequestedMethod

    @property
    def label(self) -> str:
        """For people: the method's, with what sets it apart where it is asked for more than once."""
        variant = self.requested.variant
        return f"{self.pruner.label} ({variant})" if variant else self.pruner.label


def chosen_methods(
    methods: Sequence[MethodLike], params: Mapping[str, Mapping[str, Any]] | None = None
) -> list[ChosenMethod]:
    """The unpruned run, then the methods in the order given, each once with the same parameters.

    ``params`` are for every entry of a method; those of an entry itself come on top. Raises BadInput.
    """
    if isinstance(methods, str):
        raise BadInput(f"methods must be a list of method ids, not the text {passed(methods)}.")
    entries = [method_entry(method) for method in [UNPRUNED, *listed("methods", methods)]]
    shared = _params_by_method({pruner.id: pruner for pruner, _ in entries}, params)
    chosen: list[tuple[Pruner, dict[str, Any]]] = []
    for pruner, own in entries:
        if any(other.id == pruner.id and other is not pruner for other, _ in chosen):
            raise BadInput(f"Two different methods have the id {pruner.id!r}; give yours another one.")
        pair = pruner, dict(pruner.complete({**shared.get(pruner.id, {}), **own}))
        if pair not in chosen:
            chosen.append(pair)
    times = {pruner.id: sum(other is pruner for other, _ in chosen) for pruner, _ in chosen}
    return [
        ChosenMethod(
            pruner,
            RequestedMethod(
                method=pruner.id, params=values, variant=_variant(pruner, values) if times[pruner.id] > 1 else ""
            ),
        )
        for pruner, values in chosen
    ]


def method_entry(method: object) -> tuple[Pruner, Mapping[str, Any]]:
    """The pruner, and the parameters that came with it. Raises BadInput."""
    own: Mapping[str, Any] = {}
    named = method
    if isinstance(method, RequestedMethod):
        named, own = method.method, method.params
    elif isinstance(method, tuple | list) and len(method) == 2 and isinstance(method[1], Mapping):
        named, own = method
    if not isinstance(named, str | Pruner):
        raise BadInput(
            f"methods must be a list of method ids, and {passed(named)} is none: {kind_of(named)}. "
            "A pruner object, or (id, {parameter: value}), will do as well."
        )
    return named if isinstance(named, Pruner) else get(named), own


def _params_by_method(pruners: Mapping[str, Pruner], params: object) -> dict[str, Mapping[str, Any]]:
    given = {} if params is None else params
    if not isinstance(given, Mapping):
        raise BadInput(f"params must be {{method: {{name: value}}}}, not {passed(given)}.")
    for id, values in given.items():
        if id not in pruners:
            near = nearest(id, pruners)
            advice = f"; did you mean {near!r}?" if near else "."
            raise BadInput(f"There are parameters for {passed(id)}, which is not among the methods to run{advice}")
        if not isinstance(values, Mapping | None):
            raise BadInput(f"The parameters of {id} must be {{name: value}}, not {passed(values)}.")
    return {id: values or {} for id, values in given.items()}


def _variant(pruner: Pruner, values: Mapping[str, Any]) -> str:
    """What of the parameters is not the default: enough to tell two runs of one method apart."""
    changed = (param for param in pruner.settings if values[param.name] != param.default)
    return ", ".join(f"{param.name}={_value_text(values[param.name])}" for param in changed)


def _value_text(value: Any) -> str:
    """A parameter's value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def check_question(question: str, vlm: VisionLanguageModel) -> str:
    """The question without outer blanks. Raises BadInput when empty, too long, or with the model's reserved words."""
    if not isinstance(question, str) or not question.strip():
        raise BadInput("There is no question: type one about the image.")
    question = question.strip()
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise BadInput(
            f"The question has {len(question):,} characters; the limit is {MAX_QUESTION_CHARACTERS:,}. "
            "Please shorten it."
        )
    check_text("The question", question)
    tokenizer = vlm.processor.tokenizer
    # As ids, not only as text: a tokenizer may normalise case or width before it looks for its reserved words.
    ids = set(tokenizer(question, add_special_tokens=False)["input_ids"]) & set(tokenizer.all_special_ids)
    written = [reserved for reserved in (*tokenizer.all_special_tokens, *placeholders(vlm)) if reserved in question]
    reserved_ids = ids - {tokenizer.unk_token_id}
    if written or reserved_ids:
        reserved = written[0] if written else tokenizer.convert_ids_to_tokens(min(reserved_ids))
        raise BadInput(f"The question contains {reserved!r}, which is reserved by the model; please leave it out.")
    return question


def check_text(what: str, value: object) -> None:
    """Raises BadInput for what is no text that can be written."""
    if not isinstance(value, str):
        raise BadInput(f"{what} must be text, not {passed(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{what} is not valid text (UTF-8); please type it again.") from error


def check_model(vlm: object, called: str = "compare") -> None:
    """Raises BadInput for anything but a loaded model; ``called`` is the function that it was given to."""
    if not isinstance(vlm, VisionLanguageModel):
        raise BadInput(
            f"The first argument is a model as tokviz.load returns it, not {kind_of(vlm)}: write "
            f"tokviz.{called}(tokviz.load(...), ...) with the model's id or folder, or tokviz.wrap(model, processor) "
            "for one that you hold already."
        )


def listed(name: str, values: object) -> list[Any]:
    """Values that should be a list. Raises BadInput."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise BadInput(f"{name} must be a list, not {passed(values)}.")
    return list(values)


def check_numbers(budget: int, budget_as: str, seed: int, repeats: int, max_new_tokens: int, grid: TokenGrid) -> None:
    """Raises BadInput for numbers that are none, or out of range."""
    what = "video" if grid.is_video else "image"
    check_whole("The budget", budget, 1, grid.n_tokens, f" (this {what} has {grid.n_tokens} visual tokens)")
    check_whole("The seed", seed, 0, 2**63 - 1)
    check_whole("The number of repeats", repeats, 1, 100)
    check_whole("The number of new tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    if budget_as not in ("published", "final", "average"):
        raise BadInput(f"budget_as must be published, final or average, not {passed(budget_as)}.")


def evidence_boxes(evidence: Sequence[Box]) -> list[Box]:
    """The boxes as four floats each. Raises BadInput for anything else, and for more than a session holds."""
    boxes = listed("evidence", evidence)
    if len(boxes) > MAX_EVIDENCE:
        raise BadInput(f"There are {len(boxes):,} evidence boxes; a session holds at most {MAX_EVIDENCE:,}.")
    return [_check_box(box) for box in boxes]


def _check_box(box: object) -> Box:
    sides = list(box) if isinstance(box, Iterable) and not isinstance(box, str | bytes | Mapping) else []
    if len(sides) == 4 and all(isinstance(side, Real) and not isinstance(side, bool) for side in sides):
        try:
            x0, y0, x1, y1 = map(float, sides)
        except OverflowError:  # a whole number beyond every float
            x0 = y0 = x1 = y1 = math.inf
        if all(map(math.isfinite, (x0, y0, x1, y1))) and x0 < x1 and y0 < y1:
            return x0, y0, x1, y1
    raise BadInput(f"An evidence box is x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1, not {passed(box)}.")


def check_context(vlm: VisionLanguageModel, length: int, max_new_tokens: int, question: str, grid: TokenGrid) -> None:
    """Refuse what the model has no positions for, with the advice that helps. length: of the prompt, image included."""
    limit = getattr(vlm.text_config, "max_position_embeddings", None)
    if not limit or length + max_new_tokens <= limit:
        return
    room = limit - length
    what = "Video" if grid.is_video else "Image"
    asked = len(vlm.processor.tokenizer(question, add_special_tokens=False)["input_ids"])
    if room > 0:
        advice = f"allow at most {room} new {'token' if room == 1 else 'tokens'}"
    elif sum(len(view.frames) for view in grid.views) > 1:
        advice = "use fewer frames"
    elif 1 - room < asked:  # a question that much shorter still asks something
        advice = f"shorten the question by at least {1 - room} of its {asked} tokens"
    elif _fewer_when_smaller(vlm, grid):
        advice = f"use a smaller image, which alone takes {grid.n_tokens} of them, or another model"
    else:
        advice = f"choose another model: with this one every image takes {grid.n_tokens} of them"
    raise BadInput(
        f"{what}, question and answer need {length + max_new_tokens} tokens; {vlm.record.name} takes {limit}. "
        f"Please {advice}."
    )


def _fewer_when_smaller(vlm: VisionLanguageModel, grid: TokenGrid) -> bool:
    """Whether the model makes fewer visual tokens of an image of a quarter of the size per side."""
    width, height = (max(side // 4, 1) for side in grid.image_size)
    try:
        return vlm.family.grid(vlm.model, vlm.processor, (width, height), {}).n_tokens < grid.n_tokens
    except BadInput:  # so small an image is none that the model takes
        return False
