"""Writes the model card of the video model, from its evaluation.json and its training log alone.

    python -m training.video_card

The log of a finished training in `runs/` is first copied to `training/logs/`, with the machine it comes from.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from scenes import CLIP_FAMILIES, COLORS, MAX_COUNT, SHAPES, SIGN_WORDS
from training import tables
from training.architecture import IMAGE_SIZE
from training.card import LOGS, ROOT, Sitting, read_log
from training.clip_prompts import CELLS, FRAME_TOKENS, FRAMES, VIDEO_TOKENS, WORDS
from training.machine import describe_machine
from training.tables import flow, interval, markdown, percent
from training.tally import wilson
from training.video import BATCHES, USES

FOLDER = ROOT / "assets" / "tokviz-tiny-video"
LOG = "video.jsonl"
MACHINE = "video-machine.txt"
TARGETS = {"existence": 0.85, "attribute": 0.85, "motion": 0.75, "order": 0.75}
"""Accuracy that the model was meant to exceed; counting and reading were only to be clearly above guessing."""
CHANGED_RECIPE = (
    "from then on with more questions about motion, and with a loss for the side to which a thing gets; before, order "
    "was learnt, but the direction of a motion had stayed a guess"
)
"""What was different when the training of the shipped weights first went on; to be rewritten with the next ones."""
BASELINES = (
    ("blind", "most frequent answer"),
    ("grey", "grey clip"),
    ("shuffled", "another clip"),
    ("middle", "its middle frame alone"),
)
HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags: [llava, video, visual-token-pruning, synthetic]
---

# tokviz-tiny-video

A LLaVA-NeXT-Video of {millions:.1f} million weights that answers questions about short drawn clips, so that pruning the
visual tokens of a video can be shown for real without a network connection or a GPU. {frames} frames of {size} x {size}
pixels become {frames} x {cells} x {cells} = {tokens} visual tokens. Stock `LlavaNextVideoForConditionalGeneration` and
`LlavaNextVideoProcessor`.

```python
from scenes import generate_clip
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("assets/tokviz-tiny-video")
processor = AutoProcessor.from_pretrained("assets/tokviz-tiny-video")
frames = generate_clip(200_000_000).frames  # (8, 336, 336, 3) uint8 RGB; no video decoder is needed
prompt = "USER: <video>\\nis the red star there before the blue circle? ASSISTANT:"
inputs = processor(videos=[frames], text=prompt, return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

The processor takes the frames as they are (`do_sample_frames` is off): choose {frames} of them, evenly spaced.

## What it is, and what it is not

It answers six families of questions about the clips of `scenes.moving`: existence, attribute, counting and
reading (each "at any time"), motion, order. Its vocabulary has {words} words; every other word is `<unk>`. It has seen
no photograph and no filmed video: its answers about one mean nothing. It is a demonstrator whose evidence is known
exactly, frame by frame. **Its numbers say nothing about 7B models**, and a method that wins here need not win there."""


def accuracy_table(numbers: dict[str, Any]) -> str:
    """Families as rows; the model beside what sees no clip, the wrong one, or a single frame."""
    head = ["family", "questions", "model", *(title for _, title in BASELINES)]
    rows = [
        [family, str(numbers["accuracy"][family]["n"]), interval(numbers["accuracy"][family]),
         *(percent(numbers["baselines"][key][family]["accuracy"]) for key, _ in BASELINES)]
        for family in CLIP_FAMILIES
    ]  # fmt: skip
    return markdown(head, rows)


def targets_sentence(numbers: dict[str, Any]) -> str:
    """Which targets were met, and which families are clearly better than without the clip."""
    reached = {family: numbers["accuracy"][family]["accuracy"] for family in CLIP_FAMILIES}
    met = [f"{family} ({percent(goal)}%)" for family, goal in TARGETS.items() if reached[family] >= goal]
    missed = [
        f"{family} by {100 * (goal - reached[family]):.1f} points ({percent(goal)}% wanted)"
        for family, goal in TARGETS.items()
        if reached[family] < goal
    ]
    blind = [family for family in CLIP_FAMILIES if not _beats_blind(numbers, family)]
    verdict = "Every family's interval lies above all answers given without the clip (the first three baselines)."
    if blind:
        verdict = f"Not clearly better than without the clip: {', '.join(blind)}."
    return " ".join([
        f"Targets met: {', '.join(met) or 'none'}.",
        *([f"Targets missed: {', '.join(missed)}."] if missed else []),
        verdict,
    ])  # fmt: skip


def _beats_blind(numbers: dict[str, Any], family: str) -> bool:
    low: float = numbers["accuracy"][family]["low"]
    return low > max(numbers["baselines"][key][family]["accuracy"] for key in ("blind", "grey", "shuffled"))


def pruned_table(numbers: dict[str, Any]) -> str:
    """What few random tokens leave of it."""
    rows = []
    for name, entry in numbers["pruned"].items():
        keep, positions = (str(VIDEO_TOKENS), "-") if name == "full" else name.split()
        rows.append([keep, positions, *(percent(entry[f]["accuracy"]) for f in CLIP_FAMILIES), interval(entry["all"])])
    return markdown(["kept", "positions", *CLIP_FAMILIES, "all"], rows)


def slices_table(numbers: dict[str, Any], part: str) -> str:
    """Kinds of questions, or groups, with at least `tables.LEAST_ASKED` questions."""
    rows = [
        [*key.split(": ", 1), str(entry["n"]), interval(entry)]
        for key, entry in numbers[part].items()
        if entry["n"] >= tables.LEAST_ASKED
    ]
    return markdown(["family", "", "questions", "% right"], rows)


def accuracy_part(numbers: dict[str, Any]) -> str:
    """Held-out accuracy, what few tokens leave of it, and how it was measured."""
    check = numbers["generation_check"]
    opening = f"""{numbers["clips"]} clips from seed {numbers["first_seed"]} on, {numbers["questions"]} questions, all
        {numbers["visual_tokens"]} visual tokens, in percent with 95% intervals (Wilson; questions count as
        independent):"""
    method = f""""Most frequent answer" is the best guess per kind of question without a clip, learnt on training clips.
        Measured by `python -m training.video_evaluate` in {numbers["seconds"] / 60:.1f} minutes (`evaluation.json` has
        every number). On {check["questions"]} questions about frames of {", ".join(check["frame_sizes"])} pixels the
        stock processor and `generate` were run one by one: {percent(check["agreement"])}% agree with the batched
        measurement. An answer took {check["median_seconds_per_answer"]:.1f} s on one thread of a busy machine (median,
        preprocessing included; {numbers["machine"]})."""
    pruned = f"""With few tokens, kept at random over all frames ({numbers["pruned_questions"]} of the questions; a
        moment that shows in few tokens is then easily lost, which is what better methods are for):"""
    return "\n\n".join([
        "## Accuracy on held-out clips",
        flow(opening),
        accuracy_table(numbers),
        flow(f"{targets_sentence(numbers)} {direction_sentence(numbers)}"),
        flow(method),
        flow(pruned),
        pruned_table(numbers),
        "By kind of question:",
        slices_table(numbers, "kinds"),
        "By the number of frames that show the evidence, and by whether training ever named the pair:",
        slices_table(numbers, "groups"),
    ])  # fmt: skip


def clips_seen(lines: list[dict[str, Any]]) -> int:
    """Clips of all batches; the count in the log begins anew with every sitting."""
    counts = [line["clips"] for line in lines if "clips" in line]
    return counts[-1] + sum(a for a, b in itertools.pairwise(counts) if b < a)


def history(sitting: Sitting) -> str:
    """How the training was interrupted, if it was."""
    if not sitting.went_on:
        return "It ran in one sitting."
    first, *others = sitting.went_on
    more = f" It was stopped again at steps {', '.join(str(step) for step in others)}." if others else ""
    return f"It was stopped and went on from a checkpoint near step {first}, {CHANGED_RECIPE}.{more}"


def making_part(log: Path, machine: str) -> str:
    """Data, stage, curve."""
    sitting = read_log(log)
    clips = clips_seen([json.loads(line) for line in log.read_text().splitlines()])
    sizes = ", ".join(f"{count} ({batch} clips a batch)" for count, batch in BATCHES.items())
    stages = [
        """Tower: that of tokviz-tiny, unchanged (it knows drawn things, and has learnt from pictures only).""",
        f"""Projector and decoder: those of tokviz-tiny, trained for {sitting.minutes:.0f} minutes and {sitting.steps}
        steps with {clips} clips (most of them used {USES} times, half of those backwards) and about 15 questions behind
        each. One process on {machine}, which other programs used too. {history(sitting)}""",
        f"""Visual tokens seen: {sizes}; what falls out is random, empty ground first. About a third of the sequences
        close the gaps in their positions.""",
        """Besides the answers, visual tokens had to know their frame and where the thing that they show has come from,
        nouns when and where the thing they name is first and last seen, whether it moves and to which side, and
        counting questions the count as a plain number. What read this out was thrown away.""",
    ]
    return "\n\n".join([
        "## How it was made",
        "\n".join(flow(stage, bullet=True) for stage in stages),
        "Validation accuracy over time, in percent:",
        tables.curve_table(sitting.validations),
    ])  # fmt: skip


def direction_sentence(numbers: dict[str, Any]) -> str:
    """Whether the direction of a motion is understood, from the interval of all four directions together."""
    entries = [entry for kind, entry in numbers["kinds"].items() if "move to the" in kind]
    asked = sum(entry["n"] for entry in entries)
    right = sum(round(entry["accuracy"] * entry["n"]) for entry in entries)
    low, high = wilson(right, asked)
    verdict = "is answered" if low > 0.5 else "is not answered better than by chance"
    entry = {"accuracy": right / asked, "low": low, "high": high}
    return (
        f'"Does the red star move to the left?" {verdict}: {interval(entry)}% right of {asked}, where guessing gives '
        f'50%. "Does the red star move?" has {interval(numbers["kinds"]["motion: does the * move"])}%.'
    )


def limits_part(numbers: dict[str, Any]) -> str:
    """What the model cannot do."""
    limits = [
        direction_sentence(numbers),
        f"""It knows {len(WORDS)} words: {len(SHAPES)} shapes, {len(COLORS)} colours, {len(SIGN_WORDS)} sign words,
        digits; counts end at {MAX_COUNT}.""",
        f"""It was trained on {FRAMES} frames only; with more or fewer of them, what it says is not known. Nothing in a
        visual token says which frame it is from but its position ({FRAME_TOKENS} a frame).""",
        """It takes pictures too, as the stock classes do, but was never trained on them, and its newline embedding is
        zero: use tokviz-tiny for pictures.""",
        f"""The processor scales the shorter edge to {IMAGE_SIZE} and crops the middle: what lies outside is not
        seen.""",
        "[CLS] of the tower was trained to know the objects, as the card of tokviz-tiny says.",
        "It never says that a question makes no sense: it answers as if it did, or with nothing.",
    ]
    return "\n\n".join(["## Limits", "\n".join(flow(limit, bullet=True) for limit in limits)])


def card(folder: Path = FOLDER, logs: Path = LOGS) -> str:
    """The whole card as Markdown."""
    numbers: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    millions = (folder / "model.safetensors").stat().st_size / 2e6
    head = HEAD.format(
        millions=millions, words=len(WORDS), frames=FRAMES, size=IMAGE_SIZE, cells=CELLS, tokens=VIDEO_TOKENS
    )
    made = making_part(logs / LOG, (logs / MACHINE).read_text().strip())
    return "\n\n".join([head, accuracy_part(numbers), made, limits_part(numbers)]) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "tiny-video", help="where the log was written")
    parser.add_argument("--logs", type=Path, default=LOGS, help="where logs are kept with the recipe")
    options = parser.parse_args()
    if (options.runs / LOG).exists():
        shutil.copyfile(options.runs / LOG, options.logs / LOG)
        (options.logs / MACHINE).write_text(describe_machine() + "\n")
    (options.folder / "README.md").write_text(card(options.folder, options.logs))
    print(f"wrote {options.folder / 'README.md'}")


if __name__ == "__main__":
    main()
