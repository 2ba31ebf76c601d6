"""Prune inside your own ``generate`` call, and prepare the inputs for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .engine import Prompt, Pruned, encode, selector
from .engine import prune as prune_model
from .errors import BadInput, knows_its_keywords
from .media.video import Video
from .models.loading import VisionLanguageModel
from .models.prompts import model_inputs
from .names import Box, BudgetMeaning
from .pruners import Pruner
from .records import TokenGrid
from .runs.execute import needs_of, planning_info, planning_of
from .runs.inputs import Source, geometry_of, grid_of, open_media, placed_evidence
from .runs.metrics import evidence_shares
from .runs.requests import check_model, check_question, evidence_boxes, listed, method_entry
from .short import kind_of
from .types import Budget, PlanningInfo, Schedule, Selection, Signals, Stage

if TYPE_CHECKING:
    from .models.catalog import CatalogEntry


class Inputs(dict[str, Tensor]):
    """Processor output for an image and a question, for ``prune`` or the model's own ``generate(**inputs)``.

    Attributes:
        question_mask: ``(1, L)`` bool, True for the tokens that the user wrote; None if they cannot be told apart.
        grid: Where the visual tokens are in the image or video.
        evidence: For each visual token, the share of its patch that the marked boxes cover; None if nothing is marked.
    """

    question_mask: Tensor | None
    grid: TokenGrid
    evidence: list[float] | None


@knows_its_keywords
def inputs_for(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    *,
    frames: int | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
) -> Inputs:
    """Prepare an image or video and a question as ``compare`` does, with the model's own chat template.

    Processor output of your own (several turns, several images, batches) works with ``prune`` too. This function also
    records which tokens the user wrote and where each visual token is, which a few methods need.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        image: An image or video, in any form that ``compare`` accepts.
        question: A single question.
        frames: For a video, how many frames to sample.
        evidence: Boxes in pixels around what answers the question, for methods that need to know it (``oracle``).
        evidence_frames: For a video, the sampled frame of each box, from 0.

    Raises:
        BadInput: If an argument cannot be used; the message is one sentence.
    """
    check_model(vlm)
    media = open_media(vlm, image, frames)
    made, mask = model_inputs(vlm, media if isinstance(media, Video) else media.image, check_question(question, vlm))
    inputs = Inputs(made)
    inputs.question_mask, inputs.grid = mask, grid_of(vlm, media)
    at = listed("evidence_frames", evidence_frames)
    inputs.evidence = evidence_shares(inputs.grid, *placed_evidence(media, evidence_boxes(evidence), at))
    return inputs


@knows_its_keywords
@contextmanager
def prune(
    vlm: VisionLanguageModel,
    inputs: Mapping[str, Any],
    method: str | Pruner | tuple[str | Pruner, Mapping[str, Any]],
    *,
    budget: int,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    question_mask: Tensor | None = None,
    this_thread: bool = True,
) -> Iterator[Pruned]:
    """Prune visual tokens inside your own ``generate``: sampling, beam search, batches, streaming, a second turn.

    Works with every method, including those that prune inside the vision tower. Pass ``pruned.inputs`` to ``generate``
    in place of ``inputs``; it returns only the new tokens. Afterwards, ``pruned.kept`` holds, for each row, the
    original indices of the visual tokens that are left, and ``pruned.cache`` is the cache for a second turn inside the
    same block. Pruning applies only to this thread and to calls that are bound to it:
    ``Thread(target=pruned.bind(vlm.model.generate), kwargs=...)``.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        inputs: The output of the model's processor, or of ``tokviz.inputs_for``. Batches are padded on the left.
        method: A method id, a stack of two (``"divprune+fastv"``), a pruner object, or a pair of any of these with
            parameters.
        budget: Number of visual tokens to keep in each row.
        budget_as: What the budget counts; see ``compare``.
        params: Parameters of the method, ``{name: value}``.
        seed: Seed for everything random, the same for every row.
        question_mask: ``(B, L)`` bool, True for the tokens that the user wrote, for methods that use only those. Not
            needed with inputs from ``tokviz.inputs_for``.
        this_thread: False to prune bound calls only.

    Yields:
        The ``Pruned`` context, with ``inputs``, ``kept``, ``cache`` and ``bind``.

    Raises:
        BadInput: If the method cannot run on this model or cannot meet the budget; raised before the block is entered.

    Example:
        >>> inputs = tokviz.inputs_for(vlm, "scene.png", "what color is the star?")
        >>> with tokviz.prune(vlm, inputs, "fastv", budget=64) as pruned:
        ...     out = vlm.model.generate(**pruned.inputs, max_new_tokens=32)
    """
    check_model(vlm, "prune")
    pruner, own = method_entry(method)
    values = pruner.complete({**(params or {}), **own})
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        raise BadInput(f"inputs are what the model's processor returned, with input_ids, not {kind_of(inputs)}.")
    if question_mask is None and isinstance(inputs, Inputs):
        question_mask = inputs.question_mask
    on_device = {name: value.to(vlm.device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    grids = _grids(vlm, inputs)
    evidence = inputs.evidence if isinstance(inputs, Inputs) else None
    geometry = None if grids is None else [geometry_of(grid, evidence) for grid in grids]
    tiled, marked = grids is not None and grids[0].is_tiled, evidence is not None
    needs = needs_of(pruner, planning_of(vlm, 1, has_tiles=tiled, has_evidence=marked))
    prompt = encode(vlm.model, vlm.family, on_device, needs, question_mask=question_mask, geometry=geometry)
    asked = Budget(budget, budget_as)
    plans = [pruner.schedule(asked, info, values).of_stages for info in _infos(vlm, inputs, prompt, grids)]
    stages = _common_stages(plans)
    choose = selector(values, seed)

    def select(stage: Stage, signals: Signals, row: int) -> Selection:
        number = next(number for number, known in enumerate(stages) if known is stage)
        return choose(plans[row].stages[number], signals, row)

    with prune_model(vlm.model, vlm.family, prompt, stages, select, this_thread=this_thread) as pruned:
        yield pruned


def _grids(vlm: VisionLanguageModel, inputs: Mapping[str, Any]) -> list[TokenGrid] | None:
    """Where the visual tokens of each row are, if known: for our own inputs and for one sized image per row."""
    if isinstance(inputs, Inputs):
        return [inputs.grid]
    sizes = inputs.get("image_sizes")
    if sizes is None or len(sizes) != len(inputs["input_ids"]):
        return None
    return [vlm.family.grid(vlm.model, vlm.processor, (int(width), int(height)), {}) for height, width in sizes]


def _infos(
    vlm: VisionLanguageModel, inputs: Mapping[str, Any], prompt: Prompt, grids: Sequence[TokenGrid] | None
) -> list[PlanningInfo]:
    marked = isinstance(inputs, Inputs) and inputs.evidence is not None
    if grids is not None and [grid.n_tokens for grid in grids] == prompt.n_visual:
        return [planning_info(vlm, grid, has_evidence=marked) for grid in grids]
    has_frames = inputs.get("pixel_values_videos") is not None
    views = [1 if vision.view is None else len(torch.unique(vision.view)) for vision in prompt.vision]
    return [
        planning_of(vlm, n_visual, n_views=n_views, has_frames=has_frames, has_evidence=marked)
        for n_visual, n_views in zip(prompt.n_visual, views, strict=True)
    ]


def _common_stages(plans: Sequence[Schedule]) -> tuple[Stage, ...]:
    """The stages of the first row, if all rows have theirs at the same sites; the numbers of kept tokens may differ."""

    def shape(plan: Schedule) -> list[Any]:
        return [(stage.site, stage.needs, stage.positions, stage.proportional_attention) for stage in plan.stages]

    if any(shape(plan) != shape(plans[0]) for plan in plans):
        raise BadInput("The prompts of this batch differ too much to be pruned together; run them one by one.")
    return plans[0].stages


def list_models() -> tuple[CatalogEntry, ...]:
    """List the models on the menu, with their inputs and memory needs.

    ``load`` also accepts other checkpoints of the same architectures.
    """
    from .models.catalog import CATALOG

    return tuple(CATALOG)
