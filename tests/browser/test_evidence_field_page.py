"""The right answer and boxes of evidence, given on the page."""

import pytest

pytestmark = pytest.mark.browser


def test_evidence_is_drawn_on_the_image_and_sent_with_the_request(shared_page, site, paced):
    page = shared_page(site)
    page.get_by_text("Right answer and evidence").click()
    page.get_by_label("Expected answer").fill("wifi")
    page.get_by_role("button", name="Mark on the image").click()
    stage = page.get_by_role("application", name="Image to mark evidence on")
    page.wait_for_function("document.querySelector('.te-image').getBoundingClientRect().width > 100")
    box = stage.bounding_box()
    scale = 480 / box["width"]
    page.mouse.move(box["x"] + 40, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 110, steps=3)
    page.mouse.up()
    stage.press("Enter")
    stage.press("Shift+ArrowRight")
    stage.press("ArrowUp")
    stage.press("Enter")
    stage.press("Delete")
    page.get_by_role("button", name="Done").click()
    assert "2 boxes marked" in page.locator(".te-told").inner_text()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_function("document.querySelector('.tv-expected')?.textContent === 'expected answer: wifi'")
    asked = paced.requests[-1]
    assert asked.expected == "wifi"
    drawn, keyed = asked.evidence
    assert drawn == pytest.approx([40 * scale, 50 * scale, 120 * scale, 110 * scale], abs=2 * scale)
    assert list(keyed) == [192, 187, 293, 283]
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_label("Expected answer").fill("")
    page.get_by_text("Right answer and evidence").click()
