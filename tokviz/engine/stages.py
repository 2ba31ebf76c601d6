"""One stage on every row of a batch: show the signals, ask ``choose``, check the answer, note what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..types import Need, Selection, Signals, Stage, TokenMap
from .clock import Stopwatch
from .rows import Rows, gather, left_packed
from .vision import VisionSignals

Choose = Callable[[Stage, Signals, int], Selection]
"""``(stage, signals, row) -> Selection``; called once per stage and row while the prompt is prefilled."""

AttentionRows = Callable[[Stage, int, Tensor], Tensor]
"""``(stage, row, columns (n,)) -> (rows, n)``: attention of the asked rows on those columns."""

ATTENTION_KINDS = ("last_row", "text_rows")
VISION_KINDS = ("cls_attention", "encoder_keys")


@dataclass
class StageEvent:
    """One stage on one row (sequence of the batch).

    Shape:
        alive: ``(n_in,)`` int64, original indices (0..N-1 among the row's visual tokens, in sequence order) before the
        stage. selection: its indices point into ``alive``; merged features are not retained. kept: ``(K,)`` original
        indices, ascending. All on the CPU. milliseconds: duration of ``choose``, device-synchronised.
    """

    stage: Stage
    alive: Tensor
    selection: Selection
    kept: Tensor
    milliseconds: float


@dataclass
class Decisions:
    """Every selection of one prompt, so that a forward pass without a cache repeats it instead of deciding anew."""

    made: dict[tuple[int, int], Selection] = field(default_factory=dict)
    events: list[list[StageEvent]] = field(default_factory=list)
    frozen: bool = False

    def decide(
        self, number: int, stage: Stage, row: int, alive: Tensor, choose: Choose, look: Callable[[int], Signals]
    ) -> Selection:
        """The selection of stage ``number`` for ``row``: as before when frozen, else chosen now and noted."""
        if self.frozen:
            return self.made[number, row]
        signals = look(row)
        with Stopwatch(signals.features.device) as watch:
            selection = choose(stage, signals, row)
        check_selection(selection, signals.features, stage)
        self.made[number, row] = Selection(kept=selection.kept, features=selection.features)
        kept = alive[selection.kept.to(alive.device)].cpu()
        self.events[row].append(StageEvent(stage, alive.cpu(), at_rest(selection), kept, watch.milliseconds))
        return selection


def check_selection(selection: Selection, features: Tensor, stage: Stage) -> None:
    """Raises ValueError when a method broke the contract of ``Selection``."""
    kept, n = selection.kept, features.shape[0]
    where = f"stage {stage.title!r} ({stage.site_label})"
    if kept.dtype != torch.int64 or kept.dim() != 1:
        raise ValueError(f"{where}: kept must be (K,) int64, got {tuple(kept.shape)} {kept.dtype}")
    if kept.numel() and (int(kept[0]) < 0 or int(kept[-1]) >= n or not bool((kept[1:] > kept[:-1]).all())):
        raise ValueError(f"{where}: kept must be ascending, unique and within 0..{n - 1}")
    if selection.features is not None and selection.features.shape != (kept.numel(), *features.shape[1:]):
        expected = (kept.numel(), *features.shape[1:])
        raise ValueError(f"{where}: features must be {expected}, got {tuple(selection.features.shape)}")


def at_rest(selection: Selection) -> Selection:
    """The selection on the CPU and without merged features, to be kept while further stages run."""

    def rest(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().cpu()

    def rest_map(token_map: TokenMap) -> TokenMap:
        return replace(token_map, values=token_map.values.detach().cpu())

    return replace(
        selection,
        kept=selection.kept.detach().cpu(),
        score=None if selection.score is None else rest_map(selection.score),
        order=rest(selection.order),
        assignment=rest(selection.assignment),
        features=None,
        maps=tuple(rest_map(token_map) for token_map in selection.maps),
    )


@dataclass
class Looker:
    """Builds the Signals of one stage and row from what the engine holds.

    ``encoder`` are the rows' features before the projector, shrinking with encoder stages; ``attention`` and
    ``previous`` answer for in-LLM stages.
    """

    vision: Sequence[VisionSignals] | None
    encoder: list[Tensor] | None = None
    attention: AttentionRows | None = None
    previous: Callable[[int, Tensor], Tensor] | None = None

    def signals(self, stage: Stage, rows: Rows, hidden: Tensor, row: int) -> Signals:
        """What the stage asked for, of the tokens alive in ``row``."""
        columns, alive = rows.columns(row), rows.alive[row]
        if stage.site == "encoder":
            assert self.encoder is not None
            features = self.encoder[row]
        else:
            features = hidden[row, columns.to(hidden.device)]
        found: dict[str, Tensor] = {}
        for need in stage.needs:
            found.update(self._find(need, stage, rows, hidden, row, columns))
        view = None
        if self.vision is not None and self.vision[row].view is not None:
            view = self.vision[row].view
            view = None if view is None else view[alive.to(view.device)]
        return Signals(features=features, view=view, **found)

    def merge_encoder(
        self, row: int, kept: Tensor, merged: Tensor | None, project: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Follow an encoder stage; returns the merged features as embeddings, None when nothing was merged."""
        assert self.encoder is not None
        before = self.encoder[row]
        if merged is None:
            self.encoder[row] = before[kept.to(before.device)]
            return None
        self.encoder[row] = merged = merged.to(before.device, before.dtype)
        return project(merged)

    def _find(
        self, need: Need, stage: Stage, rows: Rows, hidden: Tensor, row: int, columns: Tensor
    ) -> dict[str, Tensor]:
        if need.kind in VISION_KINDS:
            assert self.vision is not None
            seen = self.vision[row].cls_attention if need.kind == "cls_attention" else self.vision[row].keys
            block = "last" if need.block == "last" else "feature"
            if block not in seen:
                raise ValueError(f"{stage.title!r} needs {need.kind} of the {block} vision block; ask encode() for it")
            values = seen[block]
            name = "cls_attention" if need.kind == "cls_attention" else "keys"
            return {name: values[rows.alive[row].to(values.device)]}
        if need.kind == "text_features":
            return {"text_features": hidden[row, rows.question[row].to(hidden.device)]}
        if need.kind in ATTENTION_KINDS:
            assert self.attention is not None
            return {"attention_rows": self.attention(stage, row, columns)}
        assert self.previous is not None
        return {"previous_features": self.previous(row, columns)}


def run_stage(
    number: int,
    stage: Stage,
    rows: Rows,
    hidden: Tensor,
    decisions: Decisions,
    choose: Choose,
    looker: Looker,
    project: Callable[[Tensor], Tensor],
    reindexes: bool,
) -> tuple[Rows, Tensor, Tensor | None]:
    """Run one stage on all rows that still have visual tokens.

    Merged features are written into ``hidden`` (a copy) before the gather.

    Shape: hidden ``(B, L, D)`` -> the rows afterwards, hidden ``(B, K, D)`` and the gathered columns ``(B, K)``, None
    when every token stayed.
    """
    stay, alive, merged_into = rows.real.clone(), list(rows.alive), hidden

    def look(row: int) -> Signals:
        return looker.signals(stage, rows, hidden, row)

    for row in range(rows.real.shape[0]):
        if not alive[row].numel():
            continue
        selection = decisions.decide(number, stage, row, alive[row], choose, look)
        kept, columns = selection.kept.to(rows.real.device), rows.columns(row)
        stay[row, columns] = False
        stay[row, columns[kept]] = True
        alive[row] = alive[row][kept]
        merged = selection.features
        if stage.site == "encoder":
            merged = looker.merge_encoder(row, kept, merged, project)
        if merged is not None:
            merged_into = hidden.clone() if merged_into is hidden else merged_into
            merged_into[row, columns[kept].to(hidden.device)] = merged.to(hidden.device, hidden.dtype)
    index = None
    if not torch.equal(stay, rows.real):
        index = left_packed(stay)
        rows, merged_into = rows.take(index, alive), gather(merged_into, index)
    if stage.positions == "reindex" and reindexes:
        rows = rows.reindexed() or rows
    return rows, merged_into, index
