"""WHAT to keep: pure functions of tensors, one file per method."""

from __future__ import annotations

from ..errors import BadInput
from ..short import passed
from . import (
    adaptvtp,
    apet,
    cdpruner,
    dart,
    divprune,
    fastervlm,
    fastv,
    globalcom2,
    holov,
    pdrop,
    polymorphic,
    prumerge,
    prumerge_plus,
    sparsevlm,
    todre,
    tome,
    v2drop,
    visionzip,
    vispruner,
    vtw,
)
from .controls import FULL, RANDOM, UNIFORM
from .pruner import Pruner

PRUNERS: tuple[Pruner, ...] = (
    FULL,
    RANDOM,
    UNIFORM,
    fastervlm.PRUNER,
    visionzip.PRUNER,
    vispruner.PRUNER,
    holov.PRUNER,
    globalcom2.PRUNER,
    fastv.PRUNER,
    apet.PRUNER,
    divprune.PRUNER,
    todre.PRUNER,
    dart.PRUNER,
    tome.PRUNER,
    prumerge.PRUNER,
    prumerge_plus.PRUNER,
    sparsevlm.PRUNER,
    polymorphic.PRUNER,
    adaptvtp.PRUNER,
    cdpruner.PRUNER,
    pdrop.PRUNER,
    v2drop.PRUNER,
    vtw.PRUNER,
)


def methods() -> tuple[Pruner, ...]:
    """Return every method, in the order in which menus and tables show them."""
    return PRUNERS


def get(id: str) -> Pruner:
    """Return the method with this id. Raises BadInput naming the ids that exist."""
    for pruner in PRUNERS:
        if pruner.id == id:
            return pruner
    raise BadInput(f"There is no method {passed(id)}. Known methods: {', '.join(pruner.id for pruner in PRUNERS)}.")
