"""Geometry that families share: squares cut out of images, and the frames of videos that are looked at one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import Unsupported
from ..names import Box, VideoFacts
from ..records import GridView, TokenGrid

FRAMES = 8
"""Looked at where neither user nor processor says how many: the number of transformers' documentation of these models,
and of Video-LLaVA's own code."""


def token_grid(
    image_size: tuple[int, int], views: Sequence[GridView], cells: Iterable[tuple[int, int, int, Box | None]]
) -> TokenGrid:
    """A geometry from ``(view, row, column, box)`` of every token, in the order in which the LLM receives them."""
    view, row, col, box = tuple(zip(*cells, strict=True)) or ((),) * 4
    return TokenGrid(
        image_size=image_size, views=list(views), view=list(view), row=list(row), col=list(col), box=list(box)
    )


def clipped(size: tuple[int, int], first: tuple[float, float], last: tuple[float, float]) -> Box:
    """The part of a box that lies in the image of ``(width, height)``."""
    (x0, y0), (x1, y1), (width, height) = first, last, size
    return min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height)


def side_of(size: Mapping[str, int]) -> int:
    """The side in px of a square that a processor's ``size`` or ``crop_size`` describes. Raises Unsupported else."""
    height, width = size.get("height") or size.get("shortest_edge"), size.get("width") or size.get("shortest_edge")
    if not height or height != width:
        raise Unsupported(f"LLaVA images are cut to a square; this processor's size is {dict(size)}.")
    return int(height)


def pinpoints_of(given: Any) -> list[tuple[int, int]]:
    """``(height, width)`` of each copy that crops may be cut from, as ints."""
    return [(int(height), int(width)) for height, width in given]


def centre_crop_grid(image_size: tuple[int, int], resize_to: int, crop: int, patch: int) -> TokenGrid:
    """Geometry of "resize the shortest edge, cut the centre square", CLIP's processor (``engine.md`` section 7).

    Args: image_size ``(width, height)`` px; resize_to, crop, patch in px of the resized image.
    """
    width, height = image_size
    if height <= width:
        new_height, new_width = resize_to, int(resize_to * width / height)
    else:
        new_height, new_width = int(resize_to * height / width), resize_to
    left, top = int((new_width - crop) / 2), int((new_height - crop) / 2)
    scale_x, scale_y = width / new_width, height / new_height

    def corner(column: int, row: int) -> tuple[float, float]:
        return (column * patch + left) * scale_x, (row * patch + top) * scale_y

    return _raster(image_size, crop // patch, corner)


def squeezed_grid(image_size: tuple[int, int], resize_to: int, crop: int, patch: int) -> TokenGrid:
    """Geometry of "squeeze the image into a square, cut the centre out". Sizes as in ``centre_crop_grid``."""
    width, height = image_size
    before = int((resize_to - crop) / 2)

    def corner(column: int, row: int) -> tuple[float, float]:
        return (column * patch + before) * width / resize_to, (row * patch + before) * height / resize_to

    return _raster(image_size, crop // patch, corner)


def padded_square_grid(image_size: tuple[int, int], side: int, patch: int) -> TokenGrid:
    """Geometry of "pad to a square, resize" (``LlavaImageProcessor(do_pad=True)``). Sizes in px."""
    width, height = image_size
    longest = max(width, height)
    scale = longest / side
    left, top = (longest - width) // 2, (longest - height) // 2
    return _raster(
        image_size, side // patch, lambda column, row: (column * patch * scale - left, row * patch * scale - top)
    )


def _raster(image_size: tuple[int, int], n: int, corner: Callable[[int, int], tuple[float, float]]) -> TokenGrid:
    """An ``n x n`` raster whose cell corners ``corner(column, row)`` gives; boxes are clipped to the image."""

    def box(column: int, row: int, cells: int) -> Box:
        return clipped(image_size, corner(column, row), corner(column + cells, row + cells))

    views = [GridView(name="image", rows=n, cols=n, seen=box(0, 0, n))]
    return token_grid(image_size, views, ((0, row, col, box(col, row, 1)) for row in range(n) for col in range(n)))


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
        image_size=one.image_size,
        views=[
            GridView(name=f"frame {i + 1}", rows=view.rows, cols=view.cols, seen=view.seen, level=i, frames=(i,))
            for i in range(n_frames)
        ],
        view=[frame for frame in range(n_frames) for _ in range(cls + one.n_tokens)],
        row=([-1] * cls + one.row) * n_frames,
        col=([-1] * cls + one.col) * n_frames,
        box=([None] * cls + one.box) * n_frames,
    )
