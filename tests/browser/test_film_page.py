"""Videos in the patch view: the film strip, the scrubber of all lanes, kept tokens per frame as bars."""

import pytest
from synthetic_film import LAMP, film_comparison, hostile_film
from test_page import PIXEL_AT, at
from view_alone import document

pytestmark = pytest.mark.browser

LIT = 5
HASH = """([selector, i]) => { const c = document.querySelectorAll(selector)[i];
  const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return data.reduce((sum, value, k) => (sum * 31 + value * (k % 7 + 1)) >>> 0, 7); }"""
TALL = """([i, columns]) => {
  const c = document.querySelectorAll('.tv-lane-bars')[i], pen = c.getContext('2d');
  const style = getComputedStyle(document.querySelector('.tv-root')).getPropertyValue('--tv-kept-legend').trim();
  const probe = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
  probe.fillStyle = style; probe.fillRect(0, 0, 1, 1);
  const wanted = probe.getImageData(0, 0, 1, 1).data;
  return Array.from({ length: columns }, (_, k) => {
    const x = Math.round(((k + 0.5) * c.width) / columns);
    const data = pen.getImageData(x, 0, 1, c.height).data;
    let count = 0;
    for (let y = 0; y < c.height; y++) {
      count += [0, 1, 2].every((j) => Math.abs(data[4 * y + j] - wanted[j]) < 3) ? 1 : 0;
    }
    return count / c.height;
  }); }"""
"""Height of the bar in the middle of each column of a lane's bars, as a share of the canvas."""
SCRUBBER = "Frame that every lane shows"


LOADED = """n => { const all = [...document.querySelectorAll('.tv-film-cell img')];
  return all.length === n && all.every((image) => image.complete && image.naturalWidth); }"""


@pytest.fixture(scope="module")
def show(browser):
    """``show(session, width=1200, theme="light")`` opens the view on a session; errors of any page fail the tests."""
    errors, contexts = [], []

    def opened(session, width=1200, theme="light", **settings):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.set_content(document(session))
        page.wait_for_function(LOADED, arg=len(session.video.frames))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def now(page):
    """Number of the frame that is shown, from 0, as the strip marks it."""
    return page.evaluate("[...document.querySelectorAll('.tv-film-cell')].findIndex(c => c.matches('.tv-film-now'))")


def lamp(page, lane=0):
    """Colour at the lamp, halfway between its middle and its edge."""
    x, y = (LAMP[0] + 12) / 384, (LAMP[1] + LAMP[3]) / 2 / 240
    return page.evaluate(PIXEL_AT, [lane, x, y])[:3]


def is_yellow(colour):
    return colour[0] > 180 and colour[1] > 160 and colour[2] < 130


@pytest.fixture(scope="module")
def session():
    return film_comparison(extra=1, lit=LIT)


@pytest.fixture(scope="module")
def opened(show, session):
    return show(session)


@pytest.fixture
def film(opened):
    """The drawn film as it opens: at its evidence, view "Kept", nothing pinned."""
    opened.mouse.move(5, 5)
    opened.get_by_label("Kept", exact=True).check(force=True)
    opened.locator(".tv-image").first.focus()
    opened.keyboard.press("Escape")
    opened.get_by_label(SCRUBBER).fill(str(LIT))
    return opened


def kept_per_frame(session, lane):
    grid = session.grid
    kept = set(session.runs[lane].stages[-1].kept)
    frames = [grid.views[view].frames[0] for view in grid.view]
    return [sum(1 for t in kept if frames[t] == f and grid.row[t] >= 0) for f in range(len(session.video.frames))]


def test_it_opens_at_the_frame_of_the_evidence_and_draws_it(film, session):
    assert now(film) == LIT
    assert film.get_by_label(SCRUBBER).get_attribute("aria-valuetext") == f"frame {LIT + 1} · 2.50 s · evidence"
    assert is_yellow(lamp(film))
    assert film.locator(".tv-marks").first.locator(".tv-evidence").count() == 1
    kept = kept_per_frame(session, 2)[LIT]
    assert film.locator(".tv-where").nth(2).inner_text() == f"frame {LIT + 1} · 2.50 s · {kept} of 160 kept"
    extra = sum(1 for t in session.runs[2].stages[-1].kept if session.grid.row[t] < 0)
    assert film.locator(".tv-what").nth(2).inner_text() == f"all frames: 96 of 1288 tokens, {extra} of 8 non-patch"


def test_the_scrubber_moves_every_lane(film):
    before = [film.evaluate(HASH, [".tv-canvas", lane]) for lane in range(4)]
    scrubber = film.get_by_label(SCRUBBER)
    scrubber.focus()
    film.keyboard.press("ArrowRight")
    assert now(film) == LIT + 1
    assert not is_yellow(lamp(film)), "the lamp is out in the next frame"
    assert all(film.evaluate(HASH, [".tv-canvas", lane]) != before[lane] for lane in range(4))
    assert film.locator(".tv-marks .tv-evidence").count() == 0, "evidence lies in its own frame only"
    for key, frame in (("Home", 0), ("ArrowRight", 1), ("End", 7), ("ArrowRight", 7), ("ArrowLeft", 6)):
        film.keyboard.press(key)
        assert now(film) == frame, key
    film.keyboard.press("ArrowLeft")
    assert [film.evaluate(HASH, [".tv-canvas", lane]) for lane in range(4)] == before


def test_the_strip_and_the_bars_are_scrubbed_with_the_pointer(film):
    strip = film.locator(".tv-film-frames").bounding_box()

    def middle(frame):
        return strip["x"] + (frame + 0.5) * strip["width"] / 8

    film.mouse.click(middle(2), strip["y"] + 20)
    assert now(film) == 2
    film.mouse.move(middle(3), strip["y"] + 20)
    film.mouse.down()
    seen = []
    for frame in (3, 4, 6, 7):
        film.mouse.move(middle(frame), strip["y"] + 20)
        seen.append(now(film))
    film.mouse.move(middle(7) + 400, strip["y"] + 300)
    film.mouse.up()
    assert seen == [3, 4, 6, 7] and now(film) == 7
    bars = film.locator(".tv-film-bars").bounding_box()
    film.mouse.click(middle(1), bars["y"] + 5)
    assert now(film) == 1
    lane = film.locator(".tv-lane-bars").nth(2).bounding_box()
    film.mouse.click(lane["x"] + lane["width"] * 5.5 / 8, lane["y"] + 10)
    assert now(film) == 5


def test_bars_are_as_high_as_the_share_that_was_kept(film, session):
    counts = [kept_per_frame(session, lane) for lane in (1, 2, 3)]
    top = float(film.locator(".tv-film-scale").inner_text().split("full height ")[1].split("%")[0]) / 100
    assert max(map(max, counts)) / 160 <= top < 2.01 * max(map(max, counts)) / 160
    for lane, expected in enumerate(counts, start=1):
        drawn = film.evaluate(TALL, [lane, 8])
        room = 23 / 26  # of the canvas, in CSS pixels
        assert drawn == pytest.approx([room * count / 160 / top for count in expected], abs=0.06), lane


def test_pointing_at_a_bar_says_the_numbers(film, session):
    bars = film.locator(".tv-film-bars").bounding_box()
    film.mouse.move(bars["x"] + bars["width"] * 2.5 / 8, bars["y"] + bars["height"] * 1.5 / 3)
    kept = kept_per_frame(session, 2)[2]
    extra = int(session.grid.n_tokens // 8 * 3 - 1 in session.runs[2].stages[-1].kept)
    said = film.locator(".tv-film-told").inner_text()
    assert said == f"ApET: frame 3 · 1.00 s · {kept} of 160 kept · {extra} of 1 non-patch tokens"
    assert now(film) == LIT, "pointing chooses nothing"
    film.locator(".tv-film-table summary").click()
    film.locator(".tv-film-table td").first.wait_for()  # filled when it is opened
    row = film.locator(".tv-film-table tr").nth(3).locator("td").all_inner_texts()
    assert row == ["3", "1.00 s", "160", *(str(kept_per_frame(session, lane)[2]) for lane in (1, 2, 3))]


def test_a_group_over_several_frames_is_shown_on_the_strip(film, session):
    film.get_by_label("Clusters", exact=True).check(force=True)
    stage, grid = session.runs[2].stages[0], session.grid
    here = [t for t in stage.kept if grid.view[t] == LIT and grid.row[t] >= 0]
    groups = {token: [t for t, carrier in enumerate(stage.assignment) if carrier == token] for token in here}
    token = max(here, key=lambda t: len({grid.view[m] for m in groups[t]}))
    frames = [sum(1 for m in groups[token] if grid.view[m] == f) for f in range(8)]
    assert sum(1 for count in frames if count) > 1, "the drawn session merges over frames"
    x, y = (grid.col[token] + 0.5) / 16, (grid.row[token] + 0.5) / 10
    film.locator(".tv-image").nth(2).hover(**at(film, 2, x, y))
    marks = film.locator(".tv-film-partners").all_inner_texts()
    assert marks == [str(count) if count else "" for count in frames]
    what = film.locator(".tv-what").nth(2).inner_text()
    assert f"group of {sum(frames)} across {sum(1 for count in frames if count)} frames" in what


def test_a_pin_stays_where_it_is_while_the_film_moves_on(film):
    film.locator(".tv-image").nth(1).click(**at(film, 1, 0.53, 0.55))
    place = "row 5, column 8"
    assert film.locator(".tv-where").nth(1).inner_text().startswith(place)
    assert film.locator(".tv-marks .tv-pin").count() == 4
    film.mouse.move(5, 5)
    film.get_by_label(SCRUBBER).fill("1")
    assert film.locator(".tv-marks .tv-pin").count() == 0, "it lies in another frame"
    assert film.locator(".tv-where").nth(1).inner_text().startswith(f"frame {LIT + 1}: {place}")
    home = "[...document.querySelectorAll('.tv-film-cell')].findIndex(c => c.matches('.tv-film-home'))"
    assert film.evaluate(home) == LIT
    film.get_by_label(SCRUBBER).fill(str(LIT))
    assert film.locator(".tv-marks .tv-pin").count() == 4
    film.locator(".tv-image").first.focus()
    film.keyboard.press(".")
    assert now(film) == LIT + 1
    film.keyboard.press("Escape")


def test_a_mark_of_a_diagram_leads_to_the_frame_of_its_token(film, session):
    film.locator(".tv-why-lanes").get_by_label("FasterVLM").check(force=True)
    chart = session.runs[1].stages[0].charts[0]
    drawing = film.locator(".tv-chart-drawing").first
    box = drawing.bounding_box()
    drawing.click(position={"x": 45.5 / 340 * box["width"] + 9, "y": box["height"] / 2})
    pinned = now(film)
    assert pinned < 2, "this method looks at the first two frames"
    assert film.locator(".tv-marks .tv-pin").count() == 4
    places = {f"row {session.grid.row[t]}, column {session.grid.col[t]}"
              for t in chart.tokens[:3] if session.grid.view[t] == pinned}  # fmt: skip
    film.mouse.move(5, 5)
    assert film.locator(".tv-where").nth(1).inner_text().split(" ·")[0] in places
    film.locator(".tv-image").first.focus()
    film.keyboard.press("Escape")


def test_two_frames_of_one_view_share_their_tokens_and_their_bar(show):
    session = film_comparison(8, together=2, rows=7, cols=12, lit=3)
    page = show(session)
    assert now(page) == 3 and is_yellow(lamp(page))
    kept = sum(1 for t in session.runs[1].stages[0].kept if session.grid.view[t] == 1)
    assert page.locator(".tv-where").nth(1).inner_text() == f"frame 4 · 1.50 s · {kept} of 84 kept with frame 3"
    heights = page.evaluate(TALL, [2, 8])
    assert heights[0::2] == heights[1::2]
    page.get_by_label(SCRUBBER).fill("2")
    assert not is_yellow(lamp(page)), "the other frame lies under the same patches"
    assert page.locator(".tv-where").nth(1).inner_text() == f"frame 3 · 1.00 s · {kept} of 84 kept with frame 4"


def test_play_goes_round_and_a_hand_stops_it(film):
    film.get_by_label("Play the frames").click()
    film.wait_for_function("document.querySelectorAll('.tv-film-cell')[7].matches('.tv-film-now')")
    film.wait_for_function("document.querySelectorAll('.tv-film-cell')[1].matches('.tv-film-now')")
    film.get_by_label(SCRUBBER).focus()
    film.keyboard.press("End")
    assert film.get_by_label("Play the frames").is_visible() and now(film) == 7
    film.wait_for_timeout(800)
    assert now(film) == 7


def test_nothing_plays_where_motion_is_not_wanted(show):
    page = show(film_comparison(4, lit=2, rows=4, cols=6, budget=24), reduced_motion="reduce")
    assert page.locator(".tv-scrub-play").is_visible() is False
    assert page.get_by_label(SCRUBBER).is_visible()


def test_hostile_names_stay_text(show):
    session = hostile_film()
    page = show(session)
    assert session.video.name[:20] in page.locator(".tv-film-source").inner_text()
    assert page.locator(".tv-film-source img, .tv-film-source script").count() == 0
    assert page.evaluate("window.HACKED") is None


SCROLLED = """() => { const s = document.querySelector('.tv-film-scroll');
  return [s.scrollWidth > s.clientWidth, s.scrollLeft]; }"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_scrolls_the_strip_and_not_the_page(show, theme):
    page = show(film_comparison(16, lit=13, rows=6, cols=10, budget=60), 400, theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    wider, left = page.evaluate(SCROLLED)
    assert wider and left > 100, "the frame that it opens on is in sight"
    page.get_by_label(SCRUBBER).fill("0")
    assert page.evaluate(SCROLLED)[1] < 50
    box = page.locator(".tv-scrub").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 400
    page.locator(".tv-lane").nth(2).scroll_into_view_if_needed()
    assert page.locator(".tv-scrub").bounding_box()["y"] >= -1, "the scrubber stays in sight"


@pytest.mark.slow
def test_many_frames_in_many_lanes_can_be_scrubbed(show):
    page = show(film_comparison(64, rows=12, cols=12, lit=40, budget=400, copies=18))
    assert page.locator(".tv-lane").count() == 22
    page.get_by_label(SCRUBBER).focus()
    spent = page.evaluate(
        """() => { const range = document.querySelector('.tv-scrub-range'), start = performance.now();
        for (let frame = 0; frame < 8; frame++) { range.value = frame; range.dispatchEvent(new Event('input')); }
        return (performance.now() - start) / 8; }"""
    )
    assert now(page) == 7
    assert spent < 400, f"{spent:.0f} ms per frame"
