"""The batched runner gives what single comparisons give; variants, cache and workers do what they say."""

import errno
import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tokviz
from benchmarks.fidelity import plan as planning
from benchmarks.fidelity.cache import OutcomeCache, fingerprint
from benchmarks.fidelity.outcomes import (
    EVIDENCE_ORACLE,
    FULL,
    Header,
    Outcome,
    Variant,
    from_lines,
    shared_questions,
    to_lines,
)
from benchmarks.fidelity.prompts import encode_image, joined, shared_prefix, with_text
from benchmarks.fidelity.questions import (
    CHUNK,
    chunks,
    covered_pixels,
    first_seed,
    position_correlation,
    scene_image,
    thirds,
)
from benchmarks.fidelity.running import (
    MAX_NEW_TOKENS,
    answer_variant,
    benchmark_grid,
    encode_scenes,
    keep_evidence,
    outcome,
    recipe,
    run_variant,
)
from benchmarks.fidelity.workers import run_chunk
from tokviz.engine.prompt import counted_positions
from tokviz.errors import BadInput, Unsupported
from tokviz.media.images import read_image
from tokviz.models.catalog import embedded_folder
from tokviz.pruners import get, methods
from tokviz.runs.metrics import evidence_recall, evidence_tokens

SEEDS = (first_seed(), first_seed() + 1)


@pytest.fixture(scope="module")
def grid(vlm):
    return benchmark_grid(vlm)


@pytest.fixture(scope="module")
def budget(grid):
    return grid.n_tokens // 9


@pytest.fixture(scope="module")
def recipes(vlm, grid, budget):
    wanted = planning.variants(planning.parse_methods("all"), [budget])
    return {made.variant.method: made for made in planning.plan(vlm, grid, wanted)[0]}


@pytest.fixture(scope="module")
def scenes(vlm, grid, recipes):
    return encode_scenes(vlm, grid, SEEDS, {need for made in recipes.values() for need in made.needs})


def singly(vlm, grid, budget, method):
    """``(seed, number) -> Comparison`` of a few questions of both scenes, by the product's own path."""
    found = {}
    for seed, numbers in zip(SEEDS, ((0, 5), (2, 8)), strict=True):
        scene = scene_image(seed, grid)
        for case in (scene.cases[number] for number in numbers):
            image, length = read_image(scene.image), MAX_NEW_TOKENS
            found[seed, case.number] = tokviz.compare(
                vlm, image, case.question, [method], budget, seed=seed, max_new_tokens=length
            )
    return found


@pytest.mark.parametrize(
    "method",
    # On every change one that reads the question inside the LLM and drops there in stages, and another encoding.
    [pytest.param(p.id, marks=[pytest.mark.generator] * (p.id not in ("sparsevlm", "downsample"))) for p in methods()],
)
def test_a_batch_of_questions_is_answered_as_each_of_them_alone(vlm, grid, budget, scenes, recipes, method):
    alone = singly(vlm, grid, budget, method)
    if method not in recipes:
        assert all(comparison[method].error for comparison in alone.values()), "left out although it can run"
        return
    answered = {(a.case.seed, a.case.number): a for a in answer_variant(vlm, grid, recipes[method], scenes)}
    assert len(answered) == sum(len(scene.cases) for scene in scenes)
    for id, comparison in alone.items():
        run, mine = comparison[method], answered[id]
        kept = list(range(grid.n_tokens)) if run.kept is None else run.kept
        if mine.kept is None:
            assert get(method).encodes_anew and outcome(mine, grid).evidence_recall is None
        else:
            assert np.flatnonzero(mine.kept).tolist() == kept, mine.case.question
        assert mine.answer == run.answer, mine.case.question
        assert mine.per_layer == run.tokens_per_layer
        assert (mine.final, outcome(mine, grid).average) == (run.actual.final, run.actual.average_in)


@pytest.mark.generator
def test_exchanging_the_question_is_encoding_with_it(vlm, grid, scenes):
    from tokviz.engine import encode
    from tokviz.models.prompts import model_inputs

    image = scene_image(SEEDS[0], grid)
    for case, text in list(zip(image.cases, scenes[0].image.texts, strict=True))[1::3]:
        inputs, asked = model_inputs(vlm, image.image, case.question)
        encoded = encode(vlm.model, vlm.family, inputs, (), question_mask=asked)
        exchanged = with_text(scenes[0].image.prompt, text)
        for name in ("input_ids", "inputs_embeds", "attention_mask", "visual_mask", "question_mask"):
            assert torch.equal(getattr(exchanged, name), getattr(encoded, name)), name


def test_joined_prompts_are_padded_on_the_left(scenes):
    prompts = [with_text(scenes[0].image.prompt, text) for text in scenes[0].image.texts]
    batch = joined(prompts)
    width = batch.input_ids.shape[1]
    assert len({prompt.input_ids.shape[1] for prompt in prompts}) > 1, "the questions must differ in length"
    for row, prompt in enumerate(prompts):
        start = width - prompt.input_ids.shape[1]
        assert torch.equal(batch.inputs_embeds[row, start:], prompt.inputs_embeds[0])
        assert not batch.attention_mask[row, :start].any() and not batch.visual_mask[row, :start].any()


@pytest.mark.generator
def test_a_shared_prefix_holds_the_keys_and_values_of_the_whole_prompt(vlm, scenes):
    images = [scene.image.prompt for scene in scenes]
    rows = [(number, text) for number, scene in enumerate(scenes) for text in scene.image.texts]
    batch = joined([with_text(images[number], text) for number, text in rows])
    with torch.inference_mode():
        cache = shared_prefix(vlm, images, [number for number, _ in rows], batch)
        positions = counted_positions(batch.attention_mask)  # as generate counts; forward does not look at pads
        whole = vlm.model(**batch.generate_inputs(), position_ids=positions, use_cache=True).past_key_values
    shared = cache.get_seq_length()
    longest = max(text.ids.shape[1] for _, text in rows)
    assert shared == batch.input_ids.shape[1] - longest, "all but the longest question is shared"
    real = batch.attention_mask[:, :shared].bool()
    assert real.any(dim=1).all() and not real.all()
    for mine, stock in zip(cache.layers, whole.layers, strict=True):
        for name in ("keys", "values"):
            found, expected = (getattr(layer, name)[:, :, :shared].transpose(1, 2)[real] for layer in (mine, stock))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# ----------------------------------------------------------------------------------------------------------- the oracle


@pytest.mark.generator
def test_the_oracle_keeps_evidence_first_and_fills_up_by_lot(vlm, grid, budget, recipes, scenes):
    seen = 0
    for answered in answer_variant(vlm, grid, recipes[EVIDENCE_ORACLE], scenes):
        shown = np.flatnonzero(answered.case.cover > 0)
        assert answered.kept.sum() == budget
        if len(shown) <= budget:
            assert answered.kept[shown].all()
            seen += len(shown) > 0
        else:
            assert answered.case.cover[answered.kept].min() >= answered.case.cover[~answered.kept].max()
    assert seen, "no question with little evidence among the scenes"


def test_the_oracle_ranks_by_pixels_and_breaks_ties_to_the_lowest_index():
    cover = np.array([0.0, 5, 9, 5, 0, 0])
    assert keep_evidence(cover, 2, torch.Generator().manual_seed(0)).kept.tolist() == [1, 2]
    drawn = {tuple(keep_evidence(cover, 4, torch.Generator().manual_seed(seed)).kept.tolist()) for seed in range(40)}
    assert drawn == {(0, 1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 5)}


# ----------------------------------------------------------------------------------------------------- what is measured


def test_covered_pixels_are_areas_of_overlap(grid):
    x0, y0, x1, y1 = grid.box[0]
    side = x1 - x0
    cover = covered_pixels(grid, [(x0 + side / 2, y0, x1 + side / 4, y1)])
    assert cover[:2].tolist() == [side * side / 2, side * side / 4] and not cover[2:].any()
    twice = covered_pixels(grid, [grid.box[0], grid.box[0]])
    assert twice[0] == side * side, "a patch has no more pixels than it has"


@pytest.mark.generator
def test_recall_is_of_the_tokens_that_the_product_calls_evidence(vlm, grid, scenes, recipes):
    for answered in answer_variant(vlm, grid, recipes["uniform"], scenes[:1]):
        case, found = answered.case, outcome(answered, grid)
        question = next(q for q in _scene(SEEDS[0]).questions if q.text == case.question)
        assert list(case.evidence) == evidence_tokens(grid, question.evidence)
        expected = evidence_recall(grid, question.evidence, np.flatnonzero(answered.kept).tolist())
        assert found.evidence_recall == expected
        assert found.kept_thirds == thirds(answered.kept, grid.row) and sum(found.kept_thirds) == found.kept
        assert found.family == {"spatial": "relation"}.get(question.family, question.family)


def _scene(seed):
    from scenes import generate_scene

    return generate_scene(seed, questions_per_family=2)


def test_position_correlation_is_pearson_s():
    kept = np.array([False, False, True, True])
    assert position_correlation(kept) == pytest.approx(np.corrcoef([0, 0, 1, 1], [0, 1, 2, 3])[0, 1], abs=1e-6)
    assert position_correlation(~kept) < 0
    assert position_correlation(np.ones(4, bool)) is None and position_correlation(np.zeros(4, bool)) is None


# ------------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("text", "n_visual", "budgets"),
    [
        (None, 576, [192, 128, 64, 32]),
        (None, 144, [48, 32, 16, 8]),
        (None, 9, [3, 2, 1]),
        ("32, 192,32", 576, [192, 32]),
        ("50%,12.5%", 144, [72, 18]),
    ],
)
def test_budgets(text, n_visual, budgets):
    assert planning.parse_budgets(text, n_visual) == budgets


@pytest.mark.parametrize("text", ["", "0", "577", "x", "-3", "1.5", "101%", "nan%", "inf%", "0%", "64,,32"])
def test_budgets_that_cannot_be(text):
    with pytest.raises(BadInput, match="budget"):
        planning.parse_budgets(text, 576)


def test_controls_and_the_oracle_always_run():
    assert planning.parse_methods("vtw,apet") == [
        FULL,
        "random",
        "uniform",
        "downsample",
        "pool",
        "apet",
        "vtw",
        EVIDENCE_ORACLE,
    ]
    every = [pruner.id for pruner in methods() if pruner.id != "oracle"]  # the benchmark has its own
    assert planning.parse_methods("all") == [*every, EVIDENCE_ORACLE]
    with pytest.raises(BadInput, match="no method 'nonsense'"):
        planning.parse_methods("apet,nonsense")
    with pytest.raises(BadInput, match="no method to run"):
        planning.parse_methods(" , ")


def test_what_cannot_run_is_left_out_with_its_reason(vlm, grid):
    wanted = planning.variants(["full", "globalcom2", "sparsevlm"], [grid.n_tokens // 3, 1])
    recipes, left_out = planning.plan(vlm, grid, wanted)
    assert [made.variant.method for made in recipes] == ["full", "sparsevlm"]
    assert [(entry["label"], entry["budget"]) for entry in left_out] == [("GlobalCom2", None), ("SparseVLM", 1)]
    assert "thumbnail" in left_out[0]["why"] and "average of 1" in left_out[1]["why"]


def test_chunks_cover_the_scenes_in_order():
    assert [seed for chunk in chunks(CHUNK + 2) for seed in chunk] == [first_seed() + i for i in range(CHUNK + 2)]
    for count in (0, -1, True, 1.5, 10**9):
        with pytest.raises(BadInput, match="number of scenes"):
            chunks(count)


# ------------------------------------------------------------------------------------------------------------ the cache

OUTCOME = Outcome(first_seed(), 0, "reading", "what word is on the sign?", "bus", "bus", True, 16, 16.0, 0.5, None)
VARIANT = Variant("apet", {"mode": "x"}, "ApET", 16)


def test_outcomes_round_trip_and_damage_is_noticed():
    header = Header("abc", first_seed(), 1, VARIANT, 1.5)
    text = to_lines(header, [OUTCOME])
    assert from_lines(text) == (header, [OUTCOME])
    version = json.loads(text.splitlines()[0]) | {"format": 99}
    with pytest.raises(BadInput, match="format 99"):
        from_lines(json.dumps(version))
    for damaged in (
        "",
        "[]",
        "null",
        "{}",
        text[:-30],
        text.replace("reading", "other"),
        text.replace('"right"', '"r"'),
        "[" * 100_000,
    ):
        with pytest.raises(BadInput):
            from_lines(damaged)


def test_a_file_cut_anywhere_or_changed_is_refused():
    made = [replace(OUTCOME, number=number) for number in range(4)]
    text = to_lines(Header("abc", first_seed(), 1, VARIANT, 1.5), made)
    lines = text.splitlines(keepends=True)
    for cut in range(1, len(lines)):
        with pytest.raises(BadInput):
            from_lines("".join(lines[:cut]))
        with pytest.raises(BadInput):
            from_lines("".join(lines[: cut - 1] + lines[cut:]))
    for cut in range(len(text)):
        with pytest.raises(BadInput):
            from_lines(text[:cut])
    with pytest.raises(BadInput, match="changed"):
        from_lines(text.replace('"kept": 16', '"kept": 17', 1))


@pytest.mark.parametrize(
    "change",
    [{"kept": None}, {"kept": "16"}, {"kept": True}, {"kept": 1.5}, {"right": 1}, {"right": None}, {"seed": "1"},
     {"average": None}, {"average": "x"}, {"evidence_recall": "x"}, {"position_correlation": [1]}, {"answer": None},
     {"kept_thirds": [1, 2]}, {"kept_thirds": [1, 2, None]}, {"kept_thirds": 3}],
    ids=str,
)  # fmt: skip
def test_values_of_another_type_are_refused_when_they_are_read(change, tmp_path):
    cache = OutcomeCache(tmp_path, "weights")
    path = cache.path(100, VARIANT)
    path.parent.mkdir(parents=True)
    path.write_text(to_lines(Header("weights", 100, 1, VARIANT, 1.0), [replace(OUTCOME, **change)]))
    with pytest.raises(BadInput, match="delete that file"):
        cache.complete([range(100, 101)], [VARIANT])


@pytest.mark.parametrize(
    "change", [{"scenes": None}, {"seconds": None}, {"seconds": "1"}, {"first_seed": "100"}], ids=str
)
def test_headers_of_another_type_are_refused(change):
    header = replace(Header("weights", 100, 1, VARIANT, 1.0), **change)
    with pytest.raises(BadInput, match="damaged"):
        from_lines(to_lines(header, [OUTCOME]))


def test_what_an_earlier_version_stored_is_made_again(tmp_path):
    cache = OutcomeCache(tmp_path, "weights")
    cache.add(range(100, 101), VARIANT, [OUTCOME], 1.0)
    path = cache.path(100, VARIANT)
    path.write_text("".join(path.read_text().replace('"format": 2', '"format": 1').splitlines(keepends=True)[:-1]))
    assert cache.read(100, VARIANT) is None
    cache.add(range(100, 101), VARIANT, [OUTCOME], 2.0)
    assert cache.read(100, VARIANT)[0].seconds == 2.0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_disk_is_a_sentence_and_what_is_stored_stays(tmp_path, monkeypatch, number):
    cache = OutcomeCache(tmp_path, "weights")
    cache.add(range(100, 101), VARIANT, [OUTCOME], 1.0)

    def full(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(BadInput, match=f"cannot be stored in the cache: {os.strerror(number).lower()}"):
            cache.add(range(100, 102), VARIANT, [replace(OUTCOME, seed=101)], 1.0)
    assert cache.read(100, VARIANT)[1] == [OUTCOME]
    assert [path.name for path in cache.path(100, VARIANT).parent.iterdir()] == [VARIANT.file_name]


def test_variants_are_told_apart_by_what_they_do():
    assert Variant("apet", {"mode": "x"}, "another label", 16) == VARIANT
    others = [replace(VARIANT, budget=8), replace(VARIANT, params={}), replace(VARIANT, method="todre")]
    assert len({VARIANT, *others}) == len({made.file_name for made in (VARIANT, *others)}) == 4
    assert VARIANT.row == others[0].row != others[1].row
    with pytest.raises(ValueError, match="budget"):
        Variant("full", {}, "No pruning", 16)
    assert shared_questions({VARIANT: [OUTCOME, replace(OUTCOME, number=1)], others[0]: [OUTCOME]}) == [OUTCOME.id]


@pytest.mark.generator
def test_a_chunk_grows_and_is_never_recomputed(vlm, grid, recipes, tmp_path, monkeypatch):
    from benchmarks.fidelity import workers

    cache = OutcomeCache(tmp_path, "weights")
    some = [recipes["random"], recipes["fastv"]]
    one, two = range(SEEDS[0], SEEDS[0] + 1), range(SEEDS[0], SEEDS[0] + 2)
    asked = []

    def watched(vlm, grid, plan, scenes):
        asked.append((plan.variant.method, [scene.seed for scene in scenes]))
        return run_variant(vlm, grid, plan, scenes)

    monkeypatch.setattr(workers, "run_variant", watched)
    assert [step.variant.method for step in run_chunk(vlm, grid, some, one, cache)] == ["random", "fastv"]
    assert list(run_chunk(vlm, grid, some, one, cache)) == []
    next(run_chunk(vlm, grid, some, two, cache))  # left after its first variant: what is done stays done
    assert [step.variant.method for step in run_chunk(vlm, grid, some, two, cache)] == ["fastv"]
    assert asked == [(m, [SEEDS[0]]) for m in ("random", "fastv")] + [(m, [SEEDS[1]]) for m in ("random", "fastv")]
    at_once = OutcomeCache(tmp_path, "the same at once")
    list(run_chunk(vlm, grid, some, two, at_once))
    for made in some:
        header, outcomes = cache.read(two.start, made.variant)
        assert header.scenes == 2 and outcomes == at_once.read(two.start, made.variant)[1]


@pytest.mark.generator
def test_budgets_with_the_same_schedule_are_run_once(vlm, grid, tmp_path, monkeypatch):
    from benchmarks.fidelity import workers

    calls = []
    monkeypatch.setattr(workers, "run_variant", lambda *given: calls.append(given) or run_variant(*given))
    both = [recipe(vlm, grid, Variant("vtw", {}, "VTW", budget)) for budget in (40, 30)]
    assert both[0].schedule == both[1].schedule, "VTW withdraws at its layer whatever the budget"
    cache = OutcomeCache(tmp_path, "weights")
    chunk = range(SEEDS[0], SEEDS[0] + 1)
    assert len(list(run_chunk(vlm, grid, both, chunk, cache))) == 2 and len(calls) == 1
    first, second = (cache.read(chunk.start, made.variant)[1] for made in both)
    assert first == second and first


def test_what_two_runs_answer_at_the_same_time_is_stored_once(tmp_path):
    cache, chunk = OutcomeCache(tmp_path, "weights"), range(100, 102)
    made = [replace(OUTCOME, seed=seed) for seed in chunk]
    cache.add(chunk[:1], VARIANT, made[:1], 1.0)
    cache.add(chunk, VARIANT, made, 2.0)  # began before the first scene was there
    cache.add(chunk, VARIANT, made[1:], 4.0)  # began before the second was there
    header, outcomes = cache.read(100, VARIANT)
    assert outcomes == made and (header.scenes, header.seconds) == (2, 3.0)


def test_the_table_uses_the_scenes_that_all_variants_have(tmp_path):
    cache = OutcomeCache(tmp_path, "weights")
    other = replace(VARIANT, budget=8)
    seeds = range(100, 105), range(105, 110)

    def made(chunk):
        return [replace(OUTCOME, seed=seed) for seed in chunk]

    cache.add(seeds[0], VARIANT, made(seeds[0]), 2.0)
    cache.add(seeds[1], VARIANT, made(seeds[1]), 2.0)
    assert cache.complete(seeds, [VARIANT, other]).scenes == 0
    cache.add(seeds[0][:3], other, made(seeds[0][:3]), 1.0)
    found = cache.complete(seeds, [VARIANT, other])
    assert found.scenes == 3 and found.seconds == pytest.approx(2.0 * 3 / 5 + 1.0)
    assert all([outcome.seed for outcome in outcomes] == [100, 101, 102] for outcomes in found.outcomes.values())


@pytest.mark.generator
def test_other_weights_are_another_cache(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in embedded_folder().iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    same = fingerprint(folder)
    assert same == fingerprint(embedded_folder())
    (folder / "README.md").write_text("other words")
    assert fingerprint(folder) == same
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert fingerprint(folder) != same
    cache = OutcomeCache(tmp_path, same)
    cache.add(range(100, 101), VARIANT, [OUTCOME], 1.0)
    assert OutcomeCache(tmp_path, fingerprint(folder)).read(100, VARIANT) is None


def test_foreign_and_damaged_files_are_refused_by_name(tmp_path):
    cache = OutcomeCache(tmp_path, "weights")
    cache.add(range(100, 101), VARIANT, [OUTCOME], 1.0)
    path = cache.path(100, VARIANT)
    moved = cache.path(200, VARIANT)
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    with pytest.raises(BadInput, match=r"200.*belong elsewhere"):
        cache.read(200, VARIANT)
    path.write_text("half a li")
    with pytest.raises(BadInput, match="delete that file"):
        cache.read(100, VARIANT)


def test_unfinished_files_are_swept(tmp_path):
    cache = OutcomeCache(tmp_path, "weights")
    cache.add(range(100, 101), VARIANT, [OUTCOME], 1.0)
    left = cache.path(100, VARIANT).with_name(f".{VARIANT.file_name}.1.unfinished")
    left.write_text("half")
    cache.sweep()
    assert left.exists(), "another run may be writing it now"
    os.utime(left, (time.time() - 7200,) * 2)
    cache.sweep()
    assert [path.name for path in cache.path(100, VARIANT).parent.iterdir()] == [VARIANT.file_name]


def test_models_whose_positions_have_axes_are_refused():
    vlm = SimpleNamespace(family=SimpleNamespace(reindexes=False))
    with pytest.raises(Unsupported, match="several axes"):
        encode_image(vlm, None, None, ["what ?"], ())
