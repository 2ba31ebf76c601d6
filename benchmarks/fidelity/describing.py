"""What the tables say of a method beside its numbers: its type, and where it drops tokens on this model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokviz.errors import BadInput
from tokviz.names import Site, VisionBlock
from tokviz.pruners import get
from tokviz.types import Budget, PlanningInfo

from .outcomes import EVIDENCE_ORACLE, FULL, Variant


def describe(variants: Iterable[Variant], info: PlanningInfo) -> dict[str, dict[str, Any]]:
    """Type and sites per method, for ``about["methods"]``: ``{id: {"family": str, "where": {budget: str}}}``.

    A budget that the method refuses is left out.
    """
    described: dict[str, dict[str, Any]] = {}
    for variant in variants:
        if variant.method == EVIDENCE_ORACLE:
            described[EVIDENCE_ORACLE] = {"family": "control", "where": {}}
            continue
        pruner = get(variant.method)
        entry = described.setdefault(pruner.id, {"family": pruner.family, "where": {}})
        if variant.method == FULL or variant.budget is None or variant.params:
            continue
        try:
            schedule = pruner.schedule(Budget(variant.budget, "published"), info, pruner.complete(None))
        except BadInput:
            continue
        entry["where"][str(variant.budget)] = where([stage.site for stage in schedule.stages])
    return described


def where(sites: list[Site]) -> str:
    """Sites in a few words, "encoder, block 4" or "vision blocks 0-4"."""
    vision = [site.vision_block for site in sites if isinstance(site, VisionBlock)]
    blocks = [site for site in sites if isinstance(site, int)]
    words = [str(site) for site in sites if isinstance(site, str)]
    words += [_many("vision block", vision)] if vision else []
    words += [_many("block", blocks)] if blocks else []
    return ", ".join(words)


def _many(noun: str, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{noun}s {numbers[0]}-{numbers[-1]}"
    return f"{noun}s {'/'.join(map(str, numbers))}"
