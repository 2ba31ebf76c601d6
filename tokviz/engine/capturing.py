"""Which watcher a model's vision tower needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..models.base import ModelFamily
from ..types import Need
from .patch_merging import MergedVisionCapture, captured_merging
from .vision import VisionCapture, captured_vision
from .watching import Active

Capture = VisionCapture | MergedVisionCapture


@contextmanager
def captured(model: Any, family: ModelFamily, needs: Iterable[Need], active: Active) -> Iterator[Capture]:
    """Watch the vision tower while the block runs; ``active`` says whether the current thread's run is ours."""
    merging = family.patch_merging(model)
    if merging is not None:
        with captured_merging(model, family, merging, needs, active) as merged:
            yield merged
    else:
        with captured_vision(model, family, needs, active) as capture:
            yield capture
