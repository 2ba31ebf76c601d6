"""Text raters: the words of the prompt that visual tokens lean on, and the scores that they give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Signals, TextScores, TokenMap
from .ops import complement, required, take_rows, usable_rows, whole_groups

# A share counts as above the average 1/N_t when it is so by more than float32 rounding.
ROUNDING = 1e-6


def alignment(visual: Tensor, text: Tensor, scale: float) -> Tensor:
    """How each visual token divides itself over the text tokens: softmax over text of ``scale * V T^T``.

    Rows of text that are not finite take no part (share 0), rows of visual tokens that are not finite are NaN.
    Shape: visual ``(N, D)``, text ``(M, D)`` -> ``(N, M)`` float32.
    """
    return alignment_logits(visual, text, scale).softmax(1)


def alignment_logits(visual: Tensor, text: Tensor, scale: float, broken: Tensor | None = None) -> Tensor:
    """``scale * V T^T``, -inf for text tokens that are not finite. Shape: ``(N, D)``, ``(M, D)`` -> ``(N, M)``.

    broken: the rows of text that are not finite ``(b,)``, where that is known.
    """
    visual, text = visual.float(), text.float()
    broken = _broken(text) if broken is None else broken
    if len(broken):
        text = text.index_fill(0, broken, 0.0)
    logits = (whole_groups(visual) @ text.T)[: len(visual)]
    if scale != 1.0:
        logits.mul_(scale)
    return logits.index_fill_(1, broken, -torch.inf) if len(broken) else logits


def _broken(text: Tensor) -> Tensor:
    """The rows that are not finite. Shape: ``(M, D)`` -> ``(b,)``."""
    usable = usable_rows(text, torch.arange(len(text), device=text.device))
    return usable[:0] if len(usable) == len(text) else complement(usable, len(text))


def log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """Of the softmax's share that goes to the chosen columns: ln(share / (1 - share)), without forming the share.

    It ranks as the share itself, and still tells rows apart whose share is 0 or 1 to float32. Rows of which all goes to
    chosen columns, because there is no other, are all 0.
    Shape: logits ``(N, M)``, chosen ``(M,)`` bool -> ``(N,)``; NaN when nothing is chosen.
    """
    others = ~chosen & (logits > -torch.inf).any(0)
    if not bool(chosen.any()):
        return torch.full((len(logits),), torch.nan, device=logits.device)
    if not bool(others.any()):
        return torch.where(logits.isnan().any(1), torch.nan, 0.0)
    return logits[:, chosen].logsumexp(1) - logits[:, others].logsumexp(1)


@dataclass(frozen=True)
class Raters:
    """Which text tokens score the visual ones.

    Shape: shares ``(M,)``, mean share of the visual tokens; chosen ``(M,)`` bool. line: 1/N_t. rule: in words.
    """

    shares: Tensor
    chosen: Tensor
    line: float | None
    rule: str

    @property
    def rows(self) -> Tensor:
        """Indices of the chosen text tokens. Shape: ``(raters,)`` ascending."""
        return self.chosen.nonzero().squeeze(1)

    @property
    def text(self) -> TextScores:
        """For the views: every text token's share, the raters and the line."""
        return TextScores("rater_share", "Mean share of the visual tokens", self.shares, self.chosen, self.line)


def text_raters(signals: Signals, scaled: bool, on: tuple[Tensor, Tensor | None] | None = None) -> Raters:
    """Text tokens whose mean share of the visual tokens exceeds the average, from what entered the LLM or ``on``.

    The shares of one visual token sum to 1, so that their average is 1/N_t whatever the tokens are. With a single text
    token, or with all alike, none exceeds it: then all of them are raters.
    scaled: divide the dot products by sqrt(D) before the softmax (Polymorphic Eq. 9); SparseVLM does not.
    on: visual ``(N, D)`` and text ``(M, D)`` to find them on.
    Shape: signals.input_features ``(N_0, D)``, input_text ``(M, D)``.
    Source: SparseVLM section 3.2 and official ``modelling_sparse_llama.py``; Polymorphic Eq. 9-10.
    """
    visual, text = on if on else (signals.input_features, signals.input_text)
    visual, text = required(visual, "input_features"), required(text, "input_text")
    broken, scale = _broken(text), visual.shape[1] ** -0.5 if scaled else 1.0
    nobody = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    if len(broken) == len(text):
        return Raters(nobody.float(), nobody, None, "no text token behind the image")
    everybody = (~nobody).index_fill(0, broken, False)
    line = 1.0 / (len(text) - len(broken))
    shares = alignment_logits(visual, text, scale, broken).softmax(1).mean(0)
    if not math.isfinite(shares.sum()):  # a visual token that is not finite takes no part
        seen = usable_rows(visual, torch.arange(len(visual), device=visual.device))
        if len(seen) == 0:
            return Raters(nobody.float(), everybody, line, "all text tokens, as no visual token is finite")
        shares = alignment_logits(take_rows(visual, seen), text, scale, broken).softmax(1).mean(0)
    chosen = (shares > line * (1 + ROUNDING)) & everybody
    if bool(chosen.any()):
        return Raters(shares, chosen, line, "text tokens above the average share")
    return Raters(shares, everybody, line, "all text tokens, as none is above the average share")


def mean_of_raters(rows: Tensor, raters: Raters) -> Tensor:
    """Mean of the raters' attention rows; of the last row when there is no rater.

    Rows of raters that are NaN throughout are not left out: they show as tokens without a score.
    Shape: rows ``(M, N)`` -> ``(N,)`` float32; NaN everywhere when there is no row at all.
    """
    rows = rows.float()
    if len(rows) == 0:
        return torch.full((rows.shape[1],), torch.nan, device=rows.device)
    chosen = raters.rows
    return rows[chosen].mean(0) if len(chosen) else rows[-1]


def rated_attention(signals: Signals, raters: Raters, direction: str) -> TokenMap:
    """The attention of the raters on the visual tokens, see ``mean_of_raters``. Shape: values ``(N,)`` float32."""
    values = mean_of_raters(required(signals.attention_rows, "attention_rows"), raters)
    return TokenMap("rater_attention", "Attention of the raters", values, "probability", direction, "log")
