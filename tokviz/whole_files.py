"""Files that are written whole or not at all: whoever reads one never sees a part, whatever ended the writing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

UNFINISHED = ".unfinished"
"""How the names of files end that are being written, or were when their writer was killed."""


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


def _umask() -> int:
    """The process's; it can only be read by setting it, so the kernel's word is taken where there is one."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
