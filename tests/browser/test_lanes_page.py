"""Lanes: why, zoom, grid, order, preview. The patch view alone."""

import json
import math

import numpy as np
import pytest
from synthetic import comparison
from synthetic_rich import rich_comparison
from test_compare_views_page import opened
from view_alone import document

from tokviz.runs.preview import preview
from tokviz.ui.packing import packed_stages, packed_values
from tokviz.ui.payload import to_payload
from tokviz.ui.scripts import asset

pytestmark = pytest.mark.browser

BUDGET = "([budget, as]) => document.dispatchEvent(new CustomEvent('tokviz:budget', { detail: { budget, as } }))"
LABELS = "() => [...document.querySelectorAll('.tv-lane:not([hidden]) .tv-label')].map((node) => node.textContent)"
FASTERVLM, APET, TODRE = 1, 2, 3


@pytest.fixture(scope="module")
def tab(browser):
    page, errors = opened(browser, comparison(failed=True))
    yield page
    page.close()
    assert errors == []


@pytest.fixture
def lanes(tab):
    """The five lanes as they come."""
    tab.goto("about:blank")
    tab.set_content(document(comparison(failed=True)))
    tab.wait_for_function("document.querySelector('.tv-canvas').width > 100")
    return tab


@pytest.fixture(scope="module")
def functions(browser):
    """``functions(files, expression, argument)``: of scripts that touch no document."""
    page = browser.new_page()

    def value(files, expression, argument=None):
        return page.evaluate(f"(given) => {{ {''.join(map(asset, files))}\nreturn {expression}; }}", argument)

    yield value
    page.close()


@pytest.mark.parametrize("session", [comparison, rich_comparison])
def test_packed_stages_are_read_back_as_they_were(functions, session):
    payload = to_payload(session())
    n = len(payload["grid"]["row"])
    for lane in payload["lanes"]:
        packed = json.loads(json.dumps(packed_stages(lane["stages"], n)))
        files = ["patch_geometry.js", "unpacking.js"]
        assert functions(files, "readStages(given[0], given[1])", [packed, n]) == lane["stages"]


def test_numbers_of_every_size_are_read_back(functions):
    cases = [
        [0.0, None, 1.0],
        [None],
        [i * 1e-3 for i in range(200)],
        [-(1.5**i) for i in range(30)] + [1.234] * 3 + [i + 0.5 for i in range(80)],
        [10.0**i for i in range(-40, 40)],
    ]
    cases = [[None if v is None else float(f"{v:.4g}") for v in case] for case in cases]
    found = functions(["patch_geometry.js", "unpacking.js"], "given.map(readValues)", [*map(packed_values, cases)])
    assert found == cases
    assert isinstance(packed_values(cases[2])["at"], str) and isinstance(packed_values(cases[4]), list)


def test_spearman_by_hand_and_against_ranks_of_numpy(functions):
    files = ["patch_geometry.js", "why_charts.js"]
    assert functions(files, "spearman([1, 2, 3, 4], [10, 20, 40, 30])") == pytest.approx(0.8)
    assert functions(files, "spearman([1, 2, 3], [5, 5, 5])") is None
    rng = np.random.default_rng(2)
    x, y = rng.permutation(50), rng.permutation(50)
    expected = np.corrcoef(x, y)[0, 1]
    assert functions(files, "spearman(given[0], given[1])", [x.tolist(), y.tolist()]) == pytest.approx(expected)
    # Ties share the middle of their places: ranks 1.5, 1.5, 3 and 1, 2, 3.
    tied = functions(files, "spearman([1, 1, 2], [1, 2, 3])")
    assert tied == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_the_histogram_counts_and_finds_the_threshold_where_there_is_one(functions):
    files = ["patch_geometry.js", "why_charts.js"]
    found = functions(files, "histogramOf([0, 1, 2, 3, null, 4], [0, 0, 1, 1, 0, 1], 4)")
    assert found["counts"] == [[0, 1], [0, 1], [1, 0], [2, 0]] and found["threshold"] == 2
    assert functions(files, "histogramOf([0, 1, 2], [1, 0, 1], 2)")["threshold"] is None


def test_every_lane_says_why_and_the_panel_says_it_again(lanes):
    said = comparison(failed=True)
    assert lanes.locator(".tv-reason").all_inner_texts() == [said.why(key) for key in ("fastervlm", "apet", "todre")]
    lanes.get_by_role("button", name="Why FasterVLM kept these tokens").click()
    panel = lanes.locator(".tv-why-panel").inner_text()
    assert said.why("fastervlm") in panel and "Score against position · Spearman’s ρ" in panel
    assert "[CLS] attention (FasterVLM) beside approximation error (ApET)" in panel
    assert "what is below is dropped" in panel


def test_agreement_is_the_overlap_of_the_library_and_a_press_compares(lanes):
    lanes.locator(".tv-agreement summary").click()
    cell = lanes.get_by_role("button", name="FasterVLM and ApET: IoU")
    iou = comparison(failed=True).overlap("fastervlm", "apet").iou
    assert cell.inner_text() == f"{iou:.2f}"
    cell.click()
    assert lanes.get_by_label("A vs B", exact=True).is_checked()
    assert lanes.get_by_label("Lane A").input_value() == "fastervlm"
    assert lanes.get_by_label("Lane B").input_value() == "apet"


def test_zoom_is_that_of_all_lanes_and_the_patch_under_the_pointer_stays(lanes):
    image = lanes.locator(".tv-image").nth(APET)
    box = image.bounding_box()
    lanes.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.6)
    before = lanes.locator(".tv-where").nth(APET).inner_text()
    lanes.keyboard.down("Control")
    lanes.mouse.wheel(0, -110)
    lanes.keyboard.up("Control")
    lanes.wait_for_function("document.querySelector('.tv-zoom-told').textContent !== '100%'")
    widths = lanes.evaluate("[...document.querySelectorAll('.tv-canvas')].map((c) => c.clientWidth)")
    assert len(set(widths)) == 1 and widths[0] > 2.5 * box["width"]
    lanes.mouse.move(box["x"] + box["width"] * 0.3 + 1, box["y"] + box["height"] * 0.6)
    assert lanes.locator(".tv-where").nth(APET).inner_text() == before
    lanes.wait_for_function("(w) => document.querySelector('.tv-canvas').width >= 0.9 * w", arg=widths[0])
    # Keys: what is walked to comes into sight, 0 shows all again.
    image.focus()
    place = "() => getComputedStyle(document.querySelector('.tv-root')).getPropertyValue('--tv-zoom-y')"
    at = lanes.evaluate(place)
    for _ in range(14):
        lanes.keyboard.press("ArrowDown")
    lanes.wait_for_function(f"(at) => ({place})() !== at", arg=at)
    lanes.keyboard.press("0")
    lanes.wait_for_function("document.querySelector('.tv-zoom-told').textContent === '100%'")
    assert lanes.locator(".tv-zoom-reset").is_disabled()


def test_lanes_are_sorted_hidden_and_moved_by_keys(lanes):
    asked = ["No pruning", "FasterVLM", "ApET", "ToDRE", "FastV"]
    assert lanes.evaluate(LABELS) == asked
    lanes.get_by_label("Sort the lanes").select_option("time")
    assert lanes.evaluate(LABELS) == ["No pruning", "FasterVLM", "ToDRE", "ApET", "FastV"]
    lanes.get_by_label("Sort the lanes").select_option("answer")
    assert lanes.evaluate(LABELS) == ["No pruning", "ApET", "ToDRE", "FasterVLM", "FastV"]
    lanes.get_by_role("button", name="Move FasterVLM").press("ArrowLeft")
    assert lanes.evaluate(LABELS) == ["No pruning", "ApET", "FasterVLM", "ToDRE", "FastV"]
    assert lanes.evaluate("document.activeElement.getAttribute('aria-label')") == "Move FasterVLM: arrow keys"
    lanes.get_by_role("button", name="Hide ApET").click()
    assert "ApET" not in lanes.evaluate(LABELS)
    lanes.get_by_role("button", name="Show 1 hidden lane").click()
    assert sorted(lanes.evaluate(LABELS)) == sorted(asked)


def test_a_lane_is_dragged_to_the_place_of_another(lanes):
    handle = lanes.get_by_role("button", name="Move ToDRE").bounding_box()
    target = lanes.locator(".tv-lane").nth(FASTERVLM).bounding_box()
    lanes.mouse.move(handle["x"] + 5, handle["y"] + 5)
    lanes.mouse.down()
    lanes.mouse.move(target["x"] + 60, target["y"] + 60, steps=3)
    lanes.mouse.up()
    assert lanes.evaluate(LABELS)[:3] == ["No pruning", "ToDRE", "FasterVLM"]


def test_the_grid_shows_twenty_two_lanes_on_one_screen(tab):
    session = comparison(failed=True)
    copies = [run.model_copy(update={"variant": f"n={i}"}) for i in range(7) for run in session.runs[1:4]]
    tab.goto("about:blank")
    tab.set_content(document(session.model_copy(update={"runs": [session.runs[0], *copies]})))
    tab.set_viewport_size({"width": 1090, "height": 900})  # beside the form of a 1440 wide page
    tab.get_by_role("button", name="Grid").click()
    tab.wait_for_function("document.querySelector('.tv-root').classList.contains('tv-compact')")
    places = tab.evaluate(
        "[...document.querySelectorAll('.tv-lane')].map((lane) => [lane, lane.querySelector('.tv-answer'),"
        " lane.querySelector('.tv-verdict')].map((node) => node.getBoundingClientRect())"
        ".map((r) => [r.bottom, r.width]))"
    )
    assert len(places) == 22
    assert all(0 < bottom < 900 - 215 and width > 10 for lane in places for bottom, width in lane)


def test_another_budget_is_previewed_exactly_where_choices_nest(lanes):
    session = comparison(failed=True)
    lanes.evaluate(BUDGET, [20, "published"])
    badges = lanes.locator(".tv-ahead-badge:not([hidden])").all_inner_texts()
    assert badges == ["preview: 20 tokens", "no preview", "no preview"]
    assert lanes.locator(".tv-where").nth(FASTERVLM).inner_text() == "20 of 576 patches kept"
    lanes.get_by_role("button", name="Table of the patches of FasterVLM").click()
    lanes.get_by_label("kept only").check()
    assert "20 of 20 rows" in lanes.locator(".tv-patches-told").inner_text()
    assert "Compare asks the model" in lanes.locator(".tv-below").nth(FASTERVLM).inner_text()
    lanes.evaluate(BUDGET, [20, "average"])
    assert lanes.locator(".tv-ahead-badge").nth(FASTERVLM).inner_text() == "no preview"
    lanes.evaluate(BUDGET, [session.request.budget, "published"])
    assert lanes.locator(".tv-ahead-badge:not([hidden])").count() == 0
    assert lanes.locator(".tv-where").nth(FASTERVLM).inner_text() == "64 of 576 patches kept"


def test_a_preview_in_the_browser_is_that_of_the_library(functions):
    """Scores with many ties as they travel: 0.12341 and 0.12344 are one number in four digits."""
    session = comparison()
    run = session["fastervlm"]
    scores = [round(0.1234 + (i * 37 % 29) * 1e-6, 8) for i in range(576)]
    ranked = sorted(range(576), key=lambda token: (-scores[token], token))
    record = run.stages[0].score.model_copy(update={"values": scores}) if hasattr(
        run.stages[0].score, "model_copy") else type(run.stages[0].score)(
        **{**vars(run.stages[0].score), "values": scores})  # fmt: skip
    stage = run.stages[0].model_copy(update={"score": record, "kept": sorted(ranked[:64])})
    run = run.model_copy(update={"stages": [stage]})
    payload = to_payload(session.model_copy(update={"runs": [session.runs[0], run]}))
    lane = payload["lanes"][1]
    values = lane["stages"][0]["maps"][0]["values"]
    assert len(set(values)) < 5 and lane["nests"]["ties"]
    files = ["patch_geometry.js", "unpacking.js"]
    script = asset("preview.js").split("const OF_THE_KEPT")[0]
    for budget in (1, 20, 63, 200, 575):
        given = [{"maps": [{"values": values}], "kept": stage.kept}, lane["nests"], budget]
        kept = functions(files, f"(() => {{ {script}\nreturn keptAhead(...given); }})()", given)
        assert kept == preview(run, 576, budget)
