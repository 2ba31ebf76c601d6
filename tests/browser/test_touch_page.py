"""The page under a finger: tokens are brushed and boxed, evidence is boxed, and the page does not scroll meanwhile."""

import pytest
from playwright.sync_api import expect
from watching import PATIENCE_MS

pytestmark = pytest.mark.browser


def drag(page, start, end):
    """By mouse."""
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def swipe(page, start, end, steps=6):
    """By finger, as the browser gets it from a screen: it may scroll, and then takes the finger away.

    Presses that follow at once are clicks: the browser swallows a tap that comes within milliseconds of a swipe.
    """
    session = page.context.new_cdp_session(page)

    def send(kind, *points):
        touches = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    send("touchStart", start)
    for step in range(1, steps + 1):
        send("touchMove", tuple(a + (b - a) * step / steps for a, b in zip(start, end, strict=True)))
    send("touchEnd")
    session.detach()


@pytest.fixture(scope="module")
def phone(browser, site):
    """A phone on the first example."""
    context = browser.new_context(viewport={"width": 400, "height": 850}, has_touch=True, is_mobile=True)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_default_timeout(PATIENCE_MS)
    page.goto(site)
    page.wait_for_selector(".tv-lane .tv-answer:not(:empty)")
    page.wait_for_function("document.documentElement.dataset.tokvizReady === ''")
    yield page
    context.close()
    assert problems == []


def at(frame, x, y):
    """A point of an element, given as shares of its sides."""
    box = frame.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def test_tokens_are_brushed_and_boxed_with_a_finger(phone):
    phone.touchscreen.tap(200, 400)  # somebody is there: the section is loaded
    phone.get_by_role("tab", name="Edit by hand").tap()
    mine = phone.get_by_role("tabpanel", name="Edit by hand")
    mine.get_by_label("Lane to edit").select_option("FasterVLM")
    count = mine.locator(".ts-edit-count")
    expect(count).to_have_text("64 kept, as in the lane")
    frame = mine.locator(".ts-frame")
    frame.evaluate("node => node.scrollIntoView({ block: 'center' })")
    mine.get_by_label("Brush out").check(force=True)
    before = phone.evaluate("scrollY")
    for row in (0.1, 0.3, 0.5, 0.7, 0.9):
        swipe(phone, at(frame, 0.05, row), at(frame, 0.95, row), steps=40)
    swipe(phone, at(frame, 0.5, 0.05), at(frame, 0.5, 0.95), steps=40)
    expect(count).to_contain_text("−")
    assert phone.evaluate("scrollY") == before, "a finger that brushes does not scroll the page"
    mine.get_by_role("button", name="Reset").click()
    expect(count).to_have_text("64 kept, as in the lane")
    mine.get_by_label("Box").check(force=True)
    swipe(phone, at(frame, 0.01, 0.01), at(frame, 0.5, 0.5))
    mine.get_by_role("button", name="Keep all inside").click()
    expect(count).to_contain_text("+")
    mine.get_by_role("button", name="Drop all outside").click()
    expect(count).to_contain_text("144 kept")
    assert phone.evaluate("scrollY") == before


def test_evidence_is_boxed_with_a_finger(phone, paced):
    phone.get_by_text("Right answer and evidence").click()
    phone.get_by_role("button", name="Mark on the image").click()
    phone.wait_for_function("document.querySelector('.te-image').getBoundingClientRect().width > 100")
    stage = phone.get_by_role("application", name="Image to mark evidence on")
    swipe(phone, at(stage, 0.25, 0.25), at(stage, 0.5, 0.75))
    expect(phone.locator(".te-list li")).to_have_count(1)
    phone.get_by_role("button", name="Done").click()
    expect(phone.locator(".te-told")).to_have_text("1 box marked")
    phone.get_by_role("button", name="Compare", exact=True).click()
    expect(phone.locator("#tokviz-stop")).to_be_disabled()
    phone.wait_for_function("document.querySelector('.tv-origin').hidden")
    (box,) = paced.requests[-1].evidence
    assert box == pytest.approx([120, 120, 240, 360], abs=6)
