"""An independent reading of wide questions: the answer that the text itself asks for, from records and owner map."""

from __future__ import annotations

import re
from collections.abc import Callable

from scenes import COLORS, PLACES, SHAPES, SIZES, Scene
from scenes.wide import PHRASINGS, RESERVED, UNKNOWN

SINGULAR = {**{s: s for s in SHAPES}, **{f"{s}s": s for s in SHAPES}, "crosses": "cross"}
ANY = {"object", "objects", "thing", "things", "shape", "shapes", "item", "items"}
SIZE = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large"}
SIDES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "over": (1, -1), "higher": (1, -1)}
SIDES |= {"below": (1, 1), "under": (1, 1), "beneath": (1, 1), "lower": (1, 1)}
_RELATION = r"(?:(?:to |on )?the )?(?:left|right)(?: side)? of|above|over|below|under|beneath|(?:higher|lower) than"
_SLOTS = {
    "n": r"(?P<n>\d+)",
    "text": r"(?P<text>\S+)",
    "relation": f"(?P<relation>{_RELATION})",
    "size": r"(?P<size>\w+)",
}
_SLOTS |= {"color": r"(?P<color>\S+)", "shape": r"an? (?P<shape>\S+)", "other": r"the (?P<other>.+)"}
_SLOTS |= {"a": r"an? (?P<thing>.+?)", "the": r"the (?P<thing>.+?)", "bare": "(?P<thing>.+?)", "many": "(?P<thing>.+?)"}


def described(scene: Scene, words: str) -> list[int]:
    """Numbers of the objects that "small red stars" means; nothing fits a word that stands for an unknown one."""
    if {*words.split()} & {*RESERVED, UNKNOWN}:
        return []
    result = list(range(len(scene.objects)))
    for word in words.split():
        if word in COLORS:
            result = [i for i in result if scene.objects[i].color == word]
        elif word in SIZE:
            assert all(item.size in SIZES for item in scene.objects), "a size where some things have none"
            result = [i for i in result if scene.objects[i].size == SIZE[word]]
        elif word in SINGULAR:
            result = [i for i in result if scene.objects[i].shape == SINGULAR[word]]
        else:
            assert word in ANY, words
    return result


def yes_or_no(holds: bool) -> str:
    return "yes" if holds else "no"


def slots_of(text: str, template: str) -> dict[str, str]:
    """What fills the slots of a template in a question."""
    parts = re.split(r"(\{\w+\})", template.rstrip("?"))
    pattern = "".join(_SLOTS[part[1:-1]] if part.startswith("{") else re.escape(part) for part in parts)
    found = re.fullmatch(pattern, text.rstrip("?"))
    assert found, (text, template)
    return found.groupdict()


def recount(scene: Scene, text: str, template: str) -> str:
    """The only right answer; fails where the question has none, or more than one."""
    kind = PHRASINGS[template]
    slots = slots_of(text, template)
    things = described(scene, slots["thing"]) if "thing" in slots else []
    if kind in ("word", "number", "digit", "text", "is text", "is word") or kind.startswith("has "):
        return _read(scene, kind, slots)
    if kind in ("color", "shape", "size", "place") or (kind.startswith("is ") and kind != "is count"):
        assert len(things) <= 1, "the thing must be one"
    asked: dict[str, Callable[[], str]] = {
        "exists": lambda: yes_or_no(bool(things)),
        "count": lambda: str(len(things)),
        "is count": lambda: yes_or_no(len(things) == int(slots["n"])),
        "place": lambda: _place(scene, things[0]) if things else "none",
        "relation": lambda: _related(scene, things, described(scene, slots["other"]), slots["relation"]),
        "list": lambda: _listed(scene),
    }
    if kind in asked:
        return asked[kind]()
    attribute = kind.removeprefix("is ")
    value = getattr(scene.objects[things[0]], attribute) if things else "none"
    if kind == attribute:
        assert value in (*COLORS, *SHAPES, *SIZES, "none"), "an answer without a name"
        return str(value)
    return yes_or_no(SIZE.get(slots[attribute], slots[attribute]) == value)


def _place(scene: Scene, thing: int) -> str:
    height, width = scene.owner.shape
    x, y = scene.objects[thing].center
    return PLACES[int(3 * y / height)][int(3 * x / width)]


def _related(scene: Scene, first: list[int], second: list[int], phrase: str) -> str:
    assert len(first) <= 1 and len(second) <= 1
    if not first or not second:
        return "no"
    axis, sign = next(value for word, value in SIDES.items() if word in phrase.split())
    gap = sign * (scene.objects[first[0]].center[axis] - scene.objects[second[0]].center[axis])
    assert abs(gap) > 0.09 * scene.owner.shape[0], "too close to call"
    return yes_or_no(gap > 0)


def _listed(scene: Scene) -> str:
    rows = [(int(item.center[1] // 14), int(item.center[0] // 14), item.name) for item in scene.objects]
    return " ".join(name for *_, name in sorted(rows)) or "none"


def _read(scene: Scene, kind: str, slots: dict[str, str]) -> str:
    kinds = [sign.kind for sign in scene.signs]
    assert len(set(kinds)) == len(kinds), "the sign must be one"
    texts = {sign.kind: sign.text for sign in scene.signs}
    if kind == "is text":
        assert len(texts) == 1
        return yes_or_no(slots["text"] in texts.values())
    if kind == "is word":
        return yes_or_no(texts.get("word") == slots["text"])
    if kind == "text":
        assert len(texts) <= 1
        return next(iter(texts.values()), "none")
    if kind.startswith("has "):
        asked = kind.removeprefix("has ")
        if asked == "number" and asked not in texts:
            assert "digit" not in texts, "a handwritten digit is a number too"
        return yes_or_no(bool(texts) if asked == "text" else asked in texts)
    return texts.get(kind, "none")
