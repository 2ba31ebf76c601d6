"""Pressing Compare while a run is under way, tabs beside each other, a page that is loaded anew or loses its server."""

import pytest
from PIL import Image
from playwright.sync_api import expect
from watching import PATIENCE_MS, watched_page

from tokviz.serving.storage import storage

pytestmark = pytest.mark.browser

STATUSES = "[...document.querySelectorAll('.tv-lane')].map(lane => lane.dataset.status).join()"
IN_THE_MIDDLE = f"{STATUSES} === 'done,running,waiting,waiting'"
ALL_DONE = f"""{STATUSES} === 'done,done,done,done' && document.querySelector('.tokviz-notice').textContent === ''"""
REMEMBERED = "(JSON.parse(sessionStorage.getItem('tokviz-state')) || { shown: '' }).shown"


@pytest.fixture
def held(paced):
    paced.hold(1)
    yield paced
    paced.release()


def ask(page, question, by="button"):
    page.locator("#tokviz-question textarea").fill(question)
    if by == "button":
        page.locator("#tokviz-compare").click()
    else:
        page.locator("#tokviz-question textarea").press("Enter")


def asked(page, question):
    page.wait_for_function("question => document.querySelector('.tv-asked')?.textContent === question", arg=question)


def test_a_press_during_a_run_replaces_it(site, shared_page, held):
    """Five of five times the page said "waiting" for ever, with Stop grey."""
    page = shared_page(site)
    for number, by in enumerate(("button", "button", "Enter", "Enter")):
        ask(page, f"the question number {number} ?", by)
        asked(page, f"the question number {number} ?")
        page.wait_for_function(IN_THE_MIDDLE)
        assert page.locator("#tokviz-stop").is_enabled()
    held.release()
    page.wait_for_function(ALL_DONE)
    assert page.locator(".tv-asked").inner_text() == "the question number 3 ?"
    expect(page.locator("#tokviz-stop")).to_be_disabled()
    assert all(stop.is_set() for stop in held.stops[-4:-1])


def test_two_presses_at_once_leave_one_run_that_is_shown_to_its_end_and_again_after_a_reload(site, shared_page, paced):
    page = shared_page(site)
    page.locator("#tokviz-question textarea").fill("pressed twice ?")
    page.evaluate("() => { const press = document.querySelector('#tokviz-compare'); press.click(); press.click(); }")
    asked(page, "pressed twice ?")
    page.wait_for_function(ALL_DONE)
    expect(page.locator("#tokviz-stop")).to_be_disabled()
    page.wait_for_function(f"!['', 'example-0'].includes({REMEMBERED})")
    answers = page.locator(".tv-answer").all_inner_texts()
    page.reload()
    asked(page, "pressed twice ?")
    assert page.locator(".tv-answer").all_inner_texts() == answers
    assert "reloaded" in page.locator(".tv-origin").inner_text()
    expect(page.locator("#tokviz-question textarea")).to_have_value("pressed twice ?")


def test_a_reload_shows_the_example_that_was_shown(site, shared_page):
    page = shared_page(site)
    page.locator("#tokviz-examples button").nth(1).click()
    page.get_by_role("heading", name="panorama").wait_for()
    page.wait_for_function(f"{REMEMBERED} === 'example-1'")
    page.reload()
    page.get_by_role("heading", name="panorama").wait_for()


def test_a_file_that_was_chosen_and_not_asked_about_survives_a_reload(site, browser, tmp_path):
    # A tab of its own, whose console is not watched: a reload may break off the check of the upload.
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(site)
    page.wait_for_function("document.documentElement.dataset.tokvizReady === ''")
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "mine.png")
    page.locator(".mf-input").set_input_files(str(tmp_path / "mine.png"))
    page.wait_for_function("document.querySelector('.mf-image').naturalWidth === 90")
    stale = page.locator(".tv-stale")
    expect(stale).to_contain_text("not to the file you chose")
    page.wait_for_function("JSON.parse(sessionStorage.getItem('tokviz-state'))?.file?.name === 'mine.png'")
    page.reload()
    page.wait_for_function("document.querySelector('.mf-image')?.naturalWidth === 90")
    expect(page.locator(".mf-name")).to_have_text("mine.png")
    expect(stale).to_contain_text("not to the file you chose")
    for path in storage().folder.rglob("mine.png"):
        path.unlink()
    page.reload()
    expect(page.locator(".tokviz-notice")).to_contain_text("no longer on the server: please choose it again")
    page.wait_for_function("document.querySelector('.mf-image').naturalWidth > 90")
    expect(stale).to_have_text("")
    page.context.close()


def test_two_tabs_are_answered_one_after_the_other_and_one_that_goes_away_gives_its_turn_up(
    site, browser, shared_page, held, monkeypatch
):
    first = shared_page(site)
    ask(first, "the first tab ?")
    first.wait_for_function(IN_THE_MIDDLE)
    with watched_page(browser, site) as second:
        ask(second, "the second tab ?")
        second.wait_for_function("document.querySelector('.tokviz-notice').textContent === 'Queued: 1 run ahead …'")
        assert second.locator("#tokviz-stop").is_enabled()
        held.release()
        second.wait_for_function(ALL_DONE)
        assert second.locator(".tv-asked").inner_text() == "the second tab ?"
        first.bring_to_front()
        first.wait_for_function(ALL_DONE)
        assert first.locator(".tv-asked").inner_text() == "the first tab ?"
        second.bring_to_front()
        held.hold(1)
        monkeypatch.setattr("tokviz.serving.queue.BEAT_S", 0.5)  # how often it is looked whether anybody listens
        ask(second, "will leave ?")
        second.wait_for_function(IN_THE_MIDDLE)
        leaves = len(held.stops) - 1
    assert held.stops[leaves].wait(20)
    held.release()
    first.bring_to_front()
    ask(first, "comes next ?")
    asked(first, "comes next ?")
    first.wait_for_function(ALL_DONE)


def test_a_run_that_falls_silent_is_not_shown_as_running(site, browser, held, monkeypatch):
    monkeypatch.setattr("tokviz.serving.queue.BEAT_S", 1000.0)
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.clock.install()
    page.goto(site)
    page.clock.run_for(5000)
    page.wait_for_selector(".tv-lane .tv-answer:not(:empty)")
    page.wait_for_function("document.documentElement.dataset.tokvizReady === ''", polling=100)
    ask(page, "will be lost ?")
    page.wait_for_function(IN_THE_MIDDLE, polling=100)
    page.route("**/gradio_api/**", lambda route: route.abort())
    page.clock.fast_forward(31_000)
    expect(page.locator(".tokviz-notice-error")).to_contain_text("press Compare to ask again")
    assert page.evaluate(STATUSES) == "done,lost,lost,lost"
    assert page.locator(".tv-answer").all_inner_texts() == ["cyan", "b", "not answered", "not answered"]
    context.close()


def test_the_visitors_own_settings_survive_an_example(site, shared_page, paced):
    page = shared_page(site)
    page.get_by_role("button", name="Advanced").click()
    repeats, tokens = page.get_by_label("Repeats"), page.get_by_label("Max new tokens")
    expect(repeats).to_have_value("1")
    page.locator("#tokviz-examples button").nth(1).click()
    page.get_by_role("heading", name="panorama").wait_for()
    expect(repeats).to_have_value("1")
    expect(tokens).to_have_value("32")


def test_after_a_model_that_failed_the_lanes_say_whose_they_are(site, shared_page, loads, paced, monkeypatch):
    page = shared_page(site)
    monkeypatch.setattr("tokviz.ui.handlers.is_loaded", lambda asked: False)
    monkeypatch.setattr(loads, "refusal", "The model hub cannot be reached.")
    page.locator("#tokviz-compare").click()
    expect(page.locator(".tokviz-notice-error")).to_have_text("The model hub cannot be reached.")
    expect(page.locator(".tv-stale")).to_contain_text("belong to an earlier request")
    assert page.locator(".tv-lane").count() == 4
    loads.refusal = ""
    page.locator("#tokviz-compare").click()
    page.wait_for_function(ALL_DONE)
    expect(page.locator(".tv-stale")).to_be_hidden()
