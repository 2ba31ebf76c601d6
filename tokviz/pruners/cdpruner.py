"""CDPruner: the tokens that span the largest volume once each is scaled by its relevance to the question (a DPP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor

from ..errors import BadInput, Unsupported
from ..names import Params
from ..records import ServingFlag, TokenMap
from ..types import (
    CLIP_RELEVANCE,
    PROMPT_FEATURES,
    QUESTION_FEATURES,
    SEQUENCE_INDEX,
    Budget,
    Diagnostics,
    Need,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
)
from .diagnostics import lines_per_view
from .ops import required, spread, take_rows, top_k, unit_rows, usable_rows, whole_groups
from .pairs import cosine_rows
from .per_view import Usable, all_rows, in_each_view, shared, unrankable, usable
from .pruner import Paper, Pruner, choice, fixed_count, number, single_stage
from .serving_flags import Served, openvino_cdpruner

# The official min-max scaling adds this, so that the least relevant token keeps a little weight.
RELEVANCE_FLOOR = 1e-6
# A token whose conditional variance is below this share of its own is spanned by the picks, as far as float32 can tell.
SPANNED = 1e-5


@dataclass(frozen=True)
class Volume:
    """What ``largest_volume`` picked.

    Shape: picks ``(count,)`` in the order of picking; gains ``(m,)``, conditional variance of the first ``m`` picks,
    each the factor by which the determinant grew (the other picks are spanned by them: their factor is 0); variance
    ``(n,)``, of a pick when it was picked, of every other row at the end.
    """

    picks: Tensor
    gains: Tensor
    variance: Tensor


def largest_volume(unit: Tensor, weights: Tensor, count: int, blend: float | None = None) -> Volume:
    """Fast greedy MAP of the DPP with kernel ``w_i cos(i, j) w_j``: always the row that adds most to its determinant.

    blend: with kernel ``cos(i, j) (1 - blend + blend w_i w_j)`` instead, as OpenVINO GenAI has it.

    One Cholesky row per pick, ``count * n`` numbers in all. Once no row adds anything (the rank is exhausted, or only
    zero rows are left), the rows with the largest weights follow. Ties go to the lowest index; no row comes twice; no
    waiting on a GPU in the loop.
    Shape: unit ``(n, D)``, rows of length 1 or 0, weights ``(n,)`` positive, ``1 <= count <= n``.
    Source: CDPruner, official ``llava_arch.py`` ``encode_images`` (Chen et al. 2018). Differs: rows that the picks span
    are worth 0 instead of the square root of a rounding error, which officially turns into NaN and repeats a token.
    """
    weights, n = weights.float(), len(unit)
    own = weights.square() if blend is None else 1 - blend + blend * weights.square()

    def finish(cosines: Tensor, rows: Tensor) -> Tensor:
        if blend is None:
            return cosines.mul_(weights).mul_(weights[rows].unsqueeze(1))
        return cosines.mul_(1 - blend + blend * weights * weights[rows].unsqueeze(1))

    kernel_row = cosine_rows(unit, count, finish)
    # A token's cosine with itself is 1 and not 1 plus a rounding error, by which equals would be ranked.
    own = own if bool(unit[:, 0].all()) else torch.where(unit.any(dim=1), own, 0.0)
    variance, spanned_below = own.clone(), SPANNED * own
    floor = torch.zeros_like(own)  # what a spanned row is worth, and -1 for one that was picked
    factors = torch.zeros(count, n + -n % 16, device=unit.device)  # as in ``whole_groups``: equal tokens stay equal
    never = torch.full((1,), torch.inf, device=unit.device)
    picks, gains = [], []
    for step in range(count):
        pick = variance.argmax(0, keepdim=True)
        gain = variance.index_select(0, pick)
        row = kernel_row(pick, variance)
        if step:
            row = row - (factors[:step].index_select(1, pick).squeeze(1) @ factors[:step])[:n]
        factor = torch.div(row, torch.where(gain > 0, gain.sqrt(), never), out=factors[step, :n])
        floor.index_fill_(0, pick, -1.0)
        variance = variance - factor.square()
        variance = torch.where(variance > spanned_below, variance, floor).index_fill_(0, pick, -1.0)
        picks.append(pick)
        gains.append(gain)
    found, grew = torch.cat(picks), torch.cat(gains)
    rank = int((grew > 0).sum())
    spanned = weights.index_fill(0, found[:rank], -1.0)
    chosen = torch.cat([found[:rank], top_k(spanned, count - rank)])
    return Volume(chosen, grew[:rank], variance.clamp_min_(0.0).index_copy_(0, chosen[:rank], grew[:rank]))


def scaled(relevance: Tensor) -> Tensor:
    """Relevance from just above 0 to 1, as the kernel takes it; all 1 when it is constant. Shape: ``(n,)``, n >= 1.

    ``(r - min + 1e-6) / (max - min)``, with a denominator of at least 1e-6: the choice does not depend on the scale, so
    that the bound changes nothing but the division by 0 of the official code.
    """
    relevance = relevance.float()
    low, high = relevance.aminmax()
    return (relevance - low + RELEVANCE_FLOOR) / (high - low).clamp_min(RELEVANCE_FLOOR)


def question_relevance(question: Tensor, unit: Tensor) -> Tensor | None:
    """Cosine of each token to the mean embedding of the question; None without a finite question token.

    Shape: question ``(Q, D)``, unit ``(n, D)`` -> ``(n,)``.
    """
    question = question[usable_rows(question, all_rows(question))].float()
    if len(question) == 0:
        return None
    return (whole_groups(unit) @ unit_rows(question.mean(0, keepdim=True)).squeeze(0))[: len(unit)]


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Greedy MAP of the conditional DPP, in each view by itself with an equal share of ``keep``.

    Relevance is scaled with the minimum and maximum over all views. ``clip``: minus the cosine of patch and question in
    CLIP's space (the official code negates it). ``llm``: cosine of token and mean question embedding, a variant. Rows
    that are no patch are never kept. Without a question token all tokens are equally relevant, and a warning says so.
    Shape: signals.features ``(N, D)``, clip_relevance ``(N,)`` or question_features ``(Q, D)`` -> kept
    ``(min(keep, patches),)``.
    Source: CDPruner Eq. 3-9, official ``llava_arch.py``; see ``largest_volume`` and ``scaled``.
    """
    source, n, in_clip = params["relevance"], len(signals.features), []
    if source == "clip":
        in_clip = [-required(signals.clip_relevance, "clip_relevance").float()]
    found = usable(signals, *in_clip)
    rows = found.rows
    if len(rows) == 0:
        return unrankable(keep, found.pool)
    unit = unit_rows(take_rows(signals.features, rows))
    if in_clip:
        relevance: Tensor | None = in_clip[0][rows]
    else:
        relevance = question_relevance(required(signals.question_features, "question_features"), unit)
    if relevance is None:
        relevance, source = torch.ones(len(rows), device=rows.device), "constant"
    weights = scaled(relevance)

    def reduce(view: Tensor, share: int) -> Volume:
        if len(view) == len(rows):
            return largest_volume(unit, weights, share)
        part = torch.searchsorted(rows, view)
        return largest_volume(unit[part], weights[part], share)

    volumes = in_each_view(signals, rows, keep, reduce)

    def diagnose() -> Diagnostics:
        relevant = spread(weights, rows, n, torch.nan)
        return _explained(found, n, volumes, relevant, source, len(picks), ())

    picks = torch.cat([view[volume.picks] for view, volume in volumes])
    return found.picked(picks, keep, n, diagnose)


def _explained(
    found: Usable, n: int, volumes: Sequence[tuple[Tensor, Volume]], relevant: Tensor, source: str, count: int,
    maps: tuple[TokenMap, ...],
) -> Diagnostics:  # fmt: skip
    """Volumes and relevance as maps; what every pick gained. Shape: relevant ``(n,)``, count of picks."""
    variance = torch.full((n,), torch.nan, device=relevant.device)
    for view, volume in volumes:
        variance[view] = volume.variance
    name, high = "Volume added when picked", "high is kept first; dropped tokens show what they would still add"
    gains = [(view, volume.gains.log()) for view, volume in volumes]
    independent = sum(len(gain) for _, gain in gains)
    no_question = "There is no question token to compare with, so that all tokens count as equally relevant."
    return found.explained(
        TokenMap("conditional_variance", name, variance, "factor of the determinant", high, "log"),
        maps=(TokenMap("relevance", _RELEVANCE_LABELS[source], relevant, direction="high weighs more"), *maps),
        charts=lines_per_view("gain_{}", "Log-determinant gained by each pick", gains, "pick", "ln of the gain"),
        facts={
            "relevance": source,
            "independent_picks": independent,
            "filled_by_relevance": count - independent,
            "log_determinant": sum(float(gain.sum()) for _, gain in gains),
        },
        warnings=(no_question,) if source == "constant" else (),
    )


def select_deployed(
    signals: Signals, keep: int, params: Params, generator: Generator, markers: bool = False
) -> Selection:
    """The DPP in two halves of each view by itself, half of its share each, with a kernel that blends in relevance.

    Of an odd share the second half keeps one more. Relevance: cosine with the mean embedding of all text of the prompt,
    scaled to 0..1 in each half. markers: the token before and the one behind an image begin and end it, and are no
    text.
    Shape: signals.features ``(N, D)``, sequence_index ``(N,)``, prompt_features ``(T, D)``, prompt_index ``(T,)`` ->
    kept ``(min(keep, patches),)``.
    Source: OpenVINO GenAI 2026.3, ``cdpruner/cdpruner.cpp``, ``conditional_kernel.cpp``, ``fast_dpp.cpp``.
    """
    n, found = len(signals.features), usable(signals)
    rows = found.rows
    if len(rows) == 0:
        return unrankable(keep, found.pool)
    text = required(signals.prompt_features, "prompt_features")
    if markers:
        index = required(signals.sequence_index, "sequence_index")
        beside = torch.cat([index - 1, index + 1])
        text = text[~torch.isin(required(signals.prompt_index, "prompt_index"), beside)]
    halves = [
        half
        for view, share in shared(signals, rows, keep)
        for half in ((view[: len(view) // 2], share // 2), (view[len(view) // 2 :], share - share // 2))
        if half[1]
    ]
    weights, volumes = torch.full((n,), torch.nan, device=rows.device), []
    for half, share in halves:
        unit = unit_rows(take_rows(signals.features, half))
        relevance = question_relevance(text, unit)
        weights[half] = blended = (
            torch.zeros(len(half), device=rows.device) if relevance is None else spanned(relevance)
        )
        volumes.append((half, largest_volume(unit, blended, share, params["relevance_weight"])))
    picks = torch.cat([half[volume.picks] for half, volume in volumes])

    def diagnose() -> Diagnostics:
        halved = torch.full((n,), torch.nan, device=rows.device)
        for place, (half, _) in enumerate(halves):
            halved[half] = float(place)
        shown = TokenMap("half", "Half that the token competes in", halved, direction="number in the order of tokens")
        own = _explained(found, n, volumes, weights, "prompt", len(picks), (shown,))
        first = {int(view[0]) for view, _ in shared(signals, rows, keep)}
        drawn = [int(half[0]) for half, volume in volumes if len(volume.gains)]
        names = ["first half" if row in first else "second half" for row in drawn]
        charts = [replace(chart, label=f"{chart.label}, {name}") for chart, name in zip(own.charts, names, strict=True)]
        return replace(own, charts=tuple(charts))

    return found.picked(picks, keep, n, diagnose)


def spanned(relevance: Tensor) -> Tensor:
    """Relevance from 0 to 1, all 0 when it is constant. Shape: ``(n,)``, n >= 1."""
    low, high = relevance.float().aminmax()
    return (relevance - low) / (high - low + RELEVANCE_FLOOR)


_RELEVANCE_LABELS = {
    "prompt": "Relevance: cosine of token and mean embedding of the prompt's text, scaled in each half",
    "clip": "Relevance: minus the cosine of patch and question in CLIP's space, scaled",
    "llm": "Relevance (variant): cosine of token and mean question embedding, scaled",
    "constant": "Relevance (no question: all equal)",
}


def needs(info: PlanningInfo, params: Params) -> tuple[Need, ...]:
    """What makes the relevance. Raises Unsupported for ``clip`` without CLIP's text tower."""
    if params["relevance"] == "llm":
        return (QUESTION_FEATURES,)
    if not info.has_text_tower:
        raise Unsupported(
            "CDPruner's relevance by CLIP needs the text tower of the CLIP model that the vision tower was taken from, "
            "and this model comes without it. Choose relevance llm."
        )
    return (CLIP_RELEVANCE,)


_as_published = single_stage(select, needs=needs, title="Largest volume (conditional DPP)")


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage behind the projector. Raises BadInput for CLIP's relevance in OpenVINO's kernel, which has none."""
    if params["kernel"] == "paper":
        return _as_published(budget, info, params)
    if params["relevance"] == "clip":
        raise BadInput(
            "OpenVINO's CDPruner takes the relevance in the LLM's space; choose relevance llm or kernel paper."
        )
    # Of the models that OpenVINO prunes, all mark where an image begins and ends.
    chosen = fixed_count(partial(select_deployed, markers=info.merges_patches))
    title = "Largest volume of two halves"
    return single_stage(chosen, needs=(SEQUENCE_INDEX, PROMPT_FEATURES), title=title)(budget, info, params)


def deployed(served: Served, params: Params) -> tuple[ServingFlag, ...]:
    """OpenVINO GenAI's settings, and how the run differs from what they do."""
    if params["kernel"] == "openvino":
        return openvino_cdpruner(served, params["relevance_weight"], split=True)
    whole = "its relevance is to the whole prompt: kernel = openvino shows what its default keeps"
    return openvino_cdpruner(served, 1.0, split=False, note=whole)


PRUNER = Pruner(
    id="cdpruner",
    label="CDPruner",
    family="text-guided",
    claim="Keeps the tokens that span the largest volume, each scaled by its relevance to the question (a DPP).",
    paper=Paper(
        "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
        "Zhang et al.",
        2025,
        "https://arxiv.org/abs/2506.10967",
    ),
    needs=(QUESTION_FEATURES, CLIP_RELEVANCE, SEQUENCE_INDEX, PROMPT_FEATURES),
    params=(
        choice(
            "relevance",
            "Relevance",
            ("llm", "clip"),
            "llm: cosine of token and mean question embedding in the LLM's space (a variant that every model can "
            "give). clip: as published, in the space of CLIP, with its text tower.",
        ),
        choice(
            "kernel",
            "Kernel",
            ("paper", "openvino"),
            "paper: tokens scaled by relevance, one DPP per image. openvino: as OpenVINO GenAI does, a DPP in each "
            "half of the image, with a kernel that blends in relevance to the whole prompt.",
        ),
        number(
            "relevance_weight",
            "Weight of relevance",
            0.5,
            "With kernel openvino: 0 is diversity alone, 1 is the paper's kernel. OpenVINO's default: 0.5.",
        ),
    ),
    does_without=(CLIP_RELEVANCE,),
    schedule=schedule,
    deployed=deployed,
)
