"""The endpoints as tools of agents: what an agent reads of them, what it gets, and what it must not reach."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from own_loop import run_async
from PIL import Image

pytest.importorskip("mcp")

from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client

from tokviz.serving.storage import storage
from tokviz.ui.agents import serve_agents

QUESTION = {"question": "what color is the circle ?", "methods": ["random"], "budget": 16}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launched(page):
    from tokviz.ui.build import launch_settings

    page.launch(
        server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True, quiet=True,
        mcp_server=serve_agents(), **launch_settings(),
    )  # fmt: skip
    return page


@pytest.fixture(scope="module")
def tools_site(site, examples):
    from tokviz.ui.build import build_page

    page = launched(build_page(examples=examples))
    yield page.local_url
    page.close()


class EndlessRuns:
    """A model that answers only to being told to stop."""

    def __init__(self):
        self.began, self.ended = threading.Event(), threading.Event()

    def __call__(self, request, stop):
        self.began.set()
        if stop.wait(60):
            self.ended.set()
        yield from ()


@pytest.fixture(scope="module")
def endless_page(site, examples):
    from tokviz.ui.build import build_page

    runs = EndlessRuns()
    page = launched(build_page(runs, examples=examples))
    yield page, runs
    page.close()


@pytest.fixture
def endless(endless_page):
    """A page whose runs end only when they are told to, and those runs: none has begun."""
    page, runs = endless_page
    runs.began.clear()
    runs.ended.clear()
    return page, runs


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("agents") / "plain.png"
    Image.linear_gradient("L").resize((260, 200)).convert("RGB").save(path)
    return path


def data_uri(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def over_http(url, headers=None):
    return streamablehttp_client(f"{url}gradio_api/mcp/", headers=headers)


def over_sse(url, headers=None):
    return sse_client(f"{url}gradio_api/mcp/sse", headers=headers)


async def called(connection, name, arguments, progress=None):
    async with connection as (read, write, *_), ClientSession(read, write) as session:
        await session.initialize()
        result = await session.call_tool(name, arguments, progress_callback=progress)
        return result.isError, "".join(part.text for part in result.content)


def call(url, name, arguments, headers=None, progress=None):
    """``(whether it is an error, the text)`` of one call of a tool."""
    return run_async(called(over_http(url, headers), name, arguments, progress))


def call_and_leave(connection, arguments, began):
    """Ask for a comparison, and leave once it has begun."""

    async def leave():
        asked = asyncio.create_task(called(connection, "compare", arguments))
        assert await asyncio.to_thread(began.wait, 60)
        asked.cancel()
        await asyncio.wait([asked], timeout=30)

    run_async(leave())


def test_an_agent_reads_what_the_docstrings_say(tools_site):
    tools = {tool["name"]: tool for tool in httpx.get(f"{tools_site}gradio_api/mcp/schema").json()}
    assert set(tools) == {
        "compare",
        "select_only",
        "sweep",
        "inside",
        "horizon",
        "rescue",
        "ask_with",
        "methods",
        "models",
    }
    told = tools["compare"]["inputSchema"]["properties"]
    assert told["budget"]["description"].startswith("Visual tokens to keep, from 1 to all of them")
    assert told["image"]["description"].endswith("was uploaded to this server.")  # to the end, not one line of four
    assert all(parameter["description"] for parameter in told.values())
    for tool in tools.values():
        assert "Returns: " in tool["description"]


def test_an_agent_compares(tools_site, image):
    asked = {"image": data_uri(image), **QUESTION, "methods": ["apet"], "params": {"apet": {"basis_tokens": 5}}}
    failed, text = call(tools_site, "compare", asked)
    assert not failed, text
    comparison = json.loads(text)
    assert [run["method"] for run in comparison["runs"]] == ["full", "apet"]
    assert comparison["request"]["methods"][1]["params"]["basis_tokens"] == 5
    assert "base64" not in text


def test_an_agent_compares_a_method_with_itself(tools_site, image):
    tools = {tool["name"]: tool for tool in httpx.get(f"{tools_site}gradio_api/mcp/schema").json()}
    id, stack, pair = tools["compare"]["inputSchema"]["properties"]["methods"]["items"]["anyOf"]
    assert re.search(stack["pattern"], "divprune+fastv") and not re.search(stack["pattern"], "divprune+nonsense")
    assert "apet" in id["enum"] and (pair["type"], pair["minItems"], pair["maxItems"]) == ("array", 2, 2)
    methods = ["apet", ["apet", {"mode": "official"}], "divprune+fastv"]
    failed, text = call(tools_site, "compare", {"image": data_uri(image), **QUESTION, "methods": methods})
    assert not failed, text
    runs = json.loads(text)["runs"]
    assert [run["variant"] for run in runs] == ["", "", "mode=official", ""]
    assert runs[-1]["method"] == "divprune+fastv" and len(runs[-1]["stages"]) == 2


def test_an_agent_selects_without_an_answer(tools_site, image):
    failed, text = call(tools_site, "select_only", {"image": data_uri(image), **QUESTION})
    assert not failed, text
    (random,) = json.loads(text)["methods"]
    assert len(random["stages"][-1]["kept"]) == QUESTION["budget"]


def test_an_upload_is_named_by_its_address(tools_site, image):
    (path,) = httpx.post(f"{tools_site}gradio_api/upload", files={"files": image.read_bytes()}).json()
    failed, text = call(tools_site, "compare", {"image": f"{tools_site}gradio_api/file={path}", **QUESTION})
    assert not failed, text


@pytest.mark.parametrize(
    "image_of", [lambda path: path, lambda path: f"file://{path}", lambda path: "http://127.0.0.1:9/image.png",
                   lambda path: f"http://127.0.0.1:9/gradio_api/file={path}",
                   lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}}, lambda path: "data:;,x"],
)  # fmt: skip
def test_an_agent_reaches_no_other_file(tools_site, image, image_of):
    before = set(storage().folder.rglob(image.name))  # other tests send files of this name
    failed, text = call(tools_site, "compare", {"image": image_of(str(image)), **QUESTION})
    assert failed
    assert "Traceback" not in text
    assert set(storage().folder.rglob(image.name)) <= before


@pytest.mark.parametrize("where", ["params", "setting", "methods"])
def test_no_argument_makes_the_server_read_a_file(tools_site, tmp_path, image, where):
    """gradio's own tool server uploads to itself whatever file of the machine an argument names."""
    secret = tmp_path / f"secret-{where}.txt"
    secret.write_text("secret")
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    changed = {"params": {"params": file}, "setting": {"params": {"apet": file}}, "methods": {"methods": [file]}}
    failed, _ = call(tools_site, "compare", {"image": data_uri(image), **QUESTION, **changed[where]})
    assert failed
    assert not list(storage().folder.rglob(secret.name))


def test_what_agents_send_is_kept_where_it_is_counted(tools_site, image):
    call(tools_site, "compare", {"image": data_uri(image), **QUESTION})
    beside = [path for path in storage().folder.parent.glob("*/*.png") if storage().folder not in path.parents]
    assert beside == []


@pytest.mark.parametrize("over", [over_http, over_sse])
def test_the_run_of_an_agent_that_left_ends(endless, image, over):
    page, runs = endless
    call_and_leave(over(page.local_url), {"image": data_uri(image), **QUESTION}, runs.began)
    assert runs.ended.wait(30)


@pytest.mark.parametrize(
    "trusted, forwarded, address",
    [("", "8.8.8.8", "127.0.0.1"), ("1", "8.8.8.8", "8.8.8.8"), ("1", "9.9.9.9, 8.8.4.4", "8.8.4.4")],
)
def test_an_agent_has_the_address_that_it_came_from(endless, image, monkeypatch, trusted, forwarded, address):
    page, runs = endless
    monkeypatch.setenv("TOKVIZ_TRUST_PROXY", trusted)
    seen, given = [], []
    enter, uploaded = page.act.line.enter, storage().uploaded
    monkeypatch.setattr(page.act.line, "enter", lambda caller, at: (seen.append(caller), enter(caller, at))[1])
    monkeypatch.setattr(storage(), "uploaded", lambda who, paths: (given.append(who), uploaded(who, paths))[1])
    headers = {"X-Forwarded-For": forwarded}
    call_and_leave(over_http(page.local_url, headers), {"image": data_uri(image), **QUESTION}, runs.began)
    assert (seen, given) == ([f"program {address}"], [address])
    assert runs.ended.wait(30)


def test_an_agent_reads_the_sentence_of_an_error(tools_site, image):
    failed, text = call(tools_site, "compare", {"image": data_uri(image), **QUESTION, "question": ""})
    assert failed
    assert text[0].isalpha() and text.endswith("."), text  # no quotation marks, no name of an exception


def test_an_agent_that_asks_hears_that_its_call_goes_on(tools_site, image):
    heard = []

    async def progress(*told):
        heard.append(told)

    failed, text = call(tools_site, "compare", {"image": data_uri(image), **QUESTION}, progress=progress)
    assert not failed, text
    assert heard[0] == (0.0, None, "Working")


STRAY_THREAD = """import runpy, threading
threading.Thread(target=threading.Event().wait).start()
runpy.run_path("app.py", run_name="__main__")"""


def test_the_server_ends_when_it_is_told(tmp_path, image):
    """While agents wait, and though a library has left a thread that never ends."""
    port, root = free_port(), Path(__file__).resolve().parents[2]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "PORT": str(port), "TOKVIZ_MODEL": "tokviz-tiny"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", STRAY_THREAD], cwd=root, env=environment, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}/"
    long = {"image": data_uri(image), **QUESTION, "max_new_tokens": 64, "repeats": 100}

    def told():
        return (tmp_path / "log").read_text()

    async def ask_and_tell():
        deadline = time.monotonic() + 120
        while True:
            try:
                async with httpx.AsyncClient() as web:
                    assert (await web.get(f"{url}config", timeout=30)).status_code == 200
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline, told()
                await asyncio.sleep(0.2)
        asked = [asyncio.create_task(called(over_http(url), "compare", long)) for _ in range(4)]
        await asyncio.sleep(1.5)
        assert not any(task.done() for task in asked)
        server.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.wait, 60)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return code

    try:
        assert run_async(ask_and_tell()) == 0
        assert not list(tmp_path.glob("tokviz-*"))
        assert "Traceback" not in told()
    finally:
        server.kill()
        server.wait()


def test_what_an_agent_sends_counts_as_the_agents(tools_site, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKVIZ_TRUST_PROXY", "1")
    image = tmp_path / "new.png"  # what was there when a page was built is the server's own
    Image.new("RGB", (91, 83), "teal").save(image)
    asked = {"image": data_uri(image), **QUESTION}
    failed, text = call(tools_site, "compare", asked, {"x-forwarded-for": "9.9.9.3"})
    assert not failed, text
    own = [path for path, file in storage()._files.items() if "9.9.9.3" in file.owners]
    assert image.read_bytes() in [path.read_bytes() for path in own]


def test_it_can_be_turned_off(monkeypatch):
    assert serve_agents()
    monkeypatch.setenv("GRADIO_MCP_SERVER", "False")
    assert not serve_agents()
