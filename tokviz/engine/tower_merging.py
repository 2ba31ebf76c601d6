"""The vision tower run once more with fewer tokens from layer to layer: stages between attention and MLP of a layer.

The tower's own modules are called one by one and nothing is changed in it or stored on it, so other threads do not
notice. Layers behind the one that makes the features are not run: nobody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..errors import Unsupported
from ..models.base import ModelFamily, VisionTower, VisionTowerLayer
from ..names import VisionLayer
from ..types import Selection, Signals, Stage
from .capture import lifted
from .sequence import Rows, State
from .stages import Chooser, StageEvent, StageRunner, Stopwatch

NumberedStage = tuple[int, Stage]


@dataclass(frozen=True)
class VisionMerging:
    """What the shortened tower made of each row's images.

    stage: the last one. selections: per row what happened to the N tokens, with the new embeddings as features; None
    for rows without images. features: per row ``(K, D_v)`` before the projector, in the order in which the LLM gets
    them. milliseconds: tower and projector, selections excluded.
    """

    stage: Stage
    selections: list[Selection | None]
    features: list[Tensor]
    events: list[list[StageEvent]]
    milliseconds: float

    def apply(self, runner: StageRunner, state: State) -> tuple[State, Tensor | None]:
        """Put the merged tokens in the place of all others; rows may be copies. Returns as ``StageRunner.apply``."""
        # Another kernel rounds differently: where nothing was merged, what the model itself encoded is the answer.
        pairs = zip(self.selections, self.events, strict=True)
        if all(
            made is None or (len(made.kept) == len(events[0].alive) and made.sequence is None) for made, events in pairs
        ):
            return state, None
        copied = [row // runner.copies for row in range(len(state.rows.alive))]
        state = replace(state, encoder=tuple(self.features[row] for row in copied))
        state, index = runner.apply(self.stage, state, [self.selections[row] for row in copied])
        return replace(state, rows=state.rows.reindexed() or state.rows), index


def merge_in_vision(
    model: Any,
    family: ModelFamily,
    stages: Sequence[Stage],
    chooser: Chooser,
    *,
    pixels: Tensor | None,
    rows: Rows,
    views: Sequence[Tensor | None],
) -> VisionMerging:
    """Run the vision tower on all images, with ``stages`` (all at ``VisionLayer`` sites, in order) carried out in it.

    Images of one row are shown to ``chooser`` together, one below the other, and must all keep the same number.

    Shape: pixels ``(P, 3, H, W)``; views per row ``(N,)``, the image of each token, None when there is one.
    Raises Unsupported when the prompt was shortened before, or the tower cannot be run layer by layer.
    """
    tower = _check(family.vision_tower(model), stages)
    run = _TowerRun(tower, views, {stage.site: stage for stage in stages}, chooser, [[] for _ in rows.alive])
    selections: list[Selection | None] = [None] * len(rows.alive)
    features: list[Tensor] = [torch.empty(0)] * len(rows.alive)
    with Stopwatch(rows.real.device) as watch:
        for images in _batches(tower, family.has_cls(model), pixels, rows, views):
            run.through(images)
            for number, row in enumerate(images.rows):
                features[row] = images.hidden[images.part(number), images.first :].flatten(0, 1)
                selections[row] = images.overall(number, family.project(model, features[row]))
    selecting = sum(event.milliseconds + event.diagnostics_ms for events in run.events for event in events)
    empty = next((made[:0] for made in features if made.numel()), torch.empty(0, 0))
    return VisionMerging(
        stages[-1],
        selections,
        [made if selection is not None else empty for made, selection in zip(features, selections, strict=True)],
        run.events,
        watch.milliseconds - selecting,
    )


def _check(tower: VisionTower | None, stages: Sequence[Stage]) -> VisionTower:
    if tower is None:
        raise Unsupported("The vision tower of this model cannot be run with fewer tokens from layer to layer.")
    sites = [stage.site.vision_layer for stage in stages if isinstance(stage.site, VisionLayer)]
    if sites and not 0 <= sites[0] <= sites[-1] < len(tower.layers):
        raise Unsupported(
            f"The features of this model pass through the vision layers 0..{len(tower.layers) - 1}; "
            f"there is no layer {sites[-1]} to merge in."
        )
    if len(set(sites)) != len(sites):
        raise Unsupported("A vision layer takes one stage: behind it the keys belong to no token any more.")
    if any(stage.positions != "reindex" for stage in stages):
        raise Unsupported("Tokens that were merged inside the vision tower have no position to keep; use reindex.")
    return tower


@dataclass
class _Images:
    """Equally many images of several rows on their way through the tower.

    Shape: hidden ``(P, [CLS] + n, D_v)``. alive: per row ``(P_row * n,)`` original indices, image by image, in the
    order of the tower. sizes: ``(P, n)``, patches that each token stands for, None while each is one.
    """

    rows: list[int]
    hidden: Tensor
    alive: list[Tensor]
    first: int
    sizes: Tensor | None = None
    weighted: bool = False

    @property
    def per_row(self) -> int:
        return self.hidden.shape[0] // len(self.rows)

    def part(self, number: int) -> slice:
        """The images of the row ``rows[number]``."""
        return slice(number * self.per_row, (number + 1) * self.per_row)

    def bias(self) -> Tensor | None:
        """ln(size) for every key, 0 for [CLS]; None while every token is one patch. Shape: ``(P, 1, 1, tokens)``."""
        if self.sizes is None or not self.weighted:
            return None
        every = torch.cat([self.sizes.new_ones(self.sizes.shape[0], self.first), self.sizes], dim=1)
        accurate = torch.promote_types(self.hidden.dtype, torch.float32)
        return every.to(accurate).log().to(self.hidden.dtype)[:, None, None]

    def overall(self, number: int, embeddings: Tensor) -> Selection:
        """What the whole tower did to the tokens of a row, as one selection. Shape: embeddings ``(K, D)``."""
        alive = self.alive[number]
        ascending = alive.argsort()
        in_order = torch.equal(alive[ascending], alive)
        sizes = None if self.sizes is None else self.sizes[self.part(number)].flatten()[ascending]
        return Selection(
            kept=alive[ascending],
            features=embeddings[ascending],
            sequence=None if in_order else ascending.argsort(),
            sizes=sizes,
        )


def _batches(
    tower: VisionTower, has_cls: bool, pixels: Tensor | None, rows: Rows, views: Sequence[Tensor | None]
) -> Iterator[_Images]:
    """Rows with equally many images go through the tower together."""
    counts = [
        0 if not len(alive) else 1 if view is None else int(view[-1]) + 1
        for alive, view in zip(rows.alive, views, strict=True)
    ]
    if not sum(counts):
        return
    if pixels is None or pixels.shape[0] != sum(counts):
        raise Unsupported("Merging inside the vision tower needs the pixels of every image; use encode() on them.")
    starts = [sum(counts[:row]) for row in range(len(counts))]
    for count in sorted(set(counts) - {0}):
        group = [row for row in range(len(counts)) if counts[row] == count]
        part = torch.cat([pixels[starts[row] : starts[row] + count] for row in group])
        hidden, first = tower.embed(part), int(has_cls)
        n = count * (hidden.shape[1] - first)
        everything = torch.arange(n, device=hidden.device)
        if any(not torch.equal(rows.alive[row].to(hidden.device), everything) for row in group):
            raise Unsupported("Tokens were dropped already; merging inside the vision tower must come first.")
        yield _Images(group, hidden, [everything] * len(group), first)


@dataclass(frozen=True)
class _TowerRun:
    tower: VisionTower
    views: Sequence[Tensor | None]
    stages: dict[Any, Stage]
    chooser: Chooser
    events: list[list[StageEvent]]

    def through(self, images: _Images) -> None:
        for number, layer in enumerate(self.tower.layers):
            mixed, key = _attend(layer, images.hidden, images.bias())
            images.hidden = images.hidden + mixed
            stage = self.stages.get(VisionLayer(number))
            if stage is not None:
                self._stage(stage, images, lifted(key).mean(dim=1)[:, images.first :])
            images.hidden = images.hidden + layer.mlp(layer.mlp_norm(images.hidden))

    def _stage(self, stage: Stage, images: _Images, keys: Tensor) -> None:
        """Carry out one stage on every row. Shape: keys ``(P, n, d_k)``."""
        patches = images.hidden[:, images.first :]
        made, sizes = [], []
        for number, row in enumerate(images.rows):
            part, origin, view = images.part(number), images.alive[number], self.views[row]
            old_sizes = None if images.sizes is None else images.sizes[part].flatten()
            signals = Signals(
                features=patches[part].flatten(0, 1),
                keys=keys[part].flatten(0, 1),
                view=None if view is None else view.to(origin.device)[origin],
                sizes=old_sizes,
                origin=origin,
            )
            decided = self.chooser.decide(stage, signals, row)
            selection = decided.selection
            order = _order(selection, stage, images.per_row, patches.shape[1])
            kept = selection.kept.to(origin.device)
            merged = signals.features[kept] if selection.features is None else selection.features.to(patches)
            new_sizes = old_sizes[kept] if selection.sizes is None and old_sizes is not None else selection.sizes
            images.alive[number] = origin[kept[order]]
            made.append(merged[order].unflatten(0, (images.per_row, -1)))
            sizes.append(
                None if new_sizes is None else new_sizes.to(order.device)[order].unflatten(0, (images.per_row, -1))
            )
            self.events[row].append(decided.event(stage, origin, images.alive[number]))
        if len({rest.shape[1] for rest in made}) > 1:
            raise Unsupported(f"{stage.title!r} keeps different numbers of tokens in different images of one batch.")
        images.hidden = torch.cat([images.hidden[:, : images.first], torch.cat(made)], dim=1)
        if any(entry is not None for entry in sizes):
            ones = torch.ones(made[0].shape[:2], dtype=torch.int64, device=patches.device)
            images.sizes = torch.cat([ones if entry is None else entry for entry in sizes])
        images.weighted = stage.proportional_attention


def _attend(layer: VisionTowerLayer, hidden: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention of one layer as its own SDPA path computes it, and its keys, which cost nothing here.

    Shape: hidden ``(P, t, D_v)``, bias ``(P, 1, 1, t)`` added to the logits -> ``(P, t, D_v)``, ``(P, H, t, d)``.
    """
    attention: Any = layer.attention
    normed = layer.attention_norm(hidden)
    query, key, value = (
        projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=attention.scale)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2)), key


def _order(selection: Selection, stage: Stage, n_images: int, n: int) -> Tensor:
    """The order of the kept tokens in the tower, as positions in ``kept``; every image keeps the same number.

    Shape: -> ``(K,)`` int64.
    """
    kept = selection.kept
    if selection.extra is not None and len(selection.extra):
        raise Unsupported(f"{stage.title!r} adds tokens inside the vision tower, where there is no place for them.")
    order = torch.arange(len(kept), device=kept.device) if selection.sequence is None else selection.sequence
    each = torch.arange(n_images, device=kept.device).repeat_interleave(len(kept) // n_images)
    if not len(kept) or not torch.equal(kept[order] // n, each):
        raise Unsupported(f"{stage.title!r} must keep the same number of tokens, at least one, in every image.")
    return order
