"""SparseVLM and SparseVLM+: published schedules, an example on paper, and slow references."""

import math

import numpy as np
import pytest
import torch
from text_guided_references import keep_and_recycle, raters

from tokviz.errors import BadInput
from tokviz.pruners.sparsevlm import PRUNER, priority_heads, select, select_plus, shares_for
from tokviz.types import Budget, PlanningInfo, Signals

LLAVA_7B = PlanningInfo(576, 32)
TINY = PlanningInfo(144, 8)
V1 = PRUNER.complete({})
PLUS = PRUNER.complete({"version": "plus"})


def plan(tokens, counted_as="published", info=LLAVA_7B, version="v1"):
    return PRUNER.schedule(Budget(tokens, counted_as), info, PRUNER.complete({"version": version}))


def sites(schedule):
    return [(stage.site, stage.keep) for stage in schedule.stages]


# ------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("version", "tokens", "counts", "meanings"),
    [
        # methods.md 6.5: counts with clusters, F, A_in, A_log.
        ("v1", 192, (309, 204, 113), (113, 206.5, 192.0)),
        ("v1", 128, (312, 117, 39), (39, 145.4, 128.6)),
        ("v1", 96, (249, 55, 27), (27, 114.1, 96.9)),
        ("v1", 64, (82, 32, 18), (18, 82.3, 64.8)),
        ("plus", 192, (300, 200, 118), (118, 206.8, 192.4)),
        ("plus", 128, (238, 108, 60), (60, 144.1, 128.0)),
        ("plus", 96, (246, 54, 28), (28, 113.9, 96.8)),
        ("plus", 64, (66, 34, 20), (20, 81.8, 64.4)),
    ],
)
def test_published_lists(version, tokens, counts, meanings):
    schedule = plan(tokens, version=version)
    assert sites(schedule) == list(zip((3, 7, 16), counts, strict=True))
    found = schedule.meanings(576, 32)
    assert (found.final, found.average_in, found.average_logged) == pytest.approx(meanings, abs=0.051)
    assert {stage.positions for stage in schedule.stages} == {"reindex" if version == "v1" else "keep"}
    # The list belongs to its label whatever the depth; another N gets the same shares.
    assert [keep for _, keep in sites(plan(tokens, info=PlanningInfo(576, 40), version=version))] == list(counts)
    assert [site for site, _ in sites(plan(tokens, info=PlanningInfo(576, 40), version=version))] == [3, 7, 16]
    assert sites(plan(5 * tokens, info=PlanningInfo(2880, 32), version=version)) == [
        (site, 5 * count) for site, count in zip((3, 7, 16), counts, strict=True)
    ]


def test_other_depths_are_in_proportion():
    # 16 of 144 is 64 of 576: a quarter of 82, 32, 18, halves up.
    assert sites(plan(16, info=TINY)) == [(1, 21), (2, 8), (4, 5)]
    assert [stage.site for stage in plan(16, info=PlanningInfo(144, 4)).stages] == [1, 2, 3]
    assert sites(plan(16, info=PlanningInfo(144, 3))) == [(1, 8), (2, 5)]
    assert plan(16, info=PlanningInfo(144, 1)).stages == ()


def test_between_published_budgets_counts_are_interpolated():
    # 160 is half way between 128 and 192: (312 + 309) / 2 = 310.5, (117 + 204) / 2 = 160.5, (39 + 113) / 2 = 76.
    assert sites(plan(160)) == [(3, 311), (7, 161), (16, 76)]
    assert shares_for("v1", 0.0) == [0.0] * 3
    assert shares_for("v1", 1.0) == [1.0] * 3


@pytest.mark.parametrize("version", ["v1", "plus"])
def test_below_the_smallest_published_budget_the_logged_average_is_met(version):
    for tokens in range(38, 64):
        assert plan(tokens, version=version).meanings(576, 32).average_logged == pytest.approx(tokens, abs=0.5)
    # Two layers are billed with all 576, the other 30 with at least one token: (1152 + 30) / 32 = 36.9.
    with pytest.raises(BadInput, match=r"process all 576 on the paper's 32\. Ask for at least 37"):
        plan(36, version=version)


@pytest.mark.parametrize("version", ["v1", "plus"])
@pytest.mark.parametrize("info", [LLAVA_7B, TINY, PlanningInfo(576, 40), PlanningInfo(1000, 28), PlanningInfo(99, 5)])
def test_average_and_final_are_met(version, info):
    n, layers = info.n_visual, info.n_layers
    first = plan(n - 1, "average", info, version).stages[0].site
    least = math.ceil((n * first + layers - first) / layers)
    for tokens in range(least, n, 7):
        counts = plan(tokens, "average", info, version)
        assert counts.meanings(n, layers).average_in == pytest.approx(tokens, abs=0.5)
        assert sorted((stage.keep for stage in counts.stages), reverse=True) == [s.keep for s in counts.stages]
    with pytest.raises(BadInput, match=f"Ask for at least {least}"):
        plan(least - 1, "average", info, version)
    for tokens in (1, 2, 30, n // 2, n - 1):
        schedule = plan(tokens, "final", info, version)
        assert schedule.final_count(n) == tokens
        assert sorted((stage.keep for stage in schedule.stages), reverse=True) == [s.keep for s in schedule.stages]
    assert [s.keep for s in plan(n + 3, "average", info, version).stages] == [n, n, n]


# ------------------------------------------------------------------------------------------------- selection


def example():
    """Six visual tokens that all lean 1:3 over two words, so that the second one is the rater."""
    visual = torch.tensor([[1.0, 0.0]]).expand(6, 2)
    text = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    features = torch.tensor([[4.0, 0.0], [1.0, 1.0], [9.0, 9.0], [0.0, 2.0], [8.0, 8.0], [5.0, 5.0]])
    rows = torch.tensor([[0.9, 0.0, 0.0, 0.0, 0.0, 0.0], [0.10, 0.30, 0.05, 0.20, 0.02, 0.25]])
    return Signals(features, input_features=visual, input_text=text, attention_rows=rows)


def test_example_on_paper():
    found = select(example(), 3, V1, torch.Generator())
    # 3 = 2 selected and 1 cluster. Pruned: 3 (0.20), 0 (0.10), 2, 4; recycled floor(0.3 * 4) + 1 = 2, into 1 cluster.
    # Its density is equal (one neighbour, itself), so the first of tokens 0 and 3 is the centre; mean of both.
    assert found.diagnostics.text.values.tolist() == pytest.approx([0.25, 0.75])
    assert found.diagnostics.text.chosen.tolist() == [False, True]
    assert found.diagnostics.text.line == 0.5
    assert found.kept.tolist() == [0, 1, 5]
    assert found.features.tolist() == [[2.0, 1.0], [1.0, 1.0], [5.0, 5.0]]
    assert found.assignment.tolist() == [0, 1, -1, 0, -1, 5]
    assert found.kept[found.sequence].tolist() == [1, 5, 0]  # the cluster behind the selected ones
    assert found.diagnostics.score.values.tolist() == pytest.approx([0.10, 0.30, 0.05, 0.20, 0.02, 0.25])
    assert found.diagnostics.facts["selected"] == 2
    assert found.diagnostics.facts["recycled"] == 2
    assert found.diagnostics.facts["clusters"] == 1
    assert found.diagnostics.facts["raters"] == 1


def test_gravity_and_heads_on_paper():
    # Head 0 looks at tokens 0-1, head 1 at 2-3 and more in sum, but distance alone explains what head 1 does.
    heads = torch.tensor([[[0.2, 0.3, 0.0, 0.1]], [[0.0, 0.0, 0.5, 0.4]]])
    near = torch.tensor([[1.0, 2.0, 10.0, 20.0]])
    visual, text = torch.ones(4, 2), torch.ones(1, 2)
    signals = Signals(visual, input_features=visual, input_text=text, head_rows=heads, rotary_similarity=near)
    found = select_plus(signals, 2, PLUS, torch.Generator())
    # 1 of 2 heads. Corrected: 0.2, 0.15, 0, 0.005 (sum 0.355) and 0, 0, 0.05, 0.02 (sum 0.07).
    assert found.diagnostics.facts["heads"] == [0]
    assert found.diagnostics.score.values.tolist() == pytest.approx([0.2, 0.15, 0.0, 0.005])
    assert found.kept.tolist() == [0, 1]
    assert found.features is None
    assert found.sequence is None


def test_tokens_beyond_the_reach_of_the_correction_are_counted():
    heads, visual, text = torch.full((2, 1, 4), 0.2), torch.ones(4, 2), torch.ones(1, 2)
    for similarity, far in (([1.0, 2.0, 3.0, 4.0], None), ([1.0, -0.5, 0.0, 4.0], "2 of 4 visual tokens")):
        signals = Signals(
            visual, input_features=visual, input_text=text, head_rows=heads,
            rotary_similarity=torch.tensor([similarity]),
        )  # fmt: skip
        told = [
            words
            for words in select_plus(signals, 2, PLUS, torch.Generator()).diagnostics.warnings
            if "rotary" in words
        ]
        assert [words.startswith(far) for words in told] == ([] if far is None else [True])


@pytest.mark.parametrize(("heads", "count"), [(32, 14), (28, 14), (40, 14), (16, 7), (8, 4), (4, 2), (2, 1), (1, 1)])
def test_priority_heads(heads, count):
    assert priority_heads(heads) == count


def random_signals(seed):
    g = torch.Generator().manual_seed(seed)
    n, m, heads = 2 + seed % 29, 1 + seed % 5, 1 + seed % 9
    features = torch.randn(n, 4, generator=g)
    rows = torch.rand(heads, m, n, generator=g)
    if seed % 3 == 0:  # duplicates
        copies = torch.randint(max(1, n // 2), (n,), generator=g)
        features, rows = features[copies], rows[..., copies]
    return Signals(
        features,
        input_features=torch.randn(n + seed % 4, 4, generator=g),
        input_text=torch.randn(m, 4, generator=g),
        attention_rows=rows.mean(0),
        head_rows=rows,
        rotary_similarity=torch.rand(m, n, generator=g) * 8 + 1,
    ), int(torch.randint(1, n, (1,), generator=g))


def test_v1_as_the_reference():
    for seed in range(200):
        signals, keep = random_signals(seed)
        found = select(signals, keep, V1, torch.Generator())
        _, chosen = raters(signals.input_features.double().numpy(), signals.input_text.double().numpy(), 1.0)
        assert found.diagnostics.text.chosen.nonzero().flatten().tolist() == chosen
        rows = signals.attention_rows.double().numpy()
        scores = [float(np.mean([rows[j][i] for j in chosen])) for i in range(len(signals.features))]
        assert found.diagnostics.score.values.tolist() == pytest.approx(scores, rel=1e-5)
        kept, features, assignment, sequence = keep_and_recycle(
            signals.features.double().numpy(), found.diagnostics.score.values.double().numpy(), keep, 0
        )
        assert found.kept.tolist() == kept
        assert found.assignment.tolist() == assignment
        if keep > 1:
            np.testing.assert_allclose(found.features.numpy(), np.array(features), atol=1e-5)
            assert found.kept[found.sequence].tolist() == sequence


def test_plus_as_the_reference():
    for seed in range(200):
        signals, keep = random_signals(seed)
        found = select_plus(signals, keep, PLUS, torch.Generator())
        _, chosen = raters(signals.input_features.double().numpy(), signals.input_text.double().numpy(), 1.0)
        rows, similarity = signals.head_rows.double().numpy(), signals.rotary_similarity.double().numpy()
        heads, _, n = rows.shape
        corrected = [[[rows[h][j][i] / similarity[j][i] for i in range(n)] for j in chosen] for h in range(heads)]
        sums = [sum(sum(row) for row in head) for head in corrected]
        best = sorted(range(heads), key=lambda h: (-sums[h], h))[: max(1, math.floor(14 * heads / 32 + 0.5))]
        scores = [float(np.mean([corrected[h][j][i] for h in best for j in range(len(chosen))])) for i in range(n)]
        assert found.diagnostics.facts["heads"] == sorted(best)
        assert found.diagnostics.score.values.tolist() == pytest.approx(scores, rel=1e-5)
        ours = found.diagnostics.score.values.tolist()
        assert found.kept.tolist() == sorted(sorted(range(n), key=lambda i: (-ours[i], i))[:keep])


def test_a_broken_token_does_not_decide_which_heads_are_heard():
    signals, _ = random_signals(8)
    broken = signals.head_rows.clone()
    broken[:, :, 0] = torch.nan
    found = select_plus(
        Signals(signals.features, input_features=signals.input_features, input_text=signals.input_text,
                head_rows=broken, rotary_similarity=signals.rotary_similarity), 3, PLUS, torch.Generator(),
    )  # fmt: skip
    assert 0 not in found.kept.tolist()
    sums = (signals.head_rows / signals.rotary_similarity)[:, found.diagnostics.text.chosen, 1:].sum((1, 2))
    assert (
        found.diagnostics.facts["heads"]
        == sums.sort(descending=True).indices[: len(found.diagnostics.facts["heads"])].sort().values.tolist()
    )


def test_needs_follow_the_version():
    kinds = [{need.kind for need in plan(64, version=version).stages[0].needs} for version in ("v1", "plus")]
    assert kinds == [{"llm_input", "text_rows"}, {"llm_input", "head_rows", "rotary_similarity"}]
