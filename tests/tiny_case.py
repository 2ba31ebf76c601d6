"""What a tiny stock model of any family is in the tests of the engine: a model, its real processor, and, by hand, what
its tower makes of images and videos. A family is a subclass of ``Case`` in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from tokviz.models.families import FAMILIES
from tokviz.names import Media
from tokviz.types import CLS_ATTENTION, CLS_FEATURE, CLS_LOGITS_LAST_LAYER, ENCODER_KEYS, Need

IMAGE, VIDEO = 90, 91
PAD = 0
LAYERS = 6
PATCH = 8
N_FRAMES = 3
SIZES = [(60, 40), (31, 90), (48, 48), (100, 20), (200, 190)]
"""Width and height of the images (or videos) of a prompt, in turn."""

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant", ":", "?", "what", "is", "it", "the", "star", "color"]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}<image> {% elif part.type == 'video' %}<video> "
    "{% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


@dataclass(frozen=True)
class Cell:
    """One visual token of an image or video, written by hand.

    image: of those that the tower saw of it. row: of that image, of the rows that enter the projector, -1 for a newline
    (an embedding of its own). patches: the tower's patches ([CLS] not counted) whose signals the token takes, all
    alike; () for tokens that are no patch.
    """

    image: int
    row: int
    patches: tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """What a row's images are made of, by hand. Shape: features ``(N, D_v)``, embeddings ``(N, D)``, tile ``(N,)``.

    tile: the image (counted over all of the row) that each token belongs to. sources ``(N, k)``: the tower's patches
    (counted likewise) whose mean its signals are, -1 for none; tokens without any are no patch, and their features 0.
    positions ``(axes, L)``, of the whole row without padding, where they have axes. deepstack: ``(N, D)`` for each of
    the LLM's first layers, added to what leaves it.
    """

    features: torch.Tensor
    embeddings: torch.Tensor
    tile: torch.Tensor
    sources: torch.Tensor
    positions: torch.Tensor | None = field(default=None, kw_only=True)
    deepstack: tuple[torch.Tensor, ...] = field(default=(), kw_only=True)

    @property
    def is_patch(self) -> torch.Tensor:
        """Shape: ``(N,)`` bool."""
        return (self.sources >= 0).any(dim=1)

    def of_patches(self, values: torch.Tensor) -> torch.Tensor:
        """What the tokens that are patches take of ``values (images, patches, ...)``. Shape: ``(n, ...)``."""
        values, sources = values.flatten(0, 1), self.sources[self.is_patch]
        return torch.stack([values[numbers[numbers >= 0]].mean(dim=0) for numbers in sources])


class Case:
    """One architecture with images or with videos (``media``). What a family does otherwise it overrides."""

    family: ClassVar[str]
    tokens: ClassVar[dict[Media, int]] = {"image": IMAGE, "video": VIDEO}
    """The placeholder of each visual token."""
    early: ClassVar[tuple[str, ...]] = ("encoder", "projector")
    """Sites before the LLM where this family can be pruned."""
    vision: ClassVar[tuple[Need, ...]] = (CLS_ATTENTION, CLS_LOGITS_LAST_LAYER, ENCODER_KEYS, CLS_FEATURE)
    """The signals of its tower, a score per patch first."""
    beams = True
    """Whether transformers can search with beams here."""

    def __init__(self, media: Media = "image") -> None:
        self.media: Media = media

    # -- to be written for each family ---------------------------------------------------------------------------------

    def build(self) -> Any:
        """The model, with whatever weights."""
        raise NotImplementedError

    def processor(self) -> Any:
        """The real processor with small settings."""
        raise NotImplementedError

    def layout(self, media: Media, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """The visual tokens of an image (or video of so many frames) of ``(width, height)`` px, by hand."""
        raise NotImplementedError

    # -- what most families have in common -----------------------------------------------------------------------------

    def span(self, media: Media, cells: Sequence[Cell]) -> list[int]:
        """What stands for an image or video in the prompt's ids."""
        return [self.tokens[media]] * len(cells)

    def encoded(self, model: Any, media: Media, things: Sequence[Any]) -> dict[str, torch.Tensor]:
        """What the real processor makes of images, or of videos (each a list of frames)."""
        processor = self.processor()
        if media == "image":
            made = processor.image_processor(list(things), return_tensors="pt")
        else:
            videos = [np.stack([np.asarray(frame) for frame in video]) for video in things]
            made = processor.video_processor(videos, do_sample_frames=False, return_tensors="pt")
        return {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in made.items()}

    def further(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Further inputs of the whole prompt that this family's processor makes."""
        return {}

    def language_model(self, model: Any) -> Any:
        """The decoder."""
        return model.model.language_model

    def project(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        """What enters the LLM of ``features (..., D_v)``."""
        return model.model.multi_modal_projector(features)

    def newline(self, model: Any) -> torch.Tensor:
        """The embedding of tokens that the tower had no row for."""
        return model.model.image_newline

    def tower(self, model: Any) -> Any:
        """The vision tower."""
        return model.model.vision_tower

    def rows(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """What enters the projector. Shape: ``(P, 3, H, W)`` -> ``(P, rows, D_v)``."""
        states = self.tower(model)(images, output_hidden_states=True).hidden_states
        return states[model.config.vision_feature_layer][:, 1:]

    def n_patches(self, model: Any) -> int:
        """Patches of one image in the tower."""
        vision = model.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Per image or video the images that the tower sees of it. Shape: ``(images, 3, H, W)`` each."""
        if self.media == "video":
            return list(inputs["pixel_values_videos"])
        return list(inputs["pixel_values"][:, None])

    def layouts(self, inputs: dict[str, torch.Tensor]) -> list[list[Cell]]:
        """Per image or video its tokens. Here any size will do; where sizes decide, ``inputs`` name them."""
        return [self.layout(self.media, SIZES[0], len(mine)) for mine in self.images(inputs)]

    def by_hand(self, model: Any, images: torch.Tensor) -> dict[Need, torch.Tensor]:
        """What the tower says of ``images (P, 3, H, W)``, per need of ``vision``. Shape: ``(P, n, ...)`` each.

        Here for CLIP; [CLS] features are ``(P, D_v)``.
        """
        tower = self.tower(model)
        heads, feature_layer = model.config.vision_config.num_attention_heads, model.config.vision_feature_layer
        layers = tower.encoder.layers
        feature_layer = feature_layer if feature_layer >= 0 else len(layers) + 1 + feature_layer
        states = tower(images, output_hidden_states=True).hidden_states

        def attention(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            layer = layers[number]
            normed = layer.layer_norm1(states[number])
            query, key = (
                p(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
                for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
            )
            return query[:, :, :1] @ key.transpose(2, 3) * key.shape[-1] ** -0.5, key

        logits, keys = attention(feature_layer - 1)
        return {
            CLS_ATTENTION: logits.softmax(-1).mean(1)[:, 0, 1:],
            CLS_LOGITS_LAST_LAYER: attention(len(layers) - 1)[0].mean(1)[:, 0, 1:],
            ENCODER_KEYS: keys.mean(1)[:, 1:],
            CLS_FEATURE: states[feature_layer][:, 0],
        }

    # -- the same for all ----------------------------------------------------------------------------------------------

    def model(self, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> Any:
        """The model with wide random weights: attention far from uniform, so that a dropped token shows."""
        torch.manual_seed(0)
        model = self.build().eval()
        model.set_attn_implementation(attention)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 1.4 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.1)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = PAD
        # The stock model takes a generated <image> for an image when it runs without a cache.
        model.generation_config.suppress_tokens = sorted(set(self.tokens.values()))
        return model.to(dtype)

    @property
    def here(self) -> Any:
        """tokviz's own description of the family."""
        return FAMILIES[self.family]

    def is_visual(self, ids: torch.Tensor) -> torch.Tensor:
        """Which ids stand for visual tokens."""
        return torch.isin(ids, torch.tensor(sorted(set(self.tokens.values()))))

    def prompt(self, model: Any, rows: list[list[Any]], seed: int = 1) -> dict[str, torch.Tensor]:
        """Inputs of a left-padded batch; each row is a list of "visual" (an image or video) and counts of text tokens.

        "image" and "video" say which of the two; the real processor takes only one kind at a time here.
        """
        generator = torch.Generator().manual_seed(seed)
        ids: list[list[int]] = []
        things: dict[Media, list[Any]] = {"image": [], "video": []}
        for parts in rows:
            row: list[int] = []
            for part in parts:
                if isinstance(part, int):
                    row += torch.randint(4, 89, (part,), generator=generator).tolist()
                    continue
                media: Media = self.media if part == "visual" else part
                number = sum(map(len, things.values()))
                size = SIZES[number % len(SIZES)]
                frames = [noise(*size, seed=seed + number + 50 * frame) for frame in range(N_FRAMES)]
                things[media].append(frames[0] if media == "image" else frames)
                row += self.span(media, self.layout(media, size, 1 if media == "image" else N_FRAMES))
            ids.append(row)
        length = max(map(len, ids))
        inputs = {
            "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in ids]),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids]),
        }
        for media, mine in things.items():
            if mine:
                inputs.update(self.encoded(model, media, mine))
        return inputs | self.further(model, inputs)

    @torch.no_grad()
    def seen(self, model: Any, inputs: dict[str, torch.Tensor]) -> list[Seen | None]:
        """Per row of the batch what its visual tokens are, None without any."""
        has_any = any(name.startswith("pixel_values") for name in inputs)
        images = list(zip(self.images(inputs), self.layouts(inputs), strict=True)) if has_any else []
        found: list[Seen | None] = []
        for ids in inputs["input_ids"]:
            left, mine = int(self.is_visual(ids).sum()), []
            while left:
                mine.append(images.pop(0))
                left -= len(mine[-1][1])
            found.append(self._row(model, mine) if mine else None)
        assert not images
        return found

    def _row(self, model: Any, input_images: list[tuple[torch.Tensor, list[Cell]]]) -> Seen:
        # As many images at a time as in the engine, where the tower runs once for the whole batch: bits may differ.
        rows, n_patches = self.rows(model, torch.cat([images for images, _ in input_images])), self.n_patches(model)
        projected = self.project(model, rows)
        features, embeddings, tiles, sources, before = [], [], [], [], 0
        for images, cells in input_images:
            for cell in cells:
                tile = before + cell.image
                tiles.append(tile)
                features.append(rows[tile, cell.row] if cell.patches else torch.zeros_like(rows[0, 0]))
                embeddings.append(projected[tile, cell.row] if cell.row >= 0 else self.newline(model))
                sources.append([tile * n_patches + patch for patch in cell.patches])
            before += len(images)
        width = max(map(len, sources))
        padded = [numbers + [-1] * (width - len(numbers)) for numbers in sources]
        return Seen(torch.stack(features), torch.stack(embeddings), torch.tensor(tiles), torch.tensor(padded))


def noise(width: int, height: int, seed: int) -> Image.Image:
    """An image in which no two patches look alike."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def clip(side: int, patch: int = PATCH) -> CLIPVisionConfig:
    """A small CLIP tower for images of ``side`` px: 4 layers, 3 heads, 24 wide."""
    return CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=4, num_attention_heads=3, image_size=side,
        patch_size=patch,
    )  # fmt: skip


def text(kind: Callable[..., Any] = LlamaConfig, **more: Any) -> Any:
    """A small decoder with grouped heads."""
    return kind(**{
        "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1,
        "eos_token_id": None, "pad_token_id": PAD, **more,
    })  # fmt: skip


def tokenizer(special: dict[str, int] | None = None, **attributes: Any) -> PreTrainedTokenizerFast:
    """Whole words; ``special`` names further tokens and their ids, ``<image>`` and ``<video>`` otherwise."""
    special = {"<image>": IMAGE, "<video>": VIDEO} if special is None else special
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    vocabulary |= {f"w{number}": number for number in range(len(WORDS), 100) if number not in special.values()}
    vocabulary |= special
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        additional_special_tokens=list(special), model_input_names=["input_ids", "attention_mask"], **attributes,
    )  # fmt: skip
