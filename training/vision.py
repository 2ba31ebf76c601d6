"""Stage 1: the vision tower learns to say, for every patch, what it shows.

    python -m training.vision --minutes 25

Dense supervision from `hidden_states[-2]` (what the language model will read) and, so that the last block and [CLS]
have a real task too, presence of every colour-shape pair from the pooled output.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from scenes import TRAINING_SEEDS, VALIDATION_SEEDS, generate_scene
from training.architecture import GRID, pixel_values, vision_config
from training.labels import HEADS, PAIRS, SIGN, patch_labels, presence
from training.loop import Clock, Log, Optimizers, launch, rate, save_atomically, share_number, split_matrices

DENSE_SHARE = 0.75
TEXT_WEIGHT = 2.0
"""Reading is learnt last by far."""
PLACE_WEIGHT = 0.5
SEED = 1


class VisionTask(nn.Module):
    """The tower with its training heads; only the tower survives."""

    def __init__(self) -> None:
        super().__init__()
        config = vision_config()
        self.tower = CLIPVisionModel(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.patch_head = nn.Linear(config.hidden_size, sum(HEADS.values()))
        self.place_head = nn.Linear(config.hidden_size, 2 * GRID)
        self.presence_head = nn.Linear(config.hidden_size, PAIRS)
        _sine_positions(self.tower, GRID)

    def forward(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits per patch and head (HEADS, "row", "column"), and presence logits.

        Shape:
            pixels: (B, 3, 336, 336); returns {head: (B, N, classes)}, (B, PAIRS).
        """
        out = self.tower(pixels, output_hidden_states=True)
        patches = self.norm(out.hidden_states[-2][:, 1:])
        parts = dict(zip(HEADS, self.patch_head(patches).split(list(HEADS.values()), dim=-1), strict=True))
        parts["row"], parts["column"] = self.place_head(patches).split(GRID, dim=-1)
        return parts, self.presence_head(out.pooler_output)


def _sine_positions(tower: CLIPVisionModel, grid: int) -> None:
    """Start from 2-D sine and cosine position embeddings: with random ones shape stays at chance for long."""
    weight = dict(tower.named_parameters())[
        next(name for name, _ in tower.named_parameters() if name.endswith("position_embedding.weight"))
    ]
    quarter = weight.shape[1] // 4
    turns = torch.exp(-torch.arange(quarter) / quarter * np.log(100.0))
    rows, cols = torch.meshgrid(torch.arange(grid).float(), torch.arange(grid).float(), indexing="ij")
    waves = [f(axis.reshape(-1, 1) * turns) for axis in (rows, cols) for f in (torch.sin, torch.cos)]
    with torch.no_grad():
        weight[1:] = 0.3 * torch.cat(waves, dim=1)


def batch_of(seeds: list[int], dense: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures and targets.

    Shape:
        returns: pixels (B, 3, 336, 336), labels (B, N, 5) int64, presence (B, PAIRS).
    """
    scenes = [generate_scene(s, dense=d, questions_per_family=0) for s, d in zip(seeds, dense, strict=True)]
    pixels = pixel_values(np.stack([scene.image for scene in scenes]))
    labels = torch.from_numpy(np.stack([patch_labels(scene, GRID) for scene in scenes]))
    return pixels, labels, torch.from_numpy(np.stack([presence(scene) for scene in scenes]))


def losses(logits: dict[str, Tensor], found: Tensor, labels: Tensor, present: Tensor) -> dict[str, Tensor]:
    """The loss of every head; background patches count little, text patches form their own mean.

    Shape:
        logits: {head: (B, N, classes)}; found, present: (B, PAIRS); labels: (B, N, 5).
    """
    shape = labels[..., 0].flatten()
    is_sign, is_object = (shape == SIGN).float(), ((shape > 0) & (shape < SIGN)).float()
    empty = 0.15 * (shape == 0).float()
    result = {}
    for i, head in enumerate(HEADS):
        each = F.cross_entropy(logits[head].flatten(0, 1), labels[..., i].flatten(), reduction="none")
        weight = {"text": is_sign + 0.05 * (1 - is_sign), "shape": is_sign + is_object + empty}.get(
            head, is_object + 0.15 * is_sign + empty
        )
        result[head] = (each * weight).sum() / weight.sum()
    result["text"] = result["text"] * TEXT_WEIGHT
    # Without this the features keep too little of where they are for "left of" and "where" to be learnt from them.
    places = torch.arange(GRID * GRID).expand(labels.shape[:2])
    for name, target in (("row", places // GRID), ("column", places % GRID)):
        result[name] = PLACE_WEIGHT * F.cross_entropy(logits[name].flatten(0, 1), target.flatten())
    result["presence"] = F.binary_cross_entropy_with_logits(found, present) * 3
    return result


@torch.no_grad()
def validate(task: VisionTask, scenes: int) -> dict[str, float]:
    """Accuracy per head on validation seeds (ordinary scenes): objects' patches, signs' patches, all for `center`."""
    task.eval()
    right: dict[str, float] = dict.fromkeys([*HEADS, "row", "column", "presence"], 0.0)
    total = dict.fromkeys(right, 0.0)
    for start in range(0, scenes, 25):
        seeds = [VALIDATION_SEEDS[start + i] for i in range(25)]
        pixels, labels, present = batch_of(seeds, [False] * 25)
        logits, found = task(pixels)
        shape = labels[..., 0]
        is_object, is_sign = (shape > 0) & (shape < SIGN), shape == SIGN
        for i, head in enumerate(HEADS):
            where = is_sign if head == "text" else is_object
            right[head] += float(((logits[head].argmax(-1) == labels[..., i]) & where).sum())
            total[head] += float(where.sum())
        places = torch.arange(GRID * GRID)
        for name, target in (("row", places // GRID), ("column", places % GRID)):
            right[name] += float(((logits[name].argmax(-1) == target) & is_object).sum())
            total[name] += float(is_object.sum())
        right["presence"] += float(((found > 0) == (present > 0)).float().mean()) * len(seeds)
        total["presence"] += len(seeds)
    task.train()
    return {f"val_{head}": right[head] / total[head] for head in right}


def _resume(path: Path, task: VisionTask, optimizers: Optimizers) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=False)
    task.load_state_dict(state["task"])
    optimizers.restore(state["optimizers"])
    return state["step"], state["seconds"]


def train(rank: int, ranks: int, options: argparse.Namespace) -> None:
    """The training loop of one rank."""
    torch.manual_seed(SEED)
    task = VisionTask()
    use_muon = options.optimizer == "muon"
    matrices, rest = split_matrices(task, lambda name: use_muon and ".layers." in name)
    optimizers = Optimizers(matrices, rest, options.muon_lr, options.adam_lr, decay=0.01)
    path, log = options.out / "vision.pt", Log(options.out / "vision.jsonl", rank)
    step, before = _resume(path, task, optimizers)
    if options.start and not path.exists():
        task.load_state_dict(torch.load(options.start, weights_only=False)["task"], strict=False)
    clock, budget = Clock(before), options.minutes * 60
    sums: dict[str, float] = {}
    logged = 0
    saved = clock.seconds()
    while (seconds := share_number(clock.seconds())) < budget:
        first = options.first_seed + (step * ranks + rank) * options.batch
        seeds = list(range(first, first + options.batch))
        dense = [bool(flag) for flag in np.random.default_rng(first).random(options.batch) < DENSE_SHARE]
        pixels, labels, present = batch_of(seeds, dense)
        parts = losses(*task(pixels), labels, present)
        sum(parts.values(), start=torch.zeros(())).backward()
        optimizers.step(rate(seconds / budget))
        step += 1
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        logged += 1
        if step % options.log_every == 0:
            mean = {name: value / logged for name, value in sums.items()}
            log.write(step=step, seconds=clock.seconds(), pictures=step * ranks * options.batch, **mean)
            sums, logged = {}, 0
        if rank == 0 and step % options.validate_every == 0:
            log.write(step=step, seconds=clock.seconds(), **validate(task, 100))
        if rank == 0 and clock.seconds() - saved > 120:
            _save(path, task, optimizers, step, clock, ranks, options)
            saved = clock.seconds()
    if rank == 0:
        log.write(step=step, seconds=clock.seconds(), final=True, **validate(task, 500))
        _save(path, task, optimizers, step, clock, ranks, options)


def _save(
    path: Path, task: VisionTask, optimizers: Optimizers, step: int, clock: Clock, ranks: int, options: Any
) -> None:
    payload = {"task": task.state_dict(), "optimizers": optimizers.state(), "step": step, "seconds": clock.seconds()}
    save_atomically({**payload, "pictures": step * ranks * options.batch}, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--batch", type=int, default=12, help="pictures per rank and step")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--start", type=Path, default=None, help="begin with the weights of this vision.pt")
    parser.add_argument("--first-seed", type=int, default=TRAINING_SEEDS.start, help="where its training scenes begin")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--muon-lr", type=float, default=2e-3)
    parser.add_argument("--adam-lr", type=float, default=1e-3)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--validate-every", type=int, default=200)
    options = parser.parse_args()
    launch(train, options.ranks, 29511, options)


if __name__ == "__main__":
    main()
