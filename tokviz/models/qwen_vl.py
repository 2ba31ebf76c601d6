"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: 2 x 2 patches become one token, positions have three axes.

transformers is imported inside functions: families are asked about configurations before it is loaded.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, Unsupported
from ..grids import nearest_grid
from ..names import Media, VideoFacts
from ..records import TokenGrid
from ..types import PlanningInfo
from .base import (
    BOTH,
    ImageTokens,
    ModelFamily,
    PatchMerging,
    TowerLayer,
    object_layer,
    prefill_flops,
    shallow_layer,
    stated,
)
from .qwen_geometry import merged_patch_grid, planned_tokens, refused_in_a_sentence
from .shrinking import Shrunk, coarser, each_frame, share_of_frame

FRAMES_PER_SECOND = 2.0
"""At which the published models look at videos, where their processors do not say."""


class QwenVL(ModelFamily):
    """Vision tower without [CLS] whose patches of all images form one sequence; decoder with mRoPE.

    Kept tokens keep their three position ids (``methods.md`` 0.4). All published families merge ``m x m`` patches
    (``spatial_merge_size``) into one token, and of a video those of two frames that follow each other. A subclass says
    which layers attend over whole frames, and in which order the tower sees the tokens, where that is not all of them
    in the order of the LLM. The tower cannot drop tokens on the way: there would be no 2 x 2 groups left to merge
    (``methods.md`` 9).
    """

    takes = BOTH
    published_as = "qwen"
    shrinks = BOTH
    reindexes = False
    merges_patches = True
    placeholders = ("image_token_id", "video_token_id")
    attention_name = "attn"

    def vision_layer(self, model: Any, layer: TowerLayer, media: Media = "image") -> nn.Module:
        """The last layer that attends over whole frames, for both: the features leave the last layer.

        The object layer is the last such one in the first half (HiPrune: number 16 of 32), the shallow one the last in
        the first quarter (VScan: 8).
        """
        vision = model.config.vision_config
        among = {"object": object_layer(vision.depth, 16, 32), "shallow": shallow_layer(vision.depth)}.get(layer)
        number = self.last_whole_frame_layer(vision, among)
        found: nn.Module = model.base_model.visual.blocks[number]
        return found

    def last_whole_frame_layer(self, vision: Any, among: int | None = None) -> int:
        """Number of the last layer whose attention is not cut into windows: by default the very last.

        among: how many layers, from the first, are looked at; None for all.
        """
        return int(vision.depth if among is None else among) - 1

    def tower_positions(self, vision: Any, grid_thw: Tensor) -> Tensor:
        """For every token in the LLM's order its position in the order of the tower: by default the same.

        Shape: ``(n, 3)`` -> ``(N,)``.
        """
        n_tokens = int(grid_thw.prod(dim=-1).sum()) // vision.spatial_merge_size**2
        return torch.arange(n_tokens, device=grid_thw.device)

    def patch_merging(self, model: Any) -> PatchMerging:
        """``visual`` with its merger."""
        vision = model.config.vision_config
        return PatchMerging(
            tower=model.base_model.visual,
            patches_per_token=vision.spatial_merge_size**2,
            tower_positions=lambda grid_thw: self.tower_positions(vision, grid_thw),
            queries_and_keys=_queries_and_keys,
        )

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """Raises Unsupported: tokens are told apart by ``patch_merging`` here."""
        raise Unsupported("This model merges patches into tokens behind its vision tower.")

    def projector(self, model: Any) -> nn.Module:
        """``visual.merger``, which takes patches, four for each token."""
        merger: nn.Module = model.base_model.visual.merger
        return merger

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Raises Unsupported: what lies before the merger are patches, not tokens."""
        raise Unsupported("This model merges patches into tokens; there are no tokens before its projector to change.")

    def vision_flops(self, model: Any, grid: TokenGrid) -> float:
        """Every frame (or window) is a sequence of its own, in every layer."""
        vision = model.config.vision_config
        width, inner = self.widths(vision)
        lengths = [length for layer in range(vision.depth) for length in self.attended(vision, layer, grid)]
        return prefill_flops(lengths, width, inner)

    @abstractmethod
    def widths(self, vision: Any) -> tuple[int, int]:
        """Width of a patch inside the tower, and of the MLP of its layers."""

    def attended(self, vision: Any, layer: int, grid: TokenGrid) -> list[int]:
        """Lengths in patches of the pieces within which a layer attends: by default whole frames."""
        return [view.rows * view.cols * vision.spatial_merge_size**2 for view in grid.views]

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Some vision layer must attend over whole frames, and model and processor must cut images alike."""
        vision = model.config.vision_config
        self.last_whole_frame_layer(vision)
        for part in (processor.image_processor, processor.video_processor):
            cut = part.patch_size, part.merge_size, part.temporal_patch_size
            if cut != (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size):
                raise Unsupported(
                    f"{name} has a processor that cuts and merges patches otherwise than its model: {cut}."
                )

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """How many tokens an image becomes is in no ``config.json``: the processor decides, by the image's size.

        Of the menu's models it stands beside the sizes (``visual_tokens``), of a folder it follows from the limits of
        its ``image_processor`` (see ``checkpoint.py``), for an image of 1000 x 1000 px.
        """
        text = config.get("text_config", config)  # hub files have the decoder's sizes at the top
        return self.planning(
            n_visual=stated(config, "visual_tokens") if "visual_tokens" in config else planned_tokens(config),
            n_layers=stated({"text_config": text}, "text_config", "num_hidden_layers"),
            has_cls=False,
        )

    def grid(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Cells of 2 x 2 patches of the whole image, resized to a multiple of them.

        Rows and columns come from ``image_grid_thw`` of ``inputs`` where that is given, else as the processor will
        choose them. Raises BadInput for an image that the processor refuses.
        """
        merge = model.config.vision_config.spatial_merge_size
        given = inputs.get("image_grid_thw")
        if given is not None:
            _, rows, columns = (int(count) for count in given[0])
            return merged_patch_grid(image_size, rows // merge, columns // merge)
        image_processor = processor.image_processor
        self._check_resizes(image_processor)
        cell, size = image_processor.patch_size * image_processor.merge_size, image_processor.size
        with refused_in_a_sentence("image", image_size):
            height, width = self.resized(image_size, cell, size["shortest_edge"], size["longest_edge"])
        return merged_patch_grid(image_size, height // cell, width // cell)

    @staticmethod
    def resized(size: tuple[int, int], cell: int, least: int, most: int) -> tuple[int, int]:
        """Height and width that an image (or a frame) of ``(width, height)`` px is resized to.

        Args: cell: side of what becomes one token, px; least, most: of the area, in px.
        Raises ValueError for images that are too narrow.
        """
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        height, width = smart_resize(size[1], size[0], cell, least, most)
        return height, width

    @staticmethod
    def _check_resizes(processor: Any) -> None:
        if not getattr(processor, "do_resize", True):
            raise Unsupported("This processor does not resize images; tokviz needs do_resize for Qwen models.")

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """A smaller image, or smaller frames, which the processor takes like any other.

        Where its limits would enlarge them again, the lower one is set aside for this call, which the model does not
        mind. Raises BadInput where there is no token for every pair of frames.
        """
        part = processor.video_processor if grid.is_video else processor.image_processor
        view, cell = grid.views[0], part.patch_size * part.merge_size
        share = share_of_frame(grid, tokens) if grid.is_video else tokens
        rows, cols = nearest_grid(view.rows, view.cols, share)
        pixels = cols * cell, rows * cell
        n_frames = sum(len(view.frames) for view in grid.views)
        made = (
            self.video_grid(model, processor, pixels, n_frames)
            if grid.is_video
            else self.grid(model, processor, pixels, {})
        )
        limits = {"size": {"shortest_edge": cell * cell, "longest_edge": part.size["longest_edge"]}}
        name = "videos_kwargs" if grid.is_video else "images_kwargs"
        return Shrunk(
            coarser(grid, rows, cols),
            pixels,
            each_frame(grid, rows, cols) if grid.is_video else "",
            resizes=True,
            options={} if (made.views[0].rows, made.views[0].cols) == (rows, cols) else {name: limits},
        )

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """Two frames per second (or what the processor says) within the processor's limits, or ``wanted``.

        Always whole pairs, as two frames become one grid (one more than an odd ``wanted``); of one frame, that frame.
        """
        from transformers.video_utils import VideoMetadata

        video_processor = processor.video_processor
        together = video_processor.temporal_patch_size
        if facts.n_frames < together:
            return self.too_short(facts.n_frames)
        how: dict[str, Any] = {}
        if wanted is not None:
            pairs = min(-(-wanted // together), facts.n_frames // together)
            how["num_frames"] = pairs * together
        elif not video_processor.num_frames and not video_processor.fps:
            how["fps"] = FRAMES_PER_SECOND
        metadata = VideoMetadata(total_num_frames=facts.n_frames, fps=facts.fps, duration=facts.duration_s)
        chosen = (int(index) for index in video_processor.sample_frames(metadata, **how))
        return [index for index in chosen if index < facts.n_frames]  # its rounding may add one behind the end

    def too_short(self, n_frames: int) -> list[int]:
        """The frames of a video that has not enough for one grid: all, the processor repeats the last one."""
        return list(range(n_frames))

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Cells of 2 x 2 patches of two frames together, all resized alike; of an odd number the last stands twice.

        Raises BadInput for frames that the processor refuses.
        """
        video_processor = processor.video_processor
        self._check_resizes(video_processor)
        cell, together = video_processor.patch_size * video_processor.merge_size, video_processor.temporal_patch_size
        with refused_in_a_sentence("video", frame_size):
            height, width = self.resized_frames(video_processor, frame_size, n_frames)
        pairs = [tuple(range(first, min(first + together, n_frames))) for first in range(0, n_frames, together)]
        return merged_patch_grid(frame_size, height // cell, width // cell, pairs)

    def resized_frames(self, video_processor: Any, frame_size: tuple[int, int], n_frames: int) -> tuple[int, int]:
        """Height and width that ``n_frames`` frames of ``(width, height)`` px are resized to.

        Every frame has the same limits, however many there are, unless the processor shares out the tokens of a whole
        video (``cap_pixels_per_frame``).
        """
        cell, size = video_processor.patch_size * video_processor.merge_size, video_processor.size
        most = size["longest_edge"]
        if getattr(video_processor, "cap_pixels_per_frame", None):
            everything = int(video_processor.max_video_tokens * cell * cell * 0.9)
            share = everything * video_processor.temporal_patch_size // n_frames
            most = max(min(most, share), int(size["shortest_edge"] * 1.05))
        return self.resized(frame_size, cell, size["shortest_edge"], most)


def _queries_and_keys(attention: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Shape: hidden states ``(patches, D_v)`` -> ``(1, H, patches, d)`` each, rotated."""
    hidden = args[0] if args else kwargs["hidden_states"]
    query, key, _ = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision  # type: ignore[attr-defined]
    query, key = rotate(query, key, *kwargs["position_embeddings"])
    return query.transpose(0, 1)[None], key.transpose(0, 1)[None]


class Qwen2VL(QwenVL):
    """Qwen2-VL: every vision layer attends over whole images and frames, in the LLM's order."""

    id = "qwen2_vl"

    def widths(self, vision: Any) -> tuple[int, int]:
        """``embed_dim``, and ``mlp_ratio`` times as much."""
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)


class Qwen25VL(QwenVL):
    """Qwen2.5-VL: most vision layers attend within windows, and the tower runs in the order of the windows."""

    id = "qwen2_5_vl"

    def last_whole_frame_layer(self, vision: Any, among: int | None = None) -> int:
        """The last of ``fullatt_block_indexes`` (31 of 7, 15, 23, 31): in all others attention stays in a window.

        Where there is none among the first ones, the very first.
        """
        whole = [layer for layer in vision.fullatt_block_indexes if 0 <= layer < vision.depth]
        if not whole:
            raise Unsupported("No vision layer of this model attends over whole images (fullatt_block_indexes).")
        return max((layer for layer in whole if among is None or layer < among), default=min(whole))

    def tower_positions(self, vision: Any, grid_thw: Tensor) -> Tensor:
        """Where the window order has put each token. Shape: ``(n, 3)`` -> ``(N,)``."""
        window_index, _ = _windows(vision, grid_thw)
        return window_index.argsort()

    def widths(self, vision: Any) -> tuple[int, int]:
        """``hidden_size`` and ``intermediate_size``."""
        return vision.hidden_size, vision.intermediate_size

    def attended(self, vision: Any, layer: int, grid: TokenGrid) -> list[int]:
        """Windows, except in ``fullatt_block_indexes``."""
        if layer in vision.fullatt_block_indexes:
            return super().attended(vision, layer, grid)
        merge = vision.spatial_merge_size
        frames = [[1, view.rows * merge, view.cols * merge] for view in grid.views]
        _, ends = _windows(vision, torch.tensor(frames))
        lengths: list[int] = ends.diff().tolist()
        return lengths


def _windows(vision: Any, grid_thw: Tensor) -> tuple[Tensor, Tensor]:
    """The order of the tokens in the tower ``(N,)`` and where each window ends, in patches ``(windows + 1,)``."""
    from transformers.vision_utils import get_vision_window_index

    index, ends = get_vision_window_index(
        grid_thw,
        spatial_merge_size=vision.spatial_merge_size,
        window_size=vision.window_size,
        patch_size=vision.patch_size,
    )
    return index, ends


class Qwen3VL(QwenVL):
    """Qwen3-VL: every vision layer attends over whole frames, and three of them speak again inside the LLM (deepstack).

    What the tower's layers ``deepstack_visual_indexes`` made of a token is added to it behind the LLM's first layers
    (``engine/sequence.py``). Frames of a video stand in the prompt pair by pair, the seconds as text between them.
    """

    id = "qwen3_vl"
    pixel_std = (0.5, 0.5, 0.5)

    def widths(self, vision: Any) -> tuple[int, int]:
        """``hidden_size`` and ``intermediate_size``."""
        return vision.hidden_size, vision.intermediate_size

    def patch_merging(self, model: Any) -> PatchMerging:
        """``visual`` with its merger, and how many of its layers also feed the LLM."""
        n_added = len(model.config.vision_config.deepstack_visual_indexes)
        return replace(super().patch_merging(model), added_in_llm=n_added)

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As of all Qwen models; and there must be layers of the LLM behind those where features are added."""
        super().check(model, processor, name)
        n_added, n_layers = len(model.config.vision_config.deepstack_visual_indexes), len(self.layers(model))
        if n_added >= n_layers:
            raise Unsupported(f"{name} adds {n_added} vision features inside an LLM of only {n_layers} layers.")

    def too_short(self, n_frames: int) -> list[int]:
        """Raises BadInput: this processor repeats no frame."""
        raise BadInput(f"This model looks at pairs of frames; a video of {n_frames} frame has none.")

    def resized_frames(self, video_processor: Any, frame_size: tuple[int, int], n_frames: int) -> tuple[int, int]:
        """The limits hold for all frames of a video together: the more frames, the fewer tokens each.

        Where the processor caps what a single frame may have (``cap_pixels_per_frame``), that as well.
        """
        from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

        cell, size = video_processor.patch_size * video_processor.merge_size, video_processor.size
        most = size["longest_edge"]
        if getattr(video_processor, "cap_pixels_per_frame", None):
            share = min(video_processor.max_video_tokens * cell * cell, most // n_frames)
            most = max(share, int(size["shortest_edge"] * 1.05)) * n_frames
        height, width = smart_resize(
            num_frames=n_frames,
            height=frame_size[1],
            width=frame_size[0],
            temporal_factor=video_processor.temporal_patch_size,
            factor=cell,
            min_pixels=size["shortest_edge"],
            max_pixels=most,
        )
        return height, width
