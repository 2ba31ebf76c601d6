"""Look closer: sweep, inside, horizon, edit and rescue as a visitor meets them, with the embedded model. One page."""

import re

import pytest
from playwright.sync_api import expect
from watching import watched_page

pytestmark = pytest.mark.browser

LANES = ["No pruning", "FastV", "Random"]
BUDGET = 16


@pytest.fixture(scope="module")
def page(browser, live_site):
    """The page after a live run of two methods: the stored examples of the tests are no model's."""
    hash = f"#compare?question=what%20color%20is%20the%20circle%20%3F&methods=fastv,random&budget={BUDGET}"
    with watched_page(browser, live_site + hash) as tab:
        expect(tab.locator(".tm-method input:checked")).to_have_count(2)
        tab.get_by_role("button", name="Compare", exact=True).click()
        expect(tab.locator("#tokviz-stop")).to_be_enabled()
        expect(tab.locator("#tokviz-stop")).to_be_disabled()
        expect(tab.locator(".tv-label")).to_have_text(LANES)
        yield tab


def pane(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel", name=name, exact=True)


def carried_out(page, name, press):
    """The pane of a study once it is finished."""
    mine = pane(page, name)
    mine.get_by_role("button", name=press, exact=True).click()
    expect(mine.locator(".ts-told")).to_have_class(re.compile("ts-told-done"))
    return mine


def test_a_sweep_draws_every_method_and_a_point_is_a_run(page):
    mine = carried_out(page, "Sweep", "Sweep the budgets")
    expect(mine.locator(".ts-flips b")).to_have_text(["FastV", "Random"])
    dots = mine.get_by_role("button", name=re.compile("^FastV, "))
    expect(dots).to_have_count(11)  # a budget each
    expect(mine.locator(".ts-band")).to_have_count(1)  # random alone has a spread
    unpruned = page.locator(".tv-lane .tv-answer").first.inner_text()
    expect(mine.locator(".ts-answer b")).to_have_text(unpruned)
    whole = mine.get_by_role("button", name=re.compile("^FastV, 576 tokens"))
    assert f"answers “{unpruned}”, the unpruned answer" in whole.get_attribute("aria-label")

    point = mine.get_by_role("button", name=re.compile("^FastV, 46 tokens"))
    said = re.search("answers “(.*?)”", point.get_attribute("aria-label"))[1]
    point.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#tokviz-budget input[type=number]")).to_have_value("46")
    expect(page.locator("#tokviz-stop")).to_be_enabled()
    expect(page.locator("#tokviz-stop")).to_be_disabled()
    fastv = page.locator(".tv-lane", has=page.get_by_role("heading", name="FastV", exact=True))
    expect(fastv.locator(".tv-where")).to_contain_text("46 of 576")
    expect(fastv.locator(".tv-answer")).to_have_text(said)
    expect(dots).to_have_count(11)  # the sweep is about the image and the question: it stays


def test_inside_has_curves_a_map_per_word_and_the_tower(page):
    mine = carried_out(page, "Inside the model", "Look inside")
    expect(mine.get_by_text("ToDRE’s threshold, 0.03")).to_be_visible()
    mask = mine.get_by_role("img", name=re.compile("^layer 3: image → text behind it 0$"))
    expect(mask).to_have_count(1)
    tower = mine.get_by_role("slider", name="Layer of the vision tower")
    entropy = mine.get_by_role("button", name="layer 1: entropy")
    words = entropy.get_attribute("aria-label")
    entropy.click()
    expect(tower).to_have_value("1")
    expect(mine.locator(".ts-tower-part .ts-patch-told")).to_contain_text(re.search(r"entropy \S+ nats", words)[0])

    looks = """(pane) => { const c = pane.querySelector('.ts-words-part canvas');
      const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
      return data.reduce((sum, value, k) => (sum * 31 + value * (k % 7)) >>> 0, 7); }"""
    mean = mine.evaluate(looks)
    mine.locator(".ts-words-part select").select_option("layer 0")
    assert mine.evaluate(looks) != mean
    frame = mine.locator(".ts-words-part .ts-frame")
    frame.focus()
    page.keyboard.press("ArrowRight")
    expect(mine.locator(".ts-words-part .ts-patch-told")).to_have_text(re.compile(r"row \d+, column \d+: attention "))


def test_a_horizon_says_from_which_layer_on_nothing_is_missed(page):
    mine = pane(page, "Horizon")
    mine.get_by_label("Size of the blocks left out").select_option("8 × 8")
    mine = carried_out(page, "Horizon", "Find the horizon")
    expect(mine.locator(".ts-answer b")).to_have_text(page.locator(".tv-lane .tv-answer").first.inner_text())
    said = mine.get_by_text(
        re.compile("^(From layer \\d+ on, leaving out|In the last measured layer|No block changes)")
    )
    expect(said).to_be_visible()
    points = mine.get_by_role("button", name=re.compile(r"^before layer \d+: largest change of a block "))
    expect(points).to_have_count(6)
    slider = mine.get_by_role("slider", name="Layer from which on a block is left out")
    told = mine.locator(".ts-patch-told")
    expect(told).to_contain_text("Before layer 0: the most that a block does")
    points.last.click()
    expect(slider).to_have_value("5")
    expect(told).not_to_contain_text("Before layer 0:")
    mine.locator(".ts-frame").focus()
    page.keyboard.press("ArrowRight")
    expect(told).to_have_text(re.compile(r"row \d+, column \d+: without its block the answer changes by .\S+ nats"))
    mine.locator(".ts-numbers summary").click()
    expect(mine.locator(".ts-numbers tr")).to_have_count(7)


def test_brushed_tokens_are_asked_as_a_lane(page):
    mine = pane(page, "Edit by hand")
    ask = mine.get_by_role("button", name="Ask with these tokens")
    mine.get_by_label("Lane to edit").select_option("FastV")
    expect(ask).to_be_disabled()
    mine.get_by_label("Box").check(force=True)
    frame = mine.locator(".ts-frame")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    half = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(*half, steps=3)
    page.mouse.up()
    # 24 x 24 patches: a quarter of them lies in the box.
    mine.get_by_role("button", name="Keep all inside").click()
    mine.get_by_role("button", name="Drop all outside").click()
    count = mine.locator(".ts-edit-count")
    expect(count).to_contain_text("144 kept")
    mine.get_by_label("Brush out").check(force=True)
    frame.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    expect(count).to_contain_text("143 kept")
    mine.get_by_role("button", name="Undo").click()
    expect(count).to_contain_text("144 kept")
    ask.click()
    expect(mine.locator(".ts-told")).to_contain_text("Edited: FastV is a lane now")
    expect(page.locator(".tv-label")).to_have_text([*LANES, "Edited: FastV"])
    lane = page.locator(".tv-lane").last
    expect(lane.locator(".tv-where")).to_contain_text("144 of 576")
    answer = lane.locator(".tv-answer").inner_text()
    expect(mine.locator(".ts-told")).to_contain_text(f"It answers: {answer}")


def test_a_rescue_shows_blocks_beside_a_random_control(page):
    mine = pane(page, "Rescue")
    mine.get_by_label("Lane to rescue").select_option("FastV")
    mine.get_by_label("Size of the blocks").select_option("6 × 6")
    mine = carried_out(page, "Rescue", "Find what was missed")
    assert mine.locator(".ts-gain:not(.ts-gain-random)").count() == 16
    assert mine.locator(".ts-gain-random").count() % 10 == 0  # ten seeds of every size
    mine.locator(".ts-numbers summary").last.click()
    expect(mine.locator(".ts-numbers tr")).to_have_count(17)


def test_a_study_is_stopped_and_what_there_is_stays(page):
    mine = pane(page, "Sweep")
    # The little model needs three seconds: pressed at the first point, not when a test gets to it.
    mine.evaluate("""pane => new MutationObserver((_, watch) => {
      if (!pane.querySelector('.ts-told').textContent.includes('measured')) return;
      watch.disconnect();
      pane.querySelector('.ts-stop').click();
    }).observe(pane, { childList: true, subtree: true, characterData: true })""")
    mine.get_by_role("button", name="Sweep the budgets").click()
    expect(mine.locator(".ts-told")).to_have_text("Stopped.")
    expect(mine.locator(".ts-side")).to_contain_text("were not finished: it was stopped")
    expect(mine.get_by_role("button", name="Sweep the budgets")).to_be_enabled()


def test_another_image_forgets_the_studies(page):
    page.locator(".ep-card").first.click()
    expect(page.locator(".tv-origin")).to_contain_text("stored result")
    expect(page.locator(".ts-result > *")).to_have_count(0)
    # Made by no model that this server has: said in a sentence, nothing breaks.
    mine = pane(page, "Sweep")
    mine.get_by_role("button", name="Sweep the budgets").click()
    expect(mine.locator(".ts-told-error")).to_be_visible()
