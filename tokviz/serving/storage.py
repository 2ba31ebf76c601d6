"""The folder for everything that visitors upload or that is made for them: one per process, bounded, gone with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import BadInput

LIFETIME_S = 24 * 3600
"""Nothing a visitor made stays longer."""
_PREFIX = "tokviz-"
_LOCK = ".lock"
_FRESH_S = 60
"""A file may still be written, or about to be read: not taken away to make room."""
_MB = 1_000_000
NOT_OURS = "This file was not uploaded to this server, or is no longer there: choose it again."


def limit_in_all() -> int:
    """Bytes that all files together may take."""
    return _megabytes("TOKVIZ_DISK_MB", 2000)


def limit_of_one() -> int:
    """Bytes of uploads that are kept of one visitor; the oldest make room for the next."""
    return _megabytes("TOKVIZ_VISITOR_MB", 400)


def _megabytes(name: str, default: int) -> int:
    try:
        return max(1, int(os.environ.get(name) or default)) * _MB
    except ValueError:
        return default * _MB


class Storage:
    """A folder whose files are counted. ``kept`` are never taken away. Thread-safe.

    Uploads belong to the addresses they came from; the same content may belong to several.
    """

    def __init__(
        self, folder: Path, in_all: Callable[[], int] = limit_in_all, of_one: Callable[[], int] = limit_of_one
    ):
        self.folder = folder
        self._in_all, self._of_one = in_all, of_one
        self._kept: set[Path] = set()
        self._owners: OrderedDict[Path, set[str]] = OrderedDict()
        self._uploading = 0
        self._lock = threading.RLock()

    def keep(self, paths: Iterable[Path]) -> None:
        """Files that stay while the server runs: the first screen shows them."""
        with self._lock:
            self._kept |= {path.resolve() for path in paths}

    def keep_all(self) -> None:
        """Everything that is there now stays."""
        self.keep(path for path, _, _ in self._files())

    def own_file(self, path: object) -> str:
        """The real path of a file that a client names. Raises BadInput, the same for what exists and what does not."""
        if isinstance(path, str) and path and len(path) < 4096 and "\0" not in path:
            try:
                real = Path(path).resolve()
                if real.is_relative_to(self.folder.resolve()) and real.is_file():
                    return str(real)
            except (OSError, RuntimeError):  # too long a name, a loop of links
                pass
        raise BadInput(NOT_OURS)

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """While an upload runs; what it leaves behind when it is cut is removed afterwards."""
        with self._lock:
            self._uploading += 1
        try:
            yield
        finally:
            with self._lock:
                self._uploading -= 1
                self._remove_cut()

    def uploaded(self, address: str, paths: Iterable[str]) -> None:
        """Files that a visitor has just uploaded; older ones of the same visitor go when these are too many."""
        with self._lock:
            for path in map(Path, paths):
                if path.is_relative_to(self.folder):
                    self._owners.setdefault(path, set()).add(address)
                    self._owners.move_to_end(path)
            mine = [path for path, owners in self._owners.items() if address in owners]
            sizes = {path: _size(path) for path in mine}
            total = sum(sizes.values())
            for path in mine[:-1]:
                if total <= self._of_one():
                    break
                total -= sizes[path]
                self._disown(path, address)

    def make_room(self, n_bytes: int) -> None:
        """Take away what is past its time, then the oldest, until ``n_bytes`` fit. Raises BadInput when they cannot."""
        with self._lock:
            now = time.time()
            files = sorted(self._files(), key=lambda file: file[2])
            total = sum(size for _, size, _ in files)
            for path, size, changed in files:
                past = now - changed > LIFETIME_S
                if path in self._kept or not (past or (total + n_bytes > self._in_all() and now - changed > _FRESH_S)):
                    continue
                self._remove(path)
                total -= size
            if total + n_bytes > self._in_all():
                raise BadInput("The server has no room for more files at the moment; please try again in a minute.")

    def _disown(self, path: Path, address: str) -> None:
        owners = self._owners.get(path, set())
        owners.discard(address)
        if not owners and path not in self._kept:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        self._owners.pop(path, None)
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):  # a folder of its own goes with it
            if path.parent != self.folder:
                path.parent.rmdir()

    def _remove_cut(self) -> None:
        """Uploads are written beside each other and get a folder when they are whole."""
        now = time.time()
        for entry in os.scandir(self.folder):
            with contextlib.suppress(OSError):
                loose = entry.is_file(follow_symlinks=False) and entry.name.startswith("tmp")
                if loose and (not self._uploading or now - entry.stat().st_mtime > _FRESH_S):
                    os.unlink(entry.path)

    def _files(self) -> list[tuple[Path, int, float]]:
        """``(path, bytes, time of the last change)`` of every file."""
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):
                    path = Path(folder, name)
                    status = path.lstat()
                    found.append((path, status.st_size, status.st_mtime))
        return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


_storages: dict[str, Storage] = {}
_held: list[object] = []
_making = threading.Lock()


def storage() -> Storage:
    """The storage of this process. Made on the first call, inside ``GRADIO_TEMP_DIR``, which then names its folder.

    Folders of processes that are gone are removed. Whether one is gone is told by a lock that the system takes back,
    not by a process number, which may be another's by now.
    """
    with _making:
        named = os.environ.get("GRADIO_TEMP_DIR", "")
        if named not in _storages:
            base = Path(named) if named else Path(tempfile.gettempdir()) / "gradio"
            base.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(base)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base)).resolve()
            _hold(folder)
            named = os.environ["GRADIO_TEMP_DIR"] = str(folder)
            _storages[named] = Storage(folder)
        return _storages[named]


def _hold(folder: Path) -> None:
    path = Path(f"{folder}{_LOCK}")
    # Under its name only when it is held: another server that starts just now would take it for abandoned.
    lock = open(f"{path}ing", "w")  # noqa: SIM115  # held until the process ends
    _try_lock(lock)
    os.rename(lock.name, path)
    _held.append(lock)
    process = os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # a forked child does not own the folder
            shutil.rmtree(folder, ignore_errors=True)
            path.unlink(missing_ok=True)

    atexit.register(remove)


def _remove_abandoned(base: Path) -> None:
    for name in base.glob(f"{_PREFIX}*{_LOCK}"):
        with contextlib.suppress(OSError), open(name, "r+") as lock:
            if _try_lock(lock):
                shutil.rmtree(str(name).removesuffix(_LOCK), ignore_errors=True)
                name.unlink(missing_ok=True)


def _try_lock(file: object) -> bool:
    """Whether nobody else holds the file. Where the system has no such locks, nothing is ever taken for abandoned."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
    except OSError:
        return False
    return True
