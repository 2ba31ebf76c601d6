"""Frames of a video and both levels of a tiled image, drawn: exact pixels, the choice of frames, the figure."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_sessions import COLOR, FRAME_COLORS, film, score_map, tiled, tiny
from matplotlib.text import Text

from tokviz.errors import BadInput
from tokviz.runs.metrics import FrameCount, kept_per_frame
from tokviz.viz import palette
from tokviz.viz.figures import comparison_figure, figure_bytes
from tokviz.viz.film import chosen_frames
from tokviz.viz.overlays import kept_overlay, score_overlay
from tokviz.viz.raster import open_canvas
from tokviz.viz.tables import frame_table


def dropped(color):
    """A dropped pixel: 0.30 of its brightness (Rec. 601) over grey 66."""
    light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (int(np.floor(0.3 * light + 0.7 * 66 + 0.5)),) * 3


def middle(pixels, row, col):
    """The pixel in the middle of one of 2 x 2 patches, inside its outline."""
    return tuple(int(value) for value in pixels[6 * row + 3, 6 * col + 3])


@pytest.mark.parametrize("frame", range(4))
def test_a_frame_is_drawn_with_its_own_tokens_and_no_others(frame):
    session = film([1, 4, 6, 15])  # frame 0: above right; 1: above left, below left; 3: below right
    pixels = kept_overlay(open_canvas(session, frame=frame), session.runs[1])
    kept = {0: {(0, 1)}, 1: {(0, 0), (1, 0)}, 2: set(), 3: {(1, 1)}}[frame]
    for row in (0, 1):
        for col in (0, 1):
            color = FRAME_COLORS[frame]
            assert middle(pixels, row, col) == (color if (row, col) in kept else dropped(color)), (row, col)


def test_frames_that_share_their_tokens_show_the_same_patches_on_their_own_image():
    session = film([0, 7], n_frames=4, together=2)
    drawn = [kept_overlay(open_canvas(session, frame=frame), session.runs[1]) for frame in range(4)]
    assert [middle(pixels, 0, 0) for pixels in drawn] == [
        FRAME_COLORS[0], FRAME_COLORS[1], dropped(FRAME_COLORS[2]), dropped(FRAME_COLORS[3]),
    ]  # fmt: skip
    assert middle(drawn[2], 1, 1) == FRAME_COLORS[2] and middle(drawn[3], 1, 1) == FRAME_COLORS[3]


def test_evidence_is_boxed_in_its_frame_and_that_frame_is_the_first_choice():
    session = film([0], evidence=[(3, 3, 9, 9), (0, 0, 4, 4)], evidence_frames=[2, 3])
    assert open_canvas(session).evidence == ((3, 3, 9, 9),)
    assert open_canvas(session, frame=0).evidence == ()
    boxed = kept_overlay(open_canvas(session, frame=2), session.runs[1])
    plain = kept_overlay(replace(open_canvas(session, frame=2), evidence=()), session.runs[1])
    assert tuple(boxed[2, 2]) == palette.EVIDENCE[0] and (boxed != plain).any()
    without = kept_overlay(open_canvas(session, frame=1), session.runs[1])
    assert (without == dropped(FRAME_COLORS[1])).all()


def test_colours_of_scores_mean_the_same_in_every_frame():
    values = [0.0, 0.2, 0.2, 0.2, 1.0, 0.2, 0.2, 0.2]
    session = film([0], n_frames=2, score=score_map(values))
    first, second = (score_overlay(open_canvas(session, frame=frame), session.runs[1]) for frame in (0, 1))
    alone = film([0], n_frames=2, score=score_map([0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]))
    assert middle(first, 1, 1) != middle(score_overlay(open_canvas(alone, frame=0), alone.runs[1]), 1, 1)
    assert sum(middle(second, 0, 0)) > sum(middle(first, 1, 1)) > 0


def test_counts_per_frame_by_hand():
    session = film([0, 1, 4, 9, 14], others=True)  # five tokens per frame, the fifth is no patch
    assert kept_per_frame(session.grid, session.runs[1].stages[0].kept) == [
        FrameCount((0,), 2, 4, 1, 1), FrameCount((1,), 0, 4, 1, 1), FrameCount((2,), 0, 4, 1, 1),
        FrameCount((3,), 0, 4, 0, 1),
    ]  # fmt: skip
    assert [count.kept for count in kept_per_frame(session.grid, None)] == [4] * 4
    paired = film([0, 1, 6], n_frames=6, together=2)
    counts = kept_per_frame(paired.grid, [0, 1, 6])
    assert [(count.frames, count.kept, count.share) for count in counts] == [
        ((0, 1), 2, 0.5), ((2, 3), 1, 0.25), ((4, 5), 0, 0.0),
    ]  # fmt: skip
    assert kept_per_frame(tiny().grid, [0]) == []


@pytest.mark.parametrize(
    ("n_frames", "together", "evidence", "most", "expected"),
    [
        (4, 1, [], 8, [0, 1, 2, 3]),
        (6, 1, [], 3, [0, 2, 5]),
        (6, 1, [3], 3, [0, 3, 5]),  # the nearest of the evenly chosen ones makes room
        (6, 1, [1, 4], 2, [1, 4]),
        (6, 1, [5], 3, [0, 2, 5]),
        (6, 2, [], 8, [0, 2, 4]),  # one frame of every two that share their tokens
        (6, 2, [3], 8, [0, 3, 4]),
        (6, 1, [0, 1, 2, 3, 4, 5], 2, [0, 1]),
        (6, 1, [2], 1, [2]),
    ],
)
def test_frames_of_a_figure_are_even_and_hold_the_evidence(n_frames, together, evidence, most, expected):
    session = film([0], n_frames=n_frames, together=together, evidence=[(0, 0, 4, 4)] * len(evidence),
                   evidence_frames=evidence)  # fmt: skip
    assert chosen_frames(session, most=most) == expected


def words(figure):
    return [artist.get_text() for artist in figure.findobj(Text) if artist.get_text()]


def test_a_figure_of_a_video_says_frames_times_counts_answers_and_verdicts():
    session = film([0, 1, 4, 14], others=True, evidence=[(0, 0, 6, 6)], evidence_frames=[1])
    written = words(comparison_figure(session, dpi=60))
    for expected in ("frame 1 · 0.00 s", "frame 4 · 1.50 s", "2 of 4", "0 of 4", "all 4", "Full", "Apet", "red", "blue",
                     "non-patch tokens: 2 of 4 kept", "evidence: 0 of 1 patches kept"):  # fmt: skip
        assert any(expected in line for line in written), (expected, written)
    assert written.count("all 4") == 4 and written.count("0 of 4") == 3
    assert any(line.startswith("Bars: patches kept of a frame, full length 50%.") for line in written)
    assert any("4 of 4 frames shown" in line for line in written)
    some = words(comparison_figure(session, dpi=60, frames=[3, 1]))
    assert "frame 2 · 0.50 s" in some and "frame 1 · 0.00 s" not in some


def test_the_table_of_frames_counts_patches_per_frame_and_marks_the_evidence():
    session = film([0, 1, 4, 14], evidence=[(0, 0, 6, 6)], evidence_frames=[1])
    table = frame_table(session)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    assert [str(column.header) for column in table.columns] == ["frame", "seconds", "patches", "Apet"]
    assert columns[0] == ["1", "2 *", "3", "4"] and columns[1] == ["0.00", "0.50", "1.00", "1.50"]
    assert columns[2] == ["4"] * 4 and columns[3] == ["2", "1", "0", "1"]
    assert frame_table(tiny()) is None


@pytest.mark.parametrize("view", ["kept", "score", "clusters", "dropped"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_of_a_video_becomes_a_file_and_the_same_one_twice(view, theme):
    values = score_map(np.linspace(0, 1, 16).tolist())
    session = film([0, 5], assignment=[0] * 5 + [5] * 11, score=values)
    first = figure_bytes(session, "png", view=view, theme=theme, dpi=60)
    assert first == figure_bytes(session, "png", view=view, theme=theme, dpi=60)
    assert first[:4] == b"\x89PNG"


def test_a_lane_that_failed_has_its_row_and_its_sentence():
    session = film([0])
    failed = session.runs[1].model_copy(update={"error": "It cannot run here.", "stages": [], "actual": None})
    written = words(comparison_figure(session.model_copy(update={"runs": [session.runs[0], failed]}), dpi=60))
    assert "✗ not run" in written and any("It cannot run here." in line for line in written)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: comparison_figure(film([0]), frames=[4]), "numbers from 0 to 3"),
        (lambda: comparison_figure(film([0]), frames=[]), "numbers from 0 to 3"),
        (lambda: comparison_figure(film([0]), level=1), "choose frames"),
        (lambda: comparison_figure(tiny(), frames=[0]), "no frames"),
        (lambda: open_canvas(film([0]), frame=9), "there is no frame 9"),
        (lambda: open_canvas(film([0]), frame=-1), "there is no frame -1"),
        (lambda: open_canvas(film([0]), level=1), "choose a frame"),
        (lambda: open_canvas(tiny(), frame=0), "no frames"),
        (lambda: open_canvas(tiny(), level="both"), "looked at twice"),
    ],
)
def test_what_is_not_there_is_refused_with_a_sentence(make, message):
    with pytest.raises(BadInput, match=message):
        make()


# --- both levels of a tiled image ---------------------------------------------------------------------------------


def both(session):
    return open_canvas(session, level="both")


def test_what_only_the_whole_image_shows_is_half_veiled():
    fine, neither, whole = tiled([], [2, 4]), tiled([], []), tiled([0], [2, 4])
    half = tuple(int(np.floor(0.55 * value + 0.45 * 66 + 0.5)) for value in COLOR)
    drawn = kept_overlay(both(whole), whole.runs[1])
    assert [middle(drawn, r, c) for r, c in ((0, 0), (0, 1), (1, 0), (1, 1))] == [half, COLOR, half, COLOR]
    drawn = kept_overlay(both(fine), fine.runs[1])
    grey = dropped(COLOR)
    assert [middle(drawn, r, c) for r, c in ((0, 0), (0, 1), (1, 0), (1, 1))] == [grey, COLOR, grey, COLOR]
    assert (kept_overlay(both(neither), neither.runs[1]) == grey).all()


def test_of_two_scores_at_a_place_the_higher_is_seen():
    session = tiled([0], [2, 4])
    drawn = score_overlay(both(session), session.runs[1])
    crops = score_overlay(open_canvas(session, level=1), session.runs[1])
    whole = score_overlay(open_canvas(session, level=0), session.runs[1])
    # Scores: the whole image 0.5; its crops 0, 1 above and 0.25, 0.75 below.
    for place, source in {(0, 0): whole, (0, 1): crops, (1, 0): whole, (1, 1): crops}.items():
        assert middle(drawn, *place) == middle(source, *place), place


def test_the_figure_of_both_levels_says_what_half_veiled_means():
    assert any("coarsely" in line for line in words(comparison_figure(tiled([0], [2]), level="both", dpi=60)))
    assert not any("coarsely" in line for line in words(comparison_figure(tiled([0], [2]), level=0, dpi=60)))
