"""Polymorphic: the completed schedule, examples on paper, and slow references of both stages."""

import math

import numpy as np
import pytest
import torch
from text_guided_references import alignment, consolidate, keep_and_recycle, raters

from tokviz.errors import BadInput, Unsupported
from tokviz.pruners.clustering import split_keep
from tokviz.pruners.polymorphic import (
    PRUNER,
    merged_count,
    plan_counts,
    schedule,
    select_consolidated,
    select_rated,
)
from tokviz.pruners.schedules import carried_layers, geometric_ratio, layer_spans
from tokviz.types import RECEIVED_ATTENTION, Budget, PlanningInfo, Signals

LLAVA_7B, LLAVA_13B, TINY = PlanningInfo(576, 32), PlanningInfo(576, 40), PlanningInfo(144, 8)
QWEN = PlanningInfo(
    1000, 28, family="qwen2_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen"
)


def plan(tokens, counted_as="published", info=LLAVA_7B, **params):
    return PRUNER.schedule(Budget(tokens, counted_as), info, PRUNER.complete(params))


def sites(schedule):
    return [(stage.site, stage.keep) for stage in schedule.stages]


# ------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("info", "layers", "ratio", "stairs"),
    [
        # methods.md 2.5
        (LLAVA_7B, (3, 7, 16), 0.7075,
         {192: (384, 272, 192, 136), 128: (256, 181, 128, 91), 64: (128, 91, 64, 45)}),
        (LLAVA_13B, (3, 7, 16), 0.7291,
         {192: (384, 280, 204, 149), 128: (256, 187, 136, 99), 64: (128, 93, 68, 50)}),
        (QWEN, (3, 7, 13), 0.7033,
         {192: (384, 270, 190, 134), 128: (256, 180, 127, 89), 64: (128, 90, 63, 45)}),
    ],
)  # fmt: skip
def test_staircases(info, layers, ratio, stairs):
    spans = layer_spans(list(layers), info.n_layers)
    assert geometric_ratio(2.0, 1.0, spans) == pytest.approx(ratio, abs=5e-5)
    for tokens, counts in stairs.items():
        for counted_as in ("published", "average"):
            found = plan_counts(Budget(tokens, counted_as), info, PRUNER.complete({}))
            assert found == (counts[0], list(layers), list(counts[1:]))
        planned = schedule(Budget(tokens), info, PRUNER.complete({}))
        assert planned.meanings(info.n_visual, info.n_layers).average_in == pytest.approx(tokens, abs=0.5)


def test_sites_and_positions_follow_the_family():
    assert sites(plan(64)) == [("encoder", 128), (3, 91), (7, 64), (16, 45)]
    assert {stage.positions for stage in plan(64).stages} == {"reindex"}
    qwen = schedule(Budget(64), QWEN, PRUNER.complete({}))
    assert sites(qwen) == [("projector", 128), (3, 90), (7, 63), (13, 45)]
    assert {stage.positions for stage in qwen.stages} == {"keep"}
    assert qwen.stages[0].needs == (RECEIVED_ATTENTION,)
    assert sites(plan(16, info=TINY)) == [("encoder", 32), (1, 22), (2, 15), (4, 11)]


def test_a_model_without_cls_can_run_it():
    assert PRUNER.missing(QWEN) is None
    assert plan(64, info=QWEN).stages[0].needs == (RECEIVED_ATTENTION,)


@pytest.mark.parametrize(("keep", "clusters"), [(128, 20), (256, 40), (384, 60), (1, 0), (3, 0), (4, 1), (32, 5)])
def test_retained_to_merged_is_five_point_four_to_one(keep, clusters):
    assert merged_count(keep) == clusters == math.floor(keep / 6.4 + 0.5)


def test_every_average_is_met():
    for info in (LLAVA_7B, LLAVA_13B, TINY, PlanningInfo(99, 5), PlanningInfo(300, 3), PlanningInfo(64, 1)):
        for factor in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0):
            for tokens in range(2, info.n_visual, 13):
                try:
                    planned = plan(tokens, "average", info, factor=factor)
                except BadInput:
                    # One of three layers sees K B, or there is but a handful of tokens: too coarse for the average.
                    assert info.n_layers == 3 or tokens == 2
                    continue
                found = planned.meanings(info.n_visual, info.n_layers)
                assert found.average_in == pytest.approx(tokens, abs=0.5)
                keeps = [stage.keep for stage in planned.stages]
                assert keeps == sorted(keeps, reverse=True)
                assert keeps[0] == min(info.n_visual, math.floor((factor if info.n_layers > 1 else 1) * tokens + 0.5))


def test_final_counts_end_at_the_budget():
    # The staircase of K = 2 falls to 0.3541 of its start: 64 / 0.3541 = 181.
    assert sites(plan(64, "final")) == [("encoder", 181), (3, 128), (7, 91), (16, 64)]
    for info in (LLAVA_7B, TINY, PlanningInfo(99, 5), PlanningInfo(64, 1)):
        for tokens in (1, 5, 40, info.n_visual - 1, info.n_visual, info.n_visual + 9):
            for params in ({}, {"factor": 1.0}, {"factor": 4.0}, {"stage_1": False}):
                if info.n_layers == 1 and params == {"stage_1": False}:
                    continue  # no place to prune at
                planned = plan(tokens, "final", info, **params)
                assert planned.final_count(info.n_visual) == min(tokens, info.n_visual)
                keeps = [stage.keep for stage in planned.stages]
                assert keeps == sorted(keeps, reverse=True)


def test_factor_one_leaves_nothing_for_stage_2():
    for counted_as in ("published", "final", "average"):
        assert sites(plan(64, counted_as, factor=1.0)) == [("encoder", 64)]


def test_without_stage_1_text_alone_decides():
    planned = plan(128, stage_1=False)
    assert [stage.site for stage in planned.stages] == [3, 7, 16]
    assert planned.meanings(576, 32).average_in == pytest.approx(128, abs=0.5)
    # 3 of 32 layers process all 576, one token behind them is 54.9; rounding the stairs makes 58 the first that works.
    with pytest.raises(BadInput, match=r"576 enter the LLM, and its first 3 of 32 layers.*at least 58"):
        plan(48, stage_1=False)


# ------------------------------------------------------------------------------------------------- stage 1


def test_stage_1_on_paper():
    # keep = 4: round(4 / 6.4) = 1 cluster, 3 dominant tokens (attention 9, 8, 7); 0, 2 and 4 become one mean.
    features = torch.tensor([[0.0], [5.0], [1.0], [6.0], [5.0], [7.0]])
    attention = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7])
    found = select_consolidated(Signals(features, cls_attention=attention), 4, PRUNER.complete({}), torch.Generator())
    # Distances: 0-2: 1, 0-4: 5, 2-4: 4. Mean squares to both others: 13, 8.5, 20.5: 2 is densest and the centre.
    assert found.kept.tolist() == [1, 2, 3, 5]
    assert found.features.flatten().tolist() == [5.0, 2.0, 6.0, 7.0]
    assert found.assignment.tolist() == [2, 1, 2, 3, 2, 5]
    assert found.sequence is None
    assert found.diagnostics.facts["dominant"] == 3
    assert found.diagnostics.facts["clusters"] == 1
    appended = select_consolidated(
        Signals(features, cls_attention=attention), 4, PRUNER.complete({"order": "append"}), torch.Generator()
    )
    assert appended.kept[appended.sequence].tolist() == [1, 3, 5, 2]


@pytest.mark.parametrize("neighbours", [0, 1, 5])
def test_stage_1_as_the_reference(neighbours):
    params = PRUNER.complete({"neighbours": neighbours, "order": "append"})
    for seed in range(120):
        g = torch.Generator().manual_seed(seed)
        n = 2 + seed % 40
        x, attention = torch.randn(n, 3, generator=g), torch.rand(n, generator=g)
        if seed % 3 == 0:
            x = x[torch.randint(max(1, n // 2), (n,), generator=g)]
        if seed % 4 == 0:
            attention = (attention * 3).floor()
        keep = int(torch.randint(1, n, (1,), generator=g))
        found = select_consolidated(Signals(x, cls_attention=attention), keep, params, torch.Generator())
        kept, features, assignment, sequence = consolidate(x.double().numpy(), attention.tolist(), keep, neighbours)
        assert found.kept.tolist() == kept
        if found.features is None:
            assert merged_count(keep) == 0
            continue
        assert found.assignment.tolist() == assignment
        assert -1 not in assignment
        assert found.kept[found.sequence].tolist() == sequence
        np.testing.assert_allclose(found.features.numpy(), np.array(features), atol=1e-5)


def test_stage_1_without_a_cls_token():
    x, attention = torch.randn(20, 3), torch.rand(20)
    params = PRUNER.complete({})
    received = select_consolidated(Signals(x, received_attention=attention), 9, params, torch.Generator())
    cls = select_consolidated(Signals(x, cls_attention=attention), 9, params, torch.Generator())
    assert torch.equal(received.kept, cls.kept)
    assert received.diagnostics.score.label == "Attention received from all visual tokens"
    with pytest.raises(Unsupported, match=r"shows neither\. Switch its stage 1 off"):
        select_consolidated(Signals(x), 9, params, torch.Generator())


def test_crops_are_consolidated_one_by_one():
    g = torch.Generator().manual_seed(0)
    view = torch.tensor([0] * 30 + [1] * 30 + [2] * 4)
    x, attention = torch.randn(64, 3, generator=g), torch.rand(64, generator=g)
    params = PRUNER.complete({})
    found = select_consolidated(Signals(x, cls_attention=attention, view=view), 30, params, torch.Generator())
    # 30 of three views: the small one can only take 4 of its 10, the others get 13 each.
    assert [int((view[found.kept] == number).sum()) for number in range(3)] == [13, 13, 4]
    for number, share in ((0, 13), (1, 13)):
        rows = (view == number).nonzero().flatten()
        alone = select_consolidated(Signals(x[rows], cls_attention=attention[rows]), share, params, torch.Generator())
        here = found.kept[view[found.kept] == number]
        assert here.tolist() == rows[alone.kept].tolist()
        assert torch.equal(found.features[view[found.kept] == number], alone.features)
    carried = found.assignment[found.assignment >= 0]
    assert torch.equal(view[carried], view[found.assignment >= 0])


# ------------------------------------------------------------------------------------------------- stage 2


def random_signals(seed):
    g = torch.Generator().manual_seed(seed)
    n, m = 2 + seed % 29, 1 + seed % 5
    signals = Signals(
        torch.randn(n, 4, generator=g),
        input_features=torch.randn(n + seed % 4, 4, generator=g),
        input_text=torch.randn(m, 4, generator=g),
        text_features=torch.randn(m, 4, generator=g),
        attention_rows=torch.rand(m, n, generator=g),
    )
    return signals, int(torch.randint(1, n, (1,), generator=g))


@pytest.mark.parametrize("signal", ["embed", "attn"])
@pytest.mark.parametrize(("neighbours", "rated_on"), [(0, "input"), (5, "input"), (5, "layer")])
def test_stage_2_as_the_reference(signal, neighbours, rated_on):
    params = PRUNER.complete({"signal": signal, "neighbours": neighbours, "raters": rated_on, "order": "append"})
    for seed in range(100):
        signals, keep = random_signals(seed)
        found = select_rated(signals, keep, params, torch.Generator())
        matrix = (signals.features, signals.text_features)
        visual, text = matrix if rated_on == "layer" else (signals.input_features, signals.input_text)
        mean, chosen = raters(visual.double().numpy(), text.double().numpy(), 0.5)
        assert found.diagnostics.text.values.tolist() == pytest.approx(mean, abs=1e-5)
        assert found.diagnostics.text.chosen.nonzero().flatten().tolist() == chosen
        alpha = next(
            (m.values for m in found.diagnostics.maps if m.name == "alignment"), found.diagnostics.score.values
        )
        if signal == "embed":
            shares = alignment(signals.features.double().numpy(), signals.text_features.double().numpy(), 0.5)
            scores = [float(np.mean([row[j] for j in chosen])) for row in shares]
        else:
            rows = signals.attention_rows.double().numpy()
            scores = [float(np.mean([rows[j][i] for j in chosen])) for i in range(len(signals.features))]
        assert alpha.tolist() == pytest.approx(scores, rel=1e-4)
        if signal == "embed" and len(chosen) < len(signals.text_features):
            odds = [math.log(len(chosen) * a / (1 - len(chosen) * a)) for a in scores]
            assert found.diagnostics.score.values.tolist() == pytest.approx(odds, abs=1e-3)
        kept, features, assignment, sequence = keep_and_recycle(
            signals.features.double().numpy(), found.diagnostics.score.values.double().numpy(), keep, neighbours
        )
        assert found.kept.tolist() == kept
        assert found.assignment.tolist() == assignment
        if found.features is not None:
            np.testing.assert_allclose(found.features.numpy(), np.array(features), atol=1e-5)
            assert found.kept[found.sequence].tolist() == sequence


def test_stage_2_on_paper():
    # One visual dimension, two words at 0 and ln 4: a token at v gives the second word 4^v / (1 + 4^v).
    features = torch.tensor([[0.0], [1.0], [0.5], [-1.0], [2.0]])
    text = torch.tensor([[0.0], [math.log(4.0)]])
    signals = Signals(features, input_features=features, input_text=text, text_features=text)
    found = select_rated(signals, 3, PRUNER.complete({}), torch.Generator())
    alpha = [0.5, 0.8, 2 / 3, 0.2, 16 / 17]
    assert found.diagnostics.maps[0].values.tolist() == pytest.approx(alpha)
    # Odds of 4^v to 1.
    assert found.diagnostics.score.values.tolist() == pytest.approx(
        [v * math.log(4.0) for v in (0.0, 1.0, 0.5, -1.0, 2.0)]
    )
    # Shares of the words: 1 - mean and mean = 0.6216 of these; the second is above 1/2.
    assert found.diagnostics.text.values.tolist() == pytest.approx([1 - sum(alpha) / 5, sum(alpha) / 5], abs=1e-5)
    assert found.diagnostics.text.chosen.tolist() == [False, True]
    # 3 of 5 is 2 selected (4, 1) and 1 cluster of the floor(0.3 * 3) + 1 = 1 best of the rest: token 2, unchanged.
    assert split_keep(5, 3) == (2, 1)
    assert found.kept.tolist() == [1, 2, 4]
    assert found.features.flatten().tolist() == [1.0, 0.5, 2.0]
    assert found.assignment.tolist() == [-1, 1, 2, -1, 4]
    (reading,) = found.diagnostics.readings
    assert reading.value == 0.0


def test_one_hot_softmaxes_are_counted():
    features, text = torch.tensor([[100.0], [50.0], [0.0], [0.1]]), torch.tensor([[0.0], [1.0]])
    signals = Signals(features, input_features=features, input_text=text, text_features=text)
    assert select_rated(signals, 2, PRUNER.complete({}), torch.Generator()).diagnostics.readings[0].value == 0.5


def test_saturated_softmaxes_are_still_ranked():
    # All give their whole softmax to the second word in float32; the dot products still differ.
    features, text = torch.tensor([[100.0], [300.0], [200.0], [400.0]]), torch.tensor([[0.0], [1.0]])
    signals = Signals(features, input_features=features, input_text=text, text_features=text)
    found = select_rated(signals, 2, PRUNER.complete({"order": "append"}), torch.Generator())
    assert found.diagnostics.maps[0].values.tolist() == [1.0] * 4
    assert found.diagnostics.score.values.tolist() == [100.0, 300.0, 200.0, 400.0]
    assert found.diagnostics.facts["ties_at_threshold"] == 1
    assert 3 in found.kept.tolist()


def test_a_single_word_gives_every_token_the_same_score():
    features = torch.randn(8, 3)
    signals = Signals(features, input_features=features, input_text=features[:1], text_features=features[:1])
    found = select_rated(signals, 3, PRUNER.complete({}), torch.Generator())
    assert found.diagnostics.text.chosen.tolist() == [True]
    assert found.diagnostics.maps[0].values.tolist() == [1.0] * 8
    assert found.diagnostics.score.values.tolist() == [0.0] * 8
    assert found.diagnostics.facts["ties_at_threshold"] == 8
    selected = found.diagnostics.facts["selected"]
    assert found.kept[:selected].tolist() == list(range(selected))  # ties: the lowest index


def test_without_text_tokens_are_kept_evenly():
    features = torch.randn(8, 3)
    signals = Signals(features, input_features=features, input_text=features[:0], text_features=features[:0])
    found = select_rated(signals, 2, PRUNER.complete({}), torch.Generator())
    assert found.kept.tolist() == [2, 6]
    assert found.diagnostics.warnings


def test_layers_at_other_depths():
    assert [carried_layers((3, 7, 16), layers) for layers in (8, 16, 24, 4)] == [
        [1, 2, 4],
        [1, 3, 8],
        [2, 5, 12],
        [1, 2, 3],
    ]
