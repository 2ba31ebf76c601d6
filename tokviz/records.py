"""What is stored of a run: plain numbers and text, written to JSON and read back without loss. No torch, no gradio.

Views, exports and stored sessions use these records and nothing else. Every index refers to the ORIGINAL N visual
tokens. The types in use during a run (signals, selections, stages) are in ``types.py``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .diagnostics import Chart, Reading, TextScores, TokenMap
from .image_records import FrameRecord, GridView, ImageMeasures, ImageRecord, OutOfWorld, TokenGrid, VideoRecord
from .names import Box, BudgetMeaning, MethodFamily, PositionPolicy, Site
from .record_base import Flags, Many, Numbers, Record
from .short import short

__all__ = [
    "AnswerToken",
    "BudgetMeanings",
    "Chart",
    "Cost",
    "Flags",
    "FrameRecord",
    "GridView",
    "ImageMeasures",
    "ImageRecord",
    "Many",
    "ModelRecord",
    "Numbers",
    "OutOfWorld",
    "Reading",
    "Record",
    "Request",
    "RequestedMethod",
    "Run",
    "ServingFlag",
    "StageRecord",
    "TextScores",
    "Timing",
    "TokenGrid",
    "TokenMap",
    "VideoRecord",
    "key_of",
]


class BudgetMeanings(Record):
    """The three meanings of a budget, in tokens."""

    final: int
    average_in: float
    average_logged: float


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
    charts: Many[Chart] = Field(default=[])
    readings: Many[Reading] = Field(default=[])
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
    tokens_per_layer: Many[int] = Field(default=[])
    stages: Many[StageRecord] = Field(default=[])
    answer: str = ""
    answer_tokens: Many[AnswerToken] = Field(default=[])
    timings: dict[str, Timing] = Field(default={})
    cost: Cost | None = None
    effective_rank: float | None = None
    warnings: Many[str] = Field(default=[])
    serving: Many[ServingFlag] = Field(default=[])
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


class RequestedMethod(Record):
    """A requested method with all its parameters; ``variant`` as in ``Run``."""

    method: str
    params: dict[str, Any] = Field(default={})
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
    evidence: Many[Box] = Field(default=[])
    evidence_frames: Many[int] = Field(default=[])


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
    devices: Many[str] = Field(default=[])
