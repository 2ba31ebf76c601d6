"""What is taken away, in a browser: the saved page offline, files of the tab Export, and what runs it again."""

import base64
import io
import zipfile
from pathlib import Path

import pytest

from tokviz.comparison import Comparison
from tokviz.runs.examples import load_examples

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shipped():
    return load_examples()[0].comparison


def test_a_saved_page_works_without_server_and_network(browser, shipped, tmp_path):
    shipped.to_html(tmp_path / "saved.html")
    assert (tmp_path / "saved.html").stat().st_size < 500_000
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(error.stack))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on(
        "request", lambda request: None if request.url.startswith(("data:", "file:")) else wrong.append(request.url)
    )
    page.goto((tmp_path / "saved.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.tv-canvas')[1]?.width > 100")
    assert page.locator(".tv-answer").all_inner_texts() == [run.answer for run in shipped]
    drawn = "() => document.querySelectorAll('.tv-canvas')[2].toDataURL().length"
    before = page.evaluate(drawn)
    page.locator(".tv-views").get_by_label("Score", exact=True).check(force=True)
    assert page.evaluate(drawn) != before
    page.locator(".tv-image").nth(2).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".tv-where").nth(2).inner_text().startswith("row 0, column 0")
    assert page.locator(".tc-times .tc-row").count() == len(shipped) and page.locator(
        ".nt-root tbody tr"
    ).count() == len(shipped)
    assert page.locator("pre").first.inner_text() == shipped.to_python()
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".tv-copy-link:visible").count() == 0
    context.close()
    assert wrong == []


def exported(page):
    page.mouse.wheel(0, 400)  # the section above comes when somebody is there, and moves the tabs
    page.locator(".ts-root").wait_for(state="visible")
    page.get_by_role("tab", name="Export").click()
    page.locator(".ra-ready").wait_for()


def downloads(page, button, count):
    """The files that a button makes, by name."""
    page.locator(button).click()
    links = page.locator("#tokviz-figure-files a[download]")
    page.wait_for_function(
        "n => document.querySelectorAll('#tokviz-figure-files a[download]').length === n", arg=count, timeout=120_000
    )
    found = {}
    for i in range(count):
        with page.expect_download() as download:
            links.nth(i).click()
        found[download.value.suggested_filename] = Path(download.value.path()).read_bytes()
    return found


def test_the_export_gives_what_the_lanes_show(shipped_site, shared_page, shipped):
    page = shared_page(shipped_site)
    exported(page)
    page.locator(".tv-views").get_by_label("A vs B", exact=True).check(force=True)
    page.get_by_label("Lane A").select_option(label="ApET")
    page.get_by_label("Lane B").select_option(label="DART")
    page.get_by_label("Title", exact=True).fill("ApET or DART?")
    stem = "tokviz-what-digit-is-handwritten-64-tokens"
    files = downloads(page, "#tokviz-figure", 3)
    assert set(files) == {f"{stem}-ab.{kind}" for kind in ("png", "svg", "pdf")}
    svg = files[f"{stem}-ab.svg"].decode()
    assert "ApET or DART?" in svg and "only A keeps it" in svg and "FasterVLM" not in svg
    page.locator(".tv-views").get_by_label("Kept", exact=True).check(force=True)
    saved = downloads(page, "#tokviz-saved-page", 1)
    assert saved == {f"{stem}.html": shipped.to_html().encode()}
    packed = zipfile.ZipFile(io.BytesIO(downloads(page, "#tokviz-everything", 1)[f"{stem}.zip"]))
    assert Comparison.from_json(packed.read(f"{stem}/{stem}.json")) == shipped
    assert page.locator(".ra-python").inner_text() == shipped.to_python()
    assert page.locator(".ra-command").inner_text() == shipped.to_command()
    assert page.locator(".ra-link").inner_text().removeprefix(page.url.split("#")[0]) == shipped.to_link("")


def test_a_link_and_the_code_beside_it_reproduce_the_run(live_site, open_page, examples, tmp_path):
    """Not the first example's own request: other methods, parameters, budget and seed, all in the address."""
    stored = examples[1].comparison.request
    asked = "question=is%20there%20a%20circle%3F&methods=apet~basis_tokens%3D5,random&budget=30&seed=4&new=5"
    address = f"{live_site}#compare?example={examples[1].id}&{asked}"
    page = open_page(address)
    page.wait_for_function("document.querySelector('#tokviz-question textarea')?.value === 'is there a circle?'")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("[...document.querySelectorAll('.tv-lane .tv-label')].length === 3", timeout=120_000)
    page.locator('.tv-lane[data-status="done"]').nth(2).wait_for(timeout=120_000)
    exported(page)
    page.wait_for_function("document.querySelector('.ra-python').textContent.includes('seed=4')")
    with page.expect_download() as download:
        page.locator("#tokviz-session").click()
    there = Comparison.load(download.value.path())
    assert there.request.question == "is there a circle?" != stored.question and there.request.max_new_tokens == 5
    code = page.locator(".ra-python").inner_text()
    # What was asked about; the new session holds so noisy an image as a JPEG only.
    (tmp_path / "image.png").write_bytes(base64.b64decode(examples[1].comparison.image.base64))
    own = there.to_python(str(tmp_path / "image.png"))
    assert "seed=4" in code and "('apet', {'basis_tokens': 5})" in code
    found = {}
    exec(own, found)
    outcome = {run.key: (run.answer, run.kept) for run in there}
    assert outcome == {run.key: (run.answer, run.kept) for run in found["result"]}
    assert {run.key for run in there} == {"full", "apet", "random"}
