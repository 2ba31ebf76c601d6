"""Measures a saved folder on held-out scenes and writes the numbers as JSON.

    python -m training.evaluate --scenes 1200

An answer counts when every word of it, and the end, is the model's first choice given the words before: that is exactly
when greedy generation gives this answer. Many questions then share one pass; `generation_check` confirms on a sample,
through the stock processor and `generate`, that both ways agree.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from tokviz.scenes import COLORS, FAMILIES, HELD_OUT_SEEDS, SHAPES, SIZES, TRAINING_SEEDS, Scene, generate_scene
from tokviz.scenes.types import Box, SceneQuestion
from training.architecture import GRID, IMAGE_SIZE, PATCH, pixel_values
from training.language import positions_and_mask
from training.prompts import PREFIX, Block, pack, prefix_tokens, question_block

SEED = 3
BUDGETS = (36, 16)
PATCHES = GRID * GRID
CHUNK = 20
"""Scenes per pass."""


@dataclass(frozen=True)
class Row:
    """One question with what the model sees of its picture. features: (V, D) projected; visible: (V,) int64."""

    question: SceneQuestion
    features: Tensor
    visible: NDArray[np.int64]


class Tally:
    """Right and asked questions per family and per kind of question."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def add(self, question: SceneQuestion, right: bool) -> None:
        """Count one answer."""
        for key in (question.family, f"{question.family}: {kind_of(question)}"):
            self.asked[key] += 1
            self.right[key] += right

    def families(self) -> dict[str, float]:
        """Accuracy per family."""
        return {family: round(self.right[family] / max(1, self.asked[family]), 4) for family in FAMILIES}

    def kinds(self) -> dict[str, dict[str, float]]:
        """Accuracy and number of questions of every kind that was asked."""
        keys = sorted(key for key in self.asked if ":" in key)
        return {key: {"accuracy": round(self.right[key] / self.asked[key], 4), "n": self.asked[key]} for key in keys}


def kind_of(question: SceneQuestion) -> str:
    """The question without its colours, shapes and sizes: "is there a * *"."""
    words = "|".join([*COLORS, *(f"{shape}(?:es|s)?" for shape in SHAPES), *SIZES, "objects?"])
    bare = re.sub(rf"\b({words})\b", "*", question.text.rstrip("?"))
    relation = re.sub(r"\b(left of|right of|above|below)\b", "beside", bare) if question.family == "spatial" else bare
    kind = re.sub(r"\* (\* )*\*|\*", "*", relation).replace("an *", "a *")
    return kind + (" (none)" if question.answer == "none" else "")


def project(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Visual tokens as the language model gets them.

    Shape:
        pixels: (B, 3, 336, 336); returns (B, N, D).
    """
    out = model.model.vision_tower(pixels, output_hidden_states=True)
    layer = model.config.vision_feature_layer
    return model.model.multi_modal_projector(out.hidden_states[layer][:, 1:])


def check(
    model: LlavaForConditionalGeneration, features: Tensor, visible: Any, rows: list[list[Block]], closed: bool
) -> list[list[bool]]:
    """Whether the greedy answer to each question is the right one.

    Shape:
        features: (B, V, D) projected; visible: (B, V) int64; rows: B lists of questions; returns B lists.
    """
    length = max(sum(len(b.question) + len(b.answer) for b in blocks) for blocks in rows)
    packed = pack(rows, length)
    positions, mask = positions_and_mask(visible, packed, np.full(len(rows), closed))
    words = model.get_input_embeddings()
    prefix = words(torch.tensor(prefix_tokens())).expand(len(rows), -1, -1)
    whole = torch.cat([prefix, features, words(torch.from_numpy(packed.tokens))], dim=1)
    out = model.model.language_model(inputs_embeds=whole, attention_mask=mask, position_ids=positions, use_cache=False)
    best = model.lm_head(out.last_hidden_state[:, PREFIX + features.shape[1] :]).argmax(-1).numpy()
    good = (best == packed.labels) | (packed.labels < 0)
    return [[bool(good[i][packed.blocks[i] == n].all()) for n in range(len(row))] for i, row in enumerate(rows)]


def chunks(scenes: int) -> Iterator[list[Scene]]:
    """Held-out scenes with two questions of each family."""
    for start in range(0, scenes, CHUNK):
        yield [generate_scene(HELD_OUT_SEEDS[start + i]) for i in range(min(CHUNK, scenes - start))]


def blocks_of(questions: tuple[SceneQuestion, ...]) -> list[Block]:
    """The questions as token ids."""
    return [question_block(q.text, q.answer, q.family) for q in questions]


def evidence_cover(boxes: tuple[Box, ...]) -> NDArray[np.float64]:
    """How many pixels of evidence each patch holds.

    Shape:
        returns: (N,) float64.
    """
    edges = np.arange(GRID) * PATCH
    cover = np.zeros((GRID, GRID))
    for x0, y0, x1, y1 in boxes:
        across = np.clip(np.minimum(x1, edges + PATCH) - np.maximum(x0, edges), 0, None)
        down = np.clip(np.minimum(y1, edges + PATCH) - np.maximum(y0, edges), 0, None)
        cover += down[:, None] * across[None, :]
    return cover.ravel()


def choose(how: str, question: SceneQuestion, keep: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`keep` patches in ascending order, at random or evidence first.

    Shape:
        returns: (keep,) int64.
    """
    score = rng.random(PATCHES)
    if how == "evidence":
        score = score + evidence_cover(question.evidence)
    return np.sort(np.argsort(-score)[:keep])


def measure_whole(model: LlavaForConditionalGeneration, scenes: int) -> dict[str, Tally]:
    """All patches: the right picture, another scene's picture, a grey picture."""
    tallies = {name: Tally() for name in ("full", "shuffled", "grey")}
    every = np.broadcast_to(np.arange(PATCHES), (CHUNK, PATCHES))
    grey = project(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    for batch in chunks(scenes):
        features = project(model, pixel_values(np.stack([scene.image for scene in batch])))
        rows = [blocks_of(scene.questions) for scene in batch]
        seen = {"full": features, "shuffled": features.roll(1, 0), "grey": grey.expand_as(features)}
        for name, shown in seen.items():
            for scene, right in zip(batch, check(model, shown, every[: len(batch)], rows, False), strict=True):
                for question, good in zip(scene.questions, right, strict=True):
                    tallies[name].add(question, good)
    return tallies


def measure_pruned(model: LlavaForConditionalGeneration, scenes: int) -> list[dict[str, Any]]:
    """Few patches, chosen per question, with original and with closed-up positions."""
    tallies: dict[tuple[int, str, str], Tally] = defaultdict(Tally)
    rng = np.random.default_rng(SEED)
    for batch in chunks(scenes):
        features = project(model, pixel_values(np.stack([scene.image for scene in batch])))
        asked = [(i, question) for i, scene in enumerate(batch) for question in scene.questions]
        rows = [blocks_of((question,)) for _, question in asked]
        for keep in BUDGETS:
            for how in ("random", "evidence"):
                visible = np.stack([choose(how, question, keep, rng) for _, question in asked])
                owner = torch.tensor([i for i, _ in asked])
                shown = features[owner[:, None], torch.from_numpy(visible)]
                for positions in ("original", "re-indexed"):
                    right = check(model, shown, visible, rows, positions == "re-indexed")
                    for (_, question), good in zip(asked, right, strict=True):
                        tallies[keep, how, positions].add(question, good[0])
    return [
        {"kept": keep, "selection": how, "positions": positions, "accuracy": tally.families()}
        for (keep, how, positions), tally in tallies.items()
    ]


def measure_majority(scenes: int, learn_from: int = 1500) -> Tally:
    """Blind guessing: the most frequent answer to this kind of question in training scenes."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for i in range(learn_from):
        for question in generate_scene(TRAINING_SEEDS[i]).questions:
            seen[_blind_kind(question)][question.answer] += 1
    tally = Tally()
    for batch in chunks(scenes):
        for question in (q for scene in batch for q in scene.questions):
            guess = seen[_blind_kind(question)].most_common(1)
            tally.add(question, bool(guess) and guess[0][0] == question.answer)
    return tally


def _blind_kind(question: SceneQuestion) -> str:
    return kind_of(question).removesuffix(" (none)")


def generation_check(model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: int) -> dict[str, Any]:
    """The plain way, one question at a time: how often it agrees with `check`, and how long it takes."""
    agree, asked, right, took = 0, 0, 0, []
    for i in range(scenes):
        scene = generate_scene(HELD_OUT_SEEDS[i], questions_per_family=1)
        features = project(model, pixel_values(scene.image[None]))
        fast = check(model, features, np.arange(PATCHES)[None], [blocks_of(scene.questions)], False)[0]
        for question, good in zip(scene.questions, fast, strict=True):
            started = time.perf_counter()
            answer = ask(model, processor, Image.fromarray(scene.image), question.text)
            took.append(time.perf_counter() - started)
            asked, right = asked + 1, right + (answer == question.answer)
            agree += (answer == question.answer) == good
    return {
        "questions": asked, "agreement": agree / asked, "accuracy": right / asked,
        "median_seconds_per_answer": round(float(np.median(took)), 4),
    }  # fmt: skip


def ask(model: LlavaForConditionalGeneration, processor: LlavaProcessor, picture: Image.Image, question: str) -> str:
    """The answer to one question, by the stock processor and `generate`."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=picture, text=text, return_tensors="pt")
    out = model.generate(**inputs)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@torch.no_grad()
def evaluate(folder: Path, scenes: int, pruned_scenes: int, generated_scenes: int) -> dict[str, Any]:
    """Everything the model card quotes."""
    started = time.perf_counter()
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    processor = LlavaProcessor.from_pretrained(folder, local_files_only=True)
    whole = measure_whole(model, scenes)
    result = {
        "scenes": scenes,
        "first_seed": HELD_OUT_SEEDS.start,
        "visual_tokens": PATCHES,
        "questions": {family: whole["full"].asked[family] for family in FAMILIES},
        "accuracy": whole["full"].families(),
        "blind_majority": measure_majority(scenes).families(),
        "grey_picture": whole["grey"].families(),
        "shuffled_picture": whole["shuffled"].families(),
        "kinds": whole["full"].kinds(),
        "pruned_scenes": pruned_scenes,
        "pruned": measure_pruned(model, pruned_scenes),
        "generation_check": generation_check(model, processor, generated_scenes),
    }
    return {**result, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("assets/tokviz-tiny"))
    parser.add_argument("--scenes", type=int, default=1200)
    parser.add_argument("--pruned-scenes", type=int, default=300)
    parser.add_argument("--generated-scenes", type=int, default=40)
    parser.add_argument("--out", type=Path, default=None, help="default: evaluation.json in the folder")
    options = parser.parse_args()
    result = evaluate(options.folder, options.scenes, options.pruned_scenes, options.generated_scenes)
    path = options.out or options.folder / "evaluation.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
