"""Kept against renumbered positions, on outcomes that can be counted by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.fidelity import positions
from benchmarks.fidelity.outcomes import FULL, Outcome, Variant
from benchmarks.fidelity.statistics import mcnemar
from tokviz.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = [("relation", "where is the red star?", "left"), ("relation", "is a above b?", "yes")] * 4 + [
    ("counting", "how many stars are there?", "3")
] * 2
ABOUT = {
    "command": "python -m tokviz bench positions --scenes 1", "machine": "a | machine", "date": "2026-11-29",
    "versions": {}, "model": "tokviz-tiny", "fingerprint": "0123", "n_visual": 576, "n_layers": 8, "first_seed": 5,
    "scenes": 1, "budgets": [64], "workers": 1, "seconds": 1.0, "left_out": [],
}  # fmt: skip


def answered(right):
    """Outcomes of the ten questions; ``right`` a string of 1 and 0."""
    return [
        Outcome(5, i, family, question, expected, expected if flag == "1" else "?", flag == "1", 64, 64.0, None, None)
        for i, ((family, question, expected), flag) in enumerate(zip(QUESTIONS, right, strict=True))
    ]


RIGHT = {
    (FULL, None): "1111111011",
    ("fastv", "keep"): "1010101011",
    ("fastv", "reindex"): "0000000101",
    ("random", "keep"): "1111000000",
    ("random", "reindex"): "1111000000",
}
"""Questions 0, 2, 4, 6 ask where, 1, 3, 5, 7 for a relation, 8 and 9 for something else."""


def variant(method, policy):
    return Variant(method, {"positions": policy} if policy else {}, method, 64 if policy else None)


def made(changed=None):
    return {variant(*key): answered(flags) for key, flags in {**RIGHT, **(changed or {})}.items()}


def test_counts_by_hand():
    found = positions.document(made(), ABOUT)
    assert found["questions"] == {"where": 4, "relation": 4, "other": 2}
    assert found["unpruned"] == {"where": 1.0, "relation": 0.75, "other": 1.0}
    random, fastv = found["rows"]
    assert (random["method"], random["source"]) == ("random", "reindex") and fastv["source"] == "keep"
    where, other = fastv["kinds"]["where"], fastv["kinds"]["other"]
    assert (where["keep"], where["reindex"], where["only_keep"], where["only_reindex"]) == (1.0, 0.0, 4, 0)
    assert where["p"] == mcnemar(4, 0) and where["p_holm"] == 2 * where["p"]
    assert (other["only_keep"], other["only_reindex"]) == (1, 0)
    relation = fastv["kinds"]["relation"]
    assert (relation["keep"], relation["reindex"]) == (0.0, 0.25)
    # Questions 0, 2, 4, 6, 7 and 8 are answered differently; 1, 3 and 5 are wrong in the same way, 9 is right in both.
    assert fastv["same_answer"] == 0.4 and random["same_answer"] == 1.0
    assert [(case["method"], case["keep"], case["reindex"]) for case in found["cases"]] == [("fastv", "left", "?")] * 4


def test_the_page_says_what_was_counted():
    text = positions.page(positions.document(made(), ABOUT))
    assert "Where-questions (4; unpruned 100.0% right): over the 2 methods 4 answers are right only with kept" in text
    assert "a \\| machine" in text and "arXiv 2506.21873" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block
    assert "## Where-questions that flip" in text
    same = made({("fastv", "reindex"): RIGHT["fastv", "keep"]})
    assert "that flip" not in positions.page(positions.document(same, ABOUT))


def test_what_cannot_be_compared_is_refused():
    only_keep = {v: own for v, own in made().items() if v.params.get("positions") != "reindex"}
    with pytest.raises(BadInput, match="both policies"):
        positions.document(only_keep, ABOUT)
    with pytest.raises(BadInput, match="no question in common"):
        positions.document({v: own if v.method == FULL else [] for v, own in made().items()}, ABOUT)


def test_every_method_runs_with_both():
    wanted = positions.variants(576)
    assert len(wanted) == 1 + 2 * len(positions.METHODS) and {v.budget for v in wanted} == {None, 64}
    assert {v.budget for v in positions.variants(144)} == {None, 16}


def test_the_committed_page_is_that_of_the_committed_numbers():
    found = positions.read(ROOT / "benchmarks" / "positions.json")
    assert (ROOT / "benchmarks" / "positions.md").read_text() == positions.page(found)
    assert (ROOT / "docs" / "positions.md").read_text() == positions.page(found)


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "positions.json"
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(BadInput, match="format 1"):
        positions.read(path)
