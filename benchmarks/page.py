"""How soon the page is there, what it loads, and whether anything on it jumps, by the browser's own timers.

    python -m benchmarks.page                         # serves the page itself; writes benchmarks/page.{md,json}
    python -m benchmarks.page --url http://host:7860  # a page that is served already
    python -m benchmarks.page --quick                 # one load per size; writes nothing unless --out is given

Every load has a browser profile of its own, so that nothing is cached; the server has answered once before. Nothing is
asserted: the numbers are for reading, and the table says what they are meant to be.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from .machine import cpu_name
from .wording import filled, number, table

SIZES = ((1440, 900), (1024, 768), (400, 850))
LOADS = 5
PATIENCE_MS = 120_000
QUIET_MS = 500
"""A page is interactive from the moment on which so long a time without a long task follows."""
TARGETS = {"first_lane_ms": 2000, "interactive_ms": 3000, "transferred_kb": 600, "shift": 0.05}
TEMPLATE = Path(__file__).with_name("templates") / "page.md.j2"

WATCH = """window.tokvizTimes = { shift: 0, pressed: 0, tasks: [], lane: 0 };
new PerformanceObserver((list) => list.getEntries().forEach((one) => {
  if (one.hadRecentInput) tokvizTimes.pressed += one.value; else tokvizTimes.shift += one.value;
})).observe({ type: 'layout-shift', buffered: true });
new PerformanceObserver((list) => list.getEntries().forEach((one) => {
  tokvizTimes.tasks.push([one.startTime, one.startTime + one.duration]);
})).observe({ type: 'longtask', buffered: true });
(function look() {
  const canvas = document.querySelector('.tv-canvas');
  const shown = document.documentElement?.dataset.tokvizReady === '' && canvas && canvas.width > 100;
  if (shown) requestAnimationFrame(() => { tokvizTimes.lane = performance.now(); }); else requestAnimationFrame(look);
})();"""
"""Looks at every frame: the first lane is painted in the frame that follows the one in which it is shown and drawn."""
LOADED = """(quiet) => {
  if (!tokvizTimes.lane) return null;
  const last = Math.max(tokvizTimes.lane, ...tokvizTimes.tasks.map(([, end]) => end));
  return performance.now() - last > quiet + 1500 ? true : null;
}"""
RESULT = """(quiet) => {
  let at = tokvizTimes.lane;
  for (const [start, end] of tokvizTimes.tasks.sort((a, b) => a[0] - b[0])) {
    if (end > at && start < at + quiet) at = Math.max(at, end);
  }
  const files = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  return {
    paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
    lane: tokvizTimes.lane, interactive: at, files: files.length,
    bytes: files.reduce((sum, file) => sum + file.transferSize, 0), shift: tokvizTimes.shift,
  };
}"""
SHIFT = "() => { const now = tokvizTimes.shift; tokvizTimes.shift = 0; return now; }"
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
ANSWERED = """() => document.querySelector('.tv-origin').hidden
  && [...document.querySelectorAll('.tv-lane')].every((lane) => ['done', 'error'].includes(lane.dataset.status))
  && document.querySelector('#tokviz-stop').disabled"""


@dataclass(frozen=True)
class Row:
    """A window size: medians over ``loads``, and the fastest of them, which a busy machine disturbs least.

    Times in ms since navigation; layout shift summed, without what follows input.
    """

    width: int
    height: int
    loads: int
    first_paint_ms: float
    first_lane_ms: float
    interactive_ms: float
    fastest_lane_ms: float
    fastest_interactive_ms: float
    transferred_kb: float
    files: int
    shift_load: float
    shift_hover: float
    shift_views: float
    shift_stream: float | None


def measure(browser: Any, url: str, size: tuple[int, int], loads: int = LOADS, stream: bool = True) -> Row:
    """Load the page ``loads`` times, use the last one.

    Args:
        browser: A Playwright browser.
        url: Where the page is served.
        size: Width and height of the window in px.
        loads: How often it is loaded, each time by a new profile.
        stream: Whether Compare is pressed, too: it runs the model.
    """
    found: list[dict[str, float]] = []
    for at in range(loads):
        with closing(browser.new_context(viewport={"width": size[0], "height": size[1]})) as context:
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.add_init_script(WATCH)
            page.goto(url)
            page.wait_for_function(LOADED, arg=QUIET_MS)
            found.append(page.evaluate(RESULT, QUIET_MS))
            if at == loads - 1:
                hover, views, streamed = _used(page, stream)
    middle = {name: median(one[name] for one in found) for name in found[0]}
    return Row(
        *size,
        loads=loads,
        first_paint_ms=middle["paint"],
        first_lane_ms=middle["lane"],
        interactive_ms=middle["interactive"],
        fastest_lane_ms=min(one["lane"] for one in found),
        fastest_interactive_ms=min(one["interactive"] for one in found),
        transferred_kb=middle["bytes"] / 1000,
        files=round(middle["files"]),
        shift_load=max(one["shift"] for one in found),
        shift_hover=hover,
        shift_views=views,
        shift_stream=streamed,
    )


def _used(page: Any, stream: bool) -> tuple[float, float, float | None]:
    """Layout shift under the pointer, from view to view, and while answers stream."""
    page.evaluate(SHIFT)
    for image in page.locator(".tv-image").all():
        image.hover()
    page.mouse.move(3, 3)
    page.evaluate(TWO_FRAMES)
    hover = page.evaluate(SHIFT)
    for view in page.locator(".tv-bar > .tv-views input").all():
        view.evaluate("node => node.click()")  # a press of a script: the browser does not excuse what it moves
        page.evaluate(TWO_FRAMES)
    views = page.evaluate(SHIFT)
    if not stream:
        return hover, views, None
    page.locator("#tokviz-compare").click()
    page.wait_for_function(ANSWERED)
    page.evaluate(TWO_FRAMES)
    return hover, views, page.evaluate(SHIFT)


@contextmanager
def served() -> Iterator[str]:
    """The page of this checkout in a process of its own, until the block ends."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tokviz", "serve", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


def warm(url: str, seconds: float = 120) -> None:
    """Ask until the page answers. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                answer.read()
            return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(f"The page at {url} does not answer.")


def environment(command: str, browser: Any) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "command": command,
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "nice": os.nice(0) if hasattr(os, "nice") else None,
        "browser": f"Chromium {browser.version}",
    }


def as_markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The table with what it is meant to show."""
    heads = (
        "window", "loads", "first paint ms", "first lane ms", "fastest", "interactive ms", "fastest",
        "transferred KB", "files",
        "shift: load", "hover", "views", "stream",
    )  # fmt: skip
    lines = [
        [
            f"{row.width} x {row.height}",
            str(row.loads),
            *(
                number(value, 0)
                for value in (
                    row.first_paint_ms,
                    row.first_lane_ms,
                    row.fastest_lane_ms,
                    row.interactive_ms,
                    row.fastest_interactive_ms,
                    row.transferred_kb,
                )
            ),
            str(row.files),
            *(number(value, 3) for value in (row.shift_load, row.shift_hover, row.shift_views, row.shift_stream)),
        ]
        for row in rows
    ]
    return filled(TEMPLATE, about=about, targets=TARGETS, table=table(heads, lines))


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a page that is served already (default: serves its own)")
    parser.add_argument("--quick", action="store_true", help="one load per size")
    parser.add_argument("--loads", type=int, default=LOADS, help="loads per size (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="path without suffix of table and numbers")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    out = options.out or (None if options.quick else Path(__file__).with_suffix(""))

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, served() if options.url is None else _as_it_is(options.url) as url:
        warm(url)
        path = os.environ.get("TOKVIZ_CHROMIUM") or None
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        measure(browser, url, SIZES[0], loads=1)  # the server's first run loads the model
        about = environment(" ".join(["python -m benchmarks.page", *given]), browser)
        rows = [measure(browser, url, size, 1 if options.quick else options.loads) for size in SIZES]
        browser.close()
    print(words := as_markdown(rows, about))
    if out is not None:
        out.with_suffix(".md").write_text(words)
        record = {"environment": about, "targets": TARGETS, "rows": [asdict(row) for row in rows]}
        out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    return rows


@contextmanager
def _as_it_is(url: str) -> Iterator[str]:
    yield url


if __name__ == "__main__":
    main()
