"""The field that takes a picture or a video: one place to drop either, with a preview that can be played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioRootModel
from pydantic import model_validator

from .client_files import uploaded_path
from .patch_view import asset

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
MAX_UPLOAD_MB = 100
"""The larger of the limits of ``tokviz.media.images`` and ``tokviz.media.video``, which check the rest."""
_MIME_TYPES = {".webm": "video/webm", ".mov": "video/quicktime"}


class ChosenFile(GradioRootModel):
    """What the browser sends and gets: a file, or nothing, which ``gr.HTML`` in the browser spells as empty text."""

    root: FileData | None

    @model_validator(mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        return None if value == "" else value


class MediaField(gr.HTML):
    """A picture or a video. The value in Python is the path of the file, unopened, or None.

    ``tokviz.media`` alone decides what is decoded: the browser's word on the type of a file only chooses the preview.
    """

    data_model = ChosenFile

    def __init__(self, value: str | FileData | None = None, **settings: Any):
        super().__init__(
            value=value,  # type: ignore[arg-type]  # gr.HTML wants text; this component's values are files
            html_template=asset("media_field.html"),
            css_template=asset("media_field.css"),
            js_on_load=asset("media_field.js"),
            apply_default_css=False,
            max_mb=MAX_UPLOAD_MB,
            accept=",".join(("image/*", "video/*", *PICTURES, *VIDEOS)),
            **settings,
        )

    def preprocess(self, payload: ChosenFile | None) -> str | None:  # type: ignore[override]
        """Path of the uploaded file. Raises gr.Error for any other path."""
        return None if payload is None else uploaded_path(payload.root)

    def postprocess(self, value: str | Path | FileData | None) -> ChosenFile | None:  # type: ignore[override]
        """What is shown: a file by path or, with the name to show, as FileData."""
        if value is None:
            return None
        return ChosenFile(root=value if isinstance(value, FileData) else shown_file(Path(value)))

    def api_info(self) -> dict[str, Any]:
        """The value is a file."""
        return FileData.model_json_schema()


def shown_file(path: Path, name: str = "") -> FileData:
    """A file of the server as a value of ``MediaField``; the preview follows from its suffix."""
    suffix = path.suffix.lower()
    mime = _MIME_TYPES.get(suffix, "video/mp4") if suffix in VIDEOS else "image/png"
    return FileData(path=str(path), orig_name=name or path.name, mime_type=mime)
