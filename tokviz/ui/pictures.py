"""The picture file that the page displays: decoded under the limits of ``tokviz.images``, made small, saved as PNG."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, ImageData

from ..errors import BadInput
from ..records import Comparison, PictureRecord
from .client_files import uploaded_path
from .media_field import shown_file
from .scratch import kept_file

_DISPLAY_SIDE = 1200
_FRAME_SIDE = 720
"""Of a video many frames are shown at once, none of them alone."""


class PictureField(gr.Image):
    """An image field that hands the uploaded file on unopened: ``tokviz.images`` alone decides what is decoded.

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


def shown_files(comparison: Comparison) -> dict[str, Any]:
    """Arguments ``picture`` and ``frames`` of ``payload.to_payload``: the files that are displayed."""
    if comparison.video is None:
        return {"picture": display_file(comparison.picture)}
    return {"frames": [display_file(frame.picture, _FRAME_SIDE) for frame in comparison.video.frames]}


def display_file(record: PictureRecord, side: int = _DISPLAY_SIDE) -> dict[str, Any]:
    """A picture of at most ``side`` px per side as gradio FileData: a PNG, but a JPEG of a large frame.

    Always re-encoded: a session file comes from a stranger and may hold anything under the name of a picture. Raises
    BadInput when it is no picture.
    """
    from ..images import read_image

    data = picture_bytes(record)
    kind, suffix = ("JPEG", ".jpg") if side == _FRAME_SIDE and record.mime == "image/jpeg" else ("PNG", ".png")

    def write(path: Path) -> None:
        shown = read_image(data).image
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
