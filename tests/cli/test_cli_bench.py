"""``bench``: it mines, goes on, makes the pages, and says in a sentence what is wrong."""

import json
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks.fidelity import command
from tokviz import cli

FEW = ("--methods", "apet", "--budgets", "12%", "--workers", 1, "--seeds", 1, "--no-layers")


@pytest.fixture
def loaded(monkeypatch, vlm):
    """The model of the session, so that no call loads it again; and a scene has two questions."""
    import tokviz
    from scripts import scene_cases

    whole = scene_cases.write_scenes
    monkeypatch.setattr(tokviz, "load", lambda name: vlm, raising=False)
    monkeypatch.setattr(scene_cases, "write_scenes", lambda out, count: whole(out, count, most=2 * count))


@pytest.fixture
def mined(monkeypatch):
    """What ``tokviz.mine`` was asked for: folder and number of methods; and what it answered."""
    import tokviz

    calls, mine = [], tokviz.mine

    def watched(*given, out, **more):
        run = mine(*given, out=out, **more)
        calls.append((Path(out).name, len(given[2]), run.n_rows))
        return run

    monkeypatch.setattr(tokviz, "mine", watched)
    return calls


def bench(tmp_path, *more, kind="fidelity"):
    given = ["bench", kind, "--runs", tmp_path / "runs", "--out", tmp_path / "out", *more]
    return cli.main(list(map(str, given)))


def test_it_writes_the_tables_and_mines_nothing_twice(loaded, mined, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.fidelity.document.chart_bytes", lambda found, form: b"drawn")
    assert bench(tmp_path, *FEW, "--scenes", 1, "--docs", tmp_path / "docs") == 0
    captured = capsys.readouterr()
    assert "why.md is about other weights" in captured.err
    written = [Path(line) for line in captured.out.splitlines()]
    assert {path.name for path in written} == {"fidelity.md", "fidelity.json", "fidelity.png", "fidelity.svg"}
    assert all(path.is_file() for path in written) and tmp_path / "docs" / "fidelity.md" in written
    # Two questions; random, uniform twice, pool, downsample, the oracle and ApET.
    assert mined == [("methods", 7, 14)]
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tokviz-tiny-") and folder.name.endswith("-1-scenes")
    first = (tmp_path / "out" / "fidelity.json").read_bytes()
    parts = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert bench(tmp_path, *FEW, "--scenes", 1) == 0
    assert (tmp_path / "out" / "fidelity.json").read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == parts
    found = json.loads(first)
    assert found["about"]["cases"] == found["questions"]["all"] == 2
    assert found["about"]["command"] == (
        "python -m tokviz bench fidelity --methods apet --budgets 12% --scenes 1 --seeds 1 --no-layers"
    )
    assert "EVS" not in [each["label"] for each in found["about"]["left_out"]], "nobody asked for it"
    # Another choice of methods belongs into another folder, and says so.
    capsys.readouterr()
    assert bench(tmp_path, *FEW, "--methods", "divprune", "--scenes", 1) == 2
    assert "begun by another command: methods" in capsys.readouterr().err


def test_an_interrupted_run_makes_no_tables(loaded, mined, tmp_path, capsys, monkeypatch):
    stop = threading.Event()
    stop.set()  # as a first ctrl-C does
    monkeypatch.setattr(command, "interruptible", lambda console: nullcontext(stop))
    assert bench(tmp_path, *FEW, "--scenes", 1) == 130
    assert "the same command goes on" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_when_the_time_is_up_before_a_part_is_whole_there_is_a_sentence(loaded, mined, tmp_path, capsys):
    assert bench(tmp_path, *FEW, "--scenes", 1, "--minutes", 1e-9) == 2
    assert "allow more --minutes" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_half_of_a_case_file_is_drawn_again(tmp_path):
    (tmp_path / "cases" / "images").mkdir(parents=True)
    file = command.case_file(tmp_path / "cases", 1)
    first = file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["cases"] and first.count(b"\n") == 10
    assert json.loads(first.splitlines()[0])["id"] == "201000000-0"
    file.write_bytes(b"mine")
    assert command.case_file(tmp_path / "cases", 1).read_bytes() == b"mine", "what is there is used"


@pytest.mark.generator
@pytest.mark.parametrize("kind", ["ablations", "positions"])
def test_the_other_benchmarks_are_runs_too(loaded, mined, tmp_path, kind):
    assert bench(tmp_path, "--scenes", 1, "--workers", 1, "--seeds", 1, kind=kind) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{kind}.json", f"{kind}.md"}
    assert {name for name, *_ in mined} == ({"at-64", "at-128"} if kind == "ablations" else {"positions"})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "arguments are required: benchmark"),
        (["nonsense"], "invalid choice"),
        (["fidelity", "--methods", "nonsense"], "no method 'nonsense'"),
        (["fidelity", "--methods", ","], "no method to run"),
        (["fidelity", "--scenes", "0"], "Held-out scenes have the seeds"),
        (["fidelity", "--scenes", "-3"], "Held-out scenes have the seeds"),
        (["fidelity", "--scenes", "x"], "invalid int value"),
        (["fidelity", "--budgets", "9999"], "not between 1 and"),
        (["fidelity", "--budgets", "few"], "whole number of visual tokens or a percentage"),
        (["fidelity", "--workers", "0", "--scenes", "1"], "number of workers"),
        (["fidelity", "--draws", "0", "--scenes", "1"], "number of seeds"),
        (["fidelity", "--minutes", "-1"], "--minutes must be a positive number"),
        (["fidelity", "--minutes", "nan"], "--minutes must be a positive number"),
        (["fidelity", "--cache", "/proc/nothing"], "'/proc/nothing' cannot be written"),
        (["ablations", "--out", "/proc/nothing"], "'/proc/nothing' cannot be written"),
        (["ablations", "--budgets", "64"], "Unrecognized arguments"),
    ],
)
def test_bad_input_ends_with_a_sentence(loaded, capsys, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and sentence in captured.err and len(captured.err.splitlines()) == 1
