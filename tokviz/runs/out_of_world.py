"""The out-of-world score of an image, read off the tower while it encodes the image anyway."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..models.loading import VisionLanguageModel
from ..models.out_of_world import spread
from ..records import ImageMeasures, OutOfWorld


@contextmanager
def watched_world(vlm: VisionLanguageModel) -> Iterator[list[OutOfWorld]]:
    """While an image is encoded in this thread; afterwards the list holds its score, or is empty without statistics.

    Of several images or tiles the largest distance counts.
    """
    found: list[OutOfWorld] = []
    tower, known = vlm.family.vision_tower(vlm.model), vlm.world
    if known is None or tower is None:
        yield found
        return
    thread = threading.get_ident()
    has_cls = vlm.family.has_cls(vlm.model)

    def see(_module: Any, args: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == thread:
            states = args[0][:, 1:] if has_cls else args[0]
            score = float(known.distance(spread(states).cpu()).max())
            found[:] = [OutOfWorld(score=score, threshold=known.threshold, false_alarms=known.false_alarms)]

    handle = tower.layers[known.layer].attention_norm.register_forward_pre_hook(see)
    try:
        yield found
    finally:
        handle.remove()


def out_of_world_notice(vlm: VisionLanguageModel, measures: ImageMeasures | None) -> list[str]:
    """A sentence where the model's answer means little, because it never saw anything like the image."""
    found = None if measures is None else measures.out_of_world
    if found is None or not found.is_outside:
        return []
    return [
        f"This image is unlike the drawn scenes that {vlm.record.name} was trained on (out-of-world score "
        f"{found.score:.1f}; {1 - found.false_alarms:.0%} of such scenes stay below {found.threshold:.1f}): its answer "
        "about this image means little."
    ]
