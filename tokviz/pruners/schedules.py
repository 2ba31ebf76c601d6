"""Schedule arithmetic: layers on models of another depth, and counts that meet an average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import BadInput
from ..types import PlanningInfo

PUBLISHED_DEPTHS = (28, 32, 40)
"""Depths of the models that methods were published on: Qwen2-VL 7B, LLaVA 7B and 13B."""


def carried_layers(published: Sequence[int] | Mapping[int, Sequence[int]], n_layers: int) -> list[int]:
    """The layers that stand for published ones in a model of ``n_layers``.

    A list was printed for 28, 32 and 40 layers alike, a mapping says what was printed for which depth (32 among them).
    Elsewhere in proportion to 32, ``layer * n_layers // 32``, at least 1. One that would repeat the layer before moves
    to the next, and what falls off the end of a very shallow model is left out.
    Example: (2, 6, 15) on 8 layers is [1, 2, 3].
    """
    by_depth = published if isinstance(published, Mapping) else dict.fromkeys(PUBLISHED_DEPTHS, published)
    printed = by_depth.get(n_layers)
    layers: list[int] = []
    for layer in printed or by_depth[32]:
        place = layer if printed else layer * n_layers // 32
        layers.append(max(place, layers[-1] + 1 if layers else 1))
    return [layer for layer in layers if layer < n_layers]


def layer_asked(label: str, reads: str, asked: int, published: int, info: PlanningInfo) -> int:
    """The first layer that sees fewer tokens, for a method that goes by the layer before it: ``asked``, 0 as published.

    Raises BadInput when it is no layer of this model or the first, naming the method and what it ``reads``.
    """
    carried = carried_layers([published], info.n_layers)
    if not carried:
        raise BadInput(
            f"{label} reads the {reads} of one layer and prunes before the next; this model has a single one."
        )
    layer = asked or carried[0]
    if not 0 < layer < info.n_layers:
        raise BadInput(
            f"{label}'s layer must lie between 1 and {info.n_layers - 1} for a model of {info.n_layers} layers, not "
            f"{layer}."
        )
    return layer


def reference_depth(n_layers: int) -> int:
    """At how many layers a published budget is solved: the model's own number if it was published on, else 32."""
    return n_layers if n_layers in PUBLISHED_DEPTHS else 32


def bracket(increasing: Callable[[float], float], target: float) -> tuple[float, float]:
    """Neighbouring ratios ``low <= high`` in 0..1 with ``increasing(low) <= target < increasing(high)``.

    Both are 0 when even ratio 0 is above the target, and both are 1 when ratio 1 is not above it.
    """
    if increasing(0.0) > target:
        return 0.0, 0.0
    if increasing(1.0) <= target:
        return 1.0, 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if increasing(middle) <= target:
            low = middle
        else:
            high = middle
    return low, high


def layer_spans(layers: list[int], n_layers: int) -> list[int]:
    """How many LLM layers see the tokens before the first stage, and then behind each stage. Shape: stages + 1."""
    return [end - start for start, end in zip([0, *layers], [*layers, n_layers], strict=True)]


def weighted_average(counts: Sequence[float], weights: list[int]) -> float:
    """Mean of N and the counts behind each stage, weighted by how many layers see them."""
    return sum(count * weight for count, weight in zip(counts, weights, strict=True)) / sum(weights)


def staircase(first: float, ratio: float, stages: int) -> list[float]:
    """Counts that fall by one ratio: first, first r, first r^2, ... Shape: stages + 1."""
    return [first * ratio**stage for stage in range(stages + 1)]


def geometric_ratio(first: float, average: float, spans: list[int]) -> float:
    """The ratio r in 0..1 with which first, first r, first r^2, ..., each seen by its span of layers, has this average.

    ``sum_k span_k r^k = L average / first`` grows with r. 1 when ``first`` is not above the average, 0 when no ratio is
    small enough. Numbers: 384 down to 192 over layers 3, 4, 9, 16 has r = 0.7075.
    """
    return bracket(lambda r: weighted_average(staircase(first, r, len(spans) - 1), spans), average)[0]


def survivors_for_average(label: str, tokens: int, info: PlanningInfo, layer: int) -> int:
    """How many tokens a single stage before ``layer`` must leave for the layers to process ``tokens`` on average.

    R = (L B - N K) / (L - K), rounded to the nearest integer. Raises BadInput when even one survivor is too many.
    """
    n, layers = info.n_visual, info.n_layers
    if tokens >= n:
        return tokens
    left = layers * tokens - n * layer
    survivors = (2 * left + layers - layer) // (2 * (layers - layer))
    if survivors < 1:
        least = -(-(2 * n * layer + layers - layer) // (2 * layers))
        raise BadInput(
            f"{label} cannot reach an average of {tokens} tokens: its first {layer} of {layers} layers process "
            f"all {n}. Ask for at least {least}, or count the budget as final."
        )
    return survivors


def least_budget(accepted: Callable[[int], bool], tokens: int, n: int) -> int:
    """The smallest budget above ``tokens`` that is accepted; N, which drops nothing, where there is none below it.

    Refusals name it: tried one by one, because counts are rounded and what is accepted does not always rise.
    """
    return next((more for more in range(tokens + 1, n) if accepted(more)), n)
