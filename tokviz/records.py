"""What is left of a run: plain numbers and text, written to JSON and read back without loss. No torch, no gradio.

Views, exports and stored sessions see these records and nothing else. Every index refers to the ORIGINAL N visual
tokens. How a run comes about (signals, selections, stages) is in ``types.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, model_validator

from .names import Box, BudgetMeaning, ChartKind, MethodFamily, PositionPolicy, Site
from .short import short, short_repr

SCHEMA_VERSION = 1
T = TypeVar("T")


class _FailFast(FailFast):
    """pydantic's mark, hashable, so that a list that has it can be a part of a union."""

    __hash__ = object.__hash__


Many = Annotated[list[T], _FailFast()]
"""A list that is refused at its first wrong entry: a message for each of millions would take gigabytes."""

if TYPE_CHECKING:  # a method fills these with tensors
    Numbers = Any
    Flags = Any
else:
    Numbers = Many[float | None]
    Flags = Many[bool]


class Record(BaseModel):
    """Base of everything that goes to JSON: immutable, unknown keys refused, NaN never written (null instead)."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """What ``repr``, ``str`` and rich show: long texts and lists are not written out."""
        return [(name, short(value)) for name, value in self]


class BudgetMeanings(Record):
    """The three meanings of a budget, in tokens."""

    final: int
    average_in: float
    average_logged: float


class GridView(Record):
    """One regular grid of patches: a picture, a tile or a frame. ``seen`` is what of the picture it covers.

    layer: views of one layer show different parts of the picture, side by side, and can be drawn together; a picture
    that is looked at twice, whole (0) and in crops (1), has two layers. top, left: where the view's first row and
    column lie among the rows and columns of its layer.
    frames: of a video, which of the sampled frames (counted from 0) the view shows, one or several that became one grid
    (two of Qwen's); then every view is a layer of its own. Empty for pictures.
    """

    name: str
    rows: int
    cols: int
    seen: Box
    layer: int = 0
    top: int = 0
    left: int = 0
    frames: Annotated[tuple[int, ...], _FailFast()] = ()


class TokenGrid(Record):
    """Where each visual token lies. The only place that knows geometry; built by the model family.

    Shape: all lists have ``N`` entries in the order in which the LLM receives the unpruned tokens. ``row`` and ``col``
    are -1 and ``box`` is None for tokens that are no patch (newline, video [CLS]). Boxes are in pixels of the original
    picture (of each frame, for a video, whose frames have one size) and are clipped to it.
    """

    picture_size: tuple[int, int]
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
        """Whether the views are a thumbnail and crops of one picture."""
        return not self.is_video and any(view.layer > 0 for view in self.views)

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


@dataclass(frozen=True, repr=False)
class _Diagnostic:
    """Base of what a stage leaves for the views: made of tensors by a method, of plain lists in a record."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    def __repr__(self) -> str:
        return short_repr(self, **{entry.name: getattr(self, entry.name) for entry in fields(self)})


@dataclass(frozen=True, repr=False)
class TokenMap(_Diagnostic):
    """A named number per visual token.

    Shape: values ``(N,)``; in a record those of the original N tokens, None where the token had already been dropped or
    the value is not finite. ``direction`` says in words what high means.
    """

    name: str
    label: str
    values: Numbers
    unit: str = ""
    direction: str = "high is kept first"
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True, repr=False)
class Chart(_Diagnostic):
    """A small diagram, which views draw without knowing the method.

    kind: ``line`` (y over x), ``scatter`` (points), ``bars`` (y per entry of ``names``).
    line: a threshold drawn across. tokens: for a scatter or bars, the visual token of each point, so that views link
    points and patches. marked: positions in ``y`` that the method picked. about: one of the tokens whose picture, tile
    or frame the diagram is about, None for all. Tokens are rows of the stage, in a record original indices.
    """

    name: str
    label: str
    kind: ChartKind
    y: Numbers
    x: Numbers = field(default_factory=list)
    names: Many[str] = field(default_factory=list)
    x_label: str = ""
    y_label: str = ""
    line: float | None = None
    tokens: Many[int] = field(default_factory=list)
    marked: Many[int] = field(default_factory=list)
    about: int | None = None


@dataclass(frozen=True, repr=False)
class Reading(_Diagnostic):
    """One number that a stage measured, and the threshold it was held against; views draw it over the stages."""

    name: str
    label: str
    value: float | None
    line: float | None = None
    unit: str = ""


@dataclass(frozen=True, repr=False)
class TextScores(_Diagnostic):
    """A number per text token behind the last visual token, and which of them a method chose to listen to (raters).

    Shape: values ``(M,)``, chosen ``(M,)`` bool. line: the threshold that decided, None when none did.
    """

    name: str
    label: str
    values: Numbers
    chosen: Flags
    line: float | None = None


class StageRecord(Record):
    """One stage of one run. Every index and list refers to the ORIGINAL N visual tokens, so that views compose nothing.

    kept: ascending original indices alive after this stage. order: step at which a token was picked, -1 else.
    assignment: original index of the token that carries it after this stage (itself if kept), -1 if dropped without a
    merge or dropped earlier; None if the stage does not merge. n_extra: tokens that are no patch and that the stage
    added ([CLS], a summary). sequence: the order in which the LLM gets the tokens, original indices, -1 for an added
    token; None when it is ascending with added tokens last.
    """

    title: str
    site: Site
    site_label: str
    positions: PositionPolicy
    planned_keep: int | None
    n_in: int
    kept: Many[int]
    score: TokenMap | None
    order: Many[int] | None
    assignment: Many[int] | None
    maps: Many[TokenMap]
    n_extra: int = 0
    sequence: Many[int] | None = None
    charts: Many[Chart] = []
    readings: Many[Reading] = []
    text: TextScores | None = None
    facts: dict[str, Any]
    selection_ms: float | None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Where, and how many of how many are left."""
        return [("title", short(self.title)), ("site", self.site), ("n_in", self.n_in), ("kept", short(self.kept))]


class Timing(Record):
    """A measured duration in ms. ``single_shot`` when there was one cold measurement instead of a median."""

    median_ms: float
    samples: int
    single_shot: bool


class AnswerToken(Record):
    """One generated token and the log-probability (natural log) the model gave it."""

    id: int
    text: str
    logprob: float | None


class Cost(Record):
    """What the run cost. FLOPs are computed from a formula (see ``measures.py``), bytes are read off the real cache."""

    prefill_flops: float
    decode_flops: float
    vision_flops: float
    kv_cache_bytes: int | None
    peak_memory_bytes: int | None


class Run(Record):
    """One method on one request. ``error`` is a sentence for the user when the lane could not be run."""

    method: str
    label: str
    family: MethodFamily
    params: dict[str, Any]
    planned: BudgetMeanings | None = None
    actual: BudgetMeanings | None = None
    tokens_per_block: Many[int] = []
    stages: Many[StageRecord] = []
    answer: str = ""
    answer_tokens: Many[AnswerToken] = []
    timings: dict[str, Timing] = {}
    cost: Cost | None = None
    warnings: Many[str] = []
    error: str | None = None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The method, and its answer or why there is none."""
        said = ("answer", short(self.answer)) if self.error is None else ("error", short(self.error))
        left = None if self.actual is None else self.actual.final
        return [("method", short(self.method)), said, ("tokens_left", left), ("stages", short(self.stages))]

    @property
    def kept(self) -> list[int] | None:
        """Original indices of the visual tokens alive after the last stage; None when nothing was pruned."""
        return self.stages[-1].kept if self.stages else None


class PictureRecord(Record):
    """The picture of a request: size in pixels after EXIF rotation, digest, and the file itself as base64."""

    width: int
    height: int
    sha256: str
    mime: Literal["image/png", "image/jpeg"]
    base64: str
    name: str = ""


class FrameRecord(Record):
    """One sampled frame: its number in the file (from 0), the time it is shown at in seconds, and what it shows."""

    index: int
    time_s: float
    picture: PictureRecord


class VideoRecord(Record):
    """The video of a request: the file's facts (size in px after rotation), digest of its bytes, the sampled frames."""

    name: str = ""
    sha256: str
    width: int
    height: int
    duration_s: float
    fps: float
    n_frames: int
    frames: Many[FrameRecord]


class Request(Record):
    """What was asked.

    evidence_frames: of a video, the sampled frame (counted from 0) of each box of ``evidence``; else empty.
    """

    question: str
    methods: Many[str]
    budget: int
    budget_as: BudgetMeaning
    params: dict[str, dict[str, Any]]
    seed: int
    max_new_tokens: int
    repeats: int
    expected_answer: str | None = None
    evidence: Many[Box] = []
    evidence_frames: Many[int] = []


class ModelRecord(Record):
    """Which model answered, and on what.

    attention: the kernel of the LLM's blocks; tower_attention: of the vision tower, where that is another one.
    quantization: ``8bit`` or ``4bit`` weights of linear layers, None for weights in ``dtype``. parameters: numbers in
    the model, 0 in sessions of earlier versions. devices: where the weights lie, when on more than one.
    """

    name: str
    family: str
    n_blocks: int
    hidden_size: int
    dtype: str
    device: str
    attention: str
    embedded: bool
    tower_attention: str | None = None
    quantization: Literal["8bit", "4bit"] | None = None
    parameters: int = 0
    devices: Many[str] = []


class Comparison(Record):
    """The runs of one request. ``runs[0]`` is the unpruned one (method ``full``).

    text_tokens: the prompt's tokens behind the last visual token, as text; empty in sessions of earlier versions.
    video: None when the question was about a picture; else ``picture`` is its first sampled frame, and ``evidence`` of
    the request lies in the frames that ``request.evidence_frames`` says.
    """

    schema_version: int = SCHEMA_VERSION
    request: Request
    model: ModelRecord
    picture: PictureRecord
    video: VideoRecord | None = None
    grid: TokenGrid
    text_tokens: Many[str] = []
    runs: Many[Run]
    versions: dict[str, str]
    timings: dict[str, Timing] = {}
    warnings: Many[str] = []

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The question, who was asked, and the first answers; ``run`` and ``to_json`` have the rest."""
        shown = {short(run.method): short(run.answer if run.error is None else run.error) for run in self.runs[:4]}
        return [
            ("model", short(self.model.name)),
            ("question", short(self.request.question)),
            ("budget", self.request.budget),
            ("runs", len(self.runs)),
            ("answers", shown),
        ]

    @model_validator(mode="after")
    def _frames_exist(self) -> Self:
        request, n_frames = self.request, 0 if self.video is None else len(self.video.frames)
        if self.grid.is_video != (n_frames > 0):
            raise ValueError("a grid of frames belongs to a video with frames")
        if n_frames and len(request.evidence_frames) != len(request.evidence):
            raise ValueError("each evidence box of a video needs its frame")
        used = [*request.evidence_frames, *(frame for view in self.grid.views for frame in view.frames)]
        if not all(0 <= frame < n_frames for frame in used):
            raise ValueError(f"frames are numbered 0 to {n_frames - 1}")
        if self.video is not None:
            indices = [-1, *(frame.index for frame in self.video.frames), self.video.n_frames]
            if sorted(indices) != indices or indices[1] < 0 or indices[-2] == indices[-1]:
                raise ValueError(f"the file's frames are numbered 0 to {self.video.n_frames - 1}, ascending")
        return self

    def run(self, method: str) -> Run:
        """The run of a method id. Raises KeyError with the ids that are there."""
        for run in self.runs:
            if run.method == method:
                return run
        raise KeyError(f"no run of method {method!r}; this comparison has {[r.method for r in self.runs]}")

    def to_json(self) -> str:
        """The whole comparison as JSON text (schema version included)."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Comparison:
        """Read what ``to_json`` wrote. Raises BadInput with one sentence when the text is no tokviz session.

        Any file is answered in seconds: what is larger than a session can be is refused before it is built, see
        ``session_limits``.
        """
        from .errors import BadInput
        from .session_limits import check_contents, check_text

        try:
            data = text.encode() if isinstance(text, str) else text
            check_text(data)
            comparison = cls.model_validate_json(data)
        except BadInput:
            raise
        except ValueError as error:
            raise BadInput("This file is not a tokviz session, or it was written by another version.") from error
        if comparison.schema_version != SCHEMA_VERSION:
            raise BadInput(
                f"This session has schema version {comparison.schema_version}; "
                f"this tokviz reads version {SCHEMA_VERSION}."
            )
        check_contents(comparison)
        return comparison
