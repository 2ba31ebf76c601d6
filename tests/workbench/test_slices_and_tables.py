"""Slices that separate two methods, and tables whose cells open the cases they count."""

import pytest
from scipy.stats import binomtest

from scripts.synthetic_run import PLANTED, Shape, write_run
from tokviz.errors import BadInput
from tokviz.workbench import Filter, Found, IsOneOf, OpenRun, Outcome, automatic_slices, result_table
from tokviz.workbench.filters import parsed
from tokviz.workbench.tabled import cell_conditions, slice_columns


def test_the_planted_slice_comes_first_with_the_numbers_of_a_loop(run, mined_cases, mined_rows):
    ranking = automatic_slices(run, "visionzip", PLANTED[0], 64)
    first = next(one for one in ranking.slices if one.kind == "family")
    assert (first.name, ranking.slices[0].beyond) == (PLANTED[1], first.beyond)
    pairs = [
        [mined_rows[case["ordinal"], key, 64][0]["right"] for key in ("visionzip", PLANTED[0])]
        for case in mined_cases
        if case["family"] == PLANTED[1]
    ]
    only_a, only_b = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    assert (first.cases, first.only_a, first.only_b) == (len(pairs), only_a, only_b)
    assert first.p == pytest.approx(binomtest(only_a, only_a + only_b).pvalue)
    assert first.p_holm == pytest.approx(min(1, max(first.p * len(ranking.slices), first.p)))
    others = [
        [mined_rows[case["ordinal"], key, 64][0]["right"] for key in ("visionzip", PLANTED[0])]
        for case in mined_cases
        if case["family"] != PLANTED[1]
    ]
    outside = sum(a - b for a, b in others) / len(others)
    assert first.beyond == pytest.approx((only_a - only_b) / len(pairs) - outside)


def test_every_slice_is_found_again_by_its_conditions(run):
    for one in automatic_slices(run, "apet", "random", 64).slices:
        assert len(Found(run, Filter(conditions=one.conditions))) == one.cases, one.name


def test_cases_chosen_by_an_outcome_prove_nothing_about_it(run):
    lost = Filter(conditions=(Outcome(method="apet", budget=64, results=("lost",)),))
    assert automatic_slices(run, "apet", "random", 64, lost).cases == 240
    family = Filter(conditions=(*lost.conditions, IsOneOf(column="family", values=("text",))))
    assert automatic_slices(run, "apet", "random", 64, family).cases == 48


def test_too_few_cases_are_refused_with_how_many_it_takes(tmp_path):
    with OpenRun(write_run(tmp_path / "run", Shape(cases=12))) as small:
        ranking = automatic_slices(small, "apet", "visionzip", 192)
        assert all(one.p is None and one.p_holm is None for one in ranking.slices)
        assert "at least 6 must differ" in ranking.not_said
        assert "would be needed" in ranking.not_said
    with pytest.raises(BadInput, match="two different methods"):
        automatic_slices(small, "apet", "apet", 64)


@pytest.mark.parametrize(
    ("kind", "by"), [("slice", by) for by in slice_columns()] + [("budget", ""), ("retention", "")]
)
def test_a_cell_opens_the_answers_that_were_lost_in_it(run, mined_cases, kind, by):
    """Every cell's filter lies in the cell: its cases are of its slice, and lost by its method."""
    table = result_table(run, Found(run, Filter()), kind, 64, by or "family")
    opened = 0
    for row in table.rows:
        for cell in row.cells:
            conditions = cell_conditions(cell)
            if conditions is None:
                continue
            found = Found(run, parsed({"conditions": conditions}, Filter, "The cell"))
            place = cell.where
            if row.kind == "published" or (kind == "slice" and cell.n == 0):
                continue
            opened += len(found)
            assert cell.n == 0 or len(found) <= cell.n
            for ordinal in found.ordinals()[:5].tolist():
                case = mined_cases[ordinal]
                for column, value in place.items():
                    if isinstance(value, dict):
                        assert value["low"] is None or case[column] > value["low"]
                        assert value["high"] is None or case[column] <= value["high"]
                    elif column in case:
                        assert case[column] == value
    assert opened > 20


def test_a_cell_of_the_pairs_opens_exactly_the_cases_it_counts(run):
    table = result_table(run, Found(run, Filter()), "against", 64, reference="random")
    for row in table.rows:
        for cell in row.cells[2:4]:
            asked = parsed({"conditions": cell_conditions(cell)}, Filter, "The cell")
            assert len(Found(run, asked)) == cell.value
