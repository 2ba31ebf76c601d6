"""The embedded video model: stock LLaVA-NeXT-Video classes around the parts of the embedded picture model."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models
from transformers import (
    GenerationConfig,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedTokenizerFast,
)

from training.architecture import BOS, EOS, GRID, IMAGE, IMAGE_SIZE, PAD, PATCH, build_tokenizer, model_config
from training.clip_prompts import FRAME_TOKENS, VIDEO_TOKEN, WORDS

POSITIONS = 2048
"""Eight frames are 1,152 visual tokens."""
PINPOINTS = [[IMAGE_SIZE, IMAGE_SIZE]]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}<video>\n{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }} {% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def video_config() -> LlavaNextVideoConfig:
    """The picture model's tower and decoder, with room for the tokens of a clip; frames are pooled two by two."""
    picture = model_config()
    text = picture.text_config
    text.max_position_embeddings = POSITIONS
    return LlavaNextVideoConfig(
        vision_config=picture.vision_config,
        text_config=text,
        image_token_index=IMAGE,
        video_token_index=WORDS[VIDEO_TOKEN],
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=GRID * GRID,
        video_seq_length=FRAME_TOKENS,
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def build_video_model(seed: int = 0) -> LlavaNextVideoForConditionalGeneration:
    """The untrained model in float32."""
    torch.manual_seed(seed)
    model = LlavaNextVideoForConditionalGeneration(video_config())
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=8, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    return model


def build_video_tokenizer() -> PreTrainedTokenizerFast:
    """The picture model's tokenizer with the words of clips and the video token."""
    core: Tokenizer = build_tokenizer().backend_tokenizer
    core.model = models.WordLevel(WORDS, unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", VIDEO_TOKEN],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=POSITIONS,
    )


def build_video_processor() -> LlavaNextVideoProcessor:
    """Stock preprocessing: shortest edge to 336, centre crop; the frames given are the frames seen."""
    sizes = {
        "size": {"shortest_edge": IMAGE_SIZE},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(do_sample_frames=False, **sizes),
        image_processor=LlavaNextImageProcessor(image_grid_pinpoints=PINPOINTS, **sizes),
        tokenizer=build_video_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        video_token=VIDEO_TOKEN,
        image_token="<image>",
    )
