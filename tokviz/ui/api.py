"""Named endpoints for programs: ``/compare``, ``/list_methods`` and ``/list_models``.

Errors are gr.Error with the same sentences as on the page.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..names import BudgetMeaning
from ..pruners.base import Pruner
from . import text
from .handlers import UNEXPECTED, as_plain
from .method_menu import missing_by_method
from .offers import offers
from .payload import UNPRUNED
from .pictures import PictureField
from .running import Runner, RunRequest, loaded, planning

log = logging.getLogger(__name__)


def add_endpoints(run: Runner, pruners: Sequence[Pruner], models: Sequence[tuple[str, str]]) -> None:
    """Register the endpoints in the current Blocks."""
    default_model = models[0][1]

    def compare(
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
                and 9.4 megapixels per frame). Which of them it is, is seen from its content.
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
            if not isinstance(methods, list):
                raise BadInput('methods must be a list of method ids such as ["apet", "divprune"].')
            if params is not None and not (
                isinstance(params, dict) and all(isinstance(values, dict) for values in params.values())
            ):
                raise BadInput('params must be an object such as {"apet": {"basis_tokens": 10}}.')
            request = RunRequest(
                model or default_model, picture, question or "", tuple(methods or ()), _whole("budget", budget),
                budget_as, params or {}, _whole("seed", seed), _whole("repeats", repeats),
                _whole("max_new_tokens", max_new_tokens), expected_answer or None,
                frames=None if frames is None else _whole("frames", frames),
            )  # fmt: skip
            for event in run(request, threading.Event()):
                comparison = event.comparison
            return as_plain(comparison)
        except BadInput as error:
            raise gr.Error(str(error), print_exception=False, title="Bad request") from error
        except Exception as error:  # the boundary to the caller: the log gets the traceback
            log.exception("a comparison failed")
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
    ask.click(compare, inputs, output, api_name="compare", concurrency_limit=1, concurrency_id="gpu")
    gr.api(list_methods, api_name="list_methods")
    gr.api(list_models, api_name="list_models")


def _loaded(name: str) -> dict[str, Any] | None:
    vlm = loaded(name)
    return None if vlm is None else vlm.record.model_dump()


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise BadInput(f"{name} must be a whole number, not {value!r}.")
    return int(value)


def method_facts(pruner: Pruner) -> dict[str, Any]:
    """A method as plain data for programs."""
    return {
        "id": pruner.id,
        "label": pruner.label,
        "family": pruner.family,
        "claim": pruner.claim,
        "paper": pruner.paper.url if pruner.paper else None,
        "notes": list(pruner.notes),
        "params": [{**vars(param), "choices": list(param.choices)} for param in pruner.params],
    }
