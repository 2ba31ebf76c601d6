"""Files that the page hands to gradio, which copies them. They live for a day; nothing a visitor made stays longer."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import BadInput
from ..serving.storage import caller, storage


def kept_file(name: str, write: Callable[[Path], object]) -> Path:
    """The file ``name``, made by ``write`` unless it is there. ``name`` follows from the content.

    It counts as the visitor's for whom the server works (``on_behalf_of``). Raises BadInput when the disk is full.
    """
    kept, made_for = storage(), caller()
    path = kept.made / name
    if kept.reuse(path, made_for):
        return path
    with room_on_disk():
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


@contextlib.contextmanager
def room_on_disk() -> Iterator[None]:
    """Turns the system's "no space left" into BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput("The server's disk is full; please try again later.") from error
