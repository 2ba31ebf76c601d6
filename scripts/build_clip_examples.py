"""Find the example clips by search over held-out moving scenes and write them to ``examples/clip-*``.

    python -m scripts.build_clip_examples --minutes 8

Run it again whenever the embedded video model changes. The search goes on where the last one stopped (``--cache``)
unless the weights or the code have changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import tokviz
from scenes import EXAMPLE_SEEDS
from scripts.build_examples import EXAMPLES, ROOT, Cache, case_record, key_of
from scripts.cases.choosing import Shown, showings
from scripts.cases.clips import N_FRAMES, clip_of, file_of, find_clip_flips, looked_at
from scripts.cases.search import FoundCase, separate
from tokviz.media.video import Video
from tokviz.models.catalog import EMBEDDED_VIDEO_MODEL
from tokviz.models.loading import VisionLanguageModel
from tokviz.records import Comparison
from tokviz.runs.execute import planning_info
from tokviz.runs.inputs import grid_of, open_media

CACHE = ROOT / "runs" / "clip-examples.jsonl"
SIZE = (480, 480)
KIND = "one moment of a clip"
FIRST = ("random", "fastervlm", "apet", "divprune", "prumerge_plus", "fastv", "visionzip")
"""All other methods run only where one of these lost the answer."""


def main() -> int:
    """Search, choose, write each as clip, case and session; 1 when there are too few."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_VIDEO_MODEL, help="name or folder (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=200, help="search at most so many clips (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop the search after so many minutes")
    parser.add_argument("--budget", type=int, default=64, help="visual tokens (default: %(default)s)")
    parser.add_argument("--count", type=int, default=2, help="examples to write (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where found cases are kept (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--refresh", action="store_true", help="run the stored cases again instead of searching")
    parser.add_argument("--dry", action="store_true", help="say what would be written, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vlm = tokviz.load(arguments.model)
    if arguments.refresh:
        refresh(vlm)
        return 0
    found, searched = search(vlm, arguments)
    chosen = choose(found, arguments.count)
    for one in chosen:
        record = case_record(one, KIND)
        print(f"{one.case.seed} {one.case.question} -> {one.case.expected}: {record['title']}. {record['why']}")
    print(f"{len(found)} separating questions in {searched} clips; {len(chosen)} chosen")
    if len(chosen) < arguments.count:
        print("Search more clips: too few of them separate the methods plainly.", file=sys.stderr)
        return 1
    if not arguments.dry:
        rewrite(vlm, chosen, arguments.budget)
    return 0


def search(vlm: VisionLanguageModel, arguments: argparse.Namespace) -> tuple[list[FoundCase], int]:
    """Cases of all clips that are searched now or were searched before, and the number of these clips."""
    methods = runnable(vlm)
    weights = Path(vlm.model.config._name_or_path) / "model.safetensors"
    cache = Cache(arguments.cache, key_of(methods, arguments.budget, weights, FIRST))
    deadline = time.monotonic() + 60 * arguments.minutes
    done, found = 0, list[FoundCase]()
    for seed in EXAMPLE_SEEDS[: arguments.clips]:
        cases = cache.get(seed)
        if cases is None:
            if time.monotonic() > deadline:
                break
            cases = cache.put(
                seed, list(find_clip_flips(vlm, [seed], methods, arguments.budget, first=FIRST, size=SIZE))
            )
            print(f"clip {seed}: {len(cases)} found", file=sys.stderr)
        found += cases
        done += 1
    return found, done


def runnable(vlm: VisionLanguageModel) -> list[str]:
    """Ids of the methods that the model can serve on videos, without the unpruned run."""
    media = open_media(vlm, file_of(clip_of(EXAMPLE_SEEDS[0], SIZE)))
    info = planning_info(vlm, grid_of(vlm, media))
    return [p.id for p in tokviz.methods() if p.id != "full" and p.missing(info) is None]


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
    # What is kept before the LLM is all that the model got: its pictures explain the answer best.
    return one.clarity + 0.5 * one.sure + 0.3 * reading - 0.5 * controls - 0.2 * inside - 0.1 * again


def refresh(vlm: VisionLanguageModel) -> None:
    """Write the session of every stored clip anew, with the same file, question and methods."""
    for folder in sorted(EXAMPLES.glob("clip-*")):
        request = Comparison.from_json((folder / "session.json").read_text()).request
        again = tokviz.compare(
            vlm, folder / "clip.mp4", request.question, request.methods, request.budget, repeats=5, max_new_tokens=8,
            expected=request.expected_answer, evidence=request.evidence, evidence_frames=request.evidence_frames,
        )  # fmt: skip
        (folder / "session.json").write_text(again.to_json() + "\n")


def rewrite(vlm: VisionLanguageModel, chosen: Sequence[Shown], budget: int) -> None:
    """Replace all example clips; everything is computed before anything is removed."""
    made = [session(vlm, one, budget) for one in chosen]
    for folder in EXAMPLES.glob("clip-*"):
        shutil.rmtree(folder)
    for number, (one, (file, comparison)) in enumerate(zip(chosen, made, strict=True), 1):
        folder = EXAMPLES / f"clip-{number}-{one.case.question_family}"
        folder.mkdir(parents=True)
        (folder / "clip.mp4").write_bytes(file)
        (folder / "session.json").write_text(comparison.to_json() + "\n")
        (folder / "case.json").write_text(case_json(one))


def session(vlm: VisionLanguageModel, one: Shown, budget: int) -> tuple[bytes, Comparison]:
    """The clip's file, and a chosen case run with the methods that are shown, timed as medians of 5.

    Raises RuntimeError when it answers otherwise than before.
    """
    case = one.case
    clip = clip_of(case.seed, case.size)
    file = file_of(clip)
    question = next(q for q in clip.questions if q.text == case.question)
    video = open_media(vlm, file)
    assert isinstance(video, Video)
    boxes, places = looked_at(question, video)
    comparison = tokviz.compare(
        vlm, video, case.question, one.methods, budget, repeats=5, max_new_tokens=8, expected=case.expected,
        evidence=boxes, evidence_frames=places,
    )  # fmt: skip
    if separate(comparison) != tuple(
        tuple(method for method in one.methods if case.outcomes[method].right is right) for right in (False, True)
    ):
        raise RuntimeError(f"Clip {case.seed} gives other answers when it is run again: they are not deterministic.")
    return file, comparison


def case_json(one: Shown) -> str:
    """What is written about a case."""
    case = one.case
    made = f"generate_clip({case.seed}, size={case.size}, frames={N_FRAMES})"
    record = case_record(one, KIND) | {
        "scene": {"seed": case.seed, "size": list(case.size), "frames": N_FRAMES},
        "source": f"{made}, found by scripts.build_clip_examples",
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
