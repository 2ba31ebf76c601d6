"""The tab Cost: bars, steps, meanings of the budget and published speed-ups, as a visitor sees them."""

import pytest

from tokviz.runs.examples import load_examples

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shipped():
    """What the page is open on: unpruned, FasterVLM, ApET, DART, random; medians of five."""
    return load_examples()[0].comparison


def opened(page):
    page.mouse.wheel(0, 400)  # the section above comes when somebody is there, and moves the tabs
    page.locator(".ts-root").wait_for(state="visible")
    page.get_by_role("tab", name="Cost", exact=True).click()
    page.locator("#tokviz-costs .tc-ready").wait_for()
    return page.locator("#tokviz-costs")


def widths(costs, which):
    """Length of every bar in px, by run."""
    rows = costs.locator(f".tc-{which} .tc-row")
    length = (
        "node => [...node.querySelectorAll('.tc-piece')].reduce((sum, p) => sum + p.getBoundingClientRect().width, 0)"
    )
    return {rows.nth(i).locator(".tc-name").inner_text(): rows.nth(i).evaluate(length) for i in range(rows.count())}


def test_bars_are_as_long_as_the_times_and_can_leave_out_the_encoding(shipped_site, shared_page, shipped):
    costs = opened(shared_page(shipped_site))
    for label, part in (("from the image", None), ("without encoding", "encode")):
        costs.get_by_label(label).check(force=True)
        times = {}
        for run in shipped:
            parts = shipped.cost(run.key).parts
            times[run.label] = sum(cost.ms or 0 for cost in parts if cost.part != part)
        drawn, most = widths(costs, "times"), max(times.values())
        longest = max(drawn.values())
        assert {name: pytest.approx(ms / most, abs=0.02) for name, ms in times.items()} == {
            name: length / longest for name, length in drawn.items()
        }
    row = costs.locator(".tc-times .tc-row").nth(1)
    assert "faster" in row.inner_text() or "slower" in row.inner_text()
    row.locator(".tc-prefill").hover()
    assert costs.locator(".tc-told").inner_text().startswith("FasterVLM · prefill 38.7 ms")
    costs.locator(".tc-times-table summary").click()
    assert "38.7 ms" in costs.locator(".tc-times-table table").inner_text()
    assert "0.0×" not in costs.inner_text()


def test_tokens_per_layer_are_steps_and_the_budget_has_three_meanings(shipped_site, shared_page, shipped):
    costs = opened(shared_page(shipped_site))
    apet, place = shipped["apet"], [run.key for run in shipped].index("apet")
    steps = [str(n) for i, n in enumerate(apet.tokens_per_layer) if not i or n != apet.tokens_per_layer[i - 1]]
    assert len(steps) > 1 and costs.locator(".tc-lines button").nth(place).inner_text() == f"ApET {' → '.join(steps)}"
    path = costs.locator(".tc-steps .tc-plot .tc-line").nth(place).get_attribute("d")
    assert path.count("H") == len(apet.tokens_per_layer)
    row = costs.locator(".tc-meanings tbody tr").nth(place).inner_text().split("\t")
    meant = (apet.actual.final, apet.actual.average_in, apet.actual.average_logged)
    assert row == ["ApET", *(f"{tokens:g}" for tokens in meant)] and len(set(meant)) == 3


def test_published_speeds_are_marked_and_name_device_and_source(shipped_site, shared_page):
    costs = opened(shared_page(shipped_site))
    printed = costs.locator(".tc-printed")
    assert "not measured here" in printed.inner_text()
    lines = printed.locator("tbody tr").all_inner_texts()
    assert any(
        all(words in line for words in ("FasterVLM", "1.80× faster", "RTX 3090", "ToDRE, Table 3")) for line in lines
    )


@pytest.mark.parametrize("width", [1440, 1024, 400])
def test_the_costs_fit_every_window(shipped_site, shared_page, width):
    page = shared_page(shipped_site, width)
    opened(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = "[...document.querySelectorAll('.tc-steps text')].map((t) => t.getBoundingClientRect().height)"
    assert min(page.evaluate(small)) >= 10
