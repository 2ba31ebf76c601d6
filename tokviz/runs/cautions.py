"""Warnings beside an answer that the model could hardly get right: what it never learnt, or does not see."""

from __future__ import annotations

from ..media.images import InputImage
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..records import TokenGrid
from .examples import stored_digests


def unknown_words(vlm: VisionLanguageModel, question: str) -> list[str]:
    """A warning that names the words of the question that the model's vocabulary lacks, or nothing."""
    tokenizer = vlm.processor.tokenizer
    if tokenizer.unk_token_id is None:
        return []
    encoding = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
    unknown = [
        question[start:end]
        for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        if token == tokenizer.unk_token_id
    ]
    if not unknown:
        return []
    words = ", ".join(dict.fromkeys(unknown))
    return [f"{vlm.record.name} does not know: {words}. Its vocabulary is small; see the model card."]


def drawn_scenes_only(vlm: VisionLanguageModel, media: InputImage | Video) -> list[str]:
    """What an embedded model knows, beside every answer about anything but the examples, which are all drawn scenes.

    Of an image that the model can tell from those by itself ``out_of_world_notice`` speaks instead.
    """
    if not vlm.record.embedded or vlm.world is not None or media.record.sha256 in stored_digests():
        return []
    what = "clips" if isinstance(media, Video) else "scenes"
    return [
        f"{vlm.record.name} was trained on drawn {what} only, such as those of the examples: about a photograph or "
        "anything else it answers just as surely, and its answers mean nothing."
    ]


def mostly_unseen(grid: TokenGrid) -> list[str]:
    """A warning when the model sees less than half of the image or of each frame, or nothing."""
    width, height = grid.image_size
    x0, y0, x1, y1 = grid.views[0].seen
    if (x1 - x0) * (y1 - y0) >= 0.5 * width * height:
        return []
    return [f"The model sees only the middle {x1 - x0:.0f} × {y1 - y0:.0f} of these {width} × {height} pixels."]
