"""The benchmark runs, knows every method, and says what it measured. Nothing here looks at how long anything took."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import measuring, selection
from benchmarks.cases import CASES, Case, Size
from benchmarks.inputs import make_signals, n_views, tiles
from tokviz.pruners import methods

ROOT = Path(selection.__file__).parent
CPU = torch.device("cpu")
METHODS = [pruner.id for pruner in methods() if pruner.family != "control"]


def case_of(method):
    return next(case for case in CASES if case.method == method)


def test_every_method_that_is_no_control_has_one_row():
    named = [case.method for case in CASES]
    assert len(named) == len(set(named))
    assert set(METHODS) <= set(named), f"no line in benchmarks/cases.py: {set(METHODS) - set(named)}"


@pytest.mark.parametrize("methods", [METHODS[::6], pytest.param(METHODS, marks=pytest.mark.generator)], ids=len)
def test_quick_run_measures_every_method_and_writes_table_and_numbers(tmp_path, methods):
    some = ["--methods", ",".join(methods)] if methods != METHODS else []
    rows = selection.main(["--quick", *some, "--device", "cpu", "--out", str(tmp_path / "found")])
    assert [row.method for row in rows] == [case.method for case in CASES if case.method in methods]
    table = (tmp_path / "found.md").read_text()
    assert " ".join(["python -m benchmarks.selection --quick", *some, "--device cpu"]) in table
    assert all(f"| {row.method} |" in table for row in rows)
    stored = json.loads((tmp_path / "found.json").read_text())
    assert [row["method"] for row in stored["rows"]] == [row.method for row in rows]
    assert {"command", "date", "cpu", "threads", "torch"} <= set(stored["environment"])
    for row in rows:
        assert row.ms > 0 and row.published_ms > 0 and row.samples > 0
        assert 0 <= row.scratch_bytes <= row.scratch_limit


def test_the_committed_page_is_that_of_the_committed_numbers():
    stored = json.loads((ROOT / "selection.json").read_text())
    names = {field.name for field in fields(selection.Row)}
    rows = [selection.Row(**{name: row[name] for name in names}) for row in stored["rows"]]
    assert selection.as_markdown(rows, stored["environment"]) == (ROOT / "selection.md").read_text()


def test_a_partial_run_writes_nothing_by_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(selection, "__file__", str(tmp_path / "selection.py"))
    assert len(selection.main(["--sizes", "64x16", "--methods", "fastervlm,divprune", "--device", "cpu"])) == 2
    assert list(tmp_path.iterdir()) == []


def test_scratch_is_the_highest_level_of_what_is_held_beside_the_inputs():
    x = torch.zeros(1 << 18)  # 1 MiB

    def work():
        a = x + 1  # 1
        b = a + 1  # 2
        del a  # 1
        c = b.repeat(2)  # 3
        del b, c
        return x[:10].clone()

    assert measuring.peak_scratch(work, CPU) == pytest.approx(3 << 20, rel=0.01)


def test_a_slow_procedure_is_stopped_and_reported_as_a_lower_bound():
    def endless(tick):
        while True:
            tick()

    stopped = measuring.measure_until(endless, CPU, seconds=0.05)
    assert stopped.stopped and stopped.samples == 1 and stopped.ms >= 50


def test_tiles_are_a_square_thumbnail_and_crops_of_its_size():
    assert [n_views(n) for n in (144, 576, 2880, 8192)] == [4, 4, 5, 8]
    made = tiles(144)
    assert made["view"].bincount().tolist() == [36, 36, 36, 36]
    assert made["cell"][:36].max() == 5
    assert made["cell"][36:].amax(0).tolist() == [5, 17]


class HostWaits(TorchDispatchMode):
    """Counts operations after which the host needs a number from the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in self.WAITING
        return function(*args, **(kwargs or {}))


def waits(case: Case, keep: int) -> int:
    pruner, stage = case.stage(Size(144, 16, keep))
    signals = make_signals(stage, 144, 16, case.tiled, CPU, filmed=case.filmed)
    with HostWaits() as found:
        stage.select(signals, keep, pruner.complete({}), torch.Generator().manual_seed(0))
    return found.count


@pytest.mark.parametrize("method", METHODS)
def test_host_waits_do_not_grow_with_the_number_of_steps(method):
    # On a GPU every such wait stops the queue: a greedy loop of K steps may not have K of them.
    few, many = waits(case_of(method), 88), waits(case_of(method), 124)
    assert many <= few + 12
