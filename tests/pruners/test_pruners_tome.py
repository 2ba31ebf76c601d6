"""ToMe: a merge worked on paper, a slow reference in plain Python, published sums, and what its schedule refuses."""

import math

import pytest
import torch

from tokviz.errors import BadInput
from tokviz.names import VisionLayer
from tokviz.pruners.tome import PRUNER, merges_per_layer
from tokviz.types import Budget, PlanningInfo, Signals

LLAVA = PlanningInfo(n_visual=576, n_layers=32, n_vision_layers=23)
EMBEDDED = PlanningInfo(n_visual=576, n_layers=8, n_vision_layers=5)


def selects(order="raster", **info):
    """The select functions of an inner and of the last merging layer."""
    params = PRUNER.complete({"order": order})
    stages = PRUNER.schedule(Budget(100), PlanningInfo(144, 8, n_vision_layers=5, **info), params).stages
    return stages[0].select, stages[-1].select, params


def run(select, params, keep, features, keys, **more):
    return select(Signals(torch.as_tensor(features), keys=torch.as_tensor(keys), **more), keep, params, None)


# ------------------------------------------------------------------------------------------------- worked on paper

# Giving half with [CLS]: rows 1, 3, 5; taking half: 0, 2, 4. Best partners: 1 -> 0 (1.0), 3 -> 2 (0.8), 5 -> 4 (0.8).
KEYS = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0], [-0.8, 0.6]]
VALUES = [[0.0], [4.0], [10.0], [20.0], [30.0], [40.0]]


def test_worked_example_beside_cls():
    inner, last, params = selects()
    sizes = torch.tensor([1, 3, 1, 1, 1, 1])
    found = run(inner, params, 4, VALUES, KEYS, sizes=sizes)
    assert found.kept.tolist() == [0, 2, 4, 5]
    assert found.assignment.tolist() == [0, 0, 2, 2, 4, 5]  # of the tie at 0.8 row 3, the first, is merged
    assert found.features.flatten().tolist() == [3.0, 15.0, 30.0, 40.0]  # (0 + 3 * 4) / 4 and (10 + 20) / 2
    assert found.sizes.tolist() == [4, 2, 1, 1]
    assert found.kept[found.sequence].tolist() == [5, 0, 2, 4]  # the rest of the giving half, then the taking half
    score = found.diagnostics.score.values
    assert score[[1, 3, 5]].tolist() == pytest.approx([0.0, 0.2, 0.2])
    assert score[[0, 2, 4]].isnan().all()
    edges = next(token_map.values for token_map in found.diagnostics.maps if token_map.name == "merged_similarity")
    assert edges[[1, 3]].tolist() == pytest.approx([1.0, 0.8])
    assert edges[[0, 2, 4, 5]].isnan().all()
    groups = next(token_map.values for token_map in found.diagnostics.maps if token_map.name == "group_size")
    assert groups.tolist() == [4, 4, 2, 2, 1, 1]
    (chart,) = found.diagnostics.charts
    assert dict(zip(chart.names, chart.y, strict=True)) == {"1": 2, "2": 1, "4": 1}
    assert found.diagnostics.readings[0].value == pytest.approx(0.8)
    raster = run(last, params, 4, VALUES, KEYS, sizes=sizes)
    assert raster.kept[raster.sequence].tolist() == [0, 2, 4, 5]
    _, scrambled, official = selects("official")
    assert torch.equal(run(scrambled, official, 4, VALUES, KEYS, sizes=sizes).sequence, found.sequence)


def test_worked_example_without_cls():
    """Giving half: rows 0, 2, 4, sorted by similarity when they stay; taking half: 1, 3, 5."""
    keys = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-1.0, 0.0], [-1.0, 0.1]]
    inner, _, params = selects(has_cls=False)
    found = run(inner, params, 5, VALUES, keys)
    assert found.assignment.tolist() == [0, 0, 2, 3, 4, 5]
    assert found.features.flatten().tolist() == [2.0, 10.0, 20.0, 30.0, 40.0]
    assert found.kept[found.sequence].tolist() == [4, 2, 0, 3, 5]  # 4 -> 5 is more similar than 2 -> 3


def test_a_group_goes_by_its_smallest_original_index():
    inner, last, params = selects()
    origin = torch.tensor([7, 3, 2, 9, 1, 5])
    found = run(inner, params, 4, VALUES, KEYS, origin=origin)
    assert found.kept.tolist() == [1, 2, 4, 5]  # row 1 (original 3) stands for the pair with row 0 (original 7)
    assert found.assignment.tolist() == [1, 1, 2, 2, 4, 5]
    assert found.features.flatten().tolist() == [2.0, 15.0, 30.0, 40.0]
    assert found.kept[found.sequence].tolist() == [5, 1, 2, 4]
    behind = run(last, params, 4, VALUES, KEYS, origin=origin)
    assert origin[behind.kept[behind.sequence]].tolist() == [1, 2, 3, 5]


# ------------------------------------------------------------------------------------------------- slow reference


def slowly(keys, features, sizes, r, has_cls):
    """Groups of rows (sets), means and sizes in the official order; loops over floats of double precision."""
    giving = [row for row in range(len(keys)) if row % 2 == (1 if has_cls else 0)]
    taking = [row for row in range(len(keys)) if row not in giving]

    def cosine(a, b):
        length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / length

    edges = []
    for a in giving:
        partner, best = None, -math.inf
        for b in taking:
            if cosine(keys[a], keys[b]) > best:
                partner, best = b, cosine(keys[a], keys[b])
        edges.append((a, partner, best))
    by_similarity = sorted(edges, key=lambda edge: -edge[2])  # stable
    merged, rest = by_similarity[:r], by_similarity[r:]
    stays = [a for a, _, _ in rest]
    if has_cls:
        stays.sort()
    groups = [{a} for a in stays] + [{b} | {a for a, partner, _ in merged if partner == b} for b in taking]
    weights = [sum(sizes[row] for row in group) for group in groups]
    means = [
        [sum(features[row][d] * sizes[row] for row in group) / weight for d in range(len(features[0]))]
        for group, weight in zip(groups, weights, strict=True)
    ]
    return groups, means, weights


def members(selection):
    """The groups as sets of rows, in the order in which they go on."""
    order = selection.kept[selection.sequence].tolist()
    return [{row for row, to in enumerate(selection.assignment.tolist()) if to == leader} for leader in order]


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("keys_are", ["gaussian", "axes"])
def test_against_the_slow_reference(has_cls, keys_are):
    """Axes as keys have cosines of exactly 0, 1 and -1: nearly every choice is a tie."""
    inner, _, params = selects(has_cls=has_cls)
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        n = int(torch.randint(2, 24, (1,), generator=g))
        r = int(torch.randint(1, n // 2 + 1, (1,), generator=g))
        keys = torch.randn(n, 5, generator=g) if keys_are == "gaussian" else axes[torch.randint(6, (n,), generator=g)]
        features, sizes = torch.randn(n, 3, generator=g).double(), torch.randint(1, 9, (n,), generator=g)
        found = run(inner, params, n - r, features, keys, sizes=sizes)
        groups, means, weights = slowly(keys.tolist(), features.tolist(), sizes.tolist(), r, has_cls)
        assert members(found) == groups
        assert found.sizes[found.sequence].tolist() == weights
        assert torch.allclose(found.features[found.sequence], torch.tensor(means).double(), atol=1e-12)


@pytest.mark.parametrize("order", ["raster", "official"])
@pytest.mark.parametrize("has_cls", [True, False])
def test_through_all_layers_every_patch_is_in_one_group_and_counted_once(has_cls, order):
    n, params = 576, PRUNER.complete({"order": order})
    stages = PRUNER.schedule(Budget(64), PlanningInfo(n, 32, has_cls=has_cls, n_vision_layers=23), params).stages
    g = torch.Generator().manual_seed(3)
    features, sizes, origin = torch.randn(n, 4, generator=g).double(), None, torch.arange(n)
    whole, carrier = features, torch.arange(n)
    for stage in stages:
        keys = torch.randn(len(features), 8, generator=g)
        found = stage.select(Signals(features, keys=keys, sizes=sizes, origin=origin), stage.keep, params, None)
        to = torch.arange(n)
        to[origin] = origin[found.assignment]
        carrier = to[carrier]
        features, sizes = found.features[found.sequence], found.sizes[found.sequence]
        origin = origin[found.kept][found.sequence]
        assert len(origin) == stage.keep
        assert int(sizes.sum()) == n
    assert len(origin) == 64
    assert sorted(set(carrier.tolist())) == sorted(origin.tolist())
    for row, leader in enumerate(origin.tolist()):
        group = (carrier == leader).nonzero().flatten()
        assert group[0] == leader  # the smallest patch
        assert len(group) == sizes[row]
        # Every patch has weight one in the end: a mean of means that knows the sizes is the mean of the patches.
        assert torch.allclose(features[row], whole[group].mean(0), atol=1e-12)
    assert (origin.tolist() == sorted(origin.tolist())) == (order == "raster")


def test_images_are_merged_each_by_itself():
    inner, _, params = selects()
    g = torch.Generator().manual_seed(0)
    features, keys = torch.randn(12, 3, generator=g), torch.randn(12, 4, generator=g)
    both = run(inner, params, 8, features, keys, view=torch.tensor([0] * 6 + [1] * 6))
    one, two = (run(inner, params, 4, features[part], keys[part]) for part in (slice(0, 6), slice(6, 12)))
    assert both.kept.tolist() == [*one.kept.tolist(), *(two.kept + 6).tolist()]
    assert torch.equal(both.features, torch.cat([one.features, two.features]))
    assert both.sequence.tolist() == [*one.sequence.tolist(), *(two.sequence + 4).tolist()]
    with pytest.raises(BadInput, match="equally in 2 images"):
        run(inner, params, 9, features, keys, view=torch.tensor([0] * 6 + [1] * 6))


def test_a_layer_cannot_merge_more_than_half():
    inner, _, params = selects()
    assert len(run(inner, params, 3, VALUES, KEYS).kept) == 3
    with pytest.raises(BadInput, match="at most half of the tokens of an image in one layer, not 4 of 6"):
        run(inner, params, 2, VALUES, KEYS)


def test_rows_that_are_not_finite_stay_out_of_every_mean():
    inner, _, params = selects()
    keys = torch.tensor(KEYS)
    keys[1] = math.nan  # a giving row: merged last
    found = run(inner, params, 4, VALUES, keys)
    assert found.assignment.tolist() == [0, 1, 2, 2, 4, 4]
    assert found.diagnostics.facts["non_finite"] == 1
    assert found.diagnostics.warnings
    found = run(inner, params, 3, VALUES, keys)  # ... and dropped when there is no other left
    assert found.assignment.tolist() == [0, -1, 2, 2, 4, 4]
    assert found.features.flatten().tolist() == [0.0, 15.0, 35.0]
    keys = torch.tensor(KEYS)
    keys[0] = math.inf  # a taking row: nobody merges into it
    assert run(inner, params, 4, VALUES, keys).assignment.tolist() == [0, 1, 2, 2, 4, 4]


# ------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("budget", "layers"), [(192, [17] * 16 + [16] * 7), (128, [20] * 11 + [19] * 12), (64, [23] * 6 + [22] * 17)]
)
def test_published_budgets_on_llava(budget, layers):
    """The table of ``methods.md`` 9.5; what enters the LLM is what every layer of it sees."""
    assert merges_per_layer(576, 576 - budget, 23) == layers
    schedule = PRUNER.schedule(Budget(budget), LLAVA, PRUNER.complete({}))
    assert [stage.site for stage in schedule.stages] == [VisionLayer(layer) for layer in range(23)]
    assert [stage.keep for stage in schedule.stages] == [576 - sum(layers[: i + 1]) for i in range(23)]
    assert all(stage.proportional_attention and stage.positions == "reindex" for stage in schedule.stages)
    meanings = schedule.meanings(576, 32)
    assert (meanings.final, meanings.average_in, meanings.average_logged) == (budget, budget, budget)


def test_every_total_that_can_be_reached_is_planned_evenly():
    for n in range(1, 40):
        for layers in range(6):
            least = n
            for _ in range(layers):
                least -= least // 2
            for total in range(n - least + 1):
                merges, left = merges_per_layer(n, total, layers), n
                assert sum(merges) == total
                assert merges == sorted(merges, reverse=True)
                for layer, r in enumerate(merges):
                    assert r <= left // 2
                    # A layer that merges clearly fewer than the first one does so because it could not do more.
                    assert r >= merges[0] - 1 or r == left // 2, (n, layers, total, layer)
                    left -= r
            with pytest.raises(BadInput, match=f"at least {least} of an image's {n} tokens in {layers} vision layers"):
                merges_per_layer(n, n - least + 1, layers)


def test_the_embedded_tower_is_too_shallow_for_seventeen_tokens():
    params = PRUNER.complete({})
    schedule = PRUNER.schedule(Budget(18), EMBEDDED, params)
    assert schedule.final_count(576) == 18
    with pytest.raises(BadInput, match="leaves at least 18 of an image's 576 tokens in 5 vision layers"):
        PRUNER.schedule(Budget(17), EMBEDDED, params)


def test_layers_that_merge_nothing_have_no_stage():
    params = PRUNER.complete({"proportional_attention": False})
    assert PRUNER.schedule(Budget(576), EMBEDDED, params).stages == ()
    assert PRUNER.schedule(Budget(900), EMBEDDED, params).stages == ()
    (stage,) = PRUNER.schedule(Budget(575), EMBEDDED, params).stages
    assert (stage.site, stage.keep, stage.proportional_attention) == (VisionLayer(0), 575, False)


def test_several_images_lose_the_same_number():
    info = PlanningInfo(n_visual=3 * 144, n_layers=8, n_views=3, n_vision_layers=5)
    params = PRUNER.complete({})
    assert PRUNER.schedule(Budget(3 * 40), info, params).final_count(432) == 120
    assert PRUNER.schedule(Budget(100), info, params).final_count(432) == 99
    with pytest.raises(BadInput, match="each of 3 images: ask for 102 tokens"):
        PRUNER.schedule(Budget(100, "final"), info, params)
