"""Kept tokens as bytes: hand-worked ones, every set of a small grid, random ones of a large one, and damaged bytes."""

import itertools
import random

import pytest

from tokviz.errors import BadInput
from tokviz.mining.kept import pack_indices, unpack_indices


@pytest.mark.parametrize(
    ("indices", "packed"),
    [
        ([], b"B"),
        ([0], b"B\x80"),
        ([0, 1, 2, 3, 4, 5, 6, 7], b"B\xff"),
        ([7, 8], b"B\x01\x80"),
        ([8], b"D\x08"),  # a bitmap would need two bytes
        ([100, 101, 103], b"D\x64\x00\x01"),
        ([127, 256], b"D\x7f\x80\x01"),  # the gap between them is 128: 0 with a further byte, then 1
        ([300], b"D\xac\x02"),
    ],
)
def test_hand_worked(indices, packed):
    assert pack_indices(indices) == packed
    assert unpack_indices(packed).tolist() == indices


def test_every_set_of_ten_tokens_comes_back():
    for size in range(11):
        for chosen in itertools.combinations(range(10), size):
            assert unpack_indices(pack_indices(chosen)).tolist() == list(chosen)


def test_random_sets_come_back_and_are_never_longer_than_a_bitmap():
    draw = random.Random(0)
    for n_tokens in (576, 2880, 40000):
        for share in (0.001, 0.03, 0.11, 0.5, 1):
            chosen = sorted(draw.sample(range(n_tokens), max(1, int(n_tokens * share))))
            packed = pack_indices(chosen)
            assert unpack_indices(packed).tolist() == chosen
            assert len(packed) <= 1 + chosen[-1] // 8 + 1


def test_what_the_issue_asks_for_fits_in_little_room():
    """50,000 cases x 8 methods x 3 budgets, before Parquet compresses anything."""
    draw = random.Random(1)
    sizes = [len(pack_indices(sorted(draw.sample(range(576), keep)))) for keep in (192, 128, 64) for _ in range(50)]
    assert sum(sizes) / len(sizes) * 50_000 * 8 * 3 < 0.1e9


@pytest.mark.parametrize("indices", [[1, 1], [2, 1], [-1], [2**24]])
def test_what_is_no_ascending_set_is_refused(indices):
    with pytest.raises(ValueError, match="ascend"):
        pack_indices(indices)


@pytest.mark.parametrize(
    "packed", [b"", b"X\x00", b"D\x80", b"D\xff\xff\xff\xff\xff\xff\xff\x01", b"D\xff\xff\xff\x7f" * 2, b"D\x01\x81"]
)
def test_damaged_bytes_are_refused(packed):
    with pytest.raises(BadInput, match="damaged"):
        unpack_indices(packed)


def test_any_bytes_are_read_or_refused():
    draw = random.Random(2)
    for _ in range(3000):
        packed = draw.choice([b"B", b"D"]) + draw.randbytes(draw.randrange(12))
        try:
            found = unpack_indices(packed).tolist()
        except BadInput:
            continue
        assert found == sorted(set(found))
