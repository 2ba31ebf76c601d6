"""Hostile and odd images: each is read as said, or refused with one clear sentence."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from scripts.hostile_images import images
from tokviz.errors import BadInput
from tokviz.media.images import MAX_PIXELS, read_image, rgb_digest, stored_image
from tokviz.media.video import is_video


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_plain_image_is_rgb_and_survives_the_session_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    image = read_image(encoded(Image.fromarray(pixels), "PNG"), "a.png")
    assert image.image.mode == "RGB" and image.image.size == (33, 20) and image.notices == ()
    assert np.array_equal(np.asarray(stored_image(image.record)), pixels)


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (60, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    input_image = read_image(encoded(image, "JPEG", exif=exif))
    assert input_image.image.size == (20, 60) == (input_image.record.width, input_image.record.height)
    assert not input_image.image.getexif()
    pixels = np.random.default_rng(1).integers(0, 256, (20, 60, 3), np.uint8)
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert np.array_equal(np.asarray(read_image(data).image), np.asarray(expected)), orientation


def test_transparency_is_laid_on_white_and_said():
    image = read_image(encoded(Image.new("RGBA", (10, 10), (255, 0, 0, 0)), "PNG"))
    assert image.image.getpixel((5, 5)) == (255, 255, 255)
    assert "white" in image.notices[0]
    tall = Image.new("RGBA", (10, 200), (255, 0, 0, 255))
    tall.putpixel((5, 0), (255, 0, 0, 0))  # images are worked on in strips: one transparent pixel anywhere counts
    assert "white" in read_image(encoded(tall, "PNG")).notices[0]


def test_an_opaque_alpha_channel_is_no_news():
    assert read_image(encoded(Image.new("RGBA", (10, 10), (255, 0, 0, 255)), "PNG")).notices == ()


def test_palette_transparency():
    image = Image.new("P", (10, 10), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    input_image = read_image(encoded(image, "PNG", transparency=0))
    assert input_image.image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    image = read_image(encoded(Image.fromarray(values), "PNG"))
    grey = np.asarray(image.image)[..., 0].astype(int)
    assert abs(grey - np.arange(256).reshape(16, 16)).max() <= 1
    assert "8 bit" in image.notices[0]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = read_image(data)
    assert image.image.getpixel((3, 3)) == (255, 0, 0)
    assert "first frame" in image.notices[0]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "There is no image"),
        (b"", "not a readable image"),
        (b"not an image at all", "not a readable image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image"),
        ("missing.png", "no image file named 'missing.png'"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "1 × 1"),
        (encoded(Image.new("RGB", (9000, 8)), "PNG"), "at most 30 times"),
        (encoded(Image.new("RGB", (64, 64)), "PNG")[:60], "damaged"),
        (
            encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")[:700],
            "damaged",
        ),
    ],
)
def test_bad_images_are_refused_with_a_sentence(source, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_image(source)


def test_a_huge_image_is_refused_before_it_is_decoded(monkeypatch):
    side = int(MAX_PIXELS**0.5) + 8
    bomb = encoded(Image.new("1", (side, side)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadInput, match="megapixels"):
        read_image(bomb)


def test_a_large_image_is_stored_smaller_but_keeps_its_coordinates():
    image = read_image(Image.new("RGB", (3000, 1000), "green"))
    assert (image.record.width, image.record.height, image.record.mime) == (3000, 1000, "image/jpeg")
    assert stored_image(image.record).size == (3000, 1000)


def test_unreadable_exif_is_said_and_the_image_shown():
    image = read_image(encoded(Image.new("RGB", (32, 48), "red"), "PNG", exif=b"Exif\0\0garbage"))
    assert image.image.size == (32, 48) and "EXIF" in image.notices[0]


@pytest.mark.parametrize("share", [0.2, 0.25, 0.3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_animations_cut_short_are_read_or_refused_never_a_crash(kind, share):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(4)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    try:
        assert read_image(data[: int(share * len(data))]).image.size == (64, 64)
    except BadInput as error:
        assert "damaged" in str(error) or "no image" in str(error)


@pytest.mark.parametrize("size", [(6000, 200), (200, 6000), (5990, 200)])
def test_a_long_image_comes_back_out_of_its_session(size):
    assert stored_image(read_image(Image.new("RGB", size, "gray")).record).size == size


def test_a_forged_stored_image_is_not_decoded():
    record = read_image(Image.new("RGB", (600, 600))).record
    with pytest.raises(BadInput, match="larger"):
        stored_image(record.model_copy(update={"width": 20, "height": 20}))
    for side in ("width", "height"):
        with pytest.raises(BadInput, match="larger"):
            stored_image(record.model_copy(update={side: 599}))


def test_a_file_above_the_limit_is_called_too_large(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (64, 64), "red"), "PNG"))
    monkeypatch.setattr("tokviz.media.images.MAX_FILE_BYTES", path.stat().st_size)
    assert read_image(path).image.size == (64, 64)
    monkeypatch.setattr("tokviz.media.images.MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(BadInput, match="is larger than"):
        read_image(path)


def as_before(data):
    """The pixels as they were made when whole images were converted at once; the record of what must not change."""
    image = Image.open(io.BytesIO(data))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if image.mode == "F" else (0.0, 65535.0)
        scaled = (values - low) / (high - low) * 255 if high > low else np.zeros_like(values)
        image = Image.fromarray(np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def kinds_of_images():
    random = np.random.default_rng(3)
    height, width = 150, 91
    rgba = Image.fromarray(random.integers(0, 256, (height, width, 4), np.uint8))
    floats = random.normal(size=(height, width)).astype(np.float32)
    floats[3, :5] = np.nan, np.inf, -0.0, 7.5, np.nan
    finite = np.where(np.isfinite(floats), floats, 2.5).astype(np.float32)
    palette = rgba.convert("RGB").quantize(200)
    turned = Image.Exif()
    turned[0x0112] = 5
    yield "RGBA", rgba, "PNG", {}
    yield "LA", rgba.convert("LA"), "PNG", {}
    yield "palette, one transparent", palette, "PNG", {"transparency": 7}
    yield "palette, many transparent", palette, "PNG", {"transparency": bytes(range(200))}
    yield "RGB, one transparent", rgba.convert("RGB").quantize(4).convert("RGB"), "PNG", {"transparency": (1, 2, 3)}
    yield "grey, one transparent", rgba.convert("L"), "PNG", {"transparency": 90}
    yield "one bit, transparent", rgba.convert("1"), "PNG", {"transparency": 0}
    yield "one bit", rgba.convert("1"), "TIFF", {}
    yield "16 bit", Image.fromarray(random.integers(0, 65536, (height, width)).astype(np.uint16)), "PNG", {}
    yield "32 bit", Image.fromarray(random.integers(-9, 99_999, (height, width)).astype(np.int32)), "TIFF", {}
    yield "float", Image.fromarray(finite), "TIFF", {}
    yield "float, not all numbers", Image.fromarray(floats), "TIFF", {}
    yield "float, no numbers", Image.fromarray(np.full((height, width), np.nan, np.float32)), "TIFF", {}
    yield "float, flat", Image.new("F", (width, height), 3.5), "TIFF", {}
    yield "CMYK", rgba.convert("CMYK"), "JPEG", {}
    yield "turned JPEG", rgba.convert("RGB"), "JPEG", {"exif": turned}
    yield "turned WebP", rgba, "WEBP", {"exif": turned, "lossless": True}
    yield "turned TIFF", rgba, "TIFF", {"exif": turned}
    yield "turned PNG with alpha", rgba, "PNG", {"exif": turned}
    yield "WebP", rgba.convert("RGB"), "WEBP", {}
    yield "WebP with alpha", rgba, "WEBP", {}
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(3)]
        yield f"animated {kind}", frames[0], kind, {"save_all": True, "append_images": frames[1:]}
    yield "GIF, transparent", palette, "GIF", {"transparency": 3}
    yield "BMP", rgba.convert("RGB"), "BMP", {}


@pytest.mark.parametrize(
    ("name", "image", "kind", "options"), kinds_of_images(), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_every_kind_of_image_is_the_same_to_the_bit_as_before(name, image, kind, options):
    data = encoded(image, kind, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = as_before(data)
    input_image = read_image(data)
    assert input_image.image.tobytes() == before.tobytes() and input_image.image.size == before.size
    assert ("The file is animated; its first frame is used." in input_image.notices) == name.startswith("animated")
    whole = f"{before.width}x{before.height}".encode() + before.tobytes()
    assert input_image.record.sha256 == rgb_digest(before) == hashlib.sha256(whole).hexdigest()


HOSTILE = dict(images())
SLOW_BEFORE = {
    "repeated_scans.jpg": "far more parts", "repeated_scans_small.jpg": "far more parts",
    "overlapping_exif.jpg": "far more parts", "many_pages.tif": None, "overlapping_tags.tif": "far more parts",
    "long_colour_map.tif": "far more parts", "comments.gif": "far more parts", "tiny_blocks.gif": "far more parts",
    "comments_between_frames.gif": "far more parts", "huge_first_frame.gif": "25 megapixels",
    "empty_chunks.png": "far more parts", "empty_data_chunks.png": "far more parts",
    "zipped_profiles.png": "far more parts", "zipped_texts.png": "far more parts", "overlapping_exif.png": None,
    "run_lengths.bmp": "far more parts", "bomb.png": "25 megapixels", "bomb_100_megapixels.png": "25 megapixels",
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW_BEFORE)
def test_small_files_that_cost_much_are_answered_within_the_library(name):
    data, sentence = HOSTILE[name](), SLOW_BEFORE[name]
    start = time.process_time()
    if sentence is None:
        read_image(data)
    else:
        with pytest.raises(BadInput, match=sentence):
            read_image(data)
    assert time.process_time() - start < 5


def test_pillow_and_warnings_are_left_alone():
    code = (
        "import PIL.Image, numpy, pydantic, warnings; before = PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters)\n"
        "import tokviz.media.images\n"
        "assert before == (PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_large_image_is_refused_without_a_warning(recwarn, monkeypatch):
    changed = []

    def catch(**options):
        changed.append(options)
        return contextlib.nullcontext()

    for name in ("bomb_100_megapixels.png", "huge_first_frame.gif"):
        data = HOSTILE[name]()
        with monkeypatch.context() as patched, pytest.raises(BadInput, match="megapixels"):
            patched.setattr(warnings, "catch_warnings", catch)
            read_image(data)
    assert changed == []  # it would change what other threads see
    assert not [one for one in recwarn if issubclass(one.category, Image.DecompressionBombWarning)]


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
def test_what_is_no_plain_file_gets_a_sentence_and_never_waits(tmp_path):
    pipe, loop, folder = tmp_path / "pipe.png", tmp_path / "loop.png", tmp_path / "folder.png"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    names = [pipe, loop, folder, tmp_path / "zeros.png", tmp_path / "gone.png", tmp_path / "a\0b.png"]
    for path in [*names, tmp_path / ("long" * 100 + ".png")]:
        refused = []

        def read(path=path, refused=refused):
            with pytest.raises(BadInput) as caught:
                read_image(path)
            refused.append(str(caught.value))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(20)
        assert refused and "There is no image file named" in refused[0] and str(tmp_path) not in refused[0]
        assert len(refused[0]) < 150 and not is_video(path)


def test_a_link_to_what_may_not_be_read_gets_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "link.png"
    path.symlink_to("/etc/shadow")

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tokviz.files.os.open", refuse)
    monkeypatch.setattr("tokviz.media.images.Path.is_file", refuse)
    with pytest.raises(BadInput, match=r"'link\.png' may not be read"):
        read_image(path)


def test_a_pil_image_of_a_damaged_file_gets_a_sentence():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "PNG")
    with pytest.raises(BadInput, match="damaged"):
        read_image(Image.open(io.BytesIO(data[:5000])))
