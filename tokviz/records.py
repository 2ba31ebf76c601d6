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
    """One regular grid of patches: an image, a tile or a frame. ``seen`` is what of the image it covers.

    level: views of one level show different parts of the image, side by side, and can be drawn together; an image
    that is looked at twice, whole (0) and in crops (1), has two levels. top, left: where the view's first row and
    column lie among the rows and columns of its level.
    frames: of a video, which of the sampled frames (counted from 0) the view shows, one or several that became one grid
    (two of Qwen's); then every view is a level of its own. Empty for images.
    """

    name: str
    rows: int
    cols: int
    seen: Box
    level: int = 0
    top: int = 0
    left: int = 0
    frames: Annotated[tuple[int, ...], _FailFast()] = ()


class TokenGrid(Record):
    """Where each visual token lies. The only place that knows geometry; built by the model family.

    Shape: all lists have ``N`` entries in the order in which the LLM receives the unpruned tokens. ``row`` and ``col``
    are -1 and ``box`` is None for tokens that are no patch (newline, video [CLS]). Boxes are in pixels of the original
    image (of each frame, for a video, whose frames have one size) and are clipped to it.
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
    points and patches. marked: positions in ``y`` that the method picked. about: one of the tokens whose image, tile
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
    order_is_basis: whether the picked tokens are a basis from which the others are rebuilt.
    assignment: original index of the token that carries it after this stage (itself if kept), -1 if dropped without a
    merge or dropped earlier; None if the stage does not merge.
    n_extra: tokens that are no patch and that the stage added; extra_name: what they are ([CLS], a summary).
    sequence: the order in which the LLM gets the tokens, original indices, -1 for an added token; None when it is
    ascending with added tokens last.
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
    order_is_basis: bool = False
    n_extra: int = 0
    extra_name: str = ""
    sequence: Many[int] | None = None
    charts: Many[Chart] = []
    readings: Many[Reading] = []
    text: TextScores | None = None
    facts: dict[str, Any]
    selection_ms: float | None

    @property
    def basis(self) -> list[int]:
        """The tokens from which the stage rebuilds the others: those that it picked step by step."""
        return [token for token, step in enumerate(self.order or ()) if step >= 0] if self.order_is_basis else []

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
    """One method on one request. ``error`` is a sentence for the user when the method could not be run.

    variant: what sets the run apart from others of the same method, as text ("mode=official"); empty for one alone.
    """

    method: str
    label: str
    family: MethodFamily
    params: dict[str, Any]
    variant: str = ""
    planned: BudgetMeanings | None = None
    actual: BudgetMeanings | None = None
    tokens_per_layer: Many[int] = []
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
        return [("method", short(self.key)), said, ("tokens_left", left), ("stages", short(self.stages))]

    @property
    def key(self) -> str:
        """The name of this run in its comparison: the method id, with the variant where there is one."""
        return key_of(self.method, self.variant)

    @property
    def kept(self) -> list[int] | None:
        """Original indices of the visual tokens alive after the last stage; None when nothing was pruned."""
        return self.stages[-1].kept if self.stages else None


def key_of(method: str, variant: str) -> str:
    """The name of a run in its comparison, e.g. ``"apet (mode=official)"``."""
    return f"{method} ({variant})" if variant else method


class ImageRecord(Record):
    """The image of a request: size in pixels after EXIF rotation, digest, and the file itself as base64."""

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
    image: ImageRecord


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


class RequestedMethod(Record):
    """A method that was asked for, with all its parameters; ``variant`` as in ``Run``."""

    method: str
    params: dict[str, Any] = {}
    variant: str = ""

    @property
    def key(self) -> str:
        """The name of its run in the comparison."""
        return key_of(self.method, self.variant)


class Request(Record):
    """What was asked.

    evidence_frames: of a video, the sampled frame (counted from 0) of each box of ``evidence``; else empty.
    """

    question: str
    methods: Many[RequestedMethod]
    budget: int
    budget_as: BudgetMeaning
    seed: int
    max_new_tokens: int
    repeats: int
    expected_answer: str | None = None
    evidence: Many[Box] = []
    evidence_frames: Many[int] = []


class ModelRecord(Record):
    """Which model answered, and on what.

    attention: the kernel of the LLM's layers; tower_attention: of the vision tower, where that is another one.
    quantization: ``8bit`` or ``4bit`` weights of linear layers, None for weights in ``dtype``. parameters: numbers in
    the model, 0 in sessions of earlier versions. devices: where the weights lie, when on more than one.
    """

    name: str
    family: str
    n_layers: int
    hidden_size: int
    dtype: str
    device: str
    attention: str
    embedded: bool
    tower_attention: str | None = None
    quantization: Literal["8bit", "4bit"] | None = None
    parameters: int = 0
    devices: Many[str] = []
