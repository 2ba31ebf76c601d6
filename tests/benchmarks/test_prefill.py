"""The prefill benchmark on tiny models: what it runs, counts and divides. Nothing here looks at how long it took."""

import json
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

from benchmarks import prefill
from benchmarks.prefill_eager import LLM_MAPS, VISION_MAPS, Maps, eager, maps_kept
from benchmarks.prefill_models import AFTER, BEFORE, KINDS, SHAPES, bench
from benchmarks.prefill_tables import Line, Store, as_markdown
from tokviz.pruners import get, methods
from tokviz.runs.execute import Settings
from tokviz.types import Budget

CPU = torch.device("cpu")
SETTINGS = Settings(Budget(1), seed=0, repeats=1, max_new_tokens=2, stop=threading.Event())
METHODS = [pruner for pruner in methods() if pruner.id != "full"]
PUBLISHED = {"llava-1.5-7b": (576, 32), "llava-next-7b": (2880 + 48, 32), "qwen2.5-vl-7b": (1296, 28)}
"""Visual tokens (LLaVA-NeXT with a newline behind each of the 48 rows of crops) and LLM layers."""
KEEP_NEWLINES = ("apet", "globalcom2")
"""Methods that keep every newline of LLaVA-NeXT and do not count it (``methods.md`` 0.3)."""
FEWER = ("pool",)
"""Methods that may leave fewer tokens than planned: a grid has as many cells as its sides give."""


@pytest.fixture(
    scope="module",
    params=[KINDS[0], *(pytest.param(kind, marks=pytest.mark.generator) for kind in KINDS[1:])],
    ids=lambda kind: kind.id,
)
def made(request):
    """A tiny model whose attention is far from even, so that methods have something to choose by."""
    found = bench(request.param, "tiny", CPU, torch.float32, "sdpa")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in found.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.4 / parameter[0].numel() ** 0.5)
    return found


def planned(made):
    return prefill.plans(made, METHODS, made.kind.budgets_of("tiny")[:1])


def kv_bytes_of(made, visual_per_layer):
    text = made.model.config.get_text_config()
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    tokens = len(visual_per_layer) * (BEFORE + AFTER) + sum(visual_per_layer)
    return tokens * width * 2 * 4


def test_the_committed_page_is_that_of_the_committed_numbers():
    folder = Path(prefill.__file__).parent
    assert as_markdown(json.loads((folder / "prefill.json").read_text())["runs"]) == (folder / "prefill.md").read_text()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)
@pytest.mark.parametrize("shape", ["small", "full"])
def test_shapes_have_the_published_numbers_of_tokens(kind, shape):
    config = kind.config(shape)
    n, layers = PUBLISHED[kind.id]
    assert kind.grid(config, shape).n_tokens == n
    assert config.get_text_config().num_hidden_layers == (layers if shape == "full" else 8)
    assert kind.budgets_of(shape) == list(kind.budgets)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)
def test_a_model_is_made_on_its_device_and_nowhere_else(kind, monkeypatch):
    """On ``meta``, where nothing costs memory: the full shape, every parameter and buffer, in bfloat16."""
    monkeypatch.setattr("benchmarks.prefill_models._prompt", lambda *_: ({}, None))
    found = bench(kind, "full", torch.device("meta"), torch.bfloat16, "sdpa")
    assert {buffer.device.type for buffer in found.model.buffers()} == {"meta"}
    assert 7.0e9 < sum(parameter.numel() for parameter in found.model.parameters()) < 8.4e9


def test_the_prompt_holds_the_image_between_the_texts(made):
    visual = made.inputs["input_ids"][0] == made.model.config.image_token_id
    n = made.grid.n_tokens
    assert visual.nonzero()[:, 0].tolist() == list(range(BEFORE, BEFORE + n))
    assert len(visual) == BEFORE + n + AFTER
    assert made.question_mask[0].nonzero()[:, 0].tolist() == list(range(BEFORE + n + 5, BEFORE + n + 25))
    assert made.encoded(set()).n_visual == [n]


def test_every_method_is_planned_or_refused_with_a_sentence(made):
    wanted, refused = planned(made)
    kernel = [plan.method for plan in wanted if plan.how == "kernel"]
    assert sorted(kernel + [entry["method"] for entry in refused]) == sorted(pruner.id for pruner in METHODS)
    assert all(len(entry["reason"]) > 20 for entry in refused)
    assert [plan.how for plan in wanted[:2]] == ["none", "floor"]


def test_attention_guided_methods_are_measured_as_published_too(made):
    """By what their stages need: maps of the tower, or of an LLM layer that has run; nobody else."""
    wanted, _ = planned(made)
    eager_ones = {plan.method for plan in wanted if plan.how == "eager"}
    guided = {
        "fastervlm",
        "visionzip",
        "vispruner",
        "holov",
        "hiprune",
        "adafv",
        "vscan",
        "scope",
        "todre",
        "polymorphic",
        "fastv",
        "sparsevlm",
    }
    without_cls = {"prumerge", "prumerge_plus"}  # they recompute the row of a [CLS], as their code does
    assert eager_ones == guided | (
        {"globalcom2"} if made.info.has_tiles else set() if made.info.has_cls else without_cls
    )
    for plan in wanted:
        kinds = {need.kind for stage in plan.schedule.stages for need in stage.needs if need.layer != "this"}
        assert (plan.method in eager_ones) == bool(kinds & {*VISION_MAPS, *LLM_MAPS})


def test_lines_hold_what_the_cache_really_holds(made):
    """The cache of every method against the tokens per layer that the line says, and those against the plan."""
    wanted, _ = planned(made)
    n = made.grid.n_tokens
    for plan in wanted:
        line = prefill.line_of(made, plan, [prefill.fire(made, plan, SETTINGS)])
        held = line.tokens_per_layer
        if plan.method == "ivcprune":  # what it drops leaves the layers before, too
            held = [held[-1]] * len(held)
        assert line.kv_bytes == kv_bytes_of(made, held), plan.key
        assert line.samples == 1 and line.peak_bytes is None
        if plan.how in ("none", "floor"):
            assert line.tokens_per_layer == [plan.budget or n] * made.n_layers
            assert line.selection_ms == 0
        else:  # random weights attend so evenly that ToDRE withdraws nothing, which is what a plan assumes
            newlines = made.grid.row.count(-1) if plan.method in KEEP_NEWLINES else 0
            counts = plan.schedule.counts_per_layer(n, made.n_layers)
            planned_for = [count + newlines for count in counts]
            if plan.method in FEWER:
                assert all(0 < left <= most for left, most in zip(line.tokens_per_layer, planned_for, strict=True))
            else:
                assert line.tokens_per_layer == planned_for, plan.key
        assert (line.map_bytes > 0) == (plan.how == "eager"), plan.key


@pytest.mark.generator
def test_eager_lines_choose_what_kernel_lines_choose(made):
    """The same method from whole maps and from recomputed rows: the same tokens survive every stage."""
    wanted, _ = planned(made)
    kernel = {plan.method: plan for plan in wanted if plan.how == "kernel"}
    for plan in wanted:
        if plan.how == "eager":
            as_published, ours = (prefill.fire(made, p, SETTINGS).shot for p in (plan, kernel[plan.method]))
            kept = [[event.kept.tolist() for event in shot.events] for shot in (as_published, ours)]
            assert kept[0] == kept[1], plan.method
            assert as_published.answer.token_ids == ours.answer.token_ids, plan.method


def test_eager_lines_materialise_the_maps_they_say(made, monkeypatch):
    """What each layer hands over: all of CLIP's or the one of Qwen's, and the one that FastV reads; ``(H, L, L)``."""
    wanted, _ = planned(made)
    seen, keep = [], Maps.keep

    def counted(self, module, query, key, scaling, weights):
        seen.append((module, tuple(weights.shape)))
        assert torch.allclose(weights.sum(-1), torch.ones(()))
        return keep(self, module, query, key, scaling, weights)

    monkeypatch.setattr(Maps, "keep", counted)
    eager_plans = {plan.method: plan for plan in wanted if plan.how == "eager"}
    fired = prefill.fire(made, eager_plans["fastervlm"], SETTINGS)
    vision = made.model.config.vision_config
    if made.info.has_cls:
        side = vision.image_size // vision.patch_size
        size = (made.info.n_views, vision.num_attention_heads, side**2 + 1, side**2 + 1)
        assert [shape for _, shape in seen] == [size] * vision.num_hidden_layers
    else:
        patches = 4 * made.grid.n_tokens
        size = (1, vision.num_heads, patches, patches)
        assert [shape for _, shape in seen] == [size]
        assert seen[0][0] is made.family.vision_attention(made.model, "last")
    assert fired.map_bytes == sum(4 * torch.Size(shape).numel() for _, shape in seen)

    seen.clear()
    fired = prefill.fire(made, eager_plans["fastv"], SETTINGS)
    text, length = made.model.config.get_text_config(), made.inputs["input_ids"].shape[1]
    layer = made.family.layers(made.model)[eager_plans["fastv"].schedule.stages[0].site - 1]
    assert [(module, shape) for module, shape in seen if shape[2] > 1] == [
        (layer.self_attn, (1, text.num_attention_heads, length, length))
    ]
    assert fired.map_bytes == 4 * text.num_attention_heads * length**2


@pytest.mark.generator
def test_the_model_is_back_on_its_kernel(made):
    wanted, _ = planned(made)
    forwards = {code: vars(code)["eager_attention_forward"] for code in _codes(made)}
    for plan in (plan for plan in wanted if plan.how == "eager"):
        prefill.fire(made, plan, SETTINGS)
        assert made.kernels == ("sdpa", "sdpa")
    attention = made.family.layers(made.model)[0].self_attn
    with pytest.raises(ZeroDivisionError), eager(made, vision=True, llm=True), maps_kept([attention], Maps()):
        assert made.kernels == ("eager", "eager")
        raise ZeroDivisionError
    assert made.kernels == ("sdpa", "sdpa")
    assert forwards == {code: vars(code)["eager_attention_forward"] for code in _codes(made)}


def _codes(made):
    attentions = made.family.layers(made.model)[0].self_attn, made.family.vision_attention(made.model, "last")
    return {sys.modules[type(attention).__module__] for attention in attentions}


def test_the_floor_is_a_prompt_that_was_short_from_the_start(made):
    """Text and the first tokens of the picture, and the answer that the stock model gives to just those embeddings."""
    prompt, tokens = made.encoded(set()), 7
    short = prefill.floor_prompt(prompt, tokens)
    columns = [*range(BEFORE + tokens), *range(BEFORE + made.grid.n_tokens, prompt.input_ids.shape[1])]
    assert len(columns) == BEFORE + tokens + AFTER
    assert torch.equal(short.inputs_embeds, prompt.inputs_embeds[:, columns])
    assert torch.equal(short.input_ids, prompt.input_ids[:, columns])
    assert short.n_visual == [tokens] and int(short.visual_mask.sum()) == tokens
    plan = next(plan for plan in planned(made)[0] if plan.how == "floor")
    fired = prefill.fire(made, replace(plan, budget=tokens), SETTINGS)
    assert fired.shot.answer.kv_bytes == kv_bytes_of(made, [tokens] * made.n_layers)
    positions = {} if prompt.position_ids is None else {"position_ids": prompt.position_ids[..., columns]}
    stock = made.model.generate(
        inputs_embeds=prompt.inputs_embeds[:, columns], attention_mask=torch.ones(1, len(columns), dtype=torch.int64),
        max_new_tokens=2, do_sample=False, **positions,
    )  # fmt: skip
    assert fired.shot.answer.token_ids == stock[0].tolist()


# -- the numbers -------------------------------------------------------------------------------------------------------


class FakeShots:
    """Executions with times that are known beforehand."""

    def __init__(self, times):
        self.times, self.calls = list(times), 0

    def __call__(self, made, plan, settings):
        vision_ms, prefill_ms, decode_ms = self.times[self.calls]
        self.calls += 1
        answer = SimpleNamespace(prefill_ms=prefill_ms, decode_ms=decode_ms, kv_bytes=640)
        shot = SimpleNamespace(events=[], answer=answer, vision_ms=None)
        return prefill.Fired(shot, vision_ms, 1000 + self.calls, 5)


def test_medians_leave_the_warm_up_out(made, monkeypatch):
    times = [(9e9, 9e9, [9e9, 9e9]), (3.0, 40.0, [1.0, 2.0]), (1.0, 90.0, [7.0, 3.0]), (2.0, 50.0, [4.0, 100.0])]
    fake = FakeShots(times)
    monkeypatch.setattr(prefill, "fire", fake)
    plan = planned(made)[0][0]
    line = prefill.measure(made, plan, replace(SETTINGS, repeats=3))
    assert fake.calls == 4
    assert (line.vision_ms, line.prefill_ms, line.decode_ms) == (2.0, 50.0, 3.5)  # 1 2 3 | 40 50 90 | 1 2 3 4 7 100
    assert (line.peak_bytes, line.map_bytes, line.samples, line.kv_bytes) == (1004, 5, 3, 640)


def a_line(how, method, budget, **numbers):
    given = {"vision_ms": 10.0, "selection_ms": 0.0, "prefill_ms": 90.0, "decode_ms": 20.0, "kv_bytes": 800}
    more = {"tokens_per_layer": [8, 8], "peak_bytes": 6000, "map_bytes": 0, "samples": 3}
    return Line(how=how, method=method, budget=budget, **{**given, **more, **numbers})


def test_ratios_are_no_pruning_over_the_line():
    unpruned = a_line("none", "no pruning", None)
    line = a_line("kernel", "apet", 4, vision_ms=12.0, selection_ms=3.0, prefill_ms=30.0, decode_ms=16.0, kv_bytes=200,
                  peak_bytes=5000)  # fmt: skip
    assert line.first_token_ms == 45.0
    assert line.against(unpruned) == pytest.approx(
        {"first_token": 100 / 45, "prefill": 3.0, "decode": 1.25, "kv": 4.0, "peak": 1.2}
    )
    assert "peak" not in replace(line, peak_bytes=None).against(unpruned)


FACTS = {"model": "m", "label": "M", "shape": "tiny", "device": "cpu", "dtype": "float32", "attention": "sdpa"}
ABOUT = {"visual_tokens": 8, "text_tokens": 4, "new_tokens": 2, "parameters": 10, "weights_bytes": 40}
SITTING = {"date": "today", "command": "do", "note": "busy", "repeats": 3, "torch": "2", "transformers": "5",
           "threads": 1, "cores": 2, "load_before": 0.5}  # fmt: skip


def test_the_file_is_complete_after_every_line_and_grows_when_resumed(tmp_path):
    path = tmp_path / "found"
    sitting = Store(path).begin(FACTS, ABOUT, SITTING, [{"method": "vtw", "budget": 4, "reason": "Why not."}], False)
    sitting.add(a_line("none", "no pruning", None))
    sitting.add(a_line("floor", "the floor", 4, prefill_ms=20.0))
    sitting.add(a_line("kernel", "apet", 4, prefill_ms=30.0))
    stored = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert [line["method"] for line in stored[0]["lines"]] == ["no pruning", "the floor", "apet"]
    assert stored[0]["lines"][2]["times_faster"]["prefill"] == 3.0

    store = Store(path)
    assert ("kernel", "apet", 4) in store.done(FACTS)
    assert store.done({**FACTS, "device": "gpu"}) == set()
    more = store.begin(FACTS, ABOUT, SITTING, [], True)
    more.add(a_line("none", "no pruning", None, prefill_ms=180.0))
    more.add(a_line("floor", "the floor", 4, prefill_ms=40.0))
    more.add(a_line("kernel", "fastv", 4, prefill_ms=60.0))
    more.add(a_line("eager", "fastv", 4, prefill_ms=240.0))
    more.add(a_line("again", "no pruning", None, prefill_ms=199.0))
    more.end(load=1.5)
    (run,) = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert Counter(line["how"] for line in run["lines"]) == Counter(none=2, floor=2, kernel=2, eager=1, again=1)
    assert run["lines"][-3]["times_faster"]["prefill"] == 3.0, "against no pruning of its own sitting"
    with pytest.raises(SystemExit, match="new_tokens"):
        Store(path).begin(FACTS, {**ABOUT, "new_tokens": 3}, SITTING, [], True)

    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (tmp_path / "found.md").read_text().split("\n")
            if row.startswith("|")][2:]  # fmt: skip
    cells = {(row[1], row[2], row[6]): row for row in rows}
    assert cells["kernel", "apet", "30"][-2:] == ["1.50", ""]
    assert cells["kernel", "fastv", "60"][-2:] == ["1.50", ""]
    assert cells["eager", "fastv", "240"][-2:] == ["6.00", "3.57"]  # (10 + 240) / (10 + 60)
    text = (tmp_path / "found.md").read_text()
    assert "not the published model" in text and "vtw: Why not. (4)" in text and "+10% to the first token" in text

    Store(path).begin(FACTS, ABOUT, SITTING, [], False)
    (run,) = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert run["lines"] == [] and len(run["sittings"]) == 1


@pytest.mark.slow
@pytest.mark.generator
def test_the_command_measures_writes_and_goes_on(tmp_path, capsys):
    out = str(tmp_path / "found")
    common = ["--device", "cpu", "--shape", "tiny", "--models", "qwen2.5-vl-7b", "--repeats", "1", "--tokens", "2",
              "--budgets", "20", "--out", out]  # fmt: skip
    prefill.main([*common, "--methods", "fastv,globalcom2", "--note", "a note"])
    (run,) = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert [(line["how"], line["method"]) for line in run["lines"]] == [
        ("none", "no pruning"), ("floor", "the floor"), ("kernel", "fastv"), ("eager", "fastv"),
        ("again", "no pruning"),
    ]  # fmt: skip
    assert run["refused"][0]["method"] == "globalcom2" and "[CLS]" in run["refused"][0]["reason"]
    assert run["attention"] == "sdpa" and run["dtype"] == "float32" and run["visual_tokens"] == 144
    unpruned = run["lines"][0]
    for line in run["lines"]:
        total = line["vision_ms"] + line["selection_ms"] + line["prefill_ms"]
        assert line["first_token_ms"] == pytest.approx(total)
        assert line["times_faster"]["first_token"] == pytest.approx(unpruned["first_token_ms"] / total)
    assert "`python -m benchmarks.prefill --device cpu" in (tmp_path / "found.md").read_text()

    prefill.main([*common, "--methods", "fastv,vtw", "--resume"])
    (run,) = json.loads((tmp_path / "found.json").read_text())["runs"]
    second = [(line["how"], line["method"]) for line in run["lines"] if line["sitting"] == 1]
    assert second == [("none", "no pruning"), ("floor", "the floor"), ("kernel", "vtw"), ("again", "no pruning")]
    prefill.main([*common, "--methods", "fastv,vtw", "--resume"])
    assert "is complete" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "found.json").read_text())["runs"][0]["sittings"]) == 2


@pytest.mark.generator
def test_out_of_time_begins_nothing_more_but_the_last_line(made):
    wanted, _ = planned(made)
    lines = list(prefill.measured(made, wanted, SETTINGS, set(), deadline=0.0))
    assert [line.how for line in lines] == ["none", "again"]


def test_unknown_models_are_named(capsys):
    with pytest.raises(SystemExit):
        prefill.parsed(["--models", "gpt"])
    assert "there is no model 'gpt'" in capsys.readouterr().err


def test_the_committed_numbers_are_what_their_tables_show():
    """The files in the repository belong together, name their machine, and every ratio is that of their times."""
    path = prefill.Path(prefill.__file__).with_name("prefill")
    runs = json.loads(path.with_suffix(".json").read_text())["runs"]
    assert path.with_suffix(".md").read_text() == as_markdown(runs)
    for run in runs:
        assert run["shape"] in SHAPES and run["device"]
        for line in run["lines"]:
            unpruned = next(o for o in run["lines"] if (o["sitting"], o["how"]) == (line["sitting"], "none"))
            assert line["times_faster"]["prefill"] == pytest.approx(unpruned["prefill_ms"] / line["prefill_ms"])
            assert 0 <= fmean(line["tokens_per_layer"]) <= run["visual_tokens"]
            if line["how"] in ("kernel", "eager"):
                assert get(line["method"]).label
