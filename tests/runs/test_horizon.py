"""The information horizon of tiny random models, against the stock model with masked keys; its record and command."""

import json
import math
import threading
from types import SimpleNamespace

import pytest
import torch
from tiny_case import noise
from tiny_families import CASES

import tokviz
from tokviz import cli
from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.horizon import HorizonLayer, InformationHorizon
from tokviz.models.prompts import model_inputs
from tokviz.runs import blocks
from tokviz.runs import horizon as measuring

QUESTION = "what is it ?"
SIZE = (48, 48)


@pytest.fixture(scope="module")
def tiny():
    """LLaVA with 4 x 4 patches, float64."""
    case = CASES["llava"]
    return tokviz.wrap(case.model(torch.float64), case.processor())


@pytest.fixture(scope="module")
def image():
    return noise(*SIZE, seed=5)


def measured(vlm, image, **options):
    options = {"seconds": None, "max_new_tokens": 3, "seeds": 2, "budget": 5, "layers": [0, 2, 5]} | options
    return tokviz.information_horizon(vlm, image, QUESTION, **options)


@pytest.fixture(scope="module")
def found(tiny, image):
    return measured(tiny, image)


def masked(vlm, image, found, layer, gone):
    """Log-probability of the answer by the stock model, whose layers from ``layer`` on cannot see tokens ``gone``."""
    inputs, _ = model_inputs(vlm, image, QUESTION)
    model, ids = vlm.model, [token.id for token in found.comparison.runs[0].answer_tokens]
    where = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids[:-1]])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    n = inputs["input_ids"].shape[1]
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    blocked = allowed.clone()
    blocked[:, where[list(gone)]] = False
    blocked |= torch.eye(n, dtype=torch.bool)  # a token that nobody sees may see itself

    def see(mask):
        bias = torch.zeros(1, 1, n, n, dtype=torch.float64).masked_fill(~mask, -torch.inf)
        return lambda _module, args, kwargs: (args, {**kwargs, "attention_mask": bias})

    layers = vlm.family.layers(model)
    masks = [allowed] * layer + [blocked] * (len(layers) - layer)
    hooks = [one.register_forward_pre_hook(see(m), with_kwargs=True) for one, m in zip(layers, masks, strict=True)]
    try:
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits[0, -len(ids) :]
    finally:
        for hook in hooks:
            hook.remove()
    return float(logits.log_softmax(-1)[range(len(ids)), ids].sum())


BLOCKS = {
    1: [[token] for token in range(16)],
    2: [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]],
    3: [[0, 1, 2, 4, 5, 6, 8, 9, 10], [3, 7, 11], [12, 13, 14], [15]],
}
"""Of 4 x 4 patches, by hand."""


@pytest.mark.parametrize("measure", ["removal", "alone"])
@pytest.mark.parametrize("side", BLOCKS)
def test_a_change_is_what_masking_the_block_makes(tiny, image, side, measure):
    found = measured(tiny, image, block=side, measure=measure)
    assert (found.block, found.n_blocks, found.notes) == (side, len(BLOCKS[side]), [])
    assert found.logprob == pytest.approx(masked(tiny, image, found, 0, []), abs=1e-9)
    for entry in found.layers:
        for number, block in enumerate(BLOCKS[side]):
            rest = [token for token in range(16) if token not in block]
            if measure == "removal":
                expected = found.logprob - masked(tiny, image, found, entry.layer, block)
            else:
                expected = masked(tiny, image, found, entry.layer, rest) - masked(
                    tiny, image, found, entry.layer, range(16)
                )
            assert entry.blocks[number] == pytest.approx(expected, abs=1e-9)
            assert {entry.change[token] for token in block} == {entry.blocks[number]}
        assert 0 <= entry.noise < 1e-9 and entry.largest > 1e-4


def test_random_tokens_are_those_of_random_at_and_none_are_none(tiny, image, found):
    for entry in found.layers:
        assert entry.withdrawn == pytest.approx(masked(tiny, image, found, entry.layer, range(16)), abs=1e-9)
        for seed, score in zip(found.seeds, entry.random, strict=True):
            kept = torch.randperm(16, generator=torch.Generator().manual_seed(seed))[:5].tolist()
            gone = [token for token in range(16) if token not in kept]
            assert score == pytest.approx(masked(tiny, image, found, entry.layer, gone), abs=1e-9)
    params = {"random_at": {"layer": 2}}
    run = tokviz.compare(tiny, image, QUESTION, ["random_at"], 5, budget_as="final", params=params, max_new_tokens=1)[1]
    kept = torch.randperm(16, generator=torch.Generator().manual_seed(0))[:5].sort().values.tolist()
    assert run.kept == kept and found.seeds == [0, 1]


def test_sets_anywhere_have_as_many_tokens_as_a_block_and_are_the_same_before_every_layer(tiny, image, found):
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randperm(16, generator=generator)[:4].tolist() for _ in range(measuring.ANYWHERE)]
    for entry in found.layers:
        expected = [found.logprob - masked(tiny, image, found, entry.layer, one) for one in sets]
        assert entry.anywhere == pytest.approx(expected, abs=1e-9)


def test_it_is_the_same_every_time_and_in_any_batches(tiny, image, found, monkeypatch):
    changed = {"comparison", "seconds", "layers"}
    again = measured(tiny, image)
    assert again.model_dump(exclude=changed) == found.model_dump(exclude=changed) and again.layers == found.layers
    monkeypatch.setattr(blocks, "_AT_ONCE", 1)
    one_by_one = measured(tiny, image)
    for mine, other in zip(one_by_one.layers, found.layers, strict=True):
        assert mine.blocks == pytest.approx(other.blocks, abs=1e-9)


@pytest.mark.parametrize("name", ["llava_next (vicuna)", "qwen3_vl", "internvl"])
def test_other_families_have_a_value_for_every_patch_and_none_for_the_rest(name):
    case = CASES[name]
    vlm = tokviz.wrap(case.model(torch.float32), case.processor())
    found = measured(vlm, noise(60, 40, seed=7), layers=[0, 3], block=2)
    grid = found.comparison.grid
    for entry in found.layers:
        assert [change is None for change in entry.change] == [row < 0 for row in grid.row]
        assert entry.noise < 1e-3 < entry.largest
        groups = {(v, r // 2, c // 2) for v, r, c in zip(grid.view, grid.row, grid.col, strict=True) if r >= 0}
        assert len(entry.blocks) == found.n_blocks == len(groups)
    assert found.logprob == pytest.approx(sum(t.logprob for t in found.comparison.runs[0].answer_tokens), abs=1e-3)


# -- time ----------------------------------------------------------------------------------------------------------


def test_blocks_grow_until_they_are_measured_in_time_and_that_is_said(tiny, image, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    found = measured(tiny, image, seconds=1000.0, block=1, layers=[5])
    # A batch of 4 takes 1 s by this clock: 0.25 s for each of 16 + 8 + 2 + 2 + 4 copies.
    assert found.block == 1 and found.notes == []
    small = measured(tiny, image, seconds=10.2, block=1, layers=[5])  # 5 s are over when this is decided
    assert (small.block, small.block_asked, small.n_blocks) == (2, 1, 4)
    assert small.notes[0].startswith("Blocks have 2 x 2 tokens instead of 1 x 1, which would have taken about 8 ")
    assert measured(tiny, image, seconds=9.5, block=1, layers=[5]).block == 4


def test_when_time_is_over_what_was_reached_is_kept(tiny, image):
    found = measured(tiny, image, seconds=0, block=1)
    assert found.block == 4 and found.n_blocks == 1 and [entry.layer for entry in found.layers] == [0]
    assert found.notes[-1] == "Layers 2, 5 were not measured: the 0 seconds were over."


def test_it_can_be_stopped(tiny, image):
    stop, shares = threading.Event(), []

    def first_done(share):
        shares.append(share)
        stop.set()

    found = measured(tiny, image, stop=stop, on_progress=first_done)
    assert shares == [pytest.approx(1 / 3)] and [entry.layer for entry in found.layers] == [0]
    assert found.notes == ["Layers 2, 5 were not measured: it was stopped."]
    with pytest.raises(BadInput, match="Stopped"):
        measured(tiny, image, stop=stop)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": []}, "layers must be a list"), ({"layers": "02"}, "layers must be a list"),
        ({"layers": [6]}, r"A layer must be a whole number from 0 to 5 \(this model has 6\), not 6"),
        ({"block": 0}, "The block must be a whole number from 1"), ({"measure": "x"}, "removal or alone, not 'x'"),
        ({"budget": 17}, r"from 1 to 16 \(there are 16 visual tokens\)"), ({"seeds": 0}, "number of seeds"),
        ({"seconds": -1.0}, "seconds must be a number from 0"), ({"least": math.nan}, "least must be a number"),
        ({"seconds": "1"}, "seconds must be a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tiny, image, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        measured(tiny, image, **options)


def test_layers_that_nobody_chose_go_from_the_first_to_the_last():
    assert measuring._layers(None, 32) == [0, 6, 12, 19, 25, 31]
    assert measuring._layers(None, 4) == [0, 1, 2, 3] and measuring._layers(None, 1) == [0]


# -- the record ----------------------------------------------------------------------------------------------------


def layer(number, *blocks, noise=0.0, random=(-1.0, -1.0)):
    return HorizonLayer(
        layer=number, change=[None] * 16, blocks=list(blocks), anywhere=[], noise=noise, random=list(random),
        withdrawn=-2,
    )  # fmt: skip


def test_the_horizon_is_the_first_layer_from_which_on_nothing_matters(found):
    def with_layers(*layers):
        return InformationHorizon.model_validate(
            found.model_dump() | {"layers": [one.model_dump() for one in layers], "n_blocks": 2, "logprob": -0.5}
        )

    quiet, loud = (0.009, -0.01), (0.0, -0.011)
    assert with_layers(layer(0, *quiet), layer(1, *loud), layer(2, *quiet), layer(3, *quiet)).horizon == 2
    assert with_layers(layer(0, *quiet), layer(4, *loud)).horizon is None
    assert with_layers(layer(0, *loud), layer(1, *loud, noise=0.02)).horizon == 1, "no more than noise"
    one = with_layers(layer(0, *loud, random=(-0.6, -0.5)), layer(1, *quiet, random=(-0.509, 0.0)))
    assert one.random_from == 1 and with_layers(layer(0, *quiet)).random_from is None
    assert (layer(0, *loud).mean, layer(0, *loud).largest, layer(0, *loud).share_above(0.01)) == (0.0055, 0.011, 0.5)


def test_it_is_saved_read_back_and_refused_when_damaged(found, tmp_path):
    path = tmp_path / "h.json"
    found.save(path)
    again = InformationHorizon.load(path)
    assert again == found and again.horizon == found.horizon and len(repr(found)) < 300
    data = json.loads(found.to_json())
    for change in ({"layers": data["layers"][::-1]}, {"seeds": [0]}, {"n_blocks": 5}, {"measure": "x"}, {"more": 1}):
        with pytest.raises(BadInput, match="not an information horizon"):
            InformationHorizon.from_json(json.dumps(data | change))
    data["layers"][0]["change"].pop()
    with pytest.raises(BadInput, match="not an information horizon"):
        InformationHorizon.from_json(json.dumps(data))
    with pytest.raises(BadInput):
        InformationHorizon.from_json("{")
    with pytest.raises(BadInput, match="no horizon file named"):
        InformationHorizon.load(tmp_path / "none.json")
    with pytest.raises(BadInput):
        Comparison.from_json(found.to_json())


def test_it_is_a_table_and_a_figure(found, tmp_path):
    table = found.to_pandas()
    assert list(table.index) == [0, 2, 5] and table.largest[2] == found.layers[1].largest
    assert (table.random_worst <= table.random_mean).all() and (table.floor >= 0.01).all()
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        path = tmp_path / f"h{suffix}"
        found.figure(path, theme="dark", dpi=60)
        assert path.read_bytes().startswith(begins)
    svg = (tmp_path / "h.svg").read_text()
    assert "before layer 2" in svg and "blocks of 2 x 2 tokens" in svg and "all tokens" in svg
    assert [axes.get_title() for axes in found.figure(dpi=60).axes][-2:] == [
        "change in nats", "log-probability of the answer",
    ]  # fmt: skip
    with pytest.raises(BadInput, match=r"must end in \.png"):
        found.figure(tmp_path / "h.txt")


def test_the_command_prints_the_table_and_writes_both_files(tiny, image, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tokviz, "load", lambda _name, **_loading: tiny, raising=False)
    image.save(tmp_path / "i.png")
    files = [str(tmp_path / name) for name in ("h.json", "h.png")]
    options = ["--layers", "0,3", "--block", "2", "--seconds", "0", "--budget", "4", "--seeds", "2"]
    asked = ["horizon", str(tmp_path / "i.png"), "--question", QUESTION, "--max-new-tokens", "2", *options]
    assert cli.main([*asked, "--json", files[0], "--figure", files[1]]) == 0
    captured = capsys.readouterr()
    said = " ".join(captured.out.split())
    assert captured.err == "" and "blocks of 2 x 2 tokens" in said and "4 random tokens" in said
    written = InformationHorizon.load(files[0])
    assert (
        [entry.layer for entry in written.layers] == [0, 3] and written.budget == 4 and written.seconds_allowed is None
    )
    for more, sentence in (
        (["--layers", "0,x"], "takes numbers of layers"), (["--figure", "h.txt"], "must end in .png"),
        (["--json", files[0], "--figure", files[0].replace("json", "png"), "--layers", "9"], "A layer must be"),
    ):  # fmt: skip
        assert cli.main([*asked, *more]) == 2
        assert sentence in capsys.readouterr().err
