"""Opening a file that somebody named: only plain files, with a sentence for whatever is in the way."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from .errors import BadInput

_NAME_LENGTH = 80
# Windows has none of the first; elsewhere a pipe is opened without waiting for somebody at its other end.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str | Path, what: str) -> io.BufferedReader:
    """A plain file, opened for reading; ``what`` it is said to be, for the sentences: "picture", "video".

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
