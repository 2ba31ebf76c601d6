"""Every outcome and every column that follows from a case's rows, on cases worked by hand."""

import pytest

from tokviz.mining.outcomes import add_case_columns, difficult, evidence_outcome, flipped, outcome_of
from tokviz.records import StageRecord


@pytest.mark.parametrize(
    ("right", "before", "answer", "unpruned", "outcome", "flips"),
    [
        (True, True, "red", "red", "kept", False),
        (False, True, "blue", "red", "lost", True),
        (True, False, "red", "blue", "rescued", True),
        (False, False, "green", "blue", "changed", False),
        (False, False, " Blue. ", "blue", "wrong", False),
        (None, None, "Red.", "red", "same", None),
        (None, None, "blue", "red", "differs", None),
        (True, True, "a red one", "red", "kept", False),  # right by the data set's own judgement
    ],
)
def test_what_pruning_did_to_an_answer(right, before, answer, unpruned, outcome, flips):
    assert outcome_of(right, before, answer, unpruned) == outcome
    assert flipped(outcome) is flips


def stage(site, kept, n=8, assignment=None):
    return StageRecord(
        title="", site=site, site_label="", positions="keep", planned_keep=None, n_in=n, kept=kept, score=None,
        order=None, assignment=assignment, maps=[], facts={}, selection_ms=None,
    )  # fmt: skip


EVIDENCE = [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("stages", "kept", "absorbed", "lost", "gone"),
    [
        ([], 1.0, 0.0, 0.0, None),
        ([stage("projector", [0, 2, 3])], 0.5, 0.0, 0.5, None),
        ([stage("projector", [0, 1])], 0.0, 0.0, 1.0, 0),
        ([stage(3, [2, 3]), stage(5, [0])], 0.0, 0.0, 1.0, 5),
        ([stage(3, [0]), stage(5, [0])], 0.0, 0.0, 1.0, 3),
        # 2 and 3 go into 0, which stays; 4 and 5 are dropped
        ([stage("projector", [0, 1], assignment=[0, 1, 0, 0, -1, -1, -1, -1])], 0.0, 0.5, 0.5, None),
        # all go into 0, which layer 6 drops: with it they are lost
        ([stage("encoder", [0, 1], assignment=[0, 1, 0, 0, 0, 0, -1, -1]), stage(6, [1])], 0.0, 0.0, 1.0, 6),
    ],
)
def test_what_became_of_the_evidence(stages, kept, absorbed, lost, gone):
    assert evidence_outcome(EVIDENCE, stages, 8) == {
        "evidence_kept": kept,
        "evidence_absorbed": absorbed,
        "evidence_lost": lost,
        "evidence_gone_layer": gone,
    }


def test_without_evidence_there_is_nothing_to_say():
    assert set(evidence_outcome([], [stage(3, [0])], 8).values()) == {None}


def rows_of(*wanted):
    """Rows from (method, budget, seed, outcome, kept)."""
    rows = [
        {
            "method": method,
            "method_id": method,
            "kind": "control" if method in ("random", "downsample") else "attention",
            "budget": budget,
            "seed": seed,
            "outcome": outcome,
            "right": None if outcome in ("error", "same", "differs") else outcome in ("kept", "rescued"),
        }
        for method, budget, seed, outcome, _ in wanted
    ]
    return rows, [kept for *_, kept in wanted]


def added(*wanted, right=True):
    rows, kept = rows_of(*wanted)
    add_case_columns(rows, kept, right)
    return rows


def test_only_one_failed_and_all_failed_at_each_budget_and_seed():
    rows = added(
        ("a", 64, 0, "lost", [0]),
        ("b", 64, 0, "kept", [1]),
        ("c", 64, 0, "kept", [2]),
        ("random", 64, 0, "lost", [3]),
        ("a", 32, 0, "lost", [0]),
        ("b", 32, 0, "lost", [1]),
        ("c", 32, 0, "lost", [2]),
        ("random", 32, 0, "kept", [3]),
    )
    assert [row["only_failure"] for row in rows] == [True, False, False, False, False, False, False, False]
    assert [row["all_failed"] for row in rows] == [False] * 4 + [True] * 4


def test_a_random_pruner_is_compared_seed_by_seed_with_what_stands_for_every_seed():
    rows = added(
        ("a", 64, 0, "kept", [0]),
        ("drawn", 64, 0, "lost", [1]),
        ("drawn", 64, 1, "kept", [2]),
    )
    assert [row["only_failure"] for row in rows] == [False, True, False]
    assert [row["all_failed"] for row in rows] == [False, False, False]
    rows = added(("a", 64, 0, "lost", [0]), ("drawn", 64, 0, "lost", [1]), ("drawn", 64, 1, "kept", [2]))
    assert [row["all_failed"] for row in rows] == [True, True, False]
    rows = added(("a", 64, 0, "kept", [0]), ("drawn", 64, 0, "kept", [1]), ("drawn", 64, 1, "lost", [2]))
    assert [row["only_failure"] for row in rows] == [False, False, True]


def test_one_pruner_alone_is_neither_the_only_failure_nor_all_of_them():
    rows = added(("a", 64, 0, "lost", [0]), ("random", 64, 0, "kept", [3]))
    assert [(row["only_failure"], row["all_failed"]) for row in rows] == [(False, False)] * 2


def test_methods_that_could_not_run_do_not_count():
    rows = added(("a", 64, 0, "lost", [0]), ("b", 64, 0, "lost", [0]), ("c", 64, 0, "error", None))
    assert [row["all_failed"] for row in rows] == [True, True, None]


def test_random_beats_a_wrong_answer_by_the_majority_of_its_seeds():
    def beaten(*random):
        drawn = [("random", 64, seed, outcome, [seed]) for seed, outcome in enumerate(random)]
        rows = added(("a", 64, 0, "lost", [5]), ("b", 64, 0, "kept", [6]), *drawn)
        assert all(row["random_beats_it"] is False for row in rows[1:])
        return rows[0]["random_beats_it"]

    assert beaten("kept", "kept", "lost") is True
    assert beaten("kept", "lost", "lost") is False
    assert beaten("kept", "lost") is False
    assert added(("a", 64, 0, "lost", [5]))[0]["random_beats_it"] is None


def test_agreement_is_the_mean_overlap_with_the_other_pruners():
    rows = added(
        ("a", 64, 0, "kept", [0, 1, 2, 3]),
        ("b", 64, 0, "kept", [2, 3, 4, 5]),  # 2 of 6 in common with a
        ("c", 64, 0, "kept", [0, 1, 2, 3]),  # 4 of 4 with a
        ("random", 64, 0, "kept", [0, 1]),  # of 4, 4 and 6
        ("d", 64, 0, "error", None),
        ("a", 32, 0, "kept", [9]),
    )
    expected = [(2 / 6 + 1) / 2, (2 / 6 + 2 / 6) / 2, (2 / 6 + 1) / 2, (2 / 4 + 0 / 6 + 2 / 4) / 3, None, None]
    assert [row["agreement"] for row in rows] == [None if e is None else pytest.approx(e) for e in expected]


def test_the_flip_budget_is_the_largest_at_which_the_answer_is_lost():
    rows = added(
        ("a", 192, 0, "kept", [0]),
        ("a", 128, 0, "lost", [0]),
        ("a", 64, 0, "kept", [0]),
        ("a", 32, 0, "lost", [0]),
        ("b", 192, 0, "kept", [0]),
        ("b", 128, 0, "kept", [0]),
        # nothing is drawn at 576: the first seed's row stands for both
        ("random", 576, 0, "lost", [0]),
        ("random", 64, 0, "lost", [0]),
        ("random", 64, 1, "kept", [0]),
        ("random", 32, 0, "lost", [0]),
        ("random", 32, 1, "lost", [0]),
    )
    assert [row["flip_budget"] for row in rows] == [128] * 4 + [None] * 2 + [576] * 5


def test_unpruned_wrong_is_on_every_row():
    assert [row["unpruned_wrong"] for row in added(("a", 64, 0, "rescued", [0]), right=False)] == [True]
    assert [row["unpruned_wrong"] for row in added(("a", 64, 0, "same", [0]), right=None)] == [None]


def test_nothing_is_claimed_where_nothing_says_what_is_right():
    rows = added(("a", 64, 0, "differs", [0]), ("b", 64, 0, "same", [0]), ("random", 64, 0, "same", [1]), right=None)
    for name in ("only_failure", "all_failed", "random_beats_it", "flip_budget"):
        assert [row[name] for row in rows] == [None] * 3


@pytest.mark.parametrize(
    ("outcomes", "right", "expected"),
    [
        (["kept", "lost"], True, True),
        (["kept", "kept"], True, False),
        (["rescued", "wrong"], False, None),
        ([], True, None),
        (["error"], True, None),
        (["same"], None, None),
    ],
)
def test_a_case_is_difficult_if_downsampling_loses_it(outcomes, right, expected):
    rows, _ = rows_of(*(("downsample", 64 - at, 0, outcome, [0]) for at, outcome in enumerate(outcomes)))
    others, _ = rows_of(("a", 64, 0, "lost", [0]))
    assert difficult(rows + others, right) is expected
