"""The command of a serving stack in a lane: one line of text, copied as it is seen, further stacks folded away."""

import pytest
from synthetic import HOSTILE, comparison
from view_alone import document

from tokviz.records import ServingFlag

pytestmark = pytest.mark.browser

COMMAND = "vllm serve MODEL --video-pruning-rate 0.75"
FLAGS = [
    ServingFlag(stack="vLLM", command=COMMAND, read_in="0.12.0"),
    ServingFlag(stack="SGLang", command="", read_in="main", note=f"none: {HOSTILE}"),
]


def with_flags():
    whole = comparison()
    runs = [run.model_copy(update={"serving": FLAGS}) if run.method == "apet" else run for run in whole.runs]
    return whole.model_copy(update={"runs": runs})


@pytest.mark.parametrize("width", [1440, 400])
def test_a_lane_prints_the_command_and_gives_it_away(browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    try:
        page.set_content(document(with_flags()))
        lane = page.locator(".tv-lane").nth(2)
        assert page.locator(".tv-serving").count() == 1
        code = lane.locator(".tv-serving-command").first
        assert code.text_content() == COMMAND
        assert not code.is_visible()
        lane.get_by_text("As deployed: vLLM").click()
        assert code.is_visible()
        assert page.evaluate("window.HACKED") is None
        page.evaluate("() => { window.got = ''; Object.defineProperty(navigator, 'clipboard', { configurable: true,"
                      " value: { writeText: async (text) => { window.got = text; } } }); }")  # fmt: skip
        copy = lane.get_by_role("button", name="Copy the command for vLLM")
        copy.click()
        page.wait_for_function("window.got")
        assert page.evaluate("window.got") == COMMAND and copy.text_content() == "copied"
        # Where the page may not write to the clipboard, the command is selected.
        page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        copy.click()
        page.wait_for_function("String(getSelection())")
        assert page.evaluate("String(getSelection())").split() == COMMAND.split()
        other = lane.locator(".tv-serving-flag", has_text="SGLang").locator(".tv-serving-read")
        assert other.is_visible() and HOSTILE[:20] in other.text_content()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.close()
