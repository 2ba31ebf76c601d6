"""Named endpoints for programs: ``/compare``, ``/list_methods`` and ``/list_models``.

Errors are gr.Error with the same sentences as on the page.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..names import BudgetMeaning
from ..pruners.pruner import Pruner
from ..resources import resource
from ..serving.callers import address_of
from ..serving.listeners import LISTENERS
from ..serving.run_queue import RunQueue
from . import text
from .client_files import refusal
from .controls import is_whole
from .endpoint_docs import documented
from .failures import UNEXPECTED, log_failure
from .method_menu import missing_by_method
from .offers import check_may_load, offer, offers
from .payload import UNPRUNED
from .pictures import PictureField
from .running import Runner, RunRequest, is_loaded, loaded, planning
from .sessions import as_plain
from .turns import Waiting, Working, in_turn

BY_HAND = "<!-- from here on by hand -->"

_SETTINGS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
    },
}
"""What ``params`` may hold; agents' tools cannot be called with gradio's own word for "any JSON"."""


def add_endpoints(run: Runner, pruners: Sequence[Pruner], models: Sequence[tuple[str, str]], line: RunQueue) -> None:
    """Register the endpoints in the current Blocks. ``line``: where runs of programs and of the page wait."""
    default_model = models[0][1]

    async def compare(
        caller: gr.Request,
        picture: str | None,
        question: str,
        methods: list[str],
        budget: int = 64,
        budget_as: BudgetMeaning = "published",
        params: dict[str, dict[str, Any]] | None = None,
        seed: int = 0,
        max_new_tokens: int = 32,
        repeats: int = 1,
        expected_answer: str = "",
        model: str = default_model,
        frames: float | None = None,
    ) -> dict[str, Any]:
        """Answer a question about a picture or video without pruning and with each method; return what each one kept.

        Args:
            picture: The picture file (PNG, JPEG, WebP, GIF, BMP, TIFF; at most 30 MB and 25 megapixels), or a video
                file for a model that takes videos (MP4, MOV, WebM, MKV, AVI; at most 100 MB, 10 minutes, 36,000 frames
                and 9.4 megapixels per frame). Which of them it is, is seen from its content. Nothing is fetched from
                elsewhere: agents give a data: URI (base64), or the address that this server serves an upload under.
            question: The question, up to 2,000 characters.
            methods: Ids of pruning methods, see list_methods. No pruning is always run first.
            budget: Visual tokens to keep, from 1 to all of them; of a video, those of all its frames together.
            budget_as: How the budget is counted: published, final or average.
            params: Parameters per method, e.g. {"apet": {"basis_tokens": 10}}.
            seed: Seed of everything random.
            max_new_tokens: Longest answer in tokens.
            repeats: Above 1, times are medians of so many runs after a warm-up.
            expected_answer: The right answer, if known; used for the verdicts only.
            model: Id of a model that this server offers.
            frames: Of a video, how many frames the model looks at, 1 to 64; null for the model's own choice.

        Returns:
            The Comparison as JSON: request, model, token grid (and of a video the frames), and one run per method with
            its stages.
        """
        try:
            asked = _asked(
                default_model, picture, question, methods, budget, budget_as, params, seed, max_new_tokens, repeats,
                expected_answer, model, frames,
            )  # fmt: skip
            stop, session = threading.Event(), caller.session_hash or ""
            address = address_of(caller.client, caller.headers)
            if not is_loaded(asked):
                check_may_load(asked.model, address)
            comparison = None
            async for event in in_turn(
                line, f"program {address}", lambda: run(asked, stop), stop, lambda: LISTENERS.is_gone(session)
            ):
                if not isinstance(event, Waiting | Working):
                    comparison = event.comparison
            if comparison is None:
                raise BadInput("The caller left before the run began.")
            return await asyncio.to_thread(as_plain, comparison)
        except BadInput as error:
            raise refusal(error) from error
        except Exception as error:  # the boundary to the caller: the log gets the traceback
            log_failure("a comparison failed")
            raise gr.Error(UNEXPECTED, print_exception=False) from error

    def list_methods() -> list[dict[str, Any]]:
        """List the pruning methods with their ids, claims and parameters.

        Returns:
            One object per method: id, label, family, claim, notes, params (name, kind, default, range, help), and
            missing: what the server's first model lacks for it as a sentence, null when it can run.
        """
        missing = missing_by_method(pruners, planning(default_model))
        return [{**method_facts(pruner), "missing": missing.get(pruner.id)} for pruner in pruners]

    def list_models() -> list[dict[str, Any]]:
        """List the models that this server offers, the default first.

        Returns:
            One object per model: id, name, family, parameters, memory_gb and memory_gb_4bit (estimated GB in bfloat16
            and with 4-bit weights), licence, takes ("picture", "video"), revision, note (null or empty where unknown),
            and loaded: how it is loaded now (device, dtype, attention kernel, ...), null when it is not.
        """
        return [{**one.as_data(), "loaded": _loaded(one.id)} for one in offers()]

    with gr.Row(visible=False):
        inputs = [
            PictureField(type="filepath", image_mode=None, label="picture"),
            gr.Textbox(label="question"),
            gr.Dropdown(
                [p.id for p in pruners if p.id != UNPRUNED], multiselect=True, allow_custom_value=True, label="methods"
            ),
            gr.Number(64, label="budget"),
            gr.Dropdown(
                [value for _, value in text.BUDGET_MEANINGS],
                value="published",
                allow_custom_value=True,
                label="budget_as",
            ),
            gr.JSON({}, label="params"),
            gr.Number(0, label="seed"),
            gr.Number(32, label="max_new_tokens"),
            gr.Number(1, label="repeats"),
            gr.Textbox("", label="expected_answer"),
            gr.Dropdown([name for _, name in models], value=default_model, allow_custom_value=True, label="model"),
            gr.Number(None, label="frames"),
        ]
        output = gr.JSON(label="comparison")
        ask = gr.Button("compare")
    told = documented(compare, inputs, output, {"params": _SETTINGS})
    ask.click(compare, inputs, output, api_name="compare", concurrency_limit=None, **told)
    gr.api(list_methods, api_name="list_methods", concurrency_limit=8, **documented(list_methods))
    gr.api(list_models, api_name="list_models", concurrency_limit=8, **documented(list_models))


def _loaded(name: str) -> dict[str, Any] | None:
    vlm = loaded(name)
    return None if vlm is None else vlm.record.model_dump()


def _asked(
    default_model: str, picture: str | None, question: Any, methods: Any, budget: Any, budget_as: Any, params: Any,
    seed: Any, max_new_tokens: Any, repeats: Any, expected_answer: Any, model: Any, frames: Any,
) -> RunRequest:  # fmt: skip
    """The request of a program. Raises BadInput for values of the wrong kind; what they may be, the run checks."""
    if not (isinstance(methods, list) and all(isinstance(method, str) for method in methods)):
        raise BadInput('methods must be a list of method ids such as ["apet", "divprune"].')
    if params is not None and not (
        isinstance(params, dict) and all(isinstance(values, dict) for values in params.values())
    ):
        raise BadInput('params must be an object such as {"apet": {"basis_tokens": 10}}.')
    texts = {"question": question, "budget_as": budget_as, "expected_answer": expected_answer, "model": model}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise BadInput(f"{name} must be text.")
    chosen = offer(model).shown if model else default_model
    return RunRequest(
        chosen, picture, question or "", tuple(methods), _whole("budget", budget), budget_as, params or {},
        _whole("seed", seed), _whole("repeats", repeats), _whole("max_new_tokens", max_new_tokens),
        expected_answer or None, frames=None if frames is None else _whole("frames", frames),
    )  # fmt: skip


def _whole(name: str, value: Any) -> int:
    if not is_whole(value):
        raise BadInput(f"{name} must be a whole number, not {value!r}.")
    return int(value)


def method_notes(method: str) -> list[str]:
    """Where paper and code of a method differ: the list on its page in docs, empty where docs are not at hand."""
    page = resource(f"docs/methods/{method}.md")
    if not page.is_file():
        return []
    by_hand = page.read_text(encoding="utf-8").partition(BY_HAND)[2]
    return [" ".join(note.split()) for note in by_hand.split("\n- ")[1:]]


def method_facts(pruner: Pruner) -> dict[str, Any]:
    """A method as plain data for programs."""
    return {
        "id": pruner.id,
        "label": pruner.label,
        "family": pruner.family,
        "claim": pruner.claim,
        "paper": pruner.paper.url if pruner.paper else None,
        "notes": method_notes(pruner.id),
        "params": [{**vars(param), "choices": list(param.choices)} for param in pruner.params],
    }
