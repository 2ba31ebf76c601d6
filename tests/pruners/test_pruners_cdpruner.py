"""CDPruner on examples that can be checked on paper, and against determinants computed one by one."""

import itertools
import math

import numpy as np
import pytest
import torch
from pruner_signals import MERGED, SQUARE

from tokviz.errors import BadInput, Unsupported
from tokviz.pruners import get
from tokviz.pruners.cdpruner import largest_volume, scaled, select
from tokviz.pruners.ops import unit_rows
from tokviz.types import CLIP_RELEVANCE, QUESTION_FEATURES, Budget, PlanningInfo, Signals

NAN = math.nan

# Directions east, 60 degrees, north, east again. Lengths do not count.
FOUR = torch.tensor([[1.0, 0], [0.5, math.sqrt(0.75)], [0, 7], [5, 0]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("cdpruner").complete(given)


def run(x, keep, relevance, **more):
    """``relevance``: what the question says; the method is given minus it, as CLIP's cosine."""
    signals = Signals(x, clip_relevance=-torch.as_tensor(relevance, dtype=torch.float32), **more)
    return select(signals, keep, params(relevance="clip"), generator())


def picks_of(selection):
    order = selection.order.tolist()
    return [order.index(step) for step in range(max(order) + 1)]


# ------------------------------------------------------------------------------------------------- on paper


def test_the_most_relevant_comes_first_and_then_what_adds_volume():
    selection = run(FOUR, 2, [0.5, 1.0, 0.0, 0.25])
    weights = selection.diagnostics.maps[0].values.tolist()
    assert weights == pytest.approx([0.5, 1.0, 1e-6, 0.25], rel=1e-4)
    # Token 1 first: 1^2. Then token 0 adds 0.5^2 * (1 - cos^2 60) = 0.1875, token 3 half of that squared.
    assert picks_of(selection) == [1, 0]
    assert selection.kept.tolist() == [0, 1]
    assert selection.diagnostics.score.values.tolist() == pytest.approx([0.1875, 1, 0, 0], abs=1e-5)
    assert list(selection.diagnostics.charts[0].y) == pytest.approx([0, math.log(0.1875)], abs=1e-4)
    assert selection.diagnostics.facts["log_determinant"] == pytest.approx(math.log(0.1875), abs=1e-4)
    assert selection.diagnostics.facts["independent_picks"] == 2
    assert selection.diagnostics.facts["relevance"] == "clip"


def test_the_cosine_of_clip_is_negated():
    # High similarity in CLIP's space counts as little relevance.
    signals = Signals(FOUR, clip_relevance=torch.tensor([0.9, 0.1, 0.5, 0.6]))
    assert picks_of(select(signals, 1, params(relevance="clip"), generator())) == [1]


def test_a_spanned_plane_is_filled_up_by_relevance():
    # Two tokens span the plane; the official recursion takes the root of 0 here.
    selection = run(FOUR, 3, [0.5, 1.0, 0.0, 0.25])
    assert picks_of(selection) == [1, 0, 3]
    assert selection.diagnostics.facts["independent_picks"] == 2
    assert selection.diagnostics.facts["filled_by_relevance"] == 1
    assert len(selection.diagnostics.charts[0].y) == 2


def test_constant_relevance_is_a_plain_dpp():
    selection = run(FOUR, 2, [0.3] * 4)
    assert selection.diagnostics.maps[0].values.tolist() == [1, 1, 1, 1]
    assert picks_of(selection) == [0, 2]  # east, then what is at right angles to it
    assert scaled(torch.tensor([0.25, 0.75, 0.5])).tolist() == pytest.approx([2e-6, 1, 0.5], abs=1e-5)


def test_relevance_in_the_space_of_the_llm_is_the_cosine_to_the_mean_question():
    question = torch.tensor([[0.0, 3], [0, 1], [NAN, 0]])
    selection = select(Signals(FOUR, question_features=question), 1, params(), generator())
    assert selection.kept.tolist() == [2]
    assert selection.diagnostics.maps[0].values.tolist() == pytest.approx([0, math.sqrt(0.75), 1, 0], abs=1e-5)
    assert "variant" in selection.diagnostics.maps[0].label
    assert selection.diagnostics.facts["relevance"] == "llm"


def test_without_a_question_everything_is_equally_relevant():
    selection = select(Signals(FOUR, question_features=torch.zeros(0, 2)), 2, params(), generator())
    assert picks_of(selection) == [0, 2]
    assert selection.diagnostics.facts["relevance"] == "constant"
    assert "no question token" in selection.diagnostics.warnings[0]


def test_every_view_has_its_share_and_one_scale_for_all():
    x = torch.cat([FOUR, FOUR[:2], FOUR])
    view = torch.tensor([0] * 4 + [1] * 2 + [2] * 4)
    relevance = [0.5, 1.0, 0.0, 0.25, 0.1, 0.2, 0.5, 0.4, 0.3, 0.2]
    selection = run(x, 7, relevance, view=view)
    # Shares 3, 2, 2: view 1 has just two. In view 2 token 6 comes first (0.5), then 60 degrees: 0.4^2 * 3/4 = 0.12
    # is more than 0.3^2 = 0.09 of north.
    assert picks_of(selection) == [1, 0, 3, 5, 4, 6, 7]
    assert selection.diagnostics.maps[0].values[[4, 5]].tolist() == pytest.approx([0.1, 0.2], abs=1e-4)
    assert [chart.about for chart in selection.diagnostics.charts] == [0, 4, 6]


def test_rows_that_are_no_patch_are_never_kept():
    candidates = torch.tensor([True, False, True, True])
    selection = run(FOUR, 3, [0.5, 1.0, 0.0, 0.25], candidates=candidates)
    assert selection.kept.tolist() == [0, 2, 3]
    assert math.isnan(selection.diagnostics.score.values[1])


def test_the_official_relevance_needs_the_text_tower():
    pruner, info = get("cdpruner"), PlanningInfo(144, 8)
    assert pruner.missing(info) is None
    assert [stage.needs for stage in pruner.schedule(Budget(9), info, params()).stages] == [(QUESTION_FEATURES,)]
    with pytest.raises(Unsupported, match="text tower"):
        pruner.schedule(Budget(9), info, params(relevance="clip"))
    with_tower = PlanningInfo(144, 8, has_text_tower=True)
    stage = pruner.schedule(Budget(9), with_tower, params(relevance="clip")).stages[0]
    assert (stage.site, stage.keep, stage.needs, stage.positions) == ("projector", 9, (CLIP_RELEVANCE,), "reindex")


# ------------------------------------------------------------------------------------------------- brute force


def kernel(x, weights):
    unit = np.array([row / max(math.sqrt(row @ row), 1e-12) for row in x])
    return np.array(
        [[a * (u @ v) * b for b, v in zip(weights, unit, strict=True)] for a, u in zip(weights, unit, strict=True)]
    )


def assert_greedy(L, picks, gains):
    """Every pick has, up to rounding, the largest determinant with those before it; the gains are the ratios."""
    before = 1.0
    for step, pick in enumerate(picks):
        volume = {
            i: np.linalg.det(L[np.ix_([*picks[:step], i], [*picks[:step], i])])
            for i in range(len(L))
            if i not in picks[:step]
        }
        assert volume[pick] >= max(volume.values()) - 1e-4 * before
        assert volume[pick] / before == pytest.approx(gains[step], rel=2e-2, abs=1e-6)
        before = volume[pick]


@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "zero rows", "nan"])
def test_against_determinants(kind):
    for seed in range(60):
        g = generator(seed)
        n, width = 3 + seed % 10, 3 + seed % 8
        x = torch.randn(n, width, generator=g)
        if kind == "duplicates":
            x = x[torch.randint(max(1, n // 2), (n,), generator=g)]
        if kind == "zero rows":
            x[torch.rand(n, generator=g) < 0.4] = 0.0
        relevance = torch.rand(n, generator=g)
        if kind == "nan":
            x[torch.rand(n, generator=g) < 0.3, 0] = NAN
        keep = 1 + seed % (n - 1)
        selection = run(x, keep, relevance)
        rows = [i for i in range(n) if x[i].isfinite().all()]
        picks = picks_of(selection)
        assert len(selection.kept) == keep
        assert set(picks) <= set(selection.kept.tolist()) & set(rows)
        assert len(picks) == len(set(picks)) == min(keep, len(rows))
        weights = selection.diagnostics.maps[0].values[rows].double().numpy()
        raw = relevance[rows].double()
        assert np.allclose(weights, (raw - raw.min() + 1e-6) / max(float(raw.max() - raw.min()), 1e-6), atol=1e-4)
        independent = selection.diagnostics.facts["independent_picks"]
        L = kernel(x[rows].double().numpy(), weights)
        # A tolerance of float32 on the rank: directions that carry less than 1e-5 count as spanned.
        assert independent <= min(np.linalg.matrix_rank(x[rows].numpy()), keep)
        numbered = [rows.index(pick) for pick in picks]
        assert_greedy(L, numbered[:independent], selection.diagnostics.score.values[picks[:independent]].tolist())
        rest = sorted(set(range(len(rows))) - set(numbered[:independent]), key=lambda i: (-weights[i], i))
        assert numbered[independent:] == rest[: len(numbered) - independent]


def test_the_greedy_volume_is_that_of_the_best_pair_here():
    x = torch.randn(9, 5, generator=generator(11))
    found = largest_volume(unit_rows(x), torch.ones(9), 2)
    L = kernel(x.double().numpy(), np.ones(9))
    best = max(np.linalg.det(L[np.ix_(pair, pair)]) for pair in itertools.combinations(range(9), 2) if 0 in pair)
    assert found.picks[0] == 0  # all alike: the lowest index
    assert float(found.gains.prod()) == pytest.approx(best, rel=1e-4)


def test_more_tokens_than_the_rank_never_repeat():
    x = torch.randn(80, 32, generator=generator(1))
    for count in (31, 32, 33, 36, 79):
        found = largest_volume(unit_rows(x), torch.rand(80, generator=generator(2)) + 0.1, count)
        assert len(set(found.picks.tolist())) == count
        assert len(found.gains) == min(count, 32)
        assert found.variance.isfinite().all()
        assert (found.gains.diff() <= 1e-6).all()  # the gain only shrinks: the score is the ranking


def test_zero_tokens_come_last():
    x = torch.cat([torch.zeros(3, 2), FOUR])
    found = largest_volume(unit_rows(x), torch.ones(7), 5)
    assert set(found.picks.tolist()[:2]) == {3, 5}
    assert found.picks.tolist()[2:] == [0, 1, 2]  # nothing adds volume any more: by weight, then by index


# ------------------------------------------------------------------------------------------------- as OpenVINO does


def deployed(x, text, keep, weight=0.5, info=SQUARE, **more):
    given = params(kernel="openvino", relevance_weight=weight)
    (stage,) = get("cdpruner").schedule(Budget(keep), info, given).stages
    places = torch.arange(len(x)) + 10
    more = {"sequence_index": places, "prompt_index": torch.arange(len(text)), **more}
    return stage.select(Signals(x, prompt_features=text, **more), keep, given, generator())


def test_each_half_has_its_own_dpp_on_paper():
    # Halves of four and five tokens. Text points north. Relevance of the first half: 0, sqrt(3)/2, 1, 0; its kernel's
    # diagonal (1 + r^2) / 2: 0.5, 0.875, 1, 0.5. North first; east then still adds 0.5, 60 degrees
    # 0.875 - (cos 30 * (1 + 0.866) / 2)^2 = 0.222.
    x = torch.cat([FOUR, FOUR, torch.tensor([[0.0, -1]])])
    found = deployed(x, torch.tensor([[0.0, 3]]), 4)
    assert picks_of(found)[:2] == [2, 0]
    # In the second half south is as far from the text as can be: relevance 0; east 0.5, 60 degrees 0.933, north 1.
    # North first again: 1. South is minus north: 0.5 - ((1 + 0) / 2)^2 = 0.25; east 0.5 - 0 = (1 + 0.25) / 2 = 0.625.
    assert picks_of(found)[2:] == [6, 4]
    shown = {token_map.name: token_map.values.tolist() for token_map in found.diagnostics.maps}
    assert shown["half"] == [0] * 4 + [1] * 5
    assert shown["relevance"] == pytest.approx([0, 0.75**0.5, 1, 0, 0.5, 0.5 + 0.75**0.5 / 2, 1, 0.5, 0], abs=1e-5)
    assert found.diagnostics.score.values[[2, 0, 6, 4]].tolist() == pytest.approx([1, 0.5, 1, 0.625], abs=1e-5)
    assert found.diagnostics.facts["relevance"] == "prompt"


def test_the_second_half_keeps_one_more():
    x = torch.randn(9, 6, generator=generator(3))
    for keep, halves in ((1, (0, 1)), (2, (1, 1)), (5, (2, 3)), (8, (4, 4))):
        kept = deployed(x, torch.ones(1, 6), keep).kept.tolist()
        assert (sum(token < 4 for token in kept), sum(token >= 4 for token in kept)) == halves
    view = torch.tensor([0] * 4 + [1] * 5)
    kept = deployed(x, torch.ones(1, 6), 5, view=view).kept.tolist()  # 3 of view 0, 2 of view 1
    assert [sum(low <= token < low + 2 for token in kept) for low in (0, 2, 4)] == [1, 2, 1]


def test_what_begins_and_ends_an_image_is_no_text_where_there_is_such_a_thing():
    # North at places 3 and 14; long and east at 4 and 13, beside the image at 5 to 12.
    x, text = FOUR.repeat(2, 1), torch.tensor([[0.0, 1], [5, 0], [5, 0], [0, 1]])
    told = {"sequence_index": torch.arange(8) + 5, "prompt_index": torch.tensor([3, 4, 13, 14])}
    assert deployed(x, text, 2, info=MERGED, **told).kept.tolist() == [2, 6]
    assert deployed(x, text, 2, **told).kept.tolist() == [0, 4]


def test_openvino_without_text_is_diversity_alone():
    found = deployed(FOUR.repeat(2, 1), torch.zeros(0, 2), 4)
    assert picks_of(found) == [0, 2, 4, 6]
    assert found.diagnostics.maps[0].values.tolist() == [0] * 8


def test_openvino_has_no_relevance_by_clip():
    with pytest.raises(BadInput, match="choose relevance llm or kernel paper"):
        get("cdpruner").schedule(Budget(9), PlanningInfo(144, 8, has_text_tower=True),
                                 params(kernel="openvino", relevance="clip"))  # fmt: skip


def test_halves_against_determinants():
    for seed in range(60):
        g = generator(seed)
        n, width, weight = 8 + seed % 9, 6 + seed % 8, (0.0, 0.5, 0.8, 1.0)[seed % 4]
        x, text = torch.randn(n, width, generator=g), torch.randn(1 + seed % 5, width, generator=g)
        keep = 2 + seed % (n - 3)
        found = deployed(x, text, keep, weight)
        picks, gains = picks_of(found), found.diagnostics.score.values
        assert len(picks) == keep
        mean = text.double().mean(0)
        for rows, share in ((range(n // 2), keep // 2), (range(n // 2, n), keep - keep // 2)):
            part = [pick for pick in picks if pick in rows]
            assert len(part) == share
            r = torch.cosine_similarity(x[list(rows)].double(), mean[None])
            r = ((r - r.min()) / (r.max() - r.min())).numpy()
            plain = kernel(x[list(rows)].double().numpy(), np.ones(len(rows)))
            L = plain * (1 - weight + weight * r[:, None] * r)
            independent = min(share, np.linalg.matrix_rank(L, tol=1e-4))
            numbered = [pick - rows[0] for pick in part][:independent]
            if weight < 1:  # the least relevant token is worth nothing there
                assert_greedy(L, numbered, gains[part[:independent]].tolist())
