"""A model hub on this machine: what the client of the real one asks for, answered for a few repositories.

``tiny/good`` holds a checkpoint, ``tiny/gated`` wants a licence, ``tiny/withdrawn`` was disabled, ``tiny/sick`` answers
with 503, ``tiny/empty`` has no config.json, ``tiny/huge`` says that its weights are larger than any disk; everything
else does not exist.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUGE = 10**18


class _Hub(BaseHTTPRequestHandler):
    folder: Path

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        parts = path.split("/")
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo == "tiny/gated":
            return self._error(403, "GatedRepo")
        if repo == "tiny/withdrawn":
            return self._error(403, message="Access to this resource is disabled.")
        if repo == "tiny/sick":
            return self._error(503)
        if repo not in ("tiny/good", "tiny/empty", "tiny/huge"):
            return self._error(401, "RepoNotFound")
        if "nosuchrevision" in parts:
            return self._error(404, "RevisionNotFound")
        if parts[0] == "api" and "tree" in parts:
            return self._json([self._entry(file, repo) for file in self._files(repo)])
        if parts[0] == "api":
            return self._json(
                {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": f.name} for f in self._files(repo)]}
            )
        name = path.partition(f"resolve/{parts[3]}/")[2]
        file = next((file for file in self._files(repo) if file.name == name), None)
        if file is None:
            return self._error(404, "EntryNotFound")
        content = file.read_bytes()
        size = HUGE if repo == "tiny/huge" and name.endswith(".safetensors") else len(content)
        headers = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, content if body else b"", size if not body else len(content), headers)

    def _files(self, repo: str) -> list[Path]:
        files = sorted(file for file in self.folder.iterdir() if file.is_file())
        return [file for file in files if repo != "tiny/empty" or file.name != "config.json"]

    def _entry(self, file: Path, repo: str) -> dict[str, object]:
        huge = repo == "tiny/huge" and file.suffix == ".safetensors"
        size = HUGE if huge else file.stat().st_size
        return {"type": "file", "path": file.name, "size": size, "oid": sha1(file.read_bytes()).hexdigest()}

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self._send(200, content, len(content), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X-Error-Code": code} if code else {}
        self._send(status, b"", 0, headers | ({"X-Error-Message": message} if message else {}))

    def _send(self, status: int, content: bytes, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a hub whose repositories hold the files of ``folder``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": folder}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
