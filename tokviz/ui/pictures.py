"""The picture file that the page displays: decoded under the limits of ``tokviz.media``, made small, saved as PNG."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.data_classes import FileData, ImageData

from ..errors import BadInput
from ..records import Comparison, PictureRecord
from .client_files import uploaded_path
from .media_field import shown_file
from .scratch import kept_file

if TYPE_CHECKING:
    from ..media.images import Picture

OPENING_S = 15.0
"""Time on the wall that the pictures of an opened session may take, all together."""
_DISPLAY_SIDE = 1200
_FRAME_SIDE = 720
"""Of a video many frames are shown at once, none of them alone."""


class PictureField(gr.Image):
    """An image field that hands the uploaded file on unopened: ``tokviz.media.images`` alone decides what is decoded.

    ``gr.Image`` opens every file first, so that a damaged one would reach the visitor as the bare word "Error".
    """

    def get_block_name(self) -> str:
        """The browser draws it as an image field."""
        return "image"

    def preprocess(self, payload: ImageData | None) -> str | None:
        """Path of the uploaded file. Raises gr.Error for any other path."""
        return uploaded_path(payload)


def picture_bytes(record: PictureRecord) -> bytes:
    """The file stored in a session. Raises BadInput when it is not base64."""
    try:
        return base64.b64decode(record.base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("The session is damaged: its picture is not readable.") from error


def shown_files(comparison: Comparison, from_stranger: bool = False) -> dict[str, Any]:
    """Arguments ``picture`` and ``frames`` of ``payload.to_payload``: the files that are displayed.

    ``from_stranger``: the session was not made here; its pictures are decoded in a process with limits. Raises BadInput
    when one is no picture or all of them take too long.
    """
    read = _read_carefully(time.monotonic() + OPENING_S) if from_stranger else _read
    if comparison.video is None:
        return {"picture": display_file(comparison.picture, read=read)}
    return {"frames": [display_file(frame.picture, _FRAME_SIDE, read) for frame in comparison.video.frames]}


def _read(data: bytes) -> Picture:
    from ..media.images import read_image

    return read_image(data)


def _read_carefully(deadline: float) -> Callable[[bytes], Picture]:
    def read(data: bytes) -> Picture:
        from ..media.images import checked_image

        if time.monotonic() > deadline:
            raise BadInput("Decoding the pictures of this session takes too long; it is not opened.")
        return checked_image(data)

    return read


def display_file(
    record: PictureRecord, side: int = _DISPLAY_SIDE, read: Callable[[bytes], Picture] = _read
) -> dict[str, Any]:
    """A picture of at most ``side`` px per side as gradio FileData: a PNG, but a JPEG of a large frame.

    Always re-encoded: a session file comes from a stranger and may hold anything under the name of a picture. Raises
    BadInput when it is no picture.
    """
    data = picture_bytes(record)
    kind, suffix = ("JPEG", ".jpg") if side == _FRAME_SIDE and record.mime == "image/jpeg" else ("PNG", ".png")

    def write(path: Path) -> None:
        shown = read(data).image
        shown.thumbnail((side, side))
        shown.save(path, format=kind, **({"quality": 90} if kind == "JPEG" else {}))

    path = kept_file(f"{hashlib.sha256(data).hexdigest()}-{side}{suffix}", write)
    return FileData(path=str(path), mime_type=f"image/{kind.lower()}").model_dump()


def request_file(comparison: Comparison, clip: Path | None = None) -> FileData | None:
    """The session's picture as it was given to the model, or the file ``clip`` of its video, for the request form.

    None for a video without its file: a session stores the sampled frames only.
    """
    record, video = comparison.picture, comparison.video
    if video is not None and clip is None:
        return None
    data = picture_bytes(record) if clip is None else clip.read_bytes()
    # The name of a video's file is shown beside its frames.
    rest = {"image/png": ".png", "image/jpeg": ".jpg"}[record.mime] if clip is None else f"/{clip.name}"
    path = kept_file(hashlib.sha256(data).hexdigest() + rest, lambda path: path.write_bytes(data))
    return shown_file(path, record.name if video is None else video.name)
