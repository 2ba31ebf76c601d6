"""The server as a process: it ends when it is told to, and takes what visitors left with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_interrupt_ends_the_server_cleanly_even_while_it_is_asked(tmp_path):
    """By SIGINT and a second signal behind it; test_agents.py ends one by SIGTERM."""
    port = _free_port()
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "PORT": str(port), "TOKVIZ_MODEL": "tokviz-tiny"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                assert httpx.get(f"{base}/config", timeout=30).status_code == 200
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.2)
        (folder,) = [path for path in tmp_path.glob("tokviz-*") if path.is_dir()]
        image = next((ROOT / "docs").glob("*.png")).read_bytes()
        (path,) = httpx.post(f"{base}/gradio_api/upload", files={"files": ("a.png", image)}, timeout=30).json()
        assert Path(path).is_relative_to(folder)
        asked = [
            {"path": path, "meta": {"_type": "gradio.FileData"}},
            "what color is it ?",
            ["apet", "divprune"],
            64,
            "published",
            {},
            0,
            64,
            100,
            "",
            "",
            None,
        ]
        event = httpx.post(f"{base}/gradio_api/call/compare", json={"data": asked}, timeout=30).json()["event_id"]
        with httpx.stream("GET", f"{base}/gradio_api/call/compare/{event}", timeout=30):
            time.sleep(1)
            server.send_signal(signal.SIGINT)
            time.sleep(0.1)
            server.send_signal(signal.SIGTERM)  # as `timeout` does; it must not break off the cleaning up
            assert server.wait(60) == 0
        assert not folder.exists() and not list(tmp_path.glob("tokviz-*"))
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        server.kill()
        server.wait()
