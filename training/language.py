"""Stage 2: projector and decoder learn to answer from the frozen tower's features.

    python -m training.language --minutes 50

A dozen and more questions share one picture in one sequence (block mask, restarted positions), which equals as many
single prompts. Patches are dropped at random, and half of the sequences close the gaps in their positions, so that the
finished model can live with pruned prompts of either kind.
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from scenes import FAMILIES, MAX_COUNT, TRAINING_SEEDS, VALIDATION_SEEDS, Scene, generate_scene
from training.architecture import GRID, build_model, pixel_values, vision_config
from training.loop import Clock, Log, Optimizers, launch, rate, save_atomically, share_number, split_matrices
from training.prompts import (
    EARLY_SHARES,
    PREFIX,
    QUESTION_SHARES,
    WORDS,
    Packed,
    choose_visible,
    pack,
    patch_priorities,
    prefix_tokens,
    question_block,
    random_blocks,
)

SEED = 2
FIRST_SEED = TRAINING_SEEDS.start + 50_000_000
"""Stage 1 uses the seeds below."""
TEXT_LENGTH = 120
"""Tokens of questions and answers behind each picture: about 12 questions."""
COUNTS = (80, 160, 320, 576)
"""How many of the 576 patches a batch sees."""
COUNT_SHARES, LATE_COUNT_SHARES = (0.3, 0.4, 0.15, 0.15), (0.2, 0.25, 0.2, 0.35)
LATE = 0.75
"""Share of the training after which most batches see many patches."""
REPLAY = 400
"""Scenes that wait for their next use before any is used again."""
PLACE_WEIGHT = 0.1
POINT_BLOCK, POINT_WEIGHT, COORDINATE_WEIGHT = 5, 0.1, 3.0
"""Behind this decoder block a noun must know where the thing it names lies: row, column, and the plain coordinates.

Relations compare two places; they stayed at chance in a former model whose nouns had no reason to fetch them."""
COUNT_BLOCK, COUNT_WEIGHT = 6, 2.0
"""Behind this block the word before a count must hold it as a plain number: five is then nearer to six than to one."""
DENSE_SHARE = 0.25
"""Share of crowded scenes: in ordinary ones most counts are zero or one."""
EARLY = 0.12
"""Share of the training during which attribute and list questions prevail."""


@dataclass(frozen=True)
class Example:
    """A scene with its features. features: (N, D) float16; priorities: (N,) int8."""

    scene: Scene
    features: Tensor
    priorities: np.ndarray


class Eyes(nn.Module):
    """The frozen tower without its last block, as LLaVA with `vision_feature_layer=-2` uses it."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        config = vision_config()
        config.num_hidden_layers -= 1
        self.tower = CLIPVisionModel(config)
        self.tower.load_state_dict({k: v for k, v in state.items() if k in self.tower.state_dict()})
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Shape: (B, 3, 336, 336) to (B, N, D)."""
        return self.tower(pixels).last_hidden_state[:, 1:]


class LanguageTask(nn.Module):
    """Projector and decoder of the stock model, fed with standardised features and packed questions."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        model = build_model(SEED)
        self.projector, self.decoder = model.model.multi_modal_projector, model.model.language_model
        self.head = model.lm_head
        width = model.lm_head.in_features
        self.place_head = nn.Linear(width, 2 * GRID)
        self.point_norm, self.point_head = nn.LayerNorm(width), nn.Linear(width, 2 * GRID + 2)
        self.count_norm, self.count_head = nn.LayerNorm(width), nn.Linear(width, 1)
        # Small word embeddings would drown in what the first attention adds to them.
        nn.init.normal_(self.decoder.embed_tokens.weight, std=0.2)
        for layer in (self.projector.linear_1, self.projector.linear_2):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def load_grown(self, state: dict[str, Tensor]) -> None:
        """Go on with the projector, decoder and head of an exported model; its projector takes raw features.

        Shape:
            state: what `training.grow` wrote, names beginning with "projector.", "decoder." and "head.".
        """
        scale, shift = self.get_buffer("std"), self.get_buffer("mean")
        weight = state["projector.linear_1.weight"]
        bias = state["projector.linear_1.bias"] + weight @ shift
        self.load_state_dict(
            {**state, "projector.linear_1.weight": weight * scale, "projector.linear_1.bias": bias}, strict=False
        )

    def forward(self, features: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Hidden states of the text, row and column logits of the projected patches, and what each word points at.

        Shape:
            features: (B, V, D) raw tower features; tokens: (B, T) int64; positions: (B, 2 + V + T) int64;
            mask: (B, 1, 2 + V + T, 2 + V + T) bool; returns (B, T, D), (B, V, 2 * GRID), (B, T, 2 * GRID + 2)
            (row and column logits, x and y), (B, T) the count that each word is about to say, in tenths.
        """
        seen = self.projector((features - self.mean) / self.std)
        words = self.decoder.embed_tokens
        prefix = words(torch.tensor(prefix_tokens())).expand(len(features), -1, -1)
        whole = torch.cat([prefix, seen, words(tokens)], dim=1)
        out = self.decoder(
            inputs_embeds=whole, attention_mask=mask, position_ids=positions, use_cache=False, output_hidden_states=True
        )
        text = slice(PREFIX + features.shape[1], None)
        points = self.point_head(self.point_norm(out.hidden_states[POINT_BLOCK][:, text]))
        counts = self.count_head(self.count_norm(out.hidden_states[COUNT_BLOCK][:, text]))
        return out.last_hidden_state[:, text], self.place_head(seen), points, counts[..., 0]


def positions_and_mask(
    visible: np.ndarray, packed: Packed, closed: np.ndarray, patches: int = GRID * GRID
) -> tuple[Tensor, Tensor]:
    """Position ids (restarting behind the picture for each question) and who may look at whom.

    Args:
        closed: which sequences close the gaps that dropped patches leave in the positions.
        patches: how many there are before any is dropped.

    Shape:
        visible: (B, V) int64; closed: (B,) bool; returns (B, L) int64 and (B, 1, L, L) bool with L = 2 + V + T.
    """
    batch, count = visible.shape
    length = PREFIX + count + packed.tokens.shape[1]
    positions = np.empty((batch, length), np.int64)
    positions[:, :PREFIX] = np.arange(PREFIX)
    positions[:, PREFIX : PREFIX + count] = PREFIX + np.where(closed[:, None], np.arange(count), visible)
    after = PREFIX + np.where(closed, count, patches)
    positions[:, PREFIX + count :] = after[:, None] + packed.offsets
    blocks = np.concatenate([np.full((batch, PREFIX + count), -2), packed.blocks], axis=1)
    block = torch.from_numpy(blocks)
    same = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == -2)
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    return torch.from_numpy(positions), mask[:, None]


def answer_loss(head: nn.Module, hidden: Tensor, packed: Packed) -> Tensor:
    """Weighted mean cross-entropy over the answers' words."""
    labels = torch.from_numpy(packed.labels)
    where = labels >= 0
    each = F.cross_entropy(head(hidden[where]), labels[where], reduction="none")
    weights = torch.from_numpy(packed.weights)[where]
    return (each * weights).sum() / weights.sum()


def place_loss(places: Tensor, visible: np.ndarray) -> Tensor:
    """The projector must say where each patch lies: without this it drops what spatial answers are made of.

    Shape:
        places: (B, V, 2 * GRID) row and column logits; visible: (B, V) int64.
    """
    rows, columns = places.flatten(0, 1).split(GRID, dim=-1)
    patch = torch.from_numpy(visible).flatten()
    return F.cross_entropy(rows, patch // GRID) + F.cross_entropy(columns, patch % GRID)


def point_loss(points: Tensor, packed: Packed) -> Tensor:
    """What a noun knows of where its thing lies: cross-entropy of row and column, squared error of the coordinates.

    Shape:
        points: (B, T, 2 * GRID + 2).
    """
    target = torch.from_numpy(packed.points)
    where = ~target[..., 0].isnan()
    if not where.any():
        return points.sum() * 0.0
    rows, columns, plain = points[where].split([GRID, GRID, 2], dim=-1)
    cells = (target[where] * GRID).long().clamp(0, GRID - 1)
    named = F.cross_entropy(rows, cells[:, 1]) + F.cross_entropy(columns, cells[:, 0])
    return POINT_WEIGHT * named + COORDINATE_WEIGHT * F.mse_loss(plain, target[where])


def count_loss(counts: Tensor, packed: Packed) -> Tensor:
    """Squared error of the counts, where the next word is one.

    Shape:
        counts: (B, T), in tenths.
    """
    labels = torch.from_numpy(packed.labels)
    digits = labels - WORDS["0"]
    where = torch.from_numpy(packed.counting) & (digits >= 0) & (digits <= MAX_COUNT)
    if not where.any():
        return counts.sum() * 0.0
    return F.mse_loss(counts[where], digits[where] / 10)


class Source:
    """Fresh scenes with features; every scene is used three times, later with other questions."""

    def __init__(self, eyes: Eyes, rank: int, ranks: int, step: int, batch: int) -> None:
        self.eyes, self.rank, self.ranks, self.batch = eyes, rank, ranks, batch
        self.step = step
        self.rng = np.random.default_rng([SEED, rank, step])
        self.again: deque[tuple[Example, int]] = deque()

    def next(self) -> list[Example]:
        """The examples of one step: a third new, the rest seen once or twice before (all new at the beginning)."""
        fresh = max(1, self.batch // 3) if len(self.again) >= REPLAY else self.batch
        first = FIRST_SEED + (self.step * self.ranks + self.rank) * self.batch
        self.step += 1
        examples = look(self.eyes, list(range(first, first + fresh)))
        old = [self.again.popleft() for _ in range(self.batch - fresh)]
        self.again.extend((example, 2) for example in examples)
        self.again.extend((example, left - 1) for example, left in old if left > 1)
        return examples + [example for example, _ in old]


@torch.no_grad()
def look(eyes: Eyes, seeds: list[int]) -> list[Example]:
    """Draw scenes and run the tower on them."""
    crowded = [seed in TRAINING_SEEDS and np.random.default_rng(seed).random() < DENSE_SHARE for seed in seeds]
    scenes = [generate_scene(s, questions_per_family=0, dense=d) for s, d in zip(seeds, crowded, strict=True)]
    features = eyes(pixel_values(np.stack([scene.image for scene in scenes]))).half()
    return [Example(s, f.clone(), patch_priorities(s)) for s, f in zip(scenes, features, strict=True)]


@torch.no_grad()
def validation_set(eyes: Eyes, scenes: int) -> list[tuple[Tensor, Packed, list[str]]]:
    """Fixed validation batches: features, packed questions, and the families in order."""
    result = []
    for start in range(0, scenes, 20):
        examples = look(eyes, [VALIDATION_SEEDS[start + i] for i in range(20)])
        asked = [generate_scene(e.scene.seed, questions_per_family=2).questions for e in examples]
        blocks = [[question_block(q.text, q.answer, q.family) for q in questions] for questions in asked]
        families = [block.family for row in blocks for block in row]
        result.append((torch.stack([e.features for e in examples]).float(), pack(blocks, 180), families))
    return result


@torch.no_grad()
def validate(task: LanguageTask, batches: list[tuple[Tensor, Packed, list[str]]]) -> dict[str, float]:
    """Share of questions per family whose whole answer is the greedy one, all patches visible."""
    right, total = dict.fromkeys(FAMILIES, 0), dict.fromkeys(FAMILIES, 0)
    for features, packed, families in batches:
        visible = np.broadcast_to(np.arange(GRID * GRID), (len(features), GRID * GRID))
        positions, mask = positions_and_mask(visible, packed, np.zeros(len(features), bool))
        hidden, *_ = task(features, torch.from_numpy(packed.tokens), positions, mask)
        labels = torch.from_numpy(packed.labels)
        good = (task.head(hidden).argmax(-1) == labels) | (labels < 0)
        blocks = torch.from_numpy(packed.blocks)
        at = 0
        for row in range(len(features)):
            for number in range(int(blocks[row].max()) + 1):
                family = families[at]
                right[family] += bool(good[row][blocks[row] == number].all())
                total[family] += 1
                at += 1
    return {f"val_{family}": right[family] / max(1, total[family]) for family in FAMILIES}


def statistics(eyes: Eyes) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every feature channel over 100 training scenes."""
    features = torch.stack([e.features for e in look(eyes, list(range(FIRST_SEED - 100, FIRST_SEED)))]).float()
    return features.mean((0, 1)), features.std((0, 1)) + 1e-4


def train(rank: int, ranks: int, options: argparse.Namespace) -> None:
    """The training loop of one rank."""
    vision = torch.load(options.out / "vision.pt", weights_only=False)["task"]
    eyes = Eyes({k.removeprefix("tower."): v for k, v in vision.items() if k.startswith("tower.")})
    known = statistics(eyes)
    task = LanguageTask(*known)
    matrices, rest = split_matrices(task, lambda name: "decoder.layers." in name)
    optimizers = Optimizers(matrices, rest, options.muon_lr, options.adam_lr, decay=0.01)
    path, log = options.out / "language.pt", Log(options.out / "language.jsonl", rank)
    step, before = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=False)
        task.load_state_dict(state["task"])
        optimizers.restore(state["optimizers"])
        step, before = state["step"], state["seconds"]
    elif options.start:
        task.load_grown(torch.load(options.start, weights_only=False)["task"])
    run = torch.compile(task, dynamic=False) if options.compile else task
    source = Source(eyes, rank, ranks, step, options.batch)
    held = validation_set(eyes, 100) if rank == 0 else []
    clock, budget = Clock(before), options.minutes * 60
    saved, sums, logged = clock.seconds(), torch.zeros(2), 0
    while (seconds := share_number(clock.seconds())) < budget:
        progress = seconds / budget
        shared = np.random.default_rng([SEED, 7, step])  # the number of visible patches is common to all ranks
        count = int(shared.choice(COUNTS, p=COUNT_SHARES if progress < LATE else LATE_COUNT_SHARES))
        early = progress < EARLY and not options.start
        loss, located = _step_loss(task, run, source, count, early)
        (loss + located).backward()
        optimizers.step(rate(progress, warmup=0.04))
        step += 1
        sums += torch.stack([loss.detach(), located.detach()])
        logged += 1
        if step % options.log_every == 0:
            mean = (sums / logged).tolist()
            pictures = step * ranks * options.batch
            log.write(step=step, seconds=clock.seconds(), pictures=pictures, loss=mean[0], places=mean[1])
            sums, logged = torch.zeros(2), 0
        if rank == 0 and step % options.validate_every == 0:
            log.write(step=step, seconds=clock.seconds(), **validate(task, held))
        if rank == 0 and clock.seconds() - saved > 120:
            _save(path, task, optimizers, step, clock)
            saved = clock.seconds()
    if rank == 0:
        log.write(step=step, seconds=clock.seconds(), final=True, **validate(task, held))
        _save(path, task, optimizers, step, clock)


def _step_loss(task: LanguageTask, run: nn.Module, source: Source, count: int, early: bool) -> tuple[Tensor, Tensor]:
    """Loss of the answers, and of the places, of one batch of pictures with `count` visible patches."""
    examples, rng = source.next(), source.rng
    shares, list_share = (EARLY_SHARES, 0.6) if early else (QUESTION_SHARES, 0.06)
    packed = pack([random_blocks(e.scene, rng, TEXT_LENGTH, shares, list_share) for e in examples], TEXT_LENGTH)
    visible = np.stack([choose_visible(e.priorities, count, rng) for e in examples])
    features = torch.stack([e.features[torch.from_numpy(v)] for e, v in zip(examples, visible, strict=True)]).float()
    positions, mask = positions_and_mask(visible, packed, rng.random(len(examples)) < 0.5)
    hidden, places, points, counts = run(features, torch.from_numpy(packed.tokens), positions, mask)
    located = PLACE_WEIGHT * place_loss(places, visible) + point_loss(points, packed)
    located = located + COUNT_WEIGHT * count_loss(counts, packed)
    return answer_loss(task.head, hidden, packed), located


def _save(path: Path, task: LanguageTask, optimizers: Optimizers, step: int, clock: Clock) -> None:
    payload = {"task": task.state_dict(), "optimizers": optimizers.state(), "step": step, "seconds": clock.seconds()}
    save_atomically(payload, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--batch", type=int, default=6, help="pictures per rank and step")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, default=None, help="begin with the weights that training.grow wrote")
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--validate-every", type=int, default=150)
    parser.add_argument(
        "--compile", action="store_true", help="pays off only in bfloat16 (here, float32 products take the time)"
    )
    options = parser.parse_args()
    launch(train, options.ranks, 29512, options)


if __name__ == "__main__":
    main()
