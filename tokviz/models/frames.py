"""What families that look at the frames of a video one by one have in common."""

from __future__ import annotations

from typing import Any

from ..errors import Unsupported
from ..names import VideoFacts
from ..records import GridView, TokenGrid
from .llava import centre_crop_grid, side_of

FRAMES = 8
"""Looked at where neither user nor processor says how many: the number of transformers' documentation of these models,
and of Video-LLaVA's own code."""


def stock_frames(processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
    """The numbers of the frames that the stock processor takes: evenly, each at the start of its part of the video.

    As many as ``wanted``, else as the processor says, else 8; all of a video that has not more.
    """
    # Not at the top: families are asked about configurations before transformers is loaded.
    from transformers.video_utils import VideoMetadata

    video_processor = processor.video_processor
    metadata = VideoMetadata(total_num_frames=facts.n_frames, fps=facts.fps, duration=facts.duration_s)
    own, per_second = getattr(video_processor, "num_frames", None), getattr(video_processor, "fps", None)
    if wanted is None and own is None and per_second is not None:
        chosen = video_processor.sample_frames(metadata, fps=min(per_second, facts.fps))
    else:
        count = min(wanted or own or FRAMES, facts.n_frames)
        chosen = video_processor.sample_frames(metadata, num_frames=count)
    return [int(number) for number in chosen]


def check_frames(model: Any, processor: Any, name: str) -> None:
    """Raises Unsupported where the processor does not cut frames to squares of the model's size."""
    video_processor, side = getattr(processor, "video_processor", None), model.config.vision_config.image_size
    if video_processor is None:
        raise Unsupported(f"{name} has a processor that takes no videos; load it with its video_preprocessor_config.")
    if not (video_processor.do_resize and video_processor.do_center_crop and "shortest_edge" in video_processor.size):
        raise Unsupported(f"{name} has a processor that does not cut the middle square out of frames.")
    cut = side_of(video_processor.crop_size)
    if cut != side or video_processor.size["shortest_edge"] < side:
        raise Unsupported(f"{name} has a processor that cuts frames to {cut} px, but its model sees {side} px.")


def middle_of_frame(processor: Any, frame_size: tuple[int, int], cell: int) -> TokenGrid:
    """The square that the processor cuts out of a frame of ``(width, height)`` px, in cells of ``cell`` px of it."""
    video_processor = processor.video_processor
    resize_to, side = int(video_processor.size["shortest_edge"]), side_of(video_processor.crop_size)
    return centre_crop_grid(frame_size, resize_to, side, cell)


def frame_by_frame(one: TokenGrid, n_frames: int, with_cls: bool = False) -> TokenGrid:
    """A video whose frames all become tokens as ``one`` does, each frame behind a [CLS] token where it has one."""
    (view,) = one.views
    cls = int(with_cls)
    return TokenGrid(
        picture_size=one.picture_size,
        views=[
            GridView(name=f"frame {i + 1}", rows=view.rows, cols=view.cols, seen=view.seen, layer=i, frames=(i,))
            for i in range(n_frames)
        ],
        view=[frame for frame in range(n_frames) for _ in range(cls + one.n_tokens)],
        row=([-1] * cls + one.row) * n_frames,
        col=([-1] * cls + one.col) * n_frames,
        box=([None] * cls + one.box) * n_frames,
    )
