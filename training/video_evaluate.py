"""Measures a saved video folder on held-out clips and writes the numbers as JSON.

    python -m training.video_evaluate

Every question is asked behind its own clip, behind the next one, behind a grey one, and behind the middle frame of its
own alone (what needs another moment, or an order, is then lost); a part of them with few visual tokens. One by one
through the stock processor and `generate` it is confirmed that the batched measurement says what a user would see.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaNextVideoForConditionalGeneration

from scenes import (
    CLIP_FAMILIES,
    HELD_OUT_SEEDS,
    TRAINING_SEEDS,
    UNSEEN_PAIRS,
    Clip,
    ClipQuestion,
    generate_clip,
)
from training import tally
from training.architecture import IMAGE_SIZE, pixel_values
from training.clip_prompts import FRAME_TOKENS, FRAMES, VIDEO_TOKENS
from training.machine import describe_machine
from training.tally import Answered
from training.video_scoring import ask_video, check_clip, load_video_folder, project_video

SEED = 4
BUDGETS = (576, 288, 144)
POSITIONS = ("original", "re-indexed")
SIZES = ((IMAGE_SIZE, IMAGE_SIZE), (448, IMAGE_SIZE), (320, 240))
"""Width and height of the frames that go through the stock processor."""
LEARN_FROM = 800
"""Training clips from which the blind guesser learns the most frequent answers."""
CONDITIONS = ("full", "shuffled", "grey", "middle")
TOGETHER = 60
"""Questions behind the grey clip in one pass."""
_MOMENTS = ((2, "1-2 frames"), (5, "3-5 frames"), (FRAMES, "6-8 frames"))


def named(keep: int, positions: str) -> str:
    """The condition of a pruned measurement: "288 re-indexed"."""
    return f"{keep} {positions}"


def groups_of(clip: Clip, question: ClipQuestion) -> tuple[str, ...]:
    """The slices of the report that a question belongs to: whether training knew the pair, and how long it can be seen.

    "1-2 frames" is the number of frames that hold evidence; questions that rest on absence belong to none of these.
    """
    groups = []
    pairs = tally.named_pairs(question.text)
    if pairs:
        groups.append("named pair: unseen" if pairs & UNSEEN_PAIRS else "named pair: seen")
    shown = sum(bool(boxes) for boxes in question.evidence)
    if shown:
        groups.append(next(f"evidence in {name}" for most, name in _MOMENTS if shown <= most))
    return tuple(groups)


@torch.no_grad()
def measure(
    model: LlavaNextVideoForConditionalGeneration, seeds: Iterable[int], per_family: int, pruned: int
) -> list[Answered]:
    """Every question under CONDITIONS; those of the first `pruned` clips also with few random tokens."""
    rows: list[Answered] = []
    shuffled: dict[tuple[int, str], bool] = {}
    grey = project_video(model, torch.zeros(FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE))
    middle = np.arange(FRAME_TOKENS) + FRAMES // 2 * FRAME_TOKENS
    clips = [generate_clip(seed, frames=FRAMES, questions_per_family=per_family) for seed in seeds]
    for number, clip in enumerate(clips):
        questions, following = clip.questions, clips[(number + 1) % len(clips)]
        features = project_video(model, pixel_values(clip.frames))
        # Behind this clip stand its own questions and those of the next one: for these it is the wrong clip.
        both = check_clip(model, features, [*questions, *following.questions])
        verdicts = {"full": both[: len(questions)]}
        verdicts["middle"] = check_clip(model, features, questions, middle)
        if number < pruned:
            verdicts.update(_few_tokens(model, features, questions, np.random.default_rng([SEED, clip.seed])))
        for i, question in enumerate(questions):
            right = {name: verdict[i] for name, verdict in verdicts.items()}
            rows.append(Answered(clip.seed, question, groups_of(clip, question), right))
        for question, good in zip(following.questions, both[len(questions) :], strict=True):
            shuffled[following.seed, question.text] = good
    for start in range(0, len(rows), TOGETHER):
        part = rows[start : start + TOGETHER]
        for row, good in zip(part, check_clip(model, grey, [row.question for row in part]), strict=True):
            row.right["grey"] = good
            row.right["shuffled"] = shuffled[row.seed, row.question.text]
    return rows


def _few_tokens(
    model: LlavaNextVideoForConditionalGeneration,
    features: Tensor,
    questions: tuple[ClipQuestion, ...],
    rng: np.random.Generator,
) -> dict[str, list[bool]]:
    verdicts = {}
    for keep in BUDGETS:
        visible = np.sort(rng.permutation(VIDEO_TOKENS)[:keep])
        for positions in POSITIONS:
            closed = positions == "re-indexed"
            verdicts[named(keep, positions)] = check_clip(model, features, questions, visible, closed)
    return verdicts


def learn(clips: int) -> dict[str, Counter[str]]:
    """How often each answer occurs for each kind of question in training clips."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in TRAINING_SEEDS[:clips]:
        for question in generate_clip(seed, (96, 96), FRAMES).questions:
            seen[tally.blind_kind(question)][question.answer] += 1
    return dict(seen)


def by_hand(folder: Path, clips: int) -> dict[str, Any]:
    """Ask one by one, by the chat template, the stock processor and `generate`, and compare with the batched way."""
    model, processor = load_video_folder(folder)
    asked = right = agree = 0
    took: list[float] = []
    for number in range(clips):
        clip = generate_clip(HELD_OUT_SEEDS[number], SIZES[number % len(SIZES)], FRAMES, questions_per_family=1)
        pixels = processor.video_processor([clip.frames], return_tensors="pt")["pixel_values_videos"][0]
        fast = check_clip(model, project_video(model, pixels), clip.questions)
        for question, good in zip(clip.questions, fast, strict=True):
            started = time.perf_counter()
            answer = ask_video(model, processor, clip.frames, question.text)
            took.append(time.perf_counter() - started)
            asked += 1
            right += answer == question.answer
            agree += (answer == question.answer) == good
    return {
        "questions": asked,
        "agreement": round(agree / asked, 4),
        "accuracy": round(right / asked, 4),
        "frame_sizes": [f"{width}x{height}" for width, height in SIZES[:clips]],
        "median_seconds_per_answer": round(float(np.median(took)), 3),
    }


def families(rows: list[Answered], condition: str) -> dict[str, dict[str, Any]]:
    """Accuracy, interval and number of questions per family of clips."""
    return {f: tally.share([row for row in rows if row.question.family == f], condition) for f in CLIP_FAMILIES}


def report(rows: list[Answered]) -> dict[str, Any]:
    """All accuracies."""
    pruned = [row for row in rows if named(BUDGETS[0], POSITIONS[0]) in row.right]
    conditions = ["full", *(named(keep, how) for keep in BUDGETS for how in POSITIONS)]
    return {
        "questions": len(rows),
        "accuracy": families(rows, "full"),
        "baselines": {name: families(rows, name) for name in ("blind", *CONDITIONS[1:])},
        "kinds": tally.grouped(rows, lambda row: [f"{row.question.family}: {tally.kind_of(row.question)}"]),
        "groups": tally.grouped(rows, lambda row: [f"{row.question.family}: {group}" for group in row.groups]),
        "pruned_questions": len(pruned),
        "pruned": {name: {**families(pruned, name), "all": tally.share(pruned, name)} for name in conditions},
    }


def evaluate(options: argparse.Namespace) -> tuple[dict[str, Any], list[Answered]]:
    """Everything the model card quotes, and the single answers."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    model, _ = load_video_folder(options.folder)
    rows = measure(model, HELD_OUT_SEEDS[: options.clips], options.questions_per_family, options.pruned_clips)
    known = learn(LEARN_FROM)
    for row in rows:
        guess = tally.most_frequent(known.get(tally.blind_kind(row.question), Counter()))
        row.right["blind"] = guess == row.question.answer
    result = {
        "clips": options.clips,
        "first_seed": HELD_OUT_SEEDS.start,
        "frames": FRAMES,
        "visual_tokens": VIDEO_TOKENS,
        **report(rows),
        "generation_check": by_hand(options.folder, options.generated_clips),
        "machine": describe_machine(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return result, rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("assets/tokviz-tiny-video"))
    parser.add_argument("--clips", type=int, default=80)
    parser.add_argument("--questions-per-family", type=int, default=4)
    parser.add_argument("--pruned-clips", type=int, default=24)
    parser.add_argument("--generated-clips", type=int, default=6, help="clips whose questions are asked one by one")
    parser.add_argument("--out", type=Path, default=None, help="default: evaluation.json in the folder")
    parser.add_argument("--answers", type=Path, default=None, help="also write here which answers were right")
    options = parser.parse_args()
    result, rows = evaluate(options)
    path = options.out or options.folder / "evaluation.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if options.answers:
        single = [
            {"seed": row.seed, "question": row.question.text, "answer": row.question.answer, "right": row.right}
            for row in rows
        ]
        options.answers.write_text(json.dumps(single, indent=1) + "\n")


if __name__ == "__main__":
    main()
