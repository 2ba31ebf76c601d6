"""The nouns of tokviz: one meaning each, everywhere. No torch, no gradio at import time.

Letters used throughout the project: ``N`` visual tokens before a stage, ``K`` kept, ``D`` width, ``L`` LLM blocks
(``block i`` is 0-based), ``(R, C)`` grid rows and columns. A higher score always means "keep".

Two halves. The first half (dataclasses) is what pruners and engine hand to each other while a model runs; it holds
tensors. The second half (pydantic models) is what is left afterwards: plain numbers and text, written to JSON and read
back without loss. Views, exports and stored sessions see only the second half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from torch import Generator, Tensor

SCHEMA_VERSION = 1

MethodFamily = Literal[
    "approximation-error", "attention-ranked", "diversity", "merging", "text-guided", "progressive", "control"
]
BudgetMeaning = Literal["published", "final", "average"]
PositionPolicy = Literal["keep", "reindex"]
Params = Mapping[str, Any]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the original picture (after EXIF rotation)."""


# ---------------------------------------------------------------------------------------------------------------------
# While a model runs
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """One signal that a stage wants beside its features. The engine captures just what is asked for.

    kind:
        ``cls_attention``   [CLS] row of a vision block, mean over heads, patches only -> ``Signals.cls_attention``
        ``encoder_keys``    keys of a vision block, mean over heads, patches only -> ``Signals.keys``
        ``text_features``   embeddings of the question tokens in LLM space -> ``Signals.text_features``
        ``last_row``        attention row of the last prompt token on the visual tokens -> ``Signals.attention_rows``
        ``text_rows``       rows of all tokens after the last visual token -> ``Signals.attention_rows``
        ``previous_features``  hidden states that entered the block before the stage -> ``Signals.previous_features``
    block:
        for vision signals ``"feature"`` (the block whose output becomes the visual features; CLIP block 22 of 24 in
        LLaVA-1.5) or ``"last"``; for attention rows ``"previous"`` (the block before the stage, which has already run
        on the unpruned sequence) or ``"this"`` (the block the stage stands before, recomputed from its input).
    """

    kind: Literal["cls_attention", "encoder_keys", "text_features", "last_row", "text_rows", "previous_features"]
    block: Literal["feature", "last", "previous", "this"] | None = None


CLS_ATTENTION = Need("cls_attention", "feature")
CLS_ATTENTION_LAST_BLOCK = Need("cls_attention", "last")
ENCODER_KEYS = Need("encoder_keys", "feature")
TEXT_FEATURES = Need("text_features")
LAST_ROW = Need("last_row", "previous")
TEXT_ROWS = Need("text_rows", "previous")
PREVIOUS_FEATURES = Need("previous_features")


@dataclass(frozen=True)
class Signals:
    """What one stage may look at, for one sequence; rows are the visual tokens still alive, in sequence order.

    Shape:
        features: ``(N, D)`` at the stage's site. cls_attention, received_attention: ``(N,)``. keys: ``(N, d_k)``.
        text_features: ``(M, D)``. attention_rows: ``(rows, N)``, probabilities (softmax over the whole causal row),
        mean over heads, float32. previous_features: ``(N, D)``. candidates: ``(N,)`` bool, False for rows that are no
        image patch (newline, video [CLS]); None when every row is a patch. view: ``(N,)`` int, the tile or frame of
        each row; None when there is one.
    """

    features: Tensor
    cls_attention: Tensor | None = None
    received_attention: Tensor | None = None
    keys: Tensor | None = None
    text_features: Tensor | None = None
    attention_rows: Tensor | None = None
    previous_features: Tensor | None = None
    candidates: Tensor | None = None
    view: Tensor | None = None


@dataclass(frozen=True)
class TokenMap:
    """A named number per visual token, for the views.

    Shape: values ``(N,)`` float. ``direction`` says in words what high means ("high is kept first").
    """

    name: str
    label: str
    values: Tensor
    unit: str = ""
    direction: str = "high is kept first"
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class Selection:
    """What one stage decided, in indices of the rows it was given.

    Shape:
        kept: ``(K,)`` int64, ascending, unique. score: the map that ranked the tokens, or None (random, withdrawal).
        order: ``(N,)`` int64, the 0-based step at which a greedy method picked the token, -1 where it did not; or None.
        assignment: ``(N,)`` int64, for every token the index (into the N rows) of the kept token that carries it:
        itself for kept tokens, the absorber for merged ones, -1 for tokens that were dropped without merging; or None
        when the method never merges. features: ``(K, D)``, rows of ``kept`` after merging; None when unchanged.
        maps: further maps for the views. facts: plain numbers and texts worth recording (thresholds, alphas).
    """

    kept: Tensor
    score: TokenMap | None = None
    order: Tensor | None = None
    assignment: Tensor | None = None
    features: Tensor | None = None
    maps: Sequence[TokenMap] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


SelectFunction = Callable[[Signals, "int | None", Params, "Generator"], Selection]


@dataclass(frozen=True)
class Stage:
    """One place where visual tokens are dropped.

    site:
        ``"encoder"`` (vision features before the projector), ``"projector"`` (embeddings that enter the LLM), or an
        int ``i``: before LLM block ``i`` (0-based), i.e. the first block that sees fewer tokens.
    keep:
        how many visual tokens stay, or None when the method decides at run time (ToDRE's withdrawal).
    select:
        ``(signals, keep, params, generator) -> Selection``; pure.
    positions:
        what happens to position ids of the tokens behind: ``reindex`` closes the gap, ``keep`` leaves it.
    """

    site: Literal["encoder", "projector"] | int
    keep: int | None
    select: SelectFunction
    needs: tuple[Need, ...] = ()
    positions: PositionPolicy = "reindex"
    title: str = ""

    @property
    def site_label(self) -> str:
        """The site in words, e.g. ``"before block 4"``."""
        if isinstance(self.site, int):
            return f"before block {self.site}"
        return {"encoder": "encoder output, before the projector", "projector": "after the projector"}[self.site]


@dataclass(frozen=True)
class Schedule:
    """The stages of one run, in the order in which they happen."""

    stages: tuple[Stage, ...]

    def counts_per_block(self, n_visual: int, n_blocks: int) -> list[int]:
        """Planned number of visual tokens that each LLM block processes.

        Shape: list of ``L`` ints. A stage whose count is decided at run time is assumed to keep everything.
        """
        return tokens_per_block(n_visual, n_blocks, [(s.site, s.keep) for s in self.stages])

    def final_count(self, n_visual: int) -> int:
        """Planned count after the last stage."""
        for stage in self.stages:
            n_visual = n_visual if stage.keep is None else min(n_visual, stage.keep)
        return n_visual

    def meanings(self, n_visual: int, n_blocks: int) -> BudgetMeanings:
        """All three meanings of this schedule's budget (``methods.md`` 0.2)."""
        return budget_meanings(self.counts_per_block(n_visual, n_blocks), self.final_count(n_visual))


def tokens_per_block(
    n_visual: int, n_blocks: int, drops: Sequence[tuple[Literal["encoder", "projector"] | int, int | None]]
) -> list[int]:
    """Visual tokens that each block processes, given ``(site, count after it)`` pairs in order. Shape: ``L`` ints."""
    counts = []
    pending = list(drops)
    for block in range(n_blocks):
        while pending and (not isinstance(pending[0][0], int) or pending[0][0] <= block):
            keep = pending.pop(0)[1]
            n_visual = n_visual if keep is None else min(n_visual, keep)
        counts.append(n_visual)
    return counts


def budget_meanings(per_block: Sequence[int], final: int) -> BudgetMeanings:
    """F, A_in and A_log of a list of per-block counts (``methods.md`` 0.2).

    A_in bills every block with the tokens it really processed; A_log with the count after it, as SparseVLM's logger
    does (a block behind which tokens are dropped is billed at its pruned size).
    """
    after = [*per_block[1:], final]
    return BudgetMeanings(
        final=final, average_in=sum(per_block) / len(per_block), average_logged=sum(after) / len(after)
    )


@dataclass(frozen=True)
class Budget:
    """What the user asked for: ``tokens`` visual tokens, counted as ``counted_as``.

    published: as the method's own paper counts its tables; final: the count after the last stage; average: the average
    that the LLM's blocks process (A_in).
    """

    tokens: int
    counted_as: BudgetMeaning = "published"


@dataclass(frozen=True)
class PlanningInfo:
    """What a method may know about the model when it plans its stages."""

    n_visual: int
    n_blocks: int
    family: str = "llava"
    has_cls: bool = True


# ---------------------------------------------------------------------------------------------------------------------
# What is left afterwards (JSON)
# ---------------------------------------------------------------------------------------------------------------------


class Record(BaseModel):
    """Base of everything that goes to JSON: immutable, unknown keys refused, NaN never written (null instead)."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class BudgetMeanings(Record):
    """The three meanings of a budget, in tokens."""

    final: int
    average_in: float
    average_logged: float


class GridView(Record):
    """One regular grid of patches: a picture, a tile or a frame. ``seen`` is what of the picture it covers."""

    name: str
    rows: int
    cols: int
    seen: Box


class TokenGrid(Record):
    """Where each visual token lies. The only place that knows geometry; built by the model family.

    Shape: all lists have ``N`` entries in the order in which the LLM receives the unpruned tokens. ``row`` and ``col``
    are -1 and ``box`` is None for tokens that are no patch (newline, video [CLS]). Boxes are in pixels of the original
    picture and are clipped to it.
    """

    picture_size: tuple[int, int]
    views: list[GridView]
    view: list[int]
    row: list[int]
    col: list[int]
    box: list[Box | None]

    @property
    def n_tokens(self) -> int:
        """Number of visual tokens, patches and others."""
        return len(self.view)

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = {len(self.view), len(self.row), len(self.col), len(self.box)}
        if len(lengths) != 1:
            raise ValueError(f"TokenGrid lists must have the same length, got lengths {sorted(lengths)}")
        return self


class MapRecord(Record):
    """A TokenMap on the original N tokens. None where the token had already been dropped or the value is not finite."""

    name: str
    label: str
    unit: str
    direction: str
    scale: Literal["linear", "log"]
    values: list[float | None]


class StageRecord(Record):
    """One stage of one run. Every index and list refers to the ORIGINAL N visual tokens, so that views compose nothing.

    kept: ascending original indices alive after this stage. order: step at which a token was picked, -1 else.
    assignment: original index of the token that carries it after this stage (itself if kept), -1 if dropped without a
    merge or dropped earlier; None if the stage does not merge.
    """

    title: str
    site: Literal["encoder", "projector"] | int
    site_label: str
    positions: PositionPolicy
    planned_keep: int | None
    n_in: int
    kept: list[int]
    score: MapRecord | None
    order: list[int] | None
    assignment: list[int] | None
    maps: list[MapRecord]
    facts: dict[str, Any]
    selection_ms: float | None


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
    tokens_per_block: list[int] = []
    stages: list[StageRecord] = []
    answer: str = ""
    answer_tokens: list[AnswerToken] = []
    timings: dict[str, Timing] = {}
    cost: Cost | None = None
    warnings: list[str] = []
    error: str | None = None

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


class Request(Record):
    """What was asked."""

    question: str
    methods: list[str]
    budget: int
    budget_as: BudgetMeaning
    params: dict[str, dict[str, Any]]
    seed: int
    max_new_tokens: int
    repeats: int
    expected_answer: str | None = None
    evidence: list[Box] = []


class ModelRecord(Record):
    """Which model answered, and on what."""

    name: str
    family: str
    n_blocks: int
    hidden_size: int
    dtype: str
    device: str
    attention: str
    embedded: bool


class Comparison(Record):
    """The runs of one request. ``runs[0]`` is the unpruned one (method ``full``)."""

    schema_version: int = SCHEMA_VERSION
    request: Request
    model: ModelRecord
    picture: PictureRecord
    grid: TokenGrid
    runs: list[Run]
    versions: dict[str, str]
    timings: dict[str, Timing] = {}
    warnings: list[str] = []

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
        """Read what ``to_json`` wrote. Raises ValueError with one sentence when the text is no tokviz session."""
        from .errors import BadInput

        try:
            comparison = cls.model_validate_json(text)
        except ValueError as error:
            raise BadInput("This file is not a tokviz session, or it was written by another version.") from error
        if comparison.schema_version != SCHEMA_VERSION:
            raise BadInput(
                f"This session has schema version {comparison.schema_version}; "
                f"this tokviz reads version {SCHEMA_VERSION}."
            )
        return comparison
