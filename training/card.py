"""Writes the model card from evaluation.json and the training logs.

python -m training.card --machine "2 virtual CPU cores (AMD EPYC, AVX2), no GPU"
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tokviz.scenes import FAMILIES, HELD_OUT_SEEDS, TRAINING_SEEDS
from training.architecture import vocabulary

HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, visual-token-pruning, synthetic]
---

# tokviz-tiny

A LLaVA of {millions:.1f} million weights, trained from nothing on drawn scenes, so that visual-token pruning can be
shown for real without a network connection or a GPU. Stock `LlavaForConditionalGeneration` and `LlavaProcessor`.

```python
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained("assets/tokviz-tiny")
processor = AutoProcessor.from_pretrained("assets/tokviz-tiny")
prompt = "USER: <image>\\nwhat color is the star? ASSISTANT:"
inputs = processor(images=Image.open("scene.png"), text=prompt, return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```

## What it is, and what it is not

It answers five families of questions about the pictures of `tokviz.scenes`: existence, attribute, counting, spatial,
reading. Its vocabulary has {words} words; every other word is `<unk>`. It has seen no photograph: its answers about one
mean nothing. It is a demonstrator whose evidence is known exactly. **Its numbers say nothing about 7B models**, and a
method that wins here need not win there.
"""

# What happened to the weights that ship, beyond what the recipe says; to be rewritten with the next ones.
VISION_HISTORY = """This checkpoint's tower was trained in two sittings: row and column were added as targets in the
  last minutes, when a probe showed that the features kept too little of where they are."""
LANGUAGE_HISTORY = """The decoder was trained in sittings as well: at step 1000 it went on with the
  finished tower; at step 1745, as spatial answers were still guesses, row and column became targets of the projected
  patches, place questions got their present large share, and the learning rates were raised by three quarters (Muon)
  and by a factor of two (AdamW). Cores were shared with other programs, so that minutes say little about speed."""


def percent(value: float) -> str:
    """0.9312 as "93.1"."""
    return f"{100 * value:.1f}"


def accuracy_table(numbers: dict[str, Any]) -> str:
    """Families as rows; the model beside what needs no picture or sees the wrong one."""
    columns = (
        ("accuracy", "model"),
        ("blind_majority", "most frequent answer"),
        ("grey_picture", "grey picture"),
        ("shuffled_picture", "another scene's picture"),
    )
    lines = ["| family | questions | " + " | ".join(title for _, title in columns) + " |", "|---" * 6 + "|"]
    for family in FAMILIES:
        cells = " | ".join(percent(numbers[key][family]) for key, _ in columns)
        lines.append(f"| {family} | {numbers['questions'][family]} | {cells} |")
    return "\n".join(lines)


def kinds_table(numbers: dict[str, Any]) -> str:
    """Every kind of question."""
    rows = [f"| {kind} | {v['n']} | {percent(v['accuracy'])} |" for kind, v in numbers["kinds"].items() if v["n"] >= 20]
    return "\n".join(["| kind of question | questions | % right |", "|---|---|---|", *rows])


def pruned_table(numbers: dict[str, Any]) -> str:
    """What few patches leave of it."""
    head = "| kept | selection | positions | " + " | ".join(FAMILIES) + " |"
    lines = [head, "|---" * (3 + len(FAMILIES)) + "|"]
    whole = " | ".join(percent(numbers["accuracy"][family]) for family in FAMILIES)
    lines.append(f"| {numbers['visual_tokens']} | all | - | {whole} |")
    for row in numbers["pruned"]:
        cells = " | ".join(percent(row["accuracy"][family]) for family in FAMILIES)
        lines.append(f"| {row['kept']} | {row['selection']} | {row['positions']} | {cells} |")
    return "\n".join(lines)


def totals(logs: list[Path]) -> dict[str, Any]:
    """Steps, pictures and minutes of one or several sittings, and the last validation."""
    lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    return {
        "steps": sum(sitting[-1]["step"] for sitting in lines),
        "pictures": sum(max(line.get("pictures", 0) for line in sitting) for sitting in lines),
        "minutes": sum(sitting[-1]["seconds"] for sitting in lines) / 60,
        "last": lines[-1][-1],
    }


def heads_line(last: dict[str, Any]) -> str:
    """Validation accuracies of the tower's heads in words."""
    named = {key.removeprefix("val_"): value for key, value in last.items() if key.startswith("val_")}
    return ", ".join(f"{name} {percent(value)}%" for name, value in named.items())


def card(folder: Path, vision_logs: list[Path], language_logs: list[Path], machine: str) -> str:
    """The whole card as Markdown."""
    numbers = json.loads((folder / "evaluation.json").read_text())
    vision, language = totals(vision_logs), totals(language_logs)
    millions = (folder / "model.safetensors").stat().st_size / 4e6
    relation = numbers["kinds"]["spatial: is the * beside the *"]["accuracy"]
    place = numbers["kinds"]["spatial: where is the *"]["accuracy"]
    check, tokens = numbers["generation_check"], numbers["visual_tokens"]
    return f"""{HEAD.format(millions=millions, words=len(vocabulary()))}
## Accuracy on held-out scenes

{numbers["scenes"]} scenes from seed {numbers["first_seed"]} on, {tokens} visual tokens, in percent:

{accuracy_table(numbers)}

"Most frequent answer" is the best guess per kind of question without a picture, learnt on training scenes. Measured by
`python -m training.evaluate` (`evaluation.json` has every number). On {check["questions"]} of these questions the stock
processor and `generate` were run one by one: {percent(check["agreement"])}% agree with the batched measurement.

{kinds_table(numbers)}

### With few visual tokens

{numbers["pruned_scenes"]} of the same scenes; patches taken away before the language model, at random or so that those
with the most evidence stay (an oracle, which knows the boxes; questions without evidence get random patches):

{pruned_table(numbers)}

## How it was made

- Data: scenes drawn on the fly from seeds in {TRAINING_SEEDS.start}..{TRAINING_SEEDS.stop - 1}; held-out seeds are
  {HELD_OUT_SEEDS.start}..{HELD_OUT_SEEDS.stop - 1}. No outside data, no outside weights.
- Stage 1, vision tower (CLIP, 6 blocks x 192): {vision["steps"]} steps, {vision["pictures"]} pictures,
  {vision["minutes"]:.0f} minutes. Per patch it names shape, colour, size, text, centres, row and column; accuracy on
  validation scenes: {heads_line(vision["last"])}. {VISION_HISTORY}
- Stage 2, projector and decoder (Llama, 8 blocks x 160), tower frozen: {language["steps"]} steps,
  {language["pictures"]} pictures with about 12 questions each (every scene about three times, with other questions and
  other patches), {language["minutes"]:.0f} minutes. Muon and AdamW, float32. Patches dropped at random, half of the
  sequences with closed-up positions. {LANGUAGE_HISTORY}
- Seeds 1 (stage 1), 2 (stage 2), 3 (evaluation). Machine: {machine}. The schedule runs by the clock, so that another
  machine gives other weights.
- Recipe: `training/` in this repository.

## [CLS] was trained to know the objects

[CLS] had a task of its own: to say from the pooled output which colour-shape pairs are in the picture. So its attention
is likely to find objects better than that of a large model does (not measured for these weights), which flatters
methods that rank patches by [CLS] attention. Without the task the last block would have no training signal at all,
which would handicap them instead.
Lines, dots and signs (which [CLS] need not report) are drawn as distractors.

## Limits

- "Is the red star left of the blue circle?" is answered by chance ({percent(relation)}%, with yes and no equally
  frequent): what it has of spatial sense are "where is ...?" questions ({percent(place)}%).
- It knows {len(vocabulary())} words, six shapes, eight colours, sixteen sign words, and digits; counts end at nine.
- The processor scales the shorter edge to 192 and crops the middle, as LLaVA-1.5 does: what lies outside is not seen.
- Patches are 16 x 16 pixels of a 192 x 192 picture: {tokens} tokens, not the 576 of LLaVA-1.5.
- It always answers, also where a question makes no sense.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("assets/tokviz-tiny"))
    parser.add_argument("--vision-logs", type=Path, nargs="+", default=[Path("runs/tiny/vision.jsonl")])
    parser.add_argument("--language-logs", type=Path, nargs="+", default=[Path("runs/tiny/language.jsonl")])
    parser.add_argument("--machine", default="2 virtual CPU cores (AMD EPYC, AVX2), shared with other programs, no GPU")
    options = parser.parse_args()
    text = card(options.folder, options.vision_logs, options.language_logs, options.machine)
    (options.folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
