"""The folder for everything that visitors upload or that is made for them: one per process, bounded, gone with it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput
from .callers import CALLER

LIFETIME_S = 24 * 3600
"""Nothing a visitor made stays longer."""
_PREFIX = "tokviz-"
_LOCK = ".lock"
_FRESH_S = 60
"""A file may still be written, or about to be read: not taken away to make room."""
_WALK_EVERY_S = 30
"""Between two walks through the folder, which find what came or went without a word, and what is past its time."""
_BLOCK = 4096
"""Bytes that a file takes at least: a disk full of empty files is full as well."""
FILES_IN_ALL = 20_000
FILES_OF_ONE = 3000
FILES_OF_REQUEST = 8
"""Files that one request may upload; the page sends one."""
_MB = 1_000_000
TOO_MANY_FILES = f"One request may upload at most {FILES_OF_REQUEST} files."
NO_ROOM = "The server has no room for more files at the moment; please try again in a minute."
NOT_OURS = "This file was not uploaded to this server, or is no longer there: choose it again."


def limit_in_all() -> int:
    """Bytes that all files together may take."""
    return _megabytes("TOKVIZ_DISK_MB", 2000)


def limit_of_one() -> int:
    """Bytes of uploads, and of what is made for them, that are kept of one visitor; the oldest make room for the next.

    At most half of everything: nobody can fill the server alone.
    """
    return min(_megabytes("TOKVIZ_VISITOR_MB", 400), limit_in_all() // 2)


def _megabytes(name: str, default: int) -> int:
    try:
        return max(1, int(os.environ.get(name) or default)) * _MB
    except ValueError:
        return default * _MB


@dataclass
class _File:
    """owners: of each address that it came from or was made for, when it last did, as a running number."""

    size: int
    changed: float
    owners: dict[str, int]


class Storage:
    """A folder whose files are counted. ``kept`` are never taken away. Thread-safe.

    Files belong to the addresses that they came from or were made for; the same content may belong to several. The
    count is kept as files come and go; the folder itself is walked through only now and then.
    """

    def __init__(
        self,
        folder: Path,
        in_all: Callable[[], int] = limit_in_all,
        of_one: Callable[[], int] = limit_of_one,
        files_in_all: int = FILES_IN_ALL,
        files_of_one: int = FILES_OF_ONE,
    ):
        self.folder = folder
        self.made = folder / "tokviz"
        self._in_all, self._of_one = in_all, of_one
        self._files_in_all, self._files_of_one = files_in_all, files_of_one
        self._kept: set[Path] = set()
        self._files: dict[Path, _File] = {}
        self._moments = itertools.count()
        self._walked = float("-inf")
        self._uploading = 0
        self._lock = threading.RLock()

    def keep(self, paths: Iterable[Path]) -> None:
        """Files that stay while the server runs: the first screen shows them."""
        with self._lock:
            self._kept |= {path.resolve() for path in paths}

    def keep_all(self) -> None:
        """Everything that is there now stays."""
        self.keep(self._walk())

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

    @contextlib.asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """While an upload runs; what it leaves behind when it is cut is removed afterwards."""
        with self._lock:
            self._uploading += 1
        try:
            yield
        finally:
            await asyncio.to_thread(self._upload_is_over)

    def uploaded(self, address: str | None, paths: Iterable[str]) -> None:
        """Files that a visitor has just uploaded; older ones of the same visitor go when these are too many.

        Raises BadInput, and keeps none of them, when one request brought more than ``FILES_OF_REQUEST``.
        """
        own = [path for path in map(Path, paths) if path.is_relative_to(self.folder)]
        with self._lock:
            if len(own) > FILES_OF_REQUEST:
                for path in own:
                    if path not in self._kept and not (path in self._files and self._files[path].owners):
                        self._remove(path)
                raise BadInput(TOO_MANY_FILES)
            for path in own:
                self._count(path, address)
            self._bound(address)

    def reuse(self, path: Path, address: str | None) -> bool:
        """Whether a file that was made before is still there: it then counts as made just now, for ``address`` too."""
        with self._lock:
            try:
                os.utime(path)
            except OSError:
                return False
            self._count(path, address)
            self._bound(address)
            return path.is_file()

    def place(self, part: Path, path: Path, address: str | None) -> None:
        """Give a whole file, written under another name, its own. Raises BadInput when there is no room for it."""
        size = part.stat().st_size
        with self._lock:
            self._bound(address, size)
        self.make_room(size, address)
        with self._lock:  # a folder that has become empty is removed under the lock as well
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, path)
            self._files.pop(part, None)
            self._count(path, address)
            self._bound(address)

    def make_room(self, n_bytes: int, address: str | None = None) -> None:
        """Take away the oldest until another file of ``n_bytes`` fits, those of ``address`` before those of others.

        What is past its time goes as well. Raises BadInput when there is no room without what was changed just now.
        """
        self._reconcile()
        with self._lock:
            more, now = max(n_bytes, _BLOCK) if n_bytes else 0, time.time()
            n_files = len(self._files) + bool(n_bytes) - self._files_in_all
            excess = sum(file.size for file in self._files.values()) + more - self._in_all()
            stale = [
                (file.owners.keys() != {address}, file.changed, path)
                for path, file in self._files.items()
                if path not in self._kept and now - file.changed > _FRESH_S
            ]
            for *_, path in sorted(stale):
                if excess <= 0 and n_files <= 0:
                    return
                excess, n_files = excess - self._files[path].size, n_files - 1
                self._remove(path)
            if excess > 0 or n_files > 0:
                raise BadInput(NO_ROOM)

    def _count(self, path: Path, address: str | None = None) -> None:
        """Take the file into the count as it is now, or out of it; from now on it is ``address``'s as well."""
        known = self._files.pop(path, None)
        with contextlib.suppress(OSError):
            status = path.lstat()
            owners = {} if known is None else known.owners
            self._files[path] = _File(max(status.st_size, _BLOCK), status.st_mtime, owners)
            if address is not None and path not in self._kept:
                owners[address] = next(self._moments)

    def _bound(self, address: str | None, coming: int = 0) -> None:
        """Let go of the oldest files of a visitor who has too many, or will have with another of ``coming`` bytes.

        The newest stays whatever its size.
        """
        if address is None:
            return
        own = sorted((file.owners[address], path) for path, file in self._files.items() if address in file.owners)
        total = sum(self._files[path].size for _, path in own) + coming
        while len(own) > 1 and (total > self._of_one() or len(own) + bool(coming) > self._files_of_one):
            _, path = own.pop(0)
            total -= self._files[path].size
            del self._files[path].owners[address]
            if not self._files[path].owners:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()
        self._files.pop(path, None)
        with contextlib.suppress(OSError):  # a folder of its own goes with it
            if path.parent not in (self.folder, self.made):
                path.parent.rmdir()

    def _reconcile(self) -> None:
        """Now and then: correct the count by what is in the folder, and remove what is past its time."""
        with self._lock:
            if time.monotonic() - self._walked < _WALK_EVERY_S:
                return
            self._walked = time.monotonic()
        found = self._walk()  # takes its time on a full disk: uploads are counted meanwhile
        now = time.time()
        with self._lock:
            for path in found.keys() | self._files.keys():
                if not (path in self._files and self._files[path].changed == found.get(path)):
                    self._count(path)
            for path, file in list(self._files.items()):
                if path not in self._kept and now - file.changed > LIFETIME_S:
                    self._remove(path)

    def _upload_is_over(self) -> None:
        """Uploads are written beside each other and get a folder when they are whole: what has none was cut."""
        now = time.time()
        with self._lock:
            self._uploading -= 1
            for entry in os.scandir(self.folder):
                with contextlib.suppress(OSError):
                    loose = entry.is_file(follow_symlinks=False) and entry.name.startswith("tmp")
                    if loose and (not self._uploading or now - entry.stat().st_mtime > _FRESH_S):
                        os.unlink(entry.path)

    def _walk(self) -> dict[Path, float]:
        """Every file in the folder, and when it was changed."""
        found = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):
                    path = Path(folder, name)
                    found[path] = path.lstat().st_mtime
        return found


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

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
    except (ImportError, OSError):
        return False
    return True


def temporary_file(name: str, write: Callable[[Path], object]) -> Path:
    """A file for gradio, which copies it: made by ``write`` unless it is there. ``name`` follows from the content.

    It counts as the visitor's for whom the server works (``on_behalf_of``). Raises BadInput when the disk is full.
    """
    kept, made_for = storage(), CALLER.get()
    path = kept.made / name
    if kept.reuse(path, made_for):
        return path
    try:
        # Written beside and renamed: two visitors at once never read half a file.
        kept.made.mkdir(parents=True, exist_ok=True)
        handle, named = tempfile.mkstemp(dir=kept.made, prefix="part-", suffix=path.suffix)
        os.close(handle)
        part = Path(named)
        try:
            write(part)
            kept.place(part, path, made_for)
        finally:
            part.unlink(missing_ok=True)
        return path
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput("The server's disk is full; please try again later.") from error
