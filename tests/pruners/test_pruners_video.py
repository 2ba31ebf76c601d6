"""Methods on the frames of videos: ApET's and ToDRE's rules worked out on paper, shares of frames, published places."""

import pytest
import torch

from tokviz.errors import Unsupported
from tokviz.pruners import PRUNERS, get
from tokviz.pruners.apet import select_each_frame, select_stage_1
from tokviz.types import Budget, PlanningInfo, Signals

VIDEO_LLAVA = PlanningInfo(2056, 32, "video_llava", n_views=8, has_frames=True, published_as="video_llava")
NEXT_VIDEO = PlanningInfo(1152, 32, "llava_next_video", n_views=8, has_frames=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stages(name, info, tokens=256, **params):
    pruner = get(name)
    return pruner.schedule(Budget(tokens), info, pruner.complete(params)).stages


# -- ApET --------------------------------------------------------------------------------------------------------------

# One basis token. The mean is (2, 0.8, 0.2), so token 0 starts and is the basis; errors are the distances to its axis.
FIVE = torch.tensor([[8.0, 0, 0], [1, 0, 0], [0, 3, 0], [0, 0, 1], [1, 1, 0]])
CLS = torch.tensor([[500.0, -500, 500]])
FILM = torch.cat([CLS, FIVE, 3 * CLS, 2 * FIVE.flip(0)])
"""Two frames behind their [CLS]: rows 1..5 are FIVE, rows 11..7 are twice FIVE."""
VIEW = torch.arange(2).repeat_interleave(6)
IS_PATCH = torch.tensor([False, *[True] * 5] * 2)


def film(features=FILM):
    return Signals(features, view=VIEW, candidates=IS_PATCH)


def test_official_mode_on_video_llava_is_error_rank_then_basis_in_each_frame_behind_its_cls():
    params = get("apet").complete({"mode": "official", "basis_tokens": 1})
    found = select_each_frame(film(), 6, params, generator())
    # Errors of rows 1..5: 0, 0, 3, 1, 1; of 7..11: 2, 2, 6, 0, 0. Two of each frame by error (ties to the first): rows
    # 3, 4 and 9, 7; the basis, rows 1 and 11, as it was; [CLS] uncounted.
    assert found.kept.tolist() == [0, 1, 3, 4, 6, 7, 9, 11]
    assert found.kept[found.sequence].tolist() == [0, 3, 4, 1, 6, 9, 7, 11]
    # All others merge, the basis too. Frame 0: 1, 2 (cosine 0 with both: the first) and 5 into 3:
    # (0 + 8 + 1 + 1, 3 + 1, 0) / 4. Frame 1: 8 (0 with both), 10 and 11 into 7: (2 + 0 + 2 + 16, 2, 2) / 4.
    assert found.assignment.tolist() == [0, 1, 3, 3, 4, 3, 6, 7, 7, 9, 7, 11]
    expected = torch.tensor(
        [[500.0, -500, 500], [8, 0, 0], [2.5, 1, 0], [0, 0, 1],
         [1500, -1500, 1500], [5, 0.5, 0.5], [0, 6, 0], [16, 0, 0]]
    )  # fmt: skip
    assert torch.allclose(found.features, expected)
    sizes = next(m for m in found.diagnostics.maps if m.name == "group_size").values.tolist()
    assert sizes == [1, 1, 0, 4, 1, 0, 1, 4, 0, 1, 0, 1]
    assert found.order.tolist() == [-1, 0, *[-1] * 9, 1] and found.diagnostics.facts["kept_per_view"] == [3, 3]
    assert found.diagnostics.score.values[IS_PATCH].tolist() == pytest.approx([0, 0, 3, 1, 1, 2, 2, 6, 0, 0])
    assert [m.name for m in found.diagnostics.maps] == ["relative_error", "group_size"], "nothing is overwritten here"


def test_paper_mode_keeps_basis_and_largest_errors_of_each_frame_at_their_places():
    found = select_each_frame(film(), 6, get("apet").complete({"basis_tokens": 1}), generator())
    assert found.kept.tolist() == [0, 1, 3, 4, 6, 7, 9, 11] and found.sequence is None
    # Frame 0 as in ``test_pruners_apet``: 2 and 5 into the basis, row 1. Frame 1: 8 (cosine 0 with all: the first) into
    # 7, 10 into the basis, row 11: ((2, 2, 0) + (0, 0, 2)) / 2, ((16, 0, 0) + (2, 0, 0)) / 2.
    assert found.assignment.tolist() == [0, 1, 1, 3, 4, 1, 6, 7, 7, 9, 11, 11]
    assert torch.allclose(found.features[1], torch.tensor([10 / 3, 1 / 3, 0]))
    assert torch.allclose(found.features[[5, 7]], torch.tensor([[1.0, 1, 1], [9, 0, 0]]))


def test_of_256_tokens_per_frame_official_mode_keeps_22_and_10_and_cls():
    (stage,) = stages("apet", VIDEO_LLAVA, mode="official")
    assert (stage.site, stage.keep, stage.positions) == ("projector", 256, "reindex")
    features = torch.randn(2056, 64, generator=generator(3)) * torch.rand(2056, 1, generator=generator(4))
    view, is_patch = torch.arange(8).repeat_interleave(257), torch.arange(2056) % 257 > 0
    params = get("apet").complete({"mode": "official"})
    found = stage.select(Signals(features, view=view, candidates=is_patch), stage.keep, params, generator())
    assert len(found.kept) == 264 and torch.bincount(view[found.kept]).tolist() == [33] * 8
    error = found.diagnostics.score.values
    for frame, rows in enumerate(found.kept[found.sequence].split(33)):
        assert rows[0] == 257 * frame and torch.equal(found.features[frame * 33], features[257 * frame])
        assert (error[rows[1:23]].diff() <= 0).all() and error[rows[23:]].max() < 1e-3
        best = error[257 * frame + 1 : 257 * (frame + 1)].topk(22).indices + 257 * frame + 1
        assert sorted(best.tolist()) == sorted(rows[1:23].tolist())
        assert found.order[rows[23:]].diff().tolist() == [1] * 9
        assert torch.equal(found.features[torch.searchsorted(found.kept, rows[23:])], features[rows[23:]])


def test_a_frame_that_cannot_be_ranked_and_one_that_gets_nothing_leave_the_order_whole():
    broken = FILM.clone()
    broken[7:] = torch.nan
    params = get("apet").complete({"mode": "official", "basis_tokens": 1})
    found = select_each_frame(film(broken), 3, params, generator())
    assert found.kept[found.sequence].tolist() == [0, 3, 4, 1, 6]
    found = select_each_frame(film(), 1, params, generator())  # the first frame's, the mean of all its tokens
    assert found.kept[found.sequence].tolist() == [0, 1, 6]
    assert torch.allclose(found.features[1], FIVE.mean(0))


@pytest.mark.parametrize("counted", ["published", "final", "average"])
def test_video_llava_has_one_stage_and_one_meaning_of_the_budget(counted):
    pruner = get("apet")
    schedule = pruner.schedule(Budget(256, counted), VIDEO_LLAVA, pruner.complete({}))
    meanings = schedule.meanings(2056, 32)
    assert (meanings.final, meanings.average_in) == (256, 256) and len(schedule.stages) == 1


def test_llava_next_video_reduces_pooled_features_frame_by_frame_then_all_together():
    first, second = stages("apet", NEXT_VIDEO, 192)
    assert (first.site, first.keep, second.site, second.keep) == ("encoder", 288, 16, 96)
    features = torch.cat([FIVE, 2 * FIVE.flip(0)])
    params = get("apet").complete({"basis_tokens": 1})
    assert first.select is select_stage_1
    found = first.select(Signals(features, view=torch.arange(2).repeat_interleave(5)), 6, params, generator())
    assert found.kept.tolist() == [0, 2, 3, 5, 7, 9]
    found = second.select(Signals(features, view=torch.arange(2).repeat_interleave(5)), 6, params, generator())
    assert found.diagnostics.facts["basis_used"] == 1, "one basis for all frames"


def test_official_mode_is_refused_where_there_is_no_official_code():
    for info in (
        NEXT_VIDEO,
        PlanningInfo(256, 32, "video_llava", published_as="video_llava"),
        PlanningInfo(300, 28, "qwen2_5_vl", has_cls=False, published_as="qwen"),
    ):
        with pytest.raises(Unsupported, match="Choose mode paper"):
            stages("apet", info, 64, mode="official")
    crops = PlanningInfo(2928, 32, "llava_next_video", n_views=5, has_tiles=True)
    assert [stage.keep for stage in stages("apet", crops, 640, mode="official")] == [960, 320]
    assert stages("apet", crops, 640)[0].site == "encoder"
    assert stages("apet", PlanningInfo(256, 32, "video_llava", published_as="video_llava"), 64)[0].site == "encoder"


# -- ToDRE -------------------------------------------------------------------------------------------------------------


def test_todres_pivot_is_the_highest_attention_of_all_frames_and_its_search_is_joint():
    """Directions in a plane, by angle: frame 0 has 0, 10, 80, 100 degrees, frame 1 has 5, 45, 85, 180."""
    angles = torch.tensor([0.0, 0, 10, 80, 100, 0, 5, 45, 85, 180]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    attention = torch.tensor([torch.nan, 0.1, 0.2, 0.3, 0.1, torch.nan, 0.2, 0.4, 0.2, 0.1])
    signals = Signals(
        features, cls_attention=attention, view=torch.arange(2).repeat_interleave(5),
        candidates=~attention.isnan(),
    )  # fmt: skip
    info = PlanningInfo(10, 8, "video_llava", n_views=2, has_frames=True, published_as="video_llava")
    stage = stages("todre", info, 4)[0]
    found = stage.select(signals, 4, get("todre").complete({}), generator())
    # Pivot: 45 degrees (frame 1). Farthest from it is 180, then 100 (55 away from the pivot), then 0 (45 away from it).
    assert found.diagnostics.facts["pivot"] == 7 and found.order.tolist() == [-1, 3, -1, -1, 2, -1, -1, 0, -1, 1]
    two_steps = max(range(2), key=lambda frame: float(attention[frame * 5 + 1 : frame * 5 + 5].max()))
    assert int(signals.view[7]) == two_steps, "the frame first, then the token in it: the same"


def test_todre_looks_for_the_pivot_in_the_thumbnail_of_any_model_with_crops():
    signals = Signals(torch.eye(4), cls_attention=torch.tensor([0.1, 0.2, 0.9, 0.3]), view=torch.tensor([0, 0, 1, 1]))
    for info, pivot in (
        (PlanningInfo(4, 8, "llava_next_video", n_views=2, has_tiles=True), 1),
        (PlanningInfo(4, 8, "llava_next_video", n_views=2, has_frames=True), 2),
    ):
        found = stages("todre", info, 2)[0].select(signals, 2, get("todre").complete({}), generator())
        assert found.diagnostics.facts["pivot"] == pivot


# -- the others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["fastervlm", "vispruner", "visionzip", "scope", "cdpruner", "polymorphic", "prumerge_plus"]
)
def test_these_rank_each_frame_by_itself_with_an_equal_share(name):
    """One frame has all the attention and all the length: a joint ranking would keep it alone."""
    n, frames = 36, 4
    scale = torch.tensor([1.0, 1, 100, 1]).repeat_interleave(n)
    signals = Signals(
        torch.randn(frames * n, 8, generator=generator(1)) * scale[:, None],
        cls_attention=torch.rand(frames * n, generator=generator(2)) * scale / 5000,
        cls_full_width=torch.rand(frames * n, generator=generator(2)) * scale / 5000,
        cls_feature=torch.randn(frames, 8, generator=generator(3)),
        keys=torch.randn(frames * n, 4, generator=generator(4)),
        full_keys=torch.randn(frames * n, 12, generator=generator(4)),
        question_features=torch.randn(3, 8, generator=generator(5)),
        view=torch.arange(frames).repeat_interleave(n),
    )
    info = PlanningInfo(frames * n, 8, "llava_next_video", n_views=frames, has_frames=True)
    stage = stages(name, info, 32)[0]
    found = stage.select(signals, 32, get(name).complete({}), generator())
    extra = 0 if found.extra is None else len(found.extra)
    assert torch.bincount(signals.view[found.kept], minlength=frames).tolist() == [(32 - extra) // frames] * frames


def test_visionzip_adds_a_cls_of_every_frame_in_front_of_it():
    n, frames = 9, 3
    signals = Signals(
        torch.arange(27.0)[:, None].expand(-1, 2).contiguous(), cls_attention=torch.arange(27.0).flip(0) / 400,
        cls_feature=torch.tensor([[100.0, 0], [200, 0], [300, 0]]), keys=torch.eye(27),
        view=torch.arange(frames).repeat_interleave(n),
    )  # fmt: skip
    info = PlanningInfo(frames * n, 8, "llava_next_video", n_views=frames, has_frames=True)
    found = stages("visionzip", info, 12)[0].select(
        signals, 12, get("visionzip").complete({"contextual": 1}), generator()
    )
    assert found.extra.tolist() == [[100, 0], [200, 0], [300, 0]]
    # Per frame [CLS], the two highest (the first two, attention falls), and a contextual token (the first of the rest).
    tokens = [*found.kept.tolist(), "A", "B", "C"]
    assert [tokens[place] for place in found.sequence.tolist()] == ["A", 0, 1, 2, "B", 9, 10, 11, "C", 18, 19, 20]


def test_vtw_withdraws_from_video_llava_before_layer_16():
    assert [stages("vtw", info)[0].site for info in (VIDEO_LLAVA, NEXT_VIDEO)] == [16, 15]
    assert stages("vtw", PlanningInfo(256, 32, "video_llava", published_as="video_llava"), 64)[0].site == 16


def test_globalcom2_says_that_frames_have_no_crops():
    assert get("globalcom2").missing(NEXT_VIDEO).endswith("this model takes the frames of a video without crops.")


@pytest.mark.parametrize("info", [VIDEO_LLAVA, NEXT_VIDEO], ids=lambda info: info.family)
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner.id)
def test_every_method_plans_for_videos_or_says_why_not(pruner, info):
    if pruner.missing(info) is not None:
        assert pruner.id in ("globalcom2", "tome")
        return
    plan = pruner.schedule(Budget(256), info, pruner.complete({}))
    assert pruner.id == "full" or plan.stages or (pruner.encodes_anew and plan.smaller == 256)
