"""The checks of the contract suite refuse what they are there to refuse."""

import math
from dataclasses import replace

import pytest
import torch
from pruner_signals import TILES, make_signals, raster
from test_pruners_stage_contract import check, check_identity

from tokviz.types import Chart, Diagnostics, Reading, Selection, TextScores, TokenMap

N, KEEP = 8, 4
SIGNALS, _ = make_signals(0, raster(2, 4), text=3)
KEPT = torch.tensor([1, 2, 5, 7])
ASSIGNMENT = torch.tensor([1, 1, 2, -1, 5, 5, 7, 7])
GOOD = Selection(
    kept=KEPT,
    order=torch.tensor([-1, 0, 1, -1, -1, 3, -1, 2]),
    assignment=ASSIGNMENT,
    features=SIGNALS.features[KEPT],
    sequence=torch.tensor([3, 0, 1, 2]),
    sizes=torch.tensor([2, 1, 2, 2]),
    diagnose=lambda: Diagnostics(
        score=TokenMap("score", "Score", torch.arange(N).float()),
        charts=(Chart("graph", "Graph", "scatter", x=[1.0, 2.0], y=[0.5, math.nan], tokens=[1, 7], marked=[1]),),
        readings=(Reading("alpha", "Alpha", 0.5, line=0.1),),
        text=TextScores("raters", "Raters", torch.rand(3), torch.tensor([True, False, True]), line=1 / 3),
        facts={"non_finite": 0},
    ),
)
CHART = GOOD.diagnostics.charts[0]

BROKEN = {
    "kept is not ascending": {"kept": torch.tensor([2, 1, 5, 7]), "assignment": None},
    "a token is kept twice": {"kept": torch.tensor([1, 1, 5, 7]), "assignment": None},
    "kept is out of range": {"kept": torch.tensor([1, 2, 5, 8]), "assignment": None},
    "kept is not int64": {"kept": KEPT.int()},
    "too few are kept": {
        "kept": KEPT[:3], "assignment": None, "features": None, "sequence": None, "sizes": None
    },
    "the added token is not counted": {"extra": SIGNALS.features[:1], "sequence": None},
    "the added token has another width": {
        "kept": KEPT[:3], "extra": torch.zeros(1, 3), "assignment": None, "features": None, "sequence": None,
        "sizes": None,
    },
    "the sequence repeats a token": {"sequence": torch.tensor([0, 0, 1, 2])},
    "the sequence misses the added token": {
        "kept": KEPT[:3], "extra": SIGNALS.features[:1], "assignment": None, "features": None, "sizes": None,
        "sequence": torch.tensor([0, 1, 2]),
    },
    "features of another dtype": {"features": GOOD.features.half()},
    "features of another length": {"features": SIGNALS.features},
    "sizes for all rows": {"sizes": torch.ones(N)},
    "an empty group": {"sizes": torch.tensor([0, 1, 2, 2])},
    "a token is carried by a dropped one": {"assignment": ASSIGNMENT.index_fill(0, torch.tensor([0]), 3)},
    "a kept token is carried by another": {"assignment": ASSIGNMENT.index_fill(0, torch.tensor([2]), 1)},
    "a patch is in no size": {"assignment": ASSIGNMENT.index_fill(0, torch.tensor([3]), 2)},
    "a step is missing": {"order": torch.tensor([-1, 0, 1, -1, -1, 4, -1, 2])},
    "a map of the kept tokens only": {"maps": (TokenMap("m", "M", torch.rand(KEEP)),)},
    "a map without a label": {"maps": (TokenMap("m", "", torch.rand(N)),)},
    "two maps of one name": {"maps": (TokenMap("m", "M", torch.rand(N)), TokenMap("m", "M", torch.rand(N)))},
    "a chart of tensors": {"charts": (replace(CHART, y=torch.rand(2), marked=[]),)},
    "a chart of other lengths": {"charts": (replace(CHART, x=[1.0]),)},
    "a chart of unknown tokens": {"charts": (replace(CHART, tokens=[1, N]),)},
    "a mark beyond the chart": {"charts": (replace(CHART, marked=[2]),)},
    "bars without names": {"charts": (Chart("b", "B", "bars", y=[1.0]),)},
    "a reading that is a tensor": {"readings": (Reading("alpha", "Alpha", torch.tensor(0.5)),)},
    "rater scores of the wrong length": {
        "text": replace(GOOD.diagnostics.text, values=torch.rand(2), chosen=torch.tensor([True, False]))
    },
    "raters that are numbers": {"text": replace(GOOD.diagnostics.text, chosen=torch.ones(3))},
    "a fact that is a tensor": {"facts": {"non_finite": torch.tensor(0)}},
}  # fmt: skip


def changed(change):
    """GOOD with other fields, its own or those of its diagnostics."""
    of_selection = {name: value for name, value in change.items() if name in Selection.__dataclass_fields__}
    of_diagnostics = {name: value for name, value in change.items() if name not in of_selection}
    broken = GOOD.with_diagnostics(lambda found: replace(found, **of_diagnostics))
    return replace(broken, **of_selection)


def test_a_selection_that_uses_everything_passes():
    check(GOOD, SIGNALS, KEEP)


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_selection_is_refused(change):
    with pytest.raises(AssertionError):
        check(changed(change), SIGNALS, KEEP)


def test_newlines_stay_or_go_together():
    layout = TILES[4]
    signals, _ = make_signals(0, layout)
    patches = layout.candidates.nonzero().flatten()
    newlines = (~layout.candidates).nonzero().flatten()
    assert len(newlines) > 1
    for rows in (patches[:6], torch.cat([patches[:6], newlines]), torch.cat([patches[:4], newlines[:2]])):
        check(Selection(kept=rows.sort().values), signals, 6)
    for rows in (patches[:5], torch.cat([patches[:6], newlines[:1]])):
        with pytest.raises(AssertionError):
            check(Selection(kept=rows.sort().values), signals, 6)


def test_an_identity_does_nothing():
    everything = Selection(kept=torch.arange(N))
    check_identity(everything, N)
    with pytest.raises(AssertionError):
        check_identity(replace(everything, kept=torch.arange(N - 1)), N)
    with pytest.raises(AssertionError):
        check_identity(replace(everything, features=SIGNALS.features), N)
