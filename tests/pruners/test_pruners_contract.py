"""What every method declares: names, parameters, needs, and the schedules that it plans."""

import math
import re
from dataclasses import replace

import pytest
from loops import each
from pruner_signals import INFOS, POOLED, SQUARE, TILED, plannable_infos, settings, stages_of

import tokviz.pruners as pruners
from tokviz.errors import BadInput, Unsupported
from tokviz.names import VisionLayer
from tokviz.pruners import PRUNERS
from tokviz.pruners.pruner import Param
from tokviz.types import Budget, Need, PlanningInfo, Schedule

by_id = pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner.id)


# ------------------------------------------------------------------------------------------------- declarations


def test_ids_are_unique_and_the_baseline_comes_first():
    ids = [pruner.id for pruner in PRUNERS]
    assert len(set(ids)) == len(ids)
    assert ids[0] == "full"
    assert pruners.methods() == PRUNERS


def test_get_names_the_known_ids():
    assert pruners.get("apet") is next(pruner for pruner in PRUNERS if pruner.id == "apet")
    with pytest.raises(BadInput, match=r"no method 'apex'.*full, random, .*apet"):
        pruners.get("apex")


@by_id
def test_declaration(pruner):
    assert pruner.id.isidentifier()
    assert pruner.id == pruner.id.lower()
    assert pruner.label
    assert 0 < len(pruner.claim) <= 120
    if pruner.family == "control":
        assert pruner.paper is None
    else:
        assert pruner.paper.title
        assert pruner.paper.authors
        assert 2020 < pruner.paper.year < 2030
        assert pruner.paper.url.startswith(("https://arxiv.org/abs/", "https://openreview.net/"))


@by_id
def test_params_have_help_and_a_default_that_they_accept(pruner):
    names = [param.name for param in pruner.settings]
    assert len(set(names)) == len(names)
    for param in pruner.settings:
        assert param.label
        assert param.help
        assert param.check(param.default) == param.default
        if param.kind in ("int", "float"):
            assert param.minimum < param.maximum
            assert param.step > 0
        if param.kind == "choice":
            assert param.default in param.choices
    assert pruner.complete(None) == pruner.complete({}) == {param.name: param.default for param in pruner.settings}
    with pytest.raises(BadInput, match=f"{re.escape(pruner.label)} has no parameter 'colour'"):
        pruner.complete({"colour": 1})


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int", 2.5, "whole number"), ("int", True, "a number"), ("int", "2", "a number"),
        ("int", 9, "between 1 and 4"), ("int", math.nan, "finite"), ("int", math.inf, "finite"),
        ("float", math.nan, "finite"),
        ("float", 0.5, "between 1 and 4"), ("choice", "c", "one of a, b"), ("bool", 1, "true or false"),
    ],
)  # fmt: skip
def test_bad_parameter_values_are_refused(kind, value, message):
    param = Param("p", "P", kind, 1, "help", minimum=1, maximum=4, step=1, choices=("a", "b"))
    with pytest.raises(BadInput, match=message):
        param.check(value)


@by_id
@each("tokens", [0, -1, 2.5, True, "64", None, math.nan, math.inf])
def test_budgets_below_one_or_not_whole_are_refused(pruner, tokens):
    with pytest.raises(BadInput, match="whole number of at least 1"):
        pruner.schedule(Budget(tokens), plannable_infos(pruner)[0], pruner.complete({}))


@by_id
def test_an_unknown_meaning_of_the_budget_is_refused(pruner):
    with pytest.raises(BadInput, match="published, final, average"):
        pruner.schedule(Budget(16, "total"), plannable_infos(pruner)[0], pruner.complete({}))


# ------------------------------------------------------------------------------------------------- schedules


def depth(site):
    """A number that grows along the way of the tokens through the model."""
    if isinstance(site, VisionLayer):
        return site.vision_layer - 1000
    return {"encoder": -2, "projector": -1}.get(site, site)


KEEP_POSITIONS = {
    "evs": "the place of a token in the video is what the paper keeps",
    "pixelprune": "the place of a cell in the image is what the released code keeps",
    "fastvid": "anchors stay where they are, in the paper and in the code",
    "dart": "on embeddings too, as the engine that does so gathers rows of its rotary table",
}
"""Methods that keep positions although they prune before the LLM, and why."""


def check_stage(pruner, stage, info):
    assert stage.title
    assert stage.positions in ("keep", "reindex")
    assert stage.keep is None or (isinstance(stage.keep, int) and stage.keep >= 0)
    assert set(stage.needs) <= set(pruner.needs)
    if not info.renumbers:
        assert stage.positions == "keep"
    else:
        kept = isinstance(stage.site, int) or pruner.id in KEEP_POSITIONS
        assert kept or stage.positions == "reindex", "before the LLM hardly anybody keeps positions"
    if isinstance(stage.site, int):
        assert 0 <= stage.site < info.n_layers
    elif isinstance(stage.site, VisionLayer):
        assert pruner.merges_in_vision
        assert 0 <= stage.site.vision_layer < info.n_vision_layers
    else:
        assert stage.site == "projector" or not info.merges_patches
    for need in stage.needs:
        assert need.layer not in ("previous", "this") or isinstance(stage.site, int)
        assert need.layer != "previous" or stage.site >= 1
        assert not isinstance(stage.site, VisionLayer), "inside the tower there is nothing but its features and keys"


@by_id
def test_schedules_are_consistent(pruner):
    for info in plannable_infos(pruner):
        for given in settings(pruner):
            for tokens in (48, info.n_visual, info.n_visual + 5, 60.0, 1):
                try:
                    schedule = pruner.schedule(Budget(tokens), info, pruner.complete(given))
                except Unsupported:
                    continue  # a setting for other families; that one info takes it is checked in stages_of
                except BadInput as refusal:
                    # below what the first layers, which see everything, process on average
                    assert tokens == 1 or "an average of" in str(refusal)
                    continue
                depths = [depth(stage.site) for stage in schedule.stages]
                assert depths == sorted(depths)
                assert len({stage.site for stage in schedule.stages}) == len(schedule.stages)
                for stage in schedule.stages:
                    check_stage(pruner, stage, info)
                counts = schedule.counts_per_layer(info.n_visual, info.n_layers)
                assert counts == sorted(counts, reverse=True)


@by_id
@pytest.mark.parametrize("counted_as", ["final", "average"])
def test_a_budget_is_met_as_it_is_counted_or_refused_with_a_reason(pruner, counted_as):
    met = 0
    for info in plannable_infos(pruner):
        for tokens in (16, 48, info.n_visual // 2, info.n_visual, info.n_visual + 5):
            try:
                schedule = pruner.schedule(Budget(tokens, counted_as), info, pruner.complete({}))
            except BadInput as refusal:
                assert len(str(refusal)) > 40
                continue
            met += 1
            if pruner.id == "full":
                continue
            found = schedule.meanings(info.n_visual, info.n_layers)
            wanted = min(tokens, info.n_visual)
            if counted_as == "final":
                assert found.final == wanted
            else:
                assert found.average_in == pytest.approx(wanted, abs=AVERAGE_IS_COARSE.get(pruner.id, 0.5))
    assert met > 0 or pruner.id in NOT_A_BUDGET


AVERAGE_IS_COARSE: dict[str, float] = {"vtw": 93 - 16}  # whole layers only: one of 8 is 744 / 8 = 93 tokens
"""Methods that cannot meet an average to half a token, and by how many tokens they may miss it."""

NOT_A_BUDGET: dict[str, str] = {"vtw": "leaves no token, so that no final count can be asked for"}
"""Methods that refuse one way of counting altogether, and why."""


@by_id
def test_every_need_is_used_by_some_schedule(pruner):
    used = set()
    for given in settings(pruner):
        used |= {need for _, _, stage in stages_of(pruner, pruner.complete(given)) for need in stage.needs}
    assert used == set(pruner.needs)
    assert all(isinstance(need, Need) for need in pruner.needs)
    assert set(pruner.does_without) <= set(pruner.needs)


def test_stages_without_a_count_decide_at_run_time():
    uncounted = {
        pruner.id
        for pruner in PRUNERS
        for given in settings(pruner)
        for _, _, stage in stages_of(pruner, pruner.complete(given))
        if stage.keep is None
    }
    assert uncounted <= {
        "todre",
        "globalcom2",
        "prumerge",
        "prumerge_plus",
        "sparsevlm",
        "vidcom2",
        "holitom",
        "dycoke",
        "flashvid",
        "pixelprune",
    }
    assert "todre" in uncounted


def test_an_empty_schedule_is_possible():
    assert Schedule(()).final_count(9) == 9


# ------------------------------------------------------------------------------------------------- what a model lacks

LACKING = {
    "[CLS]": replace(TILED, has_cls=False),
    "text tower": replace(TILED, has_text_tower=False),
    "crops": SQUARE,
    "smaller images": replace(TILED, shrinks=False),
    "evidence": replace(TILED, has_evidence=False),
    "vision tower": replace(TILED, n_vision_layers=None),
    "vision tower's patches": replace(TILED, merges_patches=True),
    "everything": PlanningInfo(
        n_visual=144,
        n_layers=8,
        family="qwen2_vl",
        has_cls=False,
        merges_patches=True,
        renumbers=False,
        published_as="qwen",
    ),
}


@by_id
@each("lack", LACKING)
def test_what_a_model_lacks_is_one_sentence_and_the_schedule_refuses_with_it(pruner, lack):
    info = LACKING[lack]
    sentence = pruner.missing(info)
    if sentence is None:
        assert (
            pruner.schedule(Budget(info.n_visual // 4), info, pruner.complete({})) != Schedule(())
            or pruner.id == "full"
        )
    else:
        assert sentence.startswith(pruner.label)
        assert sentence.endswith(".")
        with pytest.raises(Unsupported, match=re.escape(sentence)):
            pruner.schedule(Budget(48), info, pruner.complete({}))


POOLED_IMAGE = replace(POOLED, has_frames=False, n_views=1)


@by_id
def test_missing_follows_the_declaration(pruner):
    needed = {need.kind for need in pruner.needs if need not in pruner.does_without}
    tower_only = pruner.merges_in_vision and not pruner.does_without_tower
    lacked = {
        "[CLS]": any(kind.startswith("cls_") for kind in needed),
        "text tower": "clip_relevance" in needed,
        "evidence": "evidence" in needed,
        "smaller images": pruner.encodes_anew,
        "crops": pruner.needs_tiles,
        "vision tower": tower_only,
        "vision tower's patches": tower_only,
    }
    for lack, expected in lacked.items():  # all of them are images
        assert (pruner.missing(LACKING[lack]) is not None) == (expected or pruner.needs_frames), lack
    assert (pruner.missing(TILED) is not None) == pruner.needs_frames
    if pruner.needs_frames:
        assert pruner.missing(POOLED) is None and pruner.missing(POOLED_IMAGE) is not None
    assert len(plannable_infos(pruner)) == sum(pruner.missing(info) is None for info in INFOS)


@pytest.mark.parametrize(
    ("change", "info", "words"),
    [
        ({"needs": (Need("cls_logits", "last"),)}, LACKING["[CLS]"], "reads the [CLS] token"),
        ({"needs": (Need("clip_relevance"),)}, LACKING["text tower"], "CLIP's text tower"),
        ({"needs_tiles": True}, LACKING["crops"], "without crops"),
        ({"needs_frames": True}, POOLED_IMAGE, "the frames of a video, and this is an image."),
        ({"needs_frames": True}, replace(POOLED, n_views=1), "the frames of a video, and there is only one here."),
        ({"needs_frames": True}, SQUARE, "the frames of a video, and this model takes images only."),
        ({"merges_in_vision": True}, LACKING["vision tower"], "merges inside the vision tower"),
        ({"merges_in_vision": True}, LACKING["vision tower's patches"], "merges inside the vision tower"),
    ],
)
def test_missing_names_what_it_is(change, info, words):
    pruner = replace(pruners.get("divprune"), **change)
    assert words in pruner.missing(info)
    assert pruner.missing(POOLED if pruner.needs_frames else TILED) is None


def test_a_need_that_can_be_replaced_is_never_missing():
    need = Need("cls_attention", "last")
    pruner = replace(pruners.get("divprune"), needs=(need,), does_without=(need,))
    assert pruner.missing(LACKING["everything"]) is None
    assert replace(pruner, does_without=()).missing(LACKING["everything"]) is not None


def test_a_method_is_found_by_the_name_of_its_later_version():
    assert pruners.get("TrimTokenator") is pruners.get("trimtokenator") is pruners.get("adaptvtp")


def test_a_misspelt_need_names_the_nearest_signal():
    with pytest.raises(BadInput, match=r"There is no signal .cls_atention.; did you mean .cls_attention.\?"):
        Need("cls_atention")
