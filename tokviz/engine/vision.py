"""Vision signals: what one run of the vision tower leaves behind for the stages, in any thread without mixing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily
from ..types import Need
from .attention import attention_logits, attention_rows, received_attention
from .needs import VISION_KINDS
from .tap import can_tap, tapped
from .watching import Active, after_forward, before_forward

TowerBlock = Literal["feature", "last"]
PerBlock = Mapping[str, Mapping[str, Tensor]]
"""Kind of signal -> vision block ("feature", "last") -> values."""


@dataclass(frozen=True)
class VisionSignals:
    """What the vision tower said about the visual tokens of one row (sequence).

    Shape: features ``(N, D_v)`` before the projector (behind it where that merges patches); seen[kind][block]:
    ``cls_attention``, ``cls_logits`` and ``cls_full_width`` ``(N,)`` float32, the [CLS] row on the patches;
    ``received_attention`` ``(N,)`` float32; ``encoder_keys`` ``(N, d_k)``, mean over heads; ``full_keys`` ``(N, H
    d_k)``; ``cls_feature`` ``(pictures, D_v)``; view ``(N,)`` the picture of each token, None when there is one.
    """

    features: Tensor
    seen: PerBlock = field(default_factory=dict)
    view: Tensor | None = None


@dataclass
class _Pictures:
    """The last vision run of one thread, per picture."""

    features: Tensor
    seen: PerBlock


class VisionCapture:
    """Holds the vision signals of each thread's last vision run until the prompt arrives at the language model."""

    def __init__(self, has_cls: bool) -> None:
        self._has_cls = has_cls
        self._local = threading.local()

    @property
    def _pending(self) -> dict[str, dict[str, Tensor]]:
        pending: dict[str, dict[str, Tensor]] = self._local.__dict__.setdefault("pending", {})
        return pending

    def see_projector(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the projector: the features of all pictures of the prompt, in one call."""
        if not getattr(self._local, "projecting", False):
            features = args[0] if args else next(iter(kwargs.values()))
            self._local.pictures = _Pictures(features, dict(self._pending))
            self._local.pending = {}

    def see_attention(self, block: TowerBlock, kinds: set[str], query: Tensor, key: Tensor, scaling: float) -> None:
        """Keep what is wanted of one vision block's [CLS] query and keys. Shape: ``(P, H, >= 1 or 1 + N, d)``."""
        for kind in kinds & _CLS_ROWS.keys():
            row_of = _CLS_ROWS[kind]
            rows = [row_of(q[:, :1], k, scaling) for q, k in zip(query, key, strict=True)]
            self._keep(kind, block, torch.stack(rows)[:, 1:])
        if "received_attention" in kinds:
            received = [received_attention(q, k, scaling) for q, k in zip(query, key, strict=True)]
            self._keep("received_attention", block, torch.stack(received))
        first = 1 if self._has_cls else 0
        if "encoder_keys" in kinds:
            self._keep("encoder_keys", block, key.mean(dim=1)[:, first:])
        if "full_keys" in kinds:
            self._keep("full_keys", block, key.transpose(1, 2).flatten(2)[:, first:])

    def see_output(self, block: TowerBlock, output: Any) -> None:
        """Keep the [CLS] row of what a vision block returns. Shape: ``(P, 1 + N, D_v)``, alone or first of several."""
        hidden = output if isinstance(output, Tensor) else output[0]
        self._keep("cls_feature", block, hidden[:, 0])

    def _keep(self, kind: str, block: TowerBlock, values: Tensor) -> None:
        self._pending.setdefault(kind, {})[block] = values

    @contextmanager
    def projecting(self) -> Iterator[None]:
        """While a pruner's merged features are projected, the projector's input is not a new picture."""
        self._local.projecting = True
        try:
            yield
        finally:
            self._local.projecting = False

    def consume(self, counts: list[int]) -> list[VisionSignals] | None:
        """Split the last vision run of this thread by rows that hold ``counts`` visual tokens, and forget it.

        Rows may be copies (beams, several returned sequences): then each prompt's signals serve all its copies.
        Returns None when no vision run was seen. Raises Unsupported when the counts do not fit.
        """
        pictures: _Pictures | None = self._local.__dict__.pop("pictures", None)
        if pictures is None:
            return None
        n_pictures, per_picture = pictures.features.shape[:2]
        copies, rest = divmod(sum(counts), n_pictures * per_picture)
        if rest or copies < 1 or len(counts) % copies:
            raise Unsupported(
                f"The vision tower made {n_pictures * per_picture} visual tokens and the prompt holds {sum(counts)}; "
                "pass the pictures and the prompt that belong together."
            )
        for kind, blocks in pictures.seen.items():
            for name, values in blocks.items():
                if kind != "cls_feature" and values.shape[1] != per_picture:
                    raise Unsupported(
                        f"The {name} vision block sees {values.shape[1]} patches per picture but {per_picture} "
                        "features enter the projector; only vision_feature_select_strategy='default' is supported."
                    )
        ids = torch.arange(n_pictures, device=pictures.features.device).repeat_interleave(per_picture)
        rows, start = [], 0
        for count in counts[::copies]:
            rows.append(_row(pictures, slice(start, start + count), ids))
            start += count
        return [rows[row // copies] for row in range(len(counts))]


def _cls_probabilities(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    every = torch.ones(1, key.shape[1], dtype=torch.bool, device=key.device)
    return attention_rows(query, key, scaling, every).mean(dim=0)[0].float()


def _cls_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    return attention_logits(query, key, scaling).mean(dim=0)[0].float()


def _cls_full_width(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    # scaling is d^-1/2 for heads of width d (times what is folded into the query); all H heads together have width H d.
    heads = query.shape[0]
    wide_query, wide_key = (tensor.transpose(0, 1).flatten(1)[None] for tensor in (query, key))
    return _cls_probabilities(wide_query, wide_key, scaling * heads**-0.5)


# ``(query (H, 1, d), key (H, 1 + N, d), scaling) -> (1 + N,)``
_CLS_ROWS = {"cls_attention": _cls_probabilities, "cls_logits": _cls_logits, "cls_full_width": _cls_full_width}


def _row(pictures: _Pictures, part: slice, ids: Tensor) -> VisionSignals:
    view = ids[part] - ids[part][:1]
    mine = ids[part].unique()

    def of_row(kind: str, values: Tensor) -> Tensor:
        return values[mine.to(values.device)] if kind == "cls_feature" else values.flatten(0, 1)[part]

    return VisionSignals(
        features=pictures.features.flatten(0, 1)[part],
        seen={
            kind: {block: of_row(kind, values) for block, values in blocks.items()}
            for kind, blocks in pictures.seen.items()
        },
        view=view if len(mine) > 1 else None,
    )


@contextmanager
def captured_vision(model: Any, family: ModelFamily, needs: Iterable[Need], active: Active) -> Iterator[VisionCapture]:
    """Watch the vision tower while the block runs; ``active`` says whether the current thread's run is ours."""
    kinds: dict[TowerBlock, set[str]] = {}
    for need in needs:
        if need.kind in VISION_KINDS:
            kinds.setdefault("last" if need.block == "last" else "feature", set()).add(need.kind)
    capture = VisionCapture(family.has_cls(model))
    with ExitStack() as stack:
        stack.callback(before_forward(family.projector(model), capture.see_projector, active))
        for block, wanted in kinds.items():
            if wanted - {"cls_feature"}:
                _watch(stack, capture, family.vision_attention(model, block), block, wanted, active)
            if "cls_feature" in wanted:
                _watch_output(stack, capture, family.vision_block(model, block), block, active)
        yield capture


def _watch(
    stack: ExitStack, capture: VisionCapture, attention: Any, block: TowerBlock, kinds: set[str], active: Active
) -> None:
    def tap(query: Tensor, key: Tensor, _mask: Tensor | None, scaling: float) -> None:
        if active():
            capture.see_attention(block, kinds, query, key, scaling)

    def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        split = (-1, attention.head_dim)
        asking = hidden if "received_attention" in kinds else hidden[:, :1]
        query = attention.q_proj(asking).unflatten(-1, split).transpose(1, 2)
        key = attention.k_proj(hidden).unflatten(-1, split).transpose(1, 2)
        capture.see_attention(block, kinds, query, key, attention.scale)

    implementation = attention.config._attn_implementation
    if can_tap(implementation):
        stack.enter_context(tapped(attention, implementation, tap))
    else:
        stack.callback(before_forward(attention, recompute, active))


def _watch_output(stack: ExitStack, capture: VisionCapture, whole: Any, block: TowerBlock, active: Active) -> None:
    stack.callback(after_forward(whole, lambda _kwargs, output: capture.see_output(block, output), active))
