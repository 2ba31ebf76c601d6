"""The pictures of a seed never change: numbers of models are compared on exactly these.

`python tests/testworld/test_world_stability.py` writes the stored digests anew. Another OpenCV or Pillow may round an
edge differently; what is where and what is asked must stay all the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from testworld import CROWDED, SINGLE, UNIFORM, World, generate_world

STORED = Path(__file__).with_name("world_digests.json")
WANTED = [(seed, kind) for seed in range(4) for kind in (CROWDED, SINGLE, UNIFORM)]


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def digests(world: World) -> dict[str, str]:
    def short(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()[:16]

    things = [world.background, *(asdict(item) for item in (*world.things, *world.captions))]
    questions = [asdict(question) for question in world.questions]
    return {
        "image": short(world.image.tobytes()),
        "things": short(json.dumps(rounded(things)).encode()),
        "questions": short(json.dumps(rounded(questions)).encode()),
    }


@pytest.mark.parametrize("row", json.loads(STORED.read_text()) if STORED.exists() else [], ids=lambda row: row["seed"])
def test_a_seed_is_what_it_was(row: dict[str, Any]) -> None:
    world = generate_world(row["seed"], row["kind"])
    assert digests(world) == {name: row[name] for name in ("image", "things", "questions")}


def test_digests_are_stored() -> None:
    assert [(row["seed"], row["kind"]) for row in json.loads(STORED.read_text())] == WANTED


if __name__ == "__main__":
    lines = [json.dumps({"seed": s, "kind": k, **digests(generate_world(s, k))}) for s, k in WANTED]
    STORED.write_text("[\n" + ",\n".join(lines) + "\n]\n")
