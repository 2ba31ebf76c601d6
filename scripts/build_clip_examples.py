"""Find the example clips by search over held-out moving scenes and write them to ``examples/clip-*``.

    python -m scripts.build_clip_examples --minutes 8

Run it again whenever the embedded video model changes. The search goes on where the last one stopped (``--cache``)
unless the weights or the code have changed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import tokviz
from scenes import EXAMPLE_SEEDS
from scripts.cases.building import (
    EXAMPLES,
    Cache,
    as_before,
    case_record,
    key_of,
    parser,
    runnable,
    search,
    told,
    write,
)
from scripts.cases.choosing import Shown, showings
from scripts.cases.clips import N_FRAMES, clip_of, file_of, find_clip_flips, looked_at, opened
from scripts.cases.search import FoundCase
from tokviz.comparison import Comparison
from tokviz.models.catalog import EMBEDDED_VIDEO_MODEL
from tokviz.models.loading import VisionLanguageModel
from tokviz.runs.execute import planning_info
from tokviz.runs.inputs import grid_of

SIZE = (480, 480)
KIND = "one moment of a clip"
FIRST = ("random", "fastervlm", "apet", "divprune", "prumerge_plus", "fastv", "visionzip")
"""All other methods run only where one of these lost the answer."""


def main() -> int:
    """Search, choose, write each as clip, case and session; 1 when there are too few."""
    options = parser(__doc__, "clips", most=200, count=2)
    options.add_argument("--model", default=EMBEDDED_VIDEO_MODEL, help="name or folder (default: %(default)s)")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    vlm = tokviz.load(arguments.model)
    if arguments.refresh:
        refresh(vlm)
        return 0
    video, budget = opened(vlm, clip_of(EXAMPLE_SEEDS[0], SIZE)), arguments.budget
    methods = runnable(planning_info(vlm, grid_of(vlm, video)))
    weights = Path(vlm.model.config._name_or_path) / "model.safetensors"
    cache = Cache(arguments.cache, key_of(methods, budget, weights, FIRST))
    found, searched = search(
        lambda seed: find_clip_flips(vlm, [seed], methods, budget, first=FIRST, size=SIZE),
        cache,
        arguments.most,
        arguments.minutes,
    )
    chosen = choose(found, arguments.count)
    told([(one, KIND) for one in chosen], found, searched)
    if len(chosen) < arguments.count:
        print("Search more clips: too few of them separate the methods plainly.", file=sys.stderr)
        return 1
    if not arguments.dry:
        rewrite(vlm, chosen, budget)
    return 0


def choose(found: Sequence[FoundCase], count: int) -> list[Shown]:
    """The plainest ways to show cases, of clips and families of questions that differ; controls only where needed."""
    pool = [shown for case in sorted(found, key=lambda case: (case.seed, case.question)) for shown in showings(case)]
    chosen: list[Shown] = []
    while pool and len(chosen) < count:
        methods = {method for one in chosen for method in one.methods}
        best = max(pool, key=lambda one: _worth(one, methods))
        chosen.append(best)
        pool = [
            one
            for one in pool
            if one.case.seed != best.case.seed and one.case.question_family != best.case.question_family
        ]
    return chosen


def _worth(one: Shown, shown_before: set[str]) -> float:
    controls = sum(outcome.family == "control" for outcome in one.outcomes)
    inside = sum(outcome.inside for outcome in one.outcomes)
    again = len(shown_before & set(one.methods))
    # A sign shows its word nowhere else and for a quarter of the time; of a shape there may be another one alike.
    reading = one.case.question_family == "reading"
    # What is kept before the LLM is all that the model got: its images explain the answer best.
    return one.clarity + 0.5 * one.sure + 0.3 * reading - 0.5 * controls - 0.2 * inside - 0.1 * again


def refresh(vlm: VisionLanguageModel) -> None:
    """Write the session of every stored clip anew, with the same file, question and methods."""
    for folder in sorted(EXAMPLES.glob("clip-*")):
        request = Comparison.from_json((folder / "session.json").read_text()).request
        again = tokviz.compare(
            vlm,
            folder / "clip.mp4",
            request.question,
            request.methods,
            request.budget,
            repeats=5,
            max_new_tokens=8,
            expected=request.expected_answer,
            evidence=request.evidence,
            evidence_frames=request.evidence_frames,
        )
        (folder / "session.json").write_text(again.to_json() + "\n")


def rewrite(vlm: VisionLanguageModel, chosen: Sequence[Shown], budget: int) -> None:
    """Replace all example clips; everything is computed before anything is removed."""
    made = [session(vlm, one, budget) for one in chosen]
    for folder in EXAMPLES.glob("clip-*"):
        shutil.rmtree(folder)
    for number, (one, (file, comparison)) in enumerate(zip(chosen, made, strict=True), 1):
        case = one.case
        source = f"generate_clip({case.seed}, size={case.size}, frames={N_FRAMES})"
        record = case_record(one, KIND) | {
            "scene": {"seed": case.seed, "size": list(case.size), "frames": N_FRAMES},
            "source": f"{source}, found by scripts.build_clip_examples",
        }
        write(EXAMPLES / f"clip-{number}-{case.question_family}", ("clip.mp4", file), comparison, record)


def session(vlm: VisionLanguageModel, one: Shown, budget: int) -> tuple[bytes, Comparison]:
    """The clip's file, and a chosen case run with the methods that are shown, timed as medians of 5.

    Raises RuntimeError when it answers otherwise than before.
    """
    case = one.case
    clip = clip_of(case.seed, case.size)
    video = opened(vlm, clip)
    boxes, places = looked_at(next(q for q in clip.questions if q.text == case.question), video)
    comparison = tokviz.compare(
        vlm,
        video,
        case.question,
        one.methods,
        budget,
        repeats=5,
        max_new_tokens=8,
        expected=case.expected,
        evidence=boxes,
        evidence_frames=places,
    )
    return file_of(clip), as_before(comparison, one)


if __name__ == "__main__":
    sys.exit(main())
