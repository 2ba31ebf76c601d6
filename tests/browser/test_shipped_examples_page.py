"""The first thing a visitor sees: the repository's own failure cases, without any model."""

import pytest

from tokviz.cases.examples import load_examples

pytestmark = pytest.mark.browser
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_every_shipped_case_opens_without_a_model(shipped_site, open_page, loads):
    before = list(loads)
    page = open_page(shipped_site)
    examples = load_examples()
    assert len(examples) >= 2
    for index, example in enumerate(examples):
        page.locator("#tokviz-examples button").nth(index).click()
        page.get_by_text(example.why).wait_for()
        assert page.locator(".tv-title").inner_text() == example.title
        assert page.locator(".tv-answer").all_inner_texts() == [run.answer for run in example.comparison.runs]
        verdicts = page.locator(".tv-verdict").all_inner_texts()
        assert "✗ flipped by pruning" in verdicts and verdicts.count("✓ right") >= 2
        for view in ("Score", "Clusters", "Kept"):
            page.get_by_label(view, exact=True).check(force=True)
            # Scores open on ApET's first stage, which sees every patch; merges (all so far) and Kept on its last.
            if "ApET" in [run.label for run in example.comparison.runs]:
                stage = page.locator(".tv-lane", has_text="ApET").locator("select").first.input_value()
                assert stage == ("0" if view == "Score" else "1")
    assert loads == before


def test_a_phone_shows_them_without_sideways_scrolling(shipped_site, open_page):
    page = open_page(shipped_site, width=400, theme="dark")
    assert page.evaluate(OVERFLOW) <= 0
