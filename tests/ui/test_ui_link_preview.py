"""What a link to the page shows where it is pasted, read as a crawler does: from the HTML, without scripts."""

import re

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tokviz.ui.compression import CompressedPage
from tokviz.ui.link_preview import DESCRIPTION, TITLE, LinkPreview, preview_tags

PREVIEW = re.compile(r"<meta\s+(?:property|name)=\"((?:og|twitter):\w+|description)\"\s+content=\"([^\"]*)\"\s*/?>")
OWN_WORDS = "og:title Gradio is part of what a visitor asked"


@pytest.fixture(scope="module")
def page():
    with gr.Blocks(title="tokviz", analytics_enabled=False) as blocks:
        gr.Textbox(f'<meta property="og:title" content="{OWN_WORDS}">')
    served = {"prevent_thread_lock": True, "quiet": True, "ssr_mode": False, "_frontend": False}
    app, _, _ = blocks.launch(app_kwargs={"middleware": [Middleware(LinkPreview)]}, **served)
    yield TestClient(app, headers={"accept-encoding": "identity"})
    blocks.close()


def test_a_link_to_the_page_names_tokviz_and_not_what_it_is_built_with(page):
    answer = page.get("/")
    head = answer.text.split("window.gradio_config")[0]
    tags = PREVIEW.findall(head)
    assert sorted(name for name, _ in tags) == sorted({name for name, _ in tags}), "every tag once"
    shown = dict(tags)
    assert shown["og:title"] == shown["twitter:title"] == TITLE and "tokviz" in TITLE
    assert shown["og:description"] == shown["twitter:description"] == shown["description"] == DESCRIPTION
    assert re.findall("<title>(.*?)</title>", head) == [TITLE]
    assert "Gradio" not in head and "{url}" not in head
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_the_data_of_the_page_stays_as_it_is(page):
    """What looks like a preview tag in the page's data is somebody's text."""
    assert OWN_WORDS in page.get("/").text.split("window.gradio_config")[1]


def test_head_and_get_agree(page):
    assert page.head("/").headers["content-length"] == page.get("/").headers["content-length"]


def test_what_must_be_there_first_comes_with_the_document_compressed_or_not():
    html = '<head><meta property="og:title" content="mine"></head>window.gradio_config = {}' + " " * 2000
    layers = [Middleware(CompressedPage), Middleware(LinkPreview, more="<script>first()</script>")]
    routes = [Route(path, lambda _: HTMLResponse(html)) for path in ("/", "/other")]
    client = TestClient(Starlette(routes=routes, middleware=layers))
    packed = client.get("/", headers={"accept-encoding": "gzip"})
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert packed.text == plain.text and "<script>first()</script>" in plain.text.split("window.gradio_config")[0]
    assert int(packed.headers["content-length"]) < 800 < int(plain.headers["content-length"])
    assert "content-encoding" not in client.get("/other", headers={"accept-encoding": "gzip"}).headers


def test_words_cannot_leave_their_tag():
    tags = preview_tags('"><script>', "a & b")
    assert "<script>" not in tags and "a &amp; b" in tags


def test_other_responses_pass_untouched():
    def stream(_: object) -> StreamingResponse:
        return StreamingResponse(
            iter([b"<head>", b'<meta property="og:title" content="mine">']), media_type="text/plain"
        )

    html = '<head><meta property="og:title" content="mine"></head>'
    packed = Response(b"\x1f\x8b", media_type="text/html", headers={"content-encoding": "gzip"})
    routes = {
        "/stream": stream,
        "/html": lambda _: HTMLResponse(html),
        "/packed": lambda _: packed,
        "/missing": lambda _: HTMLResponse(html, status_code=404),
    }
    app = Starlette(
        routes=[Route(path, answer) for path, answer in routes.items()], middleware=[Middleware(LinkPreview)]
    )
    client = TestClient(app)
    assert client.get("/stream").text == '<head><meta property="og:title" content="mine">'
    assert client.get("/html").text == client.get("/missing").text == html
    with client.stream("GET", "/packed") as answer:
        assert b"".join(answer.iter_raw()) == b"\x1f\x8b"
