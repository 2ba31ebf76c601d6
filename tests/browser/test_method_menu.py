"""The menu of methods in a real browser: choosing, settings, papers, what the model cannot serve, keyboard."""

import pytest
from playwright.sync_api import expect
from synthetic_rich import rich_comparison

import tokviz
from tokviz.comparison import Comparison
from tokviz.serving.model_cache import planning
from tokviz.ui.form import MAX_METHODS, missing_by_method, offered

pytestmark = pytest.mark.browser
READY = "document.querySelectorAll('.tm-method').length > 0"


@pytest.fixture
def menu(site, shared_page):
    """The menu of methods with those of the first example, and nothing folded out that is not at first."""
    page = shared_page(site)
    page.evaluate("""() => document.querySelectorAll('.tm-family, .tm-all-settings').forEach((part) => {
      part.open = part.matches('.tm-family') && part.querySelector('input:checked') !== null; })""")
    return page


def open_families(page):
    for summary in page.locator(".tm-family:not([open]) > summary").all()[::-1]:
        summary.click()


def setting(page, method, copy, name):
    """The control of one parameter of one copy of a method."""
    return page.locator(f'.tm-group[data-method="{method}"]').nth(copy).locator(f"[data-param={name}]")


def copies(page, method):
    return [line.split("\n")[0] for line in page.locator(f"#tokviz-method-{method} .tm-copy").all_inner_texts()]


def titles(page):
    return page.locator(".tm-group-title").all_inner_texts()


def test_every_method_can_be_reached_and_links_to_its_paper(site, open_page):
    menu = open_page(site)
    menu.wait_for_function(READY)
    pruners = offered(tokviz.methods())
    assert menu.locator(".tm-count").inner_text() == f"3 of {len(pruners)} chosen"
    # Families with a chosen method stand open, the others are one line and an explanation.
    assert menu.locator("#tokviz-method-apet").is_visible() and not menu.locator("#tokviz-method-random").is_visible()
    open_families(menu)
    for pruner in pruners:
        row = menu.locator(f"#tokviz-method-{pruner.id}")
        assert row.is_visible() and row.locator(".tm-label").inner_text() == pruner.label
        if pruner.paper:
            link = row.locator("a")
            assert link.get_attribute("href") == pruner.paper.url and link.get_attribute("target") == "_blank"
            assert "noopener" in link.get_attribute("rel")
    assert menu.locator("#tokviz-methods").evaluate("node => node.scrollWidth <= node.clientWidth")


def test_what_the_model_cannot_serve_is_greyed_out_with_the_reason_in_sight(menu):
    missing = missing_by_method(tokviz.methods(), planning("tokviz-tiny"))
    open_families(menu)
    greyed = [row.get_attribute("id") for row in menu.locator(".tm-unserved").all()]
    assert sorted(greyed) == sorted(f"tokviz-method-{method}" for method in missing)
    for method, sentence in missing.items():
        row = menu.locator(f"#tokviz-method-{method}")
        assert row.locator("input").is_disabled()
        assert row.locator(".tm-missing").is_visible() and row.locator(".tm-missing").inner_text() == sentence


def test_keys_choose_a_method_and_its_settings_reach_the_run(menu, paced):
    menu.locator(".tm-family > summary", has_text="control").focus()
    menu.keyboard.press("Enter")
    menu.keyboard.press("Tab")
    menu.keyboard.press("Space")
    assert menu.locator("#tokviz-method-random input").is_checked()
    menu.locator(".tm-all-settings > summary").click()
    # Only chosen methods have settings.
    titles = menu.locator(".tm-group-title").all_inner_texts()
    assert titles == [
        p.label for p in offered(tokviz.methods()) if p.id in ("apet", "fastervlm", "todre", "random") and p.settings
    ]
    basis = setting(menu, "apet", 0, "basis_tokens")
    basis.locator("input[type=number]").fill("7")
    basis.locator("input[type=number]").press("Enter")
    assert basis.locator("input[type=range]").input_value() == "7"
    basis.locator("input[type=number]").fill("-4")
    basis.locator("input[type=number]").press("Tab")
    assert basis.locator("input[type=number]").input_value() == "7"  # no value of this parameter: taken back
    menu.locator("#tokviz-compare").click()
    menu.wait_for_function(
        "document.querySelectorAll('.tv-lane[data-status=\"done\"]').length === 4"
        " && document.querySelector('.tv-origin').hidden && document.querySelector('.tokviz-notice').textContent === ''"
    )
    asked = paced.requests[-1]
    methods = dict(asked.methods)
    assert methods["apet"]["basis_tokens"] == 7 and methods["random"] == {"positions": "source"}
    menu.get_by_label("Defaults of ApET").click()
    assert basis.locator("input[type=number]").input_value() == "10"
    menu.locator("#tokviz-examples button").nth(1).click()
    menu.wait_for_function("!document.querySelector('#tokviz-method-random input').checked")


@pytest.mark.parametrize("width", [1440, 400])
def test_a_copy_of_a_method_has_settings_of_its_own_and_goes_alone(menu, width):
    page = menu
    page.set_viewport_size({"width": width, "height": 900})
    row = page.locator("#tokviz-method-apet")
    again = page.get_by_label("Add ApET again, with other settings")
    assert copies(page, "apet") == []  # one alone has no line of its own
    again.focus()
    page.keyboard.press("Enter")
    # As it was it would be the same lane: what can be changed is at hand.
    expect(setting(page, "apet", 1, "mode").locator("select")).to_be_focused()
    assert copies(page, "apet") == ["default settings", "default settings"]
    assert row.locator(".tm-copy-same").inner_text() == "same as above, runs once"
    setting(page, "apet", 1, "mode").locator("select").select_option("official")
    again.click()
    setting(page, "apet", 2, "basis_tokens").locator("input[type=number]").fill("4")
    page.keyboard.press("Enter")
    assert copies(page, "apet") == ["default settings", "mode=official", "mode=official, basis_tokens=4"]
    assert row.locator(".tm-copy-same").count() == 0
    assert titles(page)[:3] == ["ApET", "ApET (mode=official)", "ApET (mode=official, basis_tokens=4)"]
    assert page.locator(".tm-count").inner_text().endswith("chosen + 2 copies")
    assert setting(page, "apet", 0, "mode").locator("select").input_value() == "paper"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#tokviz-methods").evaluate("node => node.scrollWidth <= node.clientWidth")
    row.get_by_label("Remove ApET (mode=official)", exact=True).click()
    assert copies(page, "apet") == ["default settings", "mode=official, basis_tokens=4"]
    expect(again).to_be_focused()
    page.locator("#tokviz-method-apet input").uncheck()
    assert copies(page, "apet") == [] and not any(title.startswith("ApET") for title in titles(page))
    page.locator("#tokviz-method-apet input").check()  # what is chosen again comes back as it was
    assert copies(page, "apet") == ["default settings", "mode=official, basis_tokens=4"]
    row.get_by_label("Remove ApET", exact=True).click()
    # The only one left is told apart from nothing.
    assert copies(page, "apet") == [] and titles(page)[0] == "ApET"
    assert setting(page, "apet", 0, "basis_tokens").locator("input[type=number]").input_value() == "4"


def test_copies_end_at_the_limit(menu):
    page = menu
    again = page.get_by_label("Add ApET again, with other settings")
    page.evaluate("for (let i = 0; i < 99; i++) document.querySelector('#tokviz-method-apet .tm-again').click()")
    assert len(copies(page, "apet")) == MAX_METHODS - 2  # two other methods are chosen
    expect(again).to_be_disabled()
    assert page.locator(".tm-many").is_visible()
    page.locator("#tokviz-method-apet").get_by_label("Remove ApET", exact=True).last.click()
    expect(again).to_be_enabled()


def test_two_runs_of_a_method_are_two_lanes_and_come_back_with_the_session(live_site, open_page, tmp_path):
    page = open_page(live_site)
    page.wait_for_function(READY)
    for method in ("fastervlm", "todre"):
        page.locator(f"#tokviz-method-{method} input").uncheck()
    page.get_by_label("Add ApET again, with other settings").click()
    setting(page, "apet", 1, "mode").locator("select").select_option("official")
    page.locator("#tokviz-compare").click()
    page.wait_for_function(
        "document.querySelectorAll('.tv-lane[data-status=\"done\"]').length === 3"
        " && document.querySelector('.tv-origin').hidden"
    )
    heads = page.locator(".tv-lane").locator(".tv-label, .tv-variant")
    assert heads.all_inner_texts() == ["No pruning", "", "ApET", "", "ApET", "mode=official"]
    page.get_by_role("region", name="ApET mode=official", exact=True).get_by_label(
        "Why ApET (mode=official) kept these tokens"
    ).click()
    chosen = page.locator(".tv-why-lanes label:has(input:checked)")
    assert chosen.inner_text() == "ApET (mode=official)"
    assert "official" in page.locator(".tv-facts").inner_text()
    expect(page.locator("#tokviz-stop")).to_be_disabled()
    # Both were empty after a run that had been streamed to its end.
    expect(page.get_by_role("cell", name="ApET (mode=official)")).to_be_visible()
    page.get_by_role("tab", name="Export").click()
    with page.expect_download() as download:
        page.locator("#tokviz-session").click()
    path = tmp_path / "session.json"
    download.value.save_as(path)
    stored = Comparison.load(path)
    assert [run.key for run in stored.runs] == ["full", "apet", "apet (mode=official)"]
    assert stored["apet"].kept != stored["apet (mode=official)"].kept
    page.locator("#tokviz-examples button").nth(1).click()
    page.get_by_role("heading", name="panorama").wait_for()
    page.wait_for_function("document.querySelectorAll('#tokviz-method-apet .tm-copy').length === 0")
    page.locator("input[accept='.json']").set_input_files(str(path))
    page.wait_for_function("document.querySelectorAll('#tokviz-method-apet .tm-copy').length === 2")
    assert copies(page, "apet") == ["default settings", "mode=official"]
    assert heads.all_inner_texts() == ["No pruning", "", "ApET", "", "ApET", "mode=official"]


def test_many_lanes_are_announced(menu):
    open_families(menu)
    boxes = ".tm-method input[type=checkbox]:enabled:not(:checked)"
    menu.evaluate("boxes => document.querySelectorAll(boxes).forEach((box) => box.click())", boxes)
    assert "run one after another" in menu.locator(".tm-many").inner_text()


def test_a_lane_of_such_a_method_carries_the_sentence(rich_site, shared_page):
    page = shared_page(rich_site)
    assert page.locator(".tv-lane").last.locator(".tv-answer").inner_text() == rich_comparison().runs[-1].error


def test_two_methods_are_stacked_set_and_run(site, open_page, paced):
    page = open_page(site)
    page.wait_for_function(READY)
    page.locator(".tm-stacks > summary").click()
    page.get_by_label("Method before the LLM").select_option("divprune")
    page.get_by_label("Method inside the LLM").select_option("fastv")
    page.get_by_label("Add this stack").click()
    row = page.locator("[id='tokviz-method-divprune+fastv']")
    assert row.locator("input").is_checked() and "DivPrune + FastV" in row.inner_text()
    page.locator(".tm-all-settings > summary").click()
    for name, value in (("share", "3"), ("second_layer", "4")):
        field = setting(page, "divprune+fastv", 0, name).locator("input[type=number]")
        field.fill(value)
        field.press("Enter")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tv-origin').hidden")
    params = dict(paced.requests[-1].methods)["divprune+fastv"]
    assert (params["share"], params["second_layer"], params["first_positions"]) == (3.0, 4, "source")
    # What cannot stand in a place is not on offer there.
    first = page.get_by_label("Method before the LLM").locator("option").evaluate_all("all => all.map((o) => o.value)")
    second = page.get_by_label("Method inside the LLM").locator("option").evaluate_all("all => all.map((o) => o.value)")
    assert {"visionzip", "divprune", "random", "tome"} <= set(first) and {"fastv", "pdrop", "vtw"} <= set(second)
    assert not set(first) & set(second) and not {"apet", "polymorphic", "todre"} & {*first, *second}
