"""Safe decoding of images: limits before decoding, EXIF rotation, plain RGB. Uploads are hostile."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import BadInput
from ..files import open_file
from ..records import ImageRecord
from ..short import short_repr
from .image_structure import check_exif, check_structure
from .worker import OnUsage, absolute, in_worker

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 25_000_000
MAX_FILE_BYTES = 30_000_000
MIN_SIDE = 8
MAX_ASPECT = 30
# What Pillow's decoders raise on damaged files, beyond OSError: found by cutting files short.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, MemoryError)
_IS_DAMAGED = "The image file is damaged or incomplete and cannot be read."
_STRIP_ROWS = 64


@dataclass(frozen=True)
class InputImage:
    """A decoded image: RGB in display orientation, its record for the session, and what was changed on the way."""

    image: Image.Image
    record: ImageRecord
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return short_repr(self, name=self.record.name, size=self.image.size, notices=self.notices)


def read_image(source: str | Path | bytes | Image.Image | None, name: str = "") -> InputImage:
    """Decode an image file, its bytes, or take a PIL image; EXIF rotation is applied, the result is RGB.

    Transparency is laid on white, 16-bit channels are scaled to 8 bit, of an animation the first frame is used; each
    is said in ``notices``. Raises BadInput with one sentence when there is no image, the file cannot be read, or a
    limit is passed (25 megapixels, sides of at least 8 px and at most 30 : 1, no more parts than programs write), which
    is checked before anything is decoded. How long decoding may take is limited by ``checked_image`` alone.
    """
    if source is None:
        raise BadInput("There is no image: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file.")
    if isinstance(source, Image.Image):
        return _finish([source], _loaded(source), name)
    if not isinstance(source, bytes):
        path = Path(source)
        name = name or path.name
        with open_file(path, "image") as file:
            source = file.read(MAX_FILE_BYTES + 1)
        if len(source) > MAX_FILE_BYTES:
            raise BadInput(f"The image file is larger than {MAX_FILE_BYTES // 1_000_000} MB; please use a smaller one.")
    decoded: list[Image.Image] = []
    return _finish(decoded, _decode(source, decoded), name)


def image_size(source: str | Path) -> tuple[int, int]:
    """Width and height in px of an image file as it is shown, from its header alone. Raises BadInput as ``read_image``.

    What only decoding finds, such as a file that was cut short, is not noticed.
    """
    with open_file(source, "image") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"The image file is larger than {MAX_FILE_BYTES // 1_000_000} MB; please use a smaller one.")
    try:
        image = _opened(data, FORMATS)
        _check_limits(image.size)
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except BadInput:
        raise
    except (Image.DecompressionBombError, *_DAMAGED) as error:
        raise BadInput(_IS_DAMAGED) from error
    return (height, width) if turned else (width, height)


def checked_image(
    source: str | Path | bytes, name: str = "", stop: threading.Event | None = None, on_usage: OnUsage = None
) -> InputImage:
    """``read_image`` of a stranger's file or its bytes, in a process that is ended when it takes too much.

    The result is the same to the bit. ``stop`` ends the call (Stopped); ``on_usage`` is told what the process took.
    """
    image: InputImage = in_worker(read_image, absolute(source), name, stop=stop, on_usage=on_usage)[0]
    return image


def _decode(data: bytes, decoded: list[Image.Image]) -> bool:
    """Append the (first) image of a file to ``decoded``; whether further ones follow. Raises BadInput."""
    try:
        image: Any = _opened(data, FORMATS)
        _check_limits(image.size)
        if image.format == "WEBP" and hasattr(image, "_decoder"):
            decoded.append(_webp(image))
            return bool(image.is_animated)
        image.load()
        decoded.append(image)
        return _is_animated(image)
    except Image.DecompressionBombError as error:
        raise BadInput(f"The image has more than {MAX_PIXELS // 1_000_000} megapixels; please shrink it.") from error
    except BadInput:
        raise
    except MemoryError as error:
        raise BadInput("The image file is damaged, or it needs more memory than an image may.") from error
    except _DAMAGED as error:
        raise BadInput(_IS_DAMAGED) from error


def _loaded(image: Image.Image) -> bool:
    """Load a PIL image that may not have been read yet; whether it is animated. Raises BadInput."""
    _check_limits(image.size)
    try:
        image.load()
    except _DAMAGED as error:
        raise BadInput(_IS_DAMAGED) from error
    return _is_animated(image)


def _opened(data: bytes, formats: Sequence[str]) -> Image.Image:
    """What ``Image.open`` does, but for its warning above 89 megapixels: warnings are the whole process's, not ours.

    Raises BadInput for what is no image or passes a limit that can be told from its structure.
    """
    for kind in formats:
        if kind not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[kind]
        # A sentence instead of True: Pillow was built without what this format needs.
        if accept is not None and accept(data[:16]) is not True:
            continue
        size = check_structure(data, kind)
        if size is not None:
            _check_megapixels(size)
        try:
            return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise BadInput("This file is not a readable image: use PNG, JPEG, WebP, GIF, BMP or TIFF.")


def _webp(image: Any) -> Image.Image:
    """A WebP as ``load`` would give it, in less memory: its decoder holds two copies, which are given back first."""
    decoder, image._decoder = image._decoder, None
    first = decoder.get_next()
    del decoder
    if first is None:
        raise BadInput(_IS_DAMAGED)
    plain = Image.frombuffer(image.mode, image.size, first[0], "raw", image.rawmode, 0, 1)
    plain.info.update(image.info)
    return plain


def _is_animated(image: Image.Image) -> bool:
    """Whether there is a second frame; the others are not looked for. Leaves the first one loaded. Raises BadInput."""
    try:
        if not getattr(image, "is_animated", False):
            return False
        image.seek(0)
        image.load()
    except _DAMAGED as error:  # looking for a frame and rewinding decode further ones, which may be damaged
        raise BadInput(_IS_DAMAGED) from error
    return True


def _check_limits(size: tuple[int, int]) -> None:
    _check_megapixels(size)
    check_sides("image", *size)


def check_sides(what: str, width: int, height: int) -> None:
    """Raises BadInput for an image or video that is too small or too narrow."""
    if min(width, height) < MIN_SIDE:
        raise BadInput(f"The {what} is {width} × {height} pixels; each side needs at least {MIN_SIDE}.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadInput(
            f"The {what} is {width} × {height} pixels; it may be at most {MAX_ASPECT} times as long as wide."
        )


def _check_megapixels(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"The image has {width} × {height} pixels; the limit is {MAX_PIXELS // 1_000_000} megapixels. "
            "Please shrink it."
        )


def _finish(decoded: list[Image.Image], animated: bool, name: str) -> InputImage:
    # Taken out of the list, so that nobody else holds it: 25 megapixels are 100 MB, and the next step copies them.
    image = decoded.pop()
    _check_limits(image.size)
    notices = ["The file is animated; its first frame is used."] if animated else []
    try:
        image = _upright(image)
    except (BadInput, *_DAMAGED):
        notices.append("The image's EXIF data cannot be read; it is shown as stored, without rotation.")
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bit(image)
        notices.append("The image has more than 8 bits per channel; it was scaled to 8.")
    if image.has_transparency_data:
        image, is_transparent = _on_white(image)
        if is_transparent:
            notices.append("Transparent parts of the image are shown on white.")
    else:
        image = image.convert("RGB")
    image.info.clear()
    return InputImage(image, image_record(image, name), tuple(notices))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say. Raises what Pillow raises on damaged ones, and BadInput."""
    block, packed = image.info.get("exif"), image.info.get("Raw profile type exif")
    if isinstance(block, bytes):
        check_exif(block)
    elif isinstance(packed, str):
        check_exif(bytes.fromhex("".join(packed.split("\n")[3:])))
    turned: Image.Image = image
    # ``exif_transpose`` would copy an image that is upright already.
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        turned = ImageOps.exif_transpose(image)
    return turned


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in strips of full width, each with the row that it begins at: working on them takes less memory."""
    for top in range(0, image.height, _STRIP_ROWS):
        yield top, image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """An image with transparency laid on white, and whether it makes a difference."""
    rgb, least = Image.new("RGB", image.size), 255
    for top, strip in _strips(image):
        rgba = strip.convert("RGBA")
        least = min(least, int(np.asarray(rgba.getchannel("A")).min()))
        white = Image.new("RGBA", rgba.size, "white")
        rgb.paste(Image.alpha_composite(white, rgba).convert("RGB"), (0, top))
    return rgb, least < 255


def _to_eight_bit(image: Image.Image) -> Image.Image:
    low, high = (0.0, 65535.0) if image.mode != "F" else _range(image)
    grey = np.zeros((image.height, image.width), np.uint8)
    if high > low:
        for top, strip in _strips(image):
            values = np.asarray(strip).astype(np.float64)
            scaled = (values - low) / (high - low) * 255
            grey[top : top + strip.height] = np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(grey)


def _range(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest value that is a number."""
    ends = [
        (np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None))
        for values in (np.asarray(strip) for _, strip in _strips(image))
    ]
    return float(np.fmin.reduce([low for low, _ in ends])), float(np.fmax.reduce([high for _, high in ends]))


def image_record(
    image: Image.Image, name: str = "", *, side: int = 1600, lossless_up_to: int = 640, quality: int = 92
) -> ImageRecord:
    """The record that a session carries: size, digest of the RGB bytes, and the image itself.

    Small images (longer side of at most ``lossless_up_to`` px) are stored exactly, as PNG; larger ones as JPEG with at
    most ``side`` px a side. Width and height are always those of the full image, to which all boxes refer.
    """
    stored = image
    if max(image.size) > side:
        stored = image.copy()
        stored.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    lossless = max(stored.size) <= lossless_up_to
    if lossless:
        stored.save(buffer, "PNG")
    else:
        stored.save(buffer, "JPEG", quality=quality)
    return ImageRecord(
        width=image.width,
        height=image.height,
        sha256=rgb_digest(image),
        mime="image/png" if lossless else "image/jpeg",
        base64=base64.b64encode(buffer.getvalue()).decode("ascii"),
        name=valid_text(name),
    )


def rgb_digest(image: Image.Image) -> str:
    """SHA-256 of size and RGB bytes."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    for _, strip in _strips(image):
        digest.update(strip.tobytes())
    return digest.hexdigest()


def valid_text(name: str) -> str:
    """A file name as text that can be written: what is no UTF-8 is replaced."""
    return name.encode("utf-8", "replace").decode("utf-8")


def stored_image(record: ImageRecord) -> Image.Image:
    """Decode the image of a session, scaled to the size that its boxes refer to. Raises BadInput when damaged."""
    _check_limits((record.width, record.height))
    size = (record.width, record.height)
    try:
        stored = _opened(base64.b64decode(record.base64, validate=True), ("PNG", "JPEG"))
        # Stored images are at most as large as the full one; a forged session is stopped before decoding.
        larger = stored.width > record.width or stored.height > record.height
        image = None if larger else stored.convert("RGB")
    except (Image.DecompressionBombError, *_DAMAGED) as error:  # BadInput is a ValueError
        raise BadInput("The image inside this session is damaged.") from error
    if image is None:
        raise BadInput("The image inside this session is larger than the session says.")
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
