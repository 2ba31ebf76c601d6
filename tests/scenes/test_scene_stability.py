"""The scenes of a seed never change: weights and benchmark numbers were made on exactly these.

A failure here means that an edit changed pictures, arrangements or questions that already exist; new kinds of scenes
need random streams of their own. Floats are compared to six decimals. The picture's digests held on processors with and
without AVX2 and AVX-512; another OpenCV or Pillow may round an edge differently, and then the records and owner maps
(which rest on no blending) say whether the scene itself is still the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from scenes import Scene, generate_scene

STORED = Path(__file__).with_name("scene_digests.json")
SCENES: list[dict[str, Any]] = json.loads(STORED.read_text())


def rounded(value: Any) -> Any:
    """Floats to six decimals, within lists, tuples and dicts."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def digests(scene: Scene) -> dict[str, str]:
    """Digests of picture, owner map, things and questions."""
    things = [asdict(item) for item in (*scene.objects, *scene.signs)]
    questions = [asdict(question) for question in scene.questions]

    def short(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()[:16]

    return {
        "image": short(scene.image.tobytes()),
        "owner": short(scene.owner.tobytes()),
        "things": short(json.dumps(rounded(things)).encode()),
        "questions": short(json.dumps(rounded(questions)).encode()),
    }


def write_digests() -> None:
    """Make the stored file: six seeds of each range, and what training the tower sees of two of them."""
    from scenes import EXAMPLE_SEEDS, HELD_OUT_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS

    ranges = (TRAINING_SEEDS, VALIDATION_SEEDS, HELD_OUT_SEEDS, EXAMPLE_SEEDS)
    wanted = [(seeds[k * 31_007], False) for seeds in ranges for k in range(6)]
    wanted += [(TRAINING_SEEDS[5], True), (HELD_OUT_SEEDS[5], True)]
    rows = [{"seed": seed, "dense": dense, **digests(generate_scene(seed, dense=dense))} for seed, dense in wanted]
    STORED.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


@pytest.mark.parametrize("stored", SCENES, ids=lambda row: f"{row['seed']}{'-dense' if row['dense'] else ''}")
def test_the_scene_of_a_seed_is_what_it_was(stored: dict[str, Any]) -> None:
    found = digests(generate_scene(stored["seed"], dense=stored["dense"]))
    # One by one, so that a failure says which part changed.
    for part in ("things", "owner", "questions", "image"):
        assert found[part] == stored[part], part
