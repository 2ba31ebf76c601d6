"""PDrop, V2Drop and VTW: schedules for every budget, selections on paper, and whole runs against a plain model loop."""

import math

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import tokviz
from tokviz.engine import encode
from tokviz.errors import BadInput
from tokviz.models.prompts import model_inputs
from tokviz.pruners import get, pdrop, v2drop
from tokviz.pruners.schedules import bracket, carried_layers
from tokviz.types import Budget, PlanningInfo, Signals

LLAVA = PlanningInfo(576, 32)
LLAVA_13B = PlanningInfo(576, 40)
QWEN = PlanningInfo(1000, 28, family="qwen2_vl", has_cls=False, renumbers=False, published_as="qwen")
TINY = PlanningInfo(144, 8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plan(method, tokens, counted_as="published", info=LLAVA, **params):
    pruner = get(method)
    return pruner.schedule(Budget(tokens, counted_as), info, pruner.complete(params))


def stages(schedule):
    return [(stage.site, stage.keep) for stage in schedule.stages]


def average(schedule, info=LLAVA):
    return schedule.meanings(info.n_visual, info.n_layers).average_in


# ------------------------------------------------------------------------------------------------- depths


@pytest.mark.parametrize(
    ("published", "layers", "expected"),
    [
        ((8, 16, 24), 32, [8, 16, 24]), ((8, 16, 24), 40, [8, 16, 24]), ((8, 16, 24), 28, [8, 16, 24]),
        ((8, 16, 24), 8, [2, 4, 6]), ((2, 6, 15), 8, [1, 2, 3]),
        ((3, 7, 16), 8, [1, 2, 4]), ((3, 17, 22), 8, [1, 4, 5]),
        ((8, 16, 24), 3, [1, 2]), ((8, 16, 24), 2, [1]), ((8, 16, 24), 1, []), ((8, 16, 24), 64, [16, 32, 48]),
    ],
)  # fmt: skip
def test_layers_at_other_depths(published, layers, expected):
    assert carried_layers(published, layers) == expected


def test_bracket_finds_both_sides_of_a_step():
    low, high = bracket(lambda ratio: int(10 * ratio), 4)
    assert int(10 * low) == 4 and int(10 * high) == 5 and high - low < 1e-12
    assert bracket(lambda ratio: 3 + ratio, 2.0) == (0.0, 0.0)
    assert bracket(lambda ratio: ratio, 1.0) == (1.0, 1.0)


# ------------------------------------------------------------------------------------------------- PDrop


def test_pdrop_solves_the_ratios_of_methods_md():
    for tokens, published, ratio in [(192, (8, 16, 24), 0.2531), (192, (4, 8, 16), 0.5268), (128, (4, 8, 16), 0.3529),
                                     (64, (2, 6, 15), 0.2256)]:  # fmt: skip
        assert pdrop.solve_ratio(576, tokens, published, 32) == pytest.approx(ratio, abs=1e-4)
    for tokens in (128, 64):
        assert pdrop.solve_ratio(576, tokens, (8, 16, 24), 32) is None
    assert pdrop.solve_ratio(576, 64, (4, 8, 16), 32) is None


def test_pdrop_takes_the_first_list_of_layers_that_meets_the_budget():
    assert stages(plan("pdrop", 192)) == [(8, 145), (16, 36), (24, 9)]
    assert stages(plan("pdrop", 128)) == [(4, 203), (8, 71), (16, 25)]
    assert stages(plan("pdrop", 64)) == [(2, 129), (6, 29), (15, 6)]
    with pytest.raises(BadInput, match=r"cannot reach an average of 40.*at least 48"):
        plan("pdrop", 40)
    assert stages(plan("pdrop", 48))[2][1] == 1
    with pytest.raises(BadInput, match="an average of"):
        plan("pdrop", 64, layers="8-16-24")


@pytest.mark.parametrize("info", [LLAVA, LLAVA_13B, QWEN, TINY, PlanningInfo(2928, 32)])
def test_pdrop_meets_every_average_that_it_does_not_refuse(info):
    n = info.n_visual
    met = 0
    for tokens in range(1, n + 3, max(1, n // 97)):
        try:
            found = plan("pdrop", tokens, "average", info)
        except BadInput:
            continue
        met += 1
        counts = [keep for _, keep in stages(found)]
        assert counts == sorted(counts, reverse=True) and counts[-1] >= 1
        assert average(found, info) == pytest.approx(min(tokens, n), abs=0.5)
    assert met > 60


def test_pdrop_published_never_spends_more_than_the_budget():
    for tokens in range(48, 576):
        found = average(plan("pdrop", tokens))
        assert tokens - 1 < found <= tokens + 1e-9


def test_pdrop_final_is_geometric():
    assert stages(plan("pdrop", 72, "final")) == [(8, 288), (16, 144), (24, 72)]
    for tokens in (1, 5, 100, 575, 576, 700):
        assert plan("pdrop", tokens, "final").final_count(576) == min(tokens, 576)


def test_pdrop_ratios_of_the_paper_and_ones_own():
    for info in (LLAVA, LLAVA_13B):
        assert stages(plan("pdrop", 64, info=info, ratios="published")) == [(8, 288), (16, 144), (24, 72)]
    assert average(plan("pdrop", 64, ratios="published")) == 270.0
    assert average(plan("pdrop", 64, info=PlanningInfo(2880, 32), ratios="published"), PlanningInfo(2880, 32)) == 1350.0
    own = {"ratios": "own", "ratio_1": 0.3, "ratio_2": 0.6, "ratio_3": 0.0}
    # int(N ratio) of the original N, but never more than the stage before left.
    assert stages(plan("pdrop", 64, **own)) == [(8, 172), (16, 172), (24, 0)]
    assert stages(plan("pdrop", 64, layers="4-8-16", **own)) == [(4, 172), (8, 172), (16, 0)]


def test_a_whole_product_of_n_and_a_ratio_loses_no_token():
    """200 * 0.145 is 29, and 28.999999999999996 in floating point."""
    assert pdrop.counts_of(200, (0.29, 0.145)) == [58, 29]


def test_pdrop_keeps_the_highest_attention_of_the_last_row():
    rows = torch.tensor([[0.9, 0.0, 0.0, 0.0, 0.0], [0.1, 0.3, 0.05, 0.3, 0.2]])
    found = pdrop.select(Signals(torch.zeros(5, 2), attention_rows=rows), 2, {}, torch.Generator())
    assert found.kept.tolist() == [1, 3]
    assert found.diagnostics.readings[0].value == pytest.approx(0.95)
    # Ties at the threshold go to the lowest index.
    tied = pdrop.select(Signals(torch.zeros(4, 2), attention_rows=torch.full((1, 4), 0.25)), 2, {}, torch.Generator())
    assert tied.kept.tolist() == [0, 1] and tied.diagnostics.facts["ties_at_threshold"] == 4


# ------------------------------------------------------------------------------------------------- V2Drop


def test_v2drop_published_settings():
    assert stages(plan("v2drop", 192)) == [(3, 288), (17, 86), (22, 0)]
    assert stages(plan("v2drop", 128)) == [(3, 161), (17, 40), (22, 0)]
    assert stages(plan("v2drop", 64)) == [(3, 28), (17, 1), (22, 0)]
    # (3 * 576 + 14 * 288 + 5 * 86) / 32; methods.md's 193.8 counts the one survivor of the code for ten more layers.
    assert average(plan("v2drop", 192)) == 193.4375
    assert 193.4375 + 10 / 32 == 193.75
    assert stages(plan("v2drop", 7, mode="official")) == [(3, 288), (17, 144), (22, 1)]
    assert stages(plan("v2drop", 7, info=QWEN, mode="official")) == [(3, 250), (16, 12), (22, 1)]
    # The same share of another image has the same ratios.
    assert stages(plan("v2drop", 640, info=PlanningInfo(2880, 32))) == [(3, 806), (17, 201), (22, 0)]
    assert all(stage.positions == "keep" for stage in plan("v2drop", 192).stages)


@pytest.mark.parametrize("mode", ["paper", "official"])
@pytest.mark.parametrize("info", [LLAVA, LLAVA_13B, QWEN, TINY])
def test_v2drop_meets_every_average_that_it_does_not_refuse(info, mode):
    met = 0
    for tokens in range(1, info.n_visual + 3, 5):
        try:
            found = plan("v2drop", tokens, "average", info, mode=mode)
        except BadInput as refusal:
            assert "an average of" in str(refusal)
            continue
        met += 1
        assert average(found, info) == pytest.approx(min(tokens, info.n_visual), abs=0.5)
    assert met > 10


def test_v2drop_refuses_what_its_last_stage_makes_impossible():
    # Nothing before layer 3: (3 * 576 + 14 + 5) / 32 = 54.6. Everything until layer 22: 22 * 576 / 32 = 396.
    for tokens in (54, 397):
        with pytest.raises(BadInput, match="allow 55 to 396 of 576"):
            plan("v2drop", tokens, "average")
    assert average(plan("v2drop", 55, "average")) == pytest.approx(55, abs=0.5)
    assert stages(plan("v2drop", 396, "average")) == [(3, 576), (17, 576), (22, 0)]


def test_v2drop_final_is_geometric():
    assert stages(plan("v2drop", 72, "final")) == [(3, 288), (17, 144), (22, 72)]
    assert plan("v2drop", 5, "final", TINY).final_count(144) == 5


def test_v2drop_keeps_what_changed_most():
    before = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 0.0], [0.0, 0.0]])
    now = torch.tensor([[3.0, 4.0], [1.0, 1.0], [5.0, 4.0], [0.0, -4.5]])
    found = v2drop.select(Signals(now, previous_features=before), 2, {}, torch.Generator())
    assert found.diagnostics.score.values.tolist() == [5.0, 0.0, 4.0, 4.5]
    assert found.kept.tolist() == [0, 3]


# ------------------------------------------------------------------------------------------------- VTW


def test_v2drop_subtracts_in_float32():
    """In bfloat16 both changes would be 258, and the lower index would stay."""
    before = torch.tensor([[-256.0], [-256.0], [0.0]], dtype=torch.bfloat16)
    after = torch.tensor([[1.0078125], [1.8984375], [0.0]], dtype=torch.bfloat16)
    signals = Signals(features=after, previous_features=before)
    assert v2drop.select(signals, 1, {}, torch.Generator()).kept.tolist() == [1]


def test_vtw_layer():
    for layers, layer in ((32, 15), (40, 20), (28, 13), (8, 3), (2, 1)):
        assert stages(plan("vtw", 64, info=PlanningInfo(576, layers))) == [(layer, 0)]
    assert average(plan("vtw", 64)) == 270.0  # 15 * 576 / 32
    assert stages(plan("vtw", 64, layer=9)) == [(9, 0)]
    assert plan("vtw", 64, layer=32).stages == ()  # as officially: behind the last layer there is nothing to withdraw
    assert plan("vtw", 64, info=PlanningInfo(576, 1)).stages == ()
    assert plan("vtw", 64, positions="reindex").stages[0].positions == "reindex"


def test_vtw_average_is_the_nearest_layer():
    for tokens in range(1, 577):
        schedule = plan("vtw", tokens, "average")
        assert abs(average(schedule) - tokens) <= (9.0 if tokens > 9 else 18.0)  # half of 576 / 32, at least one layer
    assert plan("vtw", 576, "average").stages == ()


def test_vtw_has_no_final_count():
    with pytest.raises(BadInput, match="leaves no visual token"):
        plan("vtw", 64, "final")
    assert stages(plan("vtw", 64, "final", layer=5)) == [(5, 0)]
    assert plan("vtw", 576, "final").stages == ()


# ------------------------------------------------------------------------------------------------- whole runs


def attention_row(layer, hidden, rotary, columns):
    """Row of the last token in this layer, from its input: all heads, softmax over all columns, mean."""
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    query, key = (
        projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    weights = (query[0, :, -1:] @ key[0].transpose(1, 2) / math.sqrt(attention.head_dim)).softmax(-1)
    return weights.mean(0)[0, columns]


@torch.inference_mode()
def plain_run(vlm, prompt, planned, method, reindex):
    """Original indices that are left after each stage, by a loop over the layers without any hook or cache."""
    language_model = vlm.model.model.language_model
    hidden, visual = prompt.inputs_embeds, prompt.visual_mask[0]
    positions, alive = torch.arange(hidden.shape[1]), torch.arange(int(visual.sum()))
    previous, left, due = None, [], dict(planned)
    for number, layer in enumerate(language_model.layers):
        rotary = language_model.rotary_emb(hidden, positions[None])
        if number in due:
            columns = visual.nonzero().flatten()
            if method == "pdrop":
                score = attention_row(layer, hidden, rotary, columns)
            else:
                score = (hidden[0, columns] - previous[0, columns]).norm(dim=1)
            best = sorted(range(len(columns)), key=lambda i: -float(score[i]))[: due[number]]
            stay = ~visual
            stay[columns[sorted(best)]] = True
            alive = alive[sorted(best)]
            left.append(alive.tolist())
            hidden, visual = hidden[:, stay], visual[stay]
            positions = torch.arange(hidden.shape[1]) if reindex else positions[stay]
            rotary = language_model.rotary_emb(hidden, positions[None])
        length = hidden.shape[1]
        mask = torch.zeros(length, length).masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -math.inf)
        previous = hidden
        hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    logits = vlm.model.lm_head(language_model.norm(hidden))[0, -1]
    return left, logits.log_softmax(-1)


@pytest.mark.parametrize(("method", "reindex"), [("pdrop", True), ("v2drop", False)])
@pytest.mark.parametrize(("share", "counted_as"), [(3, "published"), (4, "final")])
def test_a_run_keeps_what_a_plain_loop_keeps(vlm, scene, scene_image, n_tokens, method, reindex, share, counted_as):
    question, tokens = scene.questions[0].text, n_tokens // share
    comparison = tokviz.compare(vlm, scene_image, question, [method], tokens, budget_as=counted_as, max_new_tokens=1)
    run = comparison[method]
    planned = stages(plan(method, tokens, counted_as, PlanningInfo(n_tokens, vlm.record.n_layers)))
    assert [(stage.site, len(stage.kept)) for stage in run.stages] == planned
    inputs, _ = model_inputs(vlm, scene_image, question)
    prompt = encode(vlm.model, vlm.family, inputs, ())
    left, expected = plain_run(vlm, prompt, planned, method, reindex)
    assert [stage.kept for stage in run.stages] == left
    first = run.answer_tokens[0]
    assert first.id == int(expected.argmax())
    assert first.logprob == pytest.approx(float(expected.max()), abs=1e-4)
