"""Named endpoints for programs: ``/compare``, ``/methods`` and ``/models``.

Errors are gr.Error with the same sentences as on the page.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..files import resource
from ..names import UNPRUNED, BudgetMeaning
from ..pruners.pruner import Pruner
from ..pruners.stack import JOIN
from ..serving.callers import LISTENERS, address_of
from ..serving.model_cache import is_loaded, loaded, planning
from ..serving.model_menu import check_may_load, model_option, model_options
from ..serving.queue import RunQueue, Waiting, Working, in_turn
from ..serving.running import Runner, RunRequest
from ..session_limits import MAX_EVIDENCE
from . import text
from .components import ImageField
from .failures import UNEXPECTED, log_failure, refusal
from .files import as_plain
from .form import MAX_METHODS, method_entries, missing_by_method, param_facts, placed_boxes, whole_number

BY_HAND = "<!-- from here on by hand -->"

_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_SECTION = re.compile(r"^(Args|Returns):$", re.MULTILINE)
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)$", re.MULTILINE)
_SETTINGS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
}
PARAMS: dict[str, Any] = {"type": "object", "additionalProperties": _SETTINGS}
"""What ``params`` may hold; agents' tools cannot be called with gradio's own word for "any JSON"."""
BOXES: dict[str, Any] = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 5},
    "maxItems": MAX_EVIDENCE,
}


def add_endpoints(run: Runner, pruners: Sequence[Pruner], offered: Sequence[tuple[str, str]], line: RunQueue) -> None:
    """Register the endpoints in the current Blocks.

    offered: label and name of each model. line: where runs of programs and of the page wait.
    """
    _add_compare(run, pruners, offered, line)
    _add_lists(pruners, offered[0][1])


def _add_compare(run: Runner, pruners: Sequence[Pruner], offered: Sequence[tuple[str, str]], line: RunQueue) -> None:
    default_model = offered[0][1]

    async def compare(
        caller: gr.Request,
        image: str | None,
        question: str,
        methods: list[str | list[Any]],
        budget: int = 64,
        budget_as: BudgetMeaning = "published",
        params: dict[str, dict[str, Any]] | None = None,
        seed: int = 0,
        max_new_tokens: int = 32,
        repeats: int = 1,
        expected_answer: str = "",
        model: str = default_model,
        frames: float | None = None,
        evidence: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        """Answer a question about an image or video without pruning and with each method; return what each one kept.

        Args:
            image: An image file (PNG, JPEG, WebP, GIF, BMP, TIFF; at most 30 MB and 25 megapixels), or a video file for
                a model that takes videos (MP4, MOV, WebM, MKV, AVI; at most 100 MB, 10 minutes, 36,000 frames and 9.4
                megapixels per frame). Its content decides which of them it is. Nothing is fetched from elsewhere:
                agents give a data: URI (base64), or the URL of a file that was uploaded to this server.
            question: The question, up to 2,000 characters.
            methods: Ids of pruning methods, see /methods; or pairs of an id and parameters, so that one method can run
                more than once: ["apet", ["apet", {"mode": "official"}]]. Two ids with a plus between them are one
                method before the LLM and one inside it: "divprune+fastv". At most 48. No pruning is always run first.
            budget: Visual tokens to keep, from 1 to all of them; for a video, over all its frames together.
            budget_as: What the budget counts: tokens as each paper counts them (published), tokens after the last stage
                (final), or their average over the layers of the LLM (average).
            params: Parameters by method, for every entry of it, e.g. {"apet": {"basis_tokens": 10}}; those of a pair
                come on top.
            seed: The random seed.
            max_new_tokens: Maximum length of an answer in tokens.
            repeats: Above 1, times are medians over this many runs, after a warm-up.
            expected_answer: The correct answer, if known; used only for the verdicts.
            model: Id of a model that this server offers.
            frames: For a video, how many frames the model sees, 1 to 64; null for the model's default.
            evidence: Boxes around what answers the question, [x0, y0, x1, y1] in pixels of the image; for a video
                [frame, x0, y0, x1, y1] with the number of the frame in the file, from 0. Used for what became of the
                evidence, and by the method oracle.

        Returns:
            The Comparison as JSON: request, model, token grid (for a video also the frames), and one run per method
            with its stages.
        """
        try:
            asked = request_of(
                default_model,
                image=image,
                question=question,
                methods=methods,
                budget=budget,
                budget_as=budget_as,
                params=params,
                seed=seed,
                max_new_tokens=max_new_tokens,
                repeats=repeats,
                expected=expected_answer,
                model=model,
                frames=frames,
                evidence=evidence,
            )
            event = await last_output(run, asked, line, caller)
            return await asyncio.to_thread(as_plain, event.comparison)
        except BadInput as error:
            raise refusal(error) from error
        except Exception as error:  # the boundary to the caller: the log gets the traceback
            log_failure("a comparison failed")
            raise gr.Error(UNEXPECTED, print_exception=False) from error

    own: dict[str, Any] = {"allow_custom_value": True}  # what is wrong is said in our own words
    ids = [pruner.id for pruner in pruners if pruner.id != UNPRUNED]
    meanings = [value for _, value in text.BUDGET_MEANINGS]
    with gr.Row(visible=False):
        inputs = [
            ImageField(type="filepath", image_mode=None, label="image"),
            gr.Textbox(label="question"),
            gr.Dropdown(ids, multiselect=True, label="methods", **own),
            gr.Number(64, label="budget"),
            gr.Dropdown(meanings, value="published", label="budget_as", **own),
            gr.JSON({}, label="params"),
            gr.Number(0, label="seed"),
            gr.Number(32, label="max_new_tokens"),
            gr.Number(1, label="repeats"),
            gr.Textbox("", label="expected_answer"),
            gr.Dropdown([name for _, name in offered], value=default_model, label="model", **own),
            gr.Number(None, label="frames"),
            gr.JSON(None, label="evidence"),
        ]
        output = gr.JSON(label="comparison")
        ask = gr.Button("compare")
    told = documented(compare, inputs, output, {"methods": entries_schema(ids), "params": PARAMS, "evidence": BOXES})
    ask.click(compare, inputs, output, api_name="compare", concurrency_limit=None, **told)


def _add_lists(pruners: Sequence[Pruner], default_model: str) -> None:
    def methods() -> list[dict[str, Any]]:
        """List the pruning methods with their ids, claims and parameters.

        Returns:
            One object per method: id, label, family, claim, notes, params (name, kind, default, range, help), and
            missing: what the server's first model lacks for it, as a sentence; null if it can run.
        """
        missing = missing_by_method(pruners, planning(default_model))
        return [{**method_facts(pruner), "missing": missing.get(pruner.id)} for pruner in pruners]

    def models() -> list[dict[str, Any]]:
        """List the models that this server offers, the default first.

        Returns:
            One object per model: id, name, family, parameters, memory_gb and memory_gb_4bit (estimated GB in bfloat16
            and with 4-bit weights), licence, takes ("image", "video"), revision, note (null or empty where unknown),
            and loaded: how it is loaded now (device, dtype, attention kernel, ...), null when it is not.
        """
        return [{**option.as_data(), "loaded": _loaded(option.id)} for option in model_options()]

    gr.api(methods, api_name="methods", concurrency_limit=8, **documented(methods))
    gr.api(models, api_name="models", concurrency_limit=8, **documented(models))


async def last_output(run: Runner, asked: RunRequest, line: RunQueue, caller: gr.Request) -> Any:
    """What a program's request came to, once it was its turn. Raises BadInput."""
    stop, session = threading.Event(), caller.session_hash or ""
    address = address_of(caller.client, caller.headers)
    if not is_loaded(asked.spec):
        check_may_load(asked.model, address)
    last = None
    async for output in in_turn(
        line, f"program {address}", lambda: run(asked, stop), stop, lambda: LISTENERS.is_gone(session)
    ):
        if not isinstance(output, Waiting | Working):
            last = output
    if last is None:
        raise BadInput("The caller left before the run began.")
    return last


def entries_schema(ids: Sequence[str]) -> dict[str, Any]:
    """What ``methods`` may hold. In the form of older JSON schemas, which is all that some agents can read."""
    known = "|".join(ids)
    id = {"type": "string", "enum": list(ids)}
    stack = {"type": "string", "pattern": rf"^({known})\{JOIN}({known})$"}
    pair = {"type": "array", "items": {"anyOf": [id, stack, _SETTINGS]}, "minItems": 2, "maxItems": 2}
    return {"type": "array", "items": {"anyOf": [id, stack, pair]}, "maxItems": MAX_METHODS}


def _loaded(name: str) -> dict[str, Any] | None:
    vlm = loaded(name)
    return None if vlm is None else vlm.record.model_dump()


def request_of(default_model: str, **given: Any) -> RunRequest:
    """The request of a program. Raises BadInput for values of the wrong kind; what they may be, the run checks."""
    params, model = given["params"], given["model"]
    methods = method_entries(
        given["methods"],
        'methods must be a list of ids, or of pairs of an id and parameters, such as ["apet", ["apet", {"mode": '
        '"official"}]].',
    )
    if params is not None and not (
        isinstance(params, dict) and all(isinstance(values, dict) for values in params.values())
    ):
        raise BadInput('params must be an object such as {"apet": {"basis_tokens": 10}}.')
    for name in ("question", "budget_as", "expected", "model"):
        if given[name] is not None and not isinstance(given[name], str):
            raise BadInput(f"{'expected_answer' if name == 'expected' else name} must be text.")
    for name in ("budget", "seed", "repeats", "max_new_tokens", "frames"):
        if name != "frames" or given[name] is not None:
            given[name] = whole_number(name, given[name])
    boxes, frames = placed_boxes(given.pop("evidence"))
    wanted = {
        "evidence": boxes,
        "evidence_at": frames,
        "model": model_option(model).shown if model else default_model,
        "question": given["question"] or "",
        "methods": tuple(methods),
        "params": params or {},
        "expected": given["expected"] or None,
    }
    return RunRequest(**{**given, **wanted})


def method_notes(method: str) -> list[str]:
    """Where paper and code of a method differ: the list on its page in docs, empty where docs are not at hand.

    As text: links to other pages of docs lead nowhere from here.
    """
    page = resource(f"docs/methods/{method}.md")
    if not page.is_file():
        return []
    by_hand = page.read_text(encoding="utf-8").partition(BY_HAND)[2]
    # A note ends where its list does: what follows it may be the next heading.
    notes = (note.partition("\n\n")[0] for note in by_hand.split("\n- ")[1:])
    return [" ".join(_LINK.sub(r"\1", note).split()) for note in notes]


def method_facts(pruner: Pruner) -> dict[str, Any]:
    """A method as plain data for programs."""
    return {
        **{name: getattr(pruner, name) for name in ("id", "label", "family", "claim")},
        "paper": pruner.paper.url if pruner.paper else None,
        "notes": method_notes(pruner.id),
        "params": param_facts(pruner),
    }


def read_docs(function: Callable[..., Any]) -> tuple[str, dict[str, str], str]:
    """What a docstring in Google's style says of the function, each parameter and what it returns, each on one line.

    Raises ValueError when what it returns is not said.
    """
    about, *sections = _SECTION.split(inspect.getdoc(function) or "")
    parts = dict(zip(sections[::2], sections[1::2], strict=True))
    returns = " ".join(parts.get("Returns", "").split())
    if not returns:
        raise ValueError(f"{function.__name__} does not say what it returns.")
    arguments = {name: " ".join(told.split()) for name, told in _ARGUMENT.findall(parts.get("Args", ""))}
    return " ".join(about.split()), arguments, returns


def documented(
    function: Callable[..., Any],
    inputs: Sequence[gr.components.Component] = (),
    output: Any = None,
    schemas: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Bring a docstring to where programs and agents read it; gives the arguments of the event that serves it.

    gradio takes of it only the first line of each parameter, and hands even that to MCP alone: the API page and
    ``/gradio_api/info`` know no more than the kind of component.

    Args:
        inputs: the components of the parameters, labelled with their names.
        output: the component of the answer.
        schemas: JSON schemas of parameters whose component does not know its own.

    Raises ValueError when a component's parameter is not described.
    """
    about, arguments, returns = read_docs(function)
    for component in inputs:
        name = str(component.label)
        if not arguments.get(name):
            raise ValueError(f"{function.__name__} does not describe its parameter {name}.")
        _describe(component, arguments[name], schemas.get(name))
    if output is not None:
        _describe(output, returns)
    lines = [about, "", "Args:", *(f"    {name}: {told}" for name, told in arguments.items()), "", "Returns:"]
    function.__doc__ = "\n".join([*lines, f"    {returns}"])
    return {"api_description": f"{about} Returns: {returns}"}


def _describe(component: gr.components.Component, told: str, schema: Mapping[str, Any] | None = None) -> None:
    kind = component.api_info if schema is None else lambda: schema
    # The second is what the API page and gradio_client show of a parameter.
    component.api_info = lambda: {**kind(), "description": told, "additional_description": told}  # type: ignore
