"""The first thing a visitor sees: the repository's own failure cases, without any model."""

import pytest
from watching import watched_page

from tokviz.runs.examples import load_examples

pytestmark = pytest.mark.browser
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page(browser, shipped_site):
    with watched_page(browser, shipped_site) as opened:
        yield opened


def test_a_shipped_case_of_every_kind_opens_without_a_model(page, loads):
    """Every third one and the clips; what is stored of all is checked in tests/cases."""
    before = list(loads)
    examples = load_examples()
    assert len(examples) >= 2
    for index, example in enumerate(examples):
        if index % 3 and not example.comparison.grid.is_video:
            continue
        page.locator("#tokviz-examples button").nth(index).click()
        page.get_by_text(example.why).wait_for()
        assert page.locator(".tv-title").inner_text() == example.title
        assert page.locator(".tv-answer").all_inner_texts() == [run.answer for run in example.comparison.runs]
        verdicts = page.locator(".tv-verdict").all_inner_texts()
        assert "✗ flipped by pruning" in verdicts and verdicts.count("✓ right") >= 2
        # Scores open on ApET's first stage, which sees every patch; merges (all so far) and Kept on its last.
        labels = [run.label for run in example.comparison.runs]
        for view in ("Score", "Clusters", "Kept"):
            page.get_by_label(view, exact=True).check(force=True)
            if "ApET" in labels:
                stage = page.locator(".tv-lane", has_text="ApET").locator("select").first.input_value()
                assert stage == ("0" if view == "Score" else "1")
    assert loads == before


def test_a_lane_whose_tokens_are_withdrawn_at_the_end_says_so_beside_what_was_kept(page):
    page.get_by_text("how many purple objects are there?", exact=True).first.click()
    lane = page.locator(".tv-lane", has=page.get_by_role("heading", name="V2Drop"))
    lane.get_by_text("1 of 576 patches kept", exact=True).wait_for()
    assert "until all are withdrawn before layer 5" in lane.locator(".tv-what").inner_text()
    numbers = lane.locator(".tv-numbers").inner_text().replace("\n", " ")
    assert "visual tokens 0 0% before withdrawal 1 0.2%" in numbers, numbers
    merging = page.locator(".tv-lane", has=page.get_by_role("heading", name="ApET")).locator(".tv-numbers")
    assert "evidence at end 2 of 35" in merging.inner_text().replace("\n", " ")
    assert "absorbed at end 33 of 35" in merging.inner_text().replace("\n", " ")


def test_a_phone_shows_them_without_sideways_scrolling(page):
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function(f"{OVERFLOW} <= 0")
