from dataclasses import replace

import numpy as np
import pytest
from drawn_sessions import COLOR, comparison, plain_pixels, run, score_map, square_grid, stage, tiny, typical
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib import colormaps

from tokviz.errors import BadInput
from tokviz.models.llava import centre_crop_grid, padded_square_grid
from tokviz.runs.metrics import carriers
from tokviz.viz import palette
from tokviz.viz.overlays import (
    _carriers,
    cluster_overlay,
    group_colors,
    kept_overlay,
    kept_stage,
    map_limits,
    merge_stage,
    plain_image,
    score_overlay,
    score_stage,
    survival_map,
    survival_overlay,
)
from tokviz.viz.raster import dashed_boxes, open_canvas, patch_raster

BRIGHTNESS = 140.75
DROPPED = (88, 88, 88)  # 0.30 * 140.75 + 0.70 * 66
VEIL = (217, 217, 217)  # 0.22 * 140.75 + 0.78 * 238
NEUTRAL = (183, 183, 183)  # 0.15 * 140.75 + 0.85 * 190


def painted(drawing, inks):
    """A drawing made of one character per pixel."""
    return np.array([[inks[ink] for ink in line] for line in drawing.split()], dtype=np.uint8)


INKS = {
    "p": COLOR, "d": DROPPED, "o": palette.KEPT_OUTLINE, "v": VEIL, "/": palette.UNSEEN_HATCH,
    "E": palette.EVIDENCE[0], "W": palette.EVIDENCE[1],
}  # fmt: skip


def test_kept_patches_keep_their_colours_and_dropped_ones_are_grey():
    expected = painted(
        """
        oooooodddddd
        oppppodddddd
        oppppodddddd
        oppppodddddd
        oppppodddddd
        oooooodddddd
        dddddddddddd
        dddddddddddd
        dddddddddddd
        dddddddddddd
        dddddddddddd
        dddddddddddd
        """,
        INKS,
    )
    session = tiny([0])
    np.testing.assert_array_equal(kept_overlay(open_canvas(session), session.runs[1]), expected)


def test_neighbouring_kept_patches_are_outlined_as_one_region():
    row = "oppppppppppo"
    expected = painted("\n".join(["o" * 12, *[row] * 4, "o" * 12, *["d" * 12] * 6]), INKS)
    session = tiny([0, 1])
    np.testing.assert_array_equal(kept_overlay(open_canvas(session), session.runs[1]), expected)


def test_basis_tokens_are_outlined_in_gold_above_the_others():
    expected = painted(
        """
        oooooogggggg
        opppppgppppg
        opppppgppppg
        opppppgppppg
        opppppgppppg
        oooooogggggg
        dddddddddddd
        dddddddddddd
        dddddddddddd
        dddddddddddd
        dddddddddddd
        dddddddddddd
        """,
        INKS | {"g": palette.BASIS_OUTLINE},
    )
    session = tiny([0, 1])
    picked = (
        session.runs[1].stages[0].model_copy(update={"order": [-1, 0, 1, -1], "order_is_basis": True})
    )  # token 2 is dropped
    rebuilds = session.runs[1].model_copy(update={"stages": [picked]})
    drawn = kept_overlay(open_canvas(session), rebuilds)
    np.testing.assert_array_equal(drawn[:6], expected[:6])
    assert not (drawn[6:] == palette.BASIS_OUTLINE).all(axis=2).any()
    picked = picked.model_copy(update={"order_is_basis": False})
    assert (
        not (
            kept_overlay(open_canvas(session), rebuilds.model_copy(update={"stages": [picked]}))
            == palette.BASIS_OUTLINE
        )
        .all(axis=2)
        .any()
    )


def dashed_by_area(pixels, corners, width):
    """A dashed box by two masks over the whole image."""
    height, image_width = pixels.shape[:2]
    x0, y0, x1, y1 = corners
    outer, inner = (np.zeros((height, image_width), dtype=bool) for _ in range(2))
    left, top = max(x0 - width, 0), max(y0 - width, 0)
    right, bottom = min(x1 + width, image_width), min(y1 + width, height)
    outer[top:bottom, left:right] = True
    inner[top + width : max(bottom - width, 0), left + width : max(right - width, 0)] = True
    rows, columns = np.indices(outer.shape)
    on_top_or_bottom = (rows < top + width) | (rows >= bottom - width)
    dash = np.where(on_top_or_bottom, columns - left, rows - top) // (3 * width) % 2 == 0
    first, second = (np.array(color, dtype=np.uint8) for color in palette.EVIDENCE)
    return np.where((outer & ~inner)[..., None], np.where(dash[..., None], first, second), pixels)


@settings(max_examples=200, deadline=None)
@given(
    corners=st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 40), st.integers(0, 30)),
    width=st.integers(1, 5),
)
def test_dashed_boxes_are_what_two_masks_give(corners, width):
    pixels = np.full((30, 40, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(dashed_boxes(pixels, [corners], width), dashed_by_area(pixels, corners, width))
    assert (pixels == 77).all()


def test_patches_on_each_other_are_refused_before_they_are_drawn():
    grid = square_grid((12, 12), 2, 6)
    heap = grid.model_copy(
        update={"view": [0] * 900, "row": [0] * 900, "col": [0] * 900, "box": [(0, 0, 12, 12)] * 900}
    )
    with pytest.raises(BadInput, match="lie upon each other"):
        patch_raster(heap, (12, 12))


def test_what_the_model_did_not_see_is_veiled_and_hatched():
    session = tiny([], size=(16, 12), left=2)
    lines = []
    for row in range(12):
        veiled = "".join("/" if (row + column) % 9 < 1 else "v" for column in range(16))
        lines.append(veiled[:2] + "d" * 12 + veiled[14:])
    np.testing.assert_array_equal(kept_overlay(open_canvas(session), session.runs[1]), painted("\n".join(lines), INKS))


def test_the_evidence_box_lies_around_the_evidence_and_hides_none_of_it():
    session = tiny([0, 1, 2, 3], evidence=[(4, 4, 8, 8)])
    expected = painted(
        """
        pppppppppppp
        pppppppppppp
        pppppppppppp
        pppEEEWWWppp
        pppEppppEppp
        pppEppppEppp
        pppWppppWppp
        pppWppppWppp
        pppEEEWWWppp
        pppppppppppp
        pppppppppppp
        pppppppppppp
        """,
        INKS,
    )
    np.testing.assert_array_equal(plain_image(open_canvas(session)), expected)
    assert (kept_overlay(open_canvas(session), session.runs[1])[4:8, 4:8] == COLOR).all()
    assert (plain_image(replace(open_canvas(session), evidence=())) == COLOR).all()


def test_a_run_without_stages_shows_the_whole_image():
    session = tiny()
    np.testing.assert_array_equal(
        kept_overlay(open_canvas(session), session.runs[0]), plain_image(open_canvas(session))
    )


def test_dropped_and_kept_differ_in_brightness_for_every_image():
    white, black = (0.30 * grey + 0.70 * palette.DROPPED_GREY for grey in (255, 0))
    assert white < 125 and black > 40


def test_scores_are_colours_of_the_map_and_missing_ones_are_hatched():
    session = tiny([1], score=score_map([0.0, 10.0, None, 5.0]))
    drawn = score_overlay(open_canvas(session), session.runs[1])
    for share, pixel in ((0.0, drawn[2, 2]), (1.0, drawn[2, 9]), (0.5, drawn[9, 9])):
        color = np.array(colormaps["inferno"](share)[:3]) * 255
        np.testing.assert_array_equal(pixel, np.floor(0.18 * BRIGHTNESS + 0.82 * color + 0.5))
    assert {tuple(pixel) for pixel in drawn[6:, :6].reshape(-1, 3)} == {NEUTRAL, palette.UNSEEN_HATCH}
    dark, light = palette.CASING
    assert tuple(drawn[0, 6]) == dark and tuple(drawn[1, 7]) == light and tuple(drawn[0, 5]) != dark


def test_a_log_scale_spaces_by_ratio_and_ends_after_three_decades():
    assert map_limits(score_map([1e-9, 1.0, 10.0, 0.0], "log")) == (0.01, 10.0)
    assert map_limits(score_map([0.1, 1.0, None, None], "log")) == (0.1, 1.0)
    assert map_limits(score_map([0.0, 0.0], "log")) is None
    session = tiny([1], score=score_map([0.1, 10.0, 1.0, 0.0], "log"))
    drawn = score_overlay(open_canvas(session), session.runs[1])
    middle = np.floor(0.18 * BRIGHTNESS + 0.82 * np.array(colormaps["inferno"](0.5)[:3]) * 255 + 0.5)
    np.testing.assert_allclose(drawn[9, 2], middle, atol=2)  # log(1) may fall on either side of the middle colour
    np.testing.assert_array_equal(drawn[9, 9], drawn[2, 2])  # zero shares the colour of the low end


def test_equal_scores_are_drawn_in_the_middle_of_the_scale():
    session = tiny([0], score=score_map([3.0] * 4))
    middle = np.floor(0.18 * BRIGHTNESS + 0.82 * np.array(colormaps["inferno"](0.5)[:3]) * 255 + 0.5)
    np.testing.assert_array_equal(score_overlay(open_canvas(session), session.runs[1])[9, 9], middle)


def test_merge_groups_have_a_colour_a_border_and_a_ring_on_their_kept_token():
    session = tiny([0, 1], assignment=[0, 1, 0, -1])
    drawn = cluster_overlay(open_canvas(session), session.runs[1])
    color = group_colors(np.array([0, 1, 0, -1]))[0]
    tint = np.floor(0.45 * BRIGHTNESS + 0.55 * color + 0.5)
    np.testing.assert_array_equal(drawn[8, 2], tint)  # merged into token 0
    np.testing.assert_array_equal(drawn[0, 0], tint)
    assert tuple(drawn[0, 11]) == COLOR  # carries only itself
    assert tuple(drawn[9, 9]) == DROPPED  # dropped without a merge
    assert tuple(drawn[0, 6]) == palette.CASING[0] and tuple(drawn[8, 6]) == palette.CASING[0]
    assert tuple(drawn[6, 2]) != palette.CASING[0]  # no border inside a group
    ring_rows = (drawn[:6, :6] == palette.CASING[1]).all(axis=2).any(axis=1)
    assert ring_rows.any() and not (drawn[6:] == palette.CASING[1]).all(axis=2).any()


def test_regions_are_drawn_as_merge_groups_are_but_carry_nothing():
    merging = tiny([0, 1], assignment=[0, 1, 0, -1])
    record = merging.runs[1].stages[0].model_copy(update={"assignment": None, "covered_by": [0, 1, 0, -1]})
    covering = merging.runs[1].model_copy(update={"stages": [record]})
    session = merging.model_copy(update={"runs": [merging.runs[0], covering]})
    drawn, merged = (cluster_overlay(open_canvas(one), one.runs[1]) for one in (session, merging))
    np.testing.assert_array_equal(drawn, merged)
    assert merge_stage(covering) == 0
    assert carriers([record], 4) == [0, 1, -1, -1], "what is covered is lost all the same"
    damaged = covering.model_copy(update={"stages": [record.model_copy(update={"covered_by": [0, 1, 0, 44]})]})
    with pytest.raises(BadInput, match="damaged"):
        cluster_overlay(open_canvas(session), damaged)


def test_groups_hold_what_earlier_stages_merged():
    first = stage([0, 1, 3], 4, None, [0, 1, 0, 3])
    second = stage([1, 3], 3, None, [1, 1, -1, 3])
    dropping = stage([1], 2)
    merged = run("apet", "x", [first, second, dropping])
    session = comparison(plain_pixels(12, 12), square_grid((12, 12), 2, 6), [run("full", "x"), merged])
    raster = open_canvas(session).raster
    # 2 went into 0, and 0 with it into 1; 3 stood alone until the last stage dropped it.
    assert _carriers([first, second], raster).tolist() == [1, 1, 1, 3]
    assert _carriers([first, second, dropping], raster).tolist() == [1, 1, 1, -1]
    drawn = cluster_overlay(open_canvas(session), merged, stage=1)
    tint = np.floor(0.45 * BRIGHTNESS + 0.55 * group_colors(np.array([1, 1, 1, 3]))[0] + 0.5)
    for row, column in ((0, 0), (9, 2), (0, 11)):
        np.testing.assert_array_equal(drawn[row, column], tint)
    assert tuple(drawn[11, 11]) == COLOR


def test_survival_counts_the_stages_and_outlines_what_stayed():
    stages = [stage([0, 1, 3], 4), stage([1, 3], 3), stage([3], 2)]
    pruned = run("apet", "x", stages)
    assert survival_map(pruned, 4).values == [1, 2, 0, 3]
    session = comparison(plain_pixels(12, 12), square_grid((12, 12), 2, 6), [run("full", "x"), pruned])
    drawn = survival_overlay(open_canvas(session), pruned)
    for depth, pixel in ((1, drawn[2, 2]), (2, drawn[2, 9]), (0, drawn[9, 2])):
        color = np.array(colormaps["inferno"](depth / 3)[:3]) * 255
        np.testing.assert_array_equal(pixel, np.floor(0.18 * BRIGHTNESS + 0.82 * color + 0.5))
    assert tuple(drawn[6, 6]) == palette.CASING[0] and tuple(drawn[0, 0]) != palette.CASING[0]


def test_group_colours_are_unique_and_larger_groups_choose_first():
    carrier = np.repeat(np.arange(40), 3)
    colors = group_colors(carrier)
    assert len({tuple(color) for color in colors}) == 40
    first = group_colors(np.array([0, 0, 2, 2, 2]))
    np.testing.assert_array_equal(first[2], group_colors(np.array([0, 0, 0]))[0])
    assert np.isnan(group_colors(np.array([0, -1, 2]))).all()


def test_the_stage_that_tells_most_is_drawn():
    probes = [stage([0, 2], 4, score_map([1, 2, 3, 4])), stage([0, 2], 2, site=4), stage([], 2, site=5)]
    withdrawn = run("todre", "x", probes)
    assert (kept_stage(withdrawn), score_stage(withdrawn), merge_stage(withdrawn)) == (0, 0, None)
    assert kept_stage(run("full", "x")) is None
    assert kept_stage(run("vtw", "x", [stage([], 4, site=2)])) == 0
    apet = run(
        "apet",
        "x",
        [stage([0, 1], 4, None, [0, 1, 0, 1]), stage([0], 2, score_map([1, 2, None, None]), [0, 0, -1, -1])],
    )
    assert (kept_stage(apet), score_stage(apet), merge_stage(apet)) == (1, 1, 1)


def test_what_cannot_be_drawn_is_refused_with_a_sentence():
    session = tiny([0])
    pruned = session.runs[1]
    for draw, words in (
        (lambda: score_overlay(open_canvas(session), pruned), "ranks no tokens"),
        (lambda: cluster_overlay(open_canvas(session), pruned), "merges nothing"),
        (lambda: kept_overlay(open_canvas(session), pruned, stage=3), "no stage 3"),
        (lambda: score_overlay(open_canvas(session), session.runs[0]), "0 pruning stage"),
        (lambda: open_canvas(session, level=1), "no level 1"),
    ):
        with pytest.raises(BadInput, match=words):
            draw()


@pytest.mark.parametrize(
    "record",
    [
        stage([9], 4),
        stage([-1], 4),
        stage([0], 4, score_map([1.0])),
        stage([0], 4, assignment=[0, 0]),
        stage([0], 4, assignment=[0, 0, 0, 44]),
    ],
)
def test_a_session_that_does_not_fit_its_grid_is_refused(record):
    damaged = run("apet", "x", [record])
    session = comparison(plain_pixels(12, 12), square_grid((12, 12), 2, 6), [run("full", "x"), damaged])
    draw = score_overlay if record.score else cluster_overlay if record.assignment else kept_overlay
    with pytest.raises(BadInput, match="damaged"):
        draw(open_canvas(session), damaged)


def test_boxes_without_sense_do_not_break_the_drawing():
    hostile = [(float("nan"), 0, 5, 5), (-1e30, -5, 1e30, 5), (8, 8, 2, 2), (float("inf"), 0, float("-inf"), 3)]
    session = tiny([0], evidence=hostile)
    assert kept_overlay(open_canvas(session), session.runs[1]).shape == (12, 12, 3)


def test_the_callers_canvas_is_never_drawn_upon():
    session = typical(2, evidence=[(3, 3, 20, 20)])
    canvas = open_canvas(session, long_side=100)
    before = canvas.pixels.copy()
    for draw in (kept_overlay, score_overlay, cluster_overlay):
        draw(canvas, session.runs[2])
    np.testing.assert_array_equal(canvas.pixels, before)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(8, 300), height=st.integers(8, 300), long_side=st.integers(24, 400), padded=st.booleans())
def test_patches_tile_what_was_seen_without_gap_at_every_proportion_and_size(width, height, long_side, padded):
    size = (width, height)
    grid = padded_square_grid(size, 24, 4) if padded else centre_crop_grid(size, 24, 24, 4)
    scale = long_side / max(size)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    assume(min(shape) >= 6)  # patches below one pixel cannot be told apart
    raster = patch_raster(grid, shape)
    seen_rows, seen_columns = np.flatnonzero((raster.owner >= 0).any(1)), np.flatnonzero((raster.owner >= 0).any(0))
    box = raster.owner[seen_rows[0] : seen_rows[-1] + 1, seen_columns[0] : seen_columns[-1] + 1]
    assert (box >= 0).all()
    x0, y0, x1, y1 = grid.views[0].seen
    assert abs(len(seen_columns) - (x1 - x0) * shape[1] / width) <= 1
    assert abs(len(seen_rows) - (y1 - y0) * shape[0] / height) <= 1
    areas = np.bincount(box.ravel(), minlength=grid.n_tokens)
    corners = raster.corners
    np.testing.assert_array_equal(areas, (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]))


def test_a_wide_image_is_seen_in_its_central_square_only():
    grid = centre_crop_grid((480, 240), 24, 24, 4)
    session = comparison(plain_pixels(480, 240), grid, [run("full", "x"), run("apet", "x", [stage([0], 36)])])
    drawn = kept_overlay(open_canvas(session), session.runs[1])
    assert drawn.shape == (240, 480, 3)
    kept = (drawn == COLOR).all(axis=2)
    assert kept[20, 140] and not kept[:, :120].any() and not kept[:, 160:].any() and not kept[40:].any()


def test_tokens_that_are_no_patch_and_other_views_are_left_out():
    grid = square_grid((12, 12), 2, 6)
    newline = grid.model_copy(
        update={"view": [0, 0, 0, 0, 0], "row": [*grid.row, -1], "col": [*grid.col, -1], "box": [*grid.box, None]}
    )
    session = comparison(plain_pixels(12, 12), newline, [run("full", "x"), run("apet", "x", [stage([0, 4], 5)])])
    reference = tiny([0])
    np.testing.assert_array_equal(
        kept_overlay(open_canvas(session), session.runs[1]), kept_overlay(open_canvas(reference), reference.runs[1])
    )
