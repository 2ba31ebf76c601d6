"""Rescue of tiny random models: against the stock model with masked keys, and against runs of the same tokens."""

import json
import math
import threading
from types import SimpleNamespace

import pytest
import torch
from masked_model import masked_stages
from tiny_case import noise
from tiny_families import CASES

import tokviz
from tokviz import cli
from tokviz.errors import BadInput
from tokviz.rescues import Rescue, RescueBlock
from tokviz.runs import blocks, giving_back
from tokviz.runs import rescue as rescuing
from tokviz.runs.sweep import sweep

QUESTION = "what is it ?"
BLOCKS = {
    1: [[token] for token in range(16)],
    2: [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]],
    3: [[0, 1, 2, 4, 5, 6, 8, 9, 10], [3, 7, 11], [12, 13, 14], [15]],
}
"""Of 4 x 4 patches, by hand."""


@pytest.fixture(scope="module")
def tiny():
    """LLaVA with 4 x 4 patches, float64."""
    case = CASES["llava"]
    return tokviz.wrap(case.model(torch.float64), case.processor())


@pytest.fixture(scope="module")
def image():
    return noise(48, 48, seed=5)


def rescued(vlm, image, method=("pdrop", {"positions": "keep"}), budget=6, **options):
    options = {"seconds": None, "max_new_tokens": 3, "seeds": 3} | options
    return tokviz.rescue(vlm, image, QUESTION, method, budget, **options)


@pytest.fixture(scope="module")
def found(tiny, image):
    return rescued(tiny, image)


METHODS = ("random", "fastv", "pdrop")
IN_TURN = [
    pytest.param(method, side, marks=() if (place + side) % 3 == 0 else pytest.mark.generator)
    for place, method in enumerate(METHODS)
    for side in BLOCKS
]


@pytest.mark.parametrize(("method", "side"), IN_TURN)
def test_a_gain_is_what_unmasking_the_block_makes(tiny, image, method, side):
    found = rescued(tiny, image, (method, {"positions": "keep"}), block=side)
    stages = found.rescued.stages
    ids = [token.id for token in found.comparison.runs[0].answer_tokens]

    def score(given):
        sites = [stage.site if isinstance(stage.site, int) else 0 for stage in stages]
        sets = [set(range(16)) - {*stage.kept, *given} for stage in stages]
        gone = list(zip(sites, sets, strict=True))
        return masked_stages(tiny, image, QUESTION, ids, gone)

    dropped = set(range(16)) - set(found.rescued.kept)
    expected = [sorted(dropped & set(block)) for block in BLOCKS[side] if dropped & set(block)]
    assert [one.tokens for one in found.blocks] == expected and found.n_blocks == len(expected)
    assert (found.block, found.notes, found.scored) == (side, [], "unpruned")
    assert found.logprob_kept == pytest.approx(score(()), abs=1e-9)
    assert found.logprob == pytest.approx(score(range(16)), abs=1e-9)
    for one in (*found.blocks, *found.control):
        assert one.gain == pytest.approx(score(one.tokens) - score(()), abs=1e-9)
    assert 0 <= found.noise < 1e-9 and found.mismatch < 1e-5


def test_a_block_is_what_a_run_of_its_own_with_these_tokens_is(tiny, image):
    found = rescued(tiny, image, "fastv", block=2)  # positions as the method has them
    ids = [token.id for token in found.comparison.runs[0].answer_tokens]
    for one in found.blocks:
        mine = tokviz.edited([*found.rescued.kept, *one.tokens], of=found.rescued)
        (point,) = sweep(tiny, image, QUESTION, [mine], budgets=[6], max_new_tokens=3)[0].points
        assert point.logprob - found.logprob_kept == pytest.approx(one.gain, abs=1e-5)
        assert one.restores == ([token.id for token in point.answer_tokens] == ids)
    best = found.best
    if best is not None:
        run = found.comparison[-1]
        assert run.label == "Edited: FastV" and run.kept == sorted([*found.rescued.kept, *best.tokens])


def test_given_back_everything_the_answer_is_there(tiny, image):
    found = rescued(tiny, image, "random", 10, block=9)
    (whole,) = found.blocks
    assert whole.restores and whole.gain == pytest.approx(found.logprob - found.logprob_kept, abs=1e-9)
    assert len(whole.tokens) == 6 and {tuple(one.tokens) for one in found.control} == {tuple(whole.tokens)}
    assert found.best is None, "the control has the same tokens"


def test_the_control_is_as_many_dropped_tokens_for_every_seed(tiny, found):
    dropped = torch.tensor(sorted(set(range(16)) - set(found.rescued.kept)))
    sizes = sorted({len(one.tokens) for one in found.blocks})
    orders = [torch.randperm(len(dropped), generator=torch.Generator().manual_seed(seed)) for seed in found.seeds]
    expected = [dropped[order[:size]].sort().values.tolist() for size in sizes for order in orders]
    assert [one.tokens for one in found.control] == expected and found.seeds == [0, 1, 2]
    for one in found.blocks:
        chance = [other.gain for other in found.control if len(other.tokens) == len(one.tokens)]
        assert found.floor(len(one.tokens)) == max(0.01, found.noise, *chance)
        assert (one in found.telling) == (one.gain > found.floor(len(one.tokens)))


def test_it_is_the_same_every_time_and_in_any_batches(tiny, image, found, monkeypatch):
    again = rescued(tiny, image)
    assert again.blocks == found.blocks and again.control == found.control
    monkeypatch.setattr(blocks, "_AT_ONCE", 1)
    alone = rescued(tiny, image)
    for mine, other in zip(alone.blocks, found.blocks, strict=True):
        assert mine.gain == pytest.approx(other.gain, abs=1e-9) and mine.restores == other.restores
    assert blocks.copies_at_once(100) == 1 and blocks.copies_at_once(10**6, 10**12) == 1


def test_the_gain_of_each_token_is_that_of_its_block(found):
    gains = found.gains
    assert [token for token, gain in enumerate(gains) if gain is None] == found.rescued.kept
    for one in found.blocks:
        assert {gains[token] for token in one.tokens} == {one.gain}


@pytest.mark.parametrize("name", ["llava_next (vicuna)", "qwen3_vl", "internvl"])
def test_other_families_have_a_gain_for_every_dropped_patch(name):
    case = CASES[name]
    vlm = tokviz.wrap(case.model(torch.float32), case.processor())
    found = rescued(vlm, noise(60, 40, seed=7), "random", 4, seeds=1)
    grid, kept = found.comparison.grid, set(found.rescued.kept)
    dropped = {token for token, row in enumerate(grid.row) if row >= 0 and token not in kept}
    assert {token for token, gain in enumerate(found.gains) if gain is not None} == dropped
    assert found.noise < 1e-3 and found.mismatch < 1e-3 and max(abs(one.gain) for one in found.blocks) > 1e-3


def test_a_method_that_merges_is_rescued_from_its_kept_tokens_and_that_is_said(tiny, image):
    found = rescued(tiny, image, "tome", seeds=1)
    assert found.mismatch > 0.01 and found.notes[0].startswith("Gains are over the kept tokens of ToMe as they are;")


def test_the_expected_answer_can_be_scored_instead(tiny, image):
    found = rescued(tiny, image, "random", answer="expected", expected="star", seeds=1)
    assert found.scored == "expected" and found.answer == "star" and found.logprob_kept < 0
    same = rescued(tiny, image, "random", answer="expected", expected=found.comparison[0].answer.upper() + ".", seeds=1)
    assert same.answer == found.comparison[0].answer and same.logprob == pytest.approx(
        sum(token.logprob for token in same.comparison[0].answer_tokens), abs=1e-5
    )
    with pytest.raises(BadInput, match="no expected answer"):
        rescued(tiny, image, "random", answer="expected")


def test_a_run_of_a_session_is_rescued(tiny, image, found):
    session = tokviz.compare(
        tiny, image, QUESTION, ["random", ("pdrop", {"positions": "keep"})], 6, max_new_tokens=3
    )  # fmt: skip
    again = tokviz.rescue(tiny, comparison=session, method="pdrop", seconds=None, seeds=3)
    assert again.blocks == found.blocks and [run.method for run in again.comparison][:2] == ["full", "pdrop"]
    edited = tokviz.ask_with(tiny, None, None, [0, 1, 2], into=session)
    mine = tokviz.rescue(tiny, comparison=edited, method="edited", seconds=None, seeds=1, block=1)
    assert len(mine.blocks) == 13 and mine.mismatch < 1e-5
    for name, sentence in (("x", "no run 'x'"), ("full", "drops nothing"), (None, "key of the run")):
        with pytest.raises(BadInput, match=sentence):
            tokviz.rescue(tiny, comparison=session, method=name)


# -- time ----------------------------------------------------------------------------------------------------------


def test_blocks_grow_until_they_are_measured_in_time_and_that_is_said(tiny, image, monkeypatch):
    clock = iter(range(10**6))
    ticking = SimpleNamespace(perf_counter=lambda: float(next(clock)))
    for module in (rescuing, giving_back):
        monkeypatch.setattr(module, "time", ticking)
    assert rescued(tiny, image, "random", 8, seconds=1000.0, block=1, seeds=1).notes == []
    small = rescued(tiny, image, "random", 8, seconds=7.9, block=1, seeds=1)  # 5 s are over when this is decided
    # A batch of 4 takes 1 s by this clock: 0.25 s for each of 8 blocks, 1 control, 4 more.
    assert small.block > 1 and small.block_asked == 1
    assert small.notes[0].startswith(f"Blocks have {small.block} x {small.block} tokens instead of 1 x 1, which would")


def test_what_was_reached_in_time_is_kept(tiny, image, monkeypatch):
    monkeypatch.setattr(blocks, "_AT_ONCE", 1)
    found = rescued(tiny, image, "random", 8, seconds=0, block=1, seeds=1)
    assert found.blocks == [] and len(found.control) == 1 and found.best is None and found.gains == [None] * 16
    assert found.notes[-1] == f"{found.n_blocks} of {found.n_blocks} blocks were not measured: the 0 seconds were over."
    found.figure(dpi=40)


def test_it_can_be_stopped(tiny, image, monkeypatch):
    monkeypatch.setattr(blocks, "_AT_ONCE", 1)
    stop, shares = threading.Event(), []

    def some_done(share):
        shares.append(share)
        if len(shares) == 3:
            stop.set()

    found = rescued(tiny, image, "random", 8, stop=stop, on_progress=some_done, seeds=1, block=1)
    assert shares == sorted(shares) and len(found.blocks) == 2 and len(found.comparison) == 2
    assert found.notes == ["6 of 8 blocks were not measured: it was stopped."]
    with pytest.raises(BadInput, match="Stopped"):
        rescued(tiny, image, stop=stop)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block": 0}, "The block must be"), ({"seeds": 65}, "number of seeds"), ({"answer": "x"}, "must be unpruned"),
        ({"seconds": -1}, "seconds must be"), ({"least": math.nan}, "least must be"),
        ({"method": "full"}, "drops nothing"), ({"method": None}, "Give an image, a question and a method"),
        ({"budget": 16, "method": "random"}, "smaller budget"),
        ({"method": "globalcom2"}, "did not run.*thumbnail"), ({"budget": 17}, "from 1 to 16"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tiny, image, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        rescued(tiny, image, **options)


# -- the record ----------------------------------------------------------------------------------------------------


def test_it_is_saved_read_back_and_refused_when_damaged(found, tmp_path):
    path = tmp_path / "r.json"
    found.save(path)
    assert Rescue.load(path) == found and len(repr(found)) < 400
    data = json.loads(found.to_json())
    block = data["blocks"][0]
    for change in (
        {"run": "x"}, {"scored": "x"}, {"n_blocks": 0}, {"more": 1}, {"blocks": [block, block]},
        {"blocks": [block | {"tokens": [16]}]}, {"control": [block | {"tokens": []}]},
    ):  # fmt: skip
        with pytest.raises(BadInput, match="not a rescue"):
            Rescue.from_json(json.dumps(data | change))
    with pytest.raises(BadInput, match="no rescue file named"):
        Rescue.load(tmp_path / "none.json")


def test_the_floor_is_the_largest_of_chance_noise_and_what_counts(found):
    def with_(blocks, control, **more):
        made = [
            [RescueBlock(tokens=tokens, gain=gain, restores=False) for tokens, gain in some]
            for some in (blocks, control)
        ]
        return found.model_copy(update={"blocks": made[0], "control": made[1], "noise": 0.0, "least": 0.1} | more)

    blocks_, control = [([1, 2], 0.5), ([3], 0.3), ([4, 5], 0.9)], [([6, 7], 0.6), ([8, 9], -1.0), ([8], 0.2)]
    made = with_(blocks_, control)
    assert [one.gain for one in made.telling] == [0.9, 0.3] and made.best.tokens == [4, 5]
    assert made.floor(1) == 0.2 and made.floor(2) == 0.6 and made.floor(3) == 0.1
    assert with_(blocks_, control, noise=2.0).best is None and with_(blocks_, control, least=0.7).telling == [made.best]


def test_it_is_a_table_and_a_figure(found, tmp_path):
    table = found.to_pandas()
    assert list(table.gain) == sorted((one.gain for one in found.blocks), reverse=True)
    assert table["size"].sum() == sum(len(one.tokens) for one in found.blocks) and set(table.telling) <= {True, False}
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        found.figure(tmp_path / f"r{suffix}", theme="dark", dpi=60)
        assert (tmp_path / f"r{suffix}").read_bytes().startswith(begins)
    svg = (tmp_path / "r.svg").read_text()
    assert "PDrop: kept" in svg and "gain of each block" in svg and "blocks gain more than" in svg


def test_the_command_prints_the_table_and_writes_both_files(tiny, image, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tokviz, "load", lambda _name, **_loading: tiny, raising=False)
    image.save(tmp_path / "i.png")
    files = [str(tmp_path / name) for name in ("r.json", "r.png")]
    asked = ["rescue", str(tmp_path / "i.png"), "--question", QUESTION, "--max-new-tokens", "2", "--seeds", "2"]
    asked += ["--method", "fastv:layer=3", "--budget", "6", "--seconds", "0", "--block", "1"]
    assert cli.main([*asked, "--json", files[0], "--figure", files[1]]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "beats chance" in captured.out and "FastV lowers" in captured.out
    written = Rescue.load(files[0])
    assert written.rescued.params["layer"] == 3 and written.block == 1 and written.seconds_allowed is None
    for more, sentence in (
        (["--method", "fastv,apet"], "takes one method"), (["--method", "x"], "no method"),
        (["--figure", "r.txt"], "must end in .png"), (["--budget", "16"], "drops nothing"),
    ):  # fmt: skip
        assert cli.main([*asked, *more]) == 2
        assert sentence in capsys.readouterr().err
