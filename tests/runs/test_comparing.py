"""One request through the whole library on the embedded model: what is shown is what really happened."""

import json
import shutil
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import tokviz
from tokviz.comparison import Comparison
from tokviz.errors import BadInput, Unsupported
from tokviz.models.catalog import embedded_folder
from tokviz.pruners import PRUNERS, get
from tokviz.runs.compare import compare_events
from tokviz.runs.execute import Execution, execution_timings, planning_info
from tokviz.runs.metrics import evidence_shares
from tokviz.types import Schedule

ALL = [pruner.id for pruner in PRUNERS]
QUESTION = "how many objects are there?"
BOX = (40.0, 30.0, 120.0, 90.0)


@pytest.fixture(scope="module")
def comparison(vlm, scene_image, budget) -> Comparison:
    return tokviz.compare(vlm, scene_image, QUESTION, ALL, budget=budget, seed=3, evidence=[BOX])


def test_the_unpruned_run_comes_first_and_every_method_ran_or_says_what_it_lacks(vlm, comparison):
    assert [run.method for run in comparison.runs] == ["full", *(m for m in ALL if m != "full")]
    info = planning_info(vlm, comparison.grid)
    for run in comparison.runs:
        assert run.error == get(run.method).missing(info), run.method
        assert run.error is not None or (run.answer and run.timings)
    assert info.n_vision_layers == 5 and info.has_cls and not info.has_tiles and info.n_views == 1
    assert comparison.runs[0].stages == [] and comparison.runs[0].kept is None


@pytest.fixture(scope="module")
def again(vlm, scene_image, comparison, budget):
    """The same request once more, watched from outside, on a model that is warm."""
    towers = []
    before = hooks(vlm)
    handle = vlm.model.base_model.vision_tower.register_forward_hook(lambda *_: towers.append(1))
    try:
        result = tokviz.compare(vlm, scene_image, QUESTION, ALL, budget=budget, seed=3, evidence=[BOX])
    finally:
        handle.remove()
    return SimpleNamespace(comparison=result, tower_runs=len(towers), hooks_before=before, hooks_after=hooks(vlm))


def hooks(vlm):
    return [(name, len(m._forward_pre_hooks), len(m._forward_hooks)) for name, m in vlm.model.named_modules()]


def ran(comparison):
    """The runs of methods that this model can carry out."""
    return [run for run in comparison.runs if run.error is None]


def test_the_unpruned_run_is_the_stock_model(vlm, scene_image, comparison):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = vlm.processor(images=scene_image, text=text, return_tensors="pt")
    output = vlm.model.generate(**inputs, max_new_tokens=32, do_sample=False)
    ids = output[0, inputs["input_ids"].shape[1] :].tolist()
    assert [token.id for token in comparison.runs[0].answer_tokens] == ids


def test_counts_per_layer_are_what_the_cache_holds(vlm, comparison):
    text = vlm.text_config
    n_prompt = comparison.grid.n_tokens
    per_token = 2 * text.num_key_value_heads * text.head_dim * 4
    full = comparison.runs[0]
    n_text = full.cost.kv_cache_bytes // per_token // text.num_hidden_layers - n_prompt
    assert n_text > 5
    for run in ran(comparison):
        held = run.tokens_per_layer
        if run.method == "ivcprune":  # what it drops leaves the layers before, too
            assert held[0] > held[-1]
            held = [held[-1]] * len(held)
        assert run.cost.kv_cache_bytes == per_token * sum(n_text + n for n in held), run.method


def test_added_tokens_are_billed(vlm, scene_image, budget):
    """The cache test above holds for them too: VisionZip's official mode adds [CLS], PruMerge a summary."""
    result = tokviz.compare(vlm, scene_image, QUESTION, ["visionzip", "prumerge"], budget=budget, budget_as="final")
    per_token = 2 * vlm.text_config.num_key_value_heads * vlm.text_config.head_dim * 4
    full = result.runs[0]
    n_text = full.cost.kv_cache_bytes // per_token // vlm.text_config.num_hidden_layers - result.grid.n_tokens
    added = 0
    for run in result.runs[1:]:
        n_extra = sum(stage.n_extra for stage in run.stages)
        assert run.actual.final == len(run.kept) + n_extra == run.tokens_per_layer[-1]
        assert run.cost.kv_cache_bytes == per_token * sum(n_text + n for n in run.tokens_per_layer)
        if n_extra and run.stages[-1].sequence is not None:
            assert sorted(run.stages[-1].sequence) == [-1] * n_extra + run.kept
        added += n_extra
    assert added > 0


def test_the_words_behind_the_image_are_told(comparison):
    assert comparison.text_tokens == ["how", "many", "objects", "are", "there", "assistant"]
    for run in ran(comparison):
        for stage in run.stages:
            if stage.text is not None:
                assert len(stage.text.values) == len(stage.text.chosen) == len(comparison.text_tokens), run.method


def test_every_stage_speaks_of_original_tokens(comparison):
    for run in comparison.runs:
        alive = set(range(comparison.grid.n_tokens))
        for stage in run.stages:
            assert stage.n_in == len(alive)
            assert set(stage.kept) <= alive and stage.kept == sorted(stage.kept)
            if stage.assignment is not None:
                for token, target in enumerate(stage.assignment):
                    assert target == -1 or target in stage.kept
                    assert token not in stage.kept or target == token
            if stage.score is not None:
                scored = {i for i, value in enumerate(stage.score.values) if value is not None}
                assert scored <= alive
            alive = set(stage.kept)


def test_single_stage_methods_keep_the_budget(comparison, budget):
    for method in ("fastervlm", "divprune", "random", "uniform", "fastv"):
        assert comparison[method].actual.final == budget
    assert comparison["apet"].actual.average_in == pytest.approx(budget)


def test_same_seed_same_numbers(comparison, again):
    for one, other in zip(comparison.runs, again.comparison.runs, strict=True):
        assert one.answer_tokens == other.answer_tokens
        assert [s.model_dump(exclude={"selection_ms"}) for s in one.stages] == [
            s.model_dump(exclude={"selection_ms"}) for s in other.stages
        ]


def test_another_seed_moves_random_and_nothing_else(vlm, scene_image, comparison, budget):
    other = tokviz.compare(vlm, scene_image, QUESTION, ["random", "divprune"], budget=budget, seed=4)
    assert other["random"].kept != comparison["random"].kept
    assert other["divprune"].kept == comparison["divprune"].kept


def test_a_budget_of_everything_changes_nothing(vlm, scene_image, comparison):
    everything = comparison.grid.n_tokens
    result = tokviz.compare(vlm, scene_image, QUESTION, ALL, budget=everything, budget_as="final")
    full = result.runs[0]
    for run in ran(result):
        if run.method == "todre":
            continue  # withdraws inside the LLM whatever the budget
        assert [t.id for t in run.answer_tokens] == [t.id for t in full.answer_tokens], run.method
        logprobs = [[t.logprob for t in r.answer_tokens] for r in (run, full)]
        assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


def test_the_vision_tower_runs_once_for_all_lanes_and_once_more_for_a_smaller_image(again):
    assert again.comparison["downsample"].error is None and again.tower_runs == 2


def test_no_hook_is_left(again):
    assert again.hooks_after == again.hooks_before


def test_medians_are_marked_as_such(vlm, scene_image, comparison, budget):
    assert comparison.runs[1].timings["prefill"].single_shot
    timing = tokviz.compare(vlm, scene_image, QUESTION, ["divprune"], budget=budget, repeats=3)["divprune"].timings
    assert timing["prefill"].samples == 3 and not timing["prefill"].single_shot
    again = tokviz.compare(vlm, scene_image, QUESTION, ["random"], budget=budget, repeats=2, seed=3)["random"]
    once = comparison["random"]
    assert (again.kept, again.answer_tokens) == (once.kept, once.answer_tokens), "what is recorded, and what answered"


def test_pruned_prefill_is_cheaper_by_the_formula(comparison):
    full = comparison.runs[0].cost.prefill_flops
    for method in ("divprune", "fastervlm", "apet"):
        assert comparison[method].cost.prefill_flops < 0.6 * full


def test_the_session_survives_json(comparison):
    assert Comparison.from_json(comparison.to_json()) == comparison


def test_events_come_in_order(vlm, scene_image):
    events = list(compare_events(vlm, scene_image, QUESTION, methods=["divprune"], budget=8))
    kinds = [(event.kind, event.lane) for event in events if event.kind != "text"]
    assert kinds == [("encoded", -1), ("lane", 0), ("run", 0), ("lane", 1), ("run", 1), ("done", 1)]
    texts = [event.text for event in events if event.kind == "text" and event.lane == 1]
    assert texts and texts[-1] == events[-1].comparison.runs[1].answer


def test_stop_keeps_what_is_finished_and_the_model_works_on(vlm, scene_image):
    stop = threading.Event()
    last = None
    for event in compare_events(vlm, scene_image, QUESTION, methods=["divprune", "apet"], budget=8, stop=stop):
        last = event
        if event.kind == "run":
            stop.set()
    assert last.kind == "done" and 1 <= len(last.comparison.runs) < 3
    assert len(tokviz.compare(vlm, scene_image, QUESTION, ["divprune"], budget=8).runs) == 2


def test_leaving_early_frees_the_model(vlm, scene_image):
    events = compare_events(vlm, scene_image, QUESTION, methods=["divprune", "apet"], budget=8)
    next(events)
    events.close()
    assert not [t for t in threading.enumerate() if t.name == "tokviz-compare"]


def test_a_tower_without_cls_refuses_only_the_methods_that_need_it(vlm, scene_image, monkeypatch, budget):
    monkeypatch.setattr(type(vlm.family), "has_cls", lambda self, model: False)
    result = tokviz.compare(vlm, scene_image, QUESTION, ["globalcom2", "divprune"], budget=budget)
    assert "[CLS]" in result["globalcom2"].error
    assert result["divprune"].error is None


def test_two_threads_on_one_model_do_not_mix(vlm, scene_image):
    expected = {
        budget: tokviz.compare(vlm, scene_image, QUESTION, ["apet", "fastv"], budget=budget) for budget in (8, 48)
    }
    results: dict[int, list[Comparison]] = {8: [], 48: []}

    def work(budget: int) -> None:
        for _ in range(3):
            results[budget].append(tokviz.compare(vlm, scene_image, QUESTION, ["apet", "fastv"], budget=budget))

    threads = [threading.Thread(target=work, args=(budget,)) for budget in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for budget, runs in results.items():
        assert len(runs) == 3
        for result in runs:
            for method in ("apet", "fastv"):
                assert result[method].kept == expected[budget][method].kept
                assert result[method].answer_tokens == expected[budget][method].answer_tokens


def test_words_the_model_lacks_are_named(vlm, scene_image):
    result = tokviz.compare(vlm, scene_image, "is there a xylophone?", ["random"], budget=8)
    assert any("xylophone" in warning for warning in result.warnings)


@pytest.mark.parametrize("size", [(192, 192), (300, 100), (77, 200)])
def test_any_shape_of_image(vlm, size):
    result = tokviz.compare(vlm, Image.new("RGB", size, "gray"), QUESTION, ["apet", "divprune", "todre"], budget=12)
    assert not [run.error for run in result.runs if run.error]
    assert result.grid.image_size == size


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": ""}, "no question"),
        ({"question": " \n "}, "no question"),
        ({"question": "a" * 10_000}, "10,000 characters"),
        ({"question": "what is <image>?"}, "reserved by the model"),
        ({"question": "<IMAGE> what?"}, "reserved by the model"),
        ({"question": "＜image＞ what?"}, "reserved by the model"),
        ({"question": "\udcff what?"}, "not valid text"),
        ({"expected": "\udcff"}, "not valid text"),
        ({"max_new_tokens": 1000}, "allow at most"),
        ({"params": {"apet": {"basis_tokens": 10**400}}}, "basis_tokens"),
        ({"evidence": [(0, 0, float("inf"), 9)]}, "evidence box"),
        ({"budget": 0}, "from 1 to {n_tokens} "),
        ({"budget": -3}, "from 1 to {n_tokens} "),
        ({"budget": 10**6}, "from 1 to {n_tokens} "),
        ({"budget": 1.5}, "whole number"),
        ({"methods": ["nosuch"]}, "nosuch"),
        ({"methods": "apet"}, "must be a list"),
        ({"budget_as": "x"}, "budget_as"),
        ({"params": {"apet": {"nosuch": 1}}}, "nosuch"),
        ({"params": {"fastv": {}}}, "fastv"),
        ({"params": {"apet": {"basis_tokens": 1e9}}}, "basis_tokens"),
        ({"image": None}, "no image"),
        ({"image": Image.new("RGB", (1, 1))}, "1 × 1"),
        ({"seed": -1}, "seed"),
        ({"max_new_tokens": 0}, "new tokens"),
        ({"evidence": [(5, 5, 1, 9)]}, "evidence box"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(vlm, scene_image, n_tokens, changes, sentence):
    request = {"image": scene_image, "question": QUESTION, "methods": ["apet"], "budget": 16} | changes
    with pytest.raises(BadInput, match=sentence.replace("{n_tokens}", str(n_tokens))) as caught:
        tokviz.compare(vlm, **request)
    assert "\n" not in str(caught.value)


def test_a_budget_of_one_token_more_than_there_are_is_refused(vlm, scene_image, n_tokens):
    with pytest.raises(BadInput, match=f"not {n_tokens + 1}"):
        tokviz.compare(vlm, scene_image, QUESTION, ["random"], budget=n_tokens + 1)


def test_unknown_models_are_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match="nosuch"):
        tokviz.load("nosuch")
    with pytest.raises(BadInput, match="holds no model"):
        tokviz.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(Unsupported, match=r"'bert'.*llava"):
        tokviz.load(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(BadInput, match="damaged"):
        tokviz.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "damaged"),
        (lambda f: (f / "chat_template.jinja").unlink(), "chat template"),
        (lambda f: edit_config(f, text_config={"num_hidden_layers": 12}), "lacks 36 of the model's weights"),
        (lambda f: edit_config(f, vision_feature_select_strategy="full"), "'full'"),
        (lambda f: edit_config(f, vision_feature_layer=0), "vision layers 0"),
    ],
)
def test_damaged_checkpoints_are_refused_when_they_are_loaded(tmp_path, damage, sentence):
    folder = tmp_path / "copy"
    shutil.copytree(embedded_folder(), folder)
    damage(folder)
    with pytest.raises(BadInput, match=sentence):
        tokviz.load(folder)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))


def test_prefill_and_selection_add_up(vlm, scene_image, budget, monkeypatch):
    from tokviz.pruners import fastv

    slow = fastv.PRUNER.schedule
    clock, ahead = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + ahead[0])

    def slowed(budget, info, params):
        stage = slow(budget, info, params).stages[0]

        def select(*arguments):
            ahead[0] += 20  # seconds: far more than a prefill takes, on crowded cores too
            return stage.select(*arguments)

        return Schedule((replace(stage, select=select),))

    slow_fastv = replace(fastv.PRUNER, schedule=slowed)
    timings = tokviz.compare(vlm, scene_image, QUESTION, [slow_fastv], budget=budget)["fastv"].timings
    assert timings["selection"].median_ms >= 20_000 > timings["prefill"].median_ms > 0


def test_only_selection_that_ran_inside_prefill_is_taken_out_of_it():
    def timings(*stages):
        events = [
            SimpleNamespace(stage=SimpleNamespace(site=site), milliseconds=ms, diagnostics_ms=4.0)
            for site, ms in stages
        ]
        return execution_timings([Execution(events, SimpleNamespace(prefill_ms=50.0, decode_ms=[]), None)])

    inside, before = timings(("encoder", 20.0), (2, 3.0)), timings(("projector", 20.0))
    assert inside["prefill"].median_ms == 43.0, "what was asked about a selection is no prefill either"
    assert before["prefill"].median_ms == 50.0 and inside["selection"].median_ms == 23.0


def test_a_package_that_is_missing_is_not_blamed_on_the_hub(monkeypatch):
    def fails(*arguments, **options):
        raise ImportError("needs the package bitsandbytes")

    monkeypatch.setattr("tokviz.models.loading.AutoConfig.from_pretrained", fails)
    with pytest.raises(BadInput, match="needs the package bitsandbytes"):
        tokviz.load()


def test_an_unreachable_hub_is_one_sentence():
    with pytest.raises(BadInput, match="hub cannot be reached"):
        tokviz.load("llava-hf/llava-1.5-7b-hf")


@pytest.mark.usefixtures("again")
def test_the_model_stays_on_its_fast_kernel(vlm):
    assert vlm.text_config._attn_implementation == "sdpa"
    assert vlm.model.config.vision_config._attn_implementation == "sdpa"
    assert vlm.record.attention == "sdpa" and vlm.model.dtype == torch.float32


def test_an_answer_that_was_cut_says_so(vlm, scene_image):
    question = "where is the circle?"
    whole = tokviz.compare(vlm, scene_image, question, [])
    n_tokens = len(whole.runs[0].answer_tokens)  # with the one that ends it
    cut = tokviz.compare(vlm, scene_image, question, [], max_new_tokens=n_tokens - 1)
    just = tokviz.compare(vlm, scene_image, question, [], max_new_tokens=n_tokens)
    assert cut.runs[0].warnings == [f"The answer was cut after {n_tokens - 1} new tokens; more can be allowed."]
    assert whole.runs[0].warnings == just.runs[0].warnings == [] and just.runs[0].answer == whole.runs[0].answer


def test_more_evidence_than_a_session_holds_is_refused(vlm, scene_image):
    with pytest.raises(BadInput, match="1,025 evidence boxes"):
        tokviz.compare(vlm, scene_image, QUESTION, [], evidence=[(0, 0, 1, 1)] * 1025)


def test_oracle_keeps_the_marked_evidence_or_says_that_none_is_marked(vlm, scene_image, comparison, budget):
    run, grid = comparison["oracle"], comparison.grid
    shares = evidence_shares(grid, [BOX])
    shown = {token for token, share in enumerate(shares) if share > 0}
    assert len(shown) > budget or shown <= set(run.kept)
    assert len(run.kept) == budget and run.stages[0].facts["tokens_with_evidence"] == len(shown)
    assert run.stages[0].score.values == pytest.approx(shares, rel=1e-5)
    alone = tokviz.compare(vlm, scene_image, QUESTION, ["oracle", "uniform"], budget=budget, max_new_tokens=1)
    assert alone["oracle"].error == get("oracle").missing(planning_info(vlm, grid, has_evidence=False))
    assert "--evidence" in alone["oracle"].error and alone["uniform"].error is None
