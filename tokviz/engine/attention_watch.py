"""What every LLM layer looks at while an answer is generated: few numbers per row, never a whole map.

At prefill the rows of the image and of the text behind it are summed up by kinds of tokens, slice by slice; while
decoding, every layer has one row. Rows are made of the queries and keys that the kernel gets; eager attention, which
cannot be tapped, is recomputed row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily
from .capture import after_forward, attention_rows, can_tap, tapped
from .context import Pruned
from .layer_signals import rotated_queries
from .prompt import Prompt
from .sequence import Rows

SYSTEM, IMAGE, QUESTION, TEMPLATE, OUTPUT = range(5)
"""Kinds of tokens: text before the last visual token; visual tokens and what stands in their place; behind them the
user's own words and other text; the answer so far."""
N_KINDS = 5
AT_ONCE = 2**24
"""Probabilities (heads x rows x columns) that are there at the same time, for any length of the prompt."""


@dataclass(frozen=True)
class Columns:
    """What the columns of one layer's keys are. Shape: kind ``(L,)`` int64; original ``(n,)``, at ``visual (n,)``."""

    kind: Tensor
    visual: Tensor
    original: Tensor

    @classmethod
    def of(cls, rows: Rows) -> Columns:
        """Of a sequence (one row) as a layer gets it."""
        behind, visual = rows.question[0], rows.visual[0]
        kind = torch.full(behind.shape, SYSTEM, dtype=torch.int64, device=behind.device)
        kind[visual if rows.added is None else visual | rows.added[0]] = IMAGE
        asked = behind if rows.asked is None else behind & rows.asked[0].to(behind.device)
        kind[behind] = TEMPLATE
        kind[asked] = QUESTION
        return cls(kind, rows.columns(0), rows.alive[0].to(behind.device))

    def on(self, device: torch.device) -> Columns:
        """The same on another device."""
        return Columns(self.kind.to(device), self.visual.to(device), self.original.to(device))


@dataclass
class LayerLooks:
    """What one layer does.

    Shape: of_image and of_text ``(5,)``, summed over all rows of the image and of the text behind it, how they spend
    their attention on each kind; n_image and n_text rows. alive ``(n,)``: original visual tokens that the layer had.
    columns: of the prompt, as the cache of this layer holds it. steps: tokens decoded since.
    """

    columns: Columns
    of_image: Tensor
    of_text: Tensor
    n_image: int
    n_text: int
    alive: Tensor
    steps: int = 0


@dataclass
class AttentionWatch:
    """Filled while one answer is generated in the watched block.

    spent: for each token of the answer ``(n_layers, 5)``, how the row that predicted it spent its attention on each
    kind. maps: for each of the first ``most_maps`` of them ``(1 + len(map_layers), N)`` on the CPU: its attention on
    every original visual token, mean over all layers first, then in each of ``map_layers``; 0 for dropped tokens.
    """

    n_visual: int
    n_layers: int
    map_layers: Sequence[int]
    most_maps: int
    layers: dict[int, LayerLooks] = field(default_factory=dict)
    spent: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)

    def prefill(self, layer: int, columns: Columns, query: Tensor, key: Tensor, mask: Tensor | None, s: float) -> None:
        """Shape: query ``(H, L, d)``, key ``(H_kv, L, d)``, mask ``(L, L)`` or None; ``s`` scales."""
        columns = columns.on(key.device)
        kind, length = columns.kind, query.shape[1]
        if key.shape[1] != length or len(kind) != length:
            raise Unsupported(f"Layer {layer} has {key.shape[1]} columns where {len(kind)} were expected.")
        text, image = kind >= QUESTION, kind == IMAGE
        wanted = (text | image).nonzero()[:, 0]
        sums = torch.zeros(2, N_KINDS, dtype=torch.float64)
        last = None
        for at in wanted.split(max(1, AT_ONCE // (query.shape[0] * length))):
            rows = attention_rows(query[:, at], key, s, _allowed(mask, at, length)).mean(dim=0)
            spent = _by_kind(rows, kind)
            for number, mine in enumerate((image, text)):
                sums[number] += spent[mine[at]].sum(dim=0).cpu()
            last = rows[-1]
        self.layers[layer] = LayerLooks(
            columns, sums[0], sums[1], int(image.sum()), int(text.sum()), columns.original.cpu()
        )
        if last is None or int(wanted[-1]) != length - 1:
            at = torch.tensor([length - 1], device=key.device)
            last = attention_rows(query[:, at], key, s, _allowed(mask, at, length)).mean(dim=0)[0]
        self._word(0, layer, last, columns)

    def decode(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, s: float) -> None:
        """One new token. Shape: query ``(H, 1, d)``, key ``(H_kv, L + t, d)``."""
        looks, length = self.layers[layer], key.shape[1]
        looks.steps += 1
        if length != len(looks.columns.kind) + looks.steps:
            looks.columns = self._after_cut(layer, length - looks.steps).on(key.device)
        every = torch.ones(1, length, dtype=torch.bool, device=key.device)
        rows = attention_rows(query, key, s, every if mask is None else mask)
        self._word(looks.steps, layer, rows.mean(dim=0)[0], looks.columns)

    def _after_cut(self, layer: int, length: int) -> Columns:
        """A stage behind this layer cut its cache: it holds the columns that the stage left."""
        later = (self.layers[n].columns for n in range(layer + 1, self.n_layers) if n in self.layers)
        found = next((columns for columns in later if len(columns.kind) == length), None)
        if found is None:
            raise Unsupported(f"The cache of layer {layer} holds {length} columns, and nobody knows which.")
        return found

    def _word(self, number: int, layer: int, row: Tensor, columns: Columns) -> None:
        """Keep what a row ``(L + t,)``, mean over heads, says."""
        if number == len(self.spent):
            self.spent.append(torch.zeros(self.n_layers, N_KINDS, dtype=torch.float64))
            if number < self.most_maps:
                self.maps.append(torch.zeros(1 + len(self.map_layers), self.n_visual, dtype=row.dtype))
        kind = torch.nn.functional.pad(columns.kind, (0, len(row) - len(columns.kind)), value=OUTPUT)
        self.spent[number][layer] = _by_kind(row[None], kind)[0].cpu()
        if number < len(self.maps):
            whole = row.new_zeros(self.n_visual)
            whole[columns.original] = row[columns.visual]
            whole = whole.cpu()
            self.maps[number][0] += whole / self.n_layers
            for place, asked in enumerate(self.map_layers):
                if asked == layer:
                    self.maps[number][1 + place] = whole


@contextmanager
def watching(
    model: Any,
    family: ModelFamily,
    prompt: Prompt,
    pruned: Pruned | None,
    map_layers: Sequence[int],
    n_visual: int,
    most_maps: int,
) -> Iterator[AttentionWatch]:
    """Watch this thread's ``answer(model, prompt, ...)`` inside ``running_on``, which gave ``pruned``.

    One prompt of one row, once. n_visual: N before any stage. most_maps: how many tokens' maps are kept. Memory: at
    most ``AT_ONCE`` probabilities at a time beside ``most_maps * (1 + len(map_layers)) * n_visual`` numbers.
    """
    layers = family.layers(model)
    watch = AttentionWatch(n_visual, len(layers), tuple(map_layers), most_maps)
    mine, known = get_ident(), {}

    def columns() -> Columns:
        rows = prompt.own_rows if pruned is None or pruned.rows is None else pruned.rows
        if id(rows) not in known:
            known[id(rows)] = rows, Columns.of(rows)  # with the rows, so that nobody else gets their id
        return known[id(rows)][1]

    def see(layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        if get_ident() != mine:
            return
        allowed = mask[0, 0] if mask is not None and mask.dim() == 4 else None
        if layer in watch.layers:
            watch.decode(layer, query[0], key[0], allowed, scaling)
        else:
            watch.prefill(layer, columns(), query[0], key[0], allowed, scaling)

    kernel = family.language_model(model).config._attn_implementation
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            attention: Any = layer.self_attn
            if can_tap(kernel):
                stack.enter_context(tapped(attention, kernel, partial(see, number)))
            else:
                hook = partial(_recomputed, attention, number, see)
                stack.callback(after_forward(attention, hook, lambda: get_ident() == mine))
        yield watch


def _recomputed(attention: Any, number: int, see: Any, kwargs: dict[str, Any], _output: Any) -> None:
    """After an attention module ran: its queries once more, its keys out of the cache."""
    query = rotated_queries(attention, kwargs["hidden_states"], kwargs["position_embeddings"])
    key = kwargs["past_key_values"].layers[number].keys
    see(number, query, key, kwargs.get("attention_mask"), attention.scaling)


def _allowed(mask: Tensor | None, at: Tensor, length: int) -> Tensor:
    """What the columns ``at (R,)`` may see. Shape: ``(R, L)``, bool or what is added to the logits."""
    if mask is not None:
        return mask[at.to(mask.device)]
    return torch.arange(length, device=at.device) <= at[:, None]


def _by_kind(rows: Tensor, kind: Tensor) -> Tensor:
    """Attention on each kind. Shape: rows ``(R, L)``, kind ``(L,)`` -> ``(R, 5)``."""
    sums = rows.new_zeros(len(rows), N_KINDS)
    return sums.index_add_(1, kind, rows)
