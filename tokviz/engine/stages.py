"""One stage on every row of a batch: show the signals, ask ``select``, apply the answer, note what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from ..types import Diagnostics, Params, Selection, Signals, Stage
from .layer_signals import Moment
from .sequence import Placement, Rows, State, gather, left_packed
from .signals import SignalReader

Select = Callable[[Stage, Signals, int], Selection]
"""``(stage, signals, row) -> Selection``; called once per stage and row while the prompt is prefilled."""


def selector(params: Params, seed: int | Sequence[Generator]) -> Select:
    """Let each stage select for itself, with a method's ``params``.

    seed: Of everything random, the same for every row and every time that a prompt is prefilled: a row of a batch gets
    what it would get alone. Or a generator for each row.
    """
    if not isinstance(seed, int):
        return lambda stage, signals, row: stage.select(signals, stage.keep, params, seed[row])
    begun: dict[int, tuple[Generator, list[Stage]]] = {}

    def select(stage: Stage, signals: Signals, row: int) -> Selection:
        if row not in begun or any(stage is done for done in begun[row][1]):  # a prompt is prefilled anew
            begun[row] = Generator().manual_seed(seed), []
        generator, done = begun[row]
        done.append(stage)
        return stage.select(signals, stage.keep, params, generator)

    return select


def synchronise(device: torch.device | str) -> None:
    """Wait until ``device`` has finished its queue; nothing to wait for on the CPU."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Milliseconds between entering and leaving the context; the device is made to finish before the clock is read.

    Example: ``with Stopwatch(model.device) as watch: ...`` and then ``watch.milliseconds``.
    """

    milliseconds = 0.0

    def __init__(self, device: torch.device | str) -> None:
        self.device = device

    def __enter__(self) -> Stopwatch:
        synchronise(self.device)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        synchronise(self.device)
        self.milliseconds = (time.perf_counter() - self._start) * 1000


@dataclass(frozen=True)
class StageEvent:
    """One stage on one row (sequence of the batch).

    Shape:
        alive: ``(n_in,)`` int64, original indices (0..N-1 among the row's visual tokens, in sequence order) before the
        stage. selection: its indices point into ``alive``; merged and added features are not retained. kept: ``(K,)``
        original indices, ascending. sequence: ``(n_out,)`` original indices in the order in which the LLM gets the
        tokens after the stage, -1 for added ones, those of earlier stages included. All on the CPU. n_extra: tokens
        that this stage added. milliseconds: duration of ``select``, device-synchronised. diagnostics: None unless asked
        for; computing them took ``diagnostics_ms``.
    """

    stage: Stage
    alive: Tensor
    selection: Selection
    kept: Tensor
    milliseconds: float
    sequence: Tensor
    n_extra: int = 0
    diagnostics: Diagnostics | None = None
    diagnostics_ms: float = 0.0


@dataclass(frozen=True)
class Decided:
    """A selection just made, and what it took; see ``StageEvent``."""

    selection: Selection
    milliseconds: float
    diagnostics: Diagnostics | None = None
    diagnostics_ms: float = 0.0

    def event(self, stage: Stage, alive: Tensor, sequence: Tensor) -> StageEvent:
        """What is recorded of it."""
        selection = self.selection
        return StageEvent(
            stage,
            alive.cpu(),
            to_record(selection),
            kept=alive[selection.kept.to(alive.device)].sort().values.cpu(),
            milliseconds=self.milliseconds,
            sequence=sequence.cpu(),
            n_extra=0 if selection.extra is None else selection.extra.shape[0],
            diagnostics=self.diagnostics,
            diagnostics_ms=self.diagnostics_ms,
        )


@dataclass(frozen=True)
class Chooser:
    """Asks ``select`` and holds it to the contract of ``Selection``. diagnose: whether anybody wants to know why."""

    select: Select
    diagnose: bool = False

    def decide(self, stage: Stage, signals: Signals, row: int) -> Decided:
        """Raises ValueError when a method broke its contract."""
        device = signals.features.device
        with Stopwatch(device) as watch:
            selection = self.select(stage, signals, row)
        check_selection(selection, signals.features, stage)
        if not self.diagnose:
            return Decided(selection, watch.milliseconds)
        with Stopwatch(device) as looking:
            diagnostics = selection.diagnostics
        return Decided(selection, watch.milliseconds, diagnostics, looking.milliseconds)


@dataclass(frozen=True)
class Decisions:
    """Every selection of one prompt, so that a forward pass without a cache repeats it instead of deciding anew."""

    events: list[list[StageEvent]]
    made: dict[tuple[int, int], Selection] = field(default_factory=dict)


@dataclass(frozen=True)
class StageRunner:
    """Carries stages out on a batch.

    project: encoder features as embeddings, ``(K, D_v) -> (K, D)``. copies: how many neighbouring rows are copies of
    one prompt (beams); the first of them decides for all. frozen: whether everything was decided before.
    """

    chooser: Chooser
    decisions: Decisions
    reader: SignalReader
    project: Callable[[Tensor], Tensor]
    copies: int = 1
    frozen: bool = False

    def run(self, number: int, stage: Stage, state: State, moment: Moment | None = None) -> tuple[State, Tensor | None]:
        """Run stage ``number`` on all rows that still have visual tokens; see ``apply`` for what comes back."""
        alive, made = state.rows.alive, self.decisions.made
        decided: dict[int, Decided] = {}
        selections: list[Selection | None] = [None] * len(alive)
        for row in range(len(alive)):
            first, copy = row - row % self.copies, row % self.copies
            if not alive[row].numel():
                continue
            if not self.frozen:
                signals = None if copy else self.reader.signals(stage, state, row, moment)
                decided[row] = (
                    decided[first] if signals is None else self.chooser.decide(stage, signals, row // self.copies)
                )
                # Only what changes the sequence: a forward pass without a cache repeats it.
                made[number, row] = replace(decided[row].selection, order=None, diagnose=None)
                if not stage.rectify:
                    made[number, row] = replace(made[number, row], assignment=None)
            selections[row] = made[number, row] if self.frozen else decided[row].selection
        after, index = self.apply(stage, state, selections)
        for row, choice in decided.items():
            self.decisions.events[row].append(choice.event(stage, alive[row], after.rows.sequence(row)))
        if stage.positions == "reindex":
            after = replace(after, rows=after.rows.reindexed() or after.rows)
        return after, index

    def apply(self, stage: Stage, state: State, selections: Sequence[Selection | None]) -> tuple[State, Tensor | None]:
        """Drop, merge, add and reorder visual tokens as the selections (per row, None for rows without any) say.

        Merged and added features are written into a copy of ``hidden`` before the gather. Positions keep their gaps.

        Shape: -> the state afterwards, hidden ``(B, K, D)``, and the gathered columns ``(B, K)``, None when every token
        stayed where it was. Without any change the rows come back as they were.
        """
        rows, hidden = state.rows, state.hidden
        stay, added, written, carried = rows.real.clone(), rows.added, hidden, rows.carried
        alive, sizes, encoder = list(rows.alive), list(rows.sizes), list(state.encoder)
        every = torch.arange(stay.shape[1], device=stay.device)
        source, renewed = every, False
        for row, selection in enumerate(selections):
            if selection is None:
                continue
            placed, columns = Placement.of(selection, rows, row), rows.columns(row)
            stay[row, columns] = False
            stay[row, placed.slots] = True
            if placed.moved:
                source = every.expand_as(stay).clone() if source is every else source
                source[row, placed.slots] = placed.tokens
            if len(placed.taken):
                added = torch.zeros_like(stay) if added is None else added.clone()
                added[row, placed.taken] = True
            kept = selection.kept.to(columns.device)
            alive[row] = alive[row][kept.to(alive[row].device)][placed.order.to(alive[row].device)]
            sizes[row] = _sizes(selection, rows.sizes[row], placed)
            carried = _carried(stage, selection, rows, row, placed, carried)
            renewed |= len(placed.taken) > 0 or sizes[row] is not rows.sizes[row]
            merged, extra, at_kept = selection.features, selection.extra, columns[kept]
            if stage.site == "encoder":
                encoder[row], merged, extra, seen = self._projected(row, state, selection, placed)
                at_kept = at_kept if seen is None else at_kept[seen.to(at_kept.device)]
            for at, made in ((at_kept, merged), (placed.taken, extra)):
                if made is not None:
                    written = hidden.clone() if written is hidden else written
                    written[row, at.to(hidden.device)] = made.to(hidden.device, hidden.dtype)
        index = None
        if source is not every or not torch.equal(stay, rows.real):
            index = packed = left_packed(stay)
            if source is not every:
                index = source.gather(1, packed.clamp(min=0)).masked_fill(packed < 0, -1)
        if index is None and not renewed and carried is rows.carried:
            return State(rows, written, tuple(encoder)), None
        visual = rows.visual if added is None else rows.visual & ~added
        rows = replace(rows, visual=visual, added=added, alive=tuple(alive), sizes=tuple(sizes), carried=carried)
        if index is not None:
            rows, written = rows.take(index), gather(written, index)
        return State(rows, written, tuple(encoder)), index

    def _projected(
        self, row: int, state: State, selection: Selection, placed: Placement
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """What a stage before the projector made: features that are left, merged and added embeddings or None.

        What the tower never saw (a newline) keeps its embedding, whatever a method made of its features.
        Shape: -> ``(K, D_v)`` in the new order, ``(P, D)``, ``(E, D)``, and which of the kept tokens the merged ones
        are, ``(K,)`` bool, None for all.
        """
        before, alive = state.encoder[row], state.rows.alive[row]
        left = before[selection.kept.to(before.device)]
        merged, extra = (
            None if made is None or not made.shape[0] else made.to(before.device, before.dtype)
            for made in (selection.features, selection.extra)
        )
        left = (left if merged is None else merged)[placed.order.to(before.device)]
        patches = self.reader.patches(row, alive[selection.kept.to(alive.device)])
        seen = merged if merged is None or patches is None else merged[patches.to(merged.device)]
        return (
            left,
            None if seen is None or not seen.shape[0] else self.project(seen),
            None if extra is None else self.project(extra),
            patches,
        )


def _sizes(selection: Selection, before: Tensor | None, placed: Placement) -> Tensor | None:
    """How many patches each kept token stands for afterwards, in the new order. Shape: ``(K,)`` or None."""
    sizes = selection.sizes
    if sizes is None:
        if before is None or (len(before) == len(selection.kept) and not placed.moved):
            return before
        sizes = before[selection.kept.to(before.device)]
    return sizes[placed.order.to(sizes.device)]


def _carried(
    stage: Stage, selection: Selection, rows: Rows, row: int, placed: Placement, carried: Tensor | None
) -> Tensor | None:
    """How many original visual tokens every column carries after a stage, columns still as they were before it.

    Those of a group add up, over all stages that rectify; a token that a stage adds carries itself. Shape: carried
    ``(B, L)`` as far as it is known, None for one each, and back.
    """
    columns, kept = rows.columns(row), selection.kept.to(rows.real.device)
    before = torch.ones_like(columns) if carried is None else carried[row, columns]
    groups = before[kept]
    if stage.rectify and selection.assignment is not None:
        carrier = selection.assignment.to(before.device)
        carries = carrier >= 0
        groups = torch.zeros_like(before).index_add_(0, carrier[carries], before[carries])[kept]
    elif stage.rectify and selection.sizes is not None:
        groups = selection.sizes.to(before)
    if carried is None and not bool((groups > 1).any()):
        return None
    carried = torch.ones_like(rows.real, dtype=torch.int64) if carried is None else carried.clone()
    carried[row, columns[kept]] = groups
    carried[row, placed.taken] = 1
    return carried


def check_selection(selection: Selection, features: Tensor, stage: Stage) -> None:
    """Raises ValueError when a method broke the contract of ``Selection``."""
    kept, n = selection.kept, features.shape[0]
    where = f"stage {stage.title!r} ({stage.site_label})"
    if kept.dtype != torch.int64 or kept.dim() != 1:
        raise ValueError(f"{where}: kept must be (K,) int64, got {tuple(kept.shape)} {kept.dtype}")
    if kept.numel() and not bool((kept.diff() > 0).all() & (kept[0] >= 0) & (kept[-1] < n)):  # one wait
        raise ValueError(f"{where}: kept must be ascending, unique and within 0..{n - 1}")
    n_extra = 0 if selection.extra is None else selection.extra.shape[0]
    width, n_out = features.shape[1:], kept.numel() + n_extra
    shapes = {"features": (kept.numel(), *width), "sizes": (kept.numel(),), "extra": (n_extra, *width)}
    for name, expected in shapes.items():
        tensor = getattr(selection, name)
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(f"{where}: {name} must be {expected}, got {tuple(tensor.shape)}")
    if n_out > n:
        raise ValueError(f"{where}: {kept.numel()} kept and {n_extra} extra tokens do not fit in the places of {n}")
    if stage.rectify and selection.assignment is not None:
        carrier = selection.assignment.to(kept.device)
        if carrier.shape != (n,) or not torch.equal(carrier[kept], kept):
            raise ValueError(f"{where}: assignment must be ({n},), of every kept token itself")
    sequence = selection.sequence
    if sequence is None:
        return
    expected_order = torch.arange(n_out, device=sequence.device)
    if sequence.dtype != torch.int64 or not torch.equal(sequence.sort().values, expected_order):
        raise ValueError(f"{where}: sequence must hold every position 0..{n_out - 1} of [*kept, *extra] once (int64)")


def to_record(selection: Selection) -> Selection:
    """What a selection decided about tokens, on the CPU: to be kept while further stages run."""

    def rest(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().cpu()

    return Selection(
        kept=selection.kept.detach().cpu(),
        order=rest(selection.order),
        assignment=rest(selection.assignment),
        sequence=rest(selection.sequence),
        sizes=rest(selection.sizes),
    )
