"""Files between visitors and the page: what clients name, images that are displayed, stored sessions."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradio.data_classes import FileData

from ..comparison import Comparison
from ..errors import BadInput
from ..names import Box
from ..records import ImageRecord, Record, TokenGrid
from ..runs.metrics import NEAREST
from ..serving.model_menu import model_options
from ..serving.storage import storage, temporary_file
from ..session_limits import MAX_BYTES
from . import numbers, text
from .costs import costs
from .failures import refusal
from .takeaway import run_again

if TYPE_CHECKING:
    from ..media.images import InputImage

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
OPENING_S = 15.0
"""Time on the wall that the images of an opened session may take, all together."""
_MIME_TYPES = {".webm": "video/webm", ".mov": "video/quicktime"}
_DISPLAY_SIDE = 1200
_FRAME_SIDE = 720
"""Of a video many frames are shown at once, none of them alone."""
_BOTH_LEVELS = "both"
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
            raise BadInput("The request contains too many values.")
        if isinstance(current, dict):
            if "path" in current and current["path"] is not None:
                storage().own_file(current["path"])
            pending.extend(current.values())
        elif isinstance(current, list | tuple):
            pending.extend(current)
        elif isinstance(current, float) and not math.isfinite(current):
            raise BadInput(f"The request contains {current} where a number is expected.")


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


def shown_file(path: Path, name: str = "") -> FileData:
    """A file of the server as a value of ``MediaField``; the preview follows from its suffix."""
    suffix = path.suffix.lower()
    mime = _MIME_TYPES.get(suffix, "video/mp4") if suffix in VIDEOS else "image/png"
    return FileData(path=str(path), orig_name=name or path.name, mime_type=mime)


def image_bytes(record: ImageRecord) -> bytes:
    """The file stored in a session. Raises BadInput when it is not base64."""
    try:
        return base64.b64decode(record.base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("The session is damaged: its image cannot be read.") from error


def shown_files(comparison: Comparison, from_stranger: bool = False) -> dict[str, Any]:
    """Arguments ``image`` and ``frames`` of ``payload.to_payload``: the files that are displayed.

    ``from_stranger``: the session was not made here; its images are decoded in a process with limits. Raises BadInput
    when one is no image or all of them take too long.
    """
    read = _read_carefully(time.monotonic() + OPENING_S) if from_stranger else _read
    record = comparison.image
    if comparison.video is None and not from_stranger and max(record.width, record.height) <= _DISPLAY_SIDE:
        own = request_file(comparison)  # the form shows it, too: one file, loaded once
        return {"image": None if own is None else own.model_dump()}
    if comparison.video is None:
        return {"image": display_file(record, read=read)}
    return {"frames": [display_file(frame.image, _FRAME_SIDE, read) for frame in comparison.video.frames]}


def _read(data: bytes) -> InputImage:
    from ..media.images import read_image

    return read_image(data)


def _read_carefully(deadline: float) -> Callable[[bytes], InputImage]:
    def read(data: bytes) -> InputImage:
        from ..media.images import checked_image

        if time.monotonic() > deadline:
            raise BadInput("Decoding the images of this session takes too long, so it was not opened.")
        return checked_image(data)

    return read


def display_file(
    record: ImageRecord, side: int = _DISPLAY_SIDE, read: Callable[[bytes], InputImage] = _read
) -> dict[str, Any]:
    """An image of at most ``side`` px per side as gradio FileData: a PNG, but a JPEG of a large frame.

    Always re-encoded: a session file comes from a stranger and may hold anything under the name of an image. Raises
    BadInput when it is no image.
    """
    data = image_bytes(record)
    kind, suffix = ("JPEG", ".jpg") if side == _FRAME_SIDE and record.mime == "image/jpeg" else ("PNG", ".png")

    def write(path: Path) -> None:
        shown = read(data).image
        shown.thumbnail((side, side))
        shown.save(path, format=kind, **({"quality": 90} if kind == "JPEG" else {}))

    path = temporary_file(f"{hashlib.sha256(data).hexdigest()}-{side}{suffix}", write)
    return FileData(path=str(path), mime_type=f"image/{kind.lower()}").model_dump()


def request_file(comparison: Comparison, clip: Path | None = None) -> FileData | None:
    """The session's image as it was given to the model, or the file ``clip`` of its video, for the request form.

    None for a video without its file: a session stores the sampled frames only.
    """
    record, video = comparison.image, comparison.video
    if video is not None and clip is None:
        return None
    data = image_bytes(record) if clip is None else clip.read_bytes()
    # The name of a video's file is shown beside its frames.
    rest = {"image/png": ".png", "image/jpeg": ".jpg"}[record.mime] if clip is None else f"/{clip.name}"
    path = temporary_file(hashlib.sha256(data).hexdigest() + rest, lambda path: path.write_bytes(data))
    return shown_file(path, record.name if video is None else video.name)


def evidence_in_file(comparison: Comparison) -> tuple[tuple[Box, ...], tuple[int, ...]]:
    """Boxes around the evidence as a request has them: in pixels of the file, of a video with the file's frames."""
    request, video = comparison.request, comparison.video
    if video is None:
        return tuple(request.evidence), ()
    scale = video.width / comparison.grid.image_size[0]
    boxes = [(x0 * scale, y0 * scale, x1 * scale, y1 * scale) for x0, y0, x1, y1 in request.evidence]
    return tuple(boxes), tuple(video.frames[frame].index for frame in request.evidence_frames)


def session_file(comparison: Comparison) -> str:
    """The session for download, in a folder that is named by its content. Raises BadInput when the disk is full.

    Its own name says what it holds, for whoever takes it away.
    """
    data, request = comparison.to_json().encode(), comparison.request
    name = f"{hashlib.sha256(data).hexdigest()}/{text.file_stem(request.question, request.budget)}.json"
    return str(temporary_file(name, lambda path: path.write_bytes(data)))


def key_of(comparison: Comparison) -> str:
    """By which a browser names a comparison that it shows."""
    return Path(session_file(comparison)).parent.name


def read_session(path: str | Path) -> Comparison:
    """A stored session that can be shown. Raises BadInput."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise BadInput(f"A session file may have at most {MAX_BYTES // 1_000_000} MB; this one is larger.")
        comparison = Comparison.from_json(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise BadInput(
            "What was shown here is no longer on the server: press Compare again, or open the session file."
        ) from error
    if not comparison.runs:
        raise BadInput("The session contains no runs, so there is nothing to show.")
    return comparison


def as_plain(record: Record) -> dict[str, Any]:
    """A comparison, a sweep or a rescue as JSON data (null for what is not finite)."""
    plain: dict[str, Any] = json.loads(record.model_dump_json())
    return plain


def fitting_model(chosen: str, comparison: Comparison) -> str | None:
    """The model of a stored comparison where the chosen one takes no such image or video; None: it may stay."""
    media = "image" if comparison.video is None else "video"
    takes = {option.shown: option.takes for option in model_options()}
    if media in takes.get(chosen, (media,)):
        return None
    return comparison.model.name if media in takes.get(comparison.model.name, ()) else None


def figure_choices(comparison: Comparison | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the export's fields for levels (of a tiled image) and frames (of a video), else hidden."""
    grid = None if comparison is None else comparison.grid
    choices = [("both, overlaid", _BOTH_LEVELS), *level_names(grid)] if grid is not None and grid.is_tiled else []
    level = {"choices": choices, "value": choices[0][1] if choices else None, "visible": bool(choices)}
    return level, {"value": "", "visible": grid is not None and grid.is_video}


@functools.lru_cache(maxsize=256)
def of_session(session: str) -> tuple[Any, ...]:
    """Table, costs, ``run_again`` and ``figure_choices`` of a session file, whose path follows from its content."""
    comparison = read_session(session)
    return numbers.table(comparison), costs(comparison), run_again(comparison), *figure_choices(comparison)


def level_names(grid: TokenGrid) -> list[tuple[str, str]]:
    """``(name, number)`` of each level of a tiled image, as the patch view calls them."""
    levels = sorted({view.level for view in grid.views})
    names = [[view.name for view in grid.views if view.level == level] for level in levels]
    return [
        (views[0] if len(views) == 1 else f"{len(views)} crops", str(level))
        for level, views in zip(levels, names, strict=True)
    ]


def shown_options(comparison: Comparison, view: str, shown: str) -> dict[str, Any]:
    """The view and what the lanes show, as arguments of ``Comparison.figure``.

    view: of ``text.FIGURE_VIEWS``. shown: JSON text from a browser, see ``tabs._SHOWN``; what of it is not about this
    comparison is left out, so that a figure is never another one's.
    """
    given = _object(shown)
    keys = {run.key: run for run in comparison.runs}
    lanes = [key for key in _texts(given.get("lanes")) if key in keys]
    own = _PAGE_VIEWS.get(str(given.get("view")), "kept")
    wanted = own if view == AS_SHOWN else view
    options: dict[str, Any] = {"view": wanted}
    if lanes:
        options["methods"] = lanes
    if wanted == own:
        stages = _mapping(given.get("stages"))
        options["stages"] = {
            key: at
            for key, at in stages.items()
            if key in lanes and type(at) is int and 0 <= at < len(keys[key].stages) and wanted not in ("ab", "dropped")
        }
        maps = _mapping(given.get("maps"))
        if wanted == "score":
            options["maps"] = {
                key: name
                for key, name in maps.items()
                if key in options["stages"] and name in _map_names(comparison, key, options["stages"][key])
            }
            options["stages"] = {key: at for key, at in options["stages"].items() if key in options["maps"]}
        if wanted == "random" and type(given.get("reach")) is int and 1 <= given["reach"] <= 64:
            options["radius"] = given["reach"]
        options = {name: value for name, value in options.items() if value != {}}
    if wanted == "ab" and given.get("a") in keys:
        options["against"] = given["a"]
        if given.get("b") in keys:
            options["methods"] = [given["a"], given["b"]]
    return options


AS_SHOWN = "shown"
"""The view of a figure that is the lanes' own."""
_PAGE_VIEWS = {
    "kept": "kept",
    "score": "score",
    "order": "order",
    "clusters": "clusters",
    "dropped": "dropped",
    "ab": "ab",
    "chance": "random",
}


def _map_names(comparison: Comparison, key: str, stage: int) -> list[str]:
    record = comparison[key].stages[stage]
    return [one.label for one in (record.score, *record.maps) if one is not None] + [NEAREST]


def _object(words: str) -> dict[str, Any]:
    try:
        found = json.loads(words) if isinstance(words, str) and len(words) < 100_000 else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def figure_options(comparison: Comparison, level: str | None, frames: str) -> dict[str, Any]:
    """What the export's fields ask for, as arguments of ``render.figure``. Raises BadInput for what is no number."""
    if comparison.grid.is_tiled and level:
        return {"level": level if level == _BOTH_LEVELS else int(level)}
    if not comparison.grid.is_video or not frames.strip():
        return {}
    numbers = frames.replace(",", " ").split()
    if not all(number.isdecimal() and len(number) < 6 for number in numbers):
        raise BadInput("Separate the frame numbers with commas, such as 1, 4, 9.")
    n_frames = len(comparison.video.frames) if comparison.video else 0
    wrong = [number for number in numbers if not 1 <= int(number) <= n_frames]
    if wrong:
        raise BadInput(f"This video has frames 1 to {n_frames}; there is no frame {wrong[0]}.")
    return {"frames": [int(number) - 1 for number in numbers]}
