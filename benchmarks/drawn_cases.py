"""Drawn scenes as a case file with images, like any data set: for mining, benchmarks and tests."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from scenes import HELD_OUT_SEEDS, generate_scene

FIRST = 2_000_000
"""Offset among the held-out seeds: other places have scenes before it."""


def write_cases(folder: Path, n_cases: int, *, first: int = FIRST, per_family: int = 1, per_scene: int = 0) -> Path:
    """Draw scenes until there are ``n_cases`` questions, and return the case file in the folder.

    per_family: questions of each family about a scene. per_scene: at most so many about a scene; 0 for all.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    number = first
    while len(lines) < n_cases:
        seed = HELD_OUT_SEEDS[number]
        scene = generate_scene(seed, questions_per_family=per_family)
        questions = scene.questions[: per_scene or None][: n_cases - len(lines)]
        name = f"images/{seed}.png"
        if questions:
            Image.fromarray(scene.image).save(folder / name)
        lines += [
            json.dumps(
                {
                    "id": f"{seed}-{at}",
                    "image": name,
                    "question": asked.text,
                    "answer": asked.answer,
                    "family": asked.family,
                    "evidence": [list(box) for box in asked.evidence],
                }
            )
            for at, asked in enumerate(questions)
        ]
        number += 1
    file = folder / "cases.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
