"""Named endpoints for programs beside a comparison: ``/sweep``, ``/rescue`` and ``/ask_with``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gradio as gr

from ..names import UNPRUNED, BudgetMeaning
from ..pruners.pruner import Pruner
from ..serving.queue import RunQueue
from ..serving.running import Runner
from .api import entries_schema
from .api_fields import (
    WHOLE_NUMBERS,
    answer_fields,
    asked_about,
    budget_fields,
    checked_list,
    checked_seconds,
    register,
    result,
    whole_numbers,
)
from .form import whole_number

_BUDGETS: dict[str, Any] = {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}


def add_study_endpoints(
    run: Runner, pruners: Sequence[Pruner], models: Sequence[tuple[str, str]], line: RunQueue
) -> None:
    """Register the endpoints in the current Blocks; arguments as those of ``add_endpoints``."""
    ids = [pruner.id for pruner in pruners if pruner.id != UNPRUNED]
    with gr.Row(visible=False):
        _add_sweep(run, ids, models, line)
        _add_rescue(run, ids, models, line)
        _add_ask_with(run, ids, models, line)


def _add_sweep(run: Runner, ids: Sequence[str], models: Sequence[tuple[str, str]], line: RunQueue) -> None:
    default_model = models[0][1]

    async def sweep(
        caller: gr.Request,
        image: str | None,
        question: str,
        methods: list[str | list[Any]],
        budgets: list[int | str] | None = None,
        budget_as: BudgetMeaning = "published",
        params: dict[str, dict[str, Any]] | None = None,
        seed: int = 0,
        seeds: int = 5,
        seconds: float = 60,
        max_new_tokens: int = 32,
        expected_answer: str = "",
        model: str = default_model,
        frames: float | None = None,
        evidence: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        """Answer a question with each method over many budgets; return answers and the unpruned answer's likelihood.

        Args:
            image: An image or video file, as for compare.
            question: The question, up to 2,000 characters.
            methods: Ids of pruning methods, or pairs of an id and parameters, as for compare.
            budgets: Visual tokens, or shares of all of them as text such as "25%"; null for eleven from 100% to 2%.
            budget_as: What the budgets count, as for compare (published, final or average).
            params: Parameters by method, as for compare.
            seed: The first random seed.
            seeds: How many seeds a method runs with at a budget where it draws random numbers, 1 to 64.
            seconds: What is not begun in this time is left out and named in notes; at most 100.
            max_new_tokens: Maximum length of an answer in tokens.
            expected_answer: The correct answer, if known; used only for the verdicts.
            model: Id of a model that this server offers.
            frames: For a video, how many frames the model sees, 1 to 64; null for the model's default.
            evidence: Boxes around what answers the question, as for compare; used by the method oracle.

        Returns:
            The Sweep as JSON: the unpruned run, and one curve per method with a point per budget and seed (answer, kept
            tokens, log-probability of the unpruned answer).
        """
        given: dict[str, Any] = {
            "image": image,
            "question": question,
            "methods": methods,
            "budget_as": budget_as,
            "params": params,
        }
        given |= {"seed": seed, "max_new_tokens": max_new_tokens, "expected": expected_answer, "model": model}
        given |= {"frames": frames, "evidence": evidence}

        def options() -> dict[str, Any]:
            return {
                "budgets": None if budgets is None else [_budget(value) for value in checked_list("budgets", budgets)],
                "seeds": whole_number("seeds", seeds),
                "seconds": checked_seconds(seconds),
            }

        return await result(run, line, caller, default_model, "sweep", given, options)

    inputs = [
        *asked_about(),
        gr.Dropdown(list(ids), multiselect=True, label="methods", allow_custom_value=True),
        gr.JSON(None, label="budgets"),
        *budget_fields(),
        gr.Number(0, label="seed"),
        gr.Number(5, label="seeds"),
        gr.Number(60, label="seconds"),
        *answer_fields(models),
    ]
    schemas = {"methods": entries_schema(ids), "budgets": _BUDGETS}
    register(sweep, inputs, "sweep", schemas)


def _add_rescue(run: Runner, ids: Sequence[str], models: Sequence[tuple[str, str]], line: RunQueue) -> None:
    default_model = models[0][1]

    async def rescue(
        caller: gr.Request,
        image: str | None,
        question: str,
        method: str,
        budget: int = 64,
        block: int = 2,
        answer: Literal["unpruned", "expected"] = "unpruned",
        budget_as: BudgetMeaning = "published",
        params: dict[str, dict[str, Any]] | None = None,
        seed: int = 0,
        seeds: int = 10,
        seconds: float = 60,
        max_new_tokens: int = 32,
        expected_answer: str = "",
        model: str = default_model,
        frames: float | None = None,
        evidence: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        """Find the part of an image that a method drops and that, given back, makes the answer likely again.

        Args:
            image: An image or video file, as for compare.
            question: The question, up to 2,000 characters.
            method: The id of one pruning method.
            budget: Visual tokens that it keeps.
            block: Side in tokens of the square blocks that are given back, one at a time.
            answer: Whose log-probability is to rise, that of the unpruned answer or of the expected one.
            budget_as: What the budget counts, as for compare (published, final or average).
            params: Parameters of the method, {method: {name: value}}.
            seed: The first random seed.
            seeds: How many random sets of dropped tokens are given back for each size of a block, 1 to 64.
            seconds: How long measuring may take, at most 100; blocks become larger where they would take longer.
            max_new_tokens: Maximum length of an answer in tokens.
            expected_answer: The correct answer, if known.
            model: Id of a model that this server offers.
            frames: For a video, how many frames the model sees, 1 to 64; null for the model's default.
            evidence: Boxes around what answers the question, as for compare.

        Returns:
            The Rescue as JSON: the runs, the gain in nats of each block, and the random control.
        """
        given: dict[str, Any] = {
            "image": image,
            "question": question,
            "methods": [method],
            "budget": budget,
            "budget_as": budget_as,
        }
        given |= {"params": params, "seed": seed, "max_new_tokens": max_new_tokens, "expected": expected_answer}
        given |= {"model": model, "frames": frames, "evidence": evidence}

        def options() -> dict[str, Any]:
            numbers = {"block": whole_number("block", block), "seeds": whole_number("seeds", seeds)}
            return {**numbers, "answer": answer, "seconds": checked_seconds(seconds)}

        return await result(run, line, caller, default_model, "rescue", given, options)

    inputs = [
        *asked_about(),
        gr.Dropdown(list(ids), label="method", allow_custom_value=True),
        gr.Number(64, label="budget"),
        gr.Number(2, label="block"),
        gr.Dropdown(["unpruned", "expected"], value="unpruned", label="answer", allow_custom_value=True),
        *budget_fields(),
        gr.Number(0, label="seed"),
        gr.Number(10, label="seeds"),
        gr.Number(60, label="seconds"),
        *answer_fields(models),
    ]
    register(rescue, inputs, "rescue", {})


def _add_ask_with(run: Runner, ids: Sequence[str], models: Sequence[tuple[str, str]], line: RunQueue) -> None:
    default_model = models[0][1]

    async def ask_with(
        caller: gr.Request,
        image: str | None,
        question: str,
        kept: list[int] | None = None,
        method: str = "",
        budget: int = 64,
        added: list[int] | None = None,
        removed: list[int] | None = None,
        layer: float | None = None,
        budget_as: BudgetMeaning = "published",
        params: dict[str, dict[str, Any]] | None = None,
        seed: int = 0,
        max_new_tokens: int = 32,
        expected_answer: str = "",
        model: str = default_model,
        frames: float | None = None,
        evidence: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        """Answer a question with the visual tokens that the caller names, or with a method's choice changed by hand.

        Args:
            image: An image or video file, as for compare.
            question: The question, up to 2,000 characters.
            kept: Numbers of the visual tokens that stay, from 0, as in the stages of a comparison; null with a method
                for those that it keeps.
            method: The id of the method whose choice is changed; it runs first. Empty for none.
            budget: Visual tokens that the method keeps.
            added: Tokens that stay beside those; they survive every stage of the method.
            removed: Tokens that do not stay.
            layer: Without a method, the layer of the LLM before which the others are dropped; null for before the LLM.
            budget_as: What the budget counts, as for compare (published, final or average).
            params: Parameters of the method, {method: {name: value}}.
            seed: The random seed of the method.
            max_new_tokens: Maximum length of an answer in tokens.
            expected_answer: The correct answer, if known; used only for the verdicts.
            model: Id of a model that this server offers.
            frames: For a video, how many frames the model sees, 1 to 64; null for the model's default.
            evidence: Boxes around what answers the question, as for compare.

        Returns:
            The Comparison as JSON: the unpruned run, the method's if there is one, and last the run with these tokens.
        """
        given: dict[str, Any] = {
            "image": image,
            "question": question,
            "methods": [method] if method else [],
            "budget": budget,
        }
        given |= {"budget_as": budget_as, "params": params, "seed": seed, "max_new_tokens": max_new_tokens}
        given |= {"expected": expected_answer, "model": model, "frames": frames, "evidence": evidence}

        def options() -> dict[str, Any]:
            named = {"kept": kept, "added": added or [], "removed": removed or []}
            tokens = {name: None if values is None else whole_numbers(name, values) for name, values in named.items()}
            return {**tokens, "layer": None if layer is None else whole_number("layer", layer), "positions": "source"}

        return await result(run, line, caller, default_model, "ask_with", given, options)

    inputs = [
        *asked_about(),
        gr.JSON(None, label="kept"),
        gr.Dropdown(list(ids), label="method", value="", allow_custom_value=True),
        gr.Number(64, label="budget"),
        gr.JSON(None, label="added"),
        gr.JSON(None, label="removed"),
        gr.Number(None, label="layer"),
        *budget_fields(),
        gr.Number(0, label="seed"),
        *answer_fields(models),
    ]
    register(ask_with, inputs, "ask_with", {"kept": WHOLE_NUMBERS, "added": WHOLE_NUMBERS, "removed": WHOLE_NUMBERS})


def _budget(value: Any) -> int | str:
    return value if isinstance(value, str) else whole_number("A budget", value)
