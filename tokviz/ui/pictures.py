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
from ..records import PictureRecord
from .scratch import kept_file

_DISPLAY_SIDE = 1200


class PictureField(gr.Image):
    """An image field that hands the uploaded file on unopened: ``tokviz.images`` alone decides what is decoded.

    ``gr.Image`` opens every file first, so that a damaged one would reach the visitor as the bare word "Error".
    """

    def get_block_name(self) -> str:
        """The browser draws it as an image field."""
        return "image"

    def preprocess(self, payload: ImageData | None) -> str | None:
        """Path of the uploaded file; gradio has already checked that it lies in its upload folder."""
        if payload is None or payload.path is None:
            return None
        return payload.path


def picture_bytes(record: PictureRecord) -> bytes:
    """The file stored in a session. Raises BadInput when it is not base64."""
    try:
        return base64.b64decode(record.base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("The session is damaged: its picture is not readable.") from error


def display_file(record: PictureRecord) -> dict[str, Any]:
    """A PNG of at most 1,200 px per side as gradio FileData.

    Always re-encoded: a session file comes from a stranger and may hold anything under the name of a picture. Raises
    BadInput when it is no picture.
    """
    from ..images import read_image

    data = picture_bytes(record)

    def write(path: Path) -> None:
        shown = read_image(data).image
        shown.thumbnail((_DISPLAY_SIDE, _DISPLAY_SIDE))
        shown.save(path, format="PNG")

    path = kept_file(f"{hashlib.sha256(data).hexdigest()}-shown.png", write)
    return FileData(path=str(path), mime_type="image/png").model_dump()


def request_file(record: PictureRecord) -> str:
    """Path of the session's picture as it was given to the model, for the picture field."""
    data = picture_bytes(record)
    suffix = {"image/png": ".png", "image/jpeg": ".jpg"}[record.mime]
    return str(kept_file(hashlib.sha256(data).hexdigest() + suffix, lambda path: path.write_bytes(data)))
