"""Files that somebody named: only plain ones are read, written whole or not at all; and those that come with tokviz."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import BadInput

UNFINISHED = ".unfinished"
"""How the names of files end that are being written, or were when their writer was killed."""
_NAME_LENGTH = 80
_PACKAGE = Path(__file__).resolve().parent
IMPORT_FOLDER = _PACKAGE.parent
"""The folder from which ``import tokviz`` works: a checkout or site-packages."""
_PACKED = _PACKAGE / "_data"
"""Where ``pyproject.toml`` puts the top-level folders ``assets``, ``examples`` and ``docs/methods`` in a wheel."""
# Windows has none of the first; elsewhere a pipe is opened without waiting for somebody at its other end.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def resource(name: str) -> Path:
    """Locate a file or folder that comes with tokviz, in a checkout and when installed.

    name: as in a checkout, with forward slashes: ``"assets/page.css"``, ``"examples"``. Existence is not checked.
    """
    return (_PACKED if _PACKED.is_dir() else IMPORT_FOLDER) / name


def open_file(path: str | Path, what: str) -> io.BufferedReader:
    """A plain file, opened for reading; ``what`` it is said to be, for the sentences: "image", "video".

    Never waits: a folder, a pipe or a device is refused. Raises BadInput, without the folder's name.
    """
    name = shown_name(path)
    missing = f"There is no {what} file named {name!r}."
    try:
        number = os.open(path, os.O_RDONLY | _FLAGS)
    except ValueError as error:  # a zero byte in the name
        raise BadInput(missing) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM) and not os.path.isdir(path):
            raise BadInput(f"The {what} file {name!r} may not be read by this program.") from error
        if error.errno in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE):
            raise BadInput(f"The {what} file {name!r} cannot be read just now: {os.strerror(error.errno)}.") from error
        raise BadInput(missing) from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise BadInput(missing)
    return os.fdopen(number, "rb")


def is_file(path: str | Path) -> bool:
    """Whether there is a plain file of that name that can be opened; never raises."""
    try:
        open_file(path, "").close()
    except BadInput:
        return False
    return True


def shown_name(path: str | Path) -> str:
    """The name of a file without its folder, short enough for a sentence."""
    name = Path(path).name
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def write_whole(path: Path, content: bytes) -> None:
    """Write beside ``path`` and rename; a link is followed, and what is no plain file (a pipe) is written to directly.

    Raises OSError; then ``path`` is as it was before.
    """
    # Pipes and terminals, also where one was redirected to a file that others go on writing to.
    if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
        path.write_bytes(content)
        return
    path = path.resolve()
    # No longer than the name itself, which may be as long as the system allows.
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.{os.getpid()}.", suffix=UNFINISHED, dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def write_or_refuse(path: str | Path, content: bytes) -> None:
    """``write_whole`` for a file that a user named. Raises BadInput; then ``path`` is as it was before."""
    with writing(path):
        write_whole(Path(path), content)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Around the writing of a file or folder that a user named: the system's errors become BadInput."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise BadInput(f"{str(path)!r} cannot be written: {reason}.") from error


def _umask() -> int:
    """The process's; it can only be read by setting it, so the kernel's word is taken where there is one."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
