"""Video files made by PyAV in the test: frame ``i`` is one flat grey, so that a decoded frame says which one it is."""

import io
from fractions import Fraction

import av
import numpy as np

STEP = 6
"""Grey levels between one frame and the next; codecs change a flat frame by less than half of it."""


def grey_frames(count, width=64, height=48):
    """Frame ``i`` is grey ``20 + 6 i``, but for a white corner at the top left."""
    frames = np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i] = 20 + STEP * i
    frames[:, : height // 4, : width // 4] = 255
    return frames


def number_of(image):
    """Which of ``grey_frames`` an image is: the nearest level of its middle."""
    x, y = image.width // 2, image.height // 2
    middle = np.asarray(image)[y - 2 : y + 2, x - 2 : x + 2]
    level = (float(middle.mean()) - 20) / STEP
    assert abs(level - round(level)) < 0.45, level
    return round(level)


def coded(
    frames, kind="mp4", codec="libx264", rate=25, pix_fmt="yuv420p", times=None, rotation=0, gop=8, options=None,
    sound=False,
):  # fmt: skip
    """The bytes of a video file. times: when each frame is shown, in ms. rotation: degrees counterclockwise."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        stream.bit_rate = 4_000_000
        stream.options = options or {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = container.add_stream("aac", rate=8000) if sound else None
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if tone is not None:
            container.mux(tone.encode(_silence()))
            container.mux(tone.encode())
        container.mux(stream.encode())
    return buffer.getvalue()


def sound_only(kind="mp4", codec="aac"):
    """The bytes of a sound file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=8000)
        container.mux(stream.encode(_silence()))
        container.mux(stream.encode())
    return buffer.getvalue()


def _silence():
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 8000
    frame.pts = 0
    return frame


def with_plain_sound(frames):
    """A MOV file with uncompressed sound, of which every value is a sample of its own."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as container:
        stream, tone = container.add_stream("libx264", rate=25), container.add_stream("pcm_s16le", rate=8000)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        container.mux(tone.encode(sound))
        container.mux(tone.encode())
    return buffer.getvalue()
