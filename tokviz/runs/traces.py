"""From what the engine saw (tensors, indices of the moment) to what sessions store (numbers, original indices)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records import ChartRecord, MapRecord, ReadingRecord, StageRecord, TextScoresRecord
from ..types import Chart, TextScores, TokenMap

if TYPE_CHECKING:
    from ..engine import StageEvent

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
        n_extra=event.n_extra,
        sequence=_sequence(event),
        charts=[_chart_record(chart, alive) for chart in selection.charts],
        readings=[
            ReadingRecord(
                name=reading.name,
                label=reading.label,
                value=_rounded(reading.value),
                line=_line(reading.line),
                unit=reading.unit,
            )
            for reading in selection.readings
        ],
        text=None if selection.text is None else _text_record(selection.text),
        facts={name: _plain(value) for name, value in selection.facts.items()},
        selection_ms=milliseconds,
    )


def _map_record(token_map: TokenMap, alive: np.ndarray, n_visual: int) -> MapRecord:
    values: list[float | None] = [None] * n_visual
    for index, value in zip(alive.tolist(), token_map.values.double().tolist(), strict=True):
        values[index] = _rounded(value)
    return MapRecord(
        name=token_map.name,
        label=token_map.label,
        unit=token_map.unit,
        direction=token_map.direction,
        scale=token_map.scale,
        values=values,
    )


def _sequence(event: StageEvent) -> list[int] | None:
    """The order of the tokens after the stage; None when it is ascending with added tokens last."""
    sequence: list[int] = event.sequence.tolist()
    usual = sorted(index for index in sequence if index >= 0)
    return None if sequence == usual + [-1] * (len(sequence) - len(usual)) else sequence


def _chart_record(chart: Chart, alive: np.ndarray) -> ChartRecord:
    return ChartRecord(
        name=chart.name,
        label=chart.label,
        kind=chart.kind,
        x=[_rounded(value) for value in chart.x],
        y=[_rounded(value) for value in chart.y],
        names=list(chart.names),
        x_label=chart.x_label,
        y_label=chart.y_label,
        line=_line(chart.line),
        tokens=[int(alive[int(token)]) for token in chart.tokens],
        marked=[int(position) for position in chart.marked],
        about=None if chart.about is None else int(alive[chart.about]),
    )


def _text_record(text: TextScores) -> TextScoresRecord:
    return TextScoresRecord(
        name=text.name,
        label=text.label,
        values=[_rounded(value) for value in text.values.double().tolist()],
        chosen=[bool(chosen) for chosen in text.chosen.tolist()],
        line=_line(text.line),
    )


def _rounded(value: float) -> float | None:
    """Six significant digits, None when not finite."""
    value = float(value)
    return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None


def _line(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


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
