"""What is stored of an image or video: the file, its grid of visual tokens, and what was measured of it. No torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .names import Box
from .record_base import FailFastMark, Many, Record


class GridView(Record):
    """A regular grid of patches: an image, a tile or a frame.

    Attributes:
        seen: The part of the image that the view covers.
        level: Views on the same level show different parts of the image, side by side, and can be drawn together. An
            image that is given to the model twice, whole (0) and in crops (1), has two levels.
        top: Row of its level at which the view starts.
        left: Column of its level at which the view starts.
        frames: For a video, which of the sampled frames (from 0) the view shows: one, or several that became one grid
            (two in Qwen models). Each view is then a level of its own. Empty for images.
    """

    name: str
    rows: int
    cols: int
    seen: Box
    level: int = 0
    top: int = 0
    left: int = 0
    frames: Annotated[tuple[int, ...], FailFastMark()] = ()


class TokenGrid(Record):
    """Where each visual token is. The only place that knows geometry; built by the model family.

    All lists have ``N`` entries, in the order in which the LLM receives the unpruned tokens.

    Attributes:
        image_size: Width and height of the original image (of each frame, for a video, whose frames have one size).
        views: The images, tiles or frames.
        view: Index into ``views`` for each token.
        row: Row in the view; -1 for tokens that are not patches (newline, video [CLS]).
        col: Column in the view; -1 for tokens that are not patches.
        box: Box in pixels of the original image or frame, clipped to it; None for tokens that are not patches.
    """

    image_size: tuple[int, int]
    views: Many[GridView]
    view: Many[int]
    row: Many[int]
    col: Many[int]
    box: Many[Box | None]

    @property
    def n_tokens(self) -> int:
        """Number of visual tokens, patches and others."""
        return len(self.view)

    @property
    def is_video(self) -> bool:
        """Whether the views are frames of a video."""
        return any(view.frames for view in self.views)

    @property
    def is_tiled(self) -> bool:
        """Whether the views are a thumbnail and crops of one image."""
        return not self.is_video and any(view.level > 0 for view in self.views)

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = {len(self.view), len(self.row), len(self.col), len(self.box)}
        if len(lengths) != 1:
            raise ValueError(f"TokenGrid lists must have the same length, got lengths {sorted(lengths)}")
        for number, row, col in zip(self.view, self.row, self.col, strict=True):
            view = self.views[number] if 0 <= number < len(self.views) else None
            if view is None or not (row == col == -1 or (0 <= row < view.rows and 0 <= col < view.cols)):
                raise ValueError(f"there is no row {row}, column {col} in a view {number}")
        return self


class OutOfWorld(Record):
    """How unlike its training images a model of a small, closed world finds an image.

    Attributes:
        score: Mahalanobis distance of the image from training images, in the middle of the vision tower.
        threshold: Beyond it an image is called outside; measured on training images that were not fitted on.
        false_alarms: The share of those beyond it.
    """

    score: float
    threshold: float
    false_alarms: float

    @property
    def is_outside(self) -> bool:
        """Whether the model's answer about the image means little."""
        return self.score > self.threshold


class ImageMeasures(Record):
    """Two numbers that say how much of the image is spread out, in the sense of AgilePruner (arXiv 2603.01236).

    Methods that rank by attention do well where both are low, methods that keep tokens diverse where both are high.

    Attributes:
        attention_entropy: Entropy in nats of the [CLS] row of attention, mean over heads, over the visual tokens of a
            view, in the layer of the vision tower whose output becomes the features. Between 0 (one token has it all)
            and ln N (all alike). None without [CLS].
        effective_rank: The exponential of the entropy of the singular values of the features ``(N, D)`` of a view,
            divided by their sum: between 1 and min(N, D). Features as they leave the tower, neither centred nor scaled
            (behind the projector where it merges patches). None if it was too large to be measured in passing.
        views: Number of images, tiles or frames that both are the mean of.
        out_of_world: For an embedded model, how unlike its training images the image is; None for all others.
        notes: Why a number is missing, in sentences.
    """

    attention_entropy: float | None
    effective_rank: float | None
    views: int = 1
    out_of_world: OutOfWorld | None = None
    notes: Many[str] = Field(default=[])


class ImageRecord(Record):
    """The image of a request: size in pixels after EXIF rotation, digest, and the file itself in base64."""

    width: int
    height: int
    sha256: str
    mime: Literal["image/png", "image/jpeg"]
    base64: str
    name: str = ""


class FrameRecord(Record):
    """A sampled frame: its number in the file (from 0), its display time in seconds, and its image."""

    index: int
    time_s: float
    image: ImageRecord


class VideoRecord(Record):
    """The video of a request: facts about the file (size in px after rotation), its digest, and the sampled frames."""

    name: str = ""
    sha256: str
    width: int
    height: int
    duration_s: float
    fps: float
    n_frames: int
    frames: Many[FrameRecord]
