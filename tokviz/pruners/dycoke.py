"""DyCoke before the LLM: of every four frames the first stays whole, of the others what changed since one before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..records import TokenMap
from ..types import Budget, Diagnostics, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .evs import changes, kept_per_frame, places
from .ops import evenly_spaced, spread, top_k
from .per_view import Usable, all_rows, equal_shares, unrankable, usable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, single_stage

# Of a window of four frames, what each is compared with: the second with the first, the third with the first too, the
# fourth with the third. The first with nothing: it stays.
WINDOW = (-1, 0, 0, 2)


@dataclass(frozen=True)
class Film:
    """What is known of the tokens that can be compared.

    Shape: frame ``(n,)`` numbers of 0..T-1; earlier ``(T,)`` the frame that each is compared with, -1 for those that
    stay whole; change ``(n,)`` float32, 1 - cosine with the token at the same place of that frame, infinite without
    one.
    """

    frame: Tensor
    earlier: Tensor
    change: Tensor

    def rows(self) -> list[Tensor]:
        """The tokens of each frame. Shape: T of ``(n_t,)`` ascending."""
        return [(self.frame == number).nonzero().squeeze(1) for number in range(len(self.earlier))]


def compared_with(n_frames: int, code: str) -> list[int]:
    """For every frame the one that it is compared with, -1 for none: windows of four from the first frame on.

    official: the third frame of the last window stays whole, as the code's loop ends before it.
    Example: six frames are -1, 0, 0, 2, -1, 4.
    """
    last = (n_frames - 1) // len(WINDOW) * len(WINDOW)
    return [
        -1 if place == 2 and code == "official" and start == last else start + WINDOW[place] if place else -1
        for start in range(0, n_frames, len(WINDOW))
        for place in range(min(len(WINDOW), n_frames - start))
    ]


def partners(frame: Tensor, place: Tensor, earlier: Tensor) -> Tensor:
    """For every token the number of the one at its place in the frame that its own is compared with, -1 without one.

    Shape: frame and place ``(n,)``, earlier ``(T,)`` -> ``(n,)``, numbers of 0..n-1.
    """
    width = int(place.max()) + 1
    table = torch.full((len(earlier) * width,), -1, dtype=torch.int64, device=frame.device)
    table[frame * width + place] = all_rows(frame)
    wanted = earlier[frame]
    return torch.where(wanted < 0, -1, table[wanted.clamp_min(0) * width + place])


def film_of(signals: Signals, rows: Tensor, code: str) -> Film:
    """Compare the tokens ``rows (n,)`` with those of earlier frames; a view is a frame."""
    view, place = places(signals, rows)
    views, frame = torch.unique(view, return_inverse=True)
    earlier = torch.tensor(compared_with(len(views), code), dtype=torch.int64, device=rows.device)
    return Film(frame, earlier, changes(signals.features, rows, partners(frame, place, earlier)))


def counts_of(sizes: list[int], whole: list[bool], keep: int, ratio: float | None) -> list[int]:
    """Tokens that each frame keeps: all of whole ones, and equal shares of what is left of ``keep`` in the others.

    Below the whole frames these get equal shares themselves, and nothing is left for the others. ratio: others keep
    this share of their size, rounded down, whatever the sum.
    """
    first = [size if stays else 0 for size, stays in zip(sizes, whole, strict=True)]
    if ratio is not None:
        return [size if stays else int(ratio * size) for size, stays in zip(sizes, whole, strict=True)]
    if keep <= sum(first):
        return equal_shares(first, keep)
    others = equal_shares([0 if stays else size for size, stays in zip(sizes, whole, strict=True)], keep - sum(first))
    return [a + b for a, b in zip(first, others, strict=True)]


def _select(signals: Signals, keep: int, params: Params, generator: Generator, ratio: float | None = None) -> Selection:
    """Keep what each frame was given: of whole frames all, of the others what changed most, ties to the lowest index.

    ratio: what the others keep, as a share of themselves; None meets ``keep``.
    Shape: signals.features ``(N, D)`` -> kept ``(min(keep, patches),)``, or as many as the frames keep.
    Source: DyCoke section 3.2, token temporal merging; official ``llava/model/llava_arch.py`` ``dycole_ttm``.
    """
    found = usable(signals)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool)
    film = film_of(signals, found.rows, params["code"])
    frames, whole = film.rows(), (film.earlier < 0).tolist()
    counts = counts_of([len(rows) for rows in frames], whole, min(keep, len(found.rows)), ratio)
    picks = []
    for rows, stays, count in zip(frames, whole, counts, strict=True):
        if stays:
            picks.append(rows[evenly_spaced(len(rows), count, rows.device)])
        else:
            picks.append(rows[top_k(film.change[rows].clamp_max(torch.finfo(torch.float32).max), count)])
    chosen = torch.cat(picks)
    kept = found.kept(found.rows[chosen], keep if ratio is None else 0)
    sequence = None
    if params["code"] == "official" and len(kept) == len(chosen):
        sequence = torch.searchsorted(kept, found.rows[chosen])  # frame by frame, what changed most first
    n = len(signals.features)
    return Selection(kept, sequence=sequence, diagnose=lambda: _explained(n, found, film, chosen, counts, keep))


def _explained(n: int, found: Usable, film: Film, chosen: Tensor, counts: list[int], keep: int) -> Diagnostics:
    """The change and the frame that it is counted from as maps, bars per frame. Shape: chosen ``(k,)``."""
    missing = film.change == torch.inf
    change = spread(film.change.masked_fill(missing, torch.nan), found.rows, n, torch.nan)
    since = film.earlier[film.frame].float().add(1).masked_fill(film.earlier[film.frame] < 0, torch.nan)
    compared = spread(since, found.rows, n, torch.nan)
    kept = torch.bincount(film.frame[chosen], minlength=len(film.earlier)).tolist()
    least = int((film.earlier < 0)[film.frame].sum())
    cut = (
        f"DyCoke keeps the first of every four frames whole, {least} tokens here, and the budget is smaller: of each "
        f"of these frames evenly spaced tokens were kept, and nothing of the others. Ask for more than {least}.",
    )
    return found.explained(
        TokenMap("change", "Change since the frame that it is compared with", change, "1 - cosine",
                 "the highest of a frame stay; frames without one are whole"),
        maps=(TokenMap("compared_with", "Frame that it is compared with", compared, direction="number of the frame"),),
        charts=(kept_per_frame(kept),),
        facts={"whole_frames": int((film.earlier < 0).sum()), "kept_per_view": kept, "least": least},
        warnings=cut if keep < least else (),
    )  # fmt: skip


select = fixed_count(_select)
_exact = single_stage(select, title="What changed in windows of four frames")


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage behind the projector, with the budget or with what rounding in every frame leaves of it.

    official: of all frames but the whole ones the share that makes the budget, as its parameter ``k`` is the rest.
    """
    if params["count"] == "exact":
        return _exact(budget, info, params)
    tokens = budget_tokens(budget)
    whole = sum(earlier < 0 for earlier in compared_with(info.n_views, params["code"])) * info.n_visual / info.n_views
    others = info.n_visual - whole
    ratio = min(1.0, max(0.0, (tokens - whole) / others)) if others else 1.0

    def as_rounded(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        return _select(signals, tokens, params, generator, ratio)

    return Schedule((Stage("projector", None, as_rounded, title="What changed in windows of four frames"),))


PRUNER = Pruner(
    id="dycoke",
    label="DyCoke",
    family="diversity",
    claim="Keeps the first of every four frames whole, and of the others what changed since an earlier one.",
    paper=Paper(
        "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models",
        "Tao et al.",
        2025,
        "https://arxiv.org/abs/2411.15024",
    ),
    params=(
        choice(
            "count",
            "Token count",
            ("exact", "official"),
            "exact: the budget. official: what rounding down in every frame leaves, never less than the whole frames.",
        ),
        choice(
            "code",
            "Last window and order",
            ("paper", "official"),
            "paper: all windows alike, tokens in their order. official: the third frame of the last window stays "
            "whole, and in a frame what changed most comes first.",
        ),
    ),
    schedule=schedule,
    needs_frames=True,
)
