"""What a budget counts, and what a method may know of model and prompt when it plans its stages. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .names import BudgetMeaning, Site
from .records import BudgetMeanings


def tokens_per_layer(n_visual: int, n_layers: int, drops: Sequence[tuple[Site, int | None]]) -> list[int]:
    """Return the number of visual tokens that each layer processes, as ``L`` ints.

    Args:
        n_visual: Visual tokens that enter the first stage.
        n_layers: Number of LLM layers.
        drops: ``(site, count after it)`` pairs, in order; a count of None keeps everything.
    """
    counts = []
    pending = list(drops)
    for layer in range(n_layers):
        while pending and (not isinstance(pending[0][0], int) or pending[0][0] <= layer):
            keep = pending.pop(0)[1]
            n_visual = n_visual if keep is None else min(n_visual, keep)
        counts.append(n_visual)
    return counts


def budget_meanings(per_layer: Sequence[int], final: int) -> BudgetMeanings:
    """Return F, A_in and A_log for a list of per-layer counts (``methods.md`` 0.2).

    A_in counts every layer with the tokens it actually processed; A_log counts it with the tokens left after it, as
    SparseVLM's logger does (if tokens are dropped after a layer, the layer counts with its pruned size).
    """
    after = [*per_layer[1:], final]
    return BudgetMeanings(
        final=final, average_in=sum(per_layer) / len(per_layer), average_logged=sum(after) / len(after)
    )


@dataclass(frozen=True)
class Budget:
    """The budget that the user asked for.

    Attributes:
        tokens: Number of visual tokens.
        counted_as: ``published``: as the method's own paper counts in its tables; ``final``: after the last stage;
            ``average``: the average that the LLM's layers process (A_in).
    """

    tokens: int
    counted_as: BudgetMeaning = "published"


PublishedModel = Literal["llava", "video_llava", "qwen"]
"""The models for which papers in this field publish code and settings."""


@dataclass(frozen=True)
class PlanningInfo:
    """What a method may know about the model and the prompt when it plans its stages.

    Attributes:
        n_visual: Visual tokens N that enter the LLM unpruned.
        n_layers: LLM layers L.
        n_views: Number of images, tiles or frames that make up N.
        has_tiles: View 0 is a thumbnail and the others are crops of the same image.
        has_frames: The views are frames of a video, in order.
        takes_video: The model answers questions about videos, whatever this prompt holds.
        merges_patches: The encoder merges patches into visual tokens (2x2 in Qwen), so the rows at sites inside or
            right after it are not the rows that the LLM gets.
        n_vision_layers: Number of vision tower layers that the features pass through (23 of CLIP's 24 in LLaVA-1.5);
            None if the family gives no access to them.
        has_text_tower: The CLIP text tower that belongs to the vision tower is available.
        renumbers: Positions can be renumbered. Never true if they have several axes (Qwen), where every stage keeps
            them.
        projects_cls: The feature of a [CLS] token can become a visual token. Not true if several patches are
            concatenated before the projector (InternVL).
        published_as: The model whose published settings apply to this one; None if papers say nothing about its kind.
        has_evidence: Whether boxes mark where in the image the evidence for the right answer lies. True as long as the
            request is not known, so that planning for a model alone refuses nothing.
        shrinks: Whether the image can be given to the model in fewer tokens.
    """

    n_visual: int
    n_layers: int
    family: str = "llava"
    has_cls: bool = True
    n_views: int = 1
    has_tiles: bool = False
    has_frames: bool = False
    takes_video: bool = False
    merges_patches: bool = False
    n_vision_layers: int | None = None
    has_text_tower: bool = False
    renumbers: bool = True
    projects_cls: bool = True
    published_as: PublishedModel | None = "llava"
    has_evidence: bool = True
    shrinks: bool = True
