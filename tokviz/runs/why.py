"""Why the evidence stayed in a run, or went: one sentence, computed from what the run recorded."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..comparison import Comparison
from ..records import Run, StageRecord
from .metrics import evidence_tokens, stages_that_select, withdrawal

_LISTED = 5
"""Most ranks that are told one by one."""


def why(comparison: Comparison, run: Run, evidence: Sequence[int] | None = None) -> str:
    """Say in one sentence what became of the evidence patches, and by which ranks.

    Ranks are those of the score of the stage that decided: the first at which one of the patches left, or the last that
    selected. Rank 1 is the highest score; equal scores rank by index, as in the pruners. They are told only where every
    patch of the evidence has a score.

    Args:
        comparison: Where the run belongs.
        run: One of its runs.
        evidence: ``evidence_tokens`` of the comparison, the same for all its runs; None: found here.

    Returns:
        The sentence, such as ``"The 3 evidence patches rank 112, 240 and 301 of 576 by score; 64 are kept: all 3 are
        dropped."`` Empty for a run that failed or pruned nothing, and where no token shows the evidence.
    """
    if evidence is None:
        asked = comparison.request
        evidence = evidence_tokens(comparison.grid, asked.evidence, asked.evidence_frames)
    stages = stages_that_select(run)
    if run.error is not None or not stages or not evidence:
        return ""
    journeys = [_follow(token, stages) for token in evidence]
    last = max(at for at, stage in enumerate(stages) if at == 0 or len(stage.kept) < stage.n_in)
    decider = stages[min((one.left_at for one in journeys if one.left_at is not None), default=last)]
    one = len(evidence) == 1
    who = "The evidence patch" if one else f"The {len(evidence)} evidence patches"
    ranked, decides = _rank_words(evidence, decider)
    outcome = _fate_words(journeys, stages)
    withdrawn = withdrawal(run)
    end = f", until all tokens are withdrawn {withdrawn.site_label}" if withdrawn is not None else ""
    left = f"{len(decider.kept)} {'is' if len(decider.kept) == 1 else 'are'} kept"
    alone = "" if decides else ", not by score alone"
    if ranked:
        return f"{who} {'ranks' if one else 'rank'} {ranked}; {left}{alone}: {outcome}{end}."
    return f"Of {decider.n_in} tokens {left}. {who}: {outcome}{end}."


@dataclass(frozen=True)
class _Journey:
    """``left_at``: stage at which the token itself left. ``lost_at``: at which what carried it left. Else None.

    ``carrier``: the kept token that carries it at the end, itself where it stayed.
    """

    left_at: int | None
    lost_at: int | None
    carrier: int


def _follow(token: int, stages: Sequence[StageRecord]) -> _Journey:
    carrier, left_at = token, None
    for at, stage in enumerate(stages):
        if _has(stage.kept, carrier):
            continue
        left_at = at if left_at is None else left_at
        carrier = -1 if stage.assignment is None else stage.assignment[carrier]
        if not _has(stage.kept, carrier):
            return _Journey(left_at, at, -1)
    return _Journey(left_at, None, carrier)


def _has(ascending: Sequence[int], token: int) -> bool:
    at = bisect_left(ascending, token)
    return at < len(ascending) and ascending[at] == token


def _rank_words(evidence: Sequence[int], stage: StageRecord) -> tuple[str, bool]:
    """Ranks of the evidence among the tokens that entered the stage; empty where one of them was not scored.

    And whether the stage kept the highest.
    """
    if stage.score is None:
        return "", False
    scores = stage.score.values
    ranked = sorted((token for token, score in enumerate(scores) if score is not None), key=lambda t: (-scores[t], t))  # type: ignore[operator]
    place = {token: rank for rank, token in enumerate(ranked, 1)}
    if not all(token in place for token in evidence):
        return "", False
    ranks = sorted(place[token] for token in evidence)
    listed = _listed([str(rank) for rank in ranks])
    if len(ranks) > _LISTED:
        listed = f"{ranks[0]} to {ranks[-1]} (median {median(ranks):g})"
    decides = set(ranked[: len(stage.kept)]) == set(stage.kept)
    return f"{listed} of {len(ranked)} by score", decides


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _fate_words(journeys: Sequence[_Journey], stages: Sequence[StageRecord]) -> str:
    """What became of how many: ``"1 stays, 2 are absorbed into 1 kept token, 1 is dropped before layer 2"``."""
    stayed = sum(one.left_at is None for one in journeys)
    carried = [one.carrier for one in journeys if one.left_at is not None and one.lost_at is None]
    lost = Counter(one.lost_at for one in journeys if one.lost_at is not None)
    into = len(set(carried))
    fates = [(stayed, "stays", "stay", "")]
    fates += [(len(carried), "is absorbed", "are absorbed", f" into {into} kept token{'' if into == 1 else 's'}")]
    fates += [(count, "is dropped", "are dropped", _where(stages, at)) for at, count in sorted(lost.items())]
    there = [fate for fate in fates if fate[0]]

    def said(count: int, singular: str, plural: str, more: str) -> str:
        if len(there) == 1 and count == len(journeys):
            who = "it" if count == 1 else "both" if count == 2 else f"all {count}"
        else:
            who = str(count)
        return f"{who} {singular if count == 1 else plural}{more}"

    return ", ".join(said(*fate) for fate in there)


def _where(stages: Sequence[StageRecord], at: int) -> str:
    """Where a stage stands, unless there is no other before the language model."""
    if len(stages) == 1 and not isinstance(stages[at].site, int):
        return ""
    label = stages[at].site_label
    return f" at the {label.partition(',')[0]}" if stages[at].site == "encoder" else f" {label}"
