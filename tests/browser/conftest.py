"""A real browser without network, and three servers: stored examples, a paced runner, the embedded model."""

import functools
import os
import shutil
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ui"))
from paced import PacedRunner
from synthetic import write_examples
from synthetic_rich import write_rich_examples
from watching import SharedTabs, watched_page

from tokviz.models.catalog import EMBEDDED_MODEL

# The address bar's popup is a page of its own beside every page: a third of what loading one costs.
WITHOUT = "WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup,PaintHolding,HttpsUpgrades"
FLAGS = [
    f"--disable-features={WITHOUT}",
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _serve(page, workbench=None):
    """Serve until the process ends: gradio would wait five seconds for what the browser still listens to."""
    from tokviz.ui.build import launch_settings

    settings = launch_settings(workbench)
    page.launch(server_name="127.0.0.1", server_port=_free_port(), prevent_thread_lock=True, quiet=True, **settings)
    return page


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return folder


@pytest.fixture(scope="session")
def examples(example_folder):
    from tokviz.runs.examples import load_examples

    return load_examples(example_folder)


@pytest.fixture(scope="session")
def paced():
    return PacedRunner()


class Loads(list):
    """Names of the models that the page asked to load. ``refusal``: the sentence with which loading fails."""

    refusal = ""

    def __call__(self, spec):
        from tokviz.errors import BadInput

        self.append(spec.name)
        if self.refusal:
            raise BadInput(self.refusal)
        return ()


@pytest.fixture(scope="session")
def loads():
    return Loads()


@pytest.fixture(scope="session")
def site(examples, paced, loads, tmp_path_factory):
    """The page with synthetic examples and the paced runner."""
    from tokviz.ui.build import build_page

    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    os.environ.setdefault("TOKVIZ_MODEL", EMBEDDED_MODEL)
    page = _serve(build_page(paced, load=loads, examples=examples))
    return page.local_url


@pytest.fixture(scope="session")
def shipped_site(site, paced, loads):
    """The page as a visitor gets it: the examples of the repository, and its run of mined cases."""
    from tokviz.ui.build import build_page
    from tokviz.ui.serve import mined_runs

    runs = mined_runs(None)
    page = _serve(build_page(paced, load=loads, workbench=runs), runs)
    return page.local_url


@pytest.fixture(scope="session")
def rich_site(site, paced, tmp_path_factory):
    """The page open on a comparison with everything that a stage can leave; its hostile twin is the second example."""
    from tokviz.runs.examples import load_examples
    from tokviz.ui.build import build_page

    folder = tmp_path_factory.mktemp("rich")
    write_rich_examples(folder)
    page = _serve(build_page(paced, load=lambda spec: (), examples=load_examples(folder)))
    return page.local_url


@pytest.fixture(scope="session")
def live_site(site, examples):
    """The page with the real model; ``TOKVIZ_MODEL`` may name another checkpoint."""
    from tokviz.ui.build import build_page

    page = _serve(build_page(examples=examples))
    return page.local_url


LOOKS_EVERY_MS = 50
"""How often a page is asked whether it is as a test waits for. Playwright's own way, with every frame, makes the page
draw sixty of them in a second for as long as the wait takes."""


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import Page, sync_playwright

    Page.wait_for_function = functools.partialmethod(Page.wait_for_function, polling=LOOKS_EVERY_MS)
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = os.environ.get("TOKVIZ_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.fail("No Chromium: run `make test`, which finds or installs one, or set TOKVIZ_CHROMIUM to its path.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """``open_page(url, width=1440, theme="light")``; fails the test on any page error or foreign request."""
    with ExitStack() as pages:
        yield lambda url, width=1440, theme="light": pages.enter_context(watched_page(browser, url, width, theme))


@pytest.fixture(scope="module")
def _tabs(browser):
    tabs = SharedTabs(browser)
    yield tabs
    tabs.close()


@pytest.fixture
def shared_page(_tabs, request):
    """``shared_page(url, width=1440)``: the one page of a site that tests of a module share, on its first example.

    Fails the test on any page error or foreign request. After a test that failed, the next one gets a fresh page.
    """
    failed = request.session.testsfailed
    yield lambda url, width=1440: _tabs.at_home(url, width)
    if request.session.testsfailed > failed:
        _tabs.close()
        return
    problems = _tabs.problems()
    if problems:
        _tabs.close()
    assert problems == []
