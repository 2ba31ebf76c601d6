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
from .attention import mean_attention_rows
from .tap import can_tap, tapped
from .watching import Active, before_forward

VisionBlock = Literal["feature", "last"]


@dataclass(frozen=True)
class VisionSignals:
    """What the vision tower said about the visual tokens of one row (sequence).

    Shape: features ``(N, D_v)`` before the projector; cls_attention per block ``(N,)`` float32, the [CLS] row, mean
    over heads; keys per block ``(N, d_k)``, mean over heads; view ``(N,)`` the picture of each token, None when there
    is one.
    """

    features: Tensor
    cls_attention: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    view: Tensor | None = None


@dataclass
class _Pictures:
    """The last vision run of one thread, per picture."""

    features: Tensor
    cls_attention: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)


class VisionCapture:
    """Holds the vision signals of each thread's last vision run until the prompt arrives at the language model."""

    def __init__(self, has_cls: bool) -> None:
        self._has_cls = has_cls
        self._local = threading.local()

    def see_projector(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the projector: the features of all pictures of the prompt, in one call."""
        if not getattr(self._local, "projecting", False):
            pending = self._local.__dict__.setdefault("pending", {})
            self._local.pictures = _Pictures(
                args[0] if args else next(iter(kwargs.values())),
                dict(pending.pop("cls_attention", {})),
                dict(pending.pop("keys", {})),
            )

    def see_attention(self, block: VisionBlock, kinds: set[str], query: Tensor, key: Tensor, scaling: float) -> None:
        """Keep the [CLS] row and the mean key of one vision block. Shape: ``(P, H, 1 + N, d)`` each."""
        first = 1 if self._has_cls else 0
        pending = self._local.__dict__.setdefault("pending", {})
        if "cls_attention" in kinds:
            every = torch.ones(1, key.shape[2], dtype=torch.bool, device=key.device)
            maps = [mean_attention_rows(q[:, :1], k, scaling, every)[0, 1:] for q, k in zip(query, key, strict=True)]
            pending.setdefault("cls_attention", {})[block] = torch.stack(maps)
        if "encoder_keys" in kinds:
            pending.setdefault("keys", {})[block] = key.mean(dim=1)[:, first:]

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
        for name, per_block in {**pictures.cls_attention, **pictures.keys}.items():
            if per_block.shape[1] != per_picture:
                raise Unsupported(
                    f"The {name} vision block sees {per_block.shape[1]} patches per picture but {per_picture} features "
                    "enter the projector; only vision_feature_select_strategy='default' is supported."
                )
        ids = torch.arange(n_pictures, device=pictures.features.device).repeat_interleave(per_picture)
        rows, start = [], 0
        for count in counts[::copies]:
            rows.append(_row(pictures, slice(start, start + count), ids))
            start += count
        return [rows[row // copies] for row in range(len(counts))]


def _row(pictures: _Pictures, part: slice, ids: Tensor) -> VisionSignals:
    view = ids[part] - ids[part][:1]
    return VisionSignals(
        features=pictures.features.flatten(0, 1)[part],
        cls_attention={name: values.flatten(0, 1)[part] for name, values in pictures.cls_attention.items()},
        keys={name: values.flatten(0, 1)[part] for name, values in pictures.keys.items()},
        view=view if len(view) and int(view[-1]) > 0 else None,
    )


@contextmanager
def captured_vision(model: Any, family: ModelFamily, needs: Iterable[Need], active: Active) -> Iterator[VisionCapture]:
    """Watch the vision tower while the block runs; ``active`` says whether the current thread's run is ours."""
    kinds: dict[VisionBlock, set[str]] = {}
    for need in needs:
        if need.kind in ("cls_attention", "encoder_keys"):
            kinds.setdefault("last" if need.block == "last" else "feature", set()).add(need.kind)
    capture = VisionCapture(family.has_cls(model))
    with ExitStack() as stack:
        stack.callback(before_forward(family.projector(model), capture.see_projector, active))
        for block, wanted in kinds.items():
            _watch(stack, capture, family.vision_attention(model, block), block, wanted, active)
        yield capture


def _watch(
    stack: ExitStack, capture: VisionCapture, attention: Any, block: VisionBlock, kinds: set[str], active: Active
) -> None:
    def tap(query: Tensor, key: Tensor, _mask: Tensor | None, scaling: float) -> None:
        if active():
            capture.see_attention(block, kinds, query, key, scaling)

    def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        split = (-1, attention.head_dim)
        query = attention.q_proj(hidden[:, :1]).unflatten(-1, split).transpose(1, 2)
        key = attention.k_proj(hidden).unflatten(-1, split).transpose(1, 2)
        capture.see_attention(block, kinds, query, key, attention.scale)

    implementation = attention.config._attn_implementation
    if can_tap(implementation):
        stack.enter_context(tapped(attention, implementation, tap))
    else:
        stack.callback(before_forward(attention, recompute, active))
