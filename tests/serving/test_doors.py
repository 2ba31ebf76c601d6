"""Who may come in, asked of the middleware alone."""

import json
import threading

import pytest
import uvicorn
from own_loop import run_async

from tokviz.serving import doors
from tokviz.serving.callers import ARRIVE_S, RETURN_S, Listeners, address_of, distrust_forwarded
from tokviz.serving.doors import Doors, host_is_ours, origin_is_ours
from tokviz.serving.storage import FILES_OF_REQUEST, Storage


def ask(
    app, path="/", method="GET", headers=(), body=b"", client=("127.0.0.1", 5), server=("127.0.0.1", 7860), query=b""
):
    """``(status, headers, body)`` of one request."""
    sent, bodies = [], [body] if isinstance(body, bytes) else list(body)
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query, "client": client, "server": server,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }  # fmt: skip

    async def receive():
        part = bodies.pop(0) if bodies else b""
        return {"type": "http.request", "body": part, "more_body": bool(bodies)}

    async def send(message):
        sent.append(message)

    run_async(app(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def page(answer=b"fine", status=200):
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    return app


LOCAL, LAN = "127.0.0.1", "192.168.3.4"


@pytest.mark.parametrize(
    ("host", "server", "ours"),
    [
        ("127.0.0.1:7860", LOCAL, True), ("localhost:7860", LOCAL, True), ("[::1]:7860", "::1", True),
        ("LOCALHOST", LOCAL, True), ("127.0.0.2", LOCAL, True),
        ("evil.example", LOCAL, False), ("evil.example:7860", LAN, False), ("localhost.evil.example", LOCAL, False),
        ("127.0.0.1.evil.example", LOCAL, False), ("10.1.2.3", LOCAL, False), ("a b", LOCAL, False),
        ("[", LOCAL, False), ("", LOCAL, False), ("127.0.0.1/evil", LOCAL, False),
        ("localhost#evil.example", LOCAL, False), ("evil.example@127.0.0.1", LOCAL, False),
        (LAN, LAN, True), ("203.0.113.9:80", "172.17.0.2", True),
        ("demo.example", LOCAL, True), ("user-tokviz.hf.space", "10.0.0.1", True), ("demo.example.", LOCAL, True),
    ],
)  # fmt: skip
def test_a_server_is_asked_under_its_own_names_only(monkeypatch, host, server, ours):
    monkeypatch.setenv("TOKVIZ_HOSTS", "demo.example, other.example")
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setenv("SPACE_HOST", "user-tokviz.hf.space")
    assert host_is_ours(host, server) == ours
    status, _, body = ask(Doors(page()), headers=[("host", host)], server=(server, 7860))
    assert status == (200 if ours else 403)
    assert ours or "TOKVIZ_HOSTS" in json.loads(body)["detail"]


def test_a_space_is_asked_under_its_proxies_names_too_but_not_from_other_sites(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "user/tokviz")
    monkeypatch.setenv("SPACE_HOST", "user-tokviz.hf.space")
    assert host_is_ours("tokviz.internal:7860", "10.0.0.1") and not host_is_ours("a b", "10.0.0.1")
    assert origin_is_ours("https://user-tokviz.hf.space", "tokviz.internal:7860")
    assert not origin_is_ours("https://evil.example", "tokviz.internal:7860")


@pytest.mark.parametrize(
    ("origin", "host", "ours"),
    [
        ("http://127.0.0.1:7860", "127.0.0.1:7860", True), ("http://localhost:7860", "127.0.0.1:7860", True),
        ("http://localhost:3000", "127.0.0.1:7860", False), ("https://evil.example", "127.0.0.1:7860", False),
        ("http://evil.example@127.0.0.1:7860", "127.0.0.1:7860", False),
        ("null", "127.0.0.1:7860", False), ("", "127.0.0.1:7860", False), ("http://[", "127.0.0.1:7860", False),
        ("file://", "127.0.0.1:7860", False), ("https://demo.example", "127.0.0.1:7860", True),
        ("https://allowed.example", "127.0.0.1:7860", True), ("http://0.0.0.0:7860", "127.0.0.1:7860", False),
    ],
)  # fmt: skip
def test_only_pages_of_its_own_may_ask(monkeypatch, origin, host, ours):
    monkeypatch.setenv("TOKVIZ_HOSTS", "demo.example")
    monkeypatch.setenv("TOKVIZ_ORIGINS", "https://allowed.example")
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert origin_is_ours(origin, host) == ours
    status, *_ = ask(Doors(page()), "/gradio_api/upload", "POST", [("host", host), ("origin", origin)])
    assert status == (200 if ours else 403)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/file=http://127.0.0.1:1/a.png", "/gradio_api/file/ftp://a/b",
        "/gradio_api/file= https://a/b", "/gradio_api/file=file:///etc/passwd", "/gradio_api/component_server",
        "/gradio_api/deep_link", "/gradio_api/process_recording", "/gradio_api/vibe-edit", "/monitoring/summary",
        "/gradio_api/stream/abc", "/gradio_api/runs", "/gradio_api/custom_component/a/b/c/d", "/pwa_icon/10000",
        "/pwa_icon/193", "/pwa_icon/1920", "/openapi.json", "/docs", "/gradio_api/token",
    ],
)  # fmt: skip
def test_routes_that_fetch_or_reveal_are_closed(path):
    assert ask(Doors(page()), path)[0] == 404


def test_the_pages_own_routes_are_open_and_nothing_is_sniffed():
    for path in ("/", "/config", "/assets/a.js", "/gradio_api/file=/tmp/a:b.png", "/theme.css", "/gradio_api/info",
                 "/pwa_icon", "/pwa_icon/192", "/gradio_api/openapi.json"):  # fmt: skip
        status, headers, body = ask(Doors(page()), path, headers=[("host", "localhost")])
        assert (status, body, headers[b"x-content-type-options"]) == (200, b"fine", b"nosniff")


def test_requests_are_bounded_whether_they_say_their_length_or_not(monkeypatch):
    monkeypatch.setattr(doors, "LARGEST_BODY", 100)
    app = Doors(page())
    said = ask(app, "/gradio_api/queue/join", "POST", [("content-length", "101")])
    unsaid = ask(app, "/gradio_api/queue/join", "POST", [], [b"x" * 60, b"x" * 60])
    assert said[0] == unsaid[0] == 413
    assert ask(app, "/gradio_api/queue/join", "POST", [], [b"x" * 60, b"x" * 30])[0] == 200


class Queue:
    def __init__(self):
        self.events = set()

    def pending(self):
        return self.events

    def key(self, event_id):
        return f"session of {event_id}"


def test_one_caller_cannot_fill_the_queue_of_events():
    """Neither with events that wait nor with answers that it never fetches."""
    queue, numbers = Queue(), iter(range(1000))

    async def joined(scope, receive, send):
        event = f"e{next(numbers)}"
        queue.events.add(event)
        await page(json.dumps({"event_id": event}).encode())(scope, receive, send)

    app = Doors(joined, lambda app: queue, Listeners())
    mine = [ask(app, "/gradio_api/queue/join", "POST", client=("10.0.0.1", 1))[0] for _ in range(doors.EVENTS_OF_ONE)]
    refused = ask(app, "/gradio_api/queue/join", "POST", client=("10.0.0.1", 1))
    assert set(mine) == {200} and refused[0] == 429 and "please wait" in json.loads(refused[2])["detail"]
    assert ask(app, "/gradio_api/call/compare", "POST", client=("10.0.0.2", 1))[0] == 200
    queue.events.remove("e0")
    assert ask(app, "/gradio_api/queue/join", "POST", client=("10.0.0.1", 1))[0] == 200


def test_an_event_that_there_is_not_is_a_sentence():
    async def unknown(scope, receive, send):
        raise KeyError(10**30)

    status, _, body = ask(Doors(unknown, lambda app: Queue()), "/gradio_api/queue/join", "POST")
    assert status == 404 and "no such event" in json.loads(body)["detail"]


def test_it_is_known_who_still_listens():
    now = [0.0]
    listeners = Listeners(lambda: now[0])
    app = Doors(page(b'{"event_id": "e"}'), lambda app: Queue(), listeners)
    ask(app, "/gradio_api/call/compare", "POST")
    assert not listeners.is_gone("session of e")
    now[0] = ARRIVE_S + 1
    assert listeners.is_gone("session of e")  # nobody ever came for the result
    seen = []

    async def streaming(scope, receive, send):
        seen.append(listeners.is_gone("session of e"))
        await page()(scope, receive, send)

    ask(Doors(streaming, lambda app: Queue(), listeners), "/gradio_api/call/compare/e")
    ask(Doors(streaming, lambda app: Queue(), listeners), "/gradio_api/queue/data", query=b"x=1&session_hash=tab")
    now[0] += RETURN_S - 1
    assert seen[0] is False and not listeners.is_gone("session of e") and not listeners.is_gone("tab")
    now[0] += 2
    assert listeners.is_gone("session of e") and listeners.is_gone("tab")


def test_the_address_behind_a_proxy_is_the_one_that_the_proxy_saw(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    headers = {"x-forwarded-for": "1.1.1.1, 8.8.8.8, 10.0.0.7, nonsense"}
    assert address_of(("10.0.0.7", 1), headers) == "10.0.0.7"
    monkeypatch.setenv("TOKVIZ_TRUST_PROXY", "1")
    assert address_of(("10.0.0.7", 1), headers) == "8.8.8.8"
    assert address_of(("10.0.0.7", 1), {}) == "10.0.0.7" and address_of(None, {}) == ""
    mine = {address_of((f"2606:4700:10:20::{part}", 1), {}) for part in ("1", "abcd:1")}
    assert mine == {"2606:4700:10:20::"} and address_of(("2606:4700:10:21::1", 1), {}) not in mine
    assert address_of(("::1", 1), {}) == "::1"


@pytest.mark.parametrize("proxy", ["", "TOKVIZ_TRUST_PROXY", "SPACE_ID"])
def test_a_caller_on_this_machine_cannot_write_its_own_address(monkeypatch, proxy):
    """uvicorn believes what 127.0.0.1 forwards unless it is told otherwise."""
    for name in ("TOKVIZ_TRUST_PROXY", "SPACE_ID"):
        monkeypatch.setenv(name, "1" if name == proxy else "")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "of before")  # for monkeypatch to put back
    monkeypatch.delenv("FORWARDED_ALLOW_IPS")
    distrust_forwarded()
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["client"][0])
        await page()(scope, receive, send)

    config = uvicorn.Config(app, log_config=None)
    config.load()
    for client in ("127.0.0.1", "::1"):
        ask(config.loaded_app, headers=[("x-forwarded-for", "198.51.100.7")], client=(client, 5))
    assert seen == (["198.51.100.7"] * 2 if proxy else ["127.0.0.1", "::1"])


def test_an_operator_says_whose_headers_count(monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1")
    distrust_forwarded()
    assert uvicorn.Config(page()).forwarded_allow_ips == "10.0.0.1"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    kept = Storage(tmp_path)
    monkeypatch.setattr(doors, "storage", lambda: kept)
    return kept


@pytest.mark.parametrize(("n_files", "status"), [(1, 200), (FILES_OF_REQUEST, 200), (FILES_OF_REQUEST + 1, 413)])
def test_an_upload_of_many_files_is_refused(kept, n_files, status):
    paths = [kept.folder / f"{number}.png" for number in range(n_files)]
    for path in paths:
        path.touch()
    answer = json.dumps([str(path) for path in paths]).encode()
    told, _, body = ask(Doors(page(answer)), "/gradio_api/upload", "POST")
    assert told == status
    assert (body == answer) if status == 200 else ("at most" in json.loads(body)["detail"])
    assert [path.exists() for path in paths] == [status == 200] * n_files


def test_other_requests_do_not_wait_for_the_disk(kept, monkeypatch):
    threads = {}
    for name in ("make_room", "uploaded"):
        monkeypatch.setattr(kept, name, lambda *_, name=name: threads.update({name: threading.current_thread()}))

    async def app(scope, receive, send):
        threads["loop"] = threading.current_thread()
        await page(b"[]")(scope, receive, send)

    assert ask(Doors(app), "/gradio_api/upload", "POST")[0] == 200
    assert threads.keys() == {"loop", "make_room", "uploaded"}
    assert threads["loop"] not in (threads["make_room"], threads["uploaded"])


@pytest.mark.parametrize("boundary", ["b" * 40, '"b b"'])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_the_parts_of_an_upload_are_counted_before_the_page_writes_them(kept, boundary, step):
    reached = []

    async def app(scope, receive, send):
        more = True
        while more:
            message = await receive()
            reached.append(message["body"])
            more = message["more_body"]
        await page(b"[]")(scope, receive, send)

    delimiter = b"--" + boundary.strip('"').encode()
    head = [("content-type", f"multipart/form-data; boundary={boundary}")]
    for n_parts, status in ((1, 200), (FILES_OF_REQUEST, 200), (FILES_OF_REQUEST + 1, 413), (999, 413)):
        reached.clear()
        form = b"".join(delimiter + b"\r\n\r\nx-\r\n" for _ in range(n_parts)) + delimiter + b"--\r\n"
        body = [form[start : start + step] for start in range(0, len(form), step)]
        assert ask(Doors(app), "/gradio_api/upload", "POST", head, body)[0] == status
        assert b"".join(reached).count(delimiter) <= FILES_OF_REQUEST + 1
