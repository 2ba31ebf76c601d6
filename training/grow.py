"""Stage 0: weights of a coarser model as the starting point of a finer one.

    python -m training.grow --folder FOLDER

The tower's patch kernel and its position embeddings are interpolated to the patches of `training.architecture`; the
decoder is taken as it is, with rows for new words left untrained. Writes `vision-start.pt` and `language-start.pt`.
A coarse start is worth hours on a CPU: what a patch shows is known from the first step, only finer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from training.architecture import GRID, PATCH
from training.loop import save_atomically


def grow_kernel(kernel: Tensor, patch: int) -> Tensor:
    """The patch embedding for other patches: the same response to the same (stretched) content.

    Shape:
        kernel: (D, 3, p, p); returns (D, 3, patch, patch).
    """
    old = kernel.shape[-1]
    if old == patch:
        return kernel.clone()
    resized = F.interpolate(kernel, size=(patch, patch), mode="bicubic", align_corners=False, antialias=True)
    return resized * (old / patch) ** 2


def grow_positions(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings for a finer grid; [CLS] keeps its own.

    Shape:
        positions: (1 + g * g, D); returns (1 + grid * grid, D).
    """
    cls, patches = positions[:1], positions[1:]
    old = round(len(patches) ** 0.5)
    if old == grid:
        return positions.clone()
    plane = patches.T.reshape(1, -1, old, old)
    resized = F.interpolate(plane, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([cls, resized.reshape(patches.shape[1], grid * grid).T])


def grow_tower(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tower's weights on the patches and the grid of `training.architecture`."""
    grown = {}
    for name, value in state.items():
        if name.endswith("patch_embedding.weight"):
            value = grow_kernel(value, PATCH)
        elif name.endswith("position_embedding.weight"):
            value = grow_positions(value, GRID)
        elif name.endswith("position_ids"):
            continue
        grown[name] = value
    return grown


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("assets/tokviz-tiny"), help="the model to start from")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    options = parser.parse_args()
    model = LlavaForConditionalGeneration.from_pretrained(options.folder, local_files_only=True, dtype=torch.float32)
    tower = grow_tower(model.model.vision_tower.state_dict())
    save_atomically({"task": {f"tower.{k}": v for k, v in tower.items()}}, options.out / "vision-start.pt")
    parts = {
        "projector": model.model.multi_modal_projector,
        "decoder": model.model.language_model,
        "head": model.lm_head,
    }
    language = {f"{part}.{k}": v for part, module in parts.items() for k, v in module.state_dict().items()}
    save_atomically({"task": language}, options.out / "language-start.pt")
    print(f"wrote {options.out}/vision-start.pt and {options.out}/language-start.pt")


if __name__ == "__main__":
    main()
