"""Puts the trained parts together as a stock LLaVA folder.

python -m training.export --out assets/tokviz-tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from training.architecture import build_model, save_folder


def assemble(vision: dict[str, torch.Tensor], language: dict[str, torch.Tensor]) -> LlavaForConditionalGeneration:
    """The stock model from the states of `VisionTask` and `LanguageTask`; standardisation moves into the projector."""
    model = build_model()
    tower = {k.removeprefix("tower."): v for k, v in vision.items() if k.startswith("tower.")}
    model.model.vision_tower.load_state_dict(tower)

    model.model.multi_modal_projector.load_state_dict(raw_projector(language))
    model.model.language_model.load_state_dict(part(language, "decoder"))
    model.lm_head.load_state_dict(part(language, "head"))
    return model.eval()


def part(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The weights of one part of a task, under the names that they have there."""
    return {k.removeprefix(f"{name}."): v.clone() for k, v in state.items() if k.startswith(f"{name}.")}


def raw_projector(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The projector of a task for features that are not standardised."""
    projector = part(state, "projector")
    scaled = projector["linear_1.weight"].double() / state["std"].double()
    projector["linear_1.bias"] = (projector["linear_1.bias"].double() - scaled @ state["mean"].double()).float()
    projector["linear_1.weight"] = scaled.float()
    return projector


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=Path("assets/tokviz-tiny"))
    options = parser.parse_args()
    vision = torch.load(options.runs / "vision.pt", weights_only=False)["task"]
    language = torch.load(options.runs / "language.pt", weights_only=False)["task"]
    save_folder(assemble(vision, language), options.out)


if __name__ == "__main__":
    main()
