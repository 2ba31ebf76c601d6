"""Asking: streaming, Stop, bad input, the real model, session files."""

import json
import re
import time

import pytest
from PIL import Image
from playwright.sync_api import expect

from tokviz.pruners import get

pytestmark = pytest.mark.browser


def notice(page):
    return page.locator(".tokviz-notice")


def upload(page, path):
    page.locator("#tokviz-image input[type=file]").set_input_files(str(path))


IN_THE_MIDDLE = """[...document.querySelectorAll('.tv-lane')].map(l => l.dataset.status).join()
  === 'done,running,waiting,waiting'"""
ALL_DONE = """document.querySelectorAll('.tv-lane[data-status="done"]').length === 4
  && document.querySelector('.tokviz-notice').textContent === ''"""


@pytest.fixture
def held(paced):
    """The paced runner, waiting inside the second lane until released."""
    paced.hold(1)
    yield paced
    paced.release()


def test_an_example_opened_during_a_run_is_what_stays(site, shared_page, held):
    page = shared_page(site)
    page.locator("#tokviz-compare").click()
    page.wait_for_function(IN_THE_MIDDLE)
    page.locator("#tokviz-examples button").nth(1).click()
    page.get_by_role("heading", name="panorama").wait_for()
    expect(page.locator("#tokviz-stop")).to_be_disabled()
    held.release()
    deadline = time.monotonic() + 20
    while held.ended < len(held.requests) and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    page.wait_for_timeout(200)  # what the abandoned run still said would have painted over the example by now
    assert "panorama" in page.locator(".tv-title").inner_text()
    assert "stored result" in page.locator(".tv-origin").inner_text()


def test_lanes_stream_and_the_example_keeps_its_truth(site, shared_page, held):
    page = shared_page(site)
    page.locator("#tokviz-compare").click()
    page.wait_for_function(IN_THE_MIDDLE)
    expect(page.locator(".tv-answer")).to_have_text(["cyan", "b", "waiting", "waiting"])
    assert "run 2 of 4" in notice(page).inner_text()
    held.release()
    page.wait_for_function(ALL_DONE)
    assert page.locator(".tv-verdict").nth(1).inner_text() == "✗ flipped by pruning"
    assert page.locator(".tv-origin").is_visible() is False
    asked = held.requests[-1]
    assert asked.expected == "cyan" and len(asked.evidence) == 1
    # No settings were changed: defaults hold.
    assert dict(asked.methods) == {id: get(id).complete({}) for id in ("fastervlm", "apet", "todre")}


def test_stop_keeps_what_is_finished_and_another_question_has_no_known_answer(site, shared_page, held):
    page = shared_page(site)
    page.locator("#tokviz-compare").click()
    page.wait_for_function(IN_THE_MIDDLE)
    page.locator("#tokviz-stop").click()
    page.wait_for_function("document.querySelector('.tokviz-notice').textContent.startsWith('Stopped')")
    assert [lane.get_attribute("data-status") for lane in page.locator(".tv-lane").all()] == ["done"]
    assert held.requests[-1].expected == "cyan"
    held.release()
    page.locator("#tokviz-question textarea").fill("how many circles are there ?")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tv-asked').textContent.startsWith('how many')")
    page.wait_for_function(ALL_DONE)
    assert held.requests[-1].expected is None and held.requests[-1].evidence == ()


def test_bad_input_gets_a_sentence_and_the_page_goes_on(site, shared_page, tmp_path):
    page = shared_page(site)
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(b"\x89PNG\r\n\x1a\nthis is no image at all")
    upload(page, corrupt)
    page.wait_for_function("document.querySelector('.tokviz-notice-error') !== null")
    assert "not a readable image" in notice(page).inner_text()
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tokviz-notice').textContent.startsWith('Choose an image')")
    page.locator("#tokviz-examples button").first.click()
    page.wait_for_function("document.querySelector('.tokviz-notice').textContent === ''")
    page.locator("#tokviz-question textarea").fill("")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tokviz-notice').textContent.startsWith('Write a question')")
    page.locator("#tokviz-question textarea").fill("what is it ?")
    for method in ("apet", "fastervlm", "todre"):
        page.locator(f"#tokviz-method-{method} input").uncheck()
    assert page.locator(".tm-count").inner_text().startswith("0 of ")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tokviz-notice').textContent.startsWith('Choose at least one')")
    assert page.locator(".tv-lane").count() == 4


def test_a_session_file_is_downloaded_and_opened_again(site, shared_page, tmp_path):
    page = shared_page(site)
    page.get_by_role("tab", name="Export").click()
    with page.expect_download() as download:
        page.locator("#tokviz-session").click()
    path = tmp_path / "session.json"
    download.value.save_as(path)
    session = json.loads(path.read_text())
    session["request"]["question"] = "a question from a file"
    path.write_text(json.dumps(session))
    page.locator("input[accept='.json']").set_input_files(str(path))
    page.wait_for_function("document.querySelector('.tv-asked').textContent === 'a question from a file'")
    assert "Opened session" in page.locator(".tv-origin").inner_text()
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"schema_version": 1}')
    page.locator("input[accept='.json']").set_input_files(str(damaged))
    page.wait_for_function("document.querySelector('.tokviz-notice-error') !== null")
    assert "not a tokviz session" in notice(page).inner_text()


def test_the_real_model_answers_in_every_lane(live_site, shared_page, tmp_path):
    page = shared_page(live_site)
    image = tmp_path / "wide.png"
    Image.radial_gradient("L").convert("RGB").resize((640, 400)).save(image)
    upload(page, image)
    page.locator("#tokviz-question textarea").fill("what color is the circle ?")
    page.locator("#tokviz-compare").click()
    page.wait_for_function(
        "document.querySelectorAll('.tv-lane[data-status=\"done\"]').length === 4"
        " && document.querySelector('.tv-asked').textContent === 'what color is the circle ?'",
    )
    faster = page.locator(".tv-lane").filter(has=page.get_by_role("heading", name="FasterVLM"))
    assert faster.locator(".tv-numbers").inner_text().split("\n")[1] == "64"
    total = re.fullmatch(r"64 of (\d+) patches kept", faster.locator(".tv-where").inner_text())[1]
    share = page.get_by_label("Budget as a share")
    expect(share).to_have_value(f"{6400 / int(total):.1f}% of {total} visual tokens")
    assert page.locator(".tv-unseen").first.is_visible()
    assert "single shot" in page.locator(".tv-numbers").nth(1).inner_text()
    assert page.locator('.tv-lane[data-status="error"]').count() == 0
