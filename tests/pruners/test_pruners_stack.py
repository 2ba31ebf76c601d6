"""Two methods on top of each other: the parts' own schedules, their own parameters, and who cannot stand where."""

from itertools import product

import pytest
import torch

import tokviz
from tokviz.errors import BadInput, Unsupported
from tokviz.pruners import PRUNERS, get
from tokviz.types import Budget, PlanningInfo, Signals

LLAVA_7B = PlanningInfo(n_visual=576, n_layers=32, n_vision_layers=23, has_text_tower=True)
QWEN = PlanningInfo(1200, 28, "qwen2_vl", has_cls=False, merges_patches=True, renumbers=False)


def stages(id, tokens=64, counted_as="published", info=LLAVA_7B, **params):
    pruner = get(id)
    return pruner.schedule(Budget(tokens, counted_as), info, pruner.complete(params)).stages


def left(planned):
    return [(stage.site, stage.keep) for stage in planned]


def test_the_first_leaves_twice_the_budget_and_the_second_the_budget():
    assert left(stages("divprune+fastv")) == [("projector", 128), (2, 64)]
    assert left(stages("divprune+fastv", share=1.0)) == [("projector", 64), (2, 64)]
    assert left(stages("divprune+fastv", share=8.0, tokens=100)) == [("projector", 576), (2, 100)]
    # The average is the second one's over what it is given: (32 * 64 - 2 * 128) / 30 = 59.7.
    assert left(stages("divprune+fastv", counted_as="average")) == [("projector", 128), (2, 60)]
    assert left(stages("visionzip + pdrop", tokens=192)) == [
        *left(stages("visionzip", 384)), *left(stages("pdrop", 192, info=PlanningInfo(384, 32)))
    ]  # fmt: skip


def test_the_parameters_of_both_are_those_of_the_stack():
    pruner = get("holov+fastv")
    names = [param.name for param in pruner.settings]
    assert names[0] == "share" and names[-1] == "positions" and len(set(names)) == len(names)
    assert {f"first_{param.name}" for param in get("holov").settings} < set(names)
    assert left(stages("holov+fastv", second_layer=9)) == [("projector", 128), (9, 64)]
    assert [stage.positions for stage in stages("divprune+fastv")] == ["reindex", "keep"]
    assert [stage.positions for stage in stages("divprune+fastv", first_positions="keep")] == ["keep", "keep"]
    assert [stage.positions for stage in stages("divprune+fastv", positions="reindex")] == ["reindex", "reindex"]
    with pytest.raises(BadInput, match="did you mean 'second_layer'"):
        pruner.complete({"second_layers": 3})


def test_each_stage_selects_with_its_own_methods_parameters():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    signals = Signals(features, cls_attention=torch.rand(40, generator=torch.Generator().manual_seed(4)))
    (alone,) = stages("vispruner", 12, important_share=0.9)
    (stacked, _) = stages("vispruner+fastv", 12, share=1.0, first_important_share=0.9)
    with_own = get("vispruner").complete({"important_share": 0.9})
    expected = alone.select(signals, 12, with_own, torch.Generator()).kept
    assert torch.equal(stacked.select(signals, 12, {}, torch.Generator()).kept, expected)


@pytest.mark.parametrize("info", [LLAVA_7B, QWEN], ids=["llava", "qwen"])
def test_any_two_compose_or_say_why_not(info):
    composed = 0
    for first, second in product(PRUNERS, PRUNERS):
        if not first.settings or not second.settings:
            continue
        try:
            planned = stages(f"{first.id}+{second.id}", 200, info=info)
        except (BadInput, Unsupported) as refusal:
            assert str(refusal).endswith(".") and (first.label in str(refusal) or second.label in str(refusal))
            continue
        composed += 1
        inside = [isinstance(stage.site, int) for stage in planned]
        counts = [stage.keep for stage in planned if stage.keep is not None]
        assert inside == sorted(inside) and counts == sorted(counts, reverse=True)
        assert all(stage.title.startswith((f"{first.label}: ", f"{second.label}: ")) for stage in planned)
    assert composed > 40


@pytest.mark.parametrize(
    ("id", "sentence"),
    [
        ("fastv+divprune", "FastV prunes inside the LLM .before layer 2.; the first method"),
        ("divprune+visionzip", "VisionZip prunes before the LLM .*; the second method"),
        ("full+fastv", "No pruning never prunes"),
        ("divprune+fastvv", "no method 'fastvv'; did you mean 'fastv'?"),
        ("divprune+fastv+vtw", "no method 'divprune.fastv.vtw'"),
    ],
)
def test_what_cannot_be_stacked_is_refused(id, sentence):
    with pytest.raises(BadInput, match=sentence):
        stages(id)


def test_a_stack_runs_as_its_parts_do_one_after_the_other(vlm, scene_image):
    """What the second keeps are tokens that the first kept, and the first keeps what it keeps alone."""
    methods = ["divprune+fastv", ("divprune+fastv", {"second_layer": 4}), "divprune", "divprune+fastv"]
    result = tokviz.compare(vlm, scene_image, "what color is the star?", methods=methods[:3], budget=20)
    stacked, deeper, alone = (result[key] for key in list(result.answers)[1:4])
    twice = tokviz.compare(vlm, scene_image, "what color is the star?", methods=["divprune"], budget=40)["divprune"]
    assert stacked.stages[0].kept == deeper.stages[0].kept == twice.stages[0].kept
    assert set(stacked.stages[1].kept) < set(stacked.stages[0].kept) and len(stacked.stages[1].kept) == 20
    assert stacked.method == "divprune+fastv" and len(alone.stages) == 1
    assert deeper.stages[1].site == 4
    again = tokviz.compare(vlm, scene_image, "what color is the star?", methods=["divprune+fastv"], budget=20)
    assert again["divprune+fastv"].stages[1].kept == stacked.stages[1].kept
