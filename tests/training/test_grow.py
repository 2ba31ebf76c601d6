"""A coarse model becomes a fine one: patches answer alike, places stay where they are, and nothing else changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from scenes import HELD_OUT_SEEDS, generate_scene
from training import grow
from training.architecture import GRID, PATCH, build_model, pixel_values, save_folder
from training.export import assemble
from training.grow import grow_kernel, grow_positions, grow_tower
from training.language import LanguageTask
from training.vision import VisionTask


def smooth(size: int, channels: int = 4) -> torch.Tensor:
    """Blurred noise, as trained kernels are: (channels, 3, size, size)."""
    coarse = torch.randn(channels, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)


def test_a_grown_kernel_answers_to_flat_content_as_before() -> None:
    before, after = smooth(16).sum((1, 2, 3)), grow_kernel(smooth(16), 14).sum((1, 2, 3))
    assert torch.allclose(before, after, atol=0.01 * smooth(16).abs().sum((1, 2, 3)).min())


def test_a_grown_kernel_answers_to_stretched_content_as_before() -> None:
    def content(size: int) -> torch.Tensor:
        along = (torch.arange(size) + 0.5) / size
        down, across = torch.meshgrid(along, along, indexing="ij")
        return torch.stack([down, across, torch.sin(5 * down) * across])

    before = (smooth(16) * content(16)).sum((1, 2, 3))
    after = (grow_kernel(smooth(16), 14) * content(14)).sum((1, 2, 3))
    assert torch.allclose(before, after, atol=0.01 * (smooth(16) * content(16)).abs().sum((1, 2, 3)).min())
    # Without the factor for the number of pixels it would answer to 14 * 14 of 16 * 16 only.
    assert not torch.allclose(before, after * (14 / 16) ** 2, atol=0.02 * before.abs().max())


def test_a_kernel_and_positions_of_the_same_size_stay_bit_for_bit() -> None:
    kernel, positions = smooth(PATCH), torch.randn(1 + GRID * GRID, 6)
    assert torch.equal(grow_kernel(kernel, PATCH), kernel)
    assert torch.equal(grow_positions(positions, GRID), positions)


def test_grown_positions_keep_cls_and_lie_where_the_patches_lie() -> None:
    old, new = 12, 24
    rows, columns = torch.meshgrid(torch.arange(old) + 0.5, torch.arange(old) + 0.5, indexing="ij")
    field = torch.stack([rows, columns], dim=-1).reshape(-1, 2) / old
    grown = grow_positions(torch.cat([torch.full((1, 2), 7.0), field]), new)
    assert grown.shape == (1 + new * new, 2)
    assert torch.equal(grown[0], torch.full((2,), 7.0))
    along = (torch.arange(new) + 0.5) / new
    inner = slice(4, -4)  # at the border there is nothing to interpolate with
    eighth = 1 / new / 8  # of a fine patch; torch's bicubic bends straight lines a little
    plane = grown[1:].reshape(new, new, 2)[inner, inner]
    assert torch.allclose(plane[..., 0], along[inner, None].expand(plane.shape[:2]), atol=eighth)
    assert torch.allclose(plane[..., 1], along[None, inner].expand(plane.shape[:2]), atol=eighth)


def test_a_coarse_tower_fits_into_the_fine_one() -> None:
    fine = VisionTask().tower
    coarse = dict(fine.state_dict())
    (kernel,) = [name for name in coarse if name.endswith("patch_embedding.weight")]
    (position,) = [name for name in coarse if name.endswith("position_embedding.weight")]
    coarse[kernel], coarse[position] = torch.randn(192, 3, 16, 16), torch.randn(1 + 144, 192)
    grown = grow_tower(coarse)
    left = fine.load_state_dict(grown, strict=False)
    assert not left.unexpected_keys and not [key for key in left.missing_keys if not key.endswith("position_ids")]


@pytest.mark.generator
@torch.no_grad()
def test_growing_to_the_same_size_and_exporting_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way through the files: folder, grow, both training tasks, export, folder."""
    torch.manual_seed(3)
    model = build_model(seed=5).eval()
    save_folder(model, tmp_path / "folder")
    monkeypatch.setattr(sys, "argv", ["grow", "--folder", str(tmp_path / "folder"), "--out", str(tmp_path / "runs")])
    grow.main()
    vision, language = VisionTask(), LanguageTask(torch.randn(192), torch.rand(192) + 0.5)
    vision.load_state_dict(torch.load(tmp_path / "runs" / "vision-start.pt")["task"], strict=False)
    language.load_grown(torch.load(tmp_path / "runs" / "language-start.pt")["task"])
    again = assemble(vision.state_dict(), language.state_dict())
    assert isinstance(again, LlavaForConditionalGeneration)
    scene = generate_scene(HELD_OUT_SEEDS[0], questions_per_family=0)
    ids = torch.tensor([[1, 5, *[4] * (GRID * GRID), 7, 9, 12, 20, 6]])
    inputs = {"input_ids": ids, "pixel_values": pixel_values(scene.image[None])}
    assert torch.allclose(model(**inputs).logits, again(**inputs).logits, atol=1e-3)
