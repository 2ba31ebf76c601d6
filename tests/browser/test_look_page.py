"""The page holds still: while it loads, under the pointer, from view to view, around what it says. And it says what its
lanes belong to."""

import json

import pytest
from playwright.sync_api import expect
from synthetic import comparison
from test_requests import upload
from view_alone import document, payload
from watching import PATIENCE_MS

from tokviz.ui.scripts import asset

pytestmark = pytest.mark.browser

WIDTHS = (1440, pytest.param(1024, marks=pytest.mark.generator), 400)
"""The widest and the narrowest that the page is made for, and with `make test-all` one in between."""
VIEWS = ("Kept", "Score", "Order", "Clusters", "Dropped at", "A vs B", "vs random")
SHIFTS = """window.shifted = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
  if (!entry.hadRecentInput) window.shifted += entry.value; })).observe({ type: 'layout-shift', buffered: true });"""
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
HEIGHT = "document.documentElement.scrollHeight"
ANSWERS = "[...document.querySelectorAll('.tv-answer')].map((a) => Math.round(a.getBoundingClientRect().top + scrollY))"
POINT_AT = """() => { const images = [...document.querySelectorAll('.tv-image')];
  const heights = new Set();
  for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++) {
    const image = images[(5 * i + j) % images.length], box = image.getBoundingClientRect();
    image.dispatchEvent(new PointerEvent('pointermove', { bubbles: true,
      clientX: box.x + (j + 0.5) / 4 * box.width, clientY: box.y + (i + 0.5) / 4 * box.height }));
    heights.add(document.documentElement.scrollHeight);
  }
  images.forEach((image) => image.dispatchEvent(new PointerEvent('pointerleave')));
  return [...heights]; }"""
"""What a place says is said in every lane, whichever it is pointed at in: they take turns."""
IN_SIGHT = """(name) => { const box = document.querySelector(name).getBoundingClientRect();
  return box.top >= 0 && box.bottom <= innerHeight; }"""
LIT = "[...document.querySelectorAll('.ep-card')].flatMap((card, i) => (card.ariaCurrent === 'true' ? [i] : []))"


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_jumps_while_the_page_loads(browser, site, width):
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(SHIFTS)
    page.goto(site)
    page.wait_for_function("document.documentElement.dataset.tokvizReady === ''")
    page.wait_for_selector(".tv-lane .tv-answer:not(:empty)")
    page.wait_for_function("document.querySelector('#tokviz-table table') !== null")
    page.locator("#tokviz-tabs").scroll_into_view_if_needed()  # whatever is late is in place by then
    assert page.evaluate("window.shifted") < 0.05
    context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_neither_pointing_nor_another_view_moves_anything(rich_site, shared_page, width):
    page = shared_page(rich_site, width)
    page.evaluate("document.fonts.ready")
    page.locator(".tv-views").get_by_label(VIEWS[0], exact=True).check(force=True)
    page.wait_for_function(TWO_FRAMES)
    answers = page.evaluate(ANSWERS)
    for view in VIEWS:
        page.locator(".tv-views").get_by_label(view, exact=True).check(force=True)
        assert page.evaluate(ANSWERS) == pytest.approx(answers, abs=2), view
        before = page.evaluate(HEIGHT)
        assert page.evaluate(POINT_AT) == [before], view


def test_an_error_leaves_compare_where_it_is_and_comes_into_sight(site, shared_page):
    page = shared_page(site)
    compare, error = page.locator("#tokviz-compare"), page.locator(".tokviz-notice-error")
    for width, height in ((1440, 900), (1024, 2200), (400, 900)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(TWO_FRAMES)
        page.locator("#tokviz-question textarea").fill("")
        before = compare.bounding_box()["y"]
        compare.click()
        error.wait_for()
        if width > 900:
            assert compare.bounding_box()["y"] == pytest.approx(before, abs=1)
            notice = error.bounding_box()
            assert notice["y"] + notice["height"] <= before and notice["y"] > 0, "told above the button, in sight"
        else:
            page.wait_for_function(IN_SIGHT, arg=".tokviz-notice-error")
        page.locator("#tokviz-examples button").first.click()
        expect(error).to_have_count(0)


@pytest.mark.parametrize("key", ["Tab", "Shift+Tab"])
def test_tab_closes_a_menu_and_goes_on(site, shared_page, key):
    page = shared_page(site)
    menu = page.locator("#tokviz-model input")
    menu.click()
    page.locator("[role=listbox]").wait_for()
    page.keyboard.press(key)
    expect(page.locator("[role=listbox]")).to_have_count(0)
    expect(menu).to_have_attribute("aria-expanded", "false")
    assert page.evaluate("document.activeElement.matches('.mf-remove, .tokviz-theme')"), "the next in order"


def still(path, shade):
    from PIL import Image

    Image.new("RGB", (64, 64), shade).save(path)
    return path


def stale(page):
    return page.locator(".tv-stale").inner_text()


def test_lanes_say_that_they_belong_to_another_image_until_they_do(site, shared_page, paced, tmp_path):
    page = shared_page(site)
    assert stale(page) == "" and page.locator(".tv-title").is_visible()
    places = page.evaluate(ANSWERS)
    upload(page, still(tmp_path / "mine.png", (200, 30, 30)))
    expect(page.locator(".tv-stale")).to_have_text(
        "These results belong to the example, not to the file you chose: press Compare."
    )
    assert not page.locator(".tv-title").is_visible()
    assert page.locator(".tv-stale").get_attribute("role") == "status"
    assert float(page.locator(".tv-lanes").evaluate("node => getComputedStyle(node).opacity")) < 0.7
    assert float(page.locator("#tokviz-tabs").evaluate("node => getComputedStyle(node).opacity")) < 0.7
    assert page.evaluate(ANSWERS) == places and page.evaluate(LIT) == []
    # They can be explored all the same.
    page.locator(".tv-image").nth(1).hover(position={"x": 30, "y": 30})
    assert page.locator(".tv-where").nth(1).inner_text().startswith("row ")
    page.get_by_label("Remove the image or video").click()
    expect(page.locator(".tv-stale")).to_contain_text("no longer in the form")
    page.locator("#tokviz-examples button").first.click()
    expect(page.locator(".tv-stale")).to_have_text("")
    assert page.locator(".tv-title").is_visible()


def test_a_run_belongs_to_the_image_that_it_was_asked_about(site, shared_page, paced, tmp_path):
    page = shared_page(site)
    upload(page, still(tmp_path / "one.png", (30, 200, 30)))
    expect(page.locator(".tv-stale")).not_to_have_text("")
    paced.hold(1)
    try:
        page.locator("#tokviz-compare").click()
        expect(page.locator(".tv-stale")).to_have_text("")
        page.wait_for_function("document.querySelectorAll('.tv-lane')[1].dataset.status === 'running'")
        upload(page, still(tmp_path / "two.png", (30, 30, 200)))
        expect(page.locator(".tv-stale")).to_contain_text("the run in progress")
    finally:
        paced.release()
    page.wait_for_function("document.querySelectorAll('.tv-lane[data-status=done]').length >= 4")
    expect(page.locator(".tv-stale")).to_contain_text("an earlier question")
    page.locator("#tokviz-compare").click()
    expect(page.locator(".tv-stale")).to_have_text("")


def test_the_card_that_is_lit_is_the_example_that_is_shown(site, shared_page, paced):
    page = shared_page(site)
    assert page.evaluate(LIT) == [0]
    page.locator("#tokviz-examples button").nth(1).click()
    page.wait_for_function(f"String({LIT}) === '1'")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tv-origin').hidden")
    assert page.evaluate(LIT) == []


def test_the_server_can_call_lanes_stale_and_unlight_the_cards(browser):
    """Both follow the payload alone: the next one without the keys takes them back."""
    page = browser.new_page()
    value = payload(comparison())
    cards = (
        f"<div id=cards>{asset('example_cards.html')}</div><script>"
        f"((element, props, trigger) => {{{asset('example_cards.js')}}})"
        "(document.querySelector('#cards'), { value: { cards: ['a', 'b'].map((question) =>"
        " ({ question, thumb: '', loses: [], wins: [] })) } }, () => 0)</script>"
    )
    page.set_content(document(comparison()) + cards)
    page.wait_for_selector(".tv-lane .tv-answer:not(:empty)")
    show = f"(keys) => showNext({{ ...{json.dumps(value)}, ...keys }})"
    assert page.evaluate(LIT) == [] and stale(page) == ""
    page.evaluate(show, {"example": 1})
    page.wait_for_function(f"String({LIT}) === '1'")
    page.evaluate(show, {"example": 1, "stale": "Not <b>yours</b>."})
    page.wait_for_function(f"{LIT}.length === 0")
    assert stale(page) == "Not <b>yours</b>."
    page.evaluate(show, {"example": 0})
    page.wait_for_function(f"String({LIT}) === '0'")
    assert stale(page) == ""
    page.close()
