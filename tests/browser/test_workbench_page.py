"""The failure workbench as a reviewer uses it: filter by presses, walk through cases, tag, save, take away."""

import json
import shutil
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import expect
from watching import _open

from scripts.synthetic_run import Shape, write_run
from tokviz.workbench import Edit, Workbench, automatic_slices

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=window.hacked=1><b>${window.hacked=2}</b>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: one of drawn numbers, one with hostile texts."""
    import pyarrow.parquet as pq

    from tokviz.mining.schema import schema_of

    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "drawn", Shape(cases=150, per_part=64))
    hostile = write_run(folder / "hostile", Shape(cases=6, methods=3, budgets=(64,)))
    for table in ("cases", "rows"):
        path = next((hostile / table).iterdir())
        records = pq.read_table(path).to_pylist()
        for record in records:
            texts = ("question", "family", "answer") if table == "cases" else ("answer",)
            record |= dict.fromkeys(texts, HOSTILE) | {"case_id": f"{HOSTILE} {record['ordinal']}"}
        pq.write_table(pq.read_table(path).from_pylist(records, schema=schema_of(table)), path)
    return folder


@pytest.fixture(scope="module")
def bench(runs):
    made = Workbench(runs)
    yield made
    made.close()


@pytest.fixture(scope="module")
def bench_site(site, bench, paced, examples):
    from tokviz.ui.build import build_page, launch_settings

    page = build_page(paced, load=lambda spec: (), examples=examples, workbench=bench)
    settings = launch_settings(bench)
    page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **settings)
    return page.local_url


@pytest.fixture(scope="module")
def tab(browser, bench_site):
    page, problems = _open(browser, bench_site)
    yield page
    page.close()
    assert problems == []


@pytest.fixture
def page(tab, bench_site):
    """The tab on all cases of the drawn run."""
    tab.goto(f'{bench_site}#failures?run=drawn&budget=64&sort={{"column":"ordinal"}}')
    tab.evaluate("window.dispatchEvent(new PopStateEvent('popstate'))")
    expect(tab.locator(".wb-count")).to_have_text("150 cases")
    return tab


def verdicts(bench, method):
    sql = "SELECT c.ordinal, c.verdict FROM cells c JOIN methods m ON m.m = c.m WHERE m.key = $1 AND c.budget = 64"
    return dict(bench.opened("drawn").query(sql, [method]))


def press(page, name):
    page.get_by_role("button", name=name).first.click()


def test_its_scripts_come_when_its_link_is_pointed_at_and_every_other_visitor_is_spared_them(tab, bench_site):
    tab.goto(bench_site)
    tab.wait_for_function("document.documentElement.dataset.tokvizReady === ''")
    fetched = (
        "performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/tokviz/failures.js')).length"
    )
    assert tab.evaluate(fetched) == 0
    assert "wb-facets" not in tab.content()
    link = tab.get_by_role("link", name="Failures")
    link.hover()
    tab.wait_for_function(f"{fetched} === 1")
    expect(tab.locator(".tv-lane").first).to_be_visible()
    link.click()
    expect(tab.locator(".wb-card").first).to_be_visible()
    expect(tab.locator("#tokviz-page")).to_be_hidden()
    tab.get_by_role("link", name="Compare").click()
    expect(tab.locator(".tv-lane").first).to_be_visible()


def test_an_algebra_of_outcomes_takes_a_press_each_and_lives_in_the_address(page, bench):
    apet, fastv, random = (verdicts(bench, key) for key in ("apet", "fastv", "random"))
    press(page, "ApET lost:")
    press(page, "FastV kept:")
    press(page, "Random kept:")
    wanted = [o for o in sorted(apet) if (apet[o], fastv[o], random[o]) == (1, 0, 0)]
    expect(page.locator(".wb-count")).to_have_text(f"{len(wanted)} of 150 cases")
    expect(page.locator(".wb-card")).to_have_count(len(wanted))
    shown = page.locator(".wb-card").evaluate_all("cards => cards.map((card) => Number(card.dataset.ordinal))")
    assert shown == wanted
    expect(page.locator(".wb-pills .wb-pill-text")).to_have_text(["ApET lost", "FastV kept", "Random kept"])
    # What the other values would give is counted without the own choice.
    others = sum((fastv[o], random[o]) == (0, 0) and apet[o] == 0 for o in apet)
    expect(page.get_by_role("button", name=f"ApET kept: {others} cases")).to_be_visible()
    address = page.evaluate("location.hash")
    page.reload()
    expect(page.locator(".wb-count")).to_have_text(f"{len(wanted)} of 150 cases")
    assert page.evaluate("location.hash") == address
    page.go_back()
    expect(page.locator(".wb-pills .wb-pill-text")).to_have_text(["ApET lost", "FastV kept"])


def test_a_case_opens_in_the_lanes_as_it_was_stored_and_keys_lead_to_the_next(page, bench):
    page.locator(".wb-question").nth(1).click()
    expect(page.locator(".tv-origin")).to_contain_text("Mined case · stored result of synthetic")
    card = bench.answer("case", {"run": "drawn", "budget": 64, "methods": ["apet", "fastv", "random"], "ordinal": 1})[
        "card"
    ]
    expect(page.locator(".tv-asked")).to_have_text(card["question"])
    expect(page.locator(".tv-answer")).to_have_text([card["answer"], *(lane["answer"] for lane in card["lanes"])])
    expect(page.locator("#tokviz-question textarea")).to_have_value(card["question"])
    expect(page.locator(".wb-case-place")).to_have_text("Case 2 of 150")
    page.keyboard.press("j")
    expect(page.locator(".wb-case-place")).to_have_text("Case 3 of 150")
    expect(page.locator(".tv-asked")).not_to_have_text(card["question"])
    page.keyboard.press("k")
    expect(page.locator(".wb-case-place")).to_have_text("Case 2 of 150")
    page.keyboard.press("u")
    expect(page.locator(".wb-card .wb-question").nth(1)).to_be_focused()


def test_people_tag_a_case_and_do_not_overwrite_each_other(page, bench, runs):
    page.locator(".wb-question").nth(4).click()
    expect(page.locator(".wb-case-place")).to_have_text("Case 5 of 150")
    page.keyboard.press("t")
    page.keyboard.type("small sign")
    page.keyboard.press("Enter")
    expect(page.locator(".wb-case .wb-tags")).to_contain_text("small sign")
    page.locator(".wb-case-note textarea").fill("n: <b>not read</b>")  # letters in a field are no keys
    page.locator(".wb-case-note textarea").blur()
    expect(page.locator(".wb-toast")).to_contain_text("1 case changed.")
    tags = bench.tags("drawn")
    assert tags.given(["case-000004"])["case-000004"].note == "n: <b>not read</b>"
    # Somebody else, at the same time.
    tags.edit(Edit(case_ids=("case-000004",), seen=tags.latest(), status="dismissed"), "somebody")
    page.locator(".wb-case-status select").select_option("confirmed")
    expect(page.locator(".wb-toast")).to_contain_text("Somebody else changed this case meanwhile")
    expect(page.locator(".wb-case-status select")).to_have_value("dismissed")
    page.locator(".wb-back").click()
    expect(page.locator(".wb-card").nth(4)).to_contain_text("small sign")


def test_many_cases_are_tagged_at_once_and_it_is_undone(page, bench):
    press(page, "PDrop lost:")
    n = sum(verdict == 1 for verdict in verdicts(bench, "pdrop").values())
    expect(page.locator(".wb-count")).to_have_text(f"{n} of 150 cases")
    page.locator(".wb-card input").first.check()
    page.locator(".wb-choose-all").click()
    expect(page.locator(".wb-chosen")).to_have_text(f"{n} selected")
    page.locator(".wb-bulk-tag input").fill("by pdrop")
    press(page, "Add tag")
    expect(page.locator(".wb-toast")).to_contain_text(f"{n} cases changed.")
    assert len(bench.tags("drawn").labels().tags["by pdrop"]) == n
    page.locator(".wb-toast button").click()
    expect(page.locator(".wb-toast")).to_contain_text(f"Undone: {n} cases are as before.")
    assert "by pdrop" not in bench.tags("drawn").labels().tags


def test_a_slice_is_saved_and_opened_again_and_slices_are_ranked(page, bench):
    page.locator(".wb-search input").fill("text shape")
    expect(page.locator(".wb-count")).to_have_text("30 of 150 cases")
    page.locator(".wb-save input").fill("about text")
    press(page, "Save slice")
    expect(page.locator(".wb-saved")).to_contain_text("about text30")
    page.get_by_role("button", name="Remove: “text shape”").click()
    expect(page.locator(".wb-count")).to_have_text("150 cases")
    page.locator(".wb-saved .wb-value").click()
    expect(page.locator(".wb-count")).to_have_text("30 of 150 cases")
    page.get_by_role("button", name="Remove: “text shape”").click()
    page.get_by_role("tab", name="Slices").click()
    page.locator(".wb-pair select").first.select_option("visionzip")
    page.locator(".wb-pair select").nth(1).select_option("divprune")
    first = page.locator(".wb-slices table").last.locator("tbody tr").first
    ranked = automatic_slices(bench.opened("drawn"), "visionzip", "divprune", 64).slices
    expect(first.locator("td").first).to_have_text(ranked[0].name)
    expect(page.locator(".wb-slices table").first).to_contain_text("about text")
    cell = first.locator(".wb-cell .wb-open")
    better = max(ranked[0].only_a, ranked[0].only_b)
    assert cell.get_attribute("title").startswith(f"{ranked[0].only_a} cases only VisionZip")
    cell.click()
    expect(page.locator(".wb-count")).to_have_text(f"{better} of 150 cases")


def test_a_cell_of_a_table_opens_its_cases(page, bench):
    page.get_by_role("tab", name="Tables").click()
    row = page.locator(".wb-rates tbody tr", has=page.get_by_role("rowheader", name="DivPrune"))
    row.locator(".wb-rate").first.click()
    n = sum(verdict == 1 for verdict in verdicts(bench, "divprune").values())
    expect(page.locator(".wb-count")).to_have_text(f"{n} of 150 cases")


def test_a_lasso_on_the_map_is_a_filter(page, bench):
    page.get_by_role("tab", name="Map").click()
    expect(page.locator(".wb-map-told")).to_contain_text("150 of 150 cases")
    box = page.locator(".wb-map canvas").bounding_box()
    corners = [(0.5, 0.02), (0.98, 0.02), (0.98, 0.5), (0.98, 0.98), (0.5, 0.98)]
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in (*at[1:], at[0]):
        page.mouse.move(*place, steps=3)
    page.mouse.up()
    expect(page.locator(".wb-pills .wb-pill-text")).to_have_text(["inside the lasso"])
    conditions = json.loads(page.evaluate("new URLSearchParams(location.hash.split('?')[1]).get('filter')"))
    asked = {"run": "drawn", "budget": 64, "methods": ["apet"], "filter": {"conditions": conditions}}
    found = bench.answer("page", asked)["found"]
    assert 30 < found < 120
    expect(page.locator(".wb-map-told")).to_contain_text(f"{found} of 150 cases")


def test_the_map_tells_the_case_under_the_pointer(page):
    page.get_by_role("tab", name="Map").click()
    expect(page.locator(".wb-map-told")).to_contain_text("150 of 150 cases")
    canvas = page.locator(".wb-map > canvas")
    ink = """(canvas) => {
      const { data, width } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const at = data.findIndex((value, i) => i % 4 === 3 && value === 255) >> 2;
      return [at % width + 3, Math.floor(at / width) + 3].map((pixel) => pixel * canvas.clientWidth / width);
    }"""
    x, y = canvas.evaluate(ink)
    canvas.hover(position={"x": x, "y": y})
    peek = page.locator(".wb-map-peek")
    expect(peek.locator(".wb-lane-name")).to_have_text(["ApET", "FastV", "Random"])
    question = peek.locator("b").first.inner_text()
    canvas.click(position={"x": x, "y": y})
    expect(page.locator(".tv-asked")).to_have_text(question)


def test_on_a_phone_the_filters_lie_over_the_cases_and_go_away_again(page):
    page.set_viewport_size({"width": 400, "height": 850})
    try:
        expect(page.locator(".wb-side")).to_be_hidden()
        page.get_by_role("button", name="Filters").click()
        press(page, "ApET lost:")
        found = page.locator(".wb-count b")
        expect(page.locator(".wb-pills .wb-pill-text")).to_have_text(["ApET lost"])
        page.get_by_role("button", name=f"Show {found.inner_text()} cases").click()
        expect(page.locator(".wb-side")).to_be_hidden()
        expect(page.get_by_role("button", name="Filters")).to_be_focused()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    finally:
        page.set_viewport_size({"width": 1440, "height": 900})


def test_texts_of_a_run_are_text(tab, bench_site):
    tab.goto(f"{bench_site}#failures?run=hostile&budget=64")
    tab.evaluate("window.dispatchEvent(new PopStateEvent('popstate'))")
    expect(tab.locator(".wb-question").first).to_have_text(HOSTILE)
    for name in ("Slices", "Tables", "Cases"):
        tab.get_by_role("tab", name=name).click()
        tab.wait_for_timeout(300)
    tab.locator(".wb-question").first.click()
    expect(tab.locator(".tv-asked")).to_have_text(HOSTILE)
    expect(tab.locator(".wb-case-facts")).to_contain_text(HOSTILE)
    assert tab.evaluate("window.hacked") is None


def test_other_sites_and_forms_cannot_ask_and_a_page_without_runs_has_no_such_door(bench_site, site):
    def status(url, **headers):
        try:
            with urlopen(Request(url, data=b"{}", headers=headers), timeout=60) as answer:
                return answer.status
        except HTTPError as error:
            return error.code

    asked = f"{bench_site}tokviz/workbench/runs"
    assert status(asked, **{"content-type": "application/json"}) == 200
    assert status(asked, **{"content-type": "application/json", "origin": "https://evil.example"}) == 403
    assert status(asked, **{"content-type": "text/plain"}) == 415
    assert status(f"{site}tokviz/workbench/runs", **{"content-type": "application/json"}) in (404, 405)
    view = "%7B%22run%22%3A%22drawn%22%2C%22budget%22%3A64%2C%22methods%22%3A%5B%22apet%22%5D%7D"
    with urlopen(f"{bench_site}tokviz/workbench/export/csv?view={view}", timeout=60) as answer:
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''drawn-rows.csv"
        assert answer.read().startswith(b"case_id,")


def test_a_run_that_goes_away_is_said(page, runs):
    shutil.move(runs / "drawn" / "manifest.json", runs / "away.json")
    try:
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{page.url.split('#')[0]}tokviz/workbench/run", data=b'{"run": "drawn"}',
                            headers={"content-type": "application/json"}), timeout=60)  # fmt: skip
        assert json.loads(refused.value.read())["error"] == "There is no run 'drawn' here (any more)."
    finally:
        shutil.move(runs / "away.json", runs / "drawn" / "manifest.json")


def test_a_case_whose_image_is_gone_shows_the_small_one_and_says_so(page, runs):
    shutil.move(runs / "drawn" / "media" / "011.png", runs / "011.png")
    try:
        page.evaluate("location.hash = location.hash + '&case=11'")
        expect(page.locator(".tv-notes")).to_contain_text("lies outside of the run: name the folder of the data set")
        expect(page.locator(".tv-lane")).to_have_count(4)
    finally:
        shutil.move(runs / "011.png", runs / "drawn" / "media" / "011.png")
