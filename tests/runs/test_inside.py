"""``tokviz.inside`` on tiny random models: against eager attention, against what methods themselves measured, and its
record, figure and command.
"""

import json
import math
import threading

import pytest
import torch
from attention_oracle import generated_maps
from clip_files import coded, grey_frames
from tiny_case import noise
from tiny_families import CASES

import tokviz
from tokviz import cli
from tokviz.attention import KINDS, Inside, InsideToken
from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.models.prompts import model_inputs
from tokviz.pruners.todre import probe_layers
from tokviz.runs import inside as looking

QUESTION = "what is it ?"


@pytest.fixture(scope="module")
def tiny():
    """LLaVA with 4 x 4 patches, 6 layers, float64."""
    case = CASES["llava"]
    return tokviz.wrap(case.model(torch.float64), case.processor())


@pytest.fixture(scope="module")
def image():
    return noise(48, 48, seed=5)


def look(vlm, image, **options):
    return tokviz.inside(vlm, image, QUESTION, **{"max_new_tokens": 3, **options})


@pytest.fixture(scope="module")
def found(tiny, image):
    return look(tiny, image, layers=[0, 4])


@pytest.fixture(scope="module")
def eager(image):
    """Ids and maps of the eager model, and its inputs."""
    case = CASES["llava"]
    vlm = tokviz.wrap(case.model(torch.float64, "eager"), case.processor())
    inputs, asked = model_inputs(vlm, image, QUESTION)
    return *generated_maps(vlm.model, inputs, 3), inputs, asked


def test_shares_and_maps_are_those_of_eager_attention(found, eager):
    ids, maps, inputs, asked = eager
    assert [token.id for token in found.tokens] == ids == [t.id for t in found.run.answer_tokens]
    visual, asked = inputs["input_ids"][0] == 90, asked[0]
    behind = torch.arange(len(visual)) > visual.nonzero().max()
    kinds = [~visual & ~behind, visual, asked, behind & ~asked]
    assert found.counts == [*(int(kind.sum()) for kind in kinds), 3] and all(found.counts)

    def shares(rows):
        prompt = [rows[:, : len(visual)][:, kind].sum(1).mean() for kind in kinds]
        return [*map(float, prompt), float(rows[:, len(visual) :].sum(1).mean())]

    for entry, prefill in zip(found.layers, maps[0], strict=True):
        whole = prefill.mean(0)
        assert entry.text == pytest.approx(shares(whole[behind]), abs=1e-9)
        assert entry.image == pytest.approx(shares(whole[visual]), abs=1e-9)
        assert entry.text_to_image == entry.text[1] and entry.image_to_system == entry.image[0] > 0
        assert entry.image_to_text == 0 and entry.visual == 16
        decoded = [shares(step[entry.layer].mean(0)) for step in maps[1:]]
        decoded = [sum(column) / len(decoded) for column in zip(*decoded, strict=True)]
        assert entry.output == pytest.approx(decoded, abs=1e-9) and entry.output[4] > 0
        for token, step in zip(found.tokens, maps, strict=True):
            assert token.spent[entry.layer] == pytest.approx(shares(step[entry.layer].mean(0)[-1:]), abs=1e-9)
    for token, step in zip(found.tokens, maps, strict=True):
        rows = torch.stack([layer.mean(0)[-1][: len(visual)][visual] for layer in step])
        for mine, expected in zip(token.maps, (rows.mean(0), rows[0], rows[4]), strict=True):
            assert mine == pytest.approx(expected.tolist(), abs=1e-9)
    assert found.token_map(1, 4).values == found.tokens[1].maps[2]


@pytest.mark.parametrize(("version", "tau"), [("v1", 0.03), ("v1", 0.9), ("v2", 0.9)])
def test_todre_measures_the_same_and_drops_where_it_is_said_to(tiny, image, version, tau):
    """Its own readings at its probes, and its own withdrawal."""
    params = {"tau": tau, "version": version, "stage_1": True}
    found = look(tiny, image, method="todre", budget=8, params=params)
    readings = {
        stage.site: {one.name: one.value for one in stage.readings}
        for stage in found.run.stages
        if isinstance(stage.site, int)
    }
    assert readings and [entry.layer for entry in found.layers] == list(range(6))
    for site, read in readings.items():
        entry = found.layers[site - 1]
        assert entry.visual in (0, 8)
        if entry.visual:
            assert entry.text_to_image == pytest.approx(read["alpha_text_to_visual"], abs=1e-6)
            assert entry.image_to_text == read["alpha_visual_to_text"] == 0
    left = [entry.visual for entry in found.layers]
    if version == "v1":
        expected = found.withdrawn_at(tau)
        assert left == [8 if expected is None or layer < expected else 0 for layer in range(6)]
        assert (expected is None) == (tau == 0.03)
    assert found.below(tau) == [e.layer for e in found.layers if (e.text_to_image or 0) < tau]


@pytest.mark.parametrize("depth", [1, 2, 6, 28, 32, 40])
def test_probes_are_those_of_todre(found, depth):
    entry = found.layers[0]
    quiet = entry.model_copy(update={"text": [1.0, 0.0, 0.0, 0.0, 0.0]})
    loud = entry.model_copy(update={"text": [0.0, 1.0, 0.0, 0.0, 0.0]})
    probes = probe_layers(depth)
    for first in range(depth):
        layers = [loud] * first + [quiet] * (depth - first)
        said = found.model_copy(update={"layers": layers}).withdrawn_at()
        assert said == next((layer for layer in probes if layer > first), None)


def test_the_towers_row_is_the_one_that_measures_use(found):
    assert found.tower_kind == "cls_attention" and found.feature_layer == 2 and len(found.tower) == 4
    measured = found.comparison.measures.attention_entropy
    assert found.tower[2].entropy == pytest.approx(measured, abs=1e-6)
    for entry in found.tower:
        shares = torch.tensor(entry.attention, dtype=torch.float64)
        shares /= shares.sum()
        assert entry.entropy == pytest.approx(float(-(shares * shares.log()).sum()), abs=1e-12)
        assert 0 < entry.entropy < found.uniform_entropy == pytest.approx(math.log(16)) and not entry.windowed


@pytest.mark.parametrize("name", ["llava_next (vicuna)", "qwen2_5_vl", "llava_onevision (videos)"])
def test_other_families_have_what_they_have_and_say_the_rest(name, tmp_path):
    case = CASES[name]
    vlm = tokviz.wrap(case.model(torch.float32), case.processor())
    shown = noise(60, 40, seed=7)
    if case.media == "video":
        shown = coded(grey_frames(8))
    found = look(vlm, shown, layers=[1], max_new_tokens=2)
    grid = found.comparison.grid
    without = [row < 0 for row in grid.row]
    for entry in found.tower:
        assert [value is None for value in entry.attention] == without and entry.entropy <= found.uniform_entropy + 1e-6
    assert all(len(token.maps) == 2 and not any(v is None for v in token.maps[0]) for token in found.tokens)
    notes = " ".join(found.notes)
    cls = vlm.family.has_cls(vlm.model)
    assert ("no [CLS]" in notes) == (found.tower_kind == "received_attention") == (not cls)
    assert ("Layers 0, 3 of the vision tower attend within windows" in notes) == (name == "qwen2_5_vl")
    assert "causal masking" in notes
    found.figure(tmp_path / "f.png", dpi=40)


# -- pruned ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fastv", "divprune+fastv", ("visionzip", {}), "random"])
def test_of_a_pruned_run_every_layer_has_what_it_processed(tiny, image, method):
    found = look(tiny, image, method=method, budget=6, layers=[0, 5])
    assert [entry.visual for entry in found.layers] == found.run.tokens_per_layer
    assert found.comparison.runs[0].method == "full" and found.run.error is None
    first, last = found.tokens[0].maps[1:]
    early = [stage for stage in found.run.stages if not isinstance(stage.site, int)]
    kept = early[-1].kept if early else range(16)
    assert [number for number, value in enumerate(first) if value is not None] == list(kept)
    assert [number for number, value in enumerate(last) if value is not None] == found.run.kept
    assert [value is None for value in found.tokens[0].maps[0]] == [value is None for value in first]


@pytest.mark.generator
@pytest.mark.parametrize("name", ["llava", "llava_next (vicuna)", "qwen3_vl", "llava_onevision (videos)"])
def test_whatever_runs_can_be_looked_into(name):
    case = CASES[name]
    vlm = tokviz.wrap(case.model(torch.float32), case.processor())
    shown, at = (coded(grey_frames(8)), [0]) if case.media == "video" else (noise(60, 40, seed=3), [])
    marked = {"evidence": [(0, 0, 30, 30)], "evidence_frames": at}
    runs = tokviz.compare(vlm, shown, QUESTION, tokviz.methods(), 7, max_new_tokens=1, **marked).runs
    ran = [run for run in runs if run.error is None and run.method not in ("full", "downsample")]
    assert len(ran) > 25
    for run in ran:
        found = look(vlm, shown, method=run.method, budget=7, max_new_tokens=2, layers=[5], **marked)
        assert [entry.visual for entry in found.layers] == found.run.tokens_per_layer == run.tokens_per_layer


def test_the_unpruned_method_is_no_method(tiny, image, found):
    again = look(tiny, image, method="full", budget=6, layers=[0, 4])
    assert again.layers == found.layers and again.tokens == found.tokens and len(again.comparison.runs) == 1
    assert look(tiny, image, layers=[0, 4]).model_dump(exclude={"comparison", "seconds"}) == found.model_dump(
        exclude={"comparison", "seconds"}
    ), "the same every time"


def test_a_smaller_image_is_another_grid(vlm):
    with pytest.raises(BadInput, match="gives the model a smaller image"):
        tokviz.inside(vlm, noise(96, 96, seed=1), "what color is the star?", method="downsample", budget=16)


# -- asked, stopped, refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": "02"}, "layers must be a list"), ({"layers": [6]}, r"A layer must be .* has 6\), not 6"),
        ({"budget": 4}, "without a method"), ({"params": {"a": 1}}, "without a method"),
        ({"method": "fastv", "params": [1]}, "params must be {name: value}"), ({"method": "fastvv"}, "fastv"),
        ({"method": "fastv", "budget": 17}, "16 visual tokens"), ({"method": 3}, "methods must be"),
        ({"method": "oracle", "budget": 4}, "evidence"), ({"max_new_tokens": 0}, "number of new tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tiny, image, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        look(tiny, image, **options)


def test_it_tells_how_far_it_is_and_can_be_stopped(tiny, image):
    shares, stop = [], threading.Event()
    look(tiny, image, on_progress=shares.append)
    assert shares == sorted(shares) and shares[0] == 0.4 and shares[-1] == 1.0 and len(shares) == 6

    def after_one_token(share):
        if share > 0.5:
            stop.set()

    some = look(tiny, image, stop=stop, on_progress=after_one_token)
    assert len(some.tokens) == 1 and "stopped after 1 tokens" in some.notes[-1]
    assert all(entry.output is None for entry in some.layers) and some.figure(dpi=40)
    with pytest.raises(BadInput, match="Stopped"):
        look(tiny, image, stop=stop)


def test_maps_are_kept_as_far_as_there_is_room(tiny, image, monkeypatch):
    monkeypatch.setattr(looking, "MOST_NUMBERS", 2 * 3 * 16)
    found = look(tiny, image, layers=[0, 4])
    assert [len(token.maps) for token in found.tokens] == [3, 3, 0]
    assert found.notes[-1].startswith("Maps are of the first 2 tokens")
    with pytest.raises(BadInput, match="not kept"):
        found.token_map(2)


def test_layers_that_nobody_chose_go_from_the_first_to_the_last():
    assert looking._layers(None, 32) == [0, 6, 12, 19, 25, 31] and looking._layers(None, 1) == [0]
    assert looking._layers([], 6) == [] and looking._layers([3, 1, 3], 6) == [1, 3]


# -- the record --------------------------------------------------------------------------------------------------------


def said(found, *pieces):
    tokens = [
        InsideToken(id=n, text=piece, spent=found.tokens[0].spent, maps=[[float(n) / 10] * 16] * 3)
        for n, piece in enumerate(pieces)
    ]
    return found.model_copy(update={"tokens": tokens})


def test_words_are_the_answers_and_their_maps_the_mean_of_their_tokens(found):
    words = said(found, "a", " red", "dish", " ", "car", "\n", "<x>", "").words
    assert [word.text for word in words] == ["a", "reddish", "car", "<x>"]
    assert [word.tokens for word in words] == [(0,), (1, 2), (4,), (6,)]
    made = said(found, "a", " red", "dish")
    assert made.word_map(1).values == pytest.approx([0.15] * 16) and made.word_map(1, 4).label.endswith("layer 4")
    lower = made.tokens[0].model_copy(update={"maps": [[0.0] * 16, [0.2] * 15 + [None], [None, *[0.4] * 14, None]]})
    both = made.model_copy(update={"tokens": [lower]}).word_map(0, [4, 0])
    assert both.values == pytest.approx([0.1, *[0.3] * 14, None]) and both.label.endswith("mean over layers 0, 4")
    for wrong in ([], [0, 5], "04", True, [[0]], 1.5):
        with pytest.raises(BadInput, match="no map of layer"):
            made.word_map(0, wrong)
    for wrong, sentence in ((2, "has 2 words"), (-1, "no word -1"), (True, "no word True")):
        with pytest.raises(BadInput, match=sentence):
            made.word_map(wrong)
    with pytest.raises(BadInput, match="kept are 0, 4"):
        made.word_map(0, 3)
    with pytest.raises(BadInput, match="no token 9"):
        made.token_map(9)


def test_pieces_add_up_to_the_answer(tiny, found):
    assert "".join(token.text for token in found.tokens).strip() == found.run.answer

    class Bytes:
        """Two tokens that are one letter together."""

        def decode(self, ids, skip_special_tokens):
            return "".join({1: "x", 2: "\ufffd", 3: ""}[i] for i in ids).replace(
                "\ufffd", "é" if 3 in ids else "\ufffd"
            )

    class Vlm:
        processor = type("P", (), {"tokenizer": Bytes()})

    assert looking._pieces(Vlm, [1, 2, 3]) == ["x", "\ufffd", "é"]


def test_it_is_saved_read_back_and_refused_when_damaged(found, tmp_path):
    path = tmp_path / "i.json"
    found.save(path)
    again = Inside.load(path)
    assert again == found and again.withdrawn_at() == found.withdrawn_at() and len(repr(found)) < 300
    data = json.loads(found.to_json())
    wrong = [
        {"layers": data["layers"][1:]}, {"layers": []}, {"map_layers": [0]}, {"map_layers": [0, 6]}, {"more": 1},
        {"counts": [1]}, {"tower_kind": "x"}, {"tower": data["tower"][::-1]},
        {"tower": [{**data["tower"][0], "attention": [0.1]}]}, {"tokens": [{**data["tokens"][0], "spent": []}]},
        {"layers": [{**data["layers"][0], "text": [2.0, 0, 0, 0, 0]}, *data["layers"][1:]]},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(BadInput, match="not a look inside"):
            Inside.from_json(json.dumps(data | change))
    with pytest.raises(BadInput):
        Inside.from_json("{")
    with pytest.raises(BadInput, match="no inside file named"):
        Inside.load(tmp_path / "none.json")
    with pytest.raises(BadInput):
        Comparison.from_json(found.to_json())


def test_it_is_a_table_and_a_figure(found, tmp_path):
    table = found.to_pandas()
    assert list(table.index) == list(range(6)) and table.text_to_image[2] == found.layers[2].text_to_image
    assert [f"output_to_{kind}" for kind in KINDS] == list(table.columns[4:]) and (table.image_to_text == 0).all()
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        path = tmp_path / f"i{suffix}"
        found.figure(path, theme="dark", dpi=40)
        assert path.read_bytes().startswith(begins)
    svg = (tmp_path / "i.svg").read_text()
    assert "tower layer 2 (features)" in svg and "when it said" in svg and "causal masking" in svg
    hostile = said(found, "$x^2$<b>\n")
    assert "when it said $x^2$&lt;b&gt;" in _svg(hostile, tmp_path)
    with pytest.raises(BadInput, match=r"must end in \.png"):
        found.figure(tmp_path / "i.txt")


def _svg(found, folder):
    found.figure(folder / "x.svg", dpi=40)
    return (folder / "x.svg").read_text()


def test_the_command_prints_the_table_and_writes_both_files(tiny, image, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tokviz, "load", lambda _name, **_loading: tiny, raising=False)
    image.save(tmp_path / "i.png")
    files = [str(tmp_path / name) for name in ("h.json", "h.png")]
    asked = ["inside", str(tmp_path / "i.png"), "--question", QUESTION, "--max-new-tokens", "2"]
    pruned = ["--method", "fastv", "--budget", "5", "--layers", "0,3"]
    assert cli.main([*asked, *pruned, "--json", files[0], "--figure", files[1]]) == 0
    captured = capsys.readouterr()
    shown = " ".join(captured.out.split())
    assert captured.err == "" and "Shares of attention" in shown and "ToDRE" in shown and "(FastV)" in shown
    written = Inside.load(files[0])
    assert written.map_layers == [0, 3] and written.run.method == "fastv"
    assert cli.main([*asked, "--layers", "none"]) == 0
    for more, sentence in (
        (["--layers", "0,x"], "takes numbers of layers"), (["--figure", "h.txt"], "must end in .png"),
        (["--budget", "3"], "without a method"), (["--layers", "9"], "A layer must be"),
    ):  # fmt: skip
        assert cli.main([*asked, *more]) == 2
        assert sentence in capsys.readouterr().err
