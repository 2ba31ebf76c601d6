"""AdaFV: what the vision tower looks at and what the text is like, in shares that the image itself decides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from ..types import (
    CLS_ATTENTION,
    RECEIVED_ATTENTION,
    TEXT_FEATURES,
    Chart,
    Diagnostics,
    Params,
    Selection,
    Signals,
    TextScores,
    TokenMap,
)
from .ops import required, spread, take_rows, top_k, unit_rows, usable_rows, whole_groups, without
from .per_view import TOWER_ATTENTION, all_rows, tower_attention, unrankable, usable
from .pruner import Paper, Pruner, fixed_count, number, single_stage

SHARPNESS = 100.0
"""CLIP's scale of cosines."""
BY_TEXT, BY_ATTENTION, BY_BOTH = 2.0, 1.0, 3.0


def text_attention(patches: Tensor, text: Tensor) -> Tensor:
    """How each text token shares its attention out over the patches: softmax of 100 cosines, as log odds.

    As ln(share / (1 - share)) shares can be ranked that float32 takes for 0 or 1. Of one above a half the rest is
    summed without it, as little would be left of 1 minus it; no other one can be as large.
    Shape: patches ``(n, D)``, text ``(M, D)`` -> ``(M, n)`` float32.
    """
    logits = (unit_rows(text) @ whole_groups(unit_rows(patches)).T)[:, : len(patches)].mul_(SHARPNESS)
    share = logits.log_softmax(1)
    odds = share - torch.log1p(-share.exp())
    largest = logits.argmax(1, keepdim=True)
    without_it = logits.gather(1, largest) - logits.scatter(1, largest, -torch.inf).logsumexp(1, keepdim=True)
    return odds.scatter_(1, largest, torch.where(without_it > 0.5, without_it, odds.gather(1, largest)))


@dataclass(frozen=True)
class Split:
    """How many tokens each side picks, and the geometric means that decided: one for every share of the first side.

    Shape: means ``(K' + 1,)``, K' what is to be shared out.
    """

    first: int
    second: int
    means: Tensor


def split(one: Tensor, other: Tensor, keep: int, share: float) -> Split:
    """Share ``keep`` out so that the sums of what both sides pick have the largest product.

    Each side first gets ``floor(keep share)`` of its best, which the sums leave out. Of equal products the one with
    fewer of ``one``.
    Shape: one and other ``(n,)``, logarithms of what is summed, ``keep <= n``, ``share <= 0.5``.
    Source: AdaFV, ``max_sqrt_sum_with_indices``.
    """
    base = int(keep * share)
    left = keep - 2 * base

    def sums(scores: Tensor) -> Tensor:
        best = torch.sort(scores, descending=True).values[base : base + left]
        return torch.cat([best.new_full((1,), -torch.inf), best.logcumsumexp(0)])

    product = sums(one) + sums(other).flip(0)
    first = int(product.argmax())
    return Split(base + first, base + left - first, (product / 2).exp())


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """The patches that the text is most like, and of the others those that the tower looks at most; see ``split``.

    A patch's likeness is the largest attention that any text token behind the image pays it. All patches are ranked
    together, whatever their view. Rows that are no patch are never kept.
    Shape: signals.features ``(N, D)``, text_features ``(M, D)``, cls_attention ``(N,)`` -> kept
    ``(min(keep, patches),)``.
    Source: AdaFV section 3; official ``llava_llama.py`` ``generate``, method ``adav``. Differs: see the method's page
    on patches that both sides pick.
    """
    score, text = (
        tower_attention(signals, "the highest of the others are picked by the tower"),
        required(signals.text_features, "text_features"),
    )
    found = usable(signals, score.values)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool, score)
    rows, n, count = found.rows, len(signals.features), min(keep, len(found.rows))
    words = usable_rows(text, all_rows(text))
    seen = score.values[rows].clamp_min(0).log()
    odds = text_attention(take_rows(signals.features, rows), text[words])
    like = odds.amax(0) if len(words) else torch.full_like(seen, -torch.inf)
    parts = split(logsigmoid(like), seen, count, float(params["share"]))
    by_text = top_k(like, parts.first)
    ranked = top_k(seen, len(seen))
    by_attention = without(ranked, by_text, len(rows))[: parts.second]
    kept = found.kept(rows[torch.cat([by_text, by_attention])], keep)

    def diagnose() -> Diagnostics:
        role, both = torch.zeros_like(like), by_text[torch.isin(by_text, ranked[: parts.second])]
        role[by_attention], role[by_text], role[both] = BY_ATTENTION, BY_TEXT, BY_BOTH
        asked = spread(odds.amax(1).sigmoid(), words, len(text), torch.nan)
        chosen = torch.zeros(len(text), dtype=torch.bool, device=rows.device)
        if len(words):
            chosen[words[odds[:, by_text].argmax(0)]] = True
        high = "the highest are picked by text"
        label, told = "Largest attention of a text token", "3 text and tower, 2 text, 1 tower, 0 dropped"
        return found.explained(
            TokenMap(
                "text_attention", label, spread(like.sigmoid(), rows, n, torch.nan), "share of the image", high, "log"
            ),
            maps=(
                TokenMap("role", "Picked by", spread(role, rows, n, torch.nan), direction=told),
                TokenMap(score.name, score.label, score.values, score.unit, score.direction, score.scale),
            ),
            charts=(
                Chart(
                    "split",
                    "Geometric mean of both sums over what is shared out by text",
                    "line",
                    y=parts.means.tolist(),
                    x_label="tokens by text, beyond its sure share",
                    y_label="geometric mean",
                ),
            ),
            text=TextScores(
                "text_attention", "Largest attention to one patch; chosen ones picked a patch", asked, chosen
            ),
            facts={"by_text": parts.first, "by_attention": parts.second, "by_both": len(both)},
        )

    return Selection(kept, diagnose=diagnose)


NEEDS = (TEXT_FEATURES, CLS_ATTENTION, RECEIVED_ATTENTION)

PRUNER = Pruner(
    id="adafv",
    label="AdaFV",
    family="text-guided",
    claim="Mixes what the vision tower looks at with what the text is like; how much of each, the image decides.",
    paper=Paper(
        "AdaFV: Rethinking of Visual-Language alignment for VLM acceleration",
        "Han et al.",
        2025,
        "https://arxiv.org/abs/2501.09532",
    ),
    needs=NEEDS,
    does_without=TOWER_ATTENTION,
    params=(
        number(
            "share",
            "Sure share of each side",
            0.25,
            "Share of the budget that text, and as much again that the tower, gets in any case. Official: 0.25.",
            maximum=0.5,
        ),
    ),
    schedule=single_stage(select, needs=NEEDS, title="Text and tower, adaptively"),
    aliases=("adav",),
)
