"""The supported families of models. No transformers here: what a configuration says is asked before anything loads.

A package adds one with an entry point of the group ``tokviz.families``: its name is the ``model_type``, its value a
subclass of ``ModelFamily`` (or an instance). It is imported when somebody asks for that architecture or lists all; one
that cannot be used is named in a warning and skipped.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from .base import ModelFamily
from .idefics3 import Idefics3, SmolVLM
from .internvl import InternVL
from .llava import Llava
from .llava_next import LlavaNext
from .llava_next_video import LlavaNextVideo
from .llava_onevision import LlavaOnevision
from .qwen_vl import Qwen2VL, Qwen3VL, Qwen25VL
from .video_llava import VideoLlava

GROUP = "tokviz.families"

_ALL: tuple[ModelFamily, ...] = (
    Llava(),
    LlavaNext(),
    LlavaNextVideo(),
    LlavaOnevision(),
    VideoLlava(),
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    SmolVLM(),
    Idefics3(),
    InternVL(),
)
_OURS = {family.id: family for family in _ALL}


class _Families(Mapping[str, ModelFamily]):
    """Supported ``config.model_type`` -> family: those of this package, then those of others."""

    def __getitem__(self, kind: str) -> ModelFamily:
        found = _OURS.get(kind) or _of_another_package(kind)
        if found is None:
            raise KeyError(kind)
        return found

    def __iter__(self) -> Iterator[str]:
        yield from _OURS
        for kind in sorted(entry_points(group=GROUP).names - _OURS.keys()):
            if kind in self:
                yield kind

    def __len__(self) -> int:
        return sum(1 for _ in self)


FAMILIES: Mapping[str, ModelFamily] = _Families()


@cache
def _of_another_package(kind: str) -> ModelFamily | None:
    """The family that an installed package registers for this architecture; None, after a warning, for a broken one."""
    for point in entry_points(group=GROUP, name=kind):
        try:  # code of another package: anything can come out of it
            loaded = point.load()
            family = loaded() if isinstance(loaded, type) else loaded
        except Exception as error:
            _skipped(point, f"{type(error).__name__}: {error}")
            continue
        if isinstance(family, ModelFamily) and family.id == kind:
            return family
        _skipped(point, f"it is no ModelFamily with the id {kind!r}")
    return None


def _skipped(point: EntryPoint, why: str) -> None:
    package = point.dist.name if point.dist is not None else "an unknown package"
    warnings.warn(f"The model family {point.name!r} of {package} is skipped: {why}", RuntimeWarning, stacklevel=2)
