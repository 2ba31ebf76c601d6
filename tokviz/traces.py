"""From what the engine saw (tensors, indices of the moment) to what sessions store (numbers, original indices)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .records import MapRecord, StageRecord
from .types import TokenMap

if TYPE_CHECKING:
    from .engine import StageEvent

_DIGITS = 6


def stage_records(events: Sequence[StageEvent], n_visual: int, selection_ms: Sequence[float]) -> list[StageRecord]:
    """Records of the stages of one run, every index translated to the original ``n_visual`` tokens.

    Shape: ``events[i].alive (n_in,)`` are original indices; selections index into them. selection_ms in ms.
    """
    return [_stage_record(event, n_visual, ms) for event, ms in zip(events, selection_ms, strict=True)]


def _stage_record(event: StageEvent, n_visual: int, milliseconds: float) -> StageRecord:
    selection, stage = event.selection, event.stage
    alive = event.alive.numpy()

    def spread(values: Any, missing: int) -> list[int]:
        full = np.full(n_visual, missing, dtype=np.int64)
        full[alive] = values
        return full.tolist()

    assignment = None
    if selection.assignment is not None:
        local = selection.assignment.numpy()
        assignment = spread(np.where(local >= 0, alive[local], -1), -1)
    return StageRecord(
        title=stage.title,
        site=stage.site,
        site_label=stage.site_label,
        positions=stage.positions,
        planned_keep=stage.keep,
        n_in=len(alive),
        kept=event.kept.tolist(),
        score=None if selection.score is None else _map_record(selection.score, alive, n_visual),
        order=None if selection.order is None else spread(selection.order.numpy(), -1),
        assignment=assignment,
        maps=[_map_record(token_map, alive, n_visual) for token_map in selection.maps],
        facts={name: _plain(value) for name, value in selection.facts.items()},
        selection_ms=milliseconds,
    )


def _map_record(token_map: TokenMap, alive: np.ndarray, n_visual: int) -> MapRecord:
    values: list[float | None] = [None] * n_visual
    for index, value in zip(alive.tolist(), token_map.values.double().tolist(), strict=True):
        values[index] = float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return MapRecord(
        name=token_map.name,
        label=token_map.label,
        unit=token_map.unit,
        direction=token_map.direction,
        scale=token_map.scale,
        values=values,
    )


def _plain(value: Any) -> Any:
    """A fact as JSON can hold it: tensors become lists, non-finite floats None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
