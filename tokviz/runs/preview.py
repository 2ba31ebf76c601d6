"""What a method would keep at another budget, from a run at one: where choices nest, the model is not asked."""

from __future__ import annotations

from typing import Literal

from ..records import Run, StageRecord

NESTED = frozenset({"adaptvtp", "cdpruner", "divprune", "fastervlm", "fastv", "mmtok", "scope", "vidcom2"})
"""Methods whose score or order of picks does not depend on the budget: a smaller budget keeps a part of what a larger
one keeps. ``tests/runs/test_preview.py`` compares each with real runs."""


def nesting(run: Run, n_tokens: int) -> Literal["ranked", "greedy"] | None:
    """How a run's choices nest; None where they do not, or where that is not known.

    ``ranked``: one stage kept the tokens of highest score. ``greedy``: one stage picked them one by one, so that only
    smaller budgets are known.
    """
    if run.method not in NESTED or run.error is not None or len(run.stages) != 1:
        return None
    (stage,) = run.stages
    if stage.n_in != n_tokens or stage.assignment is not None or stage.n_extra or not stage.kept:
        return None
    if stage.order is not None and sorted(t for t, step in enumerate(stage.order) if step >= 0) == list(stage.kept):
        return "greedy"
    ranked = ranking(stage)
    return "ranked" if len(ranked) == n_tokens and set(ranked[: len(stage.kept)]) == set(stage.kept) else None


def preview(run: Run, n_tokens: int, budget: int) -> list[int] | None:
    """The tokens that a run at ``budget`` keeps, ascending, by what this run recorded; None where that is not known."""
    kind = nesting(run, n_tokens)
    if kind is None or not 1 <= budget <= n_tokens:
        return None
    (stage,) = run.stages
    if kind == "ranked":
        return sorted(ranking(stage)[:budget])
    order = stage.order or []
    return None if budget > len(stage.kept) else sorted(t for t, step in enumerate(order) if 0 <= step < budget)


def ranking(stage: StageRecord) -> list[int]:
    """Tokens with a score, the highest first; equal ones by index, as in the pruners."""
    scores = [] if stage.score is None else stage.score.values
    known = [(-score, token) for token, score in enumerate(scores) if score is not None]
    return [token for _, token in sorted(known)]
