"""Which stage of each method is measured, against which published procedure, and what it could cost at least.

A new method is one line in ``CASES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokviz.errors import BadInput, Unsupported
from tokviz.pruners import get
from tokviz.pruners.pruner import Pruner
from tokviz.types import Budget, Signals, Stage

from . import published_merging as merging
from . import published_procedures as published
from .inputs import FULL_WIDTH, KEY_WIDTH, PIXELS, QUESTION, TEXT, n_views, planning_info
from .measuring import Deadline, Machine


@dataclass(frozen=True)
class Size:
    """N visual tokens of width D, of which K are kept."""

    n: int
    width: int
    keep: int


Floor = Callable[[Machine, Size], float]
"""The least that a method's arithmetic costs on this machine, in ms."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    rule: the floor in words. published: the procedure as published. tiled: measured on a thumbnail with crops.
    filmed: measured on frames. keep: K for this stage where it is not the common one.
    """

    method: str
    rule: str
    floor: Floor
    published: Callable[[Signals, int, Deadline], object]
    tiled: bool = False
    filmed: bool = False
    keep: Callable[[Size], int] = lambda size: size.keep

    def stage(self, size: Size) -> tuple[Pruner, Stage]:
        """The first stage of the method as its own schedule plans it, at the smallest budget that the schedule takes.

        Only its functions and needs are used: how many tokens it keeps is the benchmark's to say.
        """
        pruner = get(self.method)
        info = planning_info(size.n, self.tiled, self.filmed)
        refusal: Exception | None = None
        for budget in (size.keep, size.n // 2, size.n - 1):
            try:
                return pruner, pruner.schedule(Budget(budget), info, pruner.complete({})).stages[0]
            except (BadInput, Unsupported) as error:
                refusal = error
        raise refusal or AssertionError(f"{self.method} plans no stage")


def _reads(count: float) -> Floor:
    return lambda machine, size: count * machine.read


def _nothing(machine: Machine, size: Size) -> float:
    return 0.0


def _greedy(machine: Machine, size: Size) -> float:
    return machine.greedy(size.n, size.keep)


def _coverage(machine: Machine, size: Size) -> float:
    """All pairs, and every pair looked at once: what is worth less than the best needs no second look."""
    return machine.product(size.n, size.n, size.width) + machine.read_of(size.n, size.n)


def _mmtok(machine: Machine, size: Size) -> float:
    return machine.product(size.n, QUESTION, size.width) + _coverage(machine, size)


def _apet(machine: Machine, size: Size) -> float:
    return 12 * machine.read + machine.product(size.keep, size.n - size.keep, size.width)


def _adaptvtp(machine: Machine, size: Size) -> float:
    survivors = int(0.8 * size.n)
    return machine.product(size.n, QUESTION, size.width) + machine.greedy(survivors, size.keep)


def _cdpruner(machine: Machine, size: Size) -> float:
    """The rows of the factor grow by one per step: half of them on average, and each step reads them once."""
    factors = size.keep * machine.read_of(max(1, size.keep // 2), size.n)
    return machine.greedy(size.n, size.keep) + factors


def _vispruner(machine: Machine, size: Size) -> float:
    """Every round looks at a quarter of what is left of the matrix; the list shrinks by 8 from N - K/2 to K/2."""
    first, last = size.n - size.keep // 2, size.keep - size.keep // 2
    looks = sum((left // 2) ** 2 for left in range(first, last, -8))
    side = max(1, first // 2)
    return machine.product(first, first, size.width) + looks / side**2 * machine.read_of(side, side)


def _adafv(machine: Machine, size: Size) -> float:
    return machine.product(TEXT, size.n, size.width) + machine.read


def _pixels(machine: Machine, size: Size) -> float:
    """Every cell once, with two of its neighbours."""
    return 3 * machine.read_of(size.n, PIXELS)


def _ivcprune(machine: Machine, size: Size) -> float:
    """The question's products with all values; those of the seeds are few beside it."""
    return machine.product(TEXT, size.n, size.width)


def _strips(machine: Machine, size: Size) -> float:
    strip = max(1, size.n // 16)
    return machine.read + 16 * machine.product(strip, strip, size.width)


def _clusters(machine: Machine, clustered: int, size: Size) -> float:
    return machine.read + machine.product(clustered, clustered, size.width)


def _sparsevlm(machine: Machine, size: Size) -> float:
    """The raters' products of picture and text, and the distances of what is recycled."""
    recycled = max(1, 3 * (size.n - size.keep) // 10)
    return _clusters(machine, recycled, size) + machine.product(size.n, TEXT, size.width)


def _polymorphic(machine: Machine, size: Size) -> float:
    return _clusters(machine, size.n - size.keep + round(size.keep / 6.4), size)


def _visionzip(machine: Machine, size: Size) -> float:
    return machine.read + machine.product(size.n - size.keep, max(1, round(size.keep / 6.4)), KEY_WIDTH)


def _tome(machine: Machine, size: Size) -> float:
    """Nearly all rows go on, so that the result is a copy of the features."""
    return machine.copy + machine.product(size.n // 2, size.n // 2, KEY_WIDTH)


def _prumerge(machine: Machine, size: Size) -> float:
    return machine.read + machine.product(size.keep, size.n, FULL_WIDTH)


def _fastvid(machine: Machine, size: Size) -> float:
    """All rows once for the transitions and once to be merged; the distances of one frame, were it the only one."""
    frame = size.n // n_views(size.n)
    return 2 * machine.read + machine.product(frame, frame, size.width)


def _flashvid(machine: Machine, size: Size) -> float:
    """All rows once for the transitions and once to be merged; distances in every frame and to the one before."""
    frames = n_views(size.n)
    frame = size.n // frames
    return 2 * machine.read + 2 * frames * machine.product(frame, frame, size.width)


def _vscan(machine: Machine, size: Size) -> float:
    return 2 * machine.read + machine.product(size.keep, size.n - size.keep, size.width)


def _one_tower_layer(size: Size) -> int:
    """What one of 23 layers leaves when all of them together leave K."""
    return size.n - -(-(size.n - size.keep) // 23)


_GREEDY = "reads per step or product"
_READ = "1 read"

CASES: tuple[Case, ...] = (
    Case("fastervlm", _READ, _reads(1), published.cls_attention),
    Case("visionzip", "1 read + key product", _visionzip, merging.visionzip),
    Case("vispruner", "product + blocks per round", _vispruner, published.vispruner),
    Case("holov", "1 read + products of strips", _strips, published.holov),
    Case("hiprune", _READ, _reads(1), published.hiprune),
    Case("globalcom2", _READ, _reads(1), published.globalcom2, tiled=True),
    Case("fastv", _READ, _reads(1), published.last_row),
    Case("apet", "12 reads + K x (N-K) product", _apet, merging.apet),
    Case("divprune", _GREEDY, _greedy, published.divprune),
    Case("todre", _GREEDY, _greedy, published.todre),
    Case("evs", _READ, _reads(1), published.evs, filmed=True),
    Case("vidcom2", "3 reads", _reads(3), published.vidcom2, filmed=True),
    Case("dycoke", _READ, _reads(1), published.dycoke, filmed=True),
    Case("dart", "8 reads", _reads(8), published.dart),
    Case("scope", "product + 1 read of it", _coverage, published.scope),
    Case("pixelprune", "3 reads of the pixels", _pixels, published.pixelprune),
    Case("tome", "1 copy + key product", _tome, merging.tome, keep=_one_tower_layer),
    Case("prumerge", "1 read + key product", _prumerge, merging.prumerge),
    Case("prumerge_plus", "1 read + key product", _prumerge, merging.prumerge),
    Case("fastvid", "2 reads + product in anchor frames", _fastvid, merging.fastvid, filmed=True),
    Case("flashvid", "2 reads + products of frames", _flashvid, merging.flashvid, filmed=True),
    Case("holitom", "2 reads", _reads(2), merging.holitom, filmed=True),
    Case("vscan", "2 reads + product with the rest", _vscan, merging.vscan),
    Case("sparsevlm", "1 read + text product + product of recycled", _sparsevlm, merging.sparsevlm),
    Case("polymorphic", "1 read + product of the rest", _polymorphic, merging.polymorphic),
    Case("adaptvtp", f"text product + {_GREEDY}", _adaptvtp, published.adaptvtp),
    Case("cdpruner", f"{_GREEDY} + factor rows", _cdpruner, published.cdpruner),
    Case("mmtok", "products + 1 read of them", _mmtok, published.mmtok),
    Case("adafv", "text product + 1 read", _adafv, published.adafv),
    Case("ivcprune", "text product", _ivcprune, published.ivcprune),
    Case("pdrop", _READ, _reads(1), published.last_row),
    Case("v2drop", "2 reads", _reads(2), published.variation),
    Case("vtw", "none", _nothing, published.withdraw),
)
