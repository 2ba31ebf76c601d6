"""Two selections beside each other, and one beside random ones: against counting, enumeration and drawing."""

import math
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ui"))
from synthetic import comparison
from synthetic_film import film_comparison

from tokviz import chance
from tokviz.errors import BadInput
from tokviz.records import GridView, TokenGrid

SMALL = TokenGrid(
    image_size=(4, 3),
    views=[GridView(name="image", rows=3, cols=4, seen=(0, 0, 4, 3))],
    view=[0] * 12,
    row=[t // 4 for t in range(12)],
    col=[t % 4 for t in range(12)],
    box=[(t % 4, t // 4, t % 4 + 1, t // 4 + 1) for t in range(12)],
)


def test_tokens_are_sorted_by_who_keeps_them():
    found = chance.overlap("a", "b", [0, 2, 3], [3, 4], 6)
    assert (found.both, found.only_a, found.only_b, found.neither) == ([3], [0, 2], [4], [1, 5])
    assert found.iou == 1 / 4 and found.expected_both == 3 * 2 / 6
    assert found.to_pandas().to_dict("list") == {
        "token": [0, 1, 2, 3, 4, 5],
        "a": [True, False, True, True, False, False],
        "b": [False, False, False, True, True, False],
    }
    assert chance.overlap("a", "b", [], [], 6).iou is None


def test_two_runs_of_a_comparison():
    whole = comparison(failed=True)
    found = whole.overlap("full", "todre")
    assert (len(found.both), len(found.only_a), len(found.only_b), found.iou) == (64, 512, 0, 64 / 576)
    assert whole.overlap("apet", "apet").iou == 1.0
    assert set(whole.overlap("fastervlm", "apet").both) == set(whole["fastervlm"].kept) & set(whole["apet"].kept)
    with pytest.raises(BadInput, match="FastV could not run"):
        whole.overlap("apet", "fastv")
    with pytest.raises(KeyError, match="no run 'x'"):
        whole.overlap("x", "apet")


@pytest.mark.parametrize(("taken", "special"), [(0, 3), (4, 0), (4, 3), (7, 5), (8, 8)])
def test_odds_are_those_of_all_draws(taken, special):
    draws = [len(set(draw) & set(range(special))) for draw in combinations(range(8), taken)]
    for least in range(special + 2):
        share = sum(hits >= least for hits in draws) / len(draws)
        assert chance.chance_of_at_least(8, taken, special, least) == pytest.approx(share, abs=1e-12)


def test_differences_are_those_of_all_draws():
    """Mean and spread of each neighbourhood over every selection of 3 of 12 tokens; the mean square is 1 over them."""
    kept = [0, 1, 6]
    near = [[u for u in range(12) if abs(u // 4 - t // 4) <= 1 and abs(u % 4 - t % 4) <= 1] for t in range(12)]
    draws = list(combinations(range(12), 3))
    values, clumping = chance.random_difference(SMALL, kept, 1)
    for token in range(12):
        counts = np.array([len(set(draw) & set(near[token])) for draw in draws])
        found = len(set(kept) & set(near[token]))
        assert values[token] == pytest.approx((found - counts.mean()) / counts.std(), abs=1e-12)
    assert clumping == pytest.approx(np.mean(np.square(values)), abs=1e-12)
    squares = [chance.random_difference(SMALL, draw, 1)[1] for draw in draws]
    assert np.mean(squares) == pytest.approx(1, abs=1e-12)


def test_nothing_to_choose_has_no_difference():
    for kept in ([], list(range(12))):
        assert chance.random_difference(SMALL, kept, 1) == ([None] * 12, None)
    # Around every patch lies the whole image: every selection keeps the same there.
    assert chance.random_difference(SMALL, [3], 3)[1] is None


def test_neighbourhoods_end_at_the_frame():
    film = film_comparison()
    grid, kept = film.grid, [t for t, view in enumerate(film.grid.view) if view == 0 and film.grid.row[t] >= 0]
    values, _ = chance.random_difference(grid, kept, 1)
    others = [v for t, v in enumerate(values) if v is not None and grid.view[t] != 0]
    assert others and max(others) < 0 < min(values[t] for t in kept)
    assert all(values[t] is None for t in range(grid.n_tokens) if grid.row[t] < 0)


def test_a_run_beside_random_selections():
    whole = comparison()
    found = whole.against_random("fastervlm")
    shows = found.evidence
    kept = round(whole["fastervlm"].actual.final)
    assert found.evidence_expected == pytest.approx(shows * kept / 576)
    exact = sum(
        math.comb(shows, hits) * math.comb(576 - shows, kept - hits) for hits in range(found.evidence_kept, shows + 1)
    ) / math.comb(576, kept)
    assert found.evidence_odds == pytest.approx(exact, rel=1e-9)
    assert found.clumping > 2 and len(found.difference.values) == 576
    assert whole.against_random("full").clumping is None
    assert (
        comparison()
        .model_copy(update={"request": whole.request.model_copy(update={"evidence": []})})
        .against_random("apet")
        .evidence_odds
        is None
    )
    with pytest.raises(BadInput, match="from 1 to 64"):
        whole.against_random("apet", radius=0)
