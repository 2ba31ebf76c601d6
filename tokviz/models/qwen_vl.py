"""What Qwen2-VL and Qwen2.5-VL share: a tower that merges 2 x 2 patches into one token, positions with three axes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import BadInput, Unsupported
from ..measures import prefill_flops
from ..names import Media
from ..records import GridView, TokenGrid
from ..types import PlanningInfo
from .base import PatchMerging, PicturesOnly, PictureTokens, VisionTower
from .entries import decoder

MOST_TOKENS = 12845056 // 28**2
"""``longest_edge`` of the published processors of Qwen2-VL and Qwen2.5-VL, in pixels, over the pixels of a cell."""


def published(kind: str, text: tuple[int, int, int, int, int], tied: bool, vision: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a published checkpoint, for its entry in the menu.

    Args: kind: ``model_type``. text: hidden size, MLP width, blocks, heads, key and value heads. tied: the output
    matrix is that of the embeddings. vision: the sizes of the tower in which Qwen2-VL and Qwen2.5-VL differ.
    """
    tower = {
        "depth": 32, "num_heads": 16, "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }  # fmt: skip
    return {
        "model_type": kind,
        "tie_word_embeddings": tied,
        "vision_config": {**tower, **vision},
        "text_config": decoder(f"{kind}_text", *text, vocabulary=151936 if tied else 152064),
        # Not of config.json: a picture of 1000 x 1000 px becomes 36 x 36 cells of 28 px.
        "visual_tokens": 36 * 36,
    }


class QwenVL(PicturesOnly):
    """Vision tower without [CLS] whose patches of all pictures form one sequence; decoder with mRoPE.

    Kept tokens keep their three position ids (``methods.md`` 0.4). Both published families merge ``m x m`` patches
    (``spatial_merge_size``) into one token. A subclass says which blocks attend over whole frames, and in which order
    the tower sees the tokens.
    """

    id: str
    reindexes = False
    layout_arguments: tuple[str, ...] = ()

    def language_model(self, model: Any) -> Any:
        """``model.model.language_model`` (called with keywords only)."""
        return model.base_model.language_model

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """Decoder blocks in order."""
        layers: Sequence[nn.Module] = self.language_model(model).layers
        return layers

    def visual_token_ids(self, model: Any) -> tuple[int, ...]:
        """The ids of ``<|image_pad|>`` and ``<|video_pad|>``."""
        return (model.config.image_token_id, model.config.video_token_id)

    def vision_attention(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """Attention of the last block that looks at whole frames, for both: the features leave the last block."""
        attention: nn.Module = self.vision_block(model, block).attn
        return attention

    def vision_block(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> Any:
        """The last block that attends over whole frames."""
        return model.base_model.visual.blocks[self.last_whole_frame_block(model.config.vision_config)]

    def last_whole_frame_block(self, vision: Any) -> int:
        """Number of the last block whose attention is not cut into windows."""
        raise NotImplementedError

    def places(self, vision: Any, grid_thw: Tensor) -> Tensor:
        """For every token in the LLM's order its place in the order of the tower. Shape: ``(n, 3)`` -> ``(N,)``."""
        raise NotImplementedError

    def vision_tower(self, model: Any) -> VisionTower | None:
        """None: with fewer patches on the way there would be no 2 x 2 groups left to merge (``methods.md`` 9)."""
        return None

    def patch_merging(self, model: Any) -> PatchMerging | None:
        """``visual`` with its merger."""
        vision = model.config.vision_config
        return PatchMerging(
            tower=model.base_model.visual,
            patches_per_token=vision.spatial_merge_size**2,
            places=lambda grid_thw: self.places(vision, grid_thw),
            queries_and_keys=_queries_and_keys,
        )

    def has_cls(self, model: Any) -> bool:
        """Never."""
        return False

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
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
        """Every frame (or window) is a sequence of its own, in every block."""
        vision = model.config.vision_config
        width, inner = self.widths(vision)
        lengths = [length for block in range(vision.depth) for length in self.attended(vision, block, grid)]
        return prefill_flops(lengths, width, inner)

    def widths(self, vision: Any) -> tuple[int, int]:
        """Width of a patch inside the tower, and of the MLP of its blocks."""
        raise NotImplementedError

    def attended(self, vision: Any, block: int, grid: TokenGrid) -> list[int]:
        """Lengths in patches of the pieces within which a block attends: by default whole frames."""
        return [view.rows * view.cols * vision.spatial_merge_size**2 for view in grid.views]

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Some vision block must attend over whole frames, and model and processor must cut pictures alike."""
        vision, image_processor = model.config.vision_config, processor.image_processor
        self.last_whole_frame_block(vision)
        cut = image_processor.patch_size, image_processor.merge_size
        if cut != (vision.patch_size, vision.spatial_merge_size):
            raise Unsupported(f"{name} has a processor that cuts and merges patches otherwise than its model: {cut}.")

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """How many tokens a picture becomes is in no ``config.json``: the processor decides, by the picture's size.

        So it is known of the menu's models only, where ``visual_tokens`` stands beside the sizes (``published``).
        """
        text = config.get("text_config", config)  # hub files have the decoder's sizes at the top
        return PlanningInfo(
            n_visual=int(config["visual_tokens"]),
            n_blocks=int(text["num_hidden_layers"]),
            family=self.id,
            has_cls=False,
            merges_patches=True,
            renumbers=False,
        )

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Cells of 2 x 2 patches of the whole picture, resized to a multiple of them.

        Rows and columns come from ``image_grid_thw`` of ``inputs`` where that is given, else as the processor will
        choose them. Raises BadInput for a picture that the processor refuses.
        """
        merge = model.config.vision_config.spatial_merge_size
        given = inputs.get("image_grid_thw")
        if given is not None:
            frames, rows, columns = (int(count) for count in given[0])
            return merged_patch_grid(picture_size, rows // merge, columns // merge, frames)
        image_processor = processor.image_processor
        if not getattr(image_processor, "do_resize", True):
            raise Unsupported("This processor does not resize pictures; tokviz needs do_resize for Qwen models.")
        # Not at the top: families are asked about configurations before transformers is loaded.
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        cell, size = image_processor.patch_size * image_processor.merge_size, image_processor.size
        try:
            height, width = smart_resize(
                picture_size[1], picture_size[0], cell, size["shortest_edge"], size["longest_edge"]
            )
        except ValueError as error:
            raise BadInput(
                f"This model cannot take a picture of {picture_size[0]} x {picture_size[1]} px: {error}."
            ) from error
        return merged_patch_grid(picture_size, height // cell, width // cell)


def _queries_and_keys(attention: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Shape: hidden states ``(patches, D_v)`` -> ``(1, H, patches, d)`` each, rotated."""
    hidden = args[0] if args else kwargs["hidden_states"]
    query, key, _ = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision  # type: ignore[attr-defined]
    query, key = rotate(query, key, *kwargs["position_embeddings"])
    return query.transpose(0, 1)[None], key.transpose(0, 1)[None]


def merged_patch_grid(picture_size: tuple[int, int], rows: int, columns: int, frames: int = 1) -> TokenGrid:
    """Geometry of "resize the whole picture to ``rows x columns`` cells" (``engine.md`` section 7).

    Args: picture_size ``(width, height)`` px; rows and columns in tokens; frames: temporal patches, each of which shows
    two frames of a video one after the other.
    """
    width, height = picture_size
    cells = [(frame, row, column) for frame in range(frames) for row in range(rows) for column in range(columns)]
    names = ["picture"] if frames == 1 else [f"frames {2 * frame + 1} and {2 * frame + 2}" for frame in range(frames)]
    whole = (0.0, 0.0, float(width), float(height))
    return TokenGrid(
        picture_size=picture_size,
        views=[GridView(name=name, rows=rows, cols=columns, seen=whole) for name in names],
        view=[frame for frame, _, _ in cells],
        row=[row for _, row, _ in cells],
        col=[column for _, _, column in cells],
        box=[
            (
                column * width / columns, row * height / rows,
                (column + 1) * width / columns, (row + 1) * height / rows,
            )
            for _, row, column in cells
        ],
    )  # fmt: skip
