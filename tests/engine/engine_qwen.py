"""Tiny stock models of Qwen's families with random weights, prompts for them, and their part of the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from engine_models import PAD
from engine_oracle import _block, _signals
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tokviz.models.qwen2_5_vl import Qwen25VL
from tokviz.models.qwen2_vl import Qwen2VL
from tokviz.models.qwen3_vl import Qwen3VL

IMAGE, VIDEO, START, END = 90, 91, 92, 93
BLOCKS = 6
PATCH, MERGE = 4, 2
GRIDS = [(1, 8, 6), (1, 4, 10), (1, 6, 6), (1, 4, 4)]
"""Frames, rows and columns of patches of the pictures of a prompt, in turn: 12, 10, 9 and 4 tokens."""
VIDEO_GRID = (3, 4, 6)
SECONDS = [0.6, 2.3]
"""Between two grids of the videos of a prompt, in turn; Qwen2.5-VL counts time with them."""
FAMILIES = {"qwen2_vl": Qwen2VL(), "qwen2_5_vl": Qwen25VL(), "qwen3_vl": Qwen3VL()}
MODELS = {
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}


def n_tokens(grid):
    """Visual tokens of one picture or video."""
    return grid[0] * grid[1] * grid[2] // MERGE**2


def config(family: str) -> Any:
    """Tower of 4 blocks (Qwen2.5-VL: windows of 2 x 2 tokens except in blocks 1 and 2), decoder of 6 blocks.

    Qwen3-VL: blocks 0, 1 and 3 of the tower speak again behind blocks 0, 1 and 2 of the decoder.
    """
    text = {
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1,
        "eos_token_id": None, "pad_token_id": PAD,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 4, "num_heads": 2, "in_channels": 3, "patch_size": PATCH, "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }  # fmt: skip
    ids = {
        "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
    }  # fmt: skip
    if family == "qwen2_vl":
        vision |= {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}
        return Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    if family == "qwen3_vl":
        text |= {"head_dim": 8}
        vision |= {
            "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1, 3],
        }  # fmt: skip
        return Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    vision |= {
        "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1, 2],
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)


def build(family: str, dtype=torch.float64, attention="sdpa"):
    """Wide random weights: attention far from uniform, so that dropping a token changes the logits visibly."""
    torch.manual_seed(0)
    whole = config(family)
    whole._attn_implementation = attention
    model = MODELS[family](whole).eval()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.4 / parameter[0].numel() ** 0.5 if parameter.dim() != 5 else 0.2)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    model.generation_config.suppress_tokens = [IMAGE, VIDEO, START, END]
    return model.to(dtype)


def video_tokens(model, grid):
    """A video in a prompt. Qwen3-VL writes the time in front of every grid of frames (here number and a word)."""
    if model.config.model_type != "qwen3_vl":
        return [START, *[VIDEO] * n_tokens(grid), END]
    frame = [VIDEO] * n_tokens((1, *grid[1:]))
    return [token for number in range(grid[0]) for token in [10 + number, 20, START, *frame, END]]


def prompt(model, rows, seed=1):
    """Inputs of a left-padded batch; each row is a list of "picture", "video" and counts of text tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids, images, videos = [], [], []
    for parts in rows:
        row: list[int] = []
        for part in parts:
            if part == "picture":
                images.append(GRIDS[len(images) % len(GRIDS)])
                row += [START, *[IMAGE] * n_tokens(images[-1]), END]
            elif part == "video":
                videos.append(VIDEO_GRID)
                row += video_tokens(model, videos[-1])
            else:
                row += torch.randint(2, 89, (part,), generator=generator).tolist()
        ids.append(row)
    length = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids]),
    }
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int() + 2 * (inputs["input_ids"] == VIDEO).int()
    for grids, pixels, name in ((images, "pixel_values", "image"), (videos, "pixel_values_videos", "video")):
        if grids:
            n = sum(t * h * w for t, h, w in grids)
            inputs[pixels] = torch.randn(n, 3 * 2 * PATCH * PATCH, generator=generator).to(model.dtype)
            inputs[f"{name}_grid_thw"] = torch.tensor(grids)
    if videos and model.config.model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([SECONDS[n % len(SECONDS)] for n in range(len(videos))])
    return inputs


@dataclass
class Row:
    """One row of a batch alone, as the stock model sees it.

    Shape: ids ``(L,)``; embeds ``(L, D)`` with pictures written in; visual ``(n,)`` columns; positions ``(3, L)``;
    delta: what decoding adds to the number of a new token; deepstack: ``(n, D)`` for each of the first blocks.
    """

    ids: torch.Tensor
    embeds: torch.Tensor
    visual: torch.Tensor
    positions: torch.Tensor
    delta: int
    deepstack: list[torch.Tensor]


@torch.no_grad()
def rows_alone(model, inputs):
    """Each row of a batch without padding and neighbours, through the stock model's own parts."""
    name, token = ("video", VIDEO) if "video_grid_thw" in inputs else ("image", IMAGE)
    pixels = inputs.get("pixel_values_videos" if name == "video" else "pixel_values")
    grids = inputs.get(f"{name}_grid_thw", torch.empty(0, 3, dtype=torch.long))
    encode = getattr(model.model, f"get_{name}_features")
    found, first, start = [], 0, 0
    for ids, real in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        ids = ids[real]
        embeds, visual, n_mine = model.get_input_embeddings()(ids).clone(), (ids == token).nonzero()[:, 0], 0
        while sum(n_tokens(grid.tolist()) for grid in grids[first : first + n_mine]) < len(visual):
            n_mine += 1
        positions, delta, deepstack = torch.arange(len(ids)).expand(3, -1), 0, []
        if n_mine:
            grid = grids[first : first + n_mine]
            end = start + int(grid.prod(dim=1).sum())
            encoded = encode(pixels[start:end], grid)
            embeds[visual] = torch.cat(encoded.pooler_output)
            deepstack = [torch.cat(block) for block in getattr(encoded, "deepstack_features", [])]
            kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
            told = {f"{name}_grid_thw": grid}
            if "second_per_grid_ts" in inputs:
                told["second_per_grid_ts"] = inputs["second_per_grid_ts"][first : first + n_mine]
            positions, deltas = model.model.get_rope_index(ids[None], kinds[None], **told)
            positions, start = positions[:, 0], end
            # generate goes on from the last token; a video's time can run ahead of it, which rope deltas count.
            delta = int(positions[0, -1]) + 1 - len(ids)
            assert name == "video" or delta == int(deltas)
        first += n_mine
        found.append(Row(ids, embeds, visual, positions, delta, deepstack))
    return found


def oracle(model, inputs, stages, choose, new_tokens):
    """Logits that predict each of ``new_tokens`` and what every stage kept, as ``engine_oracle.oracle``."""
    rows = rows_alone(model, inputs)
    found = [_one(model, row, stages, choose, n, new_tokens[n]) for n, row in enumerate(rows)]
    return torch.stack([logits for logits, _ in found], dim=1), [kept for _, kept in found]


@torch.no_grad()
def _one(model, row, stages, choose, number, new_tokens):
    """Own loop over the blocks on the full-length sequence: dropped tokens are masked out as keys, none is removed."""
    lm, n_prompt = model.model.language_model, len(row.ids)
    fresh = torch.arange(n_prompt, n_prompt + len(new_tokens) - 1) + row.delta
    hidden = torch.cat([row.embeds, lm.embed_tokens(new_tokens[:-1])])
    state = {"hidden": hidden, "key": torch.ones(len(hidden), dtype=torch.bool), "maps": {}, "inputs": {}, "keys": {}}
    state["positions"] = torch.cat([row.positions, fresh.expand(3, -1)], dim=1)
    alive, kept_by_stage = torch.arange(len(row.visual)), []
    pending = list(stages) if len(row.visual) else []
    for site in ["projector", *range(len(lm.layers))]:
        while pending and pending[0].site == site:
            stage = pending.pop(0)
            if not len(alive):
                continue
            columns = row.visual[alive]
            signals = _signals(lm, stage, state, columns, None, row.visual, n_prompt)
            selection = choose(stage, signals, number)
            dropped = torch.ones(len(alive), dtype=torch.bool)
            dropped[selection.kept] = False
            if selection.features is not None:
                state["hidden"][columns[selection.kept]] = selection.features
            state["key"][columns[dropped]] = False
            alive = alive[selection.kept]
            kept_by_stage.append(alive.tolist())
        if site == "projector":
            state["llm_input"] = state["hidden"].clone(), row.visual[alive]
        else:
            state["inputs"][site] = state["hidden"].clone()
            state["hidden"], state["maps"][site], state["keys"][site] = _block(lm, site, state)
            if site < len(row.deepstack):
                state["hidden"][row.visual] += row.deepstack[site]  # of dropped tokens, too: nobody looks at them
    return model.lm_head(lm.norm(state["hidden"]))[n_prompt - 1 :], kept_by_stage
