"""Writes the model card and the accuracy table of the README, from evaluation.json and the training logs alone.

    python -m training.card

Logs of a finished training in `runs/` are first copied to `training/logs/`, with the machine they come from.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenes import COLORS, HELD_OUT_SEEDS, MAX_COUNT, SHAPES, SIGN_WORDS, TRAINING_SEEDS, UNSEEN_PAIRS
from scenes.lettering import FONT_FILES, TRAINING_FONTS, handwritten, handwritten_numbers
from training import evaluate, tables
from training import language as language_stage
from training import vision as vision_stage
from training.architecture import GRID, IMAGE_SIZE, PATCH, model_config, vocabulary
from training.language import COUNT_BLOCK, COUNTS, DENSE_SHARE, POINT_BLOCK, TEXT_LENGTH
from training.machine import describe_machine
from training.tables import flow, percent

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "assets" / "tokviz-tiny"
LOGS = ROOT / "training" / "logs"
COARSE_COMMIT = "78c0da6"
"""The commit with the coarse model that this one grew from, and its recipe."""
COARSE_TOKENS = 144
LOG_NAMES = ("vision.jsonl", "language.jsonl")
CHANGED_RECIPE = (
    "from then on with more questions about counts, crowded scenes among the ordinary ones, and counts as plain "
    "numbers (commit `4a7971f`); before, counting had risen slowest"
)
"""What was different when stage 2 of the shipped weights first went on; to be rewritten with the next ones."""
README_START, README_END = "<!-- accuracy: written by training/card.py -->", "<!-- end of accuracy -->"


@dataclass(frozen=True)
class Sitting:
    """What a training log tells.

    Its last step, pictures, minutes, the lines with validation accuracies, and the first steps that were logged after
    it had been stopped and went on from a checkpoint.
    """

    steps: int
    pictures: int
    minutes: float
    validations: list[dict[str, Any]]
    went_on: list[int]


def read_log(path: Path) -> Sitting:
    """Read one log.

    Raises:
        SystemExit: the log is missing or holds no validation, with a sentence on what to run.
    """
    if not path.exists():
        raise SystemExit(f"{path} is missing: train first (see training/README.md), or copy the log of the training.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    validations: list[dict[str, Any]] = []
    for line in reversed(
        lines
    ):  # steps behind the last checkpoint of a broken sitting were taken again: the later counts
        if any(key.startswith("val_") for key in line) and (not validations or line["step"] < validations[0]["step"]):
            validations.insert(0, line)
    if not validations:
        raise SystemExit(f"{path} holds no validation line: that training has not come far enough for a card.")
    last = lines[-1]
    pictures = max(line.get("pictures", 0) for line in lines)
    went_on = [b["step"] for a, b in itertools.pairwise(lines) if b["step"] < a["step"]]
    return Sitting(last["step"], pictures, last["seconds"] / 60, validations, went_on)


def collect(runs: Path, logs: Path) -> None:
    """Copy the logs of a training that ran here, and note the machine."""
    found = [name for name in LOG_NAMES if (runs / name).exists()]
    if found and len(found) < len(LOG_NAMES):
        raise SystemExit(f"{runs} holds only {found[0]}: finish the training first, or pass another --runs.")
    for name in found:
        shutil.copyfile(runs / name, logs / name)
    if found:
        (logs / "machine.txt").write_text(describe_machine() + "\n")


HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, visual-token-pruning, synthetic]
---

# tokviz-tiny

A LLaVA of {millions:.1f} million weights and {tokens} visual tokens, trained from nothing on drawn scenes, so that
visual-token pruning can be shown for real without a network connection or a GPU. Stock `LlavaForConditionalGeneration`
and `LlavaProcessor`.

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("assets/tokviz-tiny")
processor = AutoProcessor.from_pretrained("assets/tokviz-tiny")
prompt = "USER: <image>\\nwhat color is the star? ASSISTANT:"
inputs = processor(images=Image.open("scene.png"), text=prompt, return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```

## What it is, and what it is not

It answers five families of questions about the pictures of `scenes`: existence, attribute, counting, spatial,
reading. Its vocabulary has {words} words; every other word is `<unk>`. It has seen no photograph: its answers about one
mean nothing. It is a demonstrator whose evidence is known exactly. **Its numbers say nothing about 7B models**, and a
method that wins here need not win there."""


def accuracy_part(numbers: dict[str, Any]) -> str:
    """Held-out accuracy, targets, and how it was measured."""
    check, seconds = numbers["generation_check"], numbers["median_seconds_per_answer"]
    opening = f"""{numbers["scenes"]} scenes from seed {numbers["first_seed"]} on, {numbers["visual_tokens"]} visual
        tokens, in percent with 95% intervals (Wilson; questions count as independent):"""
    method = f""""Most frequent answer" is the best guess per kind of question without a picture, learnt on training
        scenes. Measured by `python -m training.evaluate` in {numbers["seconds"] / 60:.1f} minutes (`evaluation.json`
        has every number). On {check["questions"]} questions about pictures of {", ".join(check["picture_sizes"])}
        pixels the stock processor and `generate` were run one by one: {percent(check["agreement"])}% agree with the
        batched measurement. An answer takes {1000 * seconds["1"]:.0f} ms on one thread and {1000 * seconds["2"]:.0f} ms
        on two (medians, preprocessing included; {numbers["machine"]})."""
    return "\n\n".join([
        "## Accuracy on held-out scenes",
        flow(opening),
        tables.accuracy_table(numbers),
        flow(tables.targets_sentence(numbers)),
        flow(method),
        tables.kinds_table(numbers),
    ])  # fmt: skip


def slices_part(numbers: dict[str, Any]) -> str:
    """Accuracy where things are new, small, many, of another size, or few patches are left."""
    unseen = f"""Held-out scenes may show {len(UNSEEN_PAIRS)} colour-shape pairs, {len(FONT_FILES) - TRAINING_FONTS}
        fonts and handwriting that no training scene has:"""
    pruned = f"""{numbers["pruned_questions"]} questions about {numbers["pruned_scenes"]} of the same scenes; patches
        taken away before the language model, at random or so that evidence stays first (an oracle, which knows the
        boxes; questions without evidence get random patches):"""
    return "\n\n".join([
        "### What training never showed",
        flow(unseen),
        tables.unseen_table(numbers),
        "### By number of objects and height of the sign",
        tables.difficulty_table(numbers),
        "### Other picture sizes",
        tables.sizes_table(numbers),
        flow(tables.sizes_sentence(numbers)),
        "### With few visual tokens",
        flow(pruned),
        tables.pruned_table(numbers),
        flow(tables.positions_sentence(numbers)),
    ])  # fmt: skip


def stages(vision: Sitting, language: Sitting, coarse: list[Sitting], machine: str) -> list[str]:
    """What was done, one item per stage."""
    config, (*towers, decoder) = model_config(), coarse
    eyes, text = config.vision_config, config.text_config
    counts = ", ".join(str(count) for count in COUNTS[:-1]) + f" or {COUNTS[-1]}"
    return [
        f"""Data: scenes drawn on the fly from seeds in {TRAINING_SEEDS.start}..{TRAINING_SEEDS.stop - 1}; held-out
        seeds are {HELD_OUT_SEEDS.start}..{HELD_OUT_SEEDS.stop - 1}. The only outside data are handwritten digits
        (below); there are no outside weights.""",
        f"""Stage 0, start: a former model of this project with {COARSE_TOKENS} visual tokens, trained from nothing in
        two stages of {sum(tower.minutes for tower in towers):.0f} and {decoder.minutes:.0f} minutes (commit
        `{COARSE_COMMIT}` holds it with its recipe). Its patch kernel and position embeddings were interpolated to
        {GRID} x {GRID} patches of {PATCH} pixels.""",
        f"""Stage 1, vision tower (CLIP, {eyes.num_hidden_layers} blocks x {eyes.hidden_size}): {vision.steps} steps,
        {vision.pictures} pictures, {vision.minutes:.0f} minutes. Per patch it names shape, colour, size, text, centres,
        row and column.""",
        f"""Stage 2, projector and decoder (Llama, {text.num_hidden_layers} blocks x {text.hidden_size}), tower frozen:
        {language.steps} steps, {language.pictures} pictures with up to {TEXT_LENGTH} tokens of questions and answers
        each (scenes return up to twice, with other questions and other patches), {language.minutes:.0f} minutes. Muon
        and AdamW, float32. A batch sees {counts} patches, half of the sequences with closed-up positions. Behind
        decoder block {POINT_BLOCK} a noun must know where the thing it names lies, and behind block {COUNT_BLOCK} the
        word before a count must hold it as a plain number; {100 * DENSE_SHARE:.0f}% of the scenes are crowded.
        {history(language)}""",
        f"""Seeds {vision_stage.SEED} (stage 1), {language_stage.SEED} (stage 2), {evaluate.SEED} (evaluation). Machine:
        {machine}; it was shared with other programs. The schedule runs by the clock, so that another machine gives
        other weights. Stages 1 and 2 together took {vision.minutes + language.minutes:.0f} minutes.""",
        "Recipe: `training/` in this repository; logs in `training/logs/`.",
    ]


def history(language: Sitting) -> str:
    """How stage 2 was interrupted, if it was."""
    if not language.went_on:
        return "It ran in one sitting."
    first, *others = language.went_on
    more = f" It was stopped again at steps {', '.join(str(step) for step in others)}." if others else ""
    return f"It was stopped and went on from a checkpoint near step {first}, {CHANGED_RECIPE}.{more}"


def making_part(vision: Sitting, language: Sitting, coarse: list[Sitting], machine: str) -> str:
    """Data, stages, curves, and whose handwriting it is."""
    written, held = len(handwritten()[1]), sum(len(handwritten_numbers(digit, True)) for digit in range(10))
    digits = f"""Handwritten digits: {written} images of "Optical Recognition of Handwritten Digits" by E. Alpaydin and
        C. Kaynak, UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, licensed CC BY 4.0
        (https://creativecommons.org/licenses/by/4.0/), enlarged and tinted here; {held} of them are held out."""
    return "\n\n".join([
        "## How it was made",
        "\n".join(flow(stage, bullet=True) for stage in stages(vision, language, coarse, machine)),
        flow("""Validation accuracy of the vision tower over time, in percent (patches of objects, for text those of
        signs; "presence" counts colour-shape pairs):"""),
        tables.curve_table(vision.validations),
        "Validation accuracy of the decoder's answers over time, in percent:",
        tables.curve_table(language.validations),
        flow(digits),
    ])  # fmt: skip


def limits_part(numbers: dict[str, Any]) -> str:
    """What the model cannot do, and the disclosure about [CLS]."""
    disclosure = """[CLS] had a task of its own: to say from the pooled output which colour-shape pairs are in the
        picture. So its attention is likely to find objects better than that of a large model does (not measured for
        these weights), which flatters methods that rank patches by [CLS] attention. Without the task the last block
        would have no training signal at all, which would handicap them instead. Lines, dots, splashes and signs (which
        [CLS] need not report) are drawn as distractors."""
    limits = [
        tables.relation_sentence(numbers),
        f"""It knows {len(vocabulary())} words: {len(SHAPES)} shapes, {len(COLORS)} colours, {len(SIGN_WORDS)} sign
        words, digits; counts end at {MAX_COUNT}.""",
        f"""The processor scales the shorter edge to {IMAGE_SIZE} and crops the middle, as LLaVA-1.5 does: what lies
        outside is not seen.""",
        """It never says that a question makes no sense: it answers as if it did, or with nothing ("hello" gets an empty
        answer about some pictures).""",
    ]
    return "\n\n".join([
        "## [CLS] was trained to know the objects",
        flow(disclosure),
        "## Limits",
        "\n".join(flow(limit, bullet=True) for limit in limits),
    ])  # fmt: skip


def card(folder: Path = FOLDER, logs: Path = LOGS) -> str:
    """The whole card as Markdown."""
    numbers = read_numbers(folder)
    vision, language = (read_log(logs / name) for name in LOG_NAMES)
    coarse = [read_log(path) for path in (*sorted(logs.glob("coarse-vision-*.jsonl")), logs / "coarse-language.jsonl")]
    millions = (folder / "model.safetensors").stat().st_size / 4e6
    head = HEAD.format(millions=millions, words=len(vocabulary()), tokens=numbers["visual_tokens"])
    made = making_part(vision, language, coarse, (logs / "machine.txt").read_text().strip())
    return "\n\n".join([head, accuracy_part(numbers), slices_part(numbers), made, limits_part(numbers)]) + "\n"


def read_numbers(folder: Path) -> dict[str, Any]:
    """What `training.evaluate` measured."""
    numbers: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return numbers


def readme_section(numbers: dict[str, Any]) -> str:
    """The accuracy part of the README, between its markers."""
    sentences = flow(f"{tables.targets_sentence(numbers)} {tables.relation_sentence(numbers)}")
    return "\n".join([README_START, tables.short_table(numbers), "", sentences, README_END])


def with_section(readme: str, section: str) -> str:
    """The README with the section in place of what stands between the markers.

    Raises:
        ValueError: the markers are missing, doubled or in the wrong order.
    """
    before, start, rest = readme.partition(README_START)
    _, end, after = rest.partition(README_END)
    if not start or not end or README_START in rest or README_END in after:
        raise ValueError(f"expected one {README_START!r} and, behind it, one {README_END!r} in the README")
    return before + section + after


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "tiny", help="where the training wrote its logs")
    parser.add_argument("--logs", type=Path, default=LOGS, help="where logs are kept with the recipe")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    collect(options.runs, options.logs)
    (options.folder / "README.md").write_text(card(options.folder, options.logs))
    options.readme.write_text(with_section(options.readme.read_text(), readme_section(read_numbers(options.folder))))
    print(f"wrote {options.folder / 'README.md'} and the accuracy table of {options.readme}")


if __name__ == "__main__":
    main()
