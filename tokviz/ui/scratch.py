"""Files that the page hands to gradio, which copies them. They live for a day; nothing a visitor made stays longer."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import BadInput
from ..serving.storage import storage


def kept_file(name: str, write: Callable[[Path], object]) -> Path:
    """The file ``name`` of the server's own, made by ``write`` unless it is there. ``name`` follows from the content.

    Raises BadInput when the disk is full.
    """
    path = storage().folder / "tokviz" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        os.utime(path)
        return path
    storage().make_room(0)
    with room_on_disk():
        # Written beside and renamed: two visitors at once never read half a file.
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
        os.close(handle)
        try:
            write(Path(part))
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    return path


def new_folder(prefix: str) -> Path:
    """A fresh folder of the server's own."""
    base = storage().folder / "tokviz"
    base.mkdir(parents=True, exist_ok=True)
    storage().make_room(0)
    with room_on_disk():
        return Path(tempfile.mkdtemp(prefix=prefix, dir=base))


@contextlib.contextmanager
def room_on_disk() -> Iterator[None]:
    """Turns the system's "no space left" into BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput("The server's disk is full; please try again later.") from error
