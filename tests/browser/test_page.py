"""The first screen and everything that happens in the browser alone."""

import pytest
from playwright.sync_api import expect
from synthetic import HOSTILE

pytestmark = pytest.mark.browser

PIXELS = """i => { const c = document.querySelectorAll('.tv-canvas')[i];
  const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return data.reduce((sum, value, k) => (sum * 31 + value * (k % 7 + 1)) >>> 0, 7); }"""
PIXEL_AT = """([i, x, y]) => { const c = document.querySelectorAll('.tv-canvas')[i];
  const [px, py] = [Math.round(x * c.width), Math.round(y * c.height)];
  return [...c.getContext('2d').getImageData(px, py, 1, 1).data]; }"""
SCHEME = "getComputedStyle(document.documentElement).colorScheme"
BACKGROUND = "getComputedStyle(document.querySelector('.tv-lane')).backgroundColor.match(/\\d+/g).map(Number)"
TOPS = "[...document.querySelectorAll('.tv-image')].map(p => Math.round(p.getBoundingClientRect().top))"


def choose_example(page, index, words):
    page.locator("#tokviz-examples button").nth(index).click()
    page.get_by_role("heading", name=words).wait_for()


def at(page, lane, x, y):
    """Pixel coordinates inside the image of a lane, from shares of its size."""
    box = page.locator(".tv-image").nth(lane).bounding_box()
    return {"position": {"x": x * box["width"], "y": y * box["height"]}}


@pytest.fixture
def first_screen(shared_page, site):
    """The first screen as it was opened: nothing hovered or pinned, view "Kept", not scrolled."""
    return shared_page(site)


def test_first_screen_shows_a_stored_case_and_loads_no_model(site, open_page, loads):
    before = list(loads)
    page = open_page(site)
    assert page.locator(".tv-lane").count() == 4
    assert page.locator(".tv-title").inner_text() == "The triangle that attention overlooks"
    assert "stored result" in page.locator(".tv-origin").inner_text()
    assert page.locator(".tv-answer").all_inner_texts() == ["cyan", "blue", "cyan", "Cyan."]
    verdicts = page.locator(".tv-verdict").all_inner_texts()
    assert verdicts == ["✓ right", "✗ flipped by pruning", "✓ right", "✓ right"]
    numbers = page.locator(".tv-numbers").nth(1).inner_text()
    for expected in ("64", "11.1%", "29.2 ms", "1.8×", "median of 5", "KB"):
        assert expected in numbers
    assert loads == before


def test_hover_shows_the_same_patch_in_every_lane_and_click_pins_it(first_screen):
    page = first_screen
    # 24 x 24 patches: the middle of the patch in row 5, column 17 (counted from 0)
    page.locator(".tv-image").nth(1).hover(**at(page, 1, 17.5 / 24, 5.5 / 24))
    texts = page.locator(".tv-where").all_inner_texts()
    assert all(text.startswith("row 5, column 17") for text in texts), texts
    assert "rank" in page.locator(".tv-what").nth(1).inner_text()
    assert page.locator(".tv-marks .tv-hover").count() == 4
    page.locator(".tv-image").nth(1).click(**at(page, 1, 17.5 / 24, 5.5 / 24))
    page.mouse.move(5, 5)
    assert page.locator(".tv-marks .tv-pin").count() == 4
    assert page.locator(".tv-where").nth(3).inner_text().startswith("row 5, column 17")
    page.locator(".tv-image").nth(0).focus()
    page.keyboard.press("Escape")
    assert page.locator(".tv-marks .tv-pin").count() == 0
    assert page.locator(".tv-where").nth(1).inner_text() == "64 of 576 patches kept"


def test_arrow_keys_move_and_enter_pins(first_screen):
    page = first_screen
    page.locator(".tv-image").nth(2).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    live = page.locator(".tv-live").inner_text()
    assert live.startswith("Pinned. ApET: row 1, column 1"), live
    assert page.locator(".tv-marks .tv-pin").count() == 4


def test_views_redraw_and_legends_carry_numbers(first_screen):
    page = first_screen
    drawn = [page.evaluate(PIXELS, 2)]
    for view in ("Score", "Clusters"):
        page.get_by_label(view, exact=True).check(force=True)
        drawn.append(page.evaluate(PIXELS, 2))
    assert len(set(drawn)) == 3
    assert "groups, the largest with" in page.locator(".tv-tools").nth(2).inner_text()
    page.get_by_label("Score", exact=True).check(force=True)
    legend = page.locator(".tv-tools").nth(1).inner_text()
    assert "log scale" in legend and "high is kept first" in legend and "[CLS] attention" in legend
    page.locator(".tv-tools").nth(2).get_by_label("map").select_option(label="distance to the basis")
    assert page.evaluate(PIXELS, 2) != drawn[1]
    before = page.evaluate(PIXELS, 1)
    page.locator(".tv-opacity input").fill("20")
    assert page.evaluate(PIXELS, 1) != before


def test_a_stage_can_be_chosen(first_screen):
    page = first_screen
    stages = page.locator(".tv-tools").nth(3).locator(".tv-stepper select")
    assert stages.locator("option").all_inner_texts() == ["576 → 256: after the projector", "256 → 64: before layer 5"]
    stages.select_option(index=0)
    assert page.locator(".tv-where").nth(3).inner_text() == "256 of 576 patches kept"


def test_hostile_texts_are_shown_and_nothing_runs(site, shared_page):
    page = shared_page(site)
    choose_example(page, 2, "constructor")
    assert page.locator(".tv-answer").nth(1).inner_text() == HOSTILE
    assert page.locator(".tv-asked").inner_text() == HOSTILE
    assert page.locator("#tokviz-view img, #tokviz-view script").count() == 0
    page.get_by_role("tab", name="Export").click()
    assert page.evaluate("window.HACKED") is None


def test_what_the_model_did_not_see_is_marked_and_a_failed_lane_says_why(site, shared_page):
    page = shared_page(site)
    assert page.locator(".tv-unseen").first.is_visible() is False
    choose_example(page, 1, "panorama")
    page.wait_for_function("document.querySelectorAll('.tv-lane').length === 5")
    # Drawn, and the left margin of a 760 x 420 image veiled.
    page.wait_for_function(f"(([red, , , alpha]) => alpha === 255 && red < 90)(({PIXEL_AT})([0, 0.05, 0.5]))")
    assert min(page.evaluate(PIXEL_AT, [0, 0.5, 0.2])[:3]) > 90
    assert page.locator(".tv-unseen").first.inner_text() == "not seen by the model"
    assert "not seen by the model" in page.locator(".tv-legend[aria-label]").inner_text()
    # The middle 420 of 760 px are seen: 170 px in, the first patch begins.
    page.locator(".tv-image").first.hover(**at(page, 0, (170 + 9) / 760, 0.01))
    assert page.locator(".tv-where").first.inner_text().startswith("row 0, column 0")
    page.locator(".tv-image").first.hover(**at(page, 0, 0.05, 0.5))
    assert page.locator(".tv-marks .tv-hover").count() == 0
    failed = page.locator(".tv-lane").nth(4)
    assert "beyond this model's 8 layers" in failed.locator(".tv-answer").inner_text()
    assert "could not run" in failed.locator(".tv-verdict").inner_text()


def test_the_request_stays_in_sight_while_the_lanes_scroll(first_screen):
    page = first_screen
    page.mouse.move(900, 500)
    page.mouse.wheel(0, 600)
    page.wait_for_function("scrollY > 100")
    assert 0 <= page.locator("#tokviz-request").bounding_box()["y"] < 60
    assert page.locator("#tokviz-compare").is_visible()


def test_a_narrow_page_opens_on_images_and_leads_to_the_form(site, shared_page):
    page = shared_page(site, 400)
    assert page.locator(".tv-image").first.bounding_box()["y"] < 900
    page.get_by_role("link", name="Ask your own").click()
    page.wait_for_function("Math.abs(document.querySelector('#tokviz-request').getBoundingClientRect().top) < 40")


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (400, "dark")])
def test_light_dark_wide_narrow(site, open_page, shared_page, width, theme):
    """Each theme is the first once, and each width; the switch and the window bring the other two."""
    page = shared_page(site) if (width, theme) == (1440, "light") else open_page(site, width, theme)
    other = {"light": "dark", "dark": "light"}[theme]
    for shown in (theme, other):
        for size in (width, 1840 - width):
            page.set_viewport_size({"width": size, "height": 900})
            page.wait_for_function(f"({TOPS}.every((top, i, all) => top === all[0])) === {str(size == 1440).lower()}")
            assert page.evaluate("document.documentElement.scrollWidth") <= size
        assert (max(page.evaluate(BACKGROUND)) < 60) == (shown == "dark")
        assert page.evaluate(SCHEME) == shown  # bars and controls of the browser follow
        page.get_by_label("Switch between light and dark").click()


def test_the_budgets_of_the_papers_are_one_click_away(first_screen, rich_site, shared_page):
    page = first_screen
    buttons = page.locator("#tokviz-budgets button")
    assert buttons.all_inner_texts() == ["192", "128", "64", "32"]
    buttons.nth(1).click()
    expect(page.get_by_label("Budget as a share")).to_have_value("22.2% of 576 visual tokens")
    assert shared_page(rich_site).locator("#tokviz-budgets button").all_inner_texts() == ["48", "32", "16", "8"]
