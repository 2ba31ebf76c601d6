"""Averages and shares of views."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokviz.errors import BadInput
from tokviz.pruners.per_view import equal_shares, rows_by_view
from tokviz.pruners.schedules import survivors_for_average
from tokviz.types import PlanningInfo, Signals


def test_the_average_is_met_by_what_survives():
    llava = PlanningInfo(576, 32)
    assert [survivors_for_average("X", tokens, llava, 2) for tokens in (192, 128, 64)] == [166, 98, 30]
    assert survivors_for_average("X", 576, llava, 2) == 576
    # 8 layers, N = 144: a survivor and 144 in the first layer make (144 + 7) / 8 = 18.9 on average.
    tiny = PlanningInfo(144, 8)
    assert survivors_for_average("X", 19, tiny, 1) == 1
    with pytest.raises(BadInput, match=r"X cannot reach an average of 18 tokens.*at least 19"):
        survivors_for_average("X", 18, tiny, 1)


@pytest.mark.parametrize(
    ("sizes", "keep", "shares"),
    [
        ([576] * 5, 640, [128] * 5),
        ([4, 4, 4], 5, [2, 2, 1]),
        ([4, 1, 9], 9, [4, 1, 4]),
        ([2, 0, 9], 8, [2, 0, 6]),
        ([3, 3], 99, [3, 3]),
        ([3], 2, [2]),
        ([], 2, []),
    ],
)
def test_views_share_equally_and_hand_on_what_they_cannot_take(sizes, keep, shares):
    assert equal_shares(sizes, keep) == shares


@given(st.lists(st.integers(0, 12), max_size=6), st.integers(0, 80))
def test_shares_add_up_and_differ_by_one_where_there_is_room(sizes, keep):
    shares = equal_shares(sizes, keep)
    assert sum(shares) == min(keep, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    with_room = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert not with_room or max(shares) - min(with_room) <= 1


def test_rows_are_split_by_view():
    features = torch.zeros(6, 2)
    rows = torch.tensor([0, 2, 3, 5])
    view = torch.tensor([0, 0, 1, 0, 1, 3])
    assert [part.tolist() for part in rows_by_view(Signals(features, view=view), rows)] == [[0, 3], [2], [5]]
    assert [part.tolist() for part in rows_by_view(Signals(features), rows)] == [[0, 2, 3, 5]]
    assert rows_by_view(Signals(features), rows[:0]) == []
