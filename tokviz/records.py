"""What is stored of a run: plain numbers and text, written to JSON and read back without loss. No torch, no gradio.

Views, exports and stored sessions use these records and nothing else. Every index refers to the ORIGINAL N visual
tokens. The types in use during a run (signals, selections, stages) are in ``types.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, model_validator

from .names import Box, BudgetMeaning, ChartKind, MethodFamily, PositionPolicy, Site
from .short import short, short_repr

T = TypeVar("T")


class _FailFast(FailFast):
    """A hashable version of pydantic's marker, so that a list that has it can be part of a union."""

    __hash__ = object.__hash__


Many = Annotated[list[T], _FailFast()]
"""A list that is rejected at its first invalid entry: one message for each of millions would take gigabytes."""

if TYPE_CHECKING:  # a method fills these with tensors
    Numbers = Any
    Flags = Any
else:
    Numbers = Many[float | None]
    Flags = Many[bool]


class Record(BaseModel):
    """Base of everything that is written to JSON: immutable, unknown keys rejected, NaN written as null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """What ``repr``, ``str`` and rich show: long texts and lists are abbreviated."""
        return [(name, short(value)) for name, value in self]


class BudgetMeanings(Record):
    """The three meanings of a budget, in tokens."""

    final: int
    average_in: float
    average_logged: float


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
    frames: Annotated[tuple[int, ...], _FailFast()] = ()


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


@dataclass(frozen=True, repr=False)
class _Diagnostic:
    """Base of what a stage leaves for the views: built from tensors by a method, from plain lists in a record."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    def __repr__(self) -> str:
        return short_repr(self, **{entry.name: getattr(self, entry.name) for entry in fields(self)})


@dataclass(frozen=True, repr=False)
class TokenMap(_Diagnostic):
    """A named number for each visual token.

    Attributes:
        values: ``(N,)``. In a record, one for each of the original N tokens; None if the token had already been dropped
            or the value is not finite.
        direction: What a high value means, in words.
    """

    name: str
    label: str
    values: Numbers
    unit: str = ""
    direction: str = "high is kept first"
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True, repr=False)
class Chart(_Diagnostic):
    """A small chart, which views can draw without knowing the method.

    Tokens are rows of the stage; in a record, they are original indices.

    Attributes:
        kind: ``line`` (y over x), ``scatter`` (points) or ``bars`` (y for each entry of ``names``).
        line: A threshold to draw across the chart.
        tokens: For a scatter or bars, the visual token of each point, so that views can link points and patches.
        marked: Positions in ``y`` that the method picked.
        about: A token of the image, tile or frame that the chart is about; None if it is about all of them.
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
    """A number that a stage measured, and the threshold it was compared with; views draw it over the stages."""

    name: str
    label: str
    value: float | None
    line: float | None = None
    unit: str = ""


@dataclass(frozen=True, repr=False)
class TextScores(_Diagnostic):
    """A number for each text token after the last visual token, and which of them the method used as raters.

    Attributes:
        values: ``(M,)``.
        chosen: ``(M,)`` bool, True for the raters.
        line: The threshold that decided; None if there was none.
    """

    name: str
    label: str
    values: Numbers
    chosen: Flags
    line: float | None = None


class StageRecord(Record):
    """One stage of one run. Every index refers to the ORIGINAL N visual tokens, so views never have to map indices.

    Attributes:
        planned_keep: Planned number of tokens to keep; None if it was decided at run time.
        n_in: Number of tokens that entered the stage.
        kept: Original indices alive after this stage, ascending.
        order: Step at which each token was picked, else -1.
        assignment: Original index of the token that carries each token after this stage (itself if kept); -1 if it was
            dropped without merging or dropped earlier. None if the stage does not merge.
        covered_by: Original index of the kept token that stands for each token without a merge (itself if kept); -1 if
            there is none. None if the method has no such groups.
        order_is_basis: Whether the picked tokens are a basis from which the others are reconstructed.
        n_extra: Number of tokens that the stage added and that are not patches.
        extra_name: What the added tokens are ([CLS], a summary).
        sequence: Order in which the LLM gets the tokens, as original indices, -1 for an added token. None if it is
            ascending with added tokens last.
        rectify: Whether ln(group size) was added to the attention logits of the tokens that it merged, in every later
            layer of the LLM.
        selection_ms: Time that the selection took, in ms.
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
    covered_by: Many[int] | None = None
    rectify: bool = False
    facts: dict[str, Any]
    selection_ms: float | None

    @property
    def basis(self) -> list[int]:
        """The tokens from which the stage rebuilds the others: those that it picked step by step."""
        return [token for token, step in enumerate(self.order or ()) if step >= 0] if self.order_is_basis else []

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The site, and how many tokens are left of how many."""
        return [("title", short(self.title)), ("site", self.site), ("n_in", self.n_in), ("kept", short(self.kept))]


class Timing(Record):
    """A measured duration in ms.

    Attributes:
        single_shot: Whether this is one cold measurement instead of a median.
    """

    median_ms: float
    samples: int
    single_shot: bool


class AnswerToken(Record):
    """A generated token and the log-probability (natural log) that the model gave it.

    Attributes:
        runner_up: Log-probability of the most likely other token at this place; None in sessions from earlier versions.
    """

    id: int
    text: str
    logprob: float | None
    runner_up: float | None = None

    @property
    def margin(self) -> float | None:
        """Log-probability of this token minus that of the runner-up, in nats; near 0, little would change the answer.

        Never negative, as answers are greedy, unless the model's own settings forbid the likeliest token.
        """
        return None if self.logprob is None or self.runner_up is None else self.logprob - self.runner_up


class Cost(Record):
    """The cost of a run: FLOPs computed from a formula (see ``measures.py``), bytes read from the real cache."""

    prefill_flops: float
    decode_flops: float
    vision_flops: float
    kv_cache_bytes: int | None
    peak_memory_bytes: int | None


class ServingFlag(Record):
    """What makes a serving stack prune as many tokens as a run did, by the same method.

    Attributes:
        command: To be copied, with ``MODEL`` in place of the model; empty where the stack cannot do it, which ``note``
            explains.
        read_in: The version of the stack, or of its documentation, that this was read in.
        note: Where the stack differs, or empty.
    """

    stack: str
    command: str
    read_in: str
    note: str = ""


class Run(Record):
    """One method on one request.

    Attributes:
        variant: What distinguishes the run from others of the same method, as text (``"mode=official"``); empty if
            there is only one.
        tokens_per_layer: Number of visual tokens that each LLM layer processed.
        effective_rank: How many directions the features of the tokens kept spread over, see ``ImageMeasures``: of those
            that the last stage left, or the last before all are withdrawn, by their features as the vision tower made
            them, before any merge. None if it was not measured.
        serving: How serving stacks do the same, for methods that some of them have.
        error: A sentence for the user if the method could not run, else None.
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
    effective_rank: float | None = None
    warnings: Many[str] = []
    serving: Many[ServingFlag] = []
    error: str | None = None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The method, and its answer or the reason why there is none."""
        said = ("answer", short(self.answer)) if self.error is None else ("error", short(self.error))
        left = None if self.actual is None else self.actual.final
        return [("method", short(self.key)), said, ("tokens_left", left), ("stages", short(self.stages))]

    @property
    def key(self) -> str:
        """The run's name in its comparison: the method id, plus the variant if there is one."""
        return key_of(self.method, self.variant)

    @property
    def margin(self) -> float | None:
        """The margin of the answer's first token (see ``AnswerToken.margin``), which decides a short answer."""
        return self.answer_tokens[0].margin if self.answer_tokens else None

    @property
    def least_margin(self) -> float | None:
        """The smallest margin of all tokens of the answer, its end included: where it came closest to another one."""
        margins = [token.margin for token in self.answer_tokens if token.margin is not None]
        return min(margins, default=None)

    @property
    def kept(self) -> list[int] | None:
        """Original indices of the visual tokens left after the last stage; None if nothing was pruned."""
        return self.stages[-1].kept if self.stages else None


def key_of(method: str, variant: str) -> str:
    """Return the name of a run in its comparison, e.g. ``"apet (mode=official)"``."""
    return f"{method} ({variant})" if variant else method


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
    notes: Many[str] = []


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


class RequestedMethod(Record):
    """A requested method with all its parameters; ``variant`` as in ``Run``."""

    method: str
    params: dict[str, Any] = {}
    variant: str = ""

    @property
    def key(self) -> str:
        """The name of its run in the comparison."""
        return key_of(self.method, self.variant)


class Request(Record):
    """The request that a comparison answers.

    Attributes:
        evidence: Boxes around what shows the answer, in pixels.
        evidence_frames: For a video, the sampled frame (from 0) of each box in ``evidence``; else empty.
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
    """The model that answered, and what it ran on.

    Attributes:
        attention: The attention kernel of the LLM's layers.
        embedded: Whether the model ships with tokviz.
        tower_attention: The attention kernel of the vision tower, if it is a different one.
        quantization: ``8bit`` or ``4bit`` weights of linear layers; None for weights in ``dtype``.
        parameters: Number of parameters; 0 in sessions from earlier versions.
        devices: Devices that hold the weights, if more than one.
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
