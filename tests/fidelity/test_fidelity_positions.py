"""Kept against renumbered positions, on a run whose answers can be counted by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.fidelity import positions
from tests.fidelity.conftest import ABOUT, entry, flags, is_of_the_runner_before, measured
from tokviz.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
METHODS = [entry(id, positions=policy) for id in ("random", "fastv") for policy in ("keep", "reindex")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """FastV keeps all 20 where-questions with kept positions and 4 with renumbered ones; random is the same in both."""
    right = [flags(relation=10), flags(relation=10), flags(), flags(relation=4)]
    answers = {(method.key, 64): [own] for method, own in zip(METHODS, right, strict=True)}
    columns = {(METHODS[3].key, 64): {"answer": "y"}}
    return measured(tmp_path_factory.mktemp("positions"), answers, METHODS, columns)


def test_counts_by_hand(run):
    found = positions.document(run, ABOUT)
    assert found["questions"] == {"where": 20, "relation": 0, "other": 80}
    assert found["unpruned"] == {"where": 100, "relation": None, "other": 87.5}
    random, fastv = found["rows"]
    assert (random["method"], random["source"]) == ("random", "reindex") and fastv["source"] == "keep"
    where, other = fastv["kinds"]["where"], fastv["kinds"]["other"]
    assert (where["keep"], where["reindex"], where["only_keep"], where["only_reindex"]) == (100, 20, 16, 0)
    # All 16 go one way: 2 / 2^16, doubled for the two methods.
    assert where["p_holm"] == pytest.approx(2**-14)
    assert (other["only_keep"], other["p_holm"]) == (0, None)
    assert (fastv["same_answer"], random["same_answer"]) == (0, 100)
    assert [(case["method"], case["keep"], case["reindex"]) for case in found["cases"]] == [("fastv", "x", "y")] * 12


def test_the_page_says_what_was_counted(run, tmp_path):
    found = positions.document(run, ABOUT)
    text = positions.page(found)
    assert "Where-questions (20; unpruned 100.0% right): over the 2 methods 16 answers are right only with kept" in text
    assert "Beyond chance for FastV." in text
    assert "a \\| machine" in text and "arXiv 2506.21873" in text and "## Where-questions that flip" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block
    paths = positions.write(found, tmp_path, tmp_path / "docs")
    assert json.loads(paths[0].read_text()) == json.loads(json.dumps(found)) and paths[2].read_text() == text


def test_what_cannot_be_compared_is_refused(tmp_path):
    only = measured(tmp_path, {(METHODS[2].key, 64): [flags()]}, METHODS[2:3])
    with pytest.raises(BadInput, match="both policies"):
        positions.document(only, ABOUT)


def test_every_method_runs_with_both():
    wanted = positions.mining(576)
    assert len(wanted.methods) == 2 * len(positions.METHODS) and wanted.budgets == (64,)
    assert positions.mining(144).budgets == (16,)


def test_the_committed_page_is_that_of_the_committed_numbers():
    found = json.loads((ROOT / "benchmarks" / "positions.json").read_text())
    if is_of_the_runner_before(found, positions.FORMAT):
        return
    for folder in ("benchmarks", "docs"):
        assert (ROOT / folder / "positions.md").read_text() == positions.page(found)
