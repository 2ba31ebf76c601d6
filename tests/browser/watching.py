"""A page under watch: no page error, no console error, no failed and no foreign request while it is used."""

from contextlib import contextmanager

from playwright.sync_api import expect

PATIENCE_MS = 60_000
"""Longest wait for anything on a busy machine; a quiet one needs a tenth."""
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def watched_page(browser, url, width=1440, theme="light"):
    """Open ``url`` in a new tab and wait for its lanes; asserts at the end that nothing went wrong.

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
    page.goto(url)
    page.wait_for_selector(".tv-lane .tv-answer:not(:empty)")
    page.wait_for_function("document.querySelector('.tv-canvas').width > 100")
    yield page
    page.close()
    assert problems == []


def _own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def _aborted(request) -> bool:
    """Leaving a page aborts its event stream; that is no fault of the page."""
    return "ERR_ABORTED" in (request.failure or "")
