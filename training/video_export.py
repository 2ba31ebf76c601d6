"""Puts the trained parts together as a stock LLaVA-NeXT-Video folder.

    python -m training.video_export --out assets/tokviz-tiny-video

The weights are stored in float16, half the size, and load as float32: config.json says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaNextVideoForConditionalGeneration

from training.export import part, raw_projector
from training.video_architecture import build_video_model, build_video_processor


def assemble_video(tower: dict[str, Tensor], video: dict[str, Tensor]) -> LlavaNextVideoForConditionalGeneration:
    """The stock model from the picture model's tower and the state of `VideoTask`."""
    model = build_video_model()
    model.model.vision_tower.load_state_dict(tower)
    model.model.multi_modal_projector.load_state_dict(raw_projector(video))
    model.model.language_model.load_state_dict(part(video, "decoder"))
    model.lm_head.load_state_dict(part(video, "head"))
    # Only pictures have newlines, and no picture was trained on: what says nothing should be nothing.
    torch.nn.init.zeros_(model.model.image_newline)
    return model.eval()


def save_video_folder(model: LlavaNextVideoForConditionalGeneration, folder: Path) -> None:
    """Write the model and its processor where `from_pretrained` finds them."""
    model.save_pretrained(folder, state_dict={name: value.half() for name, value in model.state_dict().items()})
    build_video_processor().save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny-video"))
    parser.add_argument("--start", type=Path, default=Path("assets/tokviz-tiny"), help="the picture model's folder")
    parser.add_argument("--out", type=Path, default=Path("assets/tokviz-tiny-video"))
    options = parser.parse_args()
    picture = LlavaForConditionalGeneration.from_pretrained(options.start, local_files_only=True, dtype=torch.float32)
    state = torch.load(options.runs / "video.pt", weights_only=False)["task"]
    save_video_folder(assemble_video(picture.model.vision_tower.state_dict(), state), options.out)


if __name__ == "__main__":
    main()
