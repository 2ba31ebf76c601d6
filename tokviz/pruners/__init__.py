"""WHAT to keep: pure functions of tensors, one file per method."""

from __future__ import annotations

from ..errors import BadInput, nearest
from ..short import passed
from . import (
    adaptvtp,
    apet,
    cdpruner,
    dart,
    divprune,
    downsample,
    fastervlm,
    fastv,
    globalcom2,
    holov,
    oracle,
    pdrop,
    polymorphic,
    pool,
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
from .controls import FULL, RANDOM, RANDOM_AT, UNIFORM
from .plugins import add, packaged, registered
from .pruner import Pruner

PRUNERS: tuple[Pruner, ...] = (
    FULL,
    RANDOM,
    UNIFORM,
    downsample.PRUNER,
    RANDOM_AT,
    pool.PRUNER,
    oracle.PRUNER,
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
    """Return every method, in the order in which menus and tables show them: built in, of packages, registered."""
    return (*PRUNERS, *packaged(PRUNERS), *registered())


def get(id: str) -> Pruner:
    """Return the method with this id or alias. Raises BadInput naming the nearest one and those that exist."""
    known = {pruner.id: pruner for pruner in methods()}
    if id in known:
        return known[id]
    aliases = {alias.lower(): pruner for pruner in known.values() for alias in pruner.aliases}
    if isinstance(id, str) and id.lower() in aliases:
        return aliases[id.lower()]
    near = nearest(id, known)
    advice = f"; did you mean {near!r}?" if near else "."
    raise BadInput(f"There is no method {passed(id)}{advice} Known methods: {', '.join(known)}.")


def register(pruner: Pruner) -> Pruner:
    """Make a method of one's own known by its id: to ``methods()``, the page and the command line of this process.

    Returns the pruner. Registering another one under the same id replaces it. Raises BadInput for the id of a method
    that is built in or comes from a package.
    """
    return add(pruner, (*PRUNERS, *packaged(PRUNERS)))
