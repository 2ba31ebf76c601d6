import io
import itertools
import threading
import warnings
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from drawn_sessions import run, stage, typical
from matplotlib.text import Text
from PIL import Image

from tokviz.errors import BadInput
from tokviz.viz.figures import comparison_figure, figure_bytes, save_figure
from tokviz.viz.overlays import kept_overlay
from tokviz.viz.raster import open_canvas
from tokviz.viz.saving import _SETTINGS

LONG = "The image shows " + "many things and " * 60 + "an end."
HOSTILE = [
    "$\\frac{1}{2}$ $unclosed",
    "\x1b[2J\u202egnp.exe</svg><script>alert(1)</script>",
    "]]>&amp;\x00",
    LONG,
    "x" * 999,
    "",
]


def texts(figure):
    return [artist for artist in figure.findobj(Text) if artist.get_text()]


def words(figure):
    return [artist.get_text() for artist in texts(figure)]


@pytest.fixture(scope="module")
def session():
    return typical(3, expected="red", evidence=[(4, 4, 20, 20)])


def test_question_methods_answers_verdicts_and_numbers_are_on_the_figure(session):
    written = words(comparison_figure(session, dpi=60))
    for expected in (
        "what color is the star?", "expected answer: red", "Full", "Method0", "Method2", "red", "blue", "✓ right",
        "✗ flipped by pruning", "all 64 tokens in every layer", "16 of 64 tokens in every layer",
    ):  # fmt: skip
        assert expected in written, expected
    assert any("budget 2 of 64 visual tokens" in line and "seed 7" in line for line in written)
    assert any("no claim about" in line for line in written)
    assert any(line.startswith("evidence: ") for line in written)


def test_the_note_on_drawn_scenes_is_only_for_the_embedded_model():
    assert not any("drawn scenes" in line for line in words(comparison_figure(typical(1, embedded=False), dpi=60)))


def test_without_a_known_answer_the_verdict_compares_with_no_pruning():
    written = words(comparison_figure(typical(2), dpi=60))
    assert "= same as no pruning" in written and "≠ changed by pruning" in written
    assert not any("✓" in line or "✗" in line for line in written)


def test_tokens_at_the_end_and_on_average_are_both_said_when_they_differ(session):
    pruned = session.runs[1]
    progressive = pruned.model_copy(update={"actual": pruned.actual.model_copy(update={"average_in": 40.26})})
    written = words(comparison_figure(session.model_copy(update={"runs": [session.runs[0], progressive]}), dpi=60))
    assert "16 of 64 tokens at the end" in written and "40.3 per layer on average" in written


def test_views_say_when_a_method_cannot_show_them(session):
    scores = words(comparison_figure(session, view="score", dpi=60))
    assert any("Approximation error: high is kept first" in line for line in scores)
    clusters = words(comparison_figure(session, view="clusters", dpi=60))
    assert clusters.count("merges nothing: kept ones shown") == 2


def test_the_view_of_survival_is_drawn_for_runs_with_several_stages(session):
    one = session.runs[1]
    half = one.stages[0].model_copy(update={"kept": one.stages[0].kept[::2], "n_in": len(one.stages[0].kept)})
    two = one.model_copy(update={"stages": [one.stages[0], half], "method": "two"})
    written = words(
        comparison_figure(session.model_copy(update={"runs": [session.runs[0], two, one]}), view="dropped", dpi=60)
    )
    assert "stages survived, of 2: high stayed longest" in written
    assert written.count("drops in one stage: kept ones shown") == 1
    assert any("kept to the end" in line for line in written)


def test_methods_can_be_chosen_and_the_unpruned_run_stays_first(session):
    written = words(comparison_figure(session, methods=["method2", "method0"], dpi=60))
    assert "Method1" not in written
    assert written.index("Full") < written.index("Method2") < written.index("Method0")


def test_a_lane_that_could_not_run_shows_its_sentence(session):
    failed = run("fastv", "", error="FastV needs two layers.", actual=None)
    figure = comparison_figure(session.model_copy(update={"runs": [*session.runs, failed]}), dpi=60)
    assert "✗ not run" in words(figure) and "FastV needs two layers." in words(figure)


def test_nothing_is_compared_with_a_failed_unpruned_run(session):
    failed = session.runs[0].model_copy(update={"error": "Out of memory."})
    written = words(comparison_figure(session.model_copy(update={"runs": [failed, *session.runs[1:]]}), dpi=60))
    assert not any("flipped" in line or "unlike" in line for line in written)
    assert "✓ right" in written and "✗ wrong" in written  # the right answer is known all the same


@pytest.mark.parametrize(
    ("n_methods", "size"), [(0, (64, 64)), (1, (120, 48)), (3, (40, 110)), (5, (64, 64)), (8, (120, 48))]
)
def test_texts_stay_on_the_page_and_off_each_other(n_methods, size):
    case = typical(n_methods, answers=HOSTILE, size=size, question=LONG, expected=LONG, evidence=[(1, 1, 9, 9)])
    for view in ("kept", "score"):
        figure = comparison_figure(case, view=view, dpi=72)
        with matplotlib.rc_context(_SETTINGS):
            figure.draw_without_rendering()
            boxes = [artist.get_window_extent() for artist in texts(figure)]
            images = [axes.get_window_extent() for axes in figure.axes]
        width, height = figure.bbox.width, figure.bbox.height
        for box in [*boxes, *images]:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        for one, other in itertools.combinations([*boxes, *images], 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 1 or down <= 2, "two things overlap"


@pytest.mark.parametrize("file_format", ["png", "svg", "pdf"])
def test_hostile_texts_are_drawn_as_text(file_format):
    case = typical(len(HOSTILE), answers=HOSTILE, n=2, question=HOSTILE[1] + HOSTILE[0], expected=HOSTILE[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = figure_bytes(case, file_format, dpi=60)
    figure = comparison_figure(case, dpi=60)
    assert all(not artist.get_parse_math() and not artist.get_usetex() for artist in texts(figure))
    assert all(line.isprintable() for line in words(figure))
    if file_format == "svg":
        tags = {element.tag.split("}")[-1] for element in ElementTree.fromstring(data).iter()}
        assert "script" not in tags and "foreignObject" not in tags


@pytest.mark.parametrize("file_format", ["png", "svg", "pdf"])
def test_the_same_comparison_gives_the_same_bytes_from_any_thread(file_format):
    session = typical(1)
    settings_before = dict(matplotlib.rcParams)
    results = [None] * 2

    def work(index):
        results[index] = figure_bytes(session, file_format, dpi=60)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] is not None and results[0] == results[1]
    assert dict(matplotlib.rcParams) == settings_before
    assert b"CreationDate" not in results[0] and b"dc:date" not in results[0]


def test_a_users_matplotlib_settings_do_not_change_the_file(session):
    expected = figure_bytes(session, "png", dpi=60)
    with matplotlib.rc_context(
        {"font.size": 30, "text.usetex": True, "savefig.bbox": "tight", "figure.autolayout": True}
    ):
        assert figure_bytes(session, "png", dpi=60) == expected


def test_the_image_is_drawn_pixel_by_pixel(session):
    """The panel of the written PNG is the overlay itself: no resampling, nothing half a pixel off."""
    figure = comparison_figure(session, dpi=100)
    page = np.asarray(Image.open(io.BytesIO(figure_bytes(session, "png", dpi=100))).convert("RGB"))
    box = figure.axes[1].get_window_extent()
    x0, y0 = round(box.x0), round(page.shape[0] - box.y1)
    overlay = kept_overlay(open_canvas(session, long_side=round(box.width)), session.runs[1])
    inner = slice(3, -3)
    panel = page[y0 : y0 + overlay.shape[0], x0 : x0 + overlay.shape[1]]
    np.testing.assert_array_equal(panel[inner, inner], overlay[inner, inner])


def test_themes_differ_and_vector_files_are_what_they_say(session):
    light, dark = (
        np.asarray(Image.open(io.BytesIO(figure_bytes(session, dpi=40, theme=t)))) for t in ("light", "dark")
    )
    assert light.shape == dark.shape and light[0, 0, 0] > 200 > 60 > dark[0, 0, 0]
    assert figure_bytes(session, "pdf", dpi=40).startswith(b"%PDF")
    assert figure_bytes(session, "svg", dpi=40).startswith(b"<?xml")


def svg_texts(data):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(data).iter("{http://www.w3.org/2000/svg}text")]


def test_an_svg_holds_its_words_as_text_that_can_be_searched_and_read(session):
    data = figure_bytes(session, "svg", dpi=40)
    written = svg_texts(data)
    assert written == words(comparison_figure(session, dpi=40))
    assert {"what color is the star?", "✓ right", "evidence for the answer"} <= set(written)
    assert data.count(b"'DejaVu Sans', 'Verdana'") == len(written) and b"sans-serif" in data
    assert b"font-weight: 700" in data and b"DejaVuSans-" not in data, "no outlines of letters"


def test_the_text_of_an_svg_is_not_chosen_by_a_users_settings(session):
    expected = figure_bytes(session, "svg", dpi=40)
    with matplotlib.rc_context({"font.family": "serif", "font.sans-serif": ["Comic Neue"], "svg.fonttype": "path"}):
        assert figure_bytes(session, "svg", dpi=40) == expected


def test_hostile_words_in_an_svg_are_text_and_nothing_else():
    data = figure_bytes(typical(2, answers=HOSTILE[:2], question=HOSTILE[1]), "svg", dpi=40)
    assert b"<script" not in data and any("<script>alert(1)</script>" in line for line in svg_texts(data))


def basis_session(is_basis):
    order = [0, *[-1] * 8, 1, *[-1] * 54]
    picked = stage([0, 3, 9], 64).model_copy(update={"order": order, "order_is_basis": is_basis})
    whole = typical(1)
    return whole.model_copy(update={"runs": [whole.runs[0], run("apet", "red", [picked], 64)]})


def test_the_legend_names_basis_tokens_where_they_are_drawn():
    assert "basis token" in words(comparison_figure(basis_session(True), dpi=40))
    assert "basis token" not in words(comparison_figure(basis_session(False), dpi=40))
    clusters = comparison_figure(basis_session(True), view="dropped", dpi=40)
    assert "basis token" in words(clusters), "the kept ones are shown where there is one stage"


def test_merged_evidence_is_no_lost_evidence():
    merged = stage([0, 1], 64, None, [0, 1, *[0] * 8, *[-1] * 54])
    whole = typical(1, evidence=[(0, 0, 64, 8)])  # the first row: tokens 0 to 7
    drawn = whole.model_copy(update={"runs": [whole.runs[0], run("tome", "red", [merged], 64)]})
    assert "evidence: 2 of 8 patches kept, 6 merged into" in " ".join(words(comparison_figure(drawn, dpi=40)))


def test_saving_goes_by_suffix_and_says_what_is_wrong(session, tmp_path):
    path = save_figure(session, tmp_path / "figure.PNG", dpi=40)
    assert Image.open(path).format == "PNG"
    for arguments, sentence in (
        ((tmp_path / "figure.gif",), "must end in .png, .svg or .pdf"),
        ((tmp_path / "figure",), "must end in"),
        ((tmp_path / "no" / "figure.png",), "cannot be written"),
    ):
        with pytest.raises(BadInput, match=sentence):
            save_figure(session, *arguments, dpi=40)
    for options, sentence in (
        ({"view": "heat"}, "view must be one of"),
        ({"theme": "pink"}, "theme must be one of"),
        ({"methods": ["vtw"]}, "no run of 'vtw'"),
        ({"level": 4}, "no level 4"),
    ):
        with pytest.raises(BadInput, match=sentence):
            comparison_figure(session, **options)


def test_a_session_read_back_gives_the_same_figure(session):
    again = type(session).from_json(session.to_json())
    assert figure_bytes(again, dpi=60) == figure_bytes(session, dpi=60)


def test_what_remains_after_a_withdrawal_is_not_an_empty_image(session):
    probes = [session.runs[1].stages[0], stage([], 16, site=1)]
    withdrawn = session.runs[1].model_copy(update={"stages": probes})
    written = words(comparison_figure(session.model_copy(update={"runs": [session.runs[0], withdrawn]}), dpi=60))
    assert "drawn: stage 1 of 2, at encoder" in written
    assert "16 until all are withdrawn at 1" in written, "beside the 0 at the end"
