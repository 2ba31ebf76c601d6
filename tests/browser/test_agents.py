"""The endpoints as tools of agents: what an agent reads of them, what it gets, and what it must not reach."""

import base64
import json
import socket

import httpx
import pytest
from own_loop import run_async
from PIL import Image

pytest.importorskip("mcp")

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from tokviz.serving.storage import storage
from tokviz.ui.agents import serve_agents

QUESTION = {"question": "what color is the circle ?", "methods": ["random"], "budget": 16}


@pytest.fixture(scope="module")
def tools_site(site, examples):
    from tokviz.ui.build import build_page, launch_settings

    page = build_page(examples=examples)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True,
        mcp_server=serve_agents(), **launch_settings(),
    )  # fmt: skip
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("agents") / "plain.png"
    Image.linear_gradient("L").resize((260, 200)).convert("RGB").save(path)
    return path


def data_uri(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def call(url, name, arguments, headers=None):
    """``(whether it is an error, the text)`` of one call of a tool."""

    async def session():
        connected = streamablehttp_client(f"{url}gradio_api/mcp/", headers=headers)
        async with connected as (read, write, _), ClientSession(read, write) as s:
            await s.initialize()
            result = await s.call_tool(name, arguments)
            return result.isError, "".join(part.text for part in result.content)

    return run_async(session())


def test_an_agent_reads_what_the_docstrings_say(tools_site):
    tools = {tool["name"]: tool for tool in httpx.get(f"{tools_site}gradio_api/mcp/schema").json()}
    assert set(tools) == {"compare", "list_methods", "list_models"}
    told = tools["compare"]["inputSchema"]["properties"]
    assert told["budget"]["description"].startswith("Visual tokens to keep, from 1 to all of them")
    assert told["picture"]["description"].endswith("serves an upload under.")  # to the end, not one line of four
    assert all(parameter["description"] for parameter in told.values())
    for tool in tools.values():
        assert "Returns: " in tool["description"]


def test_an_agent_compares(tools_site, picture):
    asked = {"picture": data_uri(picture), **QUESTION, "methods": ["apet"], "params": {"apet": {"basis_tokens": 5}}}
    failed, text = call(tools_site, "compare", asked)
    assert not failed, text
    comparison = json.loads(text)
    assert [run["method"] for run in comparison["runs"]] == ["full", "apet"]
    assert comparison["request"]["params"]["apet"]["basis_tokens"] == 5
    assert "base64" not in text


def test_an_upload_is_named_by_its_address(tools_site, picture):
    (path,) = httpx.post(f"{tools_site}gradio_api/upload", files={"files": picture.read_bytes()}).json()
    failed, text = call(tools_site, "compare", {"picture": f"{tools_site}gradio_api/file={path}", **QUESTION})
    assert not failed, text


@pytest.mark.parametrize(
    "picture_of", [lambda path: path, lambda path: f"file://{path}", lambda path: "http://127.0.0.1:9/picture.png",
                   lambda path: f"http://127.0.0.1:9/gradio_api/file={path}",
                   lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}}, lambda path: "data:;,x"],
)  # fmt: skip
def test_an_agent_reaches_no_other_file(tools_site, picture, picture_of):
    failed, text = call(tools_site, "compare", {"picture": picture_of(str(picture)), **QUESTION})
    assert failed
    assert "Traceback" not in text
    assert not list(storage().folder.rglob(picture.name))


@pytest.mark.parametrize("where", ["params", "setting", "methods"])
def test_no_argument_makes_the_server_read_a_file(tools_site, tmp_path, picture, where):
    """gradio's own tool server uploads to itself whatever file of the machine an argument names."""
    secret = tmp_path / f"secret-{where}.txt"
    secret.write_text("secret")
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    changed = {"params": {"params": file}, "setting": {"params": {"apet": file}}, "methods": {"methods": [file]}}
    failed, _ = call(tools_site, "compare", {"picture": data_uri(picture), **QUESTION, **changed[where]})
    assert failed
    assert not list(storage().folder.rglob(secret.name))


def test_what_agents_send_is_kept_where_it_is_counted(tools_site, picture):
    call(tools_site, "compare", {"picture": data_uri(picture), **QUESTION})
    beside = [path for path in storage().folder.parent.glob("*/*.png") if storage().folder not in path.parents]
    assert beside == []


def test_what_an_agent_sends_counts_as_the_agents(tools_site, picture, monkeypatch):
    monkeypatch.setenv("TOKVIZ_TRUST_PROXY", "1")
    asked = {"picture": data_uri(picture), **QUESTION}
    failed, text = call(tools_site, "compare", asked, {"x-forwarded-for": "9.9.9.3"})
    assert not failed, text
    own = [path for path, owners in storage()._owners.items() if "9.9.9.3" in owners]
    assert picture.read_bytes() in [path.read_bytes() for path in own]


def test_it_can_be_turned_off(monkeypatch):
    assert serve_agents()
    monkeypatch.setenv("GRADIO_MCP_SERVER", "False")
    assert not serve_agents()
