"""What is chosen for a figure: view, stage, map, lane A, columns, title."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ui"))
from synthetic import comparison
from test_figures import words

from tokviz.errors import BadInput
from tokviz.viz import palette
from tokviz.viz.figures import comparison_figure
from tokviz.viz.overlays import kept_overlay, sides_overlay
from tokviz.viz.panels import Choice, make_panel
from tokviz.viz.raster import open_canvas

LOOK = {"dpi": 50}


@pytest.fixture(scope="module")
def session():
    return comparison()


@pytest.fixture(scope="module")
def canvas(session):
    return open_canvas(session)


def middles(canvas, pixels, tokens):
    x0, y0, x1, y1 = canvas.raster.corners[tokens].T
    return pixels[(y0 + y1) // 2, (x0 + x1) // 2].astype(float)


def test_a_beside_b_has_a_colour_for_each_side_and_says_the_overlap(session, canvas):
    found = session.overlap("apet", "fastervlm")
    pixels = sides_overlay(canvas, found)
    for side, tokens in (("both", found.both), ("a", found.only_a)):
        assert len(tokens) > 3
        towards = middles(canvas, pixels, tokens) - np.array(palette.SIDES[side])
        assert (np.abs(towards) <= 0.3 * 255 + 1).all()
    greys = middles(canvas, pixels, found.neither)
    assert np.median(np.ptp(greys, axis=1)) == 0
    written = words(comparison_figure(session, view="ab", against="apet", methods=["fastervlm", "apet"], **LOOK))
    assert f"IoU {found.iou:.2f}" in " ".join(written) and "A: what the others are compared with" in written
    assert {"kept by both", "only A keeps it", "only B keeps it"} <= set(written)


def test_the_stage_that_is_asked_for_is_drawn(session, canvas):
    for stage in (0, 1):
        panel = make_panel(canvas, session["todre"], "kept", Choice(stages={"todre": stage}))
        np.testing.assert_array_equal(panel.pixels, kept_overlay(canvas, session["todre"], stage))
    with pytest.raises(BadInput, match="there is no stage 2"):
        comparison_figure(session, stages={"todre": 2}, **LOOK)
    with pytest.raises(BadInput, match="no run of 'nosuch'"):
        comparison_figure(session, stages={"nosuch": 0}, **LOOK)


def test_another_map_can_stand_in_place_of_the_score(session, canvas):
    score = make_panel(canvas, session["apet"], "score")
    other = make_panel(canvas, session["apet"], "score", Choice(maps={"apet": "distance to the basis"}))
    assert (score.scale.label, other.scale.label) == ("approximation error", "distance to the basis")
    assert (score.pixels != other.pixels).any()
    with pytest.raises(BadInput, match=r"no map 'nosuch'.*approximation error, distance to the basis"):
        comparison_figure(session, view="score", maps={"apet": "nosuch"}, **LOOK)


def test_the_order_of_picks_and_the_difference_to_random_have_maps(session, canvas):
    picked = make_panel(canvas, session["apet"], "order").scale
    assert max(value for value in picked.values if value is not None) == 10  # basis tokens
    assert make_panel(canvas, session["fastervlm"], "order").note == "picks in no order: kept ones shown"
    panel = make_panel(canvas, session["apet"], "random")
    assert panel.scale == session.against_random("apet").difference
    assert panel.look == ((-4.0, 4.0), palette.DIVERGING)


def test_columns_and_title(session):
    one, four = (comparison_figure(session, columns=columns, **LOOK) for columns in (1, 4))
    assert one.get_figwidth() < four.get_figwidth() and one.get_figheight() > 2 * four.get_figheight()
    named, bare = (words(comparison_figure(session, title=title, **LOOK)) for title in ("Ours $x^2$ & theirs", ""))
    assert "Ours $x^2$ & theirs" in named and session.request.question not in named
    assert session.request.question not in bare and not any("expected answer" in line for line in bare)
    with pytest.raises(BadInput, match="1 to 12 columns"):
        comparison_figure(session, columns=0, **LOOK)
