"""A lane whose kept tokens are given: a method's choice edited by hand, everything in or outside a box, any set."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from ..comparison import Comparison
from ..errors import BadInput, knows_its_keywords
from ..media.images import InputImage, rgb_digest, stored_image
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..names import EDITED, UNPRUNED, Box, PositionPolicy, Site, edited_id
from ..pruners import Pruner
from ..pruners.pruner import budget_tokens
from ..records import Run, TokenGrid, TokenMap
from ..short import kind_of, passed
from ..types import Budget, Diagnostics, Params, PlanningInfo, Schedule, SelectFunction, Selection, Signals, Stage
from .compare import compare
from .events import relayed
from .inputs import Source, check_whole, grid_of, open_media
from .job import Job
from .metrics import evidence_tokens
from .requests import MethodLike, check_model, check_question, chosen_methods, evidence_boxes, listed

MERGED = "{} merges tokens or adds some; the edited run keeps its tokens as they were before."


def tokens_in(grid: TokenGrid, boxes: Sequence[Box], frames: Sequence[int] = ()) -> list[int]:
    """Visual tokens that lie in boxes, for ``edited`` and ``ask_with``: to keep them, or everything else.

    A token lies in a box if at least a tenth of its patch does. Tokens that are no patch (newlines) lie in none.

    Args:
        grid: ``comparison.grid``, or ``inputs_for(...).grid``.
        boxes: ``(x0, y0, x1, y1)`` in pixels of the image or of the video's frames.
        frames: For a video, the sampled frame of each box, from 0.

    Returns:
        Original indices, ascending.

    Raises:
        BadInput: For boxes that are none, and frames that do not fit.

    Example:
        >>> inside = tokviz.tokens_in(result.grid, [(40, 20, 90, 70)])
        >>> outside = [token for token in range(result.grid.n_tokens) if token not in set(inside)]
    """
    if not isinstance(grid, TokenGrid):
        raise BadInput(f"The grid is that of a comparison (comparison.grid), not {kind_of(grid)}.")
    found, numbers = evidence_boxes(boxes), listed("frames", frames)
    n_frames = 1 + max((frame for view in grid.views for frame in view.frames), default=-1)
    if len(numbers) != (len(found) if grid.is_video else 0):
        raise BadInput("Each box of a video needs its frame, and those of an image none.")
    for frame in numbers:
        check_whole("A frame", frame, 0, n_frames - 1)
    return evidence_tokens(grid, found, numbers)


def edited(kept: Iterable[int], *, of: Run | None = None, layer: int | None = None) -> Pruner:
    """Make a method that keeps the given tokens, for ``compare``, ``prune`` and everything else that takes a method.

    It only drops: tokens stay what they are. Its budget is the given set, whatever budget is asked for.

    Args:
        kept: Original indices of the visual tokens that stay, in any order; none at all withholds the image.
        of: The run whose choice was edited, such as ``comparison["fastv"]``. Tokens are dropped where that run dropped
            them: what was added survives all its stages, and what was taken away leaves at the first. With the tokens
            that it kept this is the run itself, if it merges nothing. None for one stage.
        layer: Without ``of``, the LLM layer before which tokens are dropped; None for before the LLM.

    Raises:
        BadInput: For indices that are none, or a run that failed.

    Example:
        >>> run = result["fastv"]
        >>> tokviz.compare(vlm, image, question, ["fastv", tokviz.edited([*run.kept, 112, 113], of=run)], budget=64)
    """
    tokens = checked_tokens(kept)
    if of is not None and layer is not None:
        raise BadInput("Give either the run that was edited, which says where it drops tokens, or a layer.")
    if layer is not None:
        check_whole("The layer", layer, 0, 10_000)
    edit = _Edit(tokens, of, layer)
    return Pruner(
        id=EDITED if of is None else edited_id(of.key),
        label="Edited" if of is None else f"Edited: {of.label.removeprefix('Edited: ')}",
        family="custom",
        claim="Keeps the tokens that were chosen by hand.",
        schedule=edit.schedule,
    )


def checked_tokens(kept: object, n_tokens: int | None = None) -> list[int]:
    """Indices of visual tokens, ascending, each once. Raises BadInput."""
    values = kept.tolist() if isinstance(kept, Tensor) else listed("kept", kept)
    for token in values:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise BadInput(f"kept holds the numbers of visual tokens, counted from 0, not {passed(token)}.")
        if n_tokens is not None and token >= n_tokens:
            raise BadInput(f"kept holds token {token}; there are {n_tokens} visual tokens, counted from 0.")
    return sorted({*values})


@dataclass(frozen=True)
class Kept:
    """What stays at one site. tokens: original indices, ascending."""

    site: Site
    tokens: tuple[int, ...]
    positions: PositionPolicy


def dropping_stages(run: Run, n_tokens: int) -> list[Kept]:
    """Where a run drops tokens and what is left there: all sites before the LLM as one, then its layers, ascending.

    Raises BadInput for a run that failed.
    """
    if run.error is not None:
        raise BadInput(f"{run.label} did not run, so that there is nothing to edit: {run.error}")
    early: Kept | None = None
    late: list[Kept] = []
    alive = set(range(n_tokens))
    for stage in run.stages:
        if not alive.issuperset(stage.kept):
            raise BadInput("The kept tokens of this run do not fit its image; the session is damaged.")
        alive = set(stage.kept)
        if isinstance(stage.site, int):
            late.append(Kept(stage.site, tuple(stage.kept), stage.positions))
        else:
            early = Kept("projector", tuple(stage.kept), stage.positions)
    return [*([early] if early else []), *late]


def edited_stages(stages: Sequence[Kept], added: Iterable[int], removed: Iterable[int] = ()) -> list[Kept]:
    """The same with tokens that survive every stage, and tokens that leave at the first."""
    more, less = set(added), set(removed)
    return [replace(stage, tokens=tuple(sorted({*stage.tokens, *more} - less))) for stage in stages]


def rows_of(stages: Sequence[Kept], n_tokens: int) -> list[Tensor]:
    """For each stage the rows that stay of those that are still there. Shape: ``(K,)`` int64 each, ascending."""
    rows, alive = [], torch.arange(n_tokens)
    for stage in stages:
        stay = torch.isin(alive, torch.tensor(stage.tokens, dtype=torch.int64))
        rows.append(stay.nonzero()[:, 0])
        alive = alive[stay]
    return rows


def _check_layer(layer: int, n_layers: int) -> None:
    if layer >= n_layers:
        raise BadInput(f"There is no layer {layer}: this model has 0 to {n_layers - 1}.")


@dataclass(frozen=True)
class _Edit:
    """What ``edited`` was given."""

    tokens: list[int]
    of: Run | None
    layer: int | None

    def schedule(self, budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
        """The given set, at the sites of the run that was edited."""
        budget_tokens(budget)
        checked_tokens(self.tokens, info.n_visual)
        stages = self._stages(info)
        rows = rows_of(stages, info.n_visual)
        return Schedule(
            tuple(
                Stage(
                    stage.site,
                    len(stage.tokens),
                    self._select(stay, info.n_visual),
                    (),
                    stage.positions,
                    "Edited",
                )
                for stage, stay in zip(stages, rows, strict=True)
            )
        )

    def _stages(self, info: PlanningInfo) -> list[Kept]:
        own = None if self.of is None else dropping_stages(self.of, info.n_visual)
        if own:
            before = set(own[-1].tokens)
            return edited_stages(own, set(self.tokens) - before, before - set(self.tokens))
        if self.layer is not None:
            _check_layer(self.layer, info.n_layers)
        site: Site = "projector" if self.layer is None else self.layer
        return [Kept(site, tuple(self.tokens), "reindex" if self.layer is None else "keep")]

    def _select(self, stay: Tensor, n_visual: int) -> SelectFunction:
        def select(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
            n_rows, device = len(signals.features), signals.features.device
            return Selection(kept=stay.to(device), diagnose=lambda: self._diagnostics(n_rows, n_visual))

        return select

    def _diagnostics(self, n_rows: int, n_visual: int) -> Diagnostics:
        """What was changed, told once: by the first stage."""
        if self.of is None or n_rows < n_visual:
            return Diagnostics()
        before = set(range(n_visual)) if self.of.kept is None else set(self.of.kept)
        now = set(self.tokens)
        merges = any(stage.assignment is not None or stage.n_extra for stage in self.of.stages)
        change = torch.tensor([float((token in now) - (token in before)) for token in range(n_visual)])
        return Diagnostics(
            maps=[TokenMap("edit", "Edited by hand", change, direction="1 was added, -1 was taken away")],
            facts={"added": len(now - before), "removed": len(before - now)},
            warnings=(MERGED.format(self.of.label),) if merges else (),
        )


@knows_its_keywords
def ask_with(
    vlm: VisionLanguageModel,
    image: Source | None,
    question: str | None,
    kept: Iterable[int],
    *,
    of: Run | str | None = None,
    layer: int | None = None,
    positions: Literal["source", "keep", "reindex"] = "source",
    into: Comparison | None = None,
    seed: int = 0,
    repeats: int = 1,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
) -> Comparison:
    """Ask with the given visual tokens and no others.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        image: An image or video, in any form that ``compare`` accepts. None for that of ``into``, if the session holds
            it exactly.
        question: A single question; None for that of ``into``.
        kept: Original indices of the visual tokens that stay; see ``edited`` and ``tokens_in``.
        of: The run whose choice was edited, or its key in ``into``; see ``edited``.
        layer: Without ``of``, the LLM layer before which the others are dropped; None for before the LLM.
        positions: Whether what is left is renumbered ("reindex"), keeps its positions ("keep"), or as the run has it.
        into: A comparison about the same image and question, which the run is added to: its settings (new tokens,
            repeats, seed, expected answer, evidence) hold, and those given here are not used.
        seed: Stored with the result; nothing here is random.
        repeats: How often each run is timed.
        max_new_tokens: The longest answer.
        expected: The right answer, if it is known.
        evidence: Boxes in pixels around what answers the question.
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames to sample.
        stop: An event that ends it early when it is set.

    Returns:
        ``into`` with one more run, or a new comparison of the unpruned run and this one; ``result[-1]`` is the run.

    Raises:
        BadInput: If an argument cannot be used, or ``into`` is about something else; the message is one sentence.

    Example:
        >>> result = tokviz.compare(vlm, "scene.png", "what color is the star?", ["fastv"], budget=64)
        >>> star = tokviz.tokens_in(result.grid, [(40, 20, 90, 70)])
        >>> more = tokviz.ask_with(vlm, "scene.png", None, {*result["fastv"].kept, *star}, of="fastv", into=result)
        >>> more[-1].label, more[-1].answer
    """
    check_model(vlm, "ask_with")
    tokens = checked_tokens(kept)
    method = edited(tokens, of=_run_of(of, into), layer=layer)
    if layer is not None:
        _check_layer(layer, vlm.record.n_layers)
    entry: MethodLike = (method, {"positions": positions})
    if into is None:
        if image is None or question is None:
            raise BadInput("Give an image and a question, or a comparison to add to (into=...).")
        media = open_media(vlm, image, frames)
        checked_tokens(tokens, grid_of(vlm, media).n_tokens)
        return compare(
            vlm, media, question, [entry], max(1, len(tokens)), seed=seed, repeats=repeats,
            max_new_tokens=max_new_tokens, expected=expected, evidence=evidence, evidence_frames=evidence_frames,
            stop=stop,
        )  # fmt: skip
    media = media_of(vlm, image, question, into, frames)
    checked_tokens(tokens, into.grid.n_tokens)
    return _added(vlm, media, entry, into, stop or threading.Event())


def _run_of(of: Run | str | None, into: Comparison | None) -> Run | None:
    if of is None or isinstance(of, Run):
        return of
    if not isinstance(of, str) or into is None:
        raise BadInput(f"of is a run such as comparison['fastv'], or its key in the comparison into, not {passed(of)}.")
    return run_named(into, of)


def run_named(comparison: Comparison, name: str) -> Run:
    """A run of a comparison by its key. Raises BadInput."""
    try:
        return comparison[name]
    except KeyError as error:
        known = ", ".join(run.key for run in comparison.runs)
        raise BadInput(f"This comparison has no run {passed(name)}; it has {known}.") from error


def media_of(
    vlm: VisionLanguageModel, image: Source | None, question: str | None, comparison: Comparison, frames: int | None
) -> InputImage | Video:
    """The image or video that a comparison is about: the one given, else the one inside, if that is exact.

    Raises BadInput where it is another one, or the model or the question is.
    """
    if comparison.model.name != vlm.record.name or comparison.grid.n_tokens < 1:
        raise BadInput(f"This comparison was made with {comparison.model.name}, not with {vlm.record.name}.")
    if question is not None and check_question(question, vlm) != comparison.request.question:
        raise BadInput("This comparison asks another question; leave the question out (None) to ask the same.")
    if image is None:
        if comparison.video is not None:
            raise BadInput("A session holds no whole video: give the file that the comparison was made of.")
        stored = stored_image(comparison.image)
        if rgb_digest(stored) != comparison.image.sha256:
            raise BadInput("A session holds large images in small only: give the file that this one was made of.")
        image = stored
    shown = comparison.video
    media = open_media(vlm, image, frames if shown is None or isinstance(image, Video) else len(shown.frames))
    mine = media.record.sha256
    if mine != (comparison.image if shown is None else shown).sha256:
        raise BadInput("This comparison is about another image or video than the one given.")
    if grid_of(vlm, media) != comparison.grid:
        raise BadInput("This model sees the image in other tokens than the comparison did; compare again.")
    return media


def _added(
    vlm: VisionLanguageModel, media: InputImage | Video, entry: MethodLike, into: Comparison, stop: threading.Event
) -> Comparison:
    """``into`` with the run of one more method."""
    (chosen,) = (one for one in chosen_methods([entry]) if one.pruner.id != UNPRUNED)
    taken = {run.key for run in into.runs}
    requested, number = chosen.requested, 2
    while requested.key in taken:
        requested, number = requested.model_copy(update={"variant": str(number)}), number + 1
    chosen = replace(chosen, requested=requested)
    job = Job(vlm, media, into.request, into.grid, [chosen], stop)
    last = into
    for event in relayed(job.run, stop):
        last = event.comparison
    if not last.runs:
        raise BadInput("Stopped before the answer was there.")
    request = into.request.model_copy(update={"methods": [*into.request.methods, requested]})
    return into.model_copy(update={"request": request, "runs": [*into.runs, last.runs[0]]})
