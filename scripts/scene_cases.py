"""Write held-out drawn scenes as a case file: one PNG per scene, its questions with answers and evidence as lines.

    python -m scripts.scene_cases --count 100 --out scenes_100
    tokviz cases check scenes_100

The seeds are those that training never draws. The same arguments write the same files.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from scenes import HELD_OUT_SEEDS, generate_scene
from tokviz.errors import BadInput
from tokviz.files import write_whole, writing

FIRST_SEED = HELD_OUT_SEEDS[1_000_000]
"""The model card, the examples and the tests use seeds before it."""
QUESTIONS_PER_FAMILY = 2
FAMILY = {"spatial": "relation"}
"""Scene families that the project's tables call otherwise."""


def write_scenes(
    out: Path, count: int, first_seed: int = FIRST_SEED, questions: int = QUESTIONS_PER_FAMILY, most: int | None = None
) -> int:
    """Write ``count`` scenes from ``first_seed`` on and return how many cases there are.

    Args:
        out: A folder that is empty or not there yet.
        count: Number of scenes.
        first_seed: Seed of the first; the others follow.
        questions: Questions to try for each family; a scene may allow fewer.
        most: Most cases; the last scene may keep fewer questions then, and later ones are not drawn.

    Raises:
        BadInput: For seeds that training may have drawn, or if the folder cannot be written or holds something.
    """
    seeds = range(first_seed, first_seed + count)
    if count < 1 or seeds[0] not in HELD_OUT_SEEDS or seeds[-1] not in HELD_OUT_SEEDS:
        start, stop = HELD_OUT_SEEDS[0], HELD_OUT_SEEDS[-1]
        raise BadInput(
            f"Held-out scenes have the seeds {start:,} to {stop:,}; asked for {count:,} from {first_seed:,}."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out.name!r} exists and is no empty folder.")
    lines: list[str] = []
    with writing(out):
        (out / "images").mkdir(parents=True)
        for seed in seeds:
            image, cases = scene_cases(seed, questions)
            kept = list(cases)[: None if most is None else most - len(lines)]
            if not kept:
                continue
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            (out / "images" / f"{seed}.png").write_bytes(buffer.getvalue())
            lines += [json.dumps(case) for case in kept]
            if len(lines) == most:
                break
        write_whole(out / "cases.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def scene_cases(seed: int, questions: int = QUESTIONS_PER_FAMILY) -> tuple[Image.Image, Iterator[dict[str, Any]]]:
    """Draw one scene; its image, and its questions as lines of a case file."""
    scene = generate_scene(seed, questions_per_family=questions)
    cases = (
        {
            "id": f"{seed}-{number}",
            "image": f"images/{seed}.png",
            "question": asked.text,
            "answer": asked.answer,
            "family": FAMILY.get(asked.family, asked.family),
            "evidence": [[float(edge) for edge in box] for box in asked.evidence],
            "split": "held-out",
        }
        for number, asked in enumerate(scene.questions)
    )
    return Image.fromarray(scene.image), cases


def main(arguments: list[str] | None = None) -> int:
    """Write the folder. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.scene_cases", description=write_scenes.__doc__)
    parser.add_argument("--count", type=int, required=True, metavar="N", help="number of scenes")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, metavar="S", help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=QUESTIONS_PER_FAMILY, metavar="N", help="per family")
    parser.add_argument("--most", type=int, metavar="N", help="most cases")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="written; must be empty")
    given = parser.parse_args(arguments)
    try:
        written = write_scenes(given.out, given.count, given.first_seed, given.questions, given.most)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{written:,} cases in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
