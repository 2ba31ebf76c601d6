"""Session files that a hostile client may send: too many of something, no JSON, numbers that nothing can be done with,
good files damaged at a few places.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Json = dict[str, Any]
Case = tuple[str, Callable[[], bytes]]


def base(name: str = "01-existence") -> Json:
    """A shipped example as JSON data."""
    data: Json = json.loads((EXAMPLES / name / "session.json").read_text())
    return data


def compact(data: Any) -> bytes:
    """JSON without blanks; NaN and Infinity are written as Python writes them."""
    return json.dumps(data, separators=(",", ":")).encode()


def changed(change: Callable[[Json], Any], name: str = "01-existence") -> Callable[[], bytes]:
    """A file made of an example in which ``change`` changed something."""

    def make() -> bytes:
        data = base(name)
        change(data)
        return compact(data)

    return make


def stage_of(data: Json) -> Json:
    """The first stage of the first pruned lane."""
    stage: Json = data["runs"][1]["stages"][0]
    return stage


def image_of(size: tuple[int, int], shade: int = 0, said: tuple[int, int] | None = None) -> Json:
    """A plain image, small as a file however many pixels it has; ``said``: the size that the record claims."""
    width, height = said or size
    stored = _stored_image(size, shade)
    return {"width": width, "height": height, "sha256": "0" * 64, "mime": "image/png", "base64": stored, "name": ""}


@cache
def _stored_image(size: tuple[int, int], shade: int) -> str:
    buffer = io.BytesIO()
    Image.new("L", size, shade).save(buffer, "PNG", compress_level=9)
    return base64.b64encode(buffer.getvalue()).decode()


def gridded(n_tokens: int, *, whole: bool = False, stages: int = 1, pairs: bool = False) -> Json:
    """A session with a grid of 1,000 columns; ``whole``: every patch covers the image; ``pairs``: merged by twos."""
    data = base()
    size, cols = (1000, 1000), 1000
    rows = -(-n_tokens // cols)
    data["image"] = image_of(size)
    boxes = [
        [0, 0, *size] if whole else [t % cols, t // cols, t % cols + 1, t // cols + 1] for t in range(n_tokens)
    ]  # fmt: skip
    view = {"name": "image", "rows": rows, "cols": cols, "seen": [0, 0, *size], "level": 0, "top": 0, "left": 0}
    data["grid"] = {
        "image_size": size, "views": [view], "view": [0] * n_tokens, "row": [t // cols for t in range(n_tokens)],
        "col": [t % cols for t in range(n_tokens)], "box": boxes,
    }  # fmt: skip
    kept = list(range(0, n_tokens, 2)) if pairs else list(range(n_tokens))
    plain = {
        **stage_of(data), "n_in": n_tokens, "kept": kept, "score": None, "order": None, "maps": [], "charts": [],
        "readings": [], "text": None, "sequence": None, "n_extra": 0, "facts": {},
        "assignment": [t - t % 2 for t in range(n_tokens)] if pairs else None,
    }  # fmt: skip
    data["runs"] = [data["runs"][0], {**data["runs"][1], "stages": [plain] * stages}]
    return data


def many(path: str, entry: Any, count: int, name: str = "01-existence") -> Callable[[], bytes]:
    """A file in which the list at a dotted path is ``count`` times the same entry (None: its own first one)."""

    def change(data: Json) -> None:
        *steps, last = path.split(".")
        place: Any = data
        for step in steps:
            place = place[int(step) if step.isdecimal() else step]
        place[last] = [place[last][0] if entry is None else entry] * count

    return changed(change, name)


def nested(depth: int) -> Callable[[], bytes]:
    """A fact that is a list in a list in a list."""

    def make() -> bytes:
        data = base()
        stage_of(data)["facts"] = {"deep": "HERE"}
        return compact(data).replace(b'"HERE"', b"[" * depth + b"]" * depth)

    return make


def put(data: Json, **values: Any) -> None:
    """Change entries of the first pruned lane's first stage."""
    stage_of(data).update(values)


def with_boxes(data: Json, count: int) -> Json:
    """As many evidence boxes, all different, each as large as the image."""
    data["request"]["evidence"] = [[i / count, 0, 1000, 1000 - i / count] for i in range(count)]
    return data


def film(n_frames: int, size: tuple[int, int], said: tuple[int, int] | None = None) -> bytes:
    """A session about a video whose frames are plain images of any size."""
    data = base("clip-1-reading")
    width, height = said or size
    frames = [
        {"index": i, "time_s": float(i), "image": image_of(size, i % 256, said)} for i in range(n_frames)
    ]  # fmt: skip
    view = {"rows": 1, "cols": 1, "seen": [0, 0, width, height], "top": 0, "left": 0}
    data["video"] |= {"frames": frames, "n_frames": n_frames, "width": width, "height": height}
    data["image"] = frames[0]["image"]
    data["request"] |= {"evidence": [], "evidence_frames": []}
    data["grid"] = {
        "image_size": [width, height], "view": list(range(n_frames)), "row": [0] * n_frames, "col": [0] * n_frames,
        "views": [{**view, "name": f"frame {i}", "level": i, "frames": [i]} for i in range(n_frames)],
        "box": [[0, 0, width, height]] * n_frames,
    }  # fmt: skip
    data["runs"] = data["runs"][:1]
    return compact(data)


def counts() -> Iterator[Case]:
    """Too many of something, and as many of it as is allowed."""
    view = base()["grid"]["views"][0]
    spare = {**view, "name": "spare", "level": 1}
    for count in (512, 16_000, 400_000):
        yield f"{count} views", changed(lambda d, n=count: d["grid"]["views"].extend([spare] * (n - 1)))
    for count in (1_024, 20_000, 400_000):
        yield f"{count} evidence boxes", many("request.evidence", [0, 0, 480, 480], count)
    yield "1024 evidence boxes on 60000 tokens", lambda: compact(with_boxes(gridded(60_000), 1_024))
    yield "1024 different evidence boxes", lambda: compact(with_boxes(base(), 1_024))
    yield "64 lanes", many("runs", None, 64)
    yield "30000 lanes", many("runs", base()["runs"][0] | {"answer_tokens": [], "timings": {}}, 30_000)
    yield "256 stages", many("runs.1.stages", None, 256)
    yield "257 stages", many("runs.1.stages", None, 257)
    yield "200 maps", many("runs.1.stages.0.maps", stage_of(base())["score"], 200)
    yield "5000 maps", many("runs.1.stages.0.maps", stage_of(base())["score"], 5_000)
    yield "20000 words", many("text_tokens", "word", 20_000)
    yield "900000 words", many("text_tokens", "word", 900_000)
    yield "4096 answer tokens", many("runs.0.answer_tokens", None, 4_096)
    yield "90000 answer tokens", many("runs.0.answer_tokens", None, 90_000)
    yield "90000 methods", many("request.methods", {"method": "apet", "params": {}}, 90_000)
    yield "900000 warnings", many("warnings", "Note.", 900_000)
    yield "5900000 numbers of a map", many("runs.1.stages.0.score.values", 0.51234, 5_900_000)
    yield "20000000 numbers of a map", many("runs.1.stages.0.score.values", 0, 20_000_000)
    yield "5900000 wrong numbers", many("grid.view", None, 5_900_000)
    yield "900000 texts for numbers", many("runs.1.stages.0.kept", "a", 900_000)
    yield "60000 tokens", lambda: compact(gridded(60_000))
    yield "100000 tokens in pairs", lambda: compact(gridded(100_000, pairs=True))
    yield "100001 tokens", lambda: compact(gridded(100_001))
    yield "60000 patches on each other", lambda: compact(gridded(60_000, whole=True))
    yield "20000 tokens, 200 stages", lambda: compact(gridded(20_000, stages=200))
    yield "1000000 keys", changed(lambda d: d["versions"].update({str(i): "1" for i in range(490_000)}))
    yield "1001 facts", changed(lambda d: put(d, facts={str(i): i for i in range(1_001)}))
    yield "99000 small objects", changed(lambda d: d["runs"][1].update(params={"x": [{"a": 1}] * 99_000}))
    yield "290000 small lists", changed(lambda d: d["runs"][1].update(params={"x": [[]] * 290_000}))


def structure() -> Iterator[Case]:
    """What is no JSON, or JSON of another kind."""
    text = compact(base())
    yield "nothing", lambda: b""
    yield "no JSON", lambda: b"\x00\xff\xfe"
    yield "UTF-16", lambda: text.decode().encode("utf-16")
    yield "byte order mark", lambda: b"\xef\xbb\xbf" + text
    yield "half a file", lambda: text[: len(text) // 2]
    yield "a lone surrogate", lambda: text.replace(b'"is there', b'"\\ud800is there', 1)
    yield "bytes that are no UTF-8", lambda: text.replace(b'"is there', b'"\xff is there', 1)
    yield "64 MB of blanks", lambda: text + b" " * 64_000_000
    yield "60 MB of blanks", lambda: text + b" " * 60_000_000
    yield "64 MB of brackets", lambda: b"[" * 63_000_000
    yield "a million objects", lambda: b'{"a":' * 1_000_000
    for depth in (90, 180, 900, 100_000, 1_000_000):
        yield f"{depth} lists in each other", nested(depth)
    yield "a key twice", lambda: b'{"schema_version":2,' + text[1:]
    yield "a key a thousand times", lambda: b"{" + b'"a":1,' * 900 + text[1:]
    yield "a list", lambda: b"[" + text + b"]"
    yield "schema 1", changed(lambda d: d.update(schema_version=1))
    yield "no runs", changed(lambda d: d.update(runs=[]))
    yield "a text of 60 MB", changed(lambda d: d["runs"][1].update(answer="a" * 60_000_000))
    yield "a text of 199999 characters", changed(lambda d: d["runs"][1].update(answer="a " * 99_999))
    yield "a key of 190000 characters", changed(lambda d: put(d, facts={"k" * 190_000: 1}))


def values() -> Iterator[Case]:
    """Numbers and images that nothing can be done with."""
    for name, number in (("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("1e999", "1e999")):
        for place in ("score", "fact", "box", "time"):
            yield f"{name} as {place}", _number(place, number)
    for number in ("9223372036854775808", "1" * 400, "1" * 5_000, "-" + "9" * 30):
        for place in ("fact", "order", "seed"):
            yield f"{len(number)} digits as {place}", _number(place, number)
    yield "a whole number as text", _number("seed", '"1_0000000000_0000000000"')
    yield "boxes of 1e308", changed(lambda d: d["request"].update(evidence=[[-1e308, -1e308, 1e308, 1e308]]))
    yield "patches of 1e308", changed(lambda d: d["grid"].update(box=[[-1e308, -1e308, 1e308, 1e308]] * 576))
    yield "a view of 1e18 rows", changed(lambda d: d["grid"]["views"][0].update(rows=10**18, cols=10**18))
    yield "a level of 2**62", changed(lambda d: d["grid"]["views"][0].update(level=2**62))
    yield "an image of 1e9 px", changed(lambda d: d["grid"].update(image_size=[10**9, 10**9]))
    yield "no image", changed(lambda d: d["image"].update(base64=""))
    yield "base64 that is none", changed(lambda d: d["image"].update(base64="!" * 4_000_000))
    yield "an image of 100 megapixels", changed(lambda d: d.update(image=image_of((10_000, 10_000))))
    yield "a larger image than said", changed(lambda d: d.update(image=image_of((4_000, 4_000), said=(480, 480))))
    yield "all merged into nothing", changed(lambda d: put(d, assignment=[-1] * 576))
    yield "merged in a circle", changed(lambda d: put(d, assignment=[(t + 1) % 576 for t in range(576)]))
    yield "128 frames", lambda: film(128, (320, 240))
    yield "129 frames", lambda: film(129, (320, 240))
    yield "64 frames of 4.2 megapixels", lambda: film(64, (2_100, 2_000))
    yield "64 larger frames than said", lambda: film(64, (1_600, 1_600), said=(640, 640))


def _number(place: str, number: str) -> Callable[[], bytes]:
    """A file with a number at a place, written as it is."""

    def make() -> bytes:
        data = base()
        if place == "score":
            stage_of(data)["score"]["values"][0] = "HERE"
        elif place == "fact":
            stage_of(data)["facts"]["number"] = "HERE"
        elif place == "box":
            data["grid"]["box"][0][0] = "HERE"
        elif place == "time":
            data["runs"][1]["timings"]["prefill"]["median_ms"] = "HERE"
        elif place == "order":
            stage_of(data)["order"] = ["HERE"] * 576
        else:
            data["request"]["seed"] = "HERE"
        return compact(data).replace(b'"HERE"', number.encode())

    return make


LIKE: dict[type, tuple[Any, ...]] = {
    int: (-1, 0, 1, 575, 576, 2**40, -(2**40)), float: (0.0, -0.5, 1e-300, 1e300, -1e300), bool: (True, False),
    str: ("", "a", "\x00\u202e<b>", "x" * 5_000), list: ([],), dict: ({},), type(None): (0, 0.5, "a", []),
}  # fmt: skip
"""What stands for a value of the same kind, so that more is damaged than what the reading refuses at once."""
STRANGE = (None, True, -1, 0, 2**40, -(2**40), 0.5, -1e300, 1e300, "", "a", "\x00\u202e<b>", [], {}, [[]], [None] * 5)


def mutations(count: int) -> Iterator[Case]:
    """Examples in which one to three places hold something strange, chosen by lot with the number as seed."""
    folders = sorted(path.parent.name for path in EXAMPLES.glob("*/session.json"))
    for number in range(count):
        yield f"mutation {number}", lambda number=number: mutated(number, folders)  # type: ignore[misc]


def mutated(number: int, folders: list[str]) -> bytes:
    """One of the ``mutations``."""
    lot = random.Random(number)
    data = base(lot.choice(folders))
    for _ in range(lot.randint(1, 3)):
        place: Any = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = lot.choice(keys)
            inside = place[key]
            if not isinstance(inside, dict | list) or not inside or lot.random() < 0.15:
                break
            place = inside
        if isinstance(place, dict) and lot.random() < 0.05:
            del place[key]
        elif isinstance(inside, list) and inside and lot.random() < 0.5:
            place[key] = inside * lot.choice((0, 2, 7)) if lot.random() < 0.5 else inside[: len(inside) // 2]
        else:
            choices = LIKE[type(inside)] if lot.random() < 0.85 else STRANGE
            place[key] = copy.deepcopy(lot.choice(choices))
    return compact(data)


def all_cases(n_mutations: int) -> Iterator[Case]:
    """Every file of the corpus: name and how its bytes are made."""
    yield from counts()
    yield from structure()
    yield from values()
    yield from mutations(n_mutations)
