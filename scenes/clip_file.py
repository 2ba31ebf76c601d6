"""The frames of a clip as a video file that browsers play."""

from __future__ import annotations

import io

import av
import numpy as np
from numpy.typing import NDArray

_BT601, _LIMITED = 6, 1


def clip_bytes(frames: NDArray[np.uint8], fps: int, quality: int = 18) -> bytes:
    """H.264 in MP4; the same bytes for the same frames and version of the encoder.

    Args: quality: constant rate factor, 0 (nothing is lost) to 51. Raises ValueError for odd sizes, which most players
    do not show.

    Shape:
        frames: (T, H, W, 3) uint8 RGB.
    """
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"expected an even width and height, but got {width} x {height}")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
        stream.options = {"crf": str(quality), "preset": "slow", "threads": "1"}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
