"""Input that is refused before any work, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from PIL import Image

from . import adapter, images

QUESTION = "what color is the star?"


def _ask(*arguments: Any, thing: Any = None, name: str = "tokviz-tiny", **keywords: Any) -> Callable[[], Any]:
    def ask() -> Any:
        shown = images.image("square") if thing is None else thing
        return adapter.ask(name, shown, *(arguments or (QUESTION,)), **{"methods": ["random"], **keywords})

    return ask


@cache
def refusals() -> dict[str, Callable[[], Any]]:
    """Name -> what is refused. Made once: each of some 250 cases looks itself up in it."""
    found: dict[str, Callable[[], Any]] = {
        "no question": _ask(""),
        "blank question": _ask("  \n"),
        "question that is no text": _ask(5),
        "question of 3000 characters": _ask("word " * 600),
        "question with a reserved word": _ask("what is <image> ?"),
        "question with half a character": _ask("what is \ud800 ?"),
        "expected answer that is no text": _ask(expected=5),
        "unknown method": _ask(methods=["apeth"]),
        "methods as one text": _ask(methods="apet"),
        "method that is no text": _ask(methods=["apet", 5]),
        "methods that are no list": _ask(methods=5),
        "parameters that are no mapping": _ask(params=["apet"]),
        "parameters of a method that does not run": _ask(params={"apet": {}}),
        "parameters of one method that are no mapping": _ask(params={"random": 5}),
        "parameter where there are none": _ask(params={"random": {"power": 1}}),
        "image that is no image": _ask(thing=b"GIF89a nothing"),
        "empty file": _ask(thing=b""),
        "missing file": _ask(thing="nowhere.png"),
        "missing video": _ask(thing="nowhere.mp4"),
        "an array as an image": _ask(thing=images.frames("square")[0]),
        "a number as an image": _ask(thing=5),
        "an image of one pixel": _ask(thing=Image.new("RGB", (1, 1))),
        "a very long image": _ask(thing=Image.new("RGB", (4000, 1)), name="qwen2_5_vl"),
        "frames of an image": _ask(frames=4),
        "evidence in frames of an image": _ask(evidence=[(0, 0, 9, 9)], evidence_frames=[0]),
        "video for a model of images": _ask(thing=adapter.film("square")),
        "misspelt keyword": _ask(budgets=5),
        "keyword like nothing": _ask(colour=5),
        "unknown model": lambda: adapter.load("no such model"),
        "a model that is no name": lambda: adapter.load(5),
        "a folder without a model": lambda: adapter.load(adapter.ROOT / "docs"),
        "a kernel that does not exist": lambda: adapter.load(attention="fast"),
        "a device that does not exist": lambda: adapter.load(device="toaster"),
        "a number type that does not exist": lambda: adapter.load(dtype="float7"),
        "8 bit on a CPU": lambda: adapter.load(device="cpu", quantization="8bit"),
        "a session that is none": lambda: adapter.read_session("{}"),
        "a session that is no JSON": lambda: adapter.read_session("nothing"),
    }
    film = adapter.film("square")
    for keyword, values in WRONG.items():
        for value in values:
            found[f"{keyword} {value!r:.60}"] = _ask(**{keyword: value})
    for keyword, values in WRONG_OF_VIDEOS.items():
        for value in values:
            found[f"video, {keyword} {value!r:.60}"] = _ask(name="tokviz-tiny-video", thing=film, **{keyword: value})
    for method, parameters in adapter.methods().items():
        found[f"{method} power"] = _completed(method, "power", 1)
        for parameter in parameters:
            for value in _wrong_values(parameter):
                found[f"{method} {parameter.name} {value!r:.60}"] = _completed(method, parameter.name, value)
    return found


WRONG: dict[str, list[Any]] = {
    "budget": [0, -1, 1.5, True, "many", None, 577, 10**30, float("nan")],
    "budget_as": ["mean", 5, ""],
    "seed": [-1, 1.5, "x", 2**63],
    "repeats": [0, 101, True],
    "max_new_tokens": [0, 1025, "x"],
    "evidence": [[(9, 0, 0, 9)], [(0, 0, 9)], ["abcd"], 5, "abcd", [(0, 0, float("nan"), 9)], [(0, 0, 10**400, 9)]],
    "evidence_frames": [5, "0"],
}
WRONG_OF_VIDEOS: dict[str, list[Any]] = {
    "frames": [0, 65, 2.5, True, "x"],
    "evidence": [[(0, 0, 9, 9)]],
    "budget": [0, 10**6],
}


def _completed(method: str, parameter: str, value: Any) -> Callable[[], Any]:
    return lambda: adapter.completed(method, {parameter: value})


def _wrong_values(parameter: Any) -> list[Any]:
    if parameter.kind in ("choice", "bool"):
        return ["something else", 5]
    return ["something else", float("nan"), parameter.minimum - 1, parameter.maximum + 1, *_halves(parameter)]


def _halves(parameter: Any) -> list[Any]:
    return [1.5] if parameter.kind == "int" else []


def names() -> list[str]:
    """``refusals/what is refused``."""
    return [f"refusals/{name}" for name in refusals()]


def content(name: str) -> dict[str, Any]:
    """The kind of the error and its sentence; or that there was none."""
    try:
        refusals()[name.removeprefix("refusals/")]()
        kind, sentence = "none", ""
    except (ValueError, TypeError, NotImplementedError) as error:
        # The type by what users catch, not by our own class.
        kind = next(t.__name__ for t in (TypeError, ValueError, NotImplementedError) if isinstance(error, t))
        sentence = str(error)
    return {"decisions": {"error": kind}, "floats": {}, "diagnostics": {}, "sentences": {"error": sentence}}
