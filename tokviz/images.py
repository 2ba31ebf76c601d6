"""Safe decoding of pictures: limits before decoding, EXIF rotation, plain RGB. Uploads are hostile."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import BadInput
from .records import PictureRecord
from .short import short_repr

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 25_000_000
MAX_FILE_BYTES = 30_000_000
MIN_SIDE = 8
MAX_ASPECT = 30
_LOSSLESS_UP_TO = 640
# What Pillow's decoders raise on damaged files, beyond OSError: found by cutting files short.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, MemoryError)
_STORED_SIDE = 1600

# Pillow's own guard: whatever path decodes a picture in this process refuses a decompression bomb.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@dataclass(frozen=True)
class Picture:
    """A decoded picture: RGB in display orientation, its record for the session, and what was changed on the way."""

    image: Image.Image
    record: PictureRecord
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return short_repr(self, name=self.record.name, size=self.image.size, notices=self.notices)


def read_image(source: str | Path | bytes | Image.Image | None, name: str = "") -> Picture:
    """Decode a picture file, its bytes, or take a PIL picture; EXIF rotation is applied, the result is RGB.

    Transparency is laid on white, 16-bit channels are scaled to 8 bit, of an animation the first frame is used; each
    is said in ``notices``. Raises BadInput with one sentence when there is no picture, the file cannot be read, or a
    limit is passed (25 megapixels, sides of at least 8 px and at most 30 : 1). Limits are checked on the header.
    """
    if source is None:
        raise BadInput("There is no picture: choose a PNG, JPEG, WebP, GIF, BMP or TIFF file.")
    if isinstance(source, Image.Image):
        return _finish(source, name)
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        name = name or path.name
        if not path.is_file():
            raise BadInput(f"There is no picture file named {path.name!r}.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadInput(
                f"The picture file is larger than {MAX_FILE_BYTES // 1_000_000} MB; please use a smaller one."
            )
        data = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_limits(image.size)
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadInput(f"The picture has more than {MAX_PIXELS // 1_000_000} megapixels; please shrink it.") from error
    except UnidentifiedImageError as error:
        raise BadInput("This file is no picture that can be read: use PNG, JPEG, WebP, GIF, BMP or TIFF.") from error
    except BadInput:
        raise
    except _DAMAGED as error:
        raise BadInput("The picture file is damaged or incomplete and cannot be read.") from error
    return _finish(image, name)


def _check_limits(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"The picture has {width} × {height} pixels; the limit is {MAX_PIXELS // 1_000_000} megapixels. "
            "Please shrink it."
        )
    if min(width, height) < MIN_SIDE:
        raise BadInput(f"The picture is {width} × {height} pixels; each side needs at least {MIN_SIDE}.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadInput(
            f"The picture is {width} × {height} pixels; it may be at most {MAX_ASPECT} times as long as wide."
        )


def _finish(image: Image.Image, name: str) -> Picture:
    _check_limits(image.size)
    notices = []
    try:
        # Counting and rewinding decode further frames, which may be damaged.
        if getattr(image, "n_frames", 1) > 1:
            image.seek(0)
            image.load()
            notices.append("The file is animated; its first frame is used.")
    except _DAMAGED as error:
        raise BadInput("The picture file is damaged or incomplete and cannot be read.") from error
    try:
        image = ImageOps.exif_transpose(image)
    except _DAMAGED:
        notices.append("The picture's EXIF data cannot be read; it is shown as stored, without rotation.")
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bit(image)
        notices.append("The picture has more than 8 bits per channel; it was scaled to 8.")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if np.asarray(rgba.getchannel("A")).min() < 255:
            notices.append("Transparent parts of the picture are shown on white.")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    rgb = image.convert("RGB")
    rgb.info.clear()
    return Picture(rgb, picture_record(rgb, name), tuple(notices))


def _to_eight_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
    else:
        low, high = 0.0, 65535.0
    scaled = (values - low) / (high - low) * 255 if high > low else np.zeros_like(values)
    return Image.fromarray(np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8))


def picture_record(image: Image.Image, name: str = "") -> PictureRecord:
    """The record that a session carries: size, digest of the RGB bytes, and the picture itself.

    Small pictures are stored exactly (PNG); larger ones as JPEG with at most 1600 px a side. Width and height are
    always those of the full picture, to which all boxes refer.
    """
    stored = image
    if max(image.size) > _STORED_SIDE:
        stored = image.copy()
        stored.thumbnail((_STORED_SIDE, _STORED_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    lossless = max(stored.size) <= _LOSSLESS_UP_TO
    if lossless:
        stored.save(buffer, "PNG")
    else:
        stored.save(buffer, "JPEG", quality=92)
    return PictureRecord(
        width=image.width,
        height=image.height,
        sha256=rgb_digest(image),
        mime="image/png" if lossless else "image/jpeg",
        base64=base64.b64encode(buffer.getvalue()).decode("ascii"),
        name=valid_text(name),
    )


def rgb_digest(image: Image.Image) -> str:
    """SHA-256 of size and RGB bytes."""
    return hashlib.sha256(f"{image.width}x{image.height}".encode() + image.tobytes()).hexdigest()


def valid_text(name: str) -> str:
    """A file name as text that can be written: what is no UTF-8 is replaced."""
    return name.encode("utf-8", "replace").decode("utf-8")


def stored_image(record: PictureRecord) -> Image.Image:
    """Decode the picture of a session, scaled to the size that its boxes refer to. Raises BadInput when damaged."""
    _check_limits((record.width, record.height))
    size = (record.width, record.height)
    try:
        with Image.open(io.BytesIO(base64.b64decode(record.base64, validate=True)), formats=("PNG", "JPEG")) as stored:
            # Stored pictures are at most as large as the full one; a forged session is stopped before decoding.
            if stored.width > record.width or stored.height > record.height:
                raise BadInput("The picture inside this session is larger than the session says.")
            image = stored.convert("RGB")
    except BadInput:
        raise
    except (Image.DecompressionBombError, *_DAMAGED) as error:
        raise BadInput("The picture inside this session is damaged.") from error
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
