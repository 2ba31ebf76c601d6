"""What a question is about: an image, or the frames of a video that the model looks at."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import BadInput
from ..media.images import InputImage, checked_image, read_image
from ..media.video import MAX_SAMPLED, Video, checked_video, is_video, named_as_video, read_video
from ..media.video_decoding import FORMATS
from ..names import Box, Media, VideoFacts
from ..records import ImageRecord, TokenGrid
from ..short import kind_of, passed

if TYPE_CHECKING:
    from ..engine import Geometry
    from ..models.loading import VisionLanguageModel

Source = str | Path | bytes | Image.Image | InputImage | Video
"""What may be given where an image or a video is asked for."""


def open_media(
    vlm: VisionLanguageModel,
    source: Source | None,
    frames: int | None = None,
    *,
    isolated: bool = False,
    stop: threading.Event | None = None,
) -> InputImage | Video:
    """Decode an image, or the frames of a video that this model looks at.

    ``frames``: how many of a video, 1 to 64; None: as many as the model's family takes. ``isolated``: files are decoded
    in a process of their own, under limits of time and memory, until ``stop`` is set; the result is the same. Raises
    BadInput with one sentence: nothing there, unreadable, past a limit, or the model takes no such thing; Stopped.
    """
    check_source(source)
    if frames is not None:
        check_whole("The number of frames", frames, 1, MAX_SAMPLED)
    if isinstance(source, Video):
        _check_taken(vlm, "video")
        if frames not in (None, len(source.frames)):
            raise BadInput(f"This video was already read with {len(source.frames)} frames, not with {frames}.")
        return source
    if isinstance(source, str | Path | bytes) and (is_video(source) or named_as_video(source)):
        _check_taken(vlm, "video")
        pick = partial(_sampled, vlm, wanted=frames)
        return checked_video(source, pick, stop=stop) if isolated else read_video(source, pick)
    if frames is not None and source is not None:
        raise BadInput("The number of frames is a setting for videos; this is an image.")
    image = source if isinstance(source, InputImage) else _image(source, isolated, stop)
    _check_taken(vlm, "image")
    return image


def check_source(source: object) -> None:
    """Raises BadInput for what is neither file nor image, and for a file name that the system cannot even look up."""
    if not isinstance(source, Source | None):
        array = " (of an array: PIL.Image.fromarray)" if hasattr(source, "__array__") else ""
        raise BadInput(
            f"The image or video is the path of a file, its bytes, or a PIL image{array}, not {kind_of(source)}."
        )
    if isinstance(source, str | Path):
        try:
            Path(source).stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return  # who reads it says so
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise BadInput(f"The file {passed(Path(source).name)} cannot be read: {reason}.") from error


def _image(source: str | Path | bytes | Image.Image | None, isolated: bool, stop: threading.Event | None) -> InputImage:
    if not isolated or source is None or isinstance(source, Image.Image):
        return read_image(source)
    return checked_image(source, stop=stop)


def _sampled(vlm: VisionLanguageModel, facts: VideoFacts, wanted: int | None) -> list[int]:
    """The frames of the family's own rule; where those are too many, as many as may be, over the whole video."""
    numbers = vlm.family.sampled(vlm.processor, facts, wanted)
    return numbers if len(numbers) <= MAX_SAMPLED else vlm.family.sampled(vlm.processor, facts, MAX_SAMPLED)


def check_whole(name: str, value: object, low: int, high: int, why: str = "") -> None:
    """Raises BadInput for anything but a whole number from ``low`` to ``high``; ``why`` stands behind the two."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadInput(f"{name} must be a whole number from {low} to {high}{why}, not {passed(value)}.")


def check_from_zero(name: str, value: object) -> None:
    """Raises BadInput for anything but a number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise BadInput(f"{name} must be a number from 0, not {passed(value)}.")


def _check_taken(vlm: VisionLanguageModel, media: Media) -> None:
    if media in vlm.family.takes:
        return
    from ..models.catalog import CATALOG

    others = [entry.id for entry in CATALOG if media in entry.takes]
    advice = f", such as {' or '.join(others[:2])}" if others else ""
    raise BadInput(
        f"{vlm.record.name} does not answer questions about {media}s; choose a model that does{advice}"
        + (f", or give it an image (a video is recognised by its content: {FORMATS})." if media == "video" else ".")
    )


def grid_of(vlm: VisionLanguageModel, media: InputImage | Video) -> TokenGrid:
    """Where this model's visual tokens lie in the image or in the sampled frames."""
    if isinstance(media, Video):
        return vlm.family.video_grid(vlm.model, vlm.processor, media.frames[0].size, len(media.frames))
    return vlm.family.grid(vlm.model, vlm.processor, media.image.size, {})


def geometry_of(grid: TokenGrid, evidence: Sequence[float] | None = None) -> Geometry:
    """What the engine may know of a grid: the view and the cell of each token, cells counted in the view's level.

    evidence: ``metrics.evidence_shares``, where evidence is marked. Shape: ``(N,)``.
    """
    import torch

    from ..engine import Geometry

    tops, lefts = (torch.tensor([getattr(view, edge) for view in grid.views]) for edge in ("top", "left"))
    view, cell = torch.tensor(grid.view), torch.tensor([grid.row, grid.col]).T
    cell = torch.where(cell < 0, cell, cell + torch.stack([tops, lefts], dim=1)[view])
    marked = None if evidence is None else torch.tensor(evidence)
    return Geometry(view=view if len(grid.views) > 1 else None, cell=cell, evidence=marked)


def image_of(media: InputImage | Video) -> ImageRecord:
    """The record of the image, or of the first sampled frame."""
    return media.record.frames[0].image if isinstance(media, Video) else media.record


def untrained(vlm: VisionLanguageModel, media: InputImage | Video) -> list[str]:
    """A sentence when the menu knows that the model was not trained with what its architecture takes."""
    from ..models.catalog import find

    entry, kind = find(vlm.record.name), "video" if isinstance(media, Video) else "image"
    if entry is None or kind in entry.takes:
        return []
    one = "an image" if kind == "image" else "a video"
    return [f"{vlm.record.name} was trained with {entry.takes[0]}s only: its answers about {one} mean little."]


def notices_of(media: InputImage | Video) -> list[str]:
    """What was changed or left out on the way, as sentences."""
    if not isinstance(media, Video):
        return [*media.notices]
    looked, facts = len(set(media.indices)), media.facts
    if looked == facts.n_frames:
        return [*media.notices]
    every = facts.duration_s / looked
    return [
        *media.notices,
        f"The model looks at {looked} of {facts.n_frames:,} frames, about one every {every:.2g} seconds.",
    ]


def placed_evidence(
    media: InputImage | Video, evidence: Sequence[Box], evidence_frames: Sequence[int]
) -> tuple[list[Box], list[int]]:
    """Evidence in pixels of what the model is given, and the sampled frame of each box.

    Raises BadInput when boxes of a video do not say in which frame they lie, or boxes of an image do.
    """
    boxes = list(evidence)
    if not isinstance(media, Video):
        if evidence_frames:
            raise BadInput("Evidence in frames is for videos; this is an image.")
        return boxes, []
    if len(evidence_frames) != len(boxes):
        raise BadInput(
            f"There are {len(boxes)} evidence boxes and {len(evidence_frames)} numbers of frames: each box of a video "
            "needs the sampled frame that it lies in, counted from 0."
        )
    for frame in evidence_frames:
        if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < len(media.frames):
            raise BadInput(f"Evidence lies in one of the sampled frames, 0 to {len(media.frames) - 1}, not {frame!r}.")
    (width, height), (full_width, full_height) = media.frames[0].size, media.facts.size
    x, y = width / full_width, height / full_height
    return [(x0 * x, y0 * y, x1 * x, y1 * y) for x0, y0, x1, y1 in boxes], list(evidence_frames)
