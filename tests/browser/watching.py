"""A page under watch: no page error, no console error, no failed and no foreign request while it is used."""

from contextlib import contextmanager

from playwright.sync_api import expect

PATIENCE_MS = 60_000
"""Longest wait for anything on a busy machine; a quiet one needs a tenth."""
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def watched_page(browser, url, width=1440, theme="light"):
    """Open ``url`` in a new tab and wait for its lanes; asserts at the end that nothing went wrong."""
    page, problems = _open(browser, url, width, theme)
    yield page
    page.close()
    assert problems == []


def _open(browser, url, width=1440, theme="light"):
    """A page and the list that fills with its problems.

    All tabs share one profile, whose cache holds gradio's scripts: a page loads in half the time.
    """
    problems: list[str] = []
    context = browser.contexts[0] if browser.contexts else browser.new_context()
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("requestfailed", lambda r: problems.append(f"failed: {r.url}") if not _aborted(r) else None)
    page.on("request", lambda r: problems.append(f"external: {r.url}") if not _own(r.url) else None)
    page.add_init_script(_FORGETS)
    page.goto(url)
    page.wait_for_selector(".tv-lane .tv-answer:not(:empty)")
    page.wait_for_function("document.querySelector('.tv-canvas').width > 100")
    return page, problems


_FORGETS = "if (!sessionStorage.length) localStorage.clear();"
"""A tab that is new begins as a first visit does; one that is loaded anew remembers."""


def _own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def _aborted(request) -> bool:
    """Leaving a page aborts its event stream; that is no fault of the page."""
    return "ERR_ABORTED" in (request.failure or "")


_SHOWN = """() => JSON.stringify([
  document.documentElement.dataset.tokvizExample, document.querySelector('.tokviz-notice').className,
  document.querySelector('.tokviz-notice').textContent, document.querySelector('#tokviz-stop').disabled,
  document.querySelector('.tv-asked').textContent, document.querySelector('.mf-root').dataset.shows,
  [...document.querySelectorAll('#tokviz-request :is(input:not([type=file]), textarea, select)')].map((field) =>
    ['checkbox', 'radio'].includes(field.type) ? field.checked : field.value)])"""
"""What the lanes are about and what is in the form."""
_IS_EXAMPLE = """document.documentElement.dataset.tokvizExample === '0'
  && document.querySelector('.tokviz-notice').textContent === '' && document.querySelector('#tokviz-stop').disabled"""
_AT_REST = """() => {
  document.body.classList.toggle('dark', matchMedia('(prefers-color-scheme: dark)').matches);
  document.querySelector('#tokviz-tabs [role=tab]').click();
  document.querySelector('input[name=tv-view][value=kept]').click();
  document.querySelector('.tv-image').focus({ preventScroll: true });
  scrollTo(0, 0); }"""


class SharedTabs:
    """One tab per site, for tests that need no fresh load: each finds the first example, as a visitor does.

    The state is reached by a press on the first example, and not even that where nothing has changed. What an example
    leaves to the visitor (Repeats, Max new tokens, what is folded out) is put back by the test that changes it.
    """

    def __init__(self, browser):
        self._browser, self._tabs = browser, {}

    def at_home(self, url, width):
        """The page of ``url`` on its first example: nothing pinned or hovered, not scrolled, at this width."""
        if url not in self._tabs:
            page, problems = _open(self._browser, url, width)
            page.wait_for_function("document.documentElement.dataset.tokvizReady === ''")
            self._tabs[url] = page, problems, page.evaluate(_SHOWN)
            return page
        page, _, first = self._tabs[url]
        page.bring_to_front()  # a tab behind another draws once in a second
        page.set_viewport_size({"width": width, "height": 900})
        page.mouse.move(5, 5)
        if page.evaluate(_SHOWN) != first:
            with page.expect_response(_fills_the_tabs):  # sent when lanes and form are filled
                page.locator("#tokviz-examples button").first.click()
            page.wait_for_function(_IS_EXAMPLE)
        page.evaluate(_AT_REST)
        page.keyboard.press("Escape")
        return page

    def problems(self):
        """Take what went wrong since the last time."""
        found = []
        for page, problems, _ in self._tabs.values():
            page.evaluate("0")  # whatever the browser has to report arrives before the answer
            found += problems
            problems.clear()
        return found

    def close(self):
        """Close every tab; the next test loads anew."""
        for page, _, _ in self._tabs.values():
            page.close()
        self._tabs.clear()


def _fills_the_tabs(response) -> bool:
    asked = response.request
    return asked.url.endswith("/run/predict") and asked.post_data_json.get("data") == ["example-0"]
