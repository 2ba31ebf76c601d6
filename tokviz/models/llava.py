"""LLaVA-1.5 and every stock ``LlavaForConditionalGeneration`` with a CLIP tower, including the embedded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import Unsupported
from ..names import Media
from ..records import TokenGrid
from ..types import PlanningInfo, PublishedModel
from .base import (
    ModelFamily,
    TowerLayer,
    VisionTower,
    VisionTowerLayer,
    object_layer,
    shallow_layer,
    stated,
    stated_sides,
    stated_text,
)
from .geometry import centre_crop_grid, padded_square_grid, side_of, squeezed_grid
from .shrinking import Shrunk, shrunk_square


class Llava(ModelFamily):
    """CLIP tower with [CLS], features of ``vision_feature_layer``, two-layer projector, Llama-like decoder."""

    id = "llava"
    published_as: PublishedModel | None = "llava"
    shrinks: tuple[Media, ...] = ("image",)

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Patches only, of one vision layer; and the processor makes the squares, and tokens, that the model takes."""
        self.check_features(model, name)
        self.check_counts(model, processor, name)
        vision, image_processor = model.config.vision_config, processor.image_processor
        size, crop = image_processor.size, image_processor.crop_size if image_processor.do_center_crop else None
        side = side_of(crop if crop and not getattr(image_processor, "do_pad", False) else size)
        # The shortest edge alone is no square.
        if not image_processor.do_resize or side != vision.image_size or (crop is None and not size.get("height")):
            raise Unsupported(
                f"{name} has a processor that does not cut images to the {vision.image_size} px that its model sees."
            )

    def check_features(self, model: Any, name: str) -> None:
        """Patches only, of one vision layer, and not what enters the first one."""
        strategy = model.config.vision_feature_select_strategy
        if strategy != "default":
            raise Unsupported(
                f"{name} feeds the LLM with vision features {strategy!r}; tokviz supports 'default' only."
            )
        check_feature_layer(model, name)

    def check_counts(self, model: Any, processor: Any, name: str) -> None:
        """The processor must write as many tokens for a square as the model makes patches of it."""
        patch, added = processor.patch_size, processor.num_additional_image_tokens
        if processor.vision_feature_select_strategy == "default":
            added -= 1  # [CLS] is left out
        if patch != model.config.vision_config.patch_size or added:
            raise Unsupported(
                f"{name} has a processor that counts patches of {patch} px and {added:+d} more tokens for an image; "
                f"its model makes one of every {model.config.vision_config.patch_size} px and no more."
            )

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """As many tokens as the vision tower has patches."""
        n_vision = stated(config, "vision_config", "num_hidden_layers")
        side, patch = stated_sides(config)
        return self.planning(
            n_visual=(side // patch) ** 2,
            n_layers=stated(config, "text_config", "num_hidden_layers"),
            has_cls=stated_text(config, "vision_config", "model_type") == "clip_vision_model",
            n_vision_layers=passed_layers(stated(config, "vision_feature_layer", least=-n_vision), n_vision),
        )

    def vision_layers(self, model: Any, media: Media = "image") -> Sequence[nn.Module]:
        """The layers of the tower that sees this medium."""
        layers: Sequence[nn.Module] = _tower(model).encoder.layers
        return layers

    def vision_layer(self, model: Any, layer: TowerLayer, media: Media = "image") -> nn.Module:
        """The layer that makes the features (``vision_feature_layer``), the last, object or shallow one."""
        layers = self.vision_layers(model, media)
        if layer == "object":
            return layers[object_layer(len(layers)) - 1]
        if layer == "shallow":
            return layers[shallow_layer(len(layers)) - 1]
        return layers[-1] if layer == "last" else layers[_feature_layers(model, len(layers)) - 1]

    def vision_tower(self, model: Any) -> VisionTower | None:
        """CLIP's layers up to the one that makes the features; None for towers other than CLIP and mixed layers."""
        tower = _tower(model)
        if not self.has_cls(model) or not isinstance(model.config.vision_feature_layer, int):
            return None
        return VisionTower(
            embed=lambda pixels: tower.pre_layrnorm(tower.embeddings(pixels)),
            layers=[
                VisionTowerLayer(layer.layer_norm1, layer.self_attn, layer.layer_norm2, layer.mlp)
                for layer in tower.encoder.layers[: _feature_layers(model, len(tower.encoder.layers))]
            ],
        )

    def has_cls(self, model: Any) -> bool:
        """CLIP towers have one; SigLIP towers do not."""
        return bool(model.config.vision_config.model_type == "clip_vision_model")

    def grid(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Patches of the square that the processor cuts out (or pads), in pixels of the original image."""
        image_processor = processor.image_processor
        patch = model.config.vision_config.patch_size
        if getattr(image_processor, "do_pad", False):
            return padded_square_grid(image_size, side_of(image_processor.size), patch)
        crop = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
        shortest = image_processor.size.get("shortest_edge")
        if not shortest:
            return squeezed_grid(image_size, side_of(image_processor.size), side_of(crop), patch)
        return centre_crop_grid(image_size, int(shortest), side_of(crop), patch)

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """The square that the tower sees, shrunk to whole patches."""
        return shrunk_square(grid, tokens, self.sides(model)[1])

    def interpolating(self, model: Any) -> tuple[nn.Module, ...]:
        """The tower, which was trained at one size."""
        return (model.base_model.vision_tower,)


def _tower(model: Any) -> Any:
    """The module that owns ``embeddings`` and ``encoder`` (one level deeper in older transformers)."""
    tower = model.base_model.vision_tower
    return getattr(tower, "vision_model", tower)


def _feature_layers(model: Any, n_layers: int) -> int:
    """How many vision layers the features pass through. Raises Unsupported for features of several layers."""
    layer = model.config.vision_feature_layer
    if not isinstance(layer, int):
        raise Unsupported(
            f"This model mixes the vision layers {layer}; methods that look into the vision tower need one."
        )
    return passed_layers(layer, n_layers)


def passed_layers(layer: int, n_layers: int) -> int:
    """How many of ``n_layers`` layers the hidden state ``vision_feature_layer`` has passed.

    There is one hidden state more than layers: 0 are the embeddings, state h leaves layer h - 1, and -1 is the last.
    """
    return layer if layer >= 0 else n_layers + 1 + layer


def check_feature_layer(model: Any, name: str) -> None:
    """Raises Unsupported unless ``vision_feature_layer`` is the output of one layer of the tower."""
    layer, n_layers = model.config.vision_feature_layer, model.config.vision_config.num_hidden_layers
    if not (isinstance(layer, int) and 1 <= passed_layers(layer, n_layers) <= n_layers):
        raise Unsupported(
            f"{name} takes its features from vision layers {layer}; tokviz needs the output of one layer."
        )
