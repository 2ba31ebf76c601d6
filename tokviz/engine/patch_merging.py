"""Vision signals of towers that merge several patches into one token: one run of the tower, told by its tokens.

Such a tower takes the patches of all pictures of a prompt as one sequence and attends within frames. What is looked at
is said of patches in the tower's own order; here it becomes one number (or vector) per token, in the LLM's order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily, PatchMerging
from ..types import Need
from .attention import lifted, received_attention
from .needs import VISION_KINDS
from .tap import can_tap, tapped
from .vision import VisionSignals
from .watching import Active, after_forward, before_forward


@dataclass
class _Run:
    """One finished run of the tower. Shape: features ``(N, D)``, seen[kind] ``(N, ...)``, frame ``(N,)``."""

    features: Tensor
    seen: Mapping[str, Tensor]
    frame: Tensor


class MergedVisionCapture:
    """Holds the vision signals of each thread's last run of the tower until the prompt arrives at the LLM.

    ``kinds`` are the kinds of signals wanted; both blocks that a need can name are the same one here.
    """

    def __init__(self, merging: PatchMerging, kinds: Iterable[str]) -> None:
        self._merging, self._kinds = merging, frozenset(kinds)
        self._local = threading.local()

    def see_pictures(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the tower: a new run begins."""
        self._local.grid = kwargs["grid_thw"]
        self._local.pieces = {kind: [] for kind in self._kinds}

    def see_attention(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Keep what is wanted of one attention call: a frame, or all frames side by side (flash attention).

        Shape: query and key ``(1, H, patches, d)``.
        """
        pieces: dict[str, list[Tensor]] = self._local.pieces
        lengths = _frame_lengths(self._local.grid)
        one_frame = len(lengths) == 1 or query.shape[2] != sum(lengths)
        for q, k in [(query, key)] if one_frame else zip(query.split(lengths, 2), key.split(lengths, 2), strict=True):
            if "received_attention" in pieces:
                pieces["received_attention"].append(received_attention(q[0], k[0], scaling))
            if "encoder_keys" in pieces:
                pieces["encoder_keys"].append(k[0].mean(dim=0))
            if "full_keys" in pieces:
                pieces["full_keys"].append(k[0].transpose(0, 1).flatten(1))

    def see_tokens(self, kwargs: dict[str, Any], output: Any) -> None:
        """Hook behind the tower: from patches in its order to tokens in the LLM's."""
        grid, size = kwargs["grid_thw"], self._merging.patches_per_token
        places = self._merging.tower_positions(grid)
        seen = {}
        for kind, pieces in self._local.pieces.items():
            of_groups = lifted(torch.cat(pieces)).unflatten(0, (-1, size)).mean(dim=1)
            seen[kind] = of_groups[places.to(of_groups.device)]
        lengths = torch.tensor(_frame_lengths(grid)) // size
        frame = torch.arange(len(lengths)).repeat_interleave(lengths).to(output.pooler_output.device)
        self._local.run = _Run(output.pooler_output, seen, frame)

    def forget(self) -> None:
        """Drop what this thread's last run of the tower left behind."""
        self._local.__dict__.clear()

    def consume(self, counts: list[int]) -> list[VisionSignals] | None:
        """Split the last run of this thread by rows that hold ``counts`` visual tokens, and forget it.

        Rows may be copies of a prompt, as in ``VisionCapture.consume``. None when no run was seen. Raises Unsupported
        when the counts do not fit.
        """
        run: _Run | None = self._local.__dict__.pop("run", None)
        if run is None:
            return None
        copies = _copies_of(counts, len(run.features))
        rows, start = [], 0
        for count in counts[::copies]:
            part = slice(start, start + count)
            frame = run.frame[part] - run.frame[part][:1]
            seen = {kind: {"feature": values[part], "last": values[part]} for kind, values in run.seen.items()}
            rows.append(VisionSignals(run.features[part], seen, frame if bool((frame > 0).any()) else None))
            start += count
        return [rows[row // copies] for row in range(len(counts))]

    @contextmanager
    def projecting(self) -> Iterator[None]:
        """Nothing to hold off: features before the merger are never projected again."""
        yield


def _copies_of(counts: Sequence[int], made: int) -> int:
    """How many rows are copies of each prompt, from the visual tokens that rows hold and that the tower made.

    Raises Unsupported when they do not belong together.
    """
    copies, rest = divmod(sum(counts), made)
    if rest or copies < 1 or len(counts) % copies:
        raise Unsupported(
            f"The vision tower made {made} visual tokens and the prompt holds {sum(counts)}; "
            "pass the pictures and the prompt that belong together."
        )
    return copies


def _frame_lengths(grid_thw: Tensor) -> list[int]:
    """Patches of each frame, one picture or video after the other. Shape: ``(n, 3)`` -> a list per frame."""
    return [rows * columns for frames, rows, columns in grid_thw.tolist() for _ in range(frames)]


@contextmanager
def captured_merging(
    model: Any, family: ModelFamily, merging: PatchMerging, needs: Iterable[Need], active: Active
) -> Iterator[MergedVisionCapture]:
    """Watch the tower while the block runs; ``active`` says whether the current thread's run is ours."""
    kinds = {need.kind for need in needs if need.kind in VISION_KINDS}
    if unknown := sorted(kinds - {"received_attention", "encoder_keys", "full_keys"}):
        raise Unsupported(f"A vision tower that merges patches has no {unknown[0]}.")
    capture = MergedVisionCapture(merging, kinds)
    with ExitStack() as stack:
        stack.callback(before_forward(merging.tower, capture.see_pictures, active))
        stack.callback(after_forward(merging.tower, capture.see_tokens, active))
        if kinds:
            _watch(stack, capture, merging, family.vision_attention(model, "last"), active)
        yield capture


def _watch(
    stack: ExitStack, capture: MergedVisionCapture, merging: PatchMerging, attention: Any, active: Active
) -> None:
    def tap(query: Tensor, key: Tensor, _mask: Tensor | None, scaling: float) -> None:
        if active():
            capture.see_attention(query, key, scaling)

    def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query, key = merging.queries_and_keys(attention, args, kwargs)
        capture.see_attention(query, key, attention.scaling)

    implementation = attention.config._attn_implementation
    if can_tap(implementation):
        stack.enter_context(tapped(attention, implementation, tap))
    else:
        stack.callback(before_forward(attention, recompute, active))
