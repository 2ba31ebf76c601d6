"""Find the shipped examples by search over held-out scenes and write them to ``examples/``.

    python -m scripts.build_examples --minutes 8

Run it again whenever the embedded model changes: a test checks that the stored sessions are what the model does now.
The search goes on where the last one stopped (``--cache``) unless the weights or the code have changed. The same number
of scenes gives the same examples.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

import tokviz
from scenes import Box, generate_scene
from scripts.cases.building import (
    EXAMPLES,
    Cache,
    as_before,
    case_record,
    key_of,
    parser,
    runnable,
    search,
    stored_why,
    told,
    write,
    write_record,
)
from scripts.cases.choosing import Shown, choose, missed_goals
from scripts.cases.opening import with_opening
from scripts.cases.search import find_flips
from tokviz.comparison import Comparison
from tokviz.media.images import InputImage, read_image, stored_image
from tokviz.models.catalog import EMBEDDED_MODEL, embedded_folder
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.loading import VisionLanguageModel

IMAGES = "[0-9]*"
"""Folders of examples with images; those of clips are made by ``build_clip_examples``."""
FIRST = ("random", "fastervlm", "apet", "divprune", "prumerge_plus", "cdpruner", "pdrop")
"""One method per family: all others run only where one of these lost the answer."""
LEAST = 8


def canvas(seed: int) -> tuple[int, int]:
    """Width and height in pixels: sharp on the page; every third scene is wide, so that the unseen margin shows."""
    return (640, 480) if seed % 3 == 0 else (480, 480)


def main() -> int:
    """Search, choose a varied handful, write each as image, case and session; 1 when not everything is covered."""
    options = parser(__doc__, "scenes", most=400, count=12)
    options.add_argument("--reword", action="store_true", help="write the stored cases' sentences anew; runs no model")
    arguments = options.parse_args()
    if arguments.reword:
        for path in sorted(EXAMPLES.glob("*/case.json")):
            reword(path.parent)
        return 0
    torch.set_num_threads(arguments.threads)
    vlm = tokviz.load()
    if arguments.refresh:
        refresh(vlm)
        return 0
    info = planning_before_loading(EMBEDDED_MODEL)
    if info is None:
        raise RuntimeError("The embedded model's configuration does not say what methods may plan with.")
    methods, budget = runnable(info), arguments.budget
    cache = Cache(arguments.cache, key_of(methods, budget, embedded_folder() / "model.safetensors", FIRST))
    found, searched = search(
        lambda seed: find_flips(vlm, [seed], methods, budget, first=FIRST, size=canvas(seed)),
        cache,
        arguments.most,
        arguments.minutes,
    )
    chosen = with_opening(choose(found, arguments.count))
    missed = missed_goals(chosen)
    told([(one, one.kind) for one in chosen], found, searched)
    print(f"missing: {', '.join(missed) or 'nothing'}")
    if missed or len(chosen) < LEAST:
        print("Search more scenes: the examples do not cover everything.", file=sys.stderr)
        return 1
    if not arguments.dry:
        rewrite(vlm, chosen, budget)
    return 0


def refresh(vlm: VisionLanguageModel) -> None:
    """Write the session of every stored case anew, with the same image, question and methods."""
    for path in sorted(EXAMPLES.glob(f"{IMAGES}/session.json")):
        stored = Comparison.from_json(path.read_text())
        asked, image = stored.request, read_image(stored_image(stored.image))
        again = run(
            vlm,
            image,
            asked.question,
            methods=asked.methods,
            budget=asked.budget,
            expected=str(asked.expected_answer),
            evidence=asked.evidence,
        )
        path.write_text(again.to_json() + "\n")


def run(
    vlm: VisionLanguageModel,
    image: InputImage,
    question: str,
    *,
    methods: Sequence[str],
    budget: int,
    expected: str,
    evidence: Sequence[Box],
) -> Comparison:
    """A comparison as it is stored: timed as medians of 5."""
    return tokviz.compare(
        vlm, image, question, methods, budget, repeats=5, max_new_tokens=8, expected=expected, evidence=evidence
    )


def rewrite(vlm: VisionLanguageModel, chosen: Sequence[Shown], budget: int) -> None:
    """Replace all examples with images; everything is computed before anything is removed."""
    sessions = [session(vlm, one, budget) for one in chosen]
    for folder in EXAMPLES.glob(IMAGES):
        shutil.rmtree(folder)
    for number, (one, comparison) in enumerate(zip(chosen, sessions, strict=True), 1):
        case, file = one.case, io.BytesIO()
        stored_image(comparison.image).save(file, "PNG", optimize=True)
        record = case_record(one, one.kind) | {
            "scene": {"seed": case.seed, "size": list(case.size)},
            "source": f"generate_scene({case.seed}, size={case.size}), found by scripts.build_examples",
        }
        if number == 1:
            record["opening"] = True
        folder = EXAMPLES / f"{number:02d}-{case.question_family}"
        write(folder, ("image.png", file.getvalue()), comparison, record)


def session(vlm: VisionLanguageModel, one: Shown, budget: int) -> Comparison:
    """Run a chosen case with the methods that are shown. Raises RuntimeError when it answers otherwise than before."""
    case = one.case
    scene = generate_scene(case.seed, size=case.size)
    question = next(q for q in scene.questions if q.text == case.question)
    image = read_image(Image.fromarray(scene.image))
    comparison = run(
        vlm,
        image,
        case.question,
        methods=one.methods,
        budget=budget,
        expected=case.expected,
        evidence=question.evidence,
    )
    return as_before(comparison, one)


def reword(folder: Path) -> None:
    """Write the sentences of a stored case anew from its session; no model runs."""
    record = json.loads((folder / "case.json").read_text())
    record["why"] = stored_why(record, Comparison.from_json((folder / "session.json").read_text()))
    write_record(folder, record)


if __name__ == "__main__":
    sys.exit(main())
