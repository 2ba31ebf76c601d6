"""Stage 3: projector and decoder of the picture model learn to follow clips, behind the frozen tower.

    python -m training.video --minutes 70

Starts from assets/tokviz-tiny. Fifteen questions share one clip in one sequence (block mask, restarted positions),
which equals as many single prompts. Visual tokens are dropped at random, so that most steps are cheap and the finished
model can live with pruned prompts. A clip is used six times, three of them backwards, each time with other questions.
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
from transformers import LlavaForConditionalGeneration

from scenes import CLIP_FAMILIES, TRAINING_SEEDS, VALIDATION_SEEDS, Clip, generate_clip
from training.architecture import GRID, pixel_values
from training.clip_prompts import (
    CELLS,
    FRAME_TOKENS,
    FRAMES,
    TRACE,
    TRACK,
    VIDEO_TOKENS,
    cell_owners,
    cell_tracks,
    clip_block,
    pack_traces,
    random_clip_blocks,
    reverse,
)
from training.language import Eyes, answer_loss, count_loss, positions_and_mask
from training.loop import Clock, Log, Optimizers, launch, rate, save_atomically, split_matrices
from training.prompts import PREFIX, Packed, choose_visible, pack, prefix_tokens
from training.video_architecture import build_video_model

SEED = 3
FIRST_SEED = TRAINING_SEEDS.start
TEXT_LENGTH = 150
"""Tokens of questions and answers behind each clip: about 15 questions."""
BATCHES = {128: 10, 256: 8, 512: 4, VIDEO_TOKENS: 2}
"""How many visual tokens the clips of a batch keep, and how many clips it then holds; such batches cost about alike."""
COUNT_SHARES, LATE_COUNT_SHARES = (0.4, 0.35, 0.2, 0.05), (0.15, 0.3, 0.3, 0.25)
LATE = 0.85
CLOSED_SHARE = 0.35
"""Share of the sequences that close the gaps in their positions; what frame a token is from is then hard to know."""
USES, REPLAY = 6, 48
"""How often a clip is used, and how many clips wait for their next use."""
FRAME_BLOCK, TRACK_BLOCK, TRACE_BLOCK, COUNT_BLOCK = 2, 4, 5, 6
"""Behind these decoder blocks a visual token must know its frame and then the history of what it shows, a noun when and
where the thing it names is, and the word before a count the count."""
NAMED, PLAIN, COUNT_WEIGHT = 0.1, 3.0, 2.0
"""Weights of classes and of plain numbers among these."""

WAY_WEIGHT, SIDE_WEIGHT, CLEAR_WAY, STEEP = 12.0, 0.5, 0.06, 15.0
"""Weights of the way and of its side; ways shorter than CLEAR_WAY (share of the picture) are never asked about."""


@dataclass(frozen=True)
class ClipExample:
    """A clip with what the tower makes of it.

    Shape:
        features: (VIDEO_TOKENS, D) float16, pooled; priorities: (VIDEO_TOKENS,) int8; tracks: (VIDEO_TOKENS, TRACK).
    """

    clip: Clip
    features: Tensor
    priorities: np.ndarray
    tracks: np.ndarray


class VideoTask(nn.Module):
    """Projector and decoder of the stock model, fed with standardised pooled features and packed questions."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        model = build_video_model(SEED)
        self.projector, self.decoder = model.model.multi_modal_projector, model.model.language_model
        self.head = model.lm_head
        width = model.lm_head.in_features
        self.place_head = nn.Linear(width, 2 * CELLS)
        self.frame_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, FRAMES))
        self.track_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, FRAMES + TRACK - 1))
        self.trace_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * FRAMES + 4 * CELLS + TRACE - 2))
        self.count_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def load_picture_model(self, model: LlavaForConditionalGeneration) -> None:
        """Go on with the projector, decoder and head of the picture model; its projector takes raw features."""
        projector = {k: v.clone() for k, v in model.model.multi_modal_projector.state_dict().items()}
        scale, shift = self.get_buffer("std"), self.get_buffer("mean")
        projector["linear_1.bias"] += projector["linear_1.weight"] @ shift
        projector["linear_1.weight"] *= scale
        self.projector.load_state_dict(projector)
        self.decoder.load_state_dict(model.model.language_model.state_dict())
        self.head.load_state_dict(model.lm_head.state_dict())

    def forward(self, features: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Hidden states of the text and what the heads say.

        Shape:
            features: (B, V, D) pooled tower features; tokens: (B, T) int64; positions: (B, 2 + V + T) int64;
            mask: (B, 1, 2 + V + T, 2 + V + T) bool; returns "text" (B, T, width), "places", "frames" and "tracks"
            (B, V, ...), "traces" (B, T, ...), "counts" (B, T) in tenths.
        """
        seen = self.projector((features - self.mean) / self.std)
        words = self.decoder.embed_tokens
        prefix = words(torch.tensor(prefix_tokens())).expand(len(features), -1, -1)
        whole = torch.cat([prefix, seen, words(tokens)], dim=1)
        out = self.decoder(
            inputs_embeds=whole, attention_mask=mask, position_ids=positions, use_cache=False, output_hidden_states=True
        )
        visual, text = slice(PREFIX, PREFIX + features.shape[1]), slice(PREFIX + features.shape[1], None)
        return {
            "text": out.last_hidden_state[:, text],
            "places": self.place_head(seen),
            "frames": self.frame_head(out.hidden_states[FRAME_BLOCK][:, visual]),
            "tracks": self.track_head(out.hidden_states[TRACK_BLOCK][:, visual]),
            "traces": self.trace_head(out.hidden_states[TRACE_BLOCK][:, text]),
            "counts": self.count_head(out.hidden_states[COUNT_BLOCK][:, text])[..., 0],
        }


def where_loss(places: Tensor, frames: Tensor, visible: np.ndarray) -> Tensor:
    """A visual token must know its row, column and frame.

    Shape:
        places: (B, V, 2 * CELLS) logits; frames: (B, V, FRAMES) logits; visible: (B, V) int64.
    """
    rows, columns = places.flatten(0, 1).split(CELLS, dim=-1)
    token = torch.from_numpy(visible).flatten()
    cell = token % FRAME_TOKENS
    return (
        F.cross_entropy(rows, cell // CELLS)
        + F.cross_entropy(columns, cell % CELLS)
        + 2 * F.cross_entropy(frames.flatten(0, 1), token // FRAME_TOKENS)
    )


def track_loss(tracks: Tensor, target: Tensor) -> Tensor:
    """A visual token must know since when and where from the object that it shows has come.

    Shape:
        tracks: (B, V, FRAMES + TRACK - 1); target: (B, V, TRACK), NaN where there is nothing to know.
    """
    where = ~target[..., 0].isnan()
    if not where.any():
        return tracks.sum() * 0.0
    first, plain, moved = tracks[where].split([FRAMES, TRACK - 2, 1], dim=-1)
    wanted = target[where]
    named = F.cross_entropy(first, wanted[:, 0].long())
    named = named + F.binary_cross_entropy_with_logits(moved[:, 0], wanted[:, -1])
    return NAMED * named + PLAIN * F.mse_loss(plain, wanted[:, 1:-1])


def trace_loss(traces: Tensor, target: Tensor) -> Tensor:
    """A noun must know when and where the thing it names is first and last seen, and whether it moves.

    Shape:
        traces: (B, T, 2 * FRAMES + 4 * CELLS + TRACE - 2); target: (B, T, TRACE), NaN where a word names nothing.
    """
    where = ~target[..., 0].isnan()
    if not where.any():
        return traces.sum() * 0.0
    times, cells, plain, moves = traces[where].split([2 * FRAMES, 4 * CELLS, TRACE - 3, 1], dim=-1)
    wanted = target[where]
    named = F.binary_cross_entropy_with_logits(moves[:, 0], wanted[:, -1])
    for i, logits in enumerate(times.split(FRAMES, dim=-1)):
        named = named + F.cross_entropy(logits, wanted[:, i].long())
    for i, logits in enumerate(cells.split(CELLS, dim=-1)):
        named = named + F.cross_entropy(logits, (wanted[:, 2 + i] * CELLS).long().clamp(0, CELLS - 1))
    return NAMED * named + PLAIN * F.mse_loss(plain, wanted[:, 2:-1]) + way_loss(plain, wanted[:, 2:-1])


def way_loss(plain: Tensor, wanted: Tensor) -> Tensor:
    """From the first place to the last: how far, and clearly on which side.

    Each place alone may be off by as much as most things move at all; "to the left" is the sign of the difference.

    Shape:
        plain, wanted: (n, 4), x and y of the first place, then of the last.
    """
    way, true_way = plain[:, 2:] - plain[:, :2], wanted[:, 2:] - wanted[:, :2]
    clear = true_way.abs() >= CLEAR_WAY
    loss = WAY_WEIGHT * F.mse_loss(way, true_way)
    if not clear.any():
        return loss
    return loss + SIDE_WEIGHT * F.binary_cross_entropy_with_logits(way[clear] * STEEP, (true_way[clear] > 0).float())


def pool(features: Tensor) -> Tensor:
    """Average the tower's patches two by two, as the stock model's pooler does.

    Shape:
        features: (frames, GRID * GRID, D); returns (frames * FRAME_TOKENS, D).
    """
    plane = features.unflatten(1, (CELLS, GRID // CELLS, CELLS, GRID // CELLS))
    return plane.mean(dim=(2, 4)).flatten(0, 2)


@torch.no_grad()
def watch(eyes: Eyes, seed: int) -> ClipExample:
    """Draw a clip and run the tower on its frames, in bfloat16."""
    clip = generate_clip(seed, frames=FRAMES, questions_per_family=0)
    with torch.autocast("cpu", torch.bfloat16):
        features = eyes(pixel_values(clip.frames))
    owners, priorities = cell_owners(clip)
    return ClipExample(clip, pool(features.float()).half(), priorities, cell_tracks(clip, owners))


def backwards(example: ClipExample) -> ClipExample:
    """The clip played backwards, without looking again."""
    clip = reverse(example.clip)
    owners, priorities = cell_owners(clip)
    features = example.features.unflatten(0, (FRAMES, FRAME_TOKENS)).flip(0).flatten(0, 1)
    return ClipExample(clip, features, priorities, cell_tracks(clip, owners))


class ClipSource:
    """Fresh clips with features; every clip is used USES times, by turns forwards and backwards."""

    def __init__(self, eyes: Eyes, step: int) -> None:
        self.eyes = eyes
        self.rng = np.random.default_rng([SEED, step])
        self.seed = FIRST_SEED + step * max(BATCHES.values())
        self.again: deque[tuple[ClipExample, int]] = deque()

    def next(self, batch: int) -> list[ClipExample]:
        """The examples of one step: a sixth new, the rest seen before (all new at the beginning)."""
        fresh = round(batch / USES + self.rng.random() - 0.5) if len(self.again) >= REPLAY else batch
        old = [self.again.popleft() for _ in range(batch - fresh)]
        examples = [watch(self.eyes, self.seed + i) for i in range(fresh)]
        self.seed += fresh
        self.again.extend((backwards(example), USES - 1) for example in examples)
        self.again.extend((backwards(example), left - 1) for example, left in old if left > 1)
        return examples + [example for example, _ in old]


def statistics(eyes: Eyes) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every pooled channel over 16 training clips."""
    last = TRAINING_SEEDS.stop
    features = torch.stack([watch(eyes, seed).features for seed in range(last - 16, last)]).float()
    return features.mean((0, 1)), features.std((0, 1)) + 1e-4


def step_losses(
    task: VideoTask, examples: list[ClipExample], count: int, rng: np.random.Generator, bfloat16: bool = False
) -> tuple[Tensor, Tensor]:
    """Losses of the answers, and of what the heads must know, of clips with `count` visible tokens."""
    blocks = [random_clip_blocks(e.clip, rng, TEXT_LENGTH) for e in examples]
    packed, traces = pack(blocks, TEXT_LENGTH), pack_traces(blocks, TEXT_LENGTH)
    visible = np.stack([choose_visible(e.priorities, count, rng) for e in examples])
    features = torch.stack([e.features[torch.from_numpy(v)] for e, v in zip(examples, visible, strict=True)]).float()
    tracks = torch.from_numpy(np.stack([e.tracks[v] for e, v in zip(examples, visible, strict=True)]))
    closed = rng.random(len(examples)) < CLOSED_SHARE
    positions, mask = positions_and_mask(visible, packed, closed, VIDEO_TOKENS)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out = task(features, torch.from_numpy(packed.tokens), positions, mask)
    out = {name: value.float() for name, value in out.items()}
    known = NAMED * where_loss(out["places"], out["frames"], visible)
    known = known + track_loss(out["tracks"], tracks) + trace_loss(out["traces"], torch.from_numpy(traces))
    known = known + COUNT_WEIGHT * count_loss(out["counts"], packed)
    return answer_loss(task.head, out["text"], packed), known


def validation_set(eyes: Eyes, clips: int) -> list[tuple[Tensor, Packed, list[str]]]:
    """Per clip its features, packed questions, and their families in order."""
    result = []
    for seed in range(VALIDATION_SEEDS.start, VALIDATION_SEEDS.start + clips):
        example = watch(eyes, seed)
        asked = generate_clip(seed, frames=FRAMES, questions_per_family=3).questions
        blocks = [clip_block(q.text, q.answer, q.family, example.clip) for q in asked]
        result.append((example.features[None].float(), pack([list(blocks)], 260), [q.family for q in asked]))
    return result


@torch.no_grad()
def validate(task: VideoTask, clips: list[tuple[Tensor, Packed, list[str]]]) -> dict[str, float]:
    """Share of questions per family whose whole answer is the greedy one, all tokens visible."""
    right, total = dict.fromkeys(CLIP_FAMILIES, 0), dict.fromkeys(CLIP_FAMILIES, 0)
    visible = np.arange(VIDEO_TOKENS)[None]
    for features, packed, families in clips:
        positions, mask = positions_and_mask(visible, packed, np.zeros(1, bool), VIDEO_TOKENS)
        hidden = task(features, torch.from_numpy(packed.tokens), positions, mask)["text"]
        labels = torch.from_numpy(packed.labels)
        good = (task.head(hidden).argmax(-1) == labels) | (labels < 0)
        for number, family in enumerate(families):
            right[family] += bool(good[torch.from_numpy(packed.blocks) == number].all())
            total[family] += 1
    return {f"val_{family}": right[family] / max(1, total[family]) for family in CLIP_FAMILIES}


def train(rank: int, ranks: int, options: argparse.Namespace) -> None:
    """The training loop, in one process."""
    picture = LlavaForConditionalGeneration.from_pretrained(options.start, local_files_only=True, dtype=torch.float32)
    eyes = Eyes(picture.model.vision_tower.state_dict())
    path, log = options.out / "video.pt", Log(options.out / "video.jsonl", rank)
    state = torch.load(path, weights_only=False) if path.exists() else None
    task = VideoTask(*((state["task"]["mean"], state["task"]["std"]) if state else statistics(eyes)))
    task.load_picture_model(picture)
    matrices, rest = split_matrices(task, lambda name: "decoder.layers." in name)
    optimizers = Optimizers(matrices, rest, options.muon_lr, options.adam_lr, decay=0.01)
    step, before = 0, 0.0
    if state:
        task.load_state_dict(state["task"])
        optimizers.restore(state["optimizers"])
        step, before = state["step"], state["seconds"]
    source = ClipSource(eyes, step)
    held = validation_set(eyes, options.validation_clips)
    clock, budget = Clock(before), options.minutes * 60
    saved, sums, logged, clips = clock.seconds(), torch.zeros(2), 0, 0
    while (seconds := clock.seconds()) < budget:
        progress = seconds / budget
        count = int(source.rng.choice(list(BATCHES), p=COUNT_SHARES if progress < LATE else LATE_COUNT_SHARES))
        examples = source.next(BATCHES[count])
        loss, known = step_losses(task, examples, count, source.rng, options.bfloat16)
        (loss + known).backward()
        optimizers.step(rate(progress, warmup=0.04))
        step, logged, clips = step + 1, logged + 1, clips + len(examples)
        sums += torch.stack([loss.detach(), known.detach()])
        if step % options.log_every == 0:
            answers, knowledge = (sums / logged).tolist()
            log.write(step=step, seconds=clock.seconds(), clips=clips, loss=answers, known=knowledge)
            sums, logged = torch.zeros(2), 0
        if step % options.validate_every == 0:
            log.write(step=step, seconds=clock.seconds(), **validate(task, held))
        if clock.seconds() - saved > 120:
            _save(path, task, optimizers, step, clock)
            saved = clock.seconds()
    log.write(step=step, seconds=clock.seconds(), final=True, **validate(task, held))
    _save(path, task, optimizers, step, clock)


def _save(path: Path, task: VideoTask, optimizers: Optimizers, step: int, clock: Clock) -> None:
    payload = {"task": task.state_dict(), "optimizers": optimizers.state(), "step": step, "seconds": clock.seconds()}
    save_atomically(payload, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-video"))
    parser.add_argument("--start", type=Path, default=Path("assets/tokviz-tiny"), help="the picture model's folder")
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--validation-clips", type=int, default=30)
    parser.add_argument("--bfloat16", action="store_true", help="products of the decoder in bfloat16 too")
    options = parser.parse_args()
    launch(train, 1, 29513, options)


if __name__ == "__main__":
    main()
