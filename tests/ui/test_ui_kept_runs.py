"""Kept runs: what costs no model time, what must, and who is never served whose."""

import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from synthetic import comparison

from tokviz.errors import BadInput
from tokviz.selections import Selections
from tokviz.serving.callers import on_behalf_of
from tokviz.serving.kept_runs import KeptRuns
from tokviz.serving.running import RunRequest
from tokviz.serving.storage import LIFETIME_S


@dataclass(frozen=True)
class Event:
    kind: str
    comparison: object


class Model:
    """Counts what it is asked. ``say`` may raise, stop, or change what it answers."""

    def __init__(self):
        self.asked = 0
        self.say = lambda whole, stop: whole

    def __call__(self, request, stop):
        self.asked += 1
        whole = comparison(question=request.question)
        yield Event("encoded", whole.model_copy(update={"runs": []}))
        yield Event("done", self.say(whole, stop))


class Weights:
    """Stands for a loaded model."""


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def clock():
    return SimpleNamespace(now=12 * 3600.0 + 41 * 60)


@pytest.fixture
def weights():
    return SimpleNamespace(held=Weights())


@pytest.fixture
def runs(model, clock, weights):
    return KeptRuns(model, lambda request: weights.held, lambda: 50_000_000, lambda: clock.now)


@pytest.fixture
def request_(tmp_path):
    (tmp_path / "image.png").write_bytes(b"an image")
    return RunRequest(model="m", image=str(tmp_path / "image.png"), question="what ?", methods=(("apet", {"a": 1}),),
                      budget=16)  # fmt: skip


def ask(runs, request, address="10.0.0.1", stop=None):
    """The last output."""
    with on_behalf_of(address):
        return [*runs(request, stop or threading.Event())][-1]


def kept(event):
    return any("Measured at 12:41 UTC and kept" in warning for warning in event.comparison.warnings)


def test_the_same_question_is_computed_once_and_says_so(runs, model, request_, clock):
    first = ask(runs, request_)
    assert model.asked == 1 and not kept(first)
    clock.now += 3600
    with on_behalf_of("10.0.0.1"):
        (only,) = runs(request_, threading.Event())
    assert model.asked == 1 and kept(only) and only.kind == "done"
    unmarked = only.comparison.model_copy(update={"warnings": first.comparison.warnings})
    assert unmarked == first.comparison  # answers, stages, and the times that were measured then
    assert ask(runs, request_).comparison == only.comparison  # marked once
    assert model.asked == 1


@pytest.mark.parametrize(
    "changed",
    [{"question": "what then ?"}, {"budget": 17}, {"seed": 1}, {"repeats": 3}, {"max_new_tokens": 8},
     {"methods": (("apet", {"a": 2}),)}, {"methods": ()}, {"params": {"apet": {"a": 3}}}, {"budget_as": "final"},
     {"expected": "blue"}, {"evidence": ((0, 0, 1, 1),)}, {"frames": 4}, {"precision": "4bit"}, {"kernel": "sdpa"},
     {"model": "n"}, {"kind": "select_only"}, {"options": {"block": 2}}],
    ids=lambda changed: str(*changed),
)  # fmt: skip
def test_whatever_a_result_follows_from_is_part_of_the_key(runs, model, request_, changed):
    ask(runs, request_)
    ask(runs, replace(request_, **changed))
    assert model.asked == 2


def test_another_content_or_name_is_another_question(runs, model, request_, tmp_path):
    ask(runs, request_)
    (tmp_path / "image.png").write_bytes(b"another image")
    ask(runs, request_)
    assert model.asked == 2
    (tmp_path / "secret.png").write_bytes(b"an image")
    ask(runs, replace(request_, image=str(tmp_path / "secret.png")))  # a session tells the name of its file
    assert model.asked == 3
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "image.png").write_bytes(b"an image")
    assert kept(ask(runs, replace(request_, image=str(tmp_path / "elsewhere" / "image.png")))) and model.asked == 3


def test_another_model_under_the_same_name_has_no_part_in_it(runs, model, request_, weights):
    ask(runs, request_)
    weights.held = Weights()
    assert not kept(ask(runs, request_)) and model.asked == 2
    weights.held = None  # not loaded: nothing is known of its weights
    ask(runs, request_)
    ask(runs, request_)
    assert model.asked == 4


def test_a_run_that_loads_its_model_is_kept_and_one_whose_model_was_exchanged_is_not(runs, model, request_, weights):
    mine, weights.held = weights.held, None

    def loads(whole, stop):
        weights.held = mine
        return whole

    def exchanges(whole, stop):
        weights.held = Weights()
        return whole

    model.say = loads
    ask(runs, request_)
    assert kept(ask(runs, request_)) and model.asked == 1
    model.say = exchanges
    ask(runs, replace(request_, seed=5))
    assert not kept(ask(runs, replace(request_, seed=5))) and model.asked == 3


def test_an_upload_is_served_to_its_address_alone_and_an_example_to_everybody(runs, model, request_):
    ask(runs, request_, "10.0.0.1")
    assert not kept(ask(runs, request_, "10.0.0.2")) and model.asked == 2
    assert kept(ask(runs, request_, "10.0.0.1")) and kept(ask(runs, request_, "10.0.0.2")) and model.asked == 2
    digest = "e7d9e9e2b2ef6d0e3a4c1f2d"
    runs.share(lambda other: other == digest)
    assert kept(ask(runs, request_, "10.0.0.1"))  # not that file
    runs.share(lambda other: True)
    ask(runs, request_, "10.0.0.3")
    assert model.asked == 3 and kept(ask(runs, request_, "10.0.0.4")) and model.asked == 3


def test_what_went_wrong_is_asked_again(runs, model, request_):
    def refuse(whole, stop):
        raise BadInput("no")

    def fail_a_lane(whole, stop):
        failed = whole.runs[1].model_copy(update={"error": "It could not run."})
        return whole.model_copy(update={"runs": [whole.runs[0], failed]})

    def halt(whole, stop):
        stop.set()
        return whole

    for asked, what in enumerate((refuse, fail_a_lane, halt), 1):
        model.say = what
        if what is refuse:
            with pytest.raises(BadInput):
                ask(runs, request_)
        else:
            ask(runs, request_)
        assert model.asked == asked and runs.size == 0
    model.say = lambda whole, stop: whole
    assert not kept(ask(runs, request_)) and kept(ask(runs, request_)) and model.asked == 4


def test_a_run_that_is_given_up_is_not_kept(runs, model, request_):
    outputs = runs(request_, threading.Event())
    next(outputs)
    outputs.close()
    assert runs.size == 0 and not kept(ask(runs, request_)) and model.asked == 2


def test_what_ran_out_of_time_is_not_kept(request_):
    asked, whole = [], comparison()
    late = "Layers 3 were not measured: the 60 seconds were over."
    study = Selections(request=whole.request, model=whole.model, grid=whole.grid, methods=[], notes=[late])

    def run(request, stop):
        asked.append(request)
        yield study

    weights = Weights()
    runs = KeptRuns(run, lambda request: weights, lambda: 50_000_000)
    bounded = replace(request_, kind="horizon", options={"seconds": 60})
    ask(runs, bounded)
    assert runs.size == 0
    unbounded = replace(request_, kind="inside")  # says what is counted otherwise, whatever the time
    ask(runs, unbounded)
    again = ask(runs, unbounded)
    assert again.notes[0] == late and again.notes[1].startswith("Measured at ") and len(asked) == 2


def test_memory_is_bounded_and_the_least_used_goes(model, request_, clock):
    room = SimpleNamespace(bytes=0)
    weights = Weights()
    runs = KeptRuns(model, lambda request: weights, lambda: room.bytes, lambda: clock.now)
    one, two, three = (replace(request_, seed=seed) for seed in range(3))
    ask(runs, one)
    assert runs.size == 0  # turned off
    room.bytes = 50_000_000
    ask(runs, one)
    room.bytes = int(2.5 * runs.size)
    ask(runs, two)
    assert kept(ask(runs, one)) and model.asked == 3
    ask(runs, three)
    assert runs.size <= room.bytes
    assert kept(ask(runs, one)) and kept(ask(runs, three)) and model.asked == 4
    assert not kept(ask(runs, two)) and model.asked == 5
    room.bytes = int(0.75 * runs.size)  # of two: each is more than half of it, for which all else would have to go
    for asked in (6, 7):
        ask(runs, replace(request_, seed=9))
        assert model.asked == asked


def test_nothing_stays_longer_than_an_upload(runs, model, request_, clock):
    ask(runs, request_)
    clock.now += LIFETIME_S + 1
    ask(runs, request_)
    assert model.asked == 2
