"""What ``information_horizon`` measured: how much each part of the image matters to the answer, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .records import Many, Record
from .short import short
from .study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Measure = Literal["removal", "alone"]


class HorizonLayer(Record):
    """What leaving visual tokens out before one LLM layer does to the unpruned answer. All in nats.

    Attributes:
        layer: The first LLM layer (0-based) that sees fewer tokens.
        change: ``(N,)``, for each visual token what its block does: with measure ``removal`` by how much the
            answer's log-probability falls without the block (negative: it rises), with ``alone`` by how much it rises
            when only the block is left instead of no visual token. None for tokens that are no patch.
        blocks: The same once per block, in the order of their first tokens.
        anywhere: The same for sets of as many tokens as a whole block has, drawn at random from the whole image: what
            a removal does that is no coherent part of the image.
        noise: The largest difference found between two computations of one number that differ in nothing but the size
            of the batch, its padding, and whether the stock model or its layers one by one were run.
        random: Log-probability of the answer when only ``InformationHorizon.budget`` random tokens are left from this
            layer on, as ``random_at`` leaves them; one for each seed.
        withdrawn: The same without any visual token from this layer on.
    """

    layer: int
    change: Many[float | None]
    blocks: Many[float]
    anywhere: Many[float]
    noise: float
    random: Many[float]
    withdrawn: float

    @property
    def largest(self) -> float:
        """The largest change, in absolute value, that any block makes."""
        return max((abs(change) for change in self.blocks), default=0.0)

    @property
    def mean(self) -> float:
        """The mean change that a block makes, in absolute value."""
        return sum(map(abs, self.blocks)) / len(self.blocks) if self.blocks else 0.0

    def share_above(self, floor: float) -> float:
        """The share of the blocks that change more than ``floor`` nats."""
        return sum(abs(change) > floor for change in self.blocks) / len(self.blocks) if self.blocks else 0.0


class InformationHorizon(Study):
    """Where in the LLM visual tokens stop to matter, for one image and one question.

    Attributes:
        comparison: The question, the image, and the unpruned run whose answer is scored (``runs[0]``).
        logprob: Log-probability of the whole unpruned answer, its end included, in nats.
        measure: ``removal`` or ``alone``; see ``HorizonLayer.change``.
        block: Side in tokens of the blocks that were left out together; ``block_asked`` is what was asked for. It is
            larger where blocks so small would have taken longer than ``seconds_allowed``.
        n_blocks: How many blocks the image (or all frames) has.
        least: Changes of fewer nats than this count as none, however exact the arithmetic; see ``floor``.
        budget: Tokens that ``HorizonLayer.random`` leaves, for each of ``seeds``.
        seconds: What measuring took, without encoding the image and the answer itself.
        notes: What had to be coarser than asked for, or was left out, in sentences.
    """

    kind: ClassVar[str] = "horizon"
    refusal: ClassVar[str] = "This file is not an information horizon of tokviz, or it was written by another version."

    logprob: float
    measure: Measure
    block: int
    block_asked: int
    n_blocks: int
    least: float
    budget: int
    seeds: Many[int]
    layers: Many[HorizonLayer]
    seconds: float
    seconds_allowed: float | None = None
    notes: Many[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n = self.comparison.grid.n_tokens
        numbers = [entry.layer for entry in self.layers]
        if not self.comparison.runs or numbers != sorted({*numbers}):
            raise ValueError("layers ascend, and there is an unpruned run")
        for entry in self.layers:
            if len(entry.change) != n or len(entry.blocks) != self.n_blocks or len(entry.random) != len(self.seeds):
                raise ValueError(f"layer {entry.layer} does not fit the grid")
        return self

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The answer, and where the horizon lies."""
        return [
            ("answer", short(self.answer)),
            ("logprob", round(self.logprob, 4)),
            ("block", self.block),
            ("layers", [entry.layer for entry in self.layers]),
            ("horizon", self.horizon),
        ]

    @property
    def answer(self) -> str:
        """The unpruned answer."""
        return self.comparison.runs[0].answer

    def floor(self, entry: HorizonLayer) -> float:
        """Changes in this layer that are no larger mean nothing: numerical noise, or fewer than ``least`` nats."""
        return max(entry.noise, self.least)

    @property
    def horizon(self) -> int | None:
        """The first measured layer from which on no block changes the answer by more than the floor.

        None where some block still does in the last measured layer.
        """
        beyond = None
        for entry in reversed(self.layers):
            if entry.largest > self.floor(entry):
                break
            beyond = entry.layer
        return beyond

    @property
    def random_from(self) -> int | None:
        """The first measured layer from which on random tokens do: no seed loses more than the floor; None for none."""
        beyond = None
        for entry in reversed(self.layers):
            if not entry.random or self.logprob - min(entry.random) > self.floor(entry):
                break
            beyond = entry.layer
        return beyond

    def to_pandas(self) -> DataFrame:
        """Return a table with one row per layer: changes, noise, random tokens, in nats.

        Raises:
            BadInput: If pandas is not installed.
        """
        from .viz.horizon import data_frame

        return data_frame(self)

    def figure(
        self, path: str | Path | None = None, *, theme: Literal["light", "dark"] = "light", dpi: int = 300
    ) -> Figure:
        """Draw a map per layer on one scale, and curves over the layers; written to ``path`` where there is one.

        Of a video the first frame with evidence is drawn, else the first.

        Args:
            path: A file that ends in .png, .svg or .pdf.
            theme: Colours of the page.
            dpi: Pixels per inch of the images inside.

        Raises:
            BadInput: If the file cannot be written.
        """
        from .viz.horizon import horizon_figure, save_horizon

        if path is not None:
            save_horizon(self, path, theme=theme, dpi=dpi)
        return horizon_figure(self, theme=theme, dpi=dpi)
