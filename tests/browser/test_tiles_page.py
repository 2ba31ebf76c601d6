"""An image that is looked at twice, whole and in crops: the patch view alone, drawn in a browser without the page."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect
from synthetic import comparison, image_record, make_image, map_record, nearest, run, stage
from synthetic_film import film_comparison
from view_alone import document, payload

from tokviz.models.llava_next import tile_grid

pytestmark = pytest.mark.browser

SIZE = (480, 300)
GRID = tile_grid(SIZE, [(96, 192), (192, 96), (192, 192)], 96, 8)
THUMBNAIL = 144
PIXEL_OF = """([lane, x, y]) => { const c = document.querySelectorAll('.tv-canvas')[lane];
  return [...c.getContext('2d').getImageData(Math.round(x * c.width), Math.round(y * c.height), 1, 1).data]; }"""
PIXELS = """([x, y]) => { const c = document.querySelectorAll('.tv-canvas')[1];
  return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]; }"""


def tiled():
    """Kept: the upper half of the thumbnail, and the left half of the crops. One lane merges over both."""
    image = make_image(*SIZE)
    boxes = GRID.box
    kept = [
        token
        for token, box in enumerate(boxes)
        if box and (box[3] <= SIZE[1] / 2 + 1 if token < THUMBNAIL else box[2] <= SIZE[0] / 2 + 1)
    ]
    score = map_record("score", np.arange(GRID.n_tokens))
    merging = stage("projector", kept, GRID.n_tokens, score=score, assignment=nearest(GRID, kept))
    runs = [
        run("full", "No pruning", "control", "cyan", GRID.n_tokens, GRID.n_tokens, 9.0),
        run("a", "Keeps", "attention-ranked", "blue", 5, 5, 4.0,
            stages=[stage("projector", kept, GRID.n_tokens, score=score)]),
        run("b", "Merges", "merging", "cyan", 5, 5, 4.0, stages=[merging]),
    ]  # fmt: skip
    return comparison(*SIZE).model_copy(update={"grid": GRID, "runs": runs, "image": image_record(image)})


@pytest.fixture(scope="module")
def page(browser):
    opened = browser.new_page(viewport={"width": 1200, "height": 800})
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_content(document(tiled()))
    opened.wait_for_function("document.querySelectorAll('.tv-canvas').length === 3")
    yield opened
    opened.close()
    assert errors == []


def choose(page, name):
    page.get_by_label("Level whose tokens are drawn").select_option(label=name)


def told(page, x, y, lane=1):
    """What the lane says of the patch at a place given in shares of the image."""
    box = page.locator(".tv-image").nth(lane).bounding_box()
    page.locator(".tv-image").nth(lane).hover(position={"x": x * box["width"], "y": y * box["height"]})
    return page.locator(".tv-where").nth(lane).inner_text()


def expected(x, y, level):
    """Row and column among the level's cells of the patch that shows this place."""
    for token, box in enumerate(GRID.box):
        view = GRID.views[GRID.view[token]]
        place = (x * SIZE[0], y * SIZE[1])
        if box and view.level == level and box[0] <= place[0] < box[2] and box[1] <= place[1] < box[3]:
            return f"row {GRID.row[token] + view.top}, column {GRID.col[token] + view.left}"
    raise AssertionError("nothing is seen there")


PLACES = [(0.11, 0.13), (0.48, 0.37), (0.73, 0.83), (0.93, 0.52)]


def test_crops_are_drawn_as_one_grid_and_the_thumbnail_on_demand(page):
    select = page.get_by_label("Level whose tokens are drawn")
    assert select.is_visible() and select.locator("option").all_inner_texts() == [
        "both, overlaid", "whole image", "4 crops", "as the model sees them",
    ]  # fmt: skip
    assert select.input_value() == "both"
    choose(page, "4 crops")
    for x, y in PLACES:
        assert told(page, x, y).startswith(expected(x, y, 1)), (x, y)
    crops = {place: page.evaluate(PIXELS, place) for place in [(0.1, 0.8), (0.9, 0.2)]}
    choose(page, "whole image")
    for x, y in PLACES:
        assert told(page, x, y).startswith(expected(x, y, 0)), (x, y)
    page.mouse.move(5, 5)
    for place, colour in crops.items():
        assert page.evaluate(PIXELS, place) != colour, "kept in one level, dropped in the other"
    choose(page, "4 crops")
    assert {place: page.evaluate(PIXELS, place) for place in crops} == crops


def brightness(page, x, y, lane=1):
    return sum(page.evaluate(PIXEL_OF, [lane, x, y])[:3]) / 3


def colourfulness(page, x, y, lane=1):
    rgb = page.evaluate(PIXEL_OF, [lane, x, y])[:3]
    return max(rgb) - min(rgb)


def test_both_levels_on_the_image_show_what_no_token_shows_any_more(page):
    """Four quarters: kept in both, in the thumbnail alone (above right), in the crops alone, in neither."""
    choose(page, "both, overlaid")
    page.mouse.move(5, 5)
    assert "kept only coarsely, from the whole image" in page.locator(".tv-legend[aria-label]").inner_text()
    # Spots within one cell of both levels, away from all lines: what is drawn there, and what the image shows.
    spots = {"both": (0.21, 0.27), "coarse": (0.71, 0.27), "fine": (0.21, 0.73), "neither": (0.71, 0.73)}
    change = {
        name: np.mean([abs(brightness(page, x + dx, y + dy) - brightness(page, x + dx, y + dy, lane=0))
                       for dx in (-0.006, 0, 0.006) for dy in (-0.008, 0, 0.008)])
        for name, (x, y) in spots.items()
    }  # fmt: skip
    assert change["both"] < 4 and change["fine"] < 4, change
    assert change["neither"] > 2 * max(change["both"], change["fine"]), change
    # The green ball, which only the thumbnail shows, has lost about half of its colour.
    share = colourfulness(page, 0.7, 0.16) / colourfulness(page, 0.7, 0.16, lane=0)
    assert 0.4 < share < 0.75, share
    # The smallest cell under the pointer is meant: a crop's.
    place = expected(0.21, 0.27, 1)
    assert told(page, 0.21, 0.27).startswith(f"crops: {place} · kept"), told(page, 0.21, 0.27)
    for view in ("Score", "Clusters", "Kept"):
        page.get_by_label(view, exact=True).check(force=True)


def test_apart_every_view_stands_by_itself_with_its_share(page):
    choose(page, "as the model sees them")
    box = page.locator(".tv-image").nth(1).bounding_box()
    # Wide crops lie below the thumbnail of 12 x 12; cells are 10 wide, gaps 14 and 28.
    columns = GRID.views[1].cols + GRID.views[2].cols
    rows = GRID.views[1].rows + GRID.views[3].rows
    size = (columns * 10 + 14, 12 * 10 + 28 + rows * 10 + 14)
    assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.01)
    assert told(page, 0.02, 0.02).startswith("whole image: row 0, column 0 · kept")
    assert told(page, 0.98, 0.02) == page.locator(".tv-where").nth(1).inner_text(), "nothing lies beside the thumbnail"
    assert told(page, 0.02, 0.97).startswith("crops: row")
    assert told(page, 0.98, 0.97).endswith("dropped")
    assert page.locator(".tv-marks").nth(1).locator(".tv-evidence").count() > 1, "in the thumbnail and in its crops"
    assert "not seen" not in page.locator(".tv-legend[aria-label]").inner_text()


def test_arrows_walk_across_the_seam_of_two_crops(page):
    choose(page, "4 crops")
    lane = page.locator(".tv-image").nth(1)
    lane.focus()
    for column in range(14):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".tv-where").nth(1)).to_have_text(re.compile(rf"^row 0, column {column} ·"))
    page.keyboard.press("Escape")


def test_merging_over_both_levels_draws_only_what_lies_in_one(page):
    page.get_by_label("Clusters", exact=True).check(force=True)
    for name in ("4 crops", "whole image", "both, overlaid", "as the model sees them"):
        choose(page, name)
        said = [told(page, x, y, lane=2) for x, y in PLACES]
        assert all("row -1" not in words for words in said)
        lines = page.evaluate("() => [...document.querySelectorAll('.tv-link')].map((l) => +l.getAttribute('x2'))")
        assert all(x > 0 for x in lines)
    page.get_by_label("Kept", exact=True).check(force=True)


def test_nothing_of_the_image_is_called_unseen(page):
    for name in ("whole image", "4 crops"):
        choose(page, name)
        assert "not seen" not in page.locator(".tv-legend[aria-label]").inner_text()
        assert page.locator(".tv-where").nth(1).inner_text().startswith(str(len(tiled().runs[1].stages[0].kept)))


def test_an_image_without_crops_has_no_choice_of_levels(browser):
    plain = browser.new_page()
    plain.set_content(document(comparison(*SIZE)))
    plain.wait_for_function("document.querySelectorAll('.tv-canvas').length > 1")
    assert not plain.get_by_label("Level whose tokens are drawn").is_visible()
    plain.close()


def test_an_image_is_there_again_after_a_film_of_another_size(page):
    other = payload(film_comparison(4, lit=2, rows=4, cols=6, budget=24))
    assert other["size"] != [*SIZE]
    there = page.evaluate(PIXEL_OF, [0, 0.5, 0.5])
    again = payload(tiled())
    page.evaluate("async (films) => { for (const film of films) showNext(film); }", [other, again])
    page.wait_for_function(f"wanted => ({PIXEL_OF})([0, 0.5, 0.5]).join() === wanted.join()", arg=there)
