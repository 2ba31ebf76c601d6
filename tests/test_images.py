"""Hostile and odd pictures: each is read as said, or refused with one clear sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from tokviz.errors import BadInput
from tokviz.images import MAX_PIXELS, read_image, stored_image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_plain_picture_is_rgb_and_survives_the_session_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    picture = read_image(encoded(Image.fromarray(pixels), "PNG"), "a.png")
    assert picture.image.mode == "RGB" and picture.image.size == (33, 20) and picture.notices == ()
    assert np.array_equal(np.asarray(stored_image(picture.record)), pixels)


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (60, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read_image(encoded(image, "JPEG", exif=exif))
    assert picture.image.size == (20, 60) == (picture.record.width, picture.record.height)
    assert not picture.image.getexif()


def test_transparency_is_laid_on_white_and_said():
    picture = read_image(encoded(Image.new("RGBA", (10, 10), (255, 0, 0, 0)), "PNG"))
    assert picture.image.getpixel((5, 5)) == (255, 255, 255)
    assert "white" in picture.notices[0]


def test_an_opaque_alpha_channel_is_no_news():
    assert read_image(encoded(Image.new("RGBA", (10, 10), (255, 0, 0, 255)), "PNG")).notices == ()


def test_palette_transparency():
    image = Image.new("P", (10, 10), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    picture = read_image(encoded(image, "PNG", transparency=0))
    assert picture.image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    picture = read_image(encoded(Image.fromarray(values), "PNG"))
    grey = np.asarray(picture.image)[..., 0].astype(int)
    assert abs(grey - np.arange(256).reshape(16, 16)).max() <= 1
    assert "8 bit" in picture.notices[0]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = read_image(data)
    assert picture.image.getpixel((3, 3)) == (255, 0, 0)
    assert "first frame" in picture.notices[0]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "There is no picture"),
        (b"", "no picture that can be read"),
        (b"not a picture at all", "no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
        ("missing.png", "no picture file named 'missing.png'"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "1 × 1"),
        (encoded(Image.new("RGB", (9000, 8)), "PNG"), "at most 30 times"),
        (encoded(Image.new("RGB", (64, 64)), "PNG")[:60], "damaged"),
        (
            encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")[:700],
            "damaged",
        ),
    ],
)
def test_bad_pictures_are_refused_with_a_sentence(source, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_image(source)


def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    side = int(MAX_PIXELS**0.5) + 8
    bomb = encoded(Image.new("1", (side, side)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadInput, match="megapixels"):
        read_image(bomb)


def test_a_large_picture_is_stored_smaller_but_keeps_its_coordinates():
    picture = read_image(Image.new("RGB", (3000, 1000), "green"))
    assert (picture.record.width, picture.record.height, picture.record.mime) == (3000, 1000, "image/jpeg")
    assert stored_image(picture.record).size == (3000, 1000)


def test_unreadable_exif_is_said_and_the_picture_shown():
    picture = read_image(encoded(Image.new("RGB", (32, 48), "red"), "PNG", exif=b"Exif\0\0garbage"))
    assert picture.image.size == (32, 48) and "EXIF" in picture.notices[0]


@pytest.mark.parametrize("share", [0.2, 0.25, 0.3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_animations_cut_short_are_read_or_refused_never_a_crash(kind, share):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(4)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    try:
        assert read_image(data[: int(share * len(data))]).image.size == (64, 64)
    except BadInput as error:
        assert "damaged" in str(error) or "no picture" in str(error)


@pytest.mark.parametrize("size", [(6000, 200), (200, 6000), (5990, 200)])
def test_a_long_picture_comes_back_out_of_its_session(size):
    assert stored_image(read_image(Image.new("RGB", size, "gray")).record).size == size


def test_a_forged_stored_picture_is_not_decoded():
    record = read_image(Image.new("RGB", (600, 600))).record
    with pytest.raises(BadInput, match="larger"):
        stored_image(record.model_copy(update={"width": 20, "height": 20}))
