"""Workers that die, processes that are killed, actors on a cluster: no case is lost, and the bytes are the same."""

import os
import pickle
import select
import signal
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest

import tokviz
from tokviz.cases import Case
from tokviz.errors import BadInput
from tokviz.mining import crew as crews
from tokviz.mining import local
from tokviz.mining.crew import mined_by
from tokviz.mining.local import Processes
from tokviz.mining.manifest import read_manifest
from tokviz.mining.tasks import Mined, Task


def tables(folder):
    """The digests of all parts."""
    return [(part.name, part.sha256, part.cases_sha256) for part in read_manifest(folder).parts]


class Pretended:
    """Two workers that take the cases in turn; every worker dies at ``deadly`` ones, with all that is in flight."""

    most = 4

    def __init__(self, deadly=(), dies_once=()):
        self.deadly, self.dies_once, self.there, self.largest, self.begun = set(deadly), set(dies_once), [], 0, []

    def submit(self, task):
        self.there.append(task)
        self.begun.append(task.position)
        self.largest = max(self.largest, len(self.there))

    def wait(self):
        first = self.there[0]
        if first.position in self.deadly | self.dies_once:
            self.dies_once.discard(first.position)
            lost, self.there = [(task, None) for task in self.there], []
            return lost
        return [(self.there.pop(0), Mined(first.position, b"", 0.0, 1))]

    def close(self):
        pass


def tasks(count):
    return (Task(at, at, Case(id=str(at), image="x.png", question="what ?")) for at in range(count))


@pytest.fixture(autouse=True)
def refused(monkeypatch):
    monkeypatch.setattr(crews, "refused", lambda _plan, task, why: Mined(task.position, why.encode(), 0.0, 0))


def test_every_case_is_mined_once_and_few_are_in_flight():
    crew = Pretended()
    found = [mined.position for mined in mined_by(crew, None, tasks(50), threading.Event())]
    assert sorted(found) == list(range(50)) and crew.largest == 4 and len(crew.begun) == 50


def test_cases_are_asked_for_only_when_there_is_room():
    taken = []

    def counted():
        for task in tasks(10_000):
            taken.append(task.position)
            yield task

    found = mined_by(Pretended(), None, counted(), threading.Event())
    for _ in range(5):
        next(found)
    assert len(taken) <= 5 + 4


def test_what_was_in_flight_with_a_dead_worker_is_mined_again():
    crew = Pretended(dies_once=[7, 20])
    found = [mined.position for mined in mined_by(crew, None, tasks(30), threading.Event())]
    assert sorted(found) == list(range(30))
    assert 30 < len(crew.begun) <= 30 + 2 * 4


def test_a_case_that_always_ends_its_worker_is_told_apart_from_those_beside_it():
    found = {m.position: m.payload for m in mined_by(Pretended(deadly=[9, 10]), None, tasks(30), threading.Event())}
    assert sorted(found) == list(range(30))
    assert [position for position in found if found[position]] == [9, 10]
    assert b"ended, 3 times" in found[9]


def test_none_is_begun_after_stop():
    stop = threading.Event()
    crew, found = Pretended(), []
    for mined in mined_by(crew, None, tasks(100), stop):
        found.append(mined.position)
        if len(found) == 10:
            stop.set()
    assert len(crew.begun) == len(found) < 15


def test_a_pool_that_breaks_is_replaced_once_and_only_what_was_in_it_is_lost(monkeypatch, tmp_path):
    """What was given to the new pool before the old one's cases came back is not lost with them."""
    begun = []

    class Pool:
        def __init__(self):
            self.broken, self.futures = False, []
            begun.append(self)

        def submit(self, _function, task):
            if self.broken:
                raise BrokenProcessPool
            future = Future()
            self.futures.append((future, task))
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(Processes, "_begun", lambda _self: Pool())
    crew, (first, second, third) = Processes(None, None, 2, tmp_path / "payloads"), tasks(3)
    crew.submit(first)
    crew.submit(second)
    begun[0].broken = True
    for future, _ in begun[0].futures:
        future.set_exception(BrokenProcessPool())
    crew.submit(third)
    assert len(begun) == 2
    assert sorted(task.position for task, mined in crew.wait() if mined is None) == [0, 1]
    (tmp_path / "payload").write_bytes(b"rows")
    begun[1].futures[0][0].set_result((Mined(2, b"", 0.0, 1), str(tmp_path / "payload")))
    assert crew.wait() == [(third, Mined(2, b"rows", 0.0, 1))]
    assert len(begun) == 2
    crew.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_payloads_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match=r"run folder cannot be written: not a directory"):
        Processes(None, None, 2, tmp_path / "file" / "payloads")


def test_a_worker_says_little_through_the_pipe_that_a_kill_could_break_off(monkeypatch, tmp_path):
    """Half of a long message kept the pool waiting for its other half for ever, and every process with it."""
    (task,) = tasks(1)
    monkeypatch.setattr(local, "_worker", {"vlm": None, "plan": None, "seen": None, "payloads": str(tmp_path)})
    monkeypatch.setattr(local, "mine_case", lambda *_, **__: Mined(0, bytes(10**6), 0.0, 1, ("x" * 200, "0" * 64)))
    mined, payload = said = local._mine(task)
    assert len(pickle.dumps(said)) < select.PIPE_BUF // 2, "so much is written at once"
    assert Path(payload).read_bytes() == bytes(10**6) and mined.payload == b""
    monkeypatch.setitem(local._worker, "payloads", tmp_path / "gone")
    with pytest.raises(BadInput, match=r"run folder cannot be written: no such file.*kept: repeat the command"):
        local._mine(task)


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_give_the_bytes_of_one_even_when_one_is_killed(tiny, data_set, options, mined, tmp_path):
    killed, seen = [], []

    def on_progress(event):
        seen.append(event.done)
        if event.mined == 1:
            mine = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
            mine[-1].send_signal(signal.SIGKILL)
            killed.append(mine[-1].pid)

    run = tokviz.mine(tiny, data_set, out=tmp_path / "run", on_progress=on_progress, **options | {"workers": 2})
    assert killed and seen == list(range(8))
    assert tables(run.path) == tables(mined.path)
    assert not any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process().children())


def test_a_model_of_this_process_needs_one_worker(data_set, options, tmp_path):
    import torch
    from tiny_families import CASES

    own = tokviz.wrap(CASES["llava"].model(torch.float32), CASES["llava"].processor())
    with pytest.raises(tokviz.BadInput, match="exists in this process only"):
        tokviz.mine(own, data_set, out=tmp_path / "run", **options | {"workers": 2})


# -- a cluster ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cluster_gives_the_same_bytes_even_when_a_worker_is_killed(tiny, data_set, options, mined, tmp_path):
    pytest.importorskip("ray")
    killed, seen = [], []

    def on_progress(event):
        seen.append(event.done)
        if event.mined == 1:
            actors = [
                p for p in psutil.process_iter(["cmdline"]) if "ray::_Worker" in " ".join(p.info["cmdline"] or [])
            ]
            mine = [actor for actor in actors if psutil.Process() in actor.parents()] or actors[:1]
            os.kill(mine[0].pid, signal.SIGKILL)
            killed.append(mine[0].pid)

    ray = options | {"workers": 2, "engine": "ray"}
    run = tokviz.mine(tiny, data_set, out=tmp_path / "run", on_progress=on_progress, **ray)
    assert killed and seen == list(range(8))
    assert tables(run.path) == tables(mined.path)
    import ray as library

    assert not library.is_initialized()
