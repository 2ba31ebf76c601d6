"""Views that compare, and what a view can be set to: the patch view alone, against the numbers of the library."""

import csv
import io

import pytest
from playwright.sync_api import expect
from synthetic import comparison
from synthetic_rich import rich_comparison
from test_views_page import geometry
from view_alone import document

from tokviz.records import AnswerToken

pytestmark = pytest.mark.browser

PIXELS = """i => { const c = document.querySelectorAll('.tv-canvas')[i];
  const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return data.reduce((sum, value, k) => (sum * 31 + value * (k % 7 + 1)) >>> 0, 7); }"""
SET = "(node, value) => { node.value = value; node.dispatchEvent(new Event('input', { bubbles: true })); }"
FASTERVLM, APET, TODRE = 1, 2, 3
MERGES, CLUSTERS = 1, 2


def opened(browser, session):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(error.stack))
    page.set_content(document(session))
    page.wait_for_function("document.querySelector('.tv-canvas').width > 100")
    return page, errors


@pytest.fixture(scope="module")
def pages(browser):
    """The plain comparison and the rich one, each in a tab."""
    tabs = [opened(browser, session) for session in (comparison(failed=True), rich_comparison())]
    yield [page for page, _ in tabs]
    for page, errors in tabs:
        page.close()
        assert errors == []


@pytest.fixture
def plain(pages):
    return pages[0]


@pytest.fixture
def rich(pages):
    return pages[1]


def view(page, name):
    page.locator(".tv-views").get_by_label(name, exact=True).check(force=True)


def notes(page, lane):
    return page.locator(".tv-below .tv-tool-notes").nth(lane).inner_text()


def test_any_two_lanes_are_compared_as_the_library_does(plain):
    view(plain, "A vs B")
    for a, name in (("apet", "ApET"), ("full", "No pruning"), ("fastervlm", "FasterVLM")):
        plain.get_by_label("Lane A").select_option(label=name)
        for lane, run in enumerate(comparison(failed=True).runs):
            if run.error or run.key == a:
                continue
            found = comparison(failed=True).overlap(a, run.key)
            told = " ".join(notes(plain, lane).split())
            for words in (
                f"{len(found.only_a)} only A", f"{len(found.both)} both", f"{len(found.only_b)} only B",
                f"neither {len(found.neither)}", f"IoU {found.iou:.2f}", f"by chance {found.expected_both:.1f}",
            ):  # fmt: skip
                assert words in told, (a, run.key, told)
    assert "A: what the other lanes are compared with" in notes(plain, FASTERVLM)
    plain.get_by_label("Lane B").select_option(label="ApET")
    assert notes(plain, TODRE) == "Not compared." and "IoU" in notes(plain, APET)
    iou = comparison().overlap("fastervlm", "apet").iou
    assert plain.locator(".tv-live").inner_text() == f"A is FasterVLM. ApET: 22 in both, IoU {iou:.2f}."
    shared = comparison().overlap("fastervlm", "apet").both[0]
    row, column = divmod(shared, 24)
    box = plain.locator(".tv-image").nth(APET).bounding_box()
    at = {"x": (column + 0.5) / 24 * box["width"], "y": (row + 0.5) / 24 * box["height"]}
    plain.locator(".tv-image").nth(APET).hover(position=at)
    assert plain.locator(".tv-what").nth(APET).inner_text() == "kept by both"
    plain.mouse.move(1, 1)
    plain.get_by_label("Lane B").select_option(label="every other lane")


def test_a_lane_beside_random_selections_as_the_library_tells_it(plain):
    view(plain, "vs random")
    for lane, key in ((FASTERVLM, "fastervlm"), (APET, "apet")):
        found = comparison().against_random(key)
        assert f"Clumping {found.clumping:.1f} (random: 1)" in notes(plain, lane)
        told = f"{found.evidence_kept} of {found.evidence} kept, by chance {found.evidence_expected:.1f} (p "
        assert told in notes(plain, lane)
    before = plain.evaluate(PIXELS, APET)
    plain.get_by_label("neighbourhood").select_option(label="11 × 11 patches")
    assert f"Clumping {comparison().against_random('apet', radius=5).clumping:.1f} " in notes(plain, APET)
    assert plain.evaluate(PIXELS, APET) != before
    plain.get_by_label("neighbourhood").select_option(label="5 × 5 patches")


def test_scales_of_scores(browser, plain):
    told = "scaleOf({ scale: 'linear', values: [-1, 0, null] }, 'log').used"
    assert geometry(browser, told) == "linear", "nothing has a logarithm here"
    shares = "[3, 7, 7, 900].map(scaleOf({ scale: 'log', values: [7, 900, null, 3, 7] }, 'rank').at)"
    assert geometry(browser, shares) == [0, 0.5, 0.5, 1]
    view(plain, "Score")
    drawn = set()
    for scale in ("method’s", "linear", "log", "rank"):
        plain.locator(".tv-setting").get_by_label(scale, exact=True).check(force=True)
        drawn.add(plain.evaluate(PIXELS, FASTERVLM))
        assert ("by rank" in notes(plain, FASTERVLM)) == (scale == "rank")
        assert ("log scale" in notes(plain, FASTERVLM)) == (scale in ("method’s", "log"))
    assert len(drawn) == 3  # the method's own is the log
    plain.locator(".tv-setting").get_by_label("method’s", exact=True).check(force=True)


def test_the_order_is_replayed_pick_by_pick(plain):
    view(plain, "Order")
    slider = plain.get_by_label("How many picks are shown")
    told = plain.locator(".tv-setting[data-view=order] .tv-told")
    assert told.inner_text() == "256 of 256 picks"
    assert "all at once, by rank of the score" in notes(plain, FASTERVLM)
    whole = plain.evaluate(PIXELS, FASTERVLM)
    slider.evaluate(SET, 10)
    assert told.inner_text() == "10 of 256 picks" and slider.get_attribute("aria-valuetext") == "10 of 256 picks"
    assert "not yet picked" in notes(plain, TODRE) and "not yet" not in notes(plain, APET)  # it picks ten
    ten = plain.evaluate(PIXELS, FASTERVLM)
    slider.focus()
    plain.keyboard.press("ArrowRight")
    assert told.inner_text() == "11 of 256 picks" and len({whole, ten, plain.evaluate(PIXELS, FASTERVLM)}) == 3
    play = plain.get_by_label("Replay the picks")
    play.click()
    expect(plain.get_by_label("Pause the replay")).to_have_attribute("aria-pressed", "true")
    expect(told).not_to_have_text("11 of 256 picks")
    slider.evaluate(SET, 256)
    expect(play).to_have_attribute("aria-pressed", "false")
    assert plain.evaluate(PIXELS, FASTERVLM) == whole


def test_the_pointed_group_stands_out_among_many(rich):
    view(rich, "Clusters")
    slider = rich.locator(".tv-setting[data-view=clusters] input")
    assert "Evidence: 0 kept, 3 absorbed by 2 kept tokens, 0 lost." in notes(rich, MERGES)
    for shown in ("Kept", "Clusters"):
        view(rich, shown)
        assert rich.locator(".tv-marks").nth(MERGES).locator(".tv-absorbed").count() == 3
        assert "evidence absorbed" in rich.locator(".tv-legend").first.inner_text()
    twelve = rich.evaluate(PIXELS, MERGES)
    slider.evaluate(SET, 1)
    assert rich.locator(".tv-setting[data-view=clusters] .tv-told").inner_text().startswith("1 of ")
    assert rich.evaluate(PIXELS, MERGES) != twelve
    stage = rich_comparison()["clusters"].stages[0]
    target = stage.kept[3]
    size = stage.assignment.count(target)
    box = rich.locator(".tv-image").nth(CLUSTERS).bounding_box()
    row, column = divmod(target, 12)
    at = {"x": (column + 0.5) / 12 * box["width"], "y": (row + 0.5) / 12 * box["height"]}
    rich.locator(".tv-image").nth(CLUSTERS).hover(position=at)
    marks = rich.locator(".tv-marks").nth(CLUSTERS)
    assert marks.locator(".tv-dim").count() == 1 and marks.locator(".tv-size").text_content() == str(size)
    assert marks.locator(".tv-link").count() == size - 1
    rich.mouse.move(1, 1)
    assert rich.locator(".tv-dim").count() == 0


def test_the_numbers_behind_an_image_are_sorted_and_copied(plain):
    view(plain, "Kept")
    plain.get_by_label("Table of the patches of ApET").click()
    table = plain.locator(".tv-patches table")
    plain.get_by_role("button", name="approximation error").click()
    head = table.locator("th", has_text="approximation error")
    assert head.get_attribute("aria-sort") == "descending"
    run = comparison()["apet"]
    score = run.stages[0].score.values
    best = sorted(range(576), key=lambda token: -score[token])[:3]
    assert [int(t) for t in table.locator("tbody tr td:first-child").all_inner_texts()[:3]] == best
    plain.keyboard.press("Enter")  # the heading keeps the focus
    assert table.locator("th", has_text="approximation error").get_attribute("aria-sort") == "ascending"
    table.locator("tbody tr").first.hover()
    assert plain.locator(".tv-marks .tv-hover").count() == 5
    plain.mouse.move(1, 1)
    assert "200 of 576 rows" in plain.locator(".tv-patches-told").inner_text()
    plain.get_by_label("kept only").check()
    assert "64 of 64 rows" in plain.locator(".tv-patches-told").inner_text()
    plain.evaluate(
        "Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (t) => { window.copied = t; } } })"
    )
    plain.get_by_role("button", name="copy all rows").click()
    rows = list(csv.DictReader(io.StringIO(plain.evaluate("window.copied")), delimiter="\t"))
    assert sorted(int(row["token"]) for row in rows) == run.kept
    beside = comparison().against_random("apet").difference.values
    assert all(float(row["vs random, sd"]) == pytest.approx(beside[int(row["token"])], abs=1e-9) for row in rows)
    assert all(row["fate"].startswith("kept") for row in rows)
    plain.get_by_label("kept only").uncheck()


def told_words():
    """The lanes say a sentence each; the first pruned one changes a word, with a doubtful one beside it."""
    whole, full = comparison(), "The triangle left of the sign is cyan, I think."
    tokens = [("The", -0.1), (" triangle", -0.2), (" left", -0.1), (" of", 0.0), (" the", 0.0), (" sign", -0.1)]
    tokens += [(" is", 0.0), (" gr", -0.5), ("een", -0.5), (".", -0.25), ("</s>", 0.0)]
    said = [AnswerToken(id=i, text=text, logprob=logprob) for i, (text, logprob) in enumerate(tokens)]
    runs = [run.model_copy(update={"answer": full}) for run in whole.runs]
    runs[1] = runs[1].model_copy(update={"answer": "The triangle left of the sign is green.", "answer_tokens": said})
    return whole.model_copy(update={"runs": runs})


def test_changed_words_are_marked_and_tell_how_likely_they_were(browser):
    page, errors = opened(browser, told_words())
    answers = page.locator(".tv-answer")
    assert answers.nth(1).inner_text() == "The triangle left of the sign is green."
    assert answers.nth(1).locator(".tv-said-new").all_inner_texts() == ["green."]
    assert answers.nth(1).locator(".tv-said-unsure").all_inner_texts() == ["green."]
    assert answers.nth(0).locator(".tv-said-new").count() == answers.nth(2).locator(".tv-said-new").count() == 0
    assert page.locator(".tv-verdict-line .tv-more:visible").count() == 0
    height = page.evaluate("document.documentElement.scrollHeight")
    answers.nth(1).locator(".tv-said-new").hover()
    tip = page.locator(".tv-tip")
    assert tip.inner_text() == "probability 28.7% · −1.25 nats · without pruning: “cyan, I think.”"
    assert page.evaluate("document.documentElement.scrollHeight") == height
    page.mouse.move(1, 1)
    assert tip.is_hidden()
    # The same by keys: an answer is one place in the order of Tab, arrows go from word to word.
    page.locator(".tv-grid-toggle").focus()
    while not page.evaluate("document.activeElement.matches('.tv-lane:nth-of-type(2) .tv-answer')"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body")
    assert tip.inner_text().startswith("probability 90.5%")
    page.keyboard.press("End")
    assert tip.inner_text() == "probability 28.7% · −1.25 nats · without pruning: “cyan, I think.”"
    assert page.locator(".tv-live").inner_text().startswith("green.: probability 28.7%")
    page.keyboard.press("Escape")
    assert tip.is_hidden() and page.locator(".tv-said-at").count() == 0
    page.get_by_label("Why FasterVLM kept these tokens").click()
    card = page.locator(".tv-answer-card")
    card.locator("summary").click()
    card.locator("table").wait_for()
    assert card.locator("tr").nth(8).locator("td").all_inner_texts() == ["green.", "28.7%", "−1.25", "cyan, I think."]
    page.close()
    assert errors == []


def test_of_a_long_answer_two_lines_are_there_and_the_rest_is_a_press_away(browser):
    told = " ".join(["The triangle left of the sign is green."] * 30)
    whole = told_words()
    runs = [run.model_copy(update={"answer": told if i == 2 else run.answer}) for i, run in enumerate(whole.runs)]
    page, errors = opened(browser, whole.model_copy(update={"runs": runs}))
    more, answer = page.locator(".tv-verdict-line .tv-more"), page.locator(".tv-answer").nth(2)
    assert [more.nth(i).is_visible() for i in range(3)] == [False, False, True]
    closed = answer.bounding_box()["height"]
    more.nth(2).click()
    assert answer.bounding_box()["height"] > 3 * closed and more.nth(2).inner_text() == "less"
    assert answer.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
    page.close()
    assert errors == []
