"""The published settings, and what the three meanings of a budget give."""

from dataclasses import replace

import pytest
from published_schedules import LLAVA_7B, LLAVA_13B, SETTINGS

from tokviz.errors import BadInput, Unsupported
from tokviz.pruners import PRUNERS, get
from tokviz.pruners.todre import probe_layers
from tokviz.types import RECEIVED_ATTENTION, Budget, PlanningInfo

TINY = PlanningInfo(n_visual=144, n_layers=8)


def plan(method, tokens, counted_as="published", info=LLAVA_7B, **params):
    pruner = get(method)
    return pruner.schedule(Budget(tokens, counted_as), info, pruner.complete(params))


def sites(schedule):
    return [(stage.site, stage.keep) for stage in schedule.stages]


def meanings(schedule, info):
    m = schedule.meanings(info.n_visual, info.n_layers)
    return m.final, m.average_in, m.average_logged


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_published_settings(row):
    # The counts of the paper, also on a model that lacks what tokviz would have to capture there.
    pruner = replace(get(row.method), does_without=get(row.method).needs)
    schedule = pruner.schedule(Budget(row.tokens), row.info, pruner.complete(row.params))
    assert sites(schedule) == row.stages
    assert meanings(schedule, row.info) == pytest.approx(row.meanings, abs=1e-9)


def test_every_method_has_a_published_setting():
    without = {pruner.id for pruner in PRUNERS if pruner.family != "control"} - {row.method for row in SETTINGS}
    assert without == set()


@pytest.mark.parametrize(
    ("tokens", "info", "stages", "expected"),
    [
        # methods.md section 1.5. A_log bills layer 15 with the count behind it: (15 n1 + 17 n2) / 32.
        (192, LLAVA_7B, [("encoder", 288), (16, 96)], (96, 192.0, 186.0)),
        (128, LLAVA_7B, [("encoder", 192), (16, 64)], (64, 128.0, 124.0)),
        (64, LLAVA_7B, [("encoder", 96), (16, 32)], (32, 64.0, 62.0)),
        (192, LLAVA_13B, [("encoder", 288), (20, 96)], (96, 192.0, 187.2)),
        (16, TINY, [("encoder", 24), (4, 8)], (8, 16.0, 14.0)),
        # Odd: 1.5 B is rounded down and 0.5 B up.
        (15, TINY, [("encoder", 22), (4, 8)], (8, 15.0, 13.25)),
        (1, TINY, [("encoder", 1), (4, 1)], (1, 1.0, 1.0)),
        # 1.5 * 100 > 144: stage 1 does nothing and stage 2 makes up for it, (4 * 144 + 4 * 56) / 8 = 100.
        (100, TINY, [("encoder", 144), (4, 56)], (56, 100.0, 89.0)),
        (144, TINY, [("encoder", 144), (4, 144)], (144, 144.0, 144.0)),
    ],
)
def test_apet_published_is_the_average(tokens, info, stages, expected):
    for counted_as in ("published", "average"):
        schedule = plan("apet", tokens, counted_as, info)
        assert sites(schedule) == stages
        assert meanings(schedule, info) == pytest.approx(expected)


def test_apet_final():
    assert sites(plan("apet", 64, "final")) == [("encoder", 192), (16, 64)]
    assert sites(plan("apet", 300, "final")) == [("encoder", 576), (16, 300)]


def test_apet_stage_2_stands_at_half_depth():
    for layers, expected in ((28, 14), (32, 16), (40, 20), (7, 3)):
        assert plan("apet", 60, info=PlanningInfo(576, layers)).stages[1].site == expected
    # 7 layers: 3 process 90, and n2 solves 3 * 90 + 4 * n2 = 7 * 60, n2 = 37.5, rounded up.
    assert sites(plan("apet", 60, info=PlanningInfo(576, 7))) == [("encoder", 90), (3, 38)]


def test_apet_outside_llava():
    qwen = PlanningInfo(
        1000, 28, family="qwen2_5_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen"
    )
    assert sites(plan("apet", 200, "average", qwen)) == [("projector", 300), (14, 100)]
    with pytest.raises(Unsupported, match="mode paper"):
        plan("apet", 200, info=qwen, mode="official")


@pytest.mark.parametrize(
    ("k", "tokens", "kept"), [(2, 192, 166), (2, 128, 98), (2, 64, 30), (3, 192, 152), (3, 128, 82), (3, 64, 11)]
)
def test_fastv_average(k, tokens, kept):
    schedule = plan("fastv", tokens, "average", layer=k)
    assert sites(schedule) == [(k, kept)]
    assert meanings(schedule, LLAVA_7B)[1] == pytest.approx(tokens, abs=0.5)


def test_fastv_average_on_llava_next():
    big = PlanningInfo(2880, 32)
    assert sites(plan("fastv", 640, "average", big)) == [(2, 491)]
    assert sites(plan("fastv", 320, "average", big)) == [(2, 149)]
    with pytest.raises(BadInput, match=r"first 2 of 32 layers process all 2880\. Ask for at least 181"):
        plan("fastv", 160, "average", big)
    assert sites(plan("fastv", 181, "average", big))[0][1] == 1
    assert sites(plan("fastv", 180, "final", big)) == [(2, 180)]


def test_fastv_published_and_final_are_the_survivors():
    for counted_as in ("published", "final"):
        schedule = plan("fastv", 128, counted_as)
        assert sites(schedule) == [(2, 128)]
        # A_in = (2 * 576 + 30 * 128) / 32; A_log = (576 + 31 * 128) / 32.
        assert meanings(schedule, LLAVA_7B) == pytest.approx((128, 156.0, 142.0))
    scaled = {layers: plan("fastv", 64, info=PlanningInfo(576, layers)).stages[0].site for layers in (8, 28, 40, 48)}
    assert scaled == {8: 1, 28: 2, 40: 2, 48: 3}
    assert sites(plan("fastv", 64, info=PlanningInfo(576, 8), layer=2)) == [(2, 64)]
    assert plan("fastv", 16).stages[0].positions == "keep"
    with pytest.raises(BadInput, match="at least 37"):
        plan("fastv", 16, "average", TINY, layer=2)  # 2 * 144 / 8 = 36 are spent before anything can be dropped
    assert sites(plan("fastv", 37, "average", TINY, layer=2)) == [(2, 1)]
    assert sites(plan("fastv", 144, "average", TINY, layer=2)) == [(2, 144)]


def test_fastv_layer_must_exist():
    with pytest.raises(BadInput, match="between 1 and 7"):
        plan("fastv", 16, info=TINY, layer=8)


@pytest.mark.parametrize(
    ("layers", "probes"),
    [
        (32, [16, 20, 24, 28]), (40, [20, 25, 30, 35]), (8, [4, 5, 6, 7]), (28, [14, 17, 21, 24]),
        (4, [2, 3]), (2, [1]), (1, []),
    ],
)  # fmt: skip
def test_todre_probes(layers, probes):
    assert probe_layers(layers) == probes
    for counted_as in ("published", "final", "average"):
        schedule = plan("todre", 58, counted_as, PlanningInfo(576, layers))
        assert sites(schedule) == [("projector", 58), *((layer, None) for layer in probes)]
    assert all(stage.positions == "keep" for stage in schedule.stages[1:])


@pytest.mark.parametrize(("layers", "probes"), [(32, [28]), (40, [35]), (28, [24]), (8, [7]), (2, [1]), (1, [])])
def test_todre_v2_probes_once(layers, probes):
    assert probe_layers(layers, "v2") == probes
    schedule = plan("todre", 58, info=PlanningInfo(576, layers), version="v2")
    assert sites(schedule) == [("projector", 58), *((layer, None) for layer in probes)]


@pytest.mark.parametrize(
    ("stage_1", "stage_2", "expected"),
    [
        (True, False, [("projector", 64)]),
        (False, True, [(4, None), (5, None), (6, None), (7, None)]),
        (False, False, []),
    ],
)
def test_todre_stages_switch_off_one_by_one(stage_1, stage_2, expected):
    schedule = plan("todre", 64, info=PlanningInfo(576, 8), stage_1=stage_1, stage_2=stage_2)
    assert sites(schedule) == expected
    final = 64 if stage_1 else 576
    assert meanings(schedule, PlanningInfo(576, 8)) == (final, final, final)
    with pytest.raises(BadInput, match="at least 1"):
        plan("todre", 0, stage_1=stage_1, stage_2=stage_2)


def test_todre_without_cls_asks_for_no_cls_attention():
    assert plan("todre", 58, info=PlanningInfo(576, 32, has_cls=False)).stages[0].needs == (RECEIVED_ATTENTION,)


@pytest.mark.parametrize("method", ["random", "uniform", "fastervlm", "divprune"])
@pytest.mark.parametrize("counted_as", ["published", "final", "average"])
def test_one_stage_before_the_llm_makes_all_meanings_equal(method, counted_as):
    schedule = plan(method, 64, counted_as)
    assert sites(schedule) == [("projector", 64)]
    assert meanings(schedule, LLAVA_7B) == (64, 64.0, 64.0)


def test_full_prunes_nothing():
    assert plan("full", 64).stages == ()


QWEN = PlanningInfo(
    576, 28, family="qwen2_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen"
)


@pytest.mark.parametrize("method", ["fastervlm", "vispruner", "visionzip", "holov", "polymorphic", "todre"])
def test_without_cls_what_tokens_receive_ranks_them_behind_the_merger(method):
    first = plan(method, 64, info=QWEN).stages[0]
    assert first.site == "projector" and first.needs[0] == RECEIVED_ATTENTION
    assert not any(need.kind.startswith("cls_") for need in first.needs)


def test_where_positions_have_several_axes_every_stage_keeps_them():
    for pruner in PRUNERS:
        if pruner.missing(QWEN) is None:
            stages = pruner.schedule(Budget(400, "average"), QWEN, pruner.complete({})).stages
            assert all(stage.positions == "keep" for stage in stages), pruner.id
            if stages:
                with pytest.raises(Unsupported, match="several axes"):
                    plan(pruner.id, 400, "average", QWEN, positions="reindex")


TILED = PlanningInfo(
    2880, 32, "llava_next", n_views=5, has_tiles=True, n_vision_layers=23, has_text_tower=True, has_evidence=True
)
FILM = PlanningInfo(2880, 32, "llava_next_video", n_views=20, has_frames=True)
SHRUNK = PlanningInfo(2880, 32)


def test_every_method_takes_a_policy_for_positions_and_by_default_has_its_own():
    for pruner in PRUNERS:
        info = FILM if pruner.needs_frames else SHRUNK if pruner.encodes_anew else TILED
        own, keep, reindex = (
            pruner.schedule(Budget(1200), info, {**pruner.complete({}), "positions": policy}).stages
            for policy in ("source", "keep", "reindex")
        )
        assert own == pruner.schedule(Budget(1200), info, pruner.complete({})).stages
        assert {stage.positions for stage in keep} <= {"keep"} and {stage.positions for stage in reindex} <= {"reindex"}
        assert [replace(stage, positions="keep") for stage in own] == list(keep)
    with pytest.raises(BadInput, match="has no parameter"):
        get("full").complete({"positions": "keep"})
