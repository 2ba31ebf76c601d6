"""Files that the page hands to gradio, which copies them. They live for a day; nothing a visitor made stays longer."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gradio.utils import get_upload_folder

LIFETIME_S = 24 * 3600


def scratch() -> Path:
    """The folder of such files, freed of everything older than ``LIFETIME_S`` seconds."""
    folder = Path(get_upload_folder()) / "tokviz"
    folder.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - LIFETIME_S
    for entry in folder.iterdir():
        if entry.lstat().st_mtime < oldest:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    return folder


def kept_file(name: str, write: Callable[[Path], object]) -> Path:
    """``scratch() / name``, made by ``write`` unless it is there. ``name`` must follow from the content."""
    path = scratch() / name
    path.parent.mkdir(exist_ok=True)
    if path.is_file():
        os.utime(path)
        os.utime(path.parent)
        return path
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
    """A fresh folder inside ``scratch()``."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=scratch()))
