"""The menu of methods in a real browser: choosing, settings, papers, what the model cannot serve, keyboard."""

import pytest
from synthetic_rich import rich_comparison
from watching import watched_page

import tokviz
from tokviz.serving.model_cache import planning
from tokviz.ui.form import missing_by_method, offered

pytestmark = pytest.mark.browser
READY = "document.querySelectorAll('.tm-method').length > 0"


@pytest.fixture
def menu(site, open_page):
    page = open_page(site)
    page.wait_for_function(READY)
    return page


@pytest.fixture(scope="module")
def read_only(browser, site):
    """A page for the tests that change nothing but what is folded out."""
    with watched_page(browser, site) as page:
        page.wait_for_function(READY)
        yield page


def open_families(page):
    for summary in page.locator(".tm-family:not([open]) > summary").all()[::-1]:
        summary.click()


def test_every_method_can_be_reached_and_links_to_its_paper(read_only):
    menu = read_only
    pruners = offered(tokviz.methods())
    assert menu.locator(".tm-count").inner_text() == f"3 of {len(pruners)} chosen"
    # Families with a chosen method stand open, the others are one line and an explanation.
    assert menu.locator("#tokviz-method-apet").is_visible() and not menu.locator("#tokviz-method-random").is_visible()
    open_families(menu)
    for pruner in pruners:
        row = menu.locator(f"#tokviz-method-{pruner.id}")
        assert row.is_visible() and row.locator(".tm-label").inner_text() == pruner.label
        if pruner.paper:
            link = row.locator("a")
            assert link.get_attribute("href") == pruner.paper.url and link.get_attribute("target") == "_blank"
            assert "noopener" in link.get_attribute("rel")
    assert menu.locator("#tokviz-methods").evaluate("node => node.scrollWidth <= node.clientWidth")


def test_what_the_model_cannot_serve_is_greyed_out_with_the_reason_in_sight(read_only):
    menu = read_only
    missing = missing_by_method(tokviz.methods(), planning("tokviz-tiny"))
    open_families(menu)
    greyed = [row.get_attribute("id") for row in menu.locator(".tm-unserved").all()]
    assert sorted(greyed) == sorted(f"tokviz-method-{method}" for method in missing)
    for method, sentence in missing.items():
        row = menu.locator(f"#tokviz-method-{method}")
        assert row.locator("input").is_disabled()
        assert row.locator(".tm-missing").is_visible() and row.locator(".tm-missing").inner_text() == sentence


def test_keys_choose_a_method_and_its_settings_reach_the_run(menu, paced):
    menu.locator(".tm-family > summary", has_text="control").focus()
    menu.keyboard.press("Enter")
    menu.keyboard.press("Tab")
    menu.keyboard.press("Space")
    assert menu.locator("#tokviz-method-random input").is_checked()
    menu.locator(".tm-all-settings > summary").click()
    # Only chosen methods have settings.
    titles = menu.locator(".tm-group-title").all_inner_texts()
    assert titles == [
        p.label for p in offered(tokviz.methods()) if p.id in ("apet", "fastervlm", "todre", "random") and p.params
    ]
    basis = menu.locator("#tokviz-apet-basis_tokens")
    basis.locator("input[type=number]").fill("7")
    basis.locator("input[type=number]").press("Enter")
    assert basis.locator("input[type=range]").input_value() == "7"
    basis.locator("input[type=number]").fill("-4")
    basis.locator("input[type=number]").press("Tab")
    assert basis.locator("input[type=number]").input_value() == "7"  # no value of this parameter: taken back
    menu.locator("#tokviz-compare").click()
    menu.wait_for_function(
        "document.querySelectorAll('.tv-lane[data-status=\"done\"]').length === 4"
        " && document.querySelector('.tv-origin').hidden && document.querySelector('.tokviz-notice').textContent === ''"
    )
    asked = paced.requests[-1]
    assert asked.params["apet"] == {"basis_tokens": 7} and "random" in asked.methods
    menu.get_by_label("Defaults of ApET").click()
    assert basis.locator("input[type=number]").input_value() == "10"
    menu.locator("#tokviz-examples button").nth(1).click()
    menu.wait_for_function("!document.querySelector('#tokviz-method-random input').checked")


def test_many_lanes_are_announced(read_only):
    open_families(read_only)
    boxes = ".tm-method input[type=checkbox]:enabled:not(:checked)"
    read_only.evaluate("boxes => document.querySelectorAll(boxes).forEach((box) => box.click())", boxes)
    assert "run one after another" in read_only.locator(".tm-many").inner_text()


def test_a_lane_of_such_a_method_carries_the_sentence(rich_site, open_page):
    page = open_page(rich_site)
    assert page.locator(".tv-lane").last.locator(".tv-answer").inner_text() == rich_comparison().runs[-1].error
