"""MMTok: the tokens that together cover the words of the question and the whole image best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..types import (
    ENCODER_FEATURES,
    QUESTION_FEATURES,
    TEXT_FEATURES,
    Diagnostics,
    Params,
    Selection,
    Signals,
    TextScores,
    TokenMap,
)
from .coverage import Coverage, CoverRows, greedy_coverage, worth_of_all
from .diagnostics import lines_per_view
from .ops import required, row_blocks, spread, take_rows, unit_rows, usable_rows, whole_groups
from .pairs import LARGEST_COSINE_MATRIX, symmetric_product
from .per_view import all_rows, in_each_view, unrankable, usable
from .pruner import Paper, Pruner, fixed_count, number, single_stage

NEEDS = (ENCODER_FEATURES, QUESTION_FEATURES, TEXT_FEATURES)
NO_QUESTION = "There is no question token to cover, so that only the image is."


def word_cover(words: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """How well each token covers each word: softmax over the tokens of their cosines / temperature, / m.

    Shape: words ``(m, D)`` and tokens ``(n, D)``, rows of length 1 or 0 -> ``(n, m)``.
    """
    cosines = (whole_groups(words) @ whole_groups(tokens).T)[: len(words), : len(tokens)]
    return ((cosines / temperature).softmax(1) / max(1, len(words))).T.contiguous()


def image_cover(unit: Tensor, temperature: float, weight: float) -> CoverRows:
    """How well each token covers each token: softmax over the first of their cosines / temperature, times weight / n.

    Stored as a matrix up to 8192 rows, and computed again beyond. Shape: unit ``(n, D)``, rows of length 1 or 0.
    """
    n, stored = len(unit), len(unit) <= LARGEST_COSINE_MATRIX
    matrix = symmetric_product(unit).div_(temperature) if stored else None
    padded = unit if stored else whole_groups(unit)

    def scaled(rows: Tensor) -> Tensor:
        if matrix is not None:
            return matrix[rows]
        return (whole_groups(unit[rows]) @ padded.T)[: len(rows), :n].div_(temperature)

    # Cosines are symmetric, so that a row of them has the sum of the column.
    blocks = row_blocks(unit if matrix is None else matrix)
    every = torch.arange(n, device=unit.device)
    log_sums = torch.cat([scaled(every[rows]).logsumexp(1) for rows in blocks])
    if matrix is not None:
        matrix.sub_(log_sums).exp_().mul_(weight / n)
        return lambda candidates: matrix[candidates]
    return lambda candidates: scaled(candidates).sub_(log_sums).exp_().mul_(weight / n)


def joint_cover(words: Tensor, tokens: Tensor, encoded: Tensor, params: Params) -> CoverRows:
    """How well each token covers the words, and behind them the tokens. Shape: of a row ``(m + n,)``."""
    of_words = word_cover(words, tokens, params["text_temperature"])
    of_image = image_cover(encoded, params["image_temperature"], params["alpha"])
    return lambda candidates: torch.cat([of_words[candidates], of_image(candidates)], 1)


@dataclass(frozen=True)
class Asked:
    """Which word asked for each pick.

    Shape: word ``(count,)``, the one whose cover the pick raised most, the first of equals, -1 where it raised none;
    share ``(count,)``, that of all words in what the pick was worth.
    """

    word: Tensor
    share: Tensor


def asked_for(covers: CoverRows, coverage: Coverage, n_words: int) -> Asked:
    """Go through the picks again, and see whose cover each of them raised."""
    cover, words, shares = torch.zeros_like(coverage.cover), [], []
    for pick in coverage.picks.split(1):
        mine = covers(pick).squeeze(0)
        added = (mine - cover).clamp_min_(0)
        of_words, total = added[:n_words], added.sum()
        best = of_words.max(0).indices if n_words else total.new_tensor(-1, dtype=torch.int64)
        raised = bool(n_words) and bool(of_words.max() > 0)
        words.append(best if raised else best.new_tensor(-1))
        shares.append(torch.where(total > 0, of_words.sum() / total, 0.0))
        cover = torch.maximum(cover, mine)
    return Asked(torch.stack(words), torch.stack(shares))


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Greedy maximum coverage, in each view by itself with an equal share of ``keep``.

    Rows to cover are the question's tokens and the view's tokens; see ``word_cover``, ``image_cover`` and
    ``greedy_coverage``. Rows that are no patch are never kept. Without a question token only the image is covered.
    Shape: signals.features ``(N, D)``, encoder_features ``(N, D_v)``, question_features ``(Q, D)``, question_index
    ``(Q,)``, text_features ``(M, D)`` -> kept ``(min(keep, patches),)``.
    Source: MMTok section 3, official ``mmtok/core/semantic_selector.py``. Differs: all tokens of the question are
    covered, where the code leaves out words that show nothing.
    """
    encoded = required(signals.encoder_features, "encoder_features")
    found, n = usable(signals, encoded), len(signals.features)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool)
    question = required(signals.question_features, "question_features")
    asking = usable_rows(question, all_rows(question))
    words = unit_rows(question, asking)

    def covering(view: Tensor) -> CoverRows:
        return joint_cover(
            words, unit_rows(take_rows(signals.features, view)), unit_rows(take_rows(encoded, view)), params
        )

    def reduce(view: Tensor, share: int) -> Coverage:
        ones = torch.ones(len(view), device=view.device)
        return greedy_coverage(covering(view), len(words) + len(view), ones, share)

    views = in_each_view(signals, found.rows, keep, reduce)
    picks = torch.cat([view[coverage.picks] for view, coverage in views])

    def diagnose() -> Diagnostics:
        text = required(signals.text_features, "text_features")
        index = required(signals.question_index, "question_index").to(picks.device)[asking]
        gain, covered, word, share = (torch.full((n,), torch.nan, device=picks.device) for _ in range(4))
        for view, coverage in views:
            covers, m = covering(view), len(words)
            worth = worth_of_all(covers, coverage.cover, torch.ones(len(view), device=view.device))
            gain[view] = worth.index_copy(0, coverage.picks, coverage.gains)
            own = torch.cat([covers(part)[:, m:].gather(1, part.unsqueeze(1)) for part in _parts(view)]).squeeze(1)
            covered[view] = torch.where(own > 0, coverage.cover[m:] / own, 1.0)
            asked, at = asked_for(covers, coverage, m), view[coverage.picks]
            share[at] = asked.share
            of_text = index[asked.word.clamp_min(0)] + 1 if m else torch.zeros_like(asked.word)
            word[at] = torch.where(asked.word < 0, 0, of_text).float()
        added = torch.cat([coverage.gains for _, coverage in views])
        counts = torch.bincount(word[picks].long(), minlength=len(text) + 1)[1:].float()
        unknown = spread(counts[index], index, len(text), torch.nan)
        gains = [(view, coverage.gains) for view, coverage in views]
        high = "high is kept first; dropped tokens show what they would still add"
        which = "number of the token of the text, from 1; 0 was kept for the image alone"
        label = "Coverage added when picked"
        return found.explained(
            TokenMap("gain", label, gain, "share of all that is to be covered", high, "log"),
            maps=(
                TokenMap("word", "Token of the text that asked for it", word, direction=which),
                TokenMap("text_share", "Share of the text in what it added", share, direction="high is kept for text"),
                TokenMap("covered", "Coverage by kept tokens, relative to its own", covered, direction="high is good"),
            ),
            text=TextScores("asked", "Kept tokens that it asked for", unknown, unknown > 0),
            charts=lines_per_view("gain_{}", label, gains, "pick", "coverage added"),
            facts={
                "kept_for_words": int((word > 0).sum()),
                "text_share": float(f"{float((share[picks] * added).sum() / added.sum().clamp_min(1e-12)):.6g}"),
            },
            warnings=() if len(words) else (NO_QUESTION,),
        )

    return found.picked(picks, keep, n, diagnose)


def _parts(view: Tensor) -> tuple[Tensor, ...]:
    return torch.arange(len(view), device=view.device).split(256)


PRUNER = Pruner(
    id="mmtok",
    label="MMTok",
    family="text-guided",
    claim="Keeps the tokens that together cover the words of the question and the whole image best.",
    paper=Paper(
        "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs",
        "Dong et al.",
        2025,
        "https://arxiv.org/abs/2508.18264",
    ),
    needs=NEEDS,
    params=(
        number("alpha", "Weight of the image α", 0.5, "How much covering the image counts beside covering the words."),
        number(
            "text_temperature",
            "Temperature of words",
            0.02,
            "The smaller, the more a word is covered by its most similar token alone. Official: 0.02, for Qwen 0.01.",
            minimum=0.001,
            step=0.001,
        ),
        number(
            "image_temperature",
            "Temperature of the image",
            0.2,
            "The smaller, the more a token is covered by its most similar ones alone. Official: 0.2.",
            minimum=0.01,
            step=0.01,
        ),
    ),
    schedule=single_stage(select, needs=NEEDS, title="Covers words and image"),
)
