"""What a stage leaves, on the page: orders, groups, deaths, diagrams, the prompt's words."""

import pytest
from synthetic import HOSTILE
from synthetic_rich import WORDS, rich_comparison

from tokviz.ui.scripts import asset

pytestmark = pytest.mark.browser

PIXELS = """i => { const c = document.querySelectorAll('.tv-canvas')[i];
  const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return data.reduce((sum, value, k) => (sum * 31 + value * (k % 7 + 1)) >>> 0, 7); }"""
MERGES, CLUSTERS, STEPS = 1, 2, 3


@pytest.fixture
def rich(shared_page, rich_site):
    return shared_page(rich_site)


def view(page, name):
    page.get_by_label(name, exact=True).check(force=True)


def tools(page, lane):
    return page.locator(".tv-tools").nth(lane)


def why_of(page, label):
    page.locator(".tv-why-lanes").get_by_label(label, exact=True).check(force=True)


def hover_patch(page, lane, token):
    box = page.locator(".tv-image").nth(lane).bounding_box()
    row, column = divmod(token, 12)
    page.locator(".tv-image").nth(lane).hover(
        position={"x": (column + 0.5) / 12 * box["width"], "y": (row + 0.5) / 12 * box["height"]}
    )


def geometry(browser, expression):
    """The value of an expression over the functions of the view that know no document."""
    page = browser.new_page()
    try:
        return page.evaluate(f"() => {{ {asset('patch_geometry.js')}\nreturn {expression}; }}")
    finally:
        page.close()


def test_equal_scores_are_ranked_as_in_the_pruners(browser):
    ranks = geometry(browser, "ranksOf([0.5, 0.7, null, 0.5, 0.7])")
    assert ranks == {"ranks": [3, 1, None, 4, 2], "of": 4}


def test_groups_hold_what_was_merged_in_earlier_stages(browser):
    """Token 0 goes into 1, and 1 into 2; 3 is dropped, and 4 goes into it too late to be carried anywhere."""
    stages = (
        "[{gone: [0, 4], absorbed: [0, 1, 4, 3], order: null, maps: []},"
        " {gone: [1, 3], absorbed: [1, 2], order: null, maps: []}]"
    )
    assert geometry(browser, f"unpackStages({stages}, 5).map((stage) => stage.carriers)") == [
        [1, 1, 2, 3, 3],
        [2, 2, 2, -1, -1],
    ]


def test_order_shows_picks_and_the_sequence_of_the_llm(rich):
    view(rich, "Order")
    assert "at once, in no order" in tools(rich, MERGES).inner_text()
    assert "at once, by rank of the score" in tools(rich, STEPS).inner_text()
    picked = rich.evaluate(PIXELS, CLUSTERS)
    tools(rich, CLUSTERS).get_by_label("order").select_option(label="place in the sequence behind this stage")
    assert rich.evaluate(PIXELS, CLUSTERS) != picked
    assert "+ 1 non-patch token: [CLS]" in tools(rich, CLUSTERS).inner_text()


def test_dropped_at_tells_where_each_token_left(rich):
    view(rich, "Dropped at")
    run = rich_comparison()["steps"]
    sizes = [144, *(len(stage.kept) for stage in run.stages)]
    lines = tools(rich, STEPS).locator(".tv-depths li").all_inner_texts()
    assert [line.split() for line in lines] == [
        [str(before - after), "dropped:", *stage.site_label.split()]
        for before, after, stage in zip(sizes, sizes[1:], run.stages, strict=False)
    ]
    token = next(t for t in run.stages[0].kept if t not in run.stages[1].kept)
    hover_patch(rich, STEPS, token)
    assert "dropped: before layer 3, stage 2 of 5" in rich.locator(".tv-where").nth(STEPS).inner_text()
    assert rich.locator(".tv-where").nth(CLUSTERS).inner_text() != ""
    rich.mouse.move(5, 5)
    assert rich.locator(".tv-where").nth(STEPS).inner_text() == "0 of 144 patches kept to the end"


def test_23_stages_are_walked_with_a_slider_that_keeps_the_focus(rich):
    view(rich, "Clusters")
    slider = tools(rich, MERGES).locator("input[type=range]")
    assert "stage 23 of 23" in tools(rich, MERGES).inner_text()
    assert "after all merges so far" in tools(rich, MERGES).inner_text()
    slider.focus()
    for _ in range(3):
        rich.keyboard.press("ArrowLeft")
    assert "stage 20 of 23" in tools(rich, MERGES).inner_text()
    assert slider.evaluate("node => node === document.activeElement")
    tools(rich, MERGES).get_by_label("Next stage").click()
    assert "inside vision layer 20" in tools(rich, MERGES).inner_text()
    # A patch that an early stage merged is still told by whom it is carried now.
    early = rich_comparison()["merges"].stages[0]
    token = next(t for t, carrier in enumerate(early.assignment) if carrier != t)
    hover_patch(rich, MERGES, token)
    where = rich.locator(".tv-where").nth(MERGES).inner_text()
    assert "merged into row" in where and "inside vision layer 0" in where, where


def test_points_and_patches_light_each_other(rich):
    why_of(rich, "Density clusters")
    panel = rich.locator(".tv-why-panel")
    labels = panel.locator(".tv-chart-label").all_inner_texts()
    assert [label for label in labels if "Spearman" not in label] == [
        "Words of the prompt", "Decision graph", "Patches per group", "Log-determinant by step",
        "How the scores are spread", "This stage",
    ]  # fmt: skip
    scatter, bars = panel.locator(".tv-chart").nth(1), panel.locator(".tv-chart").nth(2)
    assert scatter.locator(".tv-dot").count() == 144 + 2  # and two in the key: everything kept was picked
    assert scatter.locator(".tv-dot-marked").count() == 16 + 1
    run = rich_comparison()["clusters"]
    token = run.stages[0].kept[3]
    hover_patch(rich, 0, token)
    assert scatter.locator(".tv-hot-ring").count() == 1 and bars.locator(".tv-hot-band").count() == 1
    assert f"row {token // 12}, column {token % 12}" in scatter.locator(".tv-chart-told").inner_text()
    centres = run.stages[0].charts[1].tokens
    drawing = bars.locator("svg").first
    box = drawing.bounding_box()
    middle_of_first = (44 + (340 - 44 - 12) * 0.5 / 16) / 340
    drawing.hover(position={"x": middle_of_first * box["width"], "y": 0.5 * box["height"]})
    assert rich.locator(".tv-marks .tv-hover").count() == 5
    row, column = divmod(centres[0], 12)
    assert rich.locator(".tv-where").nth(CLUSTERS).inner_text().startswith(f"row {row}, column {column} ·")
    rich.mouse.move(5, 5)
    assert rich.locator(".tv-hot > *").count() == 0


def test_words_facts_and_tables_say_the_same_in_text(rich):
    why_of(rich, "Density clusters")
    panel = rich.locator(".tv-why-panel")
    scores = rich_comparison()["clusters"].stages[0].text
    assert panel.locator(".tv-word").count() == len(WORDS)
    assert panel.locator(".tv-word-chosen").count() == sum(scores.chosen)
    assert "an equal share, 1 of 13" in panel.locator(".tv-words-card").inner_text()
    facts = panel.locator(".tv-facts").inner_text()
    for expected in ("144 in, 16 kept", "added token", "[CLS]", "dc percentile", "0.02", "renumbered without gaps"):
        assert expected in facts
    table = panel.locator(".tv-chart").nth(2).locator("details")
    table.locator("summary").click()
    table.locator("table").wait_for()
    assert table.locator("tr").count() == 1 + 16
    assert table.locator("th").all_inner_texts() == ["name", "patches"]


def test_readings_over_the_stages_have_their_threshold_and_lead_to_the_stage(rich):
    rich.get_by_label("Why Five steps kept these tokens").click()
    chart = rich.locator(".tv-why-panel .tv-chart").first
    assert chart.locator(".tv-chart-label").inner_text() == "attention on the image over the stages"
    assert chart.locator(".tv-threshold").count() == 1 and chart.locator(".tv-threshold-label").text_content() == "0.2"
    assert chart.locator(".tv-dot").count() == 5
    box = chart.locator("svg").bounding_box()
    chart.locator("svg").click(position={"x": 0.14 * box["width"], "y": 0.5 * box["height"]})
    assert tools(rich, STEPS).locator("select").input_value() == "0"
    assert "before layer 2" in rich.locator(".tv-facts").inner_text()


def test_hostile_names_of_charts_words_and_facts_stay_text(rich):
    page = rich
    page.locator("#tokviz-examples button").nth(1).click()
    page.get_by_role("heading", name="Hostile").wait_for()
    why_of(page, "Density clusters")
    assert HOSTILE in page.locator(".tv-facts").inner_text()
    assert page.locator("#tokviz-view img, #tokviz-view script").count() == 0
    page.locator(".tv-chart details summary").first.click()
    assert page.evaluate("window.HACKED") is None
    why_of(page, "Five steps")
    page.locator(".tv-why-panel").get_by_text("attention on the image over the stages").wait_for()


def test_nothing_of_it_needs_sideways_scrolling(rich_site, shared_page):
    page = shared_page(rich_site, 400)
    page.get_by_label("Switch between light and dark").click()
    for width in (400, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        why_of(page, "Density clusters")
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
        panel = page.locator(".tv-why-panel")
        assert panel.evaluate("node => node.scrollWidth <= node.clientWidth")
