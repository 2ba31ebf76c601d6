"""Measures a saved folder on held-out scenes and writes the numbers as JSON.

    python -m training.evaluate

Two one-thread processes share the scenes. Every question is asked behind its own picture, behind the next scene's and
behind a grey one; a part of them with few patches; `by_hand` confirms, through the stock processor and `generate`, that
the batched measurement says what a user would see.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scenes import FAMILIES, HELD_OUT_SEEDS, TRAINING_SEEDS, Scene, generate_scene
from training import tally
from training.architecture import IMAGE_SIZE, pixel_values
from training.machine import describe_machine
from training.scoring import PATCHES, ask, check, choose, load_folder, project
from training.tally import Answered

SEED = 3
BUDGETS = (192, 64, 32)
SELECTIONS = ("random", "evidence")
POSITIONS = ("original", "re-indexed")
SIZES = ((IMAGE_SIZE, IMAGE_SIZE), (448, IMAGE_SIZE), (252, IMAGE_SIZE))
"""Width and height of the pictures that go through the stock processor."""
CHUNK = 8
"""Scenes per pass; at two questions a family this stays below 1.5 GB a process."""
LEARN_FROM = 1600
"""Training scenes from which the blind guesser learns the most frequent answers."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Chunk:
    """Consecutive held-out seeds, and what is to be measured on them."""

    folder: Path
    first: int
    count: int
    per_family: int
    pruned: bool = False

    def scenes(self, size: tuple[int, int] = SIZES[0]) -> list[Scene]:
        """The scenes with their questions."""
        seeds = range(self.first, self.first + self.count)
        return [generate_scene(seed, size, questions_per_family=self.per_family) for seed in seeds]


@dataclass
class ByHand:
    """How often the stock way, one question at a time, agrees with the batched measurement."""

    asked: int = 0
    right: int = 0
    agree: int = 0
    shapes: set[str] = field(default_factory=set)


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> Any:
    """Model and processor, once per process."""
    return load_folder(folder)


def named(keep: int, selection: str, positions: str) -> str:
    """The condition of a pruned measurement: "64 random original"."""
    return f"{keep} {selection} {positions}"


def sized(size: tuple[int, int]) -> str:
    """The condition of a picture size: "448x336"."""
    return f"{size[0]}x{size[1]}"


@torch.no_grad()
def measure(chunk: Chunk) -> list[Answered]:
    """Every question of the chunk with all patches (right, wrong and grey picture), and with few where asked for."""
    model, _ = _loaded(chunk.folder)
    scenes = chunk.scenes()
    features = project(model, pixel_values(np.stack([scene.image for scene in scenes])))
    grey = project(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    every = np.broadcast_to(np.arange(PATCHES), (len(scenes), PATCHES))
    questions = [scene.questions for scene in scenes]
    # Behind picture i stand its own questions and those of scene i + 1: for these it is the wrong picture.
    mixed = [own + other for own, other in zip(questions, questions[1:] + questions[:1], strict=True)]
    verdicts = check(model, features, every, mixed)
    blank = iter(check(model, grey, every[:1], [[question for row in questions for question in row]])[0])
    rows: list[Answered] = []
    for i, scene in enumerate(scenes):
        wrong = verdicts[i - 1][len(questions[i - 1]) :]
        for question, full, shuffled in zip(scene.questions, verdicts[i], wrong, strict=False):
            right = {"full": full, "shuffled": shuffled, "grey": next(blank)}
            rows.append(Answered(scene.seed, question, tally.groups_of(scene, question), right))
    if chunk.pruned:
        owner = [i for i, scene in enumerate(scenes) for _ in scene.questions]
        _measure_pruned(model, features, rows, owner, np.random.default_rng([SEED, chunk.first]))
    return rows


def _measure_pruned(
    model: Any, features: Tensor, rows: list[Answered], owner: list[int], rng: np.random.Generator
) -> None:
    """Write into `rows` whether the answers hold with few patches, with original and with closed-up positions.

    Random patches are drawn once per scene, evidence is chosen per question.

    Shape:
        features: (B, N, D); owner: for every row the number of its scene in the chunk.
    """
    for keep in BUDGETS:
        drawn = np.stack([choose(None, keep, rng) for _ in range(len(features))])
        together = [
            [row.question for row, i in zip(rows, owner, strict=True) if i == scene] for scene in range(len(drawn))
        ]
        chosen = np.stack([choose(row.question, keep, rng) for row in rows])
        seen = {
            "random": (torch.arange(len(features)), drawn, together),
            "evidence": (torch.tensor(owner), chosen, [[row.question] for row in rows]),
        }
        for selection, (pictures, visible, asked) in seen.items():
            shown = features[pictures[:, None], torch.from_numpy(visible)]
            for positions in POSITIONS:
                answers = check(model, shown, visible, asked, positions == "re-indexed")
                flat = [good for row in answers for good in row]
                for row, good in zip(rows, flat, strict=True):
                    row.right[named(keep, selection, positions)] = good


@torch.no_grad()
def measure_sizes(chunk: Chunk) -> list[Answered]:
    """The same scenes drawn at several sizes, each through the stock image processor."""
    model, processor = _loaded(chunk.folder)
    every = np.broadcast_to(np.arange(PATCHES), (chunk.count, PATCHES))
    rows: dict[tuple[int, str], Answered] = {}
    for size in SIZES:
        scenes = chunk.scenes(size)
        pixels = processor.image_processor([scene.image for scene in scenes], return_tensors="pt")["pixel_values"]
        verdicts = check(model, project(model, pixels), every, [scene.questions for scene in scenes])
        for scene, verdict in zip(scenes, verdicts, strict=True):
            for question, good in zip(scene.questions, verdict, strict=True):
                fresh = Answered(scene.seed, question, (), {})
                rows.setdefault((scene.seed, question.text), fresh).right[sized(size)] = good
    return [row for row in rows.values() if len(row.right) == len(SIZES)]


@torch.no_grad()
def by_hand(chunk: Chunk) -> ByHand:
    """Ask one by one, by the chat template, the stock processor and `generate`, and compare."""
    model, processor = _loaded(chunk.folder)
    result = ByHand()
    for number in range(chunk.count):
        size = SIZES[(chunk.first + number) % len(SIZES)]
        scene = generate_scene(chunk.first + number, size, questions_per_family=chunk.per_family)
        picture = Image.fromarray(scene.image)
        pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
        fast = check(model, project(model, pixels), np.arange(PATCHES)[None], [scene.questions])[0]
        for question, good in zip(scene.questions, fast, strict=True):
            answer = ask(model, processor, picture, question.text)
            result.asked += 1
            result.right += answer == question.answer
            result.agree += (answer == question.answer) == good
        result.shapes.add(sized(size))
    return result


def learn(first: int, count: int) -> dict[str, Counter[str]]:
    """How often each answer occurs for each kind of question in training scenes."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(first, first + count):
        for question in generate_scene(TRAINING_SEEDS[number]).questions:
            seen[tally.blind_kind(question)][question.answer] += 1
    return dict(seen)


@torch.no_grad()
def seconds_per_answer(folder: Path, threads: int, scenes: int = 6) -> float:
    """Median seconds of one answer through `generate` on `threads` threads, the first scene as warm-up."""
    torch.set_num_threads(threads)
    model, processor = _loaded(folder)
    took: list[float] = []
    for number in range(scenes):
        scene = generate_scene(HELD_OUT_SEEDS[number], questions_per_family=1)
        for question in scene.questions:
            started = time.perf_counter()
            ask(model, processor, Image.fromarray(scene.image), question.text)
            took.append(time.perf_counter() - started if number else float("nan"))
    return round(float(np.nanmedian(took)), 4)


def _one_thread() -> None:
    torch.set_num_threads(1)


class Workers:
    """Runs pieces of work in one-thread processes (in this one for `processes` = 1) and says how far it is."""

    def __init__(self, processes: int) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        _one_thread()
        self.pool = None
        if processes > 1:
            self.pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread)

    def run(self, name: str, work: Callable[..., Result], *pieces: list[Any]) -> list[Result]:
        """The results in the order of the pieces."""
        started = time.perf_counter()
        results: Iterator[Result] = self.pool.map(work, *pieces) if self.pool else map(work, *pieces)
        done: list[Result] = []
        for result in results:
            done.append(result)
            print(f"\r{name}: {len(done)} of {len(pieces[0])}", end="", file=sys.stderr, flush=True)
        print(f", {time.perf_counter() - started:.0f} s", file=sys.stderr)
        return done

    def close(self) -> None:
        """End the processes."""
        if self.pool:
            self.pool.shutdown()


def _chunks(folder: Path, scenes: int, per_family: int, pruned_scenes: int = 0, size: int = CHUNK) -> list[Chunk]:
    """`scenes` held-out scenes in chunks; those among the first `pruned_scenes` are measured with few patches too."""
    starts = range(0, scenes, size)
    return [
        Chunk(folder, HELD_OUT_SEEDS[start], min(size, scenes - start), per_family, start < pruned_scenes)
        for start in starts
    ]


def _few_patches(rows: list[Answered]) -> dict[str, Any]:
    """Accuracies with few patches, and what closing up the positions changes on the same questions."""
    pruned = [row for row in rows if named(BUDGETS[0], SELECTIONS[0], POSITIONS[0]) in row.right]
    conditions = [(keep, how, where) for keep in BUDGETS for how in SELECTIONS for where in POSITIONS]
    changes = [
        {"kept": keep, "selection": how,
         **tally.paired_difference(pruned, *(named(keep, how, where) for where in POSITIONS))}
        for keep in BUDGETS for how in SELECTIONS
    ]  # fmt: skip
    return {
        "pruned_scenes": len({row.seed for row in pruned}),
        "pruned_questions": len(pruned),
        "pruned_full": tally.accuracies(pruned),
        "pruned": [
            {"kept": keep, "selection": how, "positions": where,
             "accuracy": tally.accuracies(pruned, named(keep, how, where)),
             "all": tally.share(pruned, named(keep, how, where))}
            for keep, how, where in conditions
        ],
        "re_indexed_minus_original": changes,
    }  # fmt: skip


def _sizes(rows: list[Answered]) -> dict[str, Any]:
    """Accuracies at every picture size on the same questions, and what leaving the square changes."""
    square, *others = [sized(size) for size in SIZES]
    return {
        "scenes": len({row.seed for row in rows}),
        "sizes": {
            name: {"all": tally.share(rows, name), "accuracy": tally.accuracies(rows, name)}
            for name in (square, *others)
        },
        "minus_square": {name: tally.paired_difference(rows, square, name) for name in others},
    }


def _report(rows: list[Answered]) -> dict[str, Any]:
    """Accuracies of the whole prompt, its baselines and its slices."""
    families = tally.by_family(rows)
    return {
        "questions": {family: families[family]["n"] for family in FAMILIES},
        "accuracy": {family: families[family]["accuracy"] for family in FAMILIES},
        "interval": {family: [families[family]["low"], families[family]["high"]] for family in FAMILIES},
        "blind_majority": tally.accuracies(rows, "blind"),
        "grey_picture": tally.accuracies(rows, "grey"),
        "shuffled_picture": tally.accuracies(rows, "shuffled"),
        "kinds": tally.grouped(rows, lambda row: [f"{row.question.family}: {tally.kind_of(row.question)}"]),
        "groups": tally.grouped(rows, lambda row: [f"{row.question.family}: {group}" for group in row.groups]),
    }


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Everything the model card quotes."""
    started, folder = time.perf_counter(), options.folder
    workers = Workers(options.processes)
    chunks = _chunks(folder, options.scenes, options.questions_per_family, options.pruned_scenes)
    rows = [row for part in workers.run("questions", measure, chunks) for row in part]
    sizes = _chunks(folder, options.size_scenes, options.questions_per_family)
    other = [row for part in workers.run("picture sizes", measure_sizes, sizes) for row in part]
    hand = workers.run("one by one", by_hand, _chunks(folder, options.generated_scenes, 1, size=3))
    starts = list(range(0, LEARN_FROM, 100))
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for part in workers.run("blind guesses", learn, starts, [100] * len(starts)):
        for kind, counts in part.items():
            known[kind].update(counts)
    workers.close()
    for row in rows:
        row.right["blind"] = tally.most_frequent(known[tally.blind_kind(row.question)]) == row.question.answer
    asked = sum(part.asked for part in hand)
    result = {
        "scenes": options.scenes,
        "first_seed": HELD_OUT_SEEDS.start,
        "visual_tokens": PATCHES,
        **_report(rows),
        **_few_patches(rows),
        "picture_sizes": _sizes(other),
        "generation_check": {
            "questions": asked,
            "agreement": sum(part.agree for part in hand) / asked,
            "accuracy": sum(part.right for part in hand) / asked,
            "picture_sizes": sorted(set().union(*(part.shapes for part in hand))),
        },
        "median_seconds_per_answer": {str(n): seconds_per_answer(folder, n) for n in (1, 2)},
        "machine": describe_machine(),
    }
    return {**result, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("assets/tokviz-tiny"))
    parser.add_argument("--scenes", type=int, default=1200)
    parser.add_argument("--questions-per-family", type=int, default=2)
    parser.add_argument("--pruned-scenes", type=int, default=320)
    parser.add_argument("--size-scenes", type=int, default=80, help="scenes drawn at every picture size")
    parser.add_argument("--generated-scenes", type=int, default=36, help="scenes whose questions are asked one by one")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="default: evaluation.json in the folder")
    options = parser.parse_args()
    if options.scenes % CHUNK == 1 or min(options.scenes, options.size_scenes, options.generated_scenes) < 2:
        parser.error(f"expected at least two scenes in every chunk of {CHUNK}: the wrong picture is the next scene's")
    result = evaluate(options)
    path = options.out or options.folder / "evaluation.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
