"""Which cases there are: every method, every value of its parameters, every family; not the product of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import adapter

BUDGETS = {"ninth": 1 / 9, "third": 1 / 3, "most": 3 / 4}
COUNTINGS = ("published", "final", "average")
KINDS = ("square", "wide", "tall", "tiny", "flat")
THIN = ("max)", "conv)", "(norms)", "bfloat16")
"""Families that differ from another one in a detail: one budget, one counting, one image."""
STILL = ("smolvlm (videos)",)
"""A model that is shown videos above and has no twin that is shown images."""
FEW = {
    "tokviz-tiny": [("scene", "ninth", "published"), ("scene", "third", "average"), ("wide", "third", "final")],
    "tokviz-tiny-video": [("square", "ninth", "published"), ("still", "third", "final")],
}
"""The embedded models make hundreds of tokens, which takes seconds where others take milliseconds."""

NUMBERS: dict[tuple[str, str], int | float] = {
    ("visionzip", "contextual"): 2,
    ("holov", "strips"): 4,
    ("todre", "tau"): 0.3,
    ("prumerge", "neighbours"): 3,
    ("prumerge_plus", "neighbours"): 3,
    ("dart", "text_pivots"): 0,
}
"""Values other than the default, where the rule of ``_other`` would change nothing or little on few tokens."""
NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("pdrop", "ratio_1"): {"ratios": "own"},
    ("pdrop", "ratio_2"): {"ratios": "own"},
    ("pdrop", "ratio_3"): {"ratios": "own"},
    ("cdpruner", "relevance_weight"): {"kernel": "openvino"},
    ("holitom", "inside_ratio"): {"inside": "merge"},
}
"""What else must be set for a parameter to mean anything."""
PAIRS: dict[str, list[dict[str, Any]]] = {
    "divprune": [{"positions": "keep"}],
    "fastv": [{"positions": "reindex"}],
    "vtw": [{"positions": "reindex"}],
    "apet": [{"mode": "official", "sampling": "random"}, {"sampling": "random", "start": "random"}],
    "visionzip": [{"cls_token": "left_out", "order": "raster"}],
    "holov": [{"surplus": "zeros", "order": "attention"}],
    "polymorphic": [{"order": "append", "signal": "attn"}, {"stage_1": False, "neighbours": 0}],
    "sparsevlm": [{"rectify": True}],
    "prumerge": [{"adaptive": True, "order": "attention"}],
    "prumerge_plus": [{"adaptive": True, "order": "attention"}],
    "todre": [{"tau": 1.0, "stage_1": False}],
    "tome": [{"order": "official", "proportional_attention": False}],
}
"""Parameters that act on each other, and the switches of every method, which are not among its own."""


@dataclass(frozen=True)
class Case:
    """One method on one request."""

    family: str
    method: str
    given: tuple[tuple[str, Any], ...]
    kind: str
    budget: str
    counting: str

    @property
    def name(self) -> str:
        """``family/method/parameters/image/budget/counting``."""
        given = ",".join(f"{name}={value}" for name, value in self.given) or "default"
        return "/".join([self.family, self.method, given, self.kind, self.budget, self.counting])

    @property
    def tokens(self) -> int:
        """The budget in tokens."""
        return max(1, int(BUDGETS[self.budget] * adapter.n_tokens(self.family, self.kind)))


def cases() -> list[Case]:
    """All of them."""
    variants = {method: list(variants_of(method)) for method in adapter.methods()}
    found = []
    for family in adapter.families():
        first, *others = requests_of(family)
        for method, givens in variants.items():
            found += [Case(family, method, (), *request) for request in (first, *others)]
            if not family.endswith(THIN):
                found += [Case(family, method, given, *first) for given in givens]
    return found


def requests_of(family: str) -> list[tuple[str, str, str]]:
    """Image, budget and counting of the requests that a family gets; other parameters come with the first."""
    if family in FEW:
        return FEW[family]
    first = ("square", "third", "published")
    if family.endswith(THIN):
        return [first]
    counted = [("square", budget, counting) for budget in BUDGETS for counting in COUNTINGS]
    shapes = [(kind, "third", "published") for kind in KINDS[1:]]
    still = [("still", "third", "published")] if family in STILL else []
    return [first, *(request for request in (*counted, *shapes, *still) if request != first)]


def variants_of(method: str) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Each value of each choice and switch, another value of each number, and pairs that act on each other."""
    for parameter in adapter.methods()[method]:
        for value in _others(method, parameter):
            more = NEEDS.get((method, parameter.name), {})
            yield tuple(sorted({**more, parameter.name: value}.items()))
    for pair in PAIRS.get(method, []):
        yield tuple(sorted(pair.items()))


def _others(method: str, parameter: Any) -> list[Any]:
    if parameter.kind == "choice":
        return [choice for choice in parameter.choices if choice != parameter.default]
    if parameter.kind == "bool":
        return [not parameter.default]
    return [NUMBERS.get((method, parameter.name), _other(parameter))]


def _other(parameter: Any) -> int | float:
    """2, or 3 where 2 is the default; of floats the middle between the default and the end that is farther off."""
    if parameter.kind == "int":
        return 3 if parameter.default == 2 else 2
    ends = (parameter.minimum, parameter.maximum)
    end = max(ends, key=lambda value: abs(value - parameter.default))
    return round((parameter.default + end) / 2, 3)


def batches(chosen: list[Case]) -> list[list[Case]]:
    """Cases that one request can serve: the same in everything but the method, each method once."""
    open_batches: dict[tuple[str, ...], list[list[Case]]] = {}
    for case in chosen:
        group = open_batches.setdefault((case.family, case.kind, case.budget, case.counting), [])
        for batch in group:
            if all(other.method != case.method for other in batch):
                batch.append(case)
                break
        else:
            group.append([case])
    return [batch for group in open_batches.values() for batch in group]
