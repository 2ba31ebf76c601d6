"""What a run cost, part by part: times as they were measured, compute by formula, bytes of the real cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from .records import Many, Record, Run, Timing

Part = Literal["encode", "prune", "prefill", "decode"]
PARTS: tuple[Part, ...] = ("encode", "prune", "prefill", "decode")


class PartCost(Record):
    """One part of a run.

    Attributes:
        part: ``encode`` (the vision tower), ``prune`` (all selections, wherever they happen), ``prefill`` (the prompt
            through the LLM, up to the first token) or ``decode`` (every further token of the answer).
        ms: Time in ms; None where it was not measured. Of ``decode`` the time per token times the steps.
        flops: Floating point operations by formula, not measured; None for ``prune``, which is not counted.
        timing: How the time was measured; of ``decode``, that of one step.
        steps: How often it was done: of ``decode``, the tokens after the first.
        shared: Whether the time is that of the one encoding that all runs of the comparison share.
    """

    part: Part
    ms: float | None
    flops: float | None
    timing: Timing | None
    steps: int = 1
    shared: bool = False


class RunCost(Record):
    """What a run cost.

    Attributes:
        run: The run's key.
        parts: Encode, prune, prefill, decode.
        tokens_per_layer: Visual tokens that each LLM layer processed.
        kv_cache_bytes: Size of the KV cache after the prefill, as it was; None where it was not measured.
        unpruned_ms: Total of the unpruned run, to compare with.
        unpruned_prefill_ms: Its prefill.
    """

    run: str
    parts: Many[PartCost]
    tokens_per_layer: Many[int]
    kv_cache_bytes: int | None
    unpruned_ms: float | None = None
    unpruned_prefill_ms: float | None = None

    def __getitem__(self, part: str) -> PartCost:
        """Return a part by its name.

        Raises:
            KeyError: If there is no such part.
        """
        for cost in self.parts:
            if cost.part == part:
                return cost
        raise KeyError(f"no part {part!r}; a run has {', '.join(PARTS)}")

    @property
    def ms(self) -> float | None:
        """All parts together, in ms; None where the prefill was not measured."""
        return total_ms(self.parts)

    @property
    def flops(self) -> float:
        """All parts together, by formula."""
        return math.fsum(cost.flops or 0.0 for cost in self.parts)

    @property
    def speedup(self) -> float | None:
        """How many times faster the run is than the unpruned one, from image to answer; below 1 it is slower."""
        return self.unpruned_ms / self.ms if self.unpruned_ms and self.ms else None

    @property
    def prefill_speedup(self) -> float | None:
        """The same of the prefill alone, which is what papers mostly print."""
        own = self["prefill"].ms
        return self.unpruned_prefill_ms / own if self.unpruned_prefill_ms and own else None


def total_ms(parts: list[PartCost]) -> float | None:
    """The times of all parts together; None where the prefill has none."""
    if not any(cost.part == "prefill" and cost.ms is not None for cost in parts):
        return None
    return math.fsum(cost.ms or 0.0 for cost in parts)


def cost_of(run: Run, unpruned: Run, shared: Mapping[str, Timing]) -> RunCost:
    """The cost of a run beside the unpruned one. shared: timings of the comparison, which all its runs have."""
    parts = _parts(run, shared)
    whole = {cost.part: cost for cost in _parts(unpruned, shared)}
    return RunCost(
        run=run.key,
        parts=parts,
        tokens_per_layer=run.tokens_per_layer,
        kv_cache_bytes=None if run.cost is None else run.cost.kv_cache_bytes,
        unpruned_ms=total_ms([*whole.values()]),
        unpruned_prefill_ms=whole["prefill"].ms,
    )


def _parts(run: Run, shared: Mapping[str, Timing]) -> list[PartCost]:
    own, cost = run.timings, run.cost
    steps = max(len(run.answer_tokens) - 1, 0)
    named: dict[Part, Timing | None] = {
        "encode": own.get("vision", shared.get("vision")) if run.error is None else None,
        "prune": own.get("selection") if run.stages else None,
        "prefill": own.get("prefill"),
        "decode": own.get("decode_per_token") if steps else None,
    }
    computed: dict[Part, float | None] = {
        "encode": None if cost is None else cost.vision_flops,
        "prune": None,
        "prefill": None if cost is None else cost.prefill_flops,
        "decode": None if cost is None else cost.decode_flops,
    }
    return [
        PartCost(
            part=part,
            ms=None if timing is None else timing.median_ms * (steps if part == "decode" else 1),
            flops=computed[part],
            timing=timing,
            steps=steps if part == "decode" else 1,
            shared=part == "encode" and timing is not None and "vision" not in own,
        )
        for part, timing in named.items()
    ]
