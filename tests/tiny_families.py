"""Every tiny case that the engine is tested on. A further family: a file of its own, and its entries here."""

from __future__ import annotations

from tiny_case import Case
from tiny_idefics3 import TinyIdefics3, TinySmolVLM
from tiny_internvl import TinyInternVL
from tiny_llava import TinyLlava
from tiny_llava_next import TinyLlavaNext, TinyLlavaNextMistral
from tiny_llava_next_video import TinyLlavaNextVideo
from tiny_onevision import TinyOnevision
from tiny_qwen import TinyQwen
from tiny_video_llava import TinyVideoLlava

CASES: dict[str, Case] = {
    "llava": TinyLlava(),
    "llava_next (vicuna)": TinyLlavaNext(),
    "llava_next (mistral)": TinyLlavaNextMistral(),
    "llava_next_video": TinyLlavaNextVideo(),
    "llava_next_video (videos)": TinyLlavaNextVideo("video"),
    "llava_next_video (videos, max)": TinyLlavaNextVideo("video", pooling="max"),
    "llava_next_video (videos, conv)": TinyLlavaNextVideo("video", pooling="conv"),
    "llava_onevision": TinyOnevision(),
    "llava_onevision (videos)": TinyOnevision("video"),
    "video_llava": TinyVideoLlava(),
    "video_llava (videos)": TinyVideoLlava("video"),
    "internvl": TinyInternVL(),
    "internvl (norms)": TinyInternVL(norms=True, layer=-2),
    "internvl (videos)": TinyInternVL("video"),
    "qwen2_vl": TinyQwen("qwen2_vl"),
    "qwen2_vl (videos)": TinyQwen("qwen2_vl", "video"),
    "qwen2_5_vl": TinyQwen("qwen2_5_vl"),
    "qwen2_5_vl (videos)": TinyQwen("qwen2_5_vl", "video"),
    "qwen3_vl": TinyQwen("qwen3_vl"),
    "qwen3_vl (videos)": TinyQwen("qwen3_vl", "video"),
    "idefics3": TinyIdefics3(),
    "smolvlm (videos)": TinySmolVLM("video"),
}
