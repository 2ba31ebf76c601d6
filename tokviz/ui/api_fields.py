"""What the endpoints beside ``/compare`` have in common: their fields, how they are registered and carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..serving.queue import RunQueue
from ..serving.running import Kind, Runner
from ..short import passed
from . import text
from .api import BOXES, PARAMS, documented, last_output, request_of
from .components import ImageField
from .failures import UNEXPECTED, log_failure, refusal
from .files import as_plain
from .form import whole_number

MOST_SECONDS = 100
"""A server's guests may ask for no longer work at a time."""
WHOLE_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}


def asked_about() -> list[Any]:
    """Image and question."""
    return [ImageField(type="filepath", image_mode=None, label="image"), gr.Textbox(label="question")]


def budget_fields() -> list[Any]:
    """``budget_as`` and ``params``."""
    meanings = [value for _, value in text.BUDGET_MEANINGS]
    counted = gr.Dropdown(meanings, value="published", label="budget_as", allow_custom_value=True)
    return [counted, gr.JSON({}, label="params")]


def answer_fields(models: Sequence[tuple[str, str]]) -> list[Any]:
    """From ``max_new_tokens`` to ``evidence``."""
    names = [name for _, name in models]
    return [
        gr.Number(32, label="max_new_tokens"),
        gr.Textbox("", label="expected_answer"),
        gr.Dropdown(names, value=models[0][1], label="model", allow_custom_value=True),
        gr.Number(None, label="frames"),
        gr.JSON(None, label="evidence"),
    ]


def register(function: Any, inputs: Sequence[Any], name: str, schemas: Mapping[str, Mapping[str, Any]]) -> None:
    """Serve a function as ``/name``; schemas: of parameters whose field does not know its own."""
    output, button = gr.JSON(label=name), gr.Button(name)
    told = documented(function, inputs, output, {"params": PARAMS, "evidence": BOXES, **schemas})
    button.click(function, list(inputs), output, api_name=name, concurrency_limit=None, **told)


async def result(
    run: Runner,
    line: RunQueue,
    caller: gr.Request,
    default_model: str,
    kind: Kind,
    given: Mapping[str, Any],
    options: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """The record that a request came to, as JSON data. Raises gr.Error with a sentence."""
    try:
        asked = request_of(default_model, **{"budget": 1, "repeats": 1, **given})
        asked = replace(asked, kind=kind, options=options())
        return await asyncio.to_thread(as_plain, await last_output(run, asked, line, caller))
    except BadInput as error:
        raise refusal(error) from error
    except Exception as error:  # the boundary to the caller: the log gets the traceback
        log_failure(f"{kind} failed")
        raise gr.Error(UNEXPECTED, print_exception=False) from error


def checked_list(name: str, values: Any) -> list[Any]:
    """Itself. Raises BadInput for what is no list."""
    if not isinstance(values, list):
        raise BadInput(f"{name} must be a list, not {passed(values)}.")
    return values


def whole_numbers(name: str, values: Any, what: str = "token") -> list[int]:
    """A list of whole numbers, each of them a ``what``. Raises BadInput."""
    return [whole_number(f"A {what} in {name}", value) for value in checked_list(name, values)]


def checked_seconds(value: Any) -> float:
    """Itself. Raises BadInput for what is none, and for more than ``MOST_SECONDS``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_SECONDS:
        raise BadInput(f"seconds must be a number above 0, at most {MOST_SECONDS}, not {passed(value)}.")
    return float(value)
