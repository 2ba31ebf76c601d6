"""What a session file may hold. A file comes from a stranger: it is measured before anything is built from it.

The largest request that tokviz itself can answer (64 frames, all methods, 23 stages of one of them, some 25,000 visual
tokens) makes about 40 MB with 3.5 million numbers and 2,000 objects; every limit leaves room beyond that.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import BaseModel

from .errors import BadInput

if TYPE_CHECKING:
    from .comparison import Comparison
    from .records import ImageRecord

MAX_BYTES = 64_000_000
MAX_NUMBERS = 6_000_000
"""Entries of all lists and objects together."""
MAX_LISTS = 300_000
"""The box of every token is one."""
MAX_OBJECTS = 100_000
MAX_TEXTS = 1_000_000
"""Names of entries and texts together."""
MAX_KEYS = 1_000
"""Entries of one object that is no list."""
MAX_TEXT = 200_000
"""Characters of one text, images aside; an answer has at most 1,024 tokens."""
MAX_VIEWS = 512
MAX_EVIDENCE = 1_024
MAX_FRAMES = 128
"""Twice as many as a model looks at."""
MAX_FRAME_PIXELS = 4_000_000
"""Frames are scaled down to 1,280 px a side before a model sees them."""
MAX_RUNS = 64
MAX_STAGES = 256
"""Of one run; a stage per layer of a vision tower and of a language model is fewer than 150."""
MAX_PER_STAGE = 200
"""Most maps, charts, readings or facts of one stage: far more than a method leaves, few enough to be drawn."""
MAX_ANSWER_TOKENS = 4_096
MAX_SERVING = 20
MAX_LINES = 1_000
"""Warnings, methods, devices, layers: whatever is listed beside the tokens."""

_LARGE = "This session file is too large to be opened"
NO_SESSION = "This file is not a tokviz session, or it was written by another version."


def check_text(data: bytes) -> None:
    """Refuse a file that would take long to read. Raises BadInput with one sentence.

    Costs a few passes over the bytes; what an object is made of is looked at and thrown away again.
    """
    if len(data) > MAX_BYTES:
        raise BadInput(f"{_LARGE}: it has {len(data):,} bytes; the limit is {MAX_BYTES:,}.")
    # Marks inside of texts count too; a session has few of them there, and images none.
    lists, objects = data.count(b"["), data.count(b"{")
    for count, limit, what in (
        (lists, MAX_LISTS, "lists"),
        (objects, MAX_OBJECTS, "objects"),
        (data.count(b",") + lists + objects, MAX_NUMBERS, "entries"),
        (data.count(b'"') // 2, MAX_TEXTS, "texts"),
    ):
        if count > limit:
            raise BadInput(f"{_LARGE}: it has more than {limit:,} {what}.")
    try:
        json.loads(data.decode("utf-8"), object_pairs_hook=_look_at, parse_constant=_refuse_constant)
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput(NO_SESSION) from error


def _look_at(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > MAX_KEYS:
        raise BadInput(f"The session is damaged: one of its objects has more than {MAX_KEYS:,} entries.")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise BadInput(f"The session is damaged: {twice[:80]!r} is written twice in one object.")


def _refuse_constant(name: str) -> None:
    raise BadInput(f"The session is damaged: {name} is not a number that a session can hold.")


def check_contents(comparison: Comparison) -> None:
    """Refuse counts that nothing can show, and values that nothing can compute with. Raises BadInput."""
    for count, limit, what in _counts(comparison):
        if count > limit:
            raise BadInput(f"The session is damaged or not made by tokviz: it has {count:,} {what} (limit {limit:,}).")
    frames = [] if comparison.video is None else [frame.image for frame in comparison.video.frames]
    if any(frame.width * frame.height > MAX_FRAME_PIXELS for frame in frames):
        raise BadInput(f"The session is damaged: a frame of its video has over {MAX_FRAME_PIXELS:,} pixels.")
    if any(_is_larger_than_said(image) for image in (comparison.image, *frames)):
        raise BadInput("The image inside this session is larger than the session says.")
    _check_values(comparison)


def _is_larger_than_said(image: ImageRecord) -> bool:
    """Whether the header of a stored image names a larger size than its record. What is no image at all is refused
    where it is decoded."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(image.base64)), formats=("PNG", "JPEG")) as stored:
            return stored.width > image.width or stored.height > image.height
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError):
        return False


def _counts(comparison: Comparison) -> Iterable[tuple[int, int, str]]:
    request, video = comparison.request, comparison.video
    yield len(comparison.grid.views), MAX_VIEWS, "views"
    yield len(request.evidence), MAX_EVIDENCE, "evidence boxes"
    yield len(request.evidence_frames), MAX_EVIDENCE, "frames of evidence"
    yield len(request.methods), MAX_LINES, "methods"
    yield 0 if video is None else len(video.frames), MAX_FRAMES, "frames"
    yield sum(len(view.frames) for view in comparison.grid.views), MAX_FRAMES, "frames of views"
    yield len(comparison.runs), MAX_RUNS, "lanes"
    yield len(comparison.warnings), MAX_LINES, "warnings"
    yield len(comparison.model.devices), MAX_LINES, "devices"
    for run in comparison.runs:
        yield len(run.stages), MAX_STAGES, "stages in a lane"
        yield len(run.answer_tokens), MAX_ANSWER_TOKENS, "answer tokens in a lane"
        yield len(run.warnings), MAX_LINES, "warnings in a lane"
        yield len(run.serving), MAX_SERVING, "serving stacks in a lane"
        yield len(run.tokens_per_layer), MAX_LINES, "layers in a lane"
        for stage in run.stages:
            most = max(len(stage.maps), len(stage.charts), len(stage.readings), len(stage.facts))
            yield most, MAX_PER_STAGE, "maps, charts, readings or facts in a stage"


def _check_values(value: Any) -> None:
    """Raise BadInput for a whole number beyond 64 bits, one that is not finite, and an endless text; in linear time."""
    kind = type(value)
    if kind is str:
        if len(value) > MAX_TEXT:
            raise BadInput(f"The session is damaged: it holds a text of {len(value):,} characters.")
    elif kind is float:
        _check_floats([value])
    elif kind is int:
        _check_whole([value])
    elif kind is list or kind is tuple:
        _check_list(value)
    elif kind is dict:
        _check_list([*value.keys(), *value.values()])
    elif isinstance(value, BaseModel):
        # An image is as long as its file, and is looked at where it is decoded.
        for name, held in value.__dict__.items():
            if name != "base64":
                _check_values(held)
    elif hasattr(value, "vision_layer"):
        _check_whole([value.vision_layer])


def _check_list(values: Iterable[Any]) -> None:
    """Numbers all at once, whatever else is there one by one."""
    by_kind: dict[type, list[Any]] = {}
    for value in values:
        by_kind.setdefault(type(value), []).append(value)
    for kind, same in by_kind.items():
        if kind is float:
            _check_floats(same)
        elif kind is int:
            _check_whole(same)
        elif kind is not bool and kind is not type(None):
            for value in same:
                _check_values(value)


def _check_floats(values: list[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise BadInput("The session is damaged: it holds a number that is too large or not a number.")


def _check_whole(values: list[int]) -> None:
    if not -(2**63) <= min(values) <= max(values) < 2**63:
        raise BadInput("The session is damaged: it holds a whole number of more than 64 bits.")
