"""The first screen: what it says it is, cases to choose, answers in sight, nothing that moves, a state that stays."""

import json

import pytest
from playwright.sync_api import expect
from synthetic import HOSTILE, comparison
from test_look_page import SHIFTS
from view_alone import document, payload
from watching import PATIENCE_MS, watched_page

from tokviz.answers import CUT_ANSWER
from tokviz.runs.examples import load_examples
from tokviz.runs.metrics import normalised

pytestmark = pytest.mark.browser

READY = "document.documentElement.dataset.tokvizReady === ''"
SHOWN = """() => [document.querySelector('#tokviz-question textarea').value,
  document.querySelector('#tokviz-budget input').value, document.querySelector('.tv-title').textContent,
  document.querySelector('input[name=tv-view]:checked').value,
  [...document.querySelectorAll('.tm-pick input:checked')].map((box) => box.closest('.tm-method').id)]"""


@pytest.fixture(scope="module")
def page(browser, shipped_site):
    with watched_page(browser, shipped_site) as opened:
        opened.wait_for_function(READY)
        yield opened


def bubble(page):
    return page.locator(".tokviz-bubble")


def home(page):
    """The opening case, whatever a test did."""
    page.locator("#tokviz-examples button").first.click()
    page.wait_for_function("document.documentElement.dataset.tokvizExample === '0'")
    page.evaluate("scrollTo(0, 0)")


def test_it_says_in_a_sentence_what_it_is_and_opens_on_four_kinds_of_methods(page):
    assert "which parts of an image each token pruner keeps" in page.locator(".tokviz-head").inner_text()
    families = page.locator(".tv-family").all_inner_texts()
    assert {"attention", "approximation error", "diversity", "control"} <= set(families)
    labels = page.locator(".tv-label").all_inner_texts()
    assert {"No pruning", "ApET", "Random"} <= set(labels)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768)])
def test_every_answer_is_in_sight_without_scrolling(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    home(page)
    page.wait_for_function("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
    seen = page.evaluate("""() => [...document.querySelectorAll('.tv-answer, .tv-jump')].filter((node) => {
      const box = node.getBoundingClientRect();
      return box.height && box.top >= 0 && box.bottom <= innerHeight; }).map((node) => node.innerText)""")
    runs = load_examples()[0].comparison.runs
    in_lanes, in_bar = [run.answer for run in runs], [f"{run.label}\n" for run in runs]
    assert seen == in_lanes or all(any(words.startswith(name) for words in seen) for name in in_bar), seen
    gaps = page.evaluate("""() => [...document.querySelectorAll('.tv-lane')].map((lane) =>
      lane.querySelector('.tv-image').getBoundingClientRect().top
      - lane.querySelector('.tv-answer').getBoundingClientRect().bottom)""")
    assert max(gaps) < 40, "only the verdict is between an answer and its image"
    page.set_viewport_size({"width": 1440, "height": 900})


def test_the_guide_walks_along_the_real_controls_and_gives_the_focus_back(page):
    opener = page.get_by_role("button", name="Guide", exact=True)
    opener.click()
    dialog = page.locator(".tokviz-tour")
    expect(dialog).to_be_visible()  # its script comes when it is asked for
    seen = []
    while dialog.is_visible():
        seen.append(dialog.locator("h2").inner_text())
        ring, words = page.locator(".tokviz-ring").bounding_box(), dialog.bounding_box()
        assert ring["height"] > 20 and words["y"] >= 0 and words["y"] + words["height"] <= 900, seen[-1]
        page.keyboard.press("ArrowRight")
    assert len(seen) == len(set(seen)) == 9 and "Look closer" in seen
    assert opener.evaluate("node => node === document.activeElement")
    opener.click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.evaluate("scrollTo(0, 0)")


def test_about_has_a_picture_per_kind_and_an_address(page):
    page.get_by_role("button", name="About", exact=True).click()
    about = page.get_by_role("dialog", name="About tokviz")
    for words in ("What is a visual token?", "Kinds of methods", "What the numbers mean", "Look closer", "Limits"):
        expect(about.get_by_role("heading", name=words)).to_be_visible()
    assert about.locator("li svg").count() == 7 and page.url.endswith("#about")
    page.keyboard.press("Escape")
    expect(about).to_be_hidden()
    assert "about" not in page.url


def test_terms_say_what_they_mean_where_they_stand(page):
    home(page)
    page.locator(".tv-numbers").first.get_by_text("prefill", exact=True).hover()
    expect(bubble(page)).to_contain_text("first pass, over the whole prompt")
    page.get_by_role("button", name="What does “Budget").focus()
    expect(bubble(page)).to_contain_text("How many visual tokens")
    page.get_by_role("button", name="What does “Counted as").focus()
    expect(bubble(page)).to_contain_text("layer by layer")
    page.keyboard.press("Escape")
    expect(bubble(page)).to_be_hidden()
    page.locator(".tv-family", has_text="attention").first.hover()
    expect(bubble(page)).to_have_text("Keep what gets the most attention.")
    page.mouse.move(5, 5)


def test_cards_show_the_question_and_who_loses_it_with_names_under_the_pointer(page):
    example = load_examples()[0]
    card = page.locator("#tokviz-examples button").first
    assert card.locator(".ep-question").inner_text() == example.case.question
    assert card.locator("img").evaluate("image => image.complete && image.naturalWidth > 40")
    lost = sum(normalised(answer) != normalised(example.case.answer) for answer in example.case.answers.values())
    assert page.locator(".tv-outcomes-open").inner_text().startswith(f"{lost} of {len(example.case.answers)} methods")
    card.locator(".ep-loses").hover()
    expect(bubble(page)).to_contain_text("Lose the answer: ")
    card.locator(".ep-wins").hover()
    expect(bubble(page)).to_contain_text("Keep it: ")
    page.mouse.move(5, 5)
    everything = page.get_by_role("button", name="Show all")
    everything.click()
    rows = page.evaluate("new Set([...document.querySelectorAll('.ep-card')].map((c) => c.offsetTop)).size")
    assert rows > 1
    page.get_by_role("button", name="Show the examples in one row").click()


def test_a_press_on_a_method_that_loses_adds_its_lane(page, paced):
    home(page)
    answers = load_examples()[0].case.answers
    page.locator(".tv-outcomes-open").click()
    listed = page.get_by_role("dialog", name="Which methods lose this answer")
    assert listed.locator(".tv-outcome-method").count() == len(answers)
    shown = {run.method for run in load_examples()[0].comparison.runs}
    before = len(paced.requests)
    new = listed.locator(".tv-outcome-wrong:not(:has(.tv-outcome-shown))").first
    label = new.locator("b").inner_text()
    new.click()
    page.wait_for_function("document.querySelector('.tv-origin').hidden")
    (asked,) = paced.requests[before:]
    added = {method for method, _ in asked.methods} - shown
    assert len(added) == 1 and len(asked.methods) == len(shown), "the lanes that were there, and one"
    assert page.locator(f"#tokviz-method-{added.pop()}").get_by_text(label, exact=True).count() == 1
    expect(page.locator(".tokviz-notice")).to_have_text("")


def test_an_example_says_which_settings_it_replaces_and_leaves_the_rest(page):
    home(page)
    page.locator("#tokviz-budgets button").first.click()
    page.get_by_role("button", name="Advanced").click()
    repeats = page.get_by_label("Repeats")
    repeats.fill("3")
    page.locator("#tokviz-examples button").nth(1).click()
    expect(page.locator(".tokviz-notice")).to_have_text("Set by the example: budget 64 (was 192).")
    assert repeats.input_value() == "3"
    repeats.fill("1")
    page.get_by_role("button", name="Advanced").click()


def test_reload_second_tab_and_link_come_back_to_the_same_state(browser, page):
    home(page)
    page.locator("#tokviz-examples button").nth(2).click()
    page.wait_for_function("document.documentElement.dataset.tokvizExample === '2'")
    page.locator("#tokviz-method-random").get_by_role("checkbox").set_checked(True, force=True)
    page.get_by_label("Score", exact=True).check(force=True)
    page.locator("#tokviz-budgets button").nth(1).click()
    page.locator("#tokviz-question textarea").fill("is it, or not & why?")
    page.wait_for_function("location.hash.includes('budget=128') && location.hash.includes('why')")
    state, link = page.evaluate(SHOWN), page.url
    assert state[:2] == ["is it, or not & why?", "128"] and state[3] == "score"
    page.reload()
    page.wait_for_function(READY)
    assert page.evaluate(SHOWN) == state
    second = page.context.new_page()
    second.goto(link.split("#")[0])
    second.wait_for_function(READY)
    assert second.evaluate(SHOWN) == state
    second.wait_for_url(link)
    second.close()
    elsewhere = browser.new_context()
    third = elsewhere.new_page()
    third.goto(link)
    third.wait_for_function(READY)
    assert third.evaluate(SHOWN) == state
    elsewhere.close()
    page.get_by_label("Kept", exact=True).check(force=True)


def test_a_broken_link_opens_the_first_screen_and_runs_nothing(browser, shipped_site):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{shipped_site}#compare?example=%3Cimg%3E&methods=apet~x,%&budget=-3&question=%&view={HOSTILE[:40]}")
    page.wait_for_function(READY)
    assert page.evaluate("document.documentElement.dataset.tokvizExample") == "0"
    assert page.locator("#tokviz-budget input").first.input_value() == "64"
    assert page.evaluate("window.HACKED") is None
    context.close()


def test_a_link_needs_no_server_s_memory_and_files_say_what_they_hold(browser, page):
    home(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    example = load_examples()[0]
    methods = sorted(run.method for run in example.comparison.runs[1:])
    assert f"example={example.id}&" in link and "budget=64" in link
    assert sorted(link.split("methods=")[1].split("&")[0].split(",")) == methods
    page.get_by_role("tab", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the session").click()
    words = "-".join(example.case.question.rstrip("?").split())
    assert download.value.suggested_filename == f"tokviz-{words}-64-tokens.json"
    page.get_by_role("tab", name="Numbers").click()


def test_the_foot_of_the_page_is_in_our_own_words(page):
    assert page.locator("footer").first.inner_text().split() == ["API", "and", "Python"]


def test_nothing_moves_while_answers_stream(browser, site):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(SHIFTS)
    page.goto(site)
    page.wait_for_function(READY)
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tv-origin').hidden")
    page.wait_for_function("""document.querySelectorAll('.tv-lane[data-status="done"]').length === 4
      && document.querySelector('.tokviz-notice').textContent === ''""")
    assert page.evaluate("window.shifted") < 0.05
    context.close()


LATE = """() => {
  let pressed = false;
  document.querySelector('#tokviz-actions').addEventListener('click', (event) => {
    if (pressed || !event.target.closest('#tokviz-compare')) return;
    pressed = true;
    event.stopPropagation();
    setTimeout(() => document.querySelector('#tokviz-compare').click(), 800);
  }, true);
}"""
"""A slow phone: gradio hears of a press so late that the browser no longer forgives what moves."""


def test_on_a_slow_phone_nothing_moves_after_a_press_on_compare(browser, shipped_site):
    context = browser.new_context(viewport={"width": 400, "height": 850}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(SHIFTS)
    page.goto(shipped_site)
    page.wait_for_function(READY)
    page.locator("#tokviz-compare").scroll_into_view_if_needed()
    page.evaluate(LATE)
    page.evaluate("window.shifted = 0")
    page.locator("#tokviz-compare").tap()
    page.wait_for_function("document.querySelector('.tv-origin').hidden")
    page.wait_for_function("""document.querySelector('.tv-lane:not([data-status="done"])') === null
      && document.querySelector('.tokviz-notice').textContent === ''""")
    assert page.locator("#tokviz-view").bounding_box()["y"] < 100
    assert page.evaluate("window.shifted") < 0.05
    context.close()


@pytest.fixture
def alone(browser):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    yield page
    page.close()


def with_run(session, at, **changes):
    runs = [run.model_copy(update=changes) if i == at else run for i, run in enumerate(session.runs)]
    return session.model_copy(update={"runs": runs})


def test_notes_and_a_long_answer_of_one_lane_do_not_push_the_others(alone):
    plain = comparison()
    where = """() => [...document.querySelectorAll('.tv-image, .tv-numbers')].map((node) =>
      Math.round(node.getBoundingClientRect().top))"""
    alone.set_content(document(plain))
    alone.wait_for_selector(".tv-answer:not(:empty)")
    before = alone.evaluate(where)
    noted = with_run(plain, 1, answer="word " * 80, warnings=[f"Note {i}. " * 30 for i in range(4)])
    alone.evaluate(f"showNext({json.dumps(payload(noted))})")
    alone.wait_for_function("document.querySelector('.tv-answer.tv-long') !== null")
    assert alone.evaluate(where) == before
    more = alone.get_by_role("button", name="Whole answer of")
    assert more.count() == 1
    more.click()
    assert alone.locator(".tv-answer").nth(1).bounding_box()["height"] > 60
    alone.locator(".tv-fold summary").first.click()
    assert alone.locator(".tv-fold").first.locator(".tv-warning:visible").count() == 4


def test_an_answer_that_was_cut_says_so(alone):
    alone.set_content(document(with_run(comparison(), 2, warnings=[CUT_ANSWER.format(8)])))
    alone.wait_for_selector(".tv-answer:not(:empty)")
    assert [cut.is_visible() for cut in alone.locator(".tv-cut").all()] == [False, False, True, False]
    assert "after 8 new tokens" in alone.locator(".tv-cut").nth(2).get_attribute("data-hint")


def test_lanes_of_another_model_than_the_chosen_one_say_so(alone):
    session = comparison()
    alone.set_content(document(session))
    choose = """(model) => { document.documentElement.dataset.tokvizChosen = model;
      document.dispatchEvent(new CustomEvent('tokviz:chosen-model')); }"""
    alone.evaluate(choose, "another/model")
    told = alone.locator(".tv-other-model")
    assert session.model.name in told.inner_text() and "another/model" in told.inner_text()
    alone.evaluate(choose, session.model.name)
    assert told.inner_text() == ""
