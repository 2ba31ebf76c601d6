"""The embedded model: stock LLaVA classes, small numbers, a closed vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from scenes import COLORS, PLACES, SHAPES, SIGN_WORDS, SIZES
from scenes.wide import MAX_WIDE_COUNT, PHRASINGS, RESERVED, REWRITES, words_of
from scenes.wide.phrasings import GENERIC_NOUNS, RELATION_PHRASES, SIZE_WORDS, plural_of

IMAGE_SIZE = 336
PATCH = 14
GRID = IMAGE_SIZE // PATCH
VISION_WIDTH = 192
TEXT_WIDTH = 160
VOCABULARY_ROWS = 128
WIDE_VOCABULARY_ROWS = 192
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, UNKNOWN, IMAGE = range(5)
_PLAIN_WORDS = (
    "user", "assistant", "is", "are", "there", "a", "an", "the", "any", "what", "how", "many", "where", "which", "does",
    "do", "of", "on", "in", "to", "it", "and", "or", "say", "says", "sign", "word", "number", "color", "shape", "size",
    "object", "objects", "list", "left", "right", "above", "below", "top", "bottom", "center", "yes", "no", "none",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }} {% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Every word the model knows and its token id."""
    plurals = [shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES]
    digits = [str(n) for n in range(20)]
    # New words go to the end: the token ids of older weights stay true.
    words = [*SPECIAL, *_PLAIN_WORDS, *COLORS, *SHAPES, *plurals, *SIZES, *SIGN_WORDS, *digits, "digit", "handwritten"]
    return {word: i for i, word in enumerate(dict.fromkeys(words))}


def wide_vocabulary() -> dict[str, int]:
    """Every word of the wide world's questions and answers and its token id; no other word has one.

    The reserved words stand for unknown ones in training, as "<unk>" does.
    """
    templates = [word for template in PHRASINGS for word in words_of(template) if not word.startswith("{")]
    nouns = [*GENERIC_NOUNS, *SHAPES]
    phrases = [*(p for all_of in RELATION_PHRASES.values() for p in all_of), *(p for row in PLACES for p in row)]
    words = [
        *SPECIAL, "user", "assistant", "yes", "no", "none", *(str(n) for n in range(MAX_WIDE_COUNT + 1)), *RESERVED,
        "a", "an", "the", *COLORS, *nouns, *(plural_of(noun) for noun in nouns),
        *(word for words in SIZE_WORDS.values() for word in words), *(w for phrase in phrases for w in phrase.split()),
        *SIGN_WORDS, *templates,
    ]  # fmt: skip
    return {word: i for i, word in enumerate(dict.fromkeys(words))}


def vision_config() -> CLIPVisionConfig:
    """A CLIP tower of 6 blocks; the language model reads the output of the fifth."""
    return CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=VISION_WIDTH,
    )


def model_config() -> LlavaConfig:
    """Heads of 32 and slowly turning rotary angles: content look-ups are learnt sooner that way."""
    text = LlamaConfig(
        vocab_size=VOCABULARY_ROWS,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=8,
        num_attention_heads=TEXT_WIDTH // 32,
        num_key_value_heads=TEXT_WIDTH // 32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        initializer_range=0.04,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def build_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """The untrained model in float32."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(model_config())
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=8, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; case and punctuation do not matter."""
    return _word_tokenizer(vocabulary(), [])


def build_wide_tokenizer() -> PreTrainedTokenizerFast:
    """The same for the wide vocabulary; contractions become their words, and "colour" becomes "color"."""
    return _word_tokenizer(wide_vocabulary(), [normalizers.Replace(Regex(old), new) for old, new in REWRITES])


def _word_tokenizer(words: dict[str, int], rewrites: list[normalizers.Normalizer]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    punctuation = normalizers.Replace(Regex(r"[?.!,;:\"'()\[\]]"), " ")
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *rewrites, punctuation])
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    core.decoder = decoders.Sequence([decoders.Fuse()])
    core.decoder = None
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )


def build_processor() -> LlavaProcessor:
    """Stock LLaVA-1.5 preprocessing: shortest edge to 336, centre crop."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def pixel_values(images: NDArray[np.uint8]) -> Tensor:
    """What the image processor does to pictures that already have the right size.

    Shape:
        images: (B, 336, 336, 3) uint8; returns (B, 3, 336, 336) float32 in -1..1.
    """
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def save_folder(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write the model and its processor where `from_pretrained` finds them."""
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
