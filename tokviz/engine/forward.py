"""One forward pass in one thread, from the language model's door to its exit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.masking_utils import create_causal_mask

from .cache import PlainLengths, Segment
from .deepstack import Deepstack
from .looker import Looker
from .rows import Rows
from .stages import Decisions

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each ``(B|1, L, d)``."""


@dataclass
class View:
    """What the blocks of one segment are given instead of the full-length mask and rotary tables."""

    mask: Tensor | None
    rotary: Rotary

    def given_to(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A block's keyword arguments with this view's tensors.

        Rotary tables are made already; position ids would only send flash attention looking for packed sequences.
        """
        return {**kwargs, "attention_mask": self.mask, "position_embeddings": self.rotary, "position_ids": None}


@dataclass
class Entered:
    """What entered a block: hidden ``(B, L, D)``, its rotary tables and rows."""

    hidden: Tensor
    rotary: Rotary
    rows: Rows


@dataclass(frozen=True)
class Seen:
    """What was looked at in the attention of one block, for one sequence; all float32, None where nobody asked.

    Shape: rows ``(R, L)``, attention of the asked tokens, mean over heads; heads ``(H, R, L)``; key_norms ``(L,)``, L1.
    """

    rows: Tensor | None
    heads: Tensor | None
    key_norms: Tensor | None


@dataclass
class Prefill:
    """The forward that receives the whole prompt: stages decide, the sequence shrinks from block to block.

    ``origin`` leads from the current columns back to those that the block before had, None while they are the same.
    ``deepstack`` is what the tower adds inside the LLM, None for models that add nothing there.
    """

    cache: Any
    full_length: int
    rows: Rows
    decisions: Decisions
    looker: Looker
    deepstack: Deepstack | None = None
    segments: list[Segment] = field(default_factory=list)
    view: View | None = None
    entered: dict[int, Entered] = field(default_factory=dict)
    tapped: dict[int, list[Seen]] = field(default_factory=dict)
    origin: Tensor | None = None

    def rotary(self, kwargs: dict[str, Any]) -> Rotary:
        """The tables of the current sequence; ``kwargs`` are what the stock model hands to the block."""
        return kwargs["position_embeddings"] if self.view is None else self.view.rotary

    def open_segment(self, first_block: int) -> None:
        """From this block on the sequence is ``self.rows``."""
        # A second stage before the same block replaces the first; one before block 0 replaces the prompt itself.
        if self.segments and self.segments[-1].first_block == first_block:
            self.segments.pop()
        rotates = bool(self.segments) and self.rows.shift is not self.segments[0].shift
        self.segments.append(Segment(first_block, self.rows.real, self.rows.padded, self.rows.shift, rotates))


@dataclass
class Decode:
    """A forward of new tokens on a pruned cache.

    Shape: positions ``(B|1, q)``, as they would be without pruning. tail: the caller's 2D mask or None.
    """

    cache: Any
    segments: list[Segment]
    positions: Tensor
    tail: Tensor | None
    views: dict[int, View] = field(default_factory=dict)

    def segment(self, block: int) -> Segment:
        """The segment a block belongs to."""
        return next(segment for segment in reversed(self.segments) if segment.first_block <= block)


def causal_mask(config: Any, hidden: Tensor, mask: Tensor | None, cached: int) -> Tensor | None:
    """The mask that transformers itself makes for so many cached tokens, in the form this kernel wants.

    Shape: hidden ``(B, q, D)``; mask ``(B, cached + q)`` or None when every column is real.
    """
    lengths: Any = PlainLengths(cached)
    made: Any = create_causal_mask(config=config, inputs_embeds=hidden, attention_mask=mask, past_key_values=lengths)
    return made
