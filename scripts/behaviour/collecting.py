"""Carry cases out: what each did, under its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import adapter, generating, images, plan, refusing
from .store import Content

NEW_TOKENS = 2
QUESTION = "what is it ?"
WORDS, REQUESTS = "words", "request"


def names() -> list[str]:
    """The name of every case."""
    return sorted(_everything())


def _everything() -> dict[str, Any]:
    """Name -> what ``collect`` needs to carry it out."""
    runs = {case.name: case for case in plan.cases()}
    words = {f"{WORDS}/{method}": method for method in adapter.methods()}
    requests = {_request_name(case): case for case in runs.values()}
    others = dict.fromkeys([*generating.names(), *refusing.names()])
    return {**runs, **words, **requests, **others}


def _request_name(case: plan.Case) -> str:
    return "/".join([case.family, REQUESTS, case.kind])


def collect(wanted: Sequence[str], on_case: Callable[[str], None] = lambda name: None) -> Iterator[tuple[str, Content]]:
    """Carry out the cases of these names, those that one request can serve together."""
    known = _everything()
    unknown = sorted({*wanted} - {*known})
    if unknown:
        raise KeyError(f"there is no case {unknown[0]}")
    runs = [known[name] for name in wanted if isinstance(known[name], plan.Case) and f"/{REQUESTS}/" not in name]
    pending = [name for name in wanted if f"/{REQUESTS}/" in name]
    requests = {_request_name(known[name]): known[name] for name in pending}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in plan.batches(runs):
            asked = _ask(batch)
            for case in batch:
                on_case(case.name)
                yield case.name, asked.runs[case.method]
            name = _request_name(batch[0])
            if requests.pop(name, None) is not None:
                yield name, asked.request
        for name, case in requests.items():
            yield name, _ask([case]).request
        for name in wanted:
            if not isinstance(known[name], plan.Case):
                on_case(name)
                yield name, _other(name)


def _other(name: str) -> Content:
    if name.startswith(f"{WORDS}/"):
        return _words(name.removeprefix(f"{WORDS}/"))
    return refusing.content(name) if name.startswith("refusals/") else generating.content(name)


def _ask(batch: Sequence[plan.Case]) -> adapter.Asked:
    first = batch[0]
    width, height = images.SIZES[first.kind]
    boxes = [(0.3 * width, 0.2 * height, 0.7 * width, 0.8 * height)]
    params = {case.method: dict(case.given) for case in batch}
    try:
        return adapter.compare(
            first.family, first.kind, QUESTION, params, first.tokens, first.counting, boxes, NEW_TOKENS
        )
    except adapter.Refused as error:
        refused = {"decisions": {}, "floats": {}, "diagnostics": {}, "sentences": {"error": str(error)}}
        return adapter.Asked(refused, dict.fromkeys(params, refused))


def _words(method: str) -> Content:
    """What is written about a method and beside its diagnostics, with every value of its parameters."""
    beside = {}
    for family in ("llava", "llava_next (vicuna)"):
        for given in [(), *plan.variants_of(method)]:
            case = plan.Case(family, method, given, "square", "third", "published")
            beside[case.name] = adapter.labels(family, case.kind, method, dict(given), case.tokens)
    sentences = {"about": adapter.words_of_method(method), "labels": beside}
    return {"decisions": {}, "floats": {}, "diagnostics": {}, "sentences": sentences}
