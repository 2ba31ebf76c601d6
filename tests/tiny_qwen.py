"""Tiny stock models of Qwen's families, and what their towers make of images and videos, by hand.

A tower takes the patches of all images as one sequence; 2 x 2 of them become one token, of a video those of two
frames together. The LLM has positions with three axes; Qwen3-VL's is told more of the tower behind its first layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from tiny_case import IMAGE, N_FRAMES, TEMPLATE, VIDEO, Case, Cell, Seen, noise, text, tokenizer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tokviz.names import Media
from tokviz.types import DEEP_ATTENTION, ENCODER_KEYS, OBJECT_ATTENTION, RECEIVED_ATTENTION, SHALLOW_ATTENTION, Need

START, END = 92, 93
MARKS = {"<|image_pad|>": IMAGE, "<|video_pad|>": VIDEO, "<|vision_start|>": START, "<|vision_end|>": END}
PATCH, MERGE = 4, 2
CELL = (PATCH * MERGE) ** 2
TEMPLATE = TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>").replace(
    "<video>", "<|vision_start|><|video_pad|><|vision_end|>"
)
SECONDS = 1.7
"""Between two grids of a video; Qwen2.5-VL counts time with them."""
KINDS: dict[str, tuple[Any, Any, Any, Any]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, Qwen2VLVideoProcessor),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor),
}


def config(family: str) -> Any:
    """Tower of 4 layers (Qwen2.5-VL: windows of 2 x 2 tokens except in layers 1 and 2), decoder of 6 layers.

    Qwen3-VL: layers 0, 1 and 3 of the tower speak again behind layers 0, 1 and 2 of the decoder.
    """
    sizes: dict[str, Any] = {
        "depth": 4, "num_heads": 2, "in_channels": 3, "patch_size": PATCH, "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }  # fmt: skip
    decoder = text(dict, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]})
    if family == "qwen2_vl":
        sizes |= {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}
    elif family == "qwen2_5_vl":
        sizes |= {
            "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1, 2],
        }  # fmt: skip
    else:
        decoder |= {"head_dim": 8}
        sizes |= {
            "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1, 3],
        }  # fmt: skip
    return KINDS[family][0](
        text_config=decoder, vision_config=sizes, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip


class Patches:
    """The patches of one image or video, frame by frame. Shape: pixels ``(patches, values)``, grid ``(3,)``."""

    def __init__(self, pixels: torch.Tensor, grid: torch.Tensor) -> None:
        self.pixels, self.grid = pixels, grid

    def __len__(self) -> int:
        return int(self.grid[0])


class TinyQwen(Case):
    """``family`` is one of ``KINDS``."""

    early = ("projector",)
    vision = (RECEIVED_ATTENTION, ENCODER_KEYS, OBJECT_ATTENTION, DEEP_ATTENTION, SHALLOW_ATTENTION)

    def __init__(self, family: str, media: Media = "image") -> None:
        super().__init__(media)
        self.family = family  # type: ignore[misc]

    def build(self) -> Any:
        """See ``config``."""
        return KINDS[self.family][1](config(self.family))

    def processor(self) -> Any:
        """The real one: up to 30 cells an image, 12 a frame."""
        _, _, kind, videos = KINDS[self.family]
        together = 2 * 2 if self.family == "qwen3_vl" else 1  # its limits are of all frames, of which 3 count as 4
        return kind(
            Qwen2VLImageProcessor(patch_size=PATCH, size={"shortest_edge": 4 * CELL, "longest_edge": 30 * CELL}),
            tokenizer(MARKS),
            videos(
                patch_size=PATCH,
                size={"shortest_edge": 4 * CELL * together, "longest_edge": 12 * CELL * together},
                cap_pixels_per_frame=False,
            ),
            TEMPLATE,
        )

    def layout(self, media: Media, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """As many cells as the real processor makes; four patches that follow each other are a token."""
        return _cells(_grid(self, media, size))

    def layouts(self, inputs: dict[str, torch.Tensor]) -> list[list[Cell]]:
        """As the grids say."""
        return [_cells(tuple(mine.grid.tolist())) for mine in self.images(inputs)]

    def span(self, media: Media, cells: Sequence[Cell]) -> list[int]:
        """Between marks; Qwen3-VL writes the time (here a number and a word) in front of every grid of a video."""
        if media == "image" or self.family != "qwen3_vl":
            return [START, *super().span(media, cells), END]
        frames = [list(frame) for _, frame in itertools.groupby(cells, lambda cell: cell.image)]
        return [
            token
            for n, frame in enumerate(frames)
            for token in [10 + n, 20, START, *super(TinyQwen, self).span(media, frame), END]
        ]

    def further(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Which tokens are visual, without which positions would be those of text; and how time goes on."""
        ids = inputs["input_ids"]
        made = {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}
        if "video_grid_thw" in inputs and self.family == "qwen2_5_vl":
            made["second_per_grid_ts"] = torch.full((len(inputs["video_grid_thw"]),), SECONDS)
        return made

    def images(self, inputs: dict[str, torch.Tensor]) -> list[Any]:
        """Per image or video its ``Patches``."""
        names = (
            ("pixel_values", "image_grid_thw") if self.media == "image" else ("pixel_values_videos", "video_grid_thw")
        )
        pixels, grids = (inputs[name] for name in names)
        return [Patches(*pair) for pair in zip(pixels.split(grids.prod(dim=1).tolist()), grids, strict=True)]

    @torch.no_grad()
    def seen(self, model: Any, inputs: dict[str, torch.Tensor]) -> list[Seen | None]:
        """Each row's images run through the tower alone."""
        images = self.images(inputs) if any(name.startswith("pixel_values") for name in inputs) else []
        found: list[Seen | None] = []
        for ids, real in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
            left, mine = int(self.is_visual(ids).sum()), []
            while left:
                mine.append(images.pop(0))
                left -= len(mine[-1].pixels) // MERGE**2
            found.append(self._seen(model, ids[real], mine) if mine else None)
        assert not images
        return found

    def _seen(self, model: Any, ids: torch.Tensor, images: list[Patches]) -> Seen:
        grids = torch.stack([image.grid for image in images])
        made = model.model.visual(torch.cat([image.pixels for image in images]), grid_thw=grids)
        name, told = "image" if self.media == "image" else "video", {}
        if self.media == "video" and self.family == "qwen2_5_vl":
            told["second_per_grid_ts"] = torch.full((len(grids),), SECONDS)
        kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        positions, _ = model.model.get_rope_index(ids[None], kinds[None], **{f"{name}_grid_thw": grids}, **told)
        frames = [h * w for t, h, w in grids.tolist() for _ in range(t)]
        starts = list(itertools.accumulate(frames, initial=0))
        tile = torch.cat([torch.full((n // MERGE**2,), number) for number, n in enumerate(frames)])
        return Seen(
            made.pooler_output, made.pooler_output, tile, torch.arange(starts[-1]).view(-1, MERGE**2),
            positions=positions[:, 0], deepstack=tuple(getattr(made, "deepstack_features", ())),
        )  # fmt: skip

    def by_hand(self, model: Any, images: Any) -> dict[Need, torch.Tensor]:
        """Attention received within frames, and keys, of the last layer that looks at whole frames.

        Also attention received in the object layer, the second of four.
        """
        received, keys = self._of_block(model, images, 2 if self.family == "qwen2_5_vl" else 3)
        return {
            RECEIVED_ATTENTION: received,
            DEEP_ATTENTION: received,
            ENCODER_KEYS: keys,
            OBJECT_ATTENTION: self._of_block(model, images, 1)[0],
            # A quarter of the way, the first; of Qwen2.5-VL that has windows, and the first without follows.
            SHALLOW_ATTENTION: self._of_block(model, images, int(self.family == "qwen2_5_vl"))[0],
        }

    def _of_block(self, model: Any, images: Any, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention received within frames, and keys, in the order of the LLM. Shape: ``(frames, n, ...)`` each.

        The order of the patches in the tower is found by comparing what enters layer 0 with what the embedding of
        patches made, in a run without learned positions (which Qwen3-VL adds in between).
        """
        tower, states = deepcopy(model.model.visual), {}
        attention = tower.blocks[number].attn
        tower.patch_embed.register_forward_hook(lambda _m, _a, output: states.update(patches=output))
        tower.blocks[0].register_forward_pre_hook(lambda _m, args: states.update(entered=args[0]))
        attention.register_forward_pre_hook(
            lambda _m, args, kwargs: states.update(hidden=args[0] if args else kwargs["hidden_states"],
                                                   rotary=kwargs["position_embeddings"]),
            with_kwargs=True,
        )  # fmt: skip
        tower(images.pixels, grid_thw=images.grid[None])
        hidden, (cos, sin) = states["hidden"], states["rotary"]
        if hasattr(tower, "pos_embed"):
            torch.nn.init.zeros_(tower.pos_embed.weight)
            tower(images.pixels, grid_thw=images.grid[None])
        order = [int((states["patches"] == row).all(dim=1).nonzero()) for row in states["entered"]]
        query, key, _ = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)

        def turned(vectors: torch.Tensor) -> torch.Tensor:
            first, second = vectors.chunk(2, dim=-1)
            return vectors * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]

        query, key = (turned(half).unflatten(0, (len(images), -1)).transpose(1, 2) for half in (query, key))
        received = (query @ key.transpose(2, 3) * key.shape[-1] ** -0.5).softmax(-1).mean(dim=(1, 2))
        placed = torch.empty_like(received.flatten()), torch.empty_like(key.mean(1).flatten(0, 1))
        placed[0][order], placed[1][order] = received.flatten(), key.mean(1).flatten(0, 1)
        received, keys = (rows.unflatten(0, (len(images), -1)) for rows in placed)
        return received, keys


@cache
def _grid(case: TinyQwen, media: Media, size: tuple[int, int]) -> tuple[int, ...]:
    """Frames, rows and columns of patches that the real processor makes of an image or video of this size."""
    frames = [noise(*size, seed=0)] * N_FRAMES
    made = case.encoded(_ANY_DTYPE, media, [frames[0] if media == "image" else frames])
    return tuple(made["image_grid_thw" if media == "image" else "video_grid_thw"][0].tolist())


_ANY_DTYPE = torch.zeros(0)


def _cells(grid: tuple[int, ...]) -> list[Cell]:
    frames, rows, columns = grid
    tokens = rows * columns // MERGE**2
    return [
        Cell(frame, token, tuple(range(MERGE**2 * token, MERGE**2 * (token + 1))))
        for frame in range(frames)
        for token in range(tokens)
    ]
