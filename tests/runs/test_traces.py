"""What sessions store of a stage: every index an original one, every number short, nothing lost."""

import math

import torch

from tokviz.engine import StageEvent
from tokviz.records import StageRecord
from tokviz.runs.traces import stage_records
from tokviz.types import Chart, Diagnostics, Reading, Selection, Stage, TextScores, TokenMap

ALIVE = torch.tensor([7, 2, 9, 4])
"""Four of ten tokens, out of order: an earlier stage had its own."""


def record(selection, sequence, n_extra=0):
    stage = Stage(3, 3, lambda *_: selection, title="a stage")
    kept = ALIVE[selection.kept].sort().values
    event = StageEvent(stage, ALIVE, selection, kept, 1.0, torch.tensor(sequence), n_extra, selection.diagnostics)
    return stage_records([event], 10, [2.5])[0]


def test_lists_are_spread_over_the_original_tokens():
    selection = Selection(
        kept=torch.tensor([0, 2, 3]),
        order=torch.tensor([1, -1, 0, 2]),
        assignment=torch.tensor([0, 3, 2, 3]),
        diagnose=lambda: Diagnostics(
            score=TokenMap("s", "Score", torch.tensor([0.123456789, math.nan, math.inf, -2.0])),
            facts={"pivot": torch.tensor(3), "bad": math.nan},
            covered_by=torch.tensor([0, 0, 2, -1]),
        ),
    )
    found = record(selection, [7, 9, 4])
    assert found.kept == [4, 7, 9] and found.n_in == 4 and found.n_extra == 0 and found.sequence == [7, 9, 4]
    assert found.score.values == [None, None, None, None, -2.0, None, None, 0.123457, None, None]
    assert found.order == [-1, -1, -1, -1, 2, -1, -1, 1, -1, 0]
    assert found.assignment == [-1, -1, 4, -1, 4, -1, -1, 7, -1, 9]
    assert found.covered_by == [-1, -1, 7, -1, -1, -1, -1, 7, -1, 9]
    assert found.facts == {"pivot": 3, "bad": None} and found.selection_ms == 2.5


def test_added_tokens_and_their_order():
    selection = Selection(kept=torch.tensor([1, 3]))
    assert record(selection, [2, 4, -1], n_extra=1).sequence is None, "ascending with added ones last is the usual"
    assert record(selection, [2, 4], n_extra=0).sequence is None
    found = record(selection, [-1, 2, 4], n_extra=1)
    assert found.sequence == [-1, 2, 4] and found.n_extra == 1
    assert record(selection, [4, 2]).sequence == [4, 2]
    assert record(Selection(kept=torch.arange(0)), []).sequence is None


def test_charts_readings_and_words():
    selection = Selection(
        kept=torch.tensor([0]),
        diagnose=lambda: Diagnostics(
            charts=[
                Chart(
                    "graph",
                    "Decision graph",
                    "scatter",
                    y=[0.1234567891, math.inf, 3.0],
                    x=[1.0, math.nan, 2.0],
                    x_label="density",
                    y_label="distance",
                    line=0.33333333333,
                    tokens=[2, 0, 1],
                    marked=[1],
                ),
                Chart("groups", "Group sizes", "bars", y=[3, 1], names=["a", "b"], about=1),
            ],
            readings=[
                Reading("alpha", "Attention on the image", 0.0123456789, line=0.03, unit="share"),
                Reading("none", "Nothing", math.nan),
            ],
            text=TextScores("raters", "Raters", torch.tensor([0.25, math.nan]), torch.tensor([True, False]), line=0.5),
        ),
    )
    found = record(selection, [7])
    graph, groups = found.charts
    assert graph.y == [0.123457, None, 3.0] and graph.x == [1.0, None, 2.0] and graph.line == 0.333333
    assert graph.tokens == [9, 7, 2] and graph.marked == [1] and graph.x_label == "density"
    assert groups.names == ["a", "b"] and groups.tokens == [] and groups.line is None and groups.y == [3.0, 1.0]
    assert graph.about is None and groups.about == 2
    first, second = found.readings
    assert (first.value, first.line, first.unit) == (0.0123457, 0.03, "share")
    assert second.value is None and second.line is None
    assert found.text.values == [0.25, None] and found.text.chosen == [True, False] and found.text.line == 0.5
    assert StageRecord.model_validate_json(found.model_dump_json()) == found
