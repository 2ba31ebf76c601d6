"""One stage on every row of a batch: show the signals, ask ``choose``, carry the answer out, note what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..types import Diagnostics, Selection, Signals, Stage
from .clock import Stopwatch
from .looker import Looker
from .rows import Rows, gather, left_packed
from .selections import at_rest, carried_out, check_selection

Choose = Callable[[Stage, Signals, int], Selection]
"""``(stage, signals, row) -> Selection``; called once per stage and row while the prompt is prefilled."""


@dataclass
class StageEvent:
    """One stage on one row (sequence of the batch).

    Shape:
        alive: ``(n_in,)`` int64, original indices (0..N-1 among the row's visual tokens, in sequence order) before the
        stage. selection: its indices point into ``alive``; merged and added features are not retained. kept: ``(K,)``
        original indices, ascending. sequence: ``(n_out,)`` original indices in the order in which the LLM gets the
        tokens after the stage, -1 for added ones, those of earlier stages included. All on the CPU. n_extra: tokens
        that this stage added. milliseconds: duration of ``choose``, device-synchronised.
    """

    stage: Stage
    alive: Tensor
    selection: Selection
    kept: Tensor
    milliseconds: float
    sequence: Tensor
    n_extra: int = 0
    diagnostics: Diagnostics | None = None


@dataclass
class Decisions:
    """Every selection of one prompt, so that a forward pass without a cache repeats it instead of deciding anew."""

    made: dict[tuple[int, int], Selection] = field(default_factory=dict)
    events: list[list[StageEvent]] = field(default_factory=list)
    frozen: bool = False

    def decide(
        self, number: int, stage: Stage, row: int, rows: Rows, choose: Choose, look: Callable[[int], Signals]
    ) -> Selection:
        """The selection of stage ``number`` for ``row``: as before when frozen, else chosen now and noted."""
        if self.frozen:
            return self.made[number, row]
        signals = look(row)
        with Stopwatch(signals.features.device) as watch:
            selection = choose(stage, signals, row)
        check_selection(selection, signals.features, stage)
        self.made[number, row] = carried_out(selection)
        alive = rows.alive[row]
        kept = alive[selection.kept.to(alive.device)].sort().values.cpu()
        n_extra = 0 if selection.extra is None else selection.extra.shape[0]
        event = StageEvent(
            stage, alive.cpu(), at_rest(selection), kept, watch.milliseconds, kept, n_extra, selection.diagnostics
        )
        self.events[row].append(event)
        return selection

    def note_sequence(self, row: int, rows: Rows) -> None:
        """Complete the row's last event with the order of its tokens, once the stage is carried out."""
        if not self.frozen:
            self.events[row][-1].sequence = rows.sequence(row).cpu()


@dataclass(frozen=True)
class Placed:
    """Where the tokens of one row stand after a stage.

    Shape: tokens ``(K + E,)`` columns of the sequence before, in the new order; places ``(K + E,)`` the same columns,
    ascending; taken ``(E,)`` the dropped tokens' columns that added tokens take; order ``(K,)`` positions in ``kept``
    in the new order. moved: whether any token changes its column.
    """

    tokens: Tensor
    places: Tensor
    taken: Tensor
    order: Tensor
    moved: bool


def place(selection: Selection, rows: Rows, row: int, stage: Stage) -> Placed:
    """Give every kept and added token of a row its column.

    Added tokens take the columns (and with policy ``keep`` the positions) of the last dropped tokens. Without a
    sequence they stand behind the kept tokens of the picture whose columns they take. Where text separates pictures
    (tiles, frames), a sequence holds within each stretch of visual tokens: none of them jumps over the text.
    """
    columns = rows.columns(row)
    kept = selection.kept.to(columns.device)
    n_kept, n_extra = len(kept), 0 if selection.extra is None else len(selection.extra)
    order = torch.arange(n_kept, device=columns.device)
    if n_extra == 0 and selection.sequence is None:
        return Placed(columns[kept], columns[kept], columns[:0], order, moved=False)
    dropped = torch.ones(len(columns), dtype=torch.bool, device=columns.device)
    dropped[kept] = False
    free = columns[dropped]
    taken = free[len(free) - n_extra :]
    tokens = torch.cat([columns[kept], taken])
    picture = rows.pictures(row)
    if selection.sequence is not None:
        sequence = selection.sequence.to(columns.device)
        sequence = sequence[picture[tokens[sequence]].argsort(stable=True)]
        tokens, order = tokens[sequence], sequence[sequence < n_kept]
    else:
        tokens = tokens[picture[tokens].argsort(stable=True)]
    places = tokens.sort().values
    return Placed(tokens, places, taken, order, moved=not torch.equal(tokens, places))


def run_stage(
    number: int,
    stage: Stage,
    rows: Rows,
    hidden: Tensor,
    decisions: Decisions,
    choose: Choose,
    looker: Looker,
    project: Callable[[Tensor], Tensor],
) -> tuple[Rows, Tensor, Tensor | None]:
    """Run one stage on all rows that still have visual tokens; see ``carry_out`` for what comes back."""

    def look(row: int) -> Signals:
        return looker.signals(stage, rows, hidden, row)

    selections: list[Selection | None] = [
        decisions.decide(number, stage, row, rows, choose, look) if alive.numel() else None
        for row, alive in enumerate(rows.alive)
    ]
    after, hidden, index = carry_out(stage, rows, hidden, selections, looker, project)
    for row, selection in enumerate(selections):
        if selection is not None:
            decisions.note_sequence(row, after)
    if stage.positions == "reindex":
        after = after.reindexed() or after
    return after, hidden, index


def carry_out(
    stage: Stage,
    rows: Rows,
    hidden: Tensor,
    selections: list[Selection | None],
    looker: Looker,
    project: Callable[[Tensor], Tensor],
) -> tuple[Rows, Tensor, Tensor | None]:
    """Drop, merge, add and reorder visual tokens as the selections (per row, None for rows without any) say.

    Merged and added features are written into ``hidden`` (a copy) before the gather. Positions keep their gaps.

    Shape: hidden ``(B, L, D)`` -> the rows afterwards, hidden ``(B, K, D)`` and the gathered columns ``(B, K)``, None
    when every token stayed where it was. Without any change the rows come back as they were.
    """
    stay, added, merged_into = rows.real.clone(), rows.added.clone(), hidden
    alive, sizes = list(rows.alive), list(rows.sizes)
    source = torch.arange(rows.real.shape[1], device=rows.real.device).expand_as(rows.real).clone()
    moved = renewed = False
    for row, selection in enumerate(selections):
        if selection is None:
            continue
        placed, columns = place(selection, rows, row, stage), rows.columns(row)
        stay[row, columns] = False
        stay[row, placed.places] = True
        added[row, placed.taken] = True
        source[row, placed.places] = placed.tokens
        moved |= placed.moved
        kept = selection.kept.to(columns.device)
        alive[row] = alive[row][kept.to(alive[row].device)][placed.order.to(alive[row].device)]
        sizes[row] = _sizes(selection, rows.sizes[row], placed)
        renewed |= len(placed.taken) > 0 or sizes[row] is not rows.sizes[row]
        merged, extra, at_kept = selection.features, selection.extra, columns[kept]
        if stage.site == "encoder":
            merged, extra, changed = looker.merge_encoder(row, selection, placed.order, rows.alive[row], project)
            at_kept = at_kept if changed is None else at_kept[changed.to(at_kept.device)]
        for at, made in ((at_kept, merged), (placed.taken, extra)):
            if made is not None:
                merged_into = hidden.clone() if merged_into is hidden else merged_into
                merged_into[row, at.to(hidden.device)] = made.to(hidden.device, hidden.dtype)
    index = None
    if moved or not torch.equal(stay, rows.real):
        packed = left_packed(stay)
        index = source.gather(1, packed.clamp(min=0)).masked_fill(packed < 0, -1) if moved else packed
    if index is None and not renewed:
        return rows, merged_into, None
    rows = replace(rows, visual=rows.visual & ~added, added=added, alive=tuple(alive), sizes=tuple(sizes))
    if index is not None:
        rows, merged_into = rows.take(index), gather(merged_into, index)
    return rows, merged_into, index


def _sizes(selection: Selection, before: Tensor | None, placed: Placed) -> Tensor | None:
    """How many patches each kept token stands for afterwards, in the new order. Shape: ``(K,)`` or None."""
    sizes = selection.sizes
    if sizes is None:
        if before is None or (len(before) == len(selection.kept) and not placed.moved):
            return before
        sizes = before[selection.kept.to(before.device)]
    return sizes[placed.order.to(sizes.device)]
