"""Named endpoints for programs that look at one run more closely: ``/select_only``, ``/inside`` and ``/horizon``."""

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
    checked_seconds,
    register,
    result,
    whole_numbers,
)
from .form import whole_number


def add_look_endpoints(
    run: Runner, pruners: Sequence[Pruner], models: Sequence[tuple[str, str]], line: RunQueue
) -> None:
    """Register the endpoints in the current Blocks; arguments as those of ``add_endpoints``."""
    ids = [pruner.id for pruner in pruners if pruner.id != UNPRUNED]
    with gr.Row(visible=False):
        _add_select_only(run, ids, models, line)
        _add_inside(run, ids, models, line)
        _add_horizon(run, models, line)


def _add_select_only(run: Runner, ids: Sequence[str], models: Sequence[tuple[str, str]], line: RunQueue) -> None:
    default_model = models[0][1]

    async def select_only(
        caller: gr.Request,
        image: str | None,
        question: str,
        methods: list[str | list[Any]],
        budget: int = 64,
        budget_as: BudgetMeaning = "published",
        params: dict[str, dict[str, Any]] | None = None,
        seed: int = 0,
        model: str = default_model,
        frames: float | None = None,
        evidence: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        """Return which visual tokens each method keeps, without answering; much faster than compare.

        Args:
            image: An image or video file, as for compare.
            question: The question, up to 2,000 characters; some methods go by it.
            methods: Ids of pruning methods, or pairs of an id and parameters, as for compare.
            budget: Visual tokens to keep, from 1 to all of them.
            budget_as: What the budget counts, as for compare (published, final or average).
            params: Parameters by method, as for compare.
            seed: The random seed.
            model: Id of a model that this server offers.
            frames: For a video, how many frames the model sees, 1 to 64; null for the model's default.
            evidence: Boxes around what answers the question, as for compare; used by the method oracle.

        Returns:
            The Selections as JSON: request, model, token grid, and one entry per method with its stages (kept tokens,
            scores, groups) and the visual tokens of each layer, or the reason why it cannot run.
        """
        given: dict[str, Any] = {
            "image": image,
            "question": question,
            "methods": methods,
            "budget": budget,
            "budget_as": budget_as,
        }
        given |= {"params": params, "seed": seed, "model": model, "frames": frames, "evidence": evidence}
        given |= {"max_new_tokens": 1, "expected": None}
        return await result(run, line, caller, default_model, "select_only", given, dict)

    names = [name for _, name in models]
    inputs = [
        *asked_about(),
        gr.Dropdown(list(ids), multiselect=True, label="methods", allow_custom_value=True),
        gr.Number(64, label="budget"),
        *budget_fields(),
        gr.Number(0, label="seed"),
        gr.Dropdown(names, value=default_model, label="model", allow_custom_value=True),
        gr.Number(None, label="frames"),
        gr.JSON(None, label="evidence"),
    ]
    register(select_only, inputs, "select_only", {"methods": entries_schema(ids)})


def _add_inside(run: Runner, ids: Sequence[str], models: Sequence[tuple[str, str]], line: RunQueue) -> None:
    default_model = models[0][1]

    async def inside(
        caller: gr.Request,
        image: str | None,
        question: str,
        method: str = "",
        budget: int = 64,
        budget_as: BudgetMeaning = "published",
        params: dict[str, dict[str, Any]] | None = None,
        layers: list[int] | None = None,
        seed: int = 0,
        max_new_tokens: int = 32,
        expected_answer: str = "",
        model: str = default_model,
        frames: float | None = None,
        evidence: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        """Answer a question and return where every layer looked: text at the image, each answer token at the patches.

        Args:
            image: An image or video file, as for compare.
            question: The question, up to 2,000 characters.
            method: The id of a pruning method, to look inside its run; empty for the unpruned model.
            budget: Visual tokens that the method keeps.
            budget_as: What the budget counts, as for compare (published, final or average).
            params: Parameters of the method, {method: {name: value}}.
            layers: Layers of the LLM, from 0, whose maps of patches are returned beside the mean of all; null for six.
            seed: The random seed.
            max_new_tokens: Maximum length of an answer in tokens.
            expected_answer: The correct answer, if known; used only for the verdicts.
            model: Id of a model that this server offers.
            frames: For a video, how many frames the model sees, 1 to 64; null for the model's default.
            evidence: Boxes around what answers the question, as for compare.

        Returns:
            The Inside as JSON: the runs, the attention of each layer of the LLM by kind of token, a map of patches per
            answer token and layer, and the attention of each layer of the vision tower.
        """
        given: dict[str, Any] = {
            "image": image,
            "question": question,
            "methods": [method] if method else [],
            "budget": budget,
        }
        given |= {"budget_as": budget_as, "params": params, "seed": seed, "max_new_tokens": max_new_tokens}
        given |= {"expected": expected_answer, "model": model, "frames": frames, "evidence": evidence}
        return await result(run, line, caller, default_model, "inside", given, lambda: {"layers": _layers(layers)})

    inputs = [
        *asked_about(),
        gr.Dropdown(list(ids), label="method", value="", allow_custom_value=True),
        gr.Number(64, label="budget"),
        *budget_fields(),
        gr.JSON(None, label="layers"),
        gr.Number(0, label="seed"),
        *answer_fields(models),
    ]
    register(inside, inputs, "inside", {"layers": WHOLE_NUMBERS})


def _add_horizon(run: Runner, models: Sequence[tuple[str, str]], line: RunQueue) -> None:
    default_model = models[0][1]

    async def horizon(
        caller: gr.Request,
        image: str | None,
        question: str,
        layers: list[int] | None = None,
        block: int = 2,
        measure: Literal["removal", "alone"] = "removal",
        seed: int = 0,
        seeds: int = 5,
        seconds: float = 60,
        max_new_tokens: int = 32,
        expected_answer: str = "",
        model: str = default_model,
        frames: float | None = None,
        evidence: list[list[float]] | None = None,
    ) -> dict[str, Any]:
        """Measure from which layer on which part of the image still matters to the unpruned answer.

        Args:
            image: An image or video file, as for compare.
            question: The question, up to 2,000 characters.
            layers: Layers of the LLM, from 0, before which tokens are left out; null for six from first to last.
            block: Side in tokens of the square blocks that are left out, one at a time.
            measure: How far the answer's log-probability falls without a block (removal), or how far it rises when the
                block is all that is left of the image (alone).
            seed: The first random seed.
            seeds: How many times the random control is drawn, 1 to 64.
            seconds: How long measuring may take, at most 100; blocks become larger where they would take longer.
            max_new_tokens: Maximum length of an answer in tokens.
            expected_answer: The correct answer, if known.
            model: Id of a model that this server offers.
            frames: For a video, how many frames the model sees, 1 to 64; null for the model's default.
            evidence: Boxes around what answers the question, as for compare.

        Returns:
            The InformationHorizon as JSON: the unpruned run, and for each layer the change in nats that each block
            makes, random sets of as many tokens, and the answer without any visual token from there on.
        """
        given: dict[str, Any] = {"image": image, "question": question, "methods": [], "params": None}
        given |= {"budget_as": "published", "seed": seed, "max_new_tokens": max_new_tokens}
        given |= {"expected": expected_answer, "model": model, "frames": frames, "evidence": evidence}

        def options() -> dict[str, Any]:
            numbers = {"block": whole_number("block", block), "seeds": whole_number("seeds", seeds)}
            return {**numbers, "layers": _layers(layers), "measure": measure, "seconds": checked_seconds(seconds)}

        return await result(run, line, caller, default_model, "horizon", given, options)

    inputs = [
        *asked_about(),
        gr.JSON(None, label="layers"),
        gr.Number(2, label="block"),
        gr.Dropdown(["removal", "alone"], value="removal", label="measure", allow_custom_value=True),
        gr.Number(0, label="seed"),
        gr.Number(5, label="seeds"),
        gr.Number(60, label="seconds"),
        *answer_fields(models),
    ]
    register(horizon, inputs, "horizon", {"layers": WHOLE_NUMBERS})


def _layers(values: Any) -> list[int] | None:
    return None if values is None else whole_numbers("layers", values, "layer")
