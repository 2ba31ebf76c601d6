"""Every tiny case that the engine is tested on. A further family: a file of its own, and its entries here."""

from __future__ import annotations

from tiny_case import Case
from tiny_llava import TinyLlava
from tiny_llava_next import TinyLlavaNext, TinyLlavaNextMistral

CASES: dict[str, Case] = {
    "llava": TinyLlava(),
    "llava_next (vicuna)": TinyLlavaNext(),
    "llava_next (mistral)": TinyLlavaNextMistral(),
}
