"""Values that clients send, above all files that they name: gradio looks only at objects that carry its mark."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..serving.storage import storage

_MOST_VALUES = 200_000


def check_client_value(value: Any) -> None:
    """Raises BadInput when any object in a client's JSON value names a file that is not this server's upload.

    Whatever the shape: nested, in lists, with or without gradio's ``meta``; addresses of the web are no uploads either.
    Numbers that are none (NaN, Infinity) are refused as well.
    """
    pending, seen = [value], 0
    while pending:
        current = pending.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise BadInput("The request holds too many values.")
        if isinstance(current, dict):
            if "path" in current and current["path"] is not None:
                storage().own_file(current["path"])
            pending.extend(current.values())
        elif isinstance(current, list | tuple):
            pending.extend(current)
        elif isinstance(current, float) and not math.isfinite(current):
            raise BadInput(f"The request holds {current} where a number is wanted.")


def uploaded_path(payload: Any) -> str | None:
    """The real path of the file in the value of a file field: an object with ``path``, or nothing.

    Raises gr.Error with a sentence for anything else, such as a path as plain text.
    """
    if payload is None or payload == "":
        return None
    path = payload.get("path") if isinstance(payload, dict) else getattr(payload, "path", "")
    if path is None:
        return None
    try:
        return storage().own_file(path)
    except BadInput as error:
        raise refusal(error) from error


def refusal(error: BadInput) -> gr.Error:
    """The sentence as an error that every client is shown."""
    return gr.Error(str(error), print_exception=False, title="Bad request")


class FileButton(gr.UploadButton):
    """A button that takes one file; the value in Python is its real path."""

    def get_block_name(self) -> str:
        """The browser draws it as an upload button."""
        return "uploadbutton"

    def preprocess(self, payload: Any) -> str | None:  # type: ignore[override]
        """Path of the uploaded file, unopened."""
        root = getattr(payload, "root", payload)
        if isinstance(root, list):
            root = root[0] if len(root) == 1 else None
        return uploaded_path(root)
