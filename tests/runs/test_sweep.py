"""A sweep's points are what compare gives, bit for bit; the unpruned answer is scored as the masked model scores it."""

import inspect
import json
import threading

import pytest
import torch
from masked_model import masked
from tiny_case import noise
from tiny_families import CASES

import tokviz
from tokviz import cli
from tokviz.errors import BadInput
from tokviz.runs import sweep as sweeping
from tokviz.runs.sweep import checked_budgets, coarse_first
from tokviz.sweeps import Sweep, SweepCurve, SweepPoint

QUESTION = "what is it ?"
METHODS = ["apet", "random", "fastv", ("fastv", {"layer": 3}), "pdrop", "downsample"]


@pytest.fixture(scope="module")
def tiny():
    """LLaVA with 4 x 4 patches, float64."""
    case = CASES["llava"]
    return tokviz.wrap(case.model(torch.float64), case.processor())


@pytest.fixture(scope="module")
def image():
    return noise(48, 48, seed=5)


def swept(vlm, image, methods=METHODS, **options):
    options = {"budgets": [16, 8, 3, 1], "seeds": 3, "max_new_tokens": 3} | options
    return tokviz.sweep(vlm, image, QUESTION, methods, **options)


@pytest.fixture(scope="module")
def found(tiny, image):
    return swept(tiny, image)


# -- exactly what compare gives ------------------------------------------------------------------------------------


def test_every_point_is_the_run_that_compare_gives_at_this_budget(tiny, image, found):
    assert [curve.key for curve in found] == [
        "apet", "random", "fastv", "fastv (layer=3)", "pdrop", "downsample",
    ]  # fmt: skip
    for budget in found.budgets:
        for seed in found.seeds:
            comparison = tokviz.compare(tiny, image, QUESTION, METHODS, budget, seed=seed, max_new_tokens=3)
            assert found.comparison.runs[0].answer_tokens == comparison[0].answer_tokens
            for curve in found:
                run = comparison[curve.key]
                points = [point for point in curve.points if point.budget == budget]
                point = next((point for point in points if point.seed == seed), points[0])
                assert (point.error, point.answer, point.kept) == (run.error, run.answer, run.kept)
                assert point.answer_tokens == run.answer_tokens and point.actual == run.actual


def test_only_what_is_random_runs_with_further_seeds(found):
    for curve in found:
        assert curve.is_random == (curve.key == "random")
        counts = [sum(point.budget == budget for point in curve.points) for budget in found.budgets]
        assert counts == ([1, 3, 3, 3] if curve.is_random else [1, 1, 1, 1]), "all tokens are no random choice"
    assert found["random"].seeds == [0, 1, 2] and found["apet"].seeds == [0]


def test_the_unpruned_answer_is_scored_as_with_masked_keys(tiny, image):
    methods = [(method, {"positions": "keep"}) for method in ("random", "fastv", "random_at")]
    found = swept(tiny, image, methods)
    ids, everything, scores = [token.id for token in found.comparison.runs[0].answer_tokens], set(range(16)), set()
    stages = tokviz.compare(tiny, image, QUESTION, methods, 8, max_new_tokens=1).runs[1:]
    for curve, run in zip(found, stages, strict=True):
        site = run.stages[0].site
        for point in curve.points:
            gone = everything - set(everything if point.kept is None else point.kept)
            expected = masked(tiny, image, QUESTION, ids, site if isinstance(site, int) else 0, gone)
            assert point.logprob == pytest.approx(expected, abs=1e-5)
            scores.add(round(point.logprob, 4))
    assert len(scores) > 15


def test_with_all_tokens_or_the_same_answer_its_score_is_that_of_its_own_tokens(found):
    same = 0
    for curve in found:
        for point in curve.points:
            own = [token.id for token in point.answer_tokens]
            if point.error is None and own == [token.id for token in found.comparison.runs[0].answer_tokens]:
                same += 1
                assert point.logprob == pytest.approx(sum(token.logprob for token in point.answer_tokens), abs=1e-12)
                assert point.same
        assert curve.at(16)[0].logprob == found.logprob
    assert same >= len(found)


@pytest.mark.parametrize("name", ["llava_next (vicuna)", "qwen3_vl", "internvl"])
def test_other_families_are_swept_alike(name):
    case = CASES[name]
    vlm = tokviz.wrap(case.model(torch.float32), case.processor())
    shown = noise(60, 40, seed=7)
    found = swept(vlm, shown, ["random", "fastv"], budgets=["100%", "20%"], seeds=1, max_new_tokens=2)
    for budget in found.budgets:
        runs = tokviz.compare(vlm, shown, QUESTION, ["random", "fastv"], budget, max_new_tokens=2)
        for curve in found:
            (point,) = curve.at(budget)
            assert point.answer_tokens == runs[curve.key].answer_tokens and point.kept == runs[curve.key].kept


# -- events --------------------------------------------------------------------------------------------------------


def test_events_tell_how_far_it_is_and_what_is_new(tiny, image):
    options = {"budgets": [16, 8, 4, 2], "seeds": 2, "max_new_tokens": 1}
    events = list(tokviz.sweep_events(tiny, image, QUESTION, ["random", "vtw"], **options))
    assert [event.kind for event in events[:2]] == ["encoded", "unpruned"] and events[-1].kind == "done"
    shares = [event.share for event in events]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    points = [event for event in events if event.kind == "point"]
    assert [(event.method, event.point.budget, event.point.seed) for event in points[:5]] == [
        ("random", 16, 0), ("vtw", 16, 0), ("random", 2, 0), ("random", 2, 1), ("vtw", 2, 0),
    ]  # fmt: skip
    for number, event in enumerate(points):
        assert sum(len(curve.points) for curve in event.sweep) == number + 1
        assert event.point in event.sweep[event.method].points and len(repr(event)) < 400
    one, other = (inspect.signature(function).parameters for function in (tokviz.sweep, tokviz.sweep_events))
    assert list(one) == list(other)


def test_it_ends_when_it_is_stopped_or_left_and_keeps_what_there_is(tiny, image):
    stop = threading.Event()
    events = tokviz.sweep_events(tiny, image, QUESTION, ["random"], budgets=[8, 4, 2], stop=stop, max_new_tokens=1)
    for event in events:
        if event.kind == "point":
            stop.set()
    assert event.kind == "done" and 0 < len(event.sweep["random"].points) < 15
    assert event.sweep.notes[-1].endswith("were not finished: it was stopped.")
    with pytest.raises(BadInput, match="Stopped"):
        swept(tiny, image, stop=stop)
    leaving = tokviz.sweep_events(tiny, image, QUESTION, ["random"], budgets=[8, 4, 2], max_new_tokens=1)
    next(leaving)
    leaving.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "tokviz-compare"]


def test_time_is_bounded(tiny, image):
    late = swept(tiny, image, seconds=1e-9)
    assert all(not curve.points for curve in late) and late.comparison.runs[0].answer
    assert late.notes == ["24 of 24 pairs of method and budget were not finished: the 1e-09 seconds were over."]


def test_a_method_that_cannot_run_is_a_curve_with_the_reason(tiny, image):
    found = swept(tiny, image, ["globalcom2", "tome"], budgets=[8, 1])
    assert "thumbnail" in found["globalcom2"].error and not found["globalcom2"].points
    assert found["tome"].error is None and "Ask for at least 2" in found["tome"].points[-1].error
    assert found["tome"].at(1) == [] and len(found["tome"].at(8)) == 1


# -- what is asked for ---------------------------------------------------------------------------------------------


def test_budgets_are_tokens_or_shares_descending_and_once():
    assert checked_budgets(["50%", 8, 16, "100 %", 3], 16) == [16, 8, 3]
    assert checked_budgets(None, 576) == [576, 403, 288, 202, 144, 104, 69, 46, 29, 17, 12]
    assert checked_budgets(["2%", "0.5%"], 16) == [1]
    assert coarse_first(1) == [0] and coarse_first(2) == [0, 1] and coarse_first(5) == [0, 4, 2, 1, 3]
    for count in range(30):
        assert sorted(coarse_first(count)) == list(range(count))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budgets": []}, "There are no budgets"), ({"budgets": [17]}, "from 1 to 16, or a share of them"),
        ({"budgets": ["0%"]}, "not '0%'"), ({"budgets": ["101%"]}, "not '101%'"), ({"budgets": [0.5]}, r"not 0\.5"),
        ({"budgets": "50%"}, "budgets must be a list"), ({"budgets": [True]}, "not True"),
        ({"budgets": ["9" * 5000 + "%"]}, "not '999"), ({"seeds": 0}, "number of seeds"),
        ({"seconds": 0}, "seconds must be a positive number"), ({"seconds": float("nan")}, "seconds must be"),
        ({"methods": ["fastvv"]}, "did you mean 'fastv'"), ({"budget_as": "x"}, "budget_as must be"),
        ({"seed": 2**63 - 1}, "last seed"),
        ({"methods": METHODS * 8, "seeds": 64, "budgets": None}, "are up to 3,072 runs"),
        ({"question": " "}, "no question"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tiny, image, options, sentence, monkeypatch):
    monkeypatch.setattr(sweeping, "MOST_POINTS", 1000)
    asked = {"image": image, "question": QUESTION, "methods": METHODS, "max_new_tokens": 1} | options
    with pytest.raises(BadInput, match=sentence) as refused:
        tokviz.sweep(tiny, **asked)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


# -- the record ----------------------------------------------------------------------------------------------------


def curve(found, *rows):
    """A curve of ``(budget, seed, answer)``; the unpruned answer is "a"."""
    points = [
        SweepPoint(budget=budget, seed=seed, answer=answer, same=answer == "a", logprob=-1.0)
        for budget, seed, answer in rows
    ]
    return SweepCurve(requested=found[0].requested, label="M", family="control", points=points)


def test_flips_are_where_the_answer_first_differs_and_every_change_is_told(found):
    turns = curve(found, (16, 0, "a"), (8, 0, "b"), (4, 0, "a"), (2, 0, "c"), (1, 0, "d"))
    assert turns.flip() == 8 and turns.holds_to() == 16
    assert turns.changes() == [(16, 8, "a", "b"), (8, 4, "b", "a"), (4, 2, "a", "c"), (2, 1, "c", "d")]
    never = curve(found, (16, 0, "a"), (1, 0, "a"))
    assert never.flip() is None and never.holds_to() == 1 and never.changes() == []
    always = curve(found, (16, 0, "b"), (1, 0, "b"))
    assert always.flip() == 16 and always.holds_to() is None and always.changes() == []
    seeds = curve(found, (16, 0, "a"), (8, 0, "a"), (8, 1, "b"), (4, 0, "b"), (4, 1, "a"))
    assert [seeds.flip(seed) for seed in (0, 1)] == [4, 8] and seeds.share_same(8) == 0.5
    assert seeds.changes(1) == [(16, 8, "a", "b"), (8, 4, "b", "a")] and seeds.share_same(3) is None
    assert curve(found).flip() is None and curve(found).changes() == []


def test_it_is_saved_read_back_and_refused_when_damaged(found, tmp_path):
    path = tmp_path / "s.json"
    found.save(path)
    assert Sweep.load(path) == found and Sweep.model_validate(found.model_dump()) == found and len(repr(found)) < 500
    data = json.loads(found.to_json())
    for change in ({"budgets": [1, 16]}, {"seeds": []}, {"budget_as": "x"}, {"more": 1}, {"seeds": [7]}):
        with pytest.raises(BadInput, match="not a sweep"):
            Sweep.from_json(json.dumps(data | change))
    data["curves"][1]["points"][0]["kept"] = [16]
    with pytest.raises(BadInput, match="not a sweep"):
        Sweep.from_json(json.dumps(data))
    with pytest.raises(BadInput, match="no sweep file named"):
        Sweep.load(tmp_path / "none.json")
    with pytest.raises(KeyError, match="fastv"):
        found["nosuch"]
    assert found["fastv (layer=3)"].requested.params["layer"] == 3 and len(found) == 6 and bool(found)


def test_it_is_a_table_and_a_figure(found, tmp_path):
    table = found.to_pandas()
    assert len(table) == sum(len(curve.points) for curve in found)
    first = table[(table.method == "fastv") & (table.budget == 16)].iloc[0]
    assert first.change == 0 and bool(first.same) and first.tokens_left == 16
    for key in ("apet", "random"):
        for seed in found[key].seeds:
            flip = found[key].flip(seed)
            rows = table[(table.method == key) & (table.seed == seed) & table.flip]
            assert list(rows.budget) == ([] if flip is None else [flip])
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        found.figure(tmp_path / f"s{suffix}", theme="dark", dpi=60)
        assert (tmp_path / f"s{suffix}").read_bytes().startswith(begins)
    svg = (tmp_path / "s.svg").read_text()
    assert "FastV (layer=3)" in svg and "log-probability of the unpruned answer" in svg and "/3 same" in svg
    assert "random" not in str(found.figure(methods=["apet"], dpi=50).axes[0].get_legend_handles_labels())
    with pytest.raises(BadInput, match="has no curve 'x'"):
        found.figure(methods=["x"])


def test_the_command_prints_the_table_and_writes_both_files(tiny, image, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tokviz, "load", lambda _name, **_loading: tiny, raising=False)
    image.save(tmp_path / "i.png")
    files = [str(tmp_path / name) for name in ("s.json", "s.png")]
    asked = ["sweep", str(tmp_path / "i.png"), "--question", QUESTION, "--max-new-tokens", "2", "--seeds", "2"]
    asked += ["--methods", "random,fastv:layer=3", "--budgets", "100%,4"]
    assert cli.main([*asked, "--json", files[0], "--figure", files[1]]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "Unpruned answer" in captured.out and "/2 same" in captured.out
    written = Sweep.load(files[0])
    assert written.budgets == [16, 4] and [curve.key for curve in written] == ["random", "fastv"]
    for more, sentence in (
        (["--budgets", "x"], "takes visual tokens and shares"), (["--budgets", "17"], "from 1 to 16"),
        (["--figure", "s.txt"], "must end in .png"), (["--methods", "globalcom2"], "thumbnail"),
    ):  # fmt: skip
        assert cli.main([*asked, *more]) == 2
        assert sentence in capsys.readouterr().err
