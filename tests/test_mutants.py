"""The mutants in ``scripts/mutants`` still fit the code, every one was caught, and what applies and runs them works."""

from dataclasses import replace

import pytest

from scripts.mutants.__main__ import caught, main, note
from scripts.mutants.catalog import Mutant, Stale, complaints, load, mutated
from scripts.mutants.running import FIRST_FAILURE, NoProof, Outcome, applied, fail_anyway, try_mutant

RECORDED = 83
"""Mutants that the suite caught when this was written: the list grows, or somebody says why not."""


def test_every_mutant_applies_and_was_caught():
    mutants = load()
    assert complaints(mutants) == []
    assert [mutant.id for mutant in mutants if not caught().get(mutant.id)] == []
    assert len(caught()) >= RECORDED and set(caught()) == {mutant.id for mutant in mutants}


def test_every_room_has_its_share():
    rooms = [mutant.room for mutant in load()]
    assert min(map(rooms.count, ("engine", "media", "models", "pruners", "runs", "ui"))) >= 10


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch):
    """What pytest loads by itself would take longer than the tests that it runs here."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def small(tmp_path):
    """A project of one function and its test, and a mutant that the test catches."""
    (tmp_path / "halves.py").write_text("def half(n):\n    return n // 2\n")
    (tmp_path / "test_halves.py").write_text(
        "import pytest\nfrom halves import half\n\n"
        "@pytest.mark.parametrize('n', [2], ids=['of two'])\ndef test_half(n):\n    assert half(n) == 1\n"
    )
    return Mutant("room", "thirds", "A half is a third.", "halves.py", "n // 2", "n // 3", ("test_halves.py",))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"file": "gone.py"}, "there is no gone.py"),
        ({"tests": ("gone.py",)}, "there is no gone.py"),
        ({"tests": ()}, "names no test"),
        ({"find": "n // 4"}, "occurs 0 times"),
        ({"find": "n"}, "times in halves.py, not once"),
        ({"replace": "n // ("}, "no Python"),
        ({"replace": "n  //  2"}, "changes nothing"),
    ],
)
def test_a_mutant_that_no_longer_fits_is_named(small, tmp_path, changed, said):
    assert mutated(small, tmp_path) == "def half(n):\n    return n // 3\n"
    with pytest.raises(Stale, match=said) as stale:
        mutated(replace(small, **changed), tmp_path)
    assert str(stale.value).startswith("stale mutant: thirds: ")


def test_a_mutant_is_caught_by_a_test_that_passes_without_it(small, tmp_path):
    assert try_mutant(small, tmp_path, small.tests).caught_by == "test_halves.py::test_half[of two]"
    assert (tmp_path / "halves.py").read_text() == "def half(n):\n    return n // 2\n"
    survivor = replace(small, find="n // 2", replace="n - 1")
    assert try_mutant(survivor, tmp_path, small.tests).caught_by is None


def test_the_recorded_test_comes_first_and_one_that_is_gone_does_no_harm(small, tmp_path):
    (tmp_path / "test_early.py").write_text("import halves\n\n\ndef test_two():\n    assert halves.half(2) == 1\n")
    tests = ("test_early.py", *small.tests)
    assert try_mutant(small, tmp_path, tests).caught_by == "test_early.py::test_two"
    recorded = "test_halves.py::test_half[of two]"
    assert try_mutant(small, tmp_path, tests, recorded).caught_by == recorded
    for gone in ("test_halves.py::test_third", "test_gone.py::test_half"):
        assert try_mutant(small, tmp_path, tests, gone).caught_by == "test_early.py::test_two"


def test_a_test_that_fails_anyway_is_no_proof(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n")
    assert fail_anyway({"test_it.py::test_bad", "test_it.py::test_good"}, tmp_path) == {"test_it.py::test_bad"}
    assert fail_anyway({"test_it.py::test_good"}, tmp_path) == fail_anyway(set(), tmp_path) == set()
    (tmp_path / "test_it.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(NoProof):
        fail_anyway({"test_it.py::test_good"}, tmp_path)


def test_the_code_is_as_before_whatever_happens(small, tmp_path):
    with pytest.raises(KeyboardInterrupt), applied(small, tmp_path):
        assert "n // 3" in (tmp_path / "halves.py").read_text()
        raise KeyboardInterrupt
    assert "n // 2" in (tmp_path / "halves.py").read_text()


def test_names_of_tests_are_read_whole():
    line = "FAILED tests/a.py::test_b[one row-keep] - assert 1 == 2\n"
    assert FIRST_FAILURE.search(line)[1] == "tests/a.py::test_b[one row-keep]"
    assert FIRST_FAILURE.search("ERROR tests/a.py\n")[1] == "tests/a.py"


def test_the_record_keeps_the_order_of_the_files(tmp_path, capsys):
    first, second, *_ = load()
    path = tmp_path / "caught.json"
    for mutant, test in ((second, "b"), (first, "a"), (second, None)):
        note(Outcome(mutant, test, 1.0), path)
    assert list(caught(path).items()) == [(first.id, "a"), (second.id, None)]
    assert main(["check", "--only", first.id]) == 0 and main(["list", "--room", first.room]) == 0
    assert main(["run", "--only", "unknown"]) == 1
    assert "1 mutants apply." in capsys.readouterr().out
