"""The benchmark of the page measures what it says. Sizes and shifts hold on any machine; times are only for reading."""

import pytest

from benchmarks import page as benchmark

pytestmark = pytest.mark.browser


def test_the_page_is_small_and_holds_still_and_the_table_says_so(browser, shipped_site):
    row = benchmark.measure(browser, shipped_site, (1440, 900), loads=1)
    assert 0 < row.first_paint_ms <= row.first_lane_ms <= row.interactive_ms
    assert 100 < row.transferred_kb < benchmark.TARGETS["transferred_kb"]
    assert row.shift_stream is not None
    assert max(row.shift_load, row.shift_hover, row.shift_views, row.shift_stream) < benchmark.TARGETS["shift"]
    words = benchmark.as_markdown([row], benchmark.environment("a command", browser))
    assert "a command" in words and "| 1440 x 900 | 1 |" in words and f"| {row.transferred_kb:.0f} |" in words
