"""What ``rescue`` found: which dropped part of the image, given back, makes an answer likely again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .records import Many, Record, Run
from .short import short
from .study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class RescueBlock(Record):
    """A set of dropped tokens that was given back.

    Attributes:
        tokens: Original indices, ascending.
        gain: By how much the answer's log-probability rises with them, in nats.
        restores: Whether greedy decoding then gives the answer: each of its tokens is the most likely one.
    """

    tokens: Many[int]
    gain: float
    restores: bool

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """How many tokens, and what they are worth."""
        return [("tokens", len(self.tokens)), ("gain", round(self.gain, 4)), ("restores", self.restores)]


class Rescue(Study):
    """Which dropped part of the image, given back, makes an answer likely again.

    Attributes:
        comparison: The unpruned run, the run that is rescued, and, where a block is worth more than the control, a run
            with the best block given back.
        run: The key of the run that is rescued.
        scored: Whose log-probability this is about: the ``unpruned`` answer or the ``expected`` one.
        answer: That answer.
        logprob: Its log-probability with all tokens, its end included, in nats.
        logprob_kept: With the tokens that the run kept, as they are, the others dropped where the run drops tokens:
            that of the run itself for methods that only drop. Gains are measured against it.
        mismatch: By how much the run's own answer is scored otherwise in that way than in the run, in nats: noise for
            methods that only drop.
        block: Side in tokens of the blocks; ``block_asked`` is what was asked for. It is larger where blocks so small
            would have taken longer than ``seconds_allowed``.
        n_blocks: How many blocks hold a dropped patch.
        blocks: Those that were measured, in the order of their first tokens.
        control: Sets of dropped patches drawn at random, for every number of tokens that a block has, with each of
            ``seeds``.
        noise: The largest difference found between two computations of one number in batches of other sizes, or in the
            stock model and its layers one by one.
        least: Gains of fewer nats count as none, however exact the arithmetic.
        notes: What had to be coarser than asked for, or was left out, in sentences.
    """

    kind: ClassVar[str] = "rescue"
    refusal: ClassVar[str] = "This file is not a rescue of tokviz, or it was written by another version."

    run: str
    scored: Literal["unpruned", "expected"]
    answer: str
    logprob: float
    logprob_kept: float
    mismatch: float
    block: int
    block_asked: int
    n_blocks: int
    blocks: Many[RescueBlock]
    control: Many[RescueBlock]
    noise: float
    least: float
    seeds: Many[int]
    seconds: float
    seconds_allowed: float | None = None
    notes: Many[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n = self.comparison.grid.n_tokens
        if len(self.comparison.runs) < 2 or self.run not in {run.key for run in self.comparison.runs}:
            raise ValueError("there are an unpruned run and the one that is rescued")
        for one in (*self.blocks, *self.control):
            if not one.tokens or sorted({*one.tokens}) != one.tokens or not 0 <= one.tokens[0] <= one.tokens[-1] < n:
                raise ValueError("the tokens of a block ascend and fit the grid")
        given = [token for one in self.blocks for token in one.tokens]
        if len({*given}) < len(given) or len(self.blocks) > self.n_blocks:
            raise ValueError("blocks do not overlap")
        return self

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The run, the answer, and the best block."""
        best = self.best
        return [
            ("run", short(self.run)),
            ("answer", short(self.answer)),
            ("logprobs", (round(self.logprob, 4), round(self.logprob_kept, 4))),
            ("blocks", len(self.blocks)),
            ("best", None if best is None else round(best.gain, 4)),
        ]

    @property
    def rescued(self) -> Run:
        """The run that is rescued."""
        return self.comparison[self.run]

    def floor(self, n_tokens: int) -> float:
        """What so many tokens may be worth by chance, in nats: a block that gains no more shows nothing.

        The largest gain of the random sets of that size, the noise, or ``least``, whichever is most.
        """
        gains = [one.gain for one in self.control if len(one.tokens) == n_tokens]
        return max([self.noise, self.least, *gains])

    @property
    def telling(self) -> list[RescueBlock]:
        """The blocks that gain more than their floor, the best first."""
        found = [one for one in self.blocks if one.gain > self.floor(len(one.tokens))]
        return sorted(found, key=lambda one: -one.gain)

    @property
    def best(self) -> RescueBlock | None:
        """The block with the largest gain; None where no block gains more than its floor."""
        return next(iter(self.telling), None)

    @property
    def gains(self) -> list[float | None]:
        """For each visual token the gain of its block, in nats; None for kept tokens and those not given back."""
        values: list[float | None] = [None] * self.comparison.grid.n_tokens
        for one in self.blocks:
            for token in one.tokens:
                values[token] = one.gain
        return values

    def to_pandas(self) -> DataFrame:
        """Return a table with one row per block: tokens, gain, floor, whether it restores the answer.

        Raises:
            BadInput: If pandas is not installed.
        """
        from .viz.rescues import data_frame

        return data_frame(self)

    def figure(
        self, path: str | Path | None = None, *, theme: Literal["light", "dark"] = "light", dpi: int = 300
    ) -> Figure:
        """Draw what the run kept, the gains over the image, and blocks beside the random control.

        Of a video the frame with the best block is drawn, else the first.

        Args:
            path: A file that ends in .png, .svg or .pdf.
            theme: Colours of the page.
            dpi: Pixels per inch of the images inside.

        Raises:
            BadInput: If the file cannot be written.
        """
        from .viz.rescues import rescue_figure, save_rescue

        if path is not None:
            save_rescue(self, path, theme=theme, dpi=dpi)
        return rescue_figure(self, theme=theme, dpi=dpi)
