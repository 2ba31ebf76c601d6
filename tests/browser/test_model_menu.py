"""The menu of models in a real browser: what it says before and after loading, progress, a load that fails."""

from unittest import mock

import pytest
from playwright.sync_api import expect

from tokviz.models import devices
from tokviz.runs.examples import load_examples
from tokviz.serving import model_cache

pytestmark = pytest.mark.browser
ABSENT = "llava-hf/llava-1.5-7b-hf"


@pytest.fixture(scope="module")
def menu_site(site, example_folder):
    """The page with two models, one of which no machine without a network can have, and real loading."""
    from tokviz.ui.build import build_page, launch_settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKVIZ_MODEL", f"tokviz-tiny,{ABSENT}")
        patch.setenv("TOKVIZ_KEPT_MB", "0")  # every press computes
        patch.setattr(model_cache, "CACHE", model_cache.ModelCache())
        page = build_page(examples=load_examples(example_folder))
        with mock.patch("gradio.networking.url_ok", return_value=True):
            page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_settings())
        yield page.local_url
        page.close()


def choose(page, label):
    page.locator("#tokviz-model input").click()
    page.get_by_role("option", name=label).click()


def test_a_model_is_described_loaded_with_progress_and_survives_one_that_fails(menu_site, shared_page):
    page = shared_page(menu_site)
    facts, notice = page.locator("#tokviz-facts textarea"), page.locator("#tokviz-notice .tokviz-notice")
    expect(facts).to_have_value("llava · 5.0 M parameters · images")
    told = page.evaluate_handle("""() => {
      const told = [], line = document.querySelector('#tokviz-notice .tokviz-notice');
      new MutationObserver(() => told.push(line.textContent)).observe(line, {childList: true, characterData: true});
      return told;
    }""")
    page.locator("#tokviz-compare").click()
    expect(facts).to_have_value("Loaded · cpu · float32 · attention sdpa", timeout=60_000)
    expect(notice).to_have_text("", timeout=60_000)
    assert any("tokviz-tiny: Loading weights" in words for words in told.json_value())

    choose(page, "LLaVA-1.5 7B · ≈ 15 GB")
    expect(facts).to_have_value(model_cache.model_facts(ABSENT))
    assert "14.8 GB in bfloat16" in model_cache.model_facts(ABSENT)
    page.locator("#tokviz-compare").click()
    expect(notice).to_contain_text("The model hub cannot be reached", timeout=60_000)
    choose(page, "tokviz-tiny")
    expect(facts).to_have_value("Loaded · cpu · float32 · attention sdpa")
    told.evaluate("told => { told.length = 0; }")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("told => told.some((words) => words.startsWith('Answering'))", arg=told)


def test_choices_that_this_machine_has_no_use_for_say_why(menu_site, shared_page):
    no_bits, no_kernels = devices.why_not_faster()
    page = shared_page(menu_site)
    page.get_by_text("Advanced", exact=True).click()
    for name, reason in (("precision", no_bits), ("kernel", no_kernels)):
        field = page.locator(f"#tokviz-{name}")
        if reason is None:
            expect(field.locator("input")).to_be_enabled()
        else:
            expect(field).to_contain_text(reason)
            expect(field.locator("input")).to_be_disabled()


def test_an_open_menu_lies_over_what_is_below_it(menu_site, shared_page):
    page = shared_page(menu_site)
    page.locator("#tokviz-model input").click()
    option = page.get_by_role("option", name="LLaVA-1.5 7B").bounding_box()
    at = page.evaluate("([x, y]) => document.elementFromPoint(x, y).textContent", [option["x"] + 60, option["y"] + 9])
    assert "LLaVA-1.5 7B" in at
