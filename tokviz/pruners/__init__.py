"""WHAT to keep: pure functions of tensors, one file per method."""

from __future__ import annotations

from ..errors import BadInput, nearest
from ..short import passed
from . import (
    adafv,
    adaptvtp,
    apet,
    cdpruner,
    dart,
    divprune,
    downsample,
    dycoke,
    evs,
    fastervlm,
    fastv,
    fastvid,
    flashvid,
    globalcom2,
    hiprune,
    holitom,
    holov,
    ivcprune,
    mmtok,
    oracle,
    pdrop,
    pixelprune,
    polymorphic,
    pool,
    prumerge,
    prumerge_plus,
    scope,
    sparsevlm,
    todre,
    tome,
    v2drop,
    vidcom2,
    visionzip,
    vispruner,
    vscan,
    vtw,
)
from .controls import FULL, RANDOM, RANDOM_AT, UNIFORM
from .plugins import add, packaged, registered
from .pruner import Pruner
from .stack import parts, stack

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
    hiprune.PRUNER,
    globalcom2.PRUNER,
    fastv.PRUNER,
    apet.PRUNER,
    divprune.PRUNER,
    todre.PRUNER,
    evs.PRUNER,
    vidcom2.PRUNER,
    dycoke.PRUNER,
    dart.PRUNER,
    scope.PRUNER,
    pixelprune.PRUNER,
    tome.PRUNER,
    prumerge.PRUNER,
    prumerge_plus.PRUNER,
    fastvid.PRUNER,
    flashvid.PRUNER,
    holitom.PRUNER,
    vscan.PRUNER,
    sparsevlm.PRUNER,
    polymorphic.PRUNER,
    adaptvtp.PRUNER,
    cdpruner.PRUNER,
    mmtok.PRUNER,
    adafv.PRUNER,
    ivcprune.PRUNER,
    pdrop.PRUNER,
    v2drop.PRUNER,
    vtw.PRUNER,
)


def methods() -> tuple[Pruner, ...]:
    """Return every method, in the order in which menus and tables show them: built in, of packages, registered."""
    return (*PRUNERS, *packaged(PRUNERS), *registered())


def get(id: str) -> Pruner:
    """Return the method with this id or alias, or the stack of two: ``divprune+fastv``.

    Raises BadInput naming the nearest one and those that exist.
    """
    known = {pruner.id: pruner for pruner in methods()}
    if id in known:
        return known[id]
    aliases = {alias.lower(): pruner for pruner in known.values() for alias in pruner.aliases}
    if isinstance(id, str) and id.lower() in aliases:
        return aliases[id.lower()]
    if (stacked := parts(id)) is not None:
        return stack(*map(get, stacked))
    near = nearest(id, known)
    advice = f"; did you mean {near!r}?" if near else "."
    raise BadInput(f"There is no method {passed(id)}{advice} Known: {', '.join(known)}.")


def register(pruner: Pruner) -> Pruner:
    """Make a method of one's own known by its id: to ``methods()``, the page and the command line of this process.

    Returns the pruner. Registering another one under the same id replaces it. Raises BadInput for the id of a method
    that is built in or comes from a package.
    """
    return add(pruner, (*PRUNERS, *packaged(PRUNERS)))
