"""The image or video that a mined case is about: found beside the run or where the data set lies, unchanged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..files import open_file, shown_name
from .run import OpenRun

_DIGEST = re.compile(r"[0-9a-f]{64}")


def media_file(run: OpenRun, case: Mapping[str, Any], roots: Sequence[Path] = ()) -> Path:
    """The file of a case, whose content is what was mined.

    It is looked for in ``media/`` of the run (``tokviz mine --copy-media``), then by its path in the run and in
    ``roots``: a run does not tell where on which machine it was mined. A path that leads out of these folders is not
    followed. case: ``image``, ``video``, ``media_sha256``. Raises BadInput when it is not there, or was changed.
    """
    written, digest = str(case["image"] or case["video"] or ""), str(case["media_sha256"] or "")
    if not written or _DIGEST.fullmatch(digest) is None:
        raise BadInput("This case could not be mined, so no image belongs to it.")
    copy = run.folder / "media" / f"{digest}{Path(written).suffix.lower()}"
    candidates = [copy, *_inside([run.folder, *roots], written)]
    changed = False
    for path in candidates:
        try:
            with open_file(path, "media") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                    return path
                changed = True
        except BadInput:
            continue
    if changed:
        raise BadInput(f"The file {shown_name(written)!r} is not the one that was mined: its content has changed.")
    raise BadInput(
        f"The file {shown_name(written)!r} of this case lies outside of the run: name the folder of the data set "
        "with --media, or mine with --copy-media."
    )


def _inside(roots: Sequence[Path], written: str) -> list[Path]:
    """What a path means in each folder, where it stays inside."""
    found = []
    for root in roots:
        try:
            path = (root / written).resolve()
        except (OSError, ValueError):
            continue
        if path.is_relative_to(root.resolve()):
            found.append(path)
    return found
