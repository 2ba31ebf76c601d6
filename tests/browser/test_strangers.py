"""The served page in the hands of strangers: files that are not theirs, foreign names, floods, callers that leave."""

import asyncio
import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from own_loop import run_async
from paced import PacedRunner
from PIL import Image
from synthetic import comparison

from tokviz.errors import BadInput
from tokviz.serving.storage import NOT_OURS, storage

META = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def client(site):
    with httpx.Client(base_url=site.rstrip("/"), timeout=60) as http:
        yield http


def call(client, name, data):
    """``(event, result)`` of a named endpoint."""
    joined = client.post(f"/gradio_api/call/{name}", json={"data": data})
    assert joined.status_code == 200, joined.text
    return result(client, name, joined.json()["event_id"])


def result(client, name, event_id):
    text = client.get(f"/gradio_api/call/{name}/{event_id}").text
    kind, data = [part.split("\n") for part in text.strip().split("\n\n") if "heartbeat" not in part][-1][:2]
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def private(client, api_name, inputs):
    """An event of the page itself, called with inputs of one's own choice; a refusal's text, or the output."""
    config = client.get("/config").json()
    index = next(dep["id"] for dep in config["dependencies"] if dep["api_name"] == api_name)
    session = uuid.uuid4().hex
    body = {"data": inputs(config), "fn_index": index, "session_hash": session}
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and '"process_completed"' in line:
                return line
    raise AssertionError("no answer")


def upload(client, path):
    with open(path, "rb") as file:
        return client.post("/gradio_api/upload", files={"files": (Path(path).name, file)})


def compared(image):
    return [image, "what color is it ?", ["apet"], 64, "published", {}, 0, 8, 1, "", "", None, None]


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "page.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def test_no_file_of_the_server_is_read_on_a_clients_word(client, secret, tmp_path):
    """S1: with an object without gradio's mark any image of the disk came back inside the Comparison."""
    missing = tmp_path / "missing.png"
    url = f"{client.base_url}/favicon.ico"
    folder = storage().folder
    link = folder / "link.png"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    shapes = [
        lambda path: {"path": path}, lambda path: {"path": path, **META}, lambda path: {"path": path, "url": path},
        lambda path: {"path": path, "is_stream": True}, lambda path: {"path": path, "meta": None},
        lambda path: {"path": os.path.relpath(path)}, lambda path: {"path": f"{folder}/../{path}"},
    ]  # fmt: skip
    answers = set()
    for path in map(str, (secret, missing, Path(os.__file__), "/etc/passwd", link, url, f"{folder}")):
        for shape in shapes:
            kind, answer = call(client, "compare", compared(shape(path)))
            assert kind == "error", (path, answer)
            answers.add(json.dumps(answer, sort_keys=True))
    assert len(answers) == 1 and NOT_OURS in answers.pop()  # what exists and what does not are answered alike
    for odd in (str(secret), [str(secret)], [{"path": str(secret)}], {"path": [str(secret)]}, {"path": {"path": "a"}}):
        kind, answer = call(client, "compare", compared(odd))
        assert kind == "error" and "base64" not in json.dumps(answer)


def test_files_nested_in_other_values_are_refused_too(client, secret, site):
    """Before: gradio fetched any address named inside the JSON of ``params`` whole."""
    for path in (str(secret), f"{site}favicon.ico"):
        nested = compared(None)
        nested[5] = {"apet": {"mode": [{"path": path, **META}]}}
        kind, answer = call(client, "compare", nested)
        assert kind == "error" and NOT_OURS in json.dumps(answer)


@pytest.mark.parametrize("api_name", ["check_media", "open_file"])
def test_the_pages_own_events_refuse_foreign_files(client, secret, api_name):
    for value in ({"path": str(secret)}, {"path": str(secret), **META}, str(secret), [{"path": str(secret)}]):

        def inputs(config, value=value):
            return [value] if api_name == "check_media" else [value, "tokviz-tiny"]

        line = private(client, api_name, inputs)
        assert '"success":false' in line.replace(" ", ""), line
        assert "base64" not in line


def test_an_uploaded_image_is_answered(client, paced, secret):
    (path,) = upload(client, secret).json()
    assert Path(path).is_relative_to(storage().folder)
    kind, answer = call(client, "compare", compared({"path": path, **META}))
    assert kind == "complete" and answer[0]["runs"]
    assert Path(paced.requests[-1].image) == Path(path)


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Origin": "https://evil.example"}, {"Origin": "null"}],
)
def test_foreign_names_and_pages_are_refused(client, headers):
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/upload"), ("GET", "/gradio_api/info")):
        assert client.request(method, path, headers=headers).status_code == 403
    assert client.get("/config", headers={"Origin": str(client.base_url)}).status_code == 200


def test_addresses_are_not_fetched(client, site):
    for path in (f"/gradio_api/file={site}favicon.ico", f"/gradio_api/proxy={site}favicon.ico"):
        assert client.get(path).status_code == 404


def test_values_that_are_no_numbers_get_a_sentence(client, secret):
    (path,) = upload(client, secret).json()
    for place, value, sentence in (
        (3, "NaN", "where a number is expected"), (6, "Infinity", "where a number is expected"),
        (3, "true", "must be a whole number"), (3, "3.5", "whole number"), (2, '[["apet"]]', "must be a list of ids"),
        (2, '{"a": 1}', "must be a list of ids"), (5, "[1]", "params must be an object"), (10, "[]", "must be text"),
    ):  # fmt: skip
        parts = [json.dumps(part) for part in compared({"path": path, **META})]
        parts[place] = value
        body = f'{{"data": [{", ".join(parts)}]}}'
        joined = client.post("/gradio_api/call/compare", content=body, headers={"content-type": "application/json"})
        kind, answer = result(client, "compare", joined.json()["event_id"])
        text = json.dumps(answer)
        assert kind == "error" and ("went wrong" not in text), (value, text)
        assert sentence in text or "Value:" in text, (value, text)


def test_cheap_calls_are_served_while_many_runs_wait(examples, client, paced, secret):
    """S6: 24 waiting comparisons gave everybody else 503."""
    (path,) = upload(client, secret).json()
    paced.hold(0)
    try:
        events = [
            client.post("/gradio_api/call/compare", json={"data": compared({"path": path, **META})}).json()["event_id"]
            for _ in range(30)
        ]
        with ThreadPoolExecutor(30) as pool:
            waiting = [pool.submit(result, httpx.Client(base_url=client.base_url, timeout=60), "compare", event)
                       for event in events]  # fmt: skip
            for _ in range(3):
                assert call(client, "methods", [])[0] == "complete"
            assert upload(client, secret).status_code == 200
            assert '"success":true' in private(client, "check_media", lambda config: [{"path": path, **META}])
            assert '"success":true' in private(client, "lambda", lambda config: [{"chosen": 0}, "tokviz-tiny"])
            deadline = time.monotonic() + 20
            while sum(future.done() for future in waiting) < 18 and time.monotonic() < deadline:
                time.sleep(0.05)
            refused = [future.result() for future in waiting if future.done()]
            paced.release()
            answered = [future.result() for future in waiting]
    finally:
        paced.release()
    assert len(refused) == 18 and all("runs of yours are waiting" in json.dumps(answer) for _, answer in refused)
    assert sum(kind == "complete" for kind, _ in answered) == 12


def test_a_run_whose_caller_left_is_stopped(client, paced, secret, monkeypatch):
    from tokviz.serving import callers

    monkeypatch.setattr(callers, "RETURN_S", 0.5)
    monkeypatch.setattr("tokviz.serving.queue.BEAT_S", 0.2)
    (path,) = upload(client, secret).json()
    paced.hold(0)
    try:
        before = len(paced.requests)
        event = client.post("/gradio_api/call/compare", json={"data": compared({"path": path, **META})}).json()
        with client.stream("GET", f"/gradio_api/call/compare/{event['event_id']}"):
            deadline = time.monotonic() + 10
            while len(paced.requests) == before and time.monotonic() < deadline:
                time.sleep(0.02)
        assert paced.stops[-1].wait(15)
    finally:
        paced.release()


def test_an_upload_that_is_cut_leaves_nothing(client, site):
    import socket

    host, port = client.base_url.host, client.base_url.port
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 5000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        'Content-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    )
    before = set(storage().folder.iterdir())
    with socket.create_connection((host, port)) as connection:
        connection.sendall(head.encode() + b"x" * 3_000_000)
        deadline = time.monotonic() + 10
        while set(storage().folder.iterdir()) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert set(storage().folder.iterdir()) != before
    deadline = time.monotonic() + 10
    while set(storage().folder.iterdir()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(storage().folder.iterdir()) == before


def owned(address):
    """Names of the files in the storage that count as a visitor's."""
    return {path.name for path, file in storage()._files.items() if address in file.owners}


def test_what_the_page_makes_counts_as_the_visitors_who_asked(client, tmp_path, monkeypatch):
    """Queued events run in tasks and threads of their own: the address has to get there."""
    monkeypatch.setenv("TOKVIZ_TRUST_PROXY", "1")
    (tmp_path / "opened.json").write_text(comparison(307, 211).to_json())
    client.headers["x-forwarded-for"] = "9.9.9.1"
    (path,) = upload(client, tmp_path / "opened.json").json()
    assert owned("9.9.9.1") == {"opened.json"}
    client.headers["x-forwarded-for"] = "9.9.9.2"
    line = private(client, "open_file", lambda config: [{"path": path, **META}, "tokviz-tiny"])
    assert '"success":true' in line.replace(" ", ""), line
    assert any(name.endswith(".json") for name in owned("9.9.9.2")) and any(
        name.endswith(".png") for name in owned("9.9.9.2")
    )
    assert owned("9.9.9.1") == {"opened.json"}


def test_an_upload_has_one_file_not_a_thousand(client):
    before = set(storage().folder.iterdir())
    refused = client.post("/gradio_api/upload", files=[("files", (f"{n}.txt", str(n).encode())) for n in range(50)])
    assert refused.status_code == 413 and "at most 8 files" in refused.json()["detail"]
    assert set(storage().folder.iterdir()) == before


def values_in(value):
    """How many values that hold no others there are in a JSON value."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    return 1 if parts is None else sum(map(values_in, parts))


def test_the_page_costs_little_and_its_config_holds_plain_data(site, examples, paced):
    """S2: two leaked triggers made every load copy the whole page: 1.3 to 1.7 s of CPU each."""
    from gradio.utils import safe_deepcopy

    from tokviz.ui.build import build_page

    page = build_page(paced, load=lambda spec: (), examples=examples)
    config = page.get_config_file()
    odd = []

    def look(value, where):
        if isinstance(value, dict):
            for key, entry in value.items():
                look(entry, f"{where}.{key}")
        elif isinstance(value, list | tuple):
            for entry in value:
                look(entry, where)
        elif not (value is None or isinstance(value, str | int | float | bool)):
            odd.append(f"{where}: {type(value).__name__}")

    look([component for component in config["components"] if component["type"] != "state"], "components")
    look(config["dependencies"], "dependencies")
    assert odd == []
    assert len(json.dumps(config, default=str)) < 1_500_000
    # gradio's page copies every value by itself, several times at every press: 10,000 of them took most of a second.
    sizes = {each["props"].get("elem_id"): values_in(each) for each in config["components"]}
    assert max(sizes.values()) < 1000, sizes
    began = time.process_time()
    safe_deepcopy(config["components"])
    assert time.process_time() - began < 0.5


def test_opened_sessions_do_not_stay_in_memory(site, examples, tmp_path):
    """S3: a session file of 24 MB, opened under six session ids, took 1.6 GB for two hours."""
    from gradio.state_holder import StateHolder

    from tokviz.ui.blocks import SESSIONS
    from tokviz.ui.build import build_page, launch_settings

    page = build_page(PacedRunner(), load=lambda spec: (), examples=examples)
    assert launch_settings()["state_session_capacity"] == SESSIONS <= 1000
    page.state_session_capacity = SESSIONS
    states = StateHolder()
    states.set_blocks(page)
    view = page.heavy[0]
    for number in range(6):
        states[f"tab {number}"]._update_value_in_config(view._id, {"lanes": ["x" * 1000] * 1000})
    run_async(page.forget())
    held = [states[f"tab {number}"].config_values[view._id]["props"].get("value") for number in range(6)]
    assert held == [None] * 6
    assert not any(getattr(block, "stateful", False) for block in page.blocks.values())


def test_a_caller_that_never_listens_does_not_stop_the_others(site, client, monkeypatch, secret):
    """Its box was taken away while its events waited, and gradio's queue ended for everybody with a KeyError."""
    from tokviz.serving import callers
    from tokviz.ui import blocks

    async def slow(*values):
        await asyncio.sleep(0.1)
        raise BadInput("Read in vain.")

    monkeypatch.setattr(callers, "ARRIVE_S", 0.2)
    monkeypatch.setattr(blocks, "TIDY_EVERY_S", 0.05)
    monkeypatch.setattr("tokviz.ui.handlers.Handlers.open_session", slow)
    (path,) = upload(client, secret).json()
    config = client.get("/config").json()
    index = next(dep["id"] for dep in config["dependencies"] if dep["api_name"] == "open_file")
    session = uuid.uuid4().hex
    body = {"data": [{"path": path, **META}, "tokviz-tiny"], "fn_index": index, "session_hash": session}
    for _ in range(24):  # two at once: the last is answered after 1.2 s, its box is gone after 0.3
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert call(client, "methods", [])[0] == "complete"
        time.sleep(0.2)


def test_results_that_nobody_fetches_are_dropped_though_a_connection_is_open(monkeypatch):
    from tokviz.serving.callers import LISTENERS
    from tokviz.ui import blocks
    from tokviz.ui.build import build_page

    page = build_page(PacedRunner(), load=lambda spec: (), examples=[])
    messages = page._queue.pending_messages_per_session
    LISTENERS.arrived("open but not read")

    async def fill():
        for key in ("open but not read", "read"):
            messages[key] = None  # gradio puts a queue of its own here
            messages[key].put_nowait("a result of 60 MB")
        messages["gone"].put_nowait("nobody's")
        monkeypatch.setattr(blocks, "FETCH_S", 0.2)
        await asyncio.sleep(0.3)
        messages["read"].get_nowait()
        messages["read"].put_nowait("the next")
        await page.forget()
        del messages["never there"]

    run_async(fill())
    assert list(messages) == ["read"]


def test_a_figure_is_that_of_what_is_shown_whoever_else_was_here(site, client, examples):
    """With 500 other visitors a tab's state was forgotten, and its figure was silently that of the first example."""
    lines = [
        private(client, "figure", lambda config, key=key: [key, "kept", None, "", "", 0, ""])
        for key in ("example-1", "example-0", "example-1")
    ]
    named = [json.loads(line.removeprefix("data:"))["output"]["data"][0] for line in lines]
    files = [[file["path"] for file in update["value"]] for update in named]
    images = [Path(paths[0]).read_bytes() for paths in files]
    assert images[0] == images[2] != images[1]
    line = private(client, "figure", lambda config: ["0" * 64, "kept", None, "", "", 0, ""])
    assert "nothing to draw" in line


def test_many_checks_of_one_caller_wait_for_each_other_and_the_rest_is_refused(examples):
    from tokviz.serving.queue import Shares

    shares, working, most = Shares(at_once=2, most=5), [], []

    async def check(caller):
        try:
            async with shares.turn(caller):
                working.append(caller)
                most.append(working.count(caller))
                await asyncio.sleep(0.1)
                working.remove(caller)
        except BadInput:
            return "refused"
        return "done"

    async def flood():
        return await asyncio.gather(*(check(caller) for caller in ["me"] * 9 + ["you"]))

    outcomes = run_async(flood())
    assert outcomes == ["done"] * 5 + ["refused"] * 4 + ["done"]
    assert max(most) == 2
    assert run_async(check("me")) == "done"
