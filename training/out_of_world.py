"""Tells pictures that are unlike what the model was trained on, by how its own tower reacts to them.

    python -m training.out_of_world [FOLDER]    # fits the statistics -> FOLDER/out_of_world.npz

Score: take the tower's hidden states in its middle, the spread of every channel over the patches (a picture is a point
in as many dimensions as the tower is wide), and the Mahalanobis distance of that point from those of training scenes.
The covariance is kept as its largest directions and one variance for all others, so that the file has a few kilobytes.

What was tried on the second edition of the model, share of 144 cuts of 12 photographs beyond the threshold of 1 % false
alarms: spreads in the middle of the tower 99 %, means there 93 %, both 96 %; in the states that the projector reads
(one block before the last) 55 %, 92 %, 92 %; there, per patch, the median distance 92 %, to the nearest of 512 typical
patches 91 %, left over by 16 principal components 91 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from scenes import HELD_OUT_SEEDS, TRAINING_SEEDS, generate_scene
from testworld import backgrounds, generate_world
from tokviz.models.out_of_world import FILE, WorldStatistics, spread
from training import tally
from training.scoring import load_folder

FALSE_ALARMS = 0.01
"""Share of training scenes that the threshold may call outside."""
DIRECTIONS = 32
SHRINK = 0.2
"""Share of the covariance that is replaced by an even one: few scenes say little about its small directions."""
FIT_FROM, HELD_OUT_FROM, SECOND_FROM = 90_000_000, 5_000_000, 70_000
"""First seeds: of training scenes far behind those that the stages draw, of held-out scenes, of the second world."""
CHUNK = 4
SENTENCE = (
    "Mahalanobis distance of the spread over the patches of each channel in the middle of the tower, from training "
    "scenes."
)


@torch.no_grad()
def spreads_of(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The same from processed pixels.

    Shape:
        pixels: (B, 3, H, W); returns (B, V).
    """
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return spread(hidden[middle_of(model)][:, 1:])


def middle_of(model: LlavaForConditionalGeneration) -> int:
    """The layer of the tower in front of which its states are read."""
    return (int(model.config.vision_config.num_hidden_layers) + 1) // 2


def fit(spreads: Tensor, others: Tensor, layer: int) -> WorldStatistics:
    """Statistics of some scenes, with a threshold from others.

    Shape:
        spreads: (B, V); others: (C, V).
    """
    mean = spreads.mean(0)
    covariance = torch.cov(spreads.double().T)
    width = len(covariance)
    even = torch.eye(width, dtype=torch.float64) * covariance.trace() / width
    values, vectors = torch.linalg.eigh((1 - SHRINK) * covariance + SHRINK * even)
    kept = min(DIRECTIONS, width - 1)
    # Rounded as the file rounds them, so that a loaded file gives the same scores.
    directions = vectors[:, -kept:].T.half().float()
    variances, other = values[-kept:].float(), float(values[:-kept].mean())
    loose = WorldStatistics(mean, directions, variances, other, 0.0, layer, FALSE_ALARMS)
    threshold = float(torch.quantile(loose.distance(others), 1 - FALSE_ALARMS))
    return WorldStatistics(mean, directions, variances, other, threshold, layer, FALSE_ALARMS)


def _see(name: str, model: Any, processor: LlavaProcessor, images: Iterable[NDArray[np.uint8]], count: int) -> Tensor:
    """Spreads of pictures, through the stock image processor; says on stderr how far it is."""
    waiting: list[NDArray[np.uint8]] = []
    found: list[Tensor] = []
    for number, image in enumerate(images, 1):
        waiting.append(image)
        if len(waiting) == CHUNK or number == count:
            pixels = processor.image_processor(waiting, return_tensors="pt")["pixel_values"]
            found.append(spreads_of(model, pixels))
            waiting = []
            print(f"\r{name}: {number} of {count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return torch.cat(found)


def fit_folder(model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: int) -> WorldStatistics:
    """WorldStatistics of a model from `scenes` training scenes, and as many for the threshold."""
    images = (generate_scene(TRAINING_SEEDS[FIT_FROM + i], questions_per_family=0).image for i in range(2 * scenes))
    seen = _see("training scenes", model, processor, images, 2 * scenes)
    return fit(seen[:scenes], seen[scenes:], middle_of(model))


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """How likely a picture from outside scores higher than one from inside; equal scores count half."""
    low, high = np.array(inside)[:, None], np.array(outside)[None, :]
    return float((low < high).mean() + (low == high).mean() / 2)


def measure(asked: Any, folder: Path, count: int) -> dict[str, Any]:
    """How the score tells photographs from drawings.

    Args:
        asked: with `model` and `processor`.
        folder: where the statistics lie; they are fitted on the spot where there are none.
        count: pictures of each sort.
    """
    path = folder / FILE
    stored = path.exists()
    statistics = WorldStatistics.load(path) if stored else fit_folder(asked.model, asked.processor, count)
    rng = np.random.default_rng(0)
    photographs = backgrounds.photographs()
    cuts = {name: max(2, count // len(photographs)) for name in photographs}
    worlds = [generate_world(SECOND_FROM + i, questions_per_family=0) for i in range(count)]
    pictures = {
        "held-out scenes": [
            generate_scene(HELD_OUT_SEEDS[HELD_OUT_FROM + i], questions_per_family=0).image for i in range(count)
        ],
        "second world, drawn ground": [world.image for world in worlds if world.background != "photograph"],
        "second world, photograph behind": [world.image for world in worlds if world.background == "photograph"],
        **{
            f"photograph: {name}": [backgrounds.cut(photographs[name], 336, rng) for _ in range(cuts[name])]
            for name in photographs
        },
    }
    scores = {
        name: statistics.distance(_see(name, asked.model, asked.processor, images, len(images))).tolist()
        for name, images in pictures.items()
        if images
    }
    shots = [score for name, part in scores.items() if name.startswith("photograph: ") for score in part]
    scores = {"photographs": shots, **scores}
    inside = scores["held-out scenes"]
    drawn = scores.get("second world, drawn ground", [])
    return {
        "score": SENTENCE,
        "statistics": f"{FILE}, {path.stat().st_size} bytes" if stored else "fitted for this report",
        "false_alarms_wanted": FALSE_ALARMS,
        "threshold": round(statistics.threshold, 4),
        "photographs": len(photographs),
        "auroc_photographs_second_world": round(auroc(drawn, shots), 4) if drawn else None,
        "photographs_beyond_second_world": _beyond(drawn, shots) if drawn else None,
        "sorts": {name: _sort(part, statistics.threshold, inside) for name, part in scores.items()},
    }


def _beyond(drawn: Sequence[float], shots: Sequence[float], share: float = 0.95) -> float:
    """Share of photographs that score higher than `share` of drawn pictures."""
    return round(float(np.mean(np.array(shots) > np.quantile(drawn, share))), 4)


def _sort(scores: Sequence[float], threshold: float, inside: Sequence[float]) -> dict[str, Any]:
    flagged = sum(score > threshold for score in scores)
    low, high = tally.wilson(flagged, len(scores))
    return {
        "n": len(scores),
        "median": round(float(np.median(scores)), 4),
        "flagged": {"share": round(flagged / len(scores), 4), "low": low, "high": high, "n": len(scores)},
        "auroc": None if scores is inside else round(auroc(inside, scores), 4),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("assets/tokviz-tiny"))
    parser.add_argument("--scenes", type=int, default=600, help="for the statistics, and as many for the threshold")
    options = parser.parse_args()
    if options.scenes < 100:
        parser.error("expected at least 100 scenes: the threshold is their 99th percentile")
    torch.set_num_threads(1)
    statistics = fit_folder(*load_folder(options.folder), options.scenes)
    statistics.save(options.folder / FILE)
    size = (options.folder / FILE).stat().st_size
    print(f"{FILE}: {size} bytes, threshold {statistics.threshold:.3f}")


if __name__ == "__main__":
    main()
