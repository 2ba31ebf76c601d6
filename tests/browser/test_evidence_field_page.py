"""The right answer and boxes of evidence, given on the page: by mouse, keys and fingers, on images and on frames."""

import pytest
from playwright.sync_api import expect
from test_touch_page import drag
from watching import watched_page

from tokviz.runs.examples import load_examples

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


def test_evidence_of_a_video_is_drawn_on_its_frames_and_sent_with_their_numbers(browser, shipped_site, paced):
    examples = load_examples()
    at = next(i for i, example in enumerate(examples) if example.comparison.video is not None)
    video = examples[at].comparison.video
    with watched_page(browser, shipped_site) as page:
        page.locator("#tokviz-examples button").nth(at).click()
        page.get_by_role("heading", name=examples[at].title).wait_for()
        page.get_by_text("Right answer and evidence").click()
        page.get_by_role("button", name="Mark on the frames").click()
        stage = page.get_by_role("application", name="Frame to mark evidence on")
        page.wait_for_function("document.querySelector('.te-image').getBoundingClientRect().width > 100")
        expect(page.locator(".te-frame-told")).to_contain_text(f"frame 1 of {len(video.frames)}")
        box = stage.bounding_box()
        scale = video.width / box["width"]
        drag(page, (box["x"] + 40, box["y"] + 50), (box["x"] + 120, box["y"] + 110))
        page.get_by_role("slider", name="Frame that is shown").press("ArrowRight")
        expect(page.locator(".te-boxes rect")).to_have_count(0)  # a box is of one frame
        drag(page, (box["x"] + 60, box["y"] + 20), (box["x"] + 90, box["y"] + 60))
        expect(page.locator(".te-list li")).to_have_count(2)
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator("#tokviz-stop")).to_be_disabled()
        page.wait_for_function("document.querySelector('.tv-origin').hidden")
        asked = paced.requests[-1]
        assert asked.evidence_at == tuple(frame.index for frame in video.frames[:2])
        wanted = [40 * scale, 50 * scale, 120 * scale, 110 * scale]
        assert asked.evidence[0] == pytest.approx(wanted, abs=2 * scale)
        # The lanes are now another image's (the runner knows one only): frames are not at hand, which is said.
        expect(page.locator(".te-open")).to_be_disabled()
        assert (
            "After the first Compare" in page.locator(".te-told").inner_text()
            or "page can show" in page.locator(".te-told").inner_text()
        )
