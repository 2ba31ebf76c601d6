"""``bench``: it answers, stores, goes on, and says in a sentence what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.fidelity import workers
from benchmarks.fidelity.outcomes import from_lines
from benchmarks.fidelity.questions import first_seed
from benchmarks.fidelity.running import run_variant
from tokviz import cli

ROOT = Path(__file__).resolve().parents[2]
FEW = ("--methods", "apet,fastv", "--budgets", "12%", "--workers", 1, "--draws", 1, "--no-layers")
ROWS = ["full", "random", "uniform", "downsample", "pool", "fastv", "apet", "evidence_oracle"]


@pytest.fixture
def loaded(monkeypatch, vlm):
    """The model of the session, so that no call loads it again."""
    import tokviz

    monkeypatch.setattr(tokviz, "load", lambda name: vlm, raising=False)


@pytest.fixture
def asked(monkeypatch):
    """Every ``(method, scenes)`` that was really run; raises what ``asked.stop`` maps a count of runs to."""

    class Asked(list):
        def __init__(self):
            super().__init__()
            self.stop = {}

    calls = Asked()

    def watched(vlm, grid, plan, scenes):
        if len(calls) in calls.stop:
            raise calls.stop.pop(len(calls))
        calls.append((plan.variant.method, [scene.seed - first_seed() for scene in scenes]))
        return run_variant(vlm, grid, plan, scenes)

    monkeypatch.setattr(workers, "run_variant", watched)
    return calls


def bench(tmp_path, *more, kind="fidelity"):
    given = ["bench", kind, "--cache", tmp_path / "cache", "--out", tmp_path / "out", *more]
    return cli.main(list(map(str, given)))


def stored(tmp_path):
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_it_writes_the_tables_and_computes_nothing_twice(loaded, asked, tmp_path, capsys):
    assert bench(tmp_path, *FEW, "--scenes", 1, "--docs", tmp_path / "docs") == 0
    captured = capsys.readouterr()
    assert captured.err == "", "quiet when it is quick and no terminal"
    written = [Path(line) for line in captured.out.splitlines()]
    assert {path.name for path in written} >= {"fidelity.md", "fidelity.json"}
    assert all(path.is_file() for path in written) and tmp_path / "docs" / "fidelity.md" in written
    assert asked == [(method, [0]) for method in ROWS]
    first = (tmp_path / "out" / "fidelity.json").read_bytes()
    assert bench(tmp_path, *FEW, "--scenes", 1) == 0
    assert len(asked) == len(ROWS) and (tmp_path / "out" / "fidelity.json").read_bytes() == first
    assert bench(tmp_path, *FEW, "--scenes", 2) == 0
    assert asked[len(ROWS) :] == [(method, [1]) for method in ROWS], "a second scene, and nothing of the first"


@pytest.mark.generator
def test_an_interrupted_run_leaves_a_clean_cache_and_goes_on(loaded, asked, tmp_path, capsys, monkeypatch):
    from benchmarks.fidelity import questions

    monkeypatch.setattr(questions, "CHUNK", 1)
    asked.stop = {len(ROWS) + 2: KeyboardInterrupt()}
    assert bench(tmp_path, *FEW, "--scenes", 2) == 130
    said = capsys.readouterr().err
    assert "1 of 2 scenes are finished and stored; --scenes 1 makes their table" in said and "interrupted" in said
    files = stored(tmp_path)
    assert len(files) == len(ROWS) + 2
    for path in files:
        assert len(from_lines(path.read_text())[1]) == 10
    assert not (tmp_path / "out" / "fidelity.json").exists()
    assert bench(tmp_path, *FEW, "--scenes", 2) == 0
    assert asked == [(method, [scene]) for scene in (0, 1) for method in ROWS]


@pytest.mark.generator
def test_when_the_time_is_up_the_table_is_of_the_finished_scenes(loaded, asked, tmp_path, capsys, monkeypatch):
    from benchmarks.fidelity import questions

    monkeypatch.setattr(questions, "CHUNK", 1)
    assert bench(tmp_path, *FEW, "--scenes", 3, "--minutes", 1e-6) == 2
    assert "allow more --minutes" in capsys.readouterr().err
    assert asked == []
    started = time.monotonic()
    monkeypatch.setattr("benchmarks.fidelity.command.time.monotonic", lambda: started + 61 * (len(asked) > 0))
    assert bench(tmp_path, *FEW, "--scenes", 3, "--minutes", 1) == 0
    assert asked == [(method, [0]) for method in ROWS], "the chunk that was begun is finished, no other begun"
    found = json.loads((tmp_path / "out" / "fidelity.json").read_text())["about"]
    assert found["scenes"] == 1
    assert found["command"].endswith("--scenes 1"), "what makes this table again, not how long it was waited for"


@pytest.mark.generator
def test_ablations_run_through_the_same_cache(loaded, asked, tmp_path, capsys, monkeypatch):
    assert bench(tmp_path, *FEW, "--scenes", 1) == 0
    _, unpruned = from_lines(next((tmp_path / "cache").rglob("full-*.jsonl")).read_text())
    # Dozens of settings: what each of them answers is the runner's test, here it is what becomes of the answers.
    monkeypatch.setattr(workers, "run_variant", lambda vlm, grid, plan, scenes: asked.append(plan.variant) or unpruned)
    del asked[:]
    assert bench(tmp_path, "--scenes", 1, "--workers", 1, kind="ablations") == 0
    assert asked and "full" not in [variant.method for variant in asked], "the unpruned answers are there already"
    assert any(variant.params for variant in asked)
    assert {"ablations.md", "ablations.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "arguments are required: benchmark"),
        (["nonsense"], "invalid choice"),
        (["fidelity", "--methods", "nonsense"], "no method 'nonsense'"),
        (["fidelity", "--methods", ","], "no method to run"),
        (["fidelity", "--scenes", "0"], "number of scenes"),
        (["fidelity", "--scenes", "-3"], "number of scenes"),
        (["fidelity", "--scenes", "x"], "invalid int value"),
        (["fidelity", "--budgets", "9999"], "not between 1 and"),
        (["fidelity", "--budgets", "few"], "whole number of visual tokens or a percentage"),
        (["fidelity", "--workers", "0"], "number of workers"),
        (["fidelity", "--minutes", "-1"], "--minutes must be a positive number"),
        (["fidelity", "--minutes", "nan"], "--minutes must be a positive number"),
        (["fidelity", "--model", "owner/name"], "no model folder 'owner/name'"),
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


@pytest.mark.generator
@pytest.mark.timeout(900)  # six processes that import torch, on a machine that may be busy
def test_two_workers_are_killed_and_interrupted_leave_nothing_behind_and_go_on(loaded, tmp_path):
    asked = ["--methods", "divprune", "--budgets", "6%,5%,4%,3%", "--scenes", "20"]
    command = [sys.executable, "-m", "tokviz", "bench", "fidelity", *asked, "--workers", "2"]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    times: dict[Path, int] = {}
    for ending in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # Whoever runs the tests in the background of a shell has ctrl-C ignored, and so would they.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as running:  # fmt: skip
            while len(finished(tmp_path)) == len(times) and running.poll() is None:
                time.sleep(0.02)
            # ctrl-C reaches the workers too; who is killed cannot tell them
            running.send_signal(ending) if ending == signal.SIGKILL else os.killpg(running.pid, ending)
            _, said = running.communicate(timeout=300)
        wait_until_nobody_is_left(running.pid)
        if ending == signal.SIGINT:
            assert running.returncode == 130, said
            assert "Traceback" not in said and "of 20 scenes are finished and stored" in said
        now = finished(tmp_path)
        assert len(now) > len(times) and now.items() >= times.items()
        times = now
    assert bench(tmp_path, *asked, "--workers", 1) == 0
    assert len(stored(tmp_path)) == 4 * (1 + 4 * 4), "four chunks; four methods at four budgets, and the unpruned model"
    assert finished(tmp_path).keys() == set(stored(tmp_path)), "nothing is left unfinished"
    assert finished(tmp_path).items() >= times.items(), "nothing was computed again"


def finished(tmp_path):
    """Stored file -> when it was written."""
    return {path: path.stat().st_mtime_ns for path in stored(tmp_path) if path.suffix == ".jsonl"}


def wait_until_nobody_is_left(group):
    """Workers notice at their next step; multiprocessing's own tracker leaves after them."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("a worker went on without its parent")
