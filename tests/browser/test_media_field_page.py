"""The field that takes an image or a video, and video sessions in the page itself."""

import io

import av
import numpy as np
import pytest
from synthetic_film import film_comparison, film_frames
from test_requests import upload

from tokviz.ui.components import MediaField

pytestmark = pytest.mark.browser


def clip(path, codec="libvpx-vp9", n_frames=8):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=4)
        stream.width, stream.height, stream.pix_fmt = 384, 240, "yuv420p"
        for frame in film_frames(n_frames, 3):
            for packet in stream.encode(av.VideoFrame.from_image(frame)):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def notice_says(page, words):
    page.wait_for_function(f"document.querySelector('.tokviz-notice').textContent.includes({words!r})")


def field_shows(page, kind):
    page.wait_for_function(f"document.querySelector('.mf-root').dataset.shows === {kind!r}")


def test_a_video_is_uploaded_and_can_be_played(shared_page, site, paced, tmp_path):
    page = shared_page(site)
    field_shows(page, "image")
    upload(page, clip(tmp_path / "lamp.webm"))
    notice_says(page, "Video: 2.0 s, 8 frames of 384 × 240 pixels.")
    field_shows(page, "video")
    page.wait_for_function("document.querySelector('.mf-video').videoWidth === 384")
    page.get_by_text("Advanced").click()
    page.get_by_label("Video frames").fill("4")
    page.locator("#tokviz-compare").click()
    page.wait_for_function("document.querySelector('.tv-origin').hidden")
    asked = paced.requests[-1]
    assert asked.image.endswith("lamp.webm") and asked.frames == 4
    page.get_by_label("Remove the image or video").click()
    field_shows(page, "none")
    page.locator("#tokviz-compare").click()
    notice_says(page, "Choose an image or a video first")


def test_an_image_is_dropped_over_a_video(shared_page, site, tmp_path):
    page = shared_page(site)
    upload(page, clip(tmp_path / "lamp.webm"))
    field_shows(page, "video")
    image = io.BytesIO()
    film_frames(1, 0)[0].save(image, "PNG")
    transfer = page.evaluate_handle(
        """(bytes) => { const t = new DataTransfer();
        t.items.add(new File([new Uint8Array(bytes)], 'still.png', { type: 'image/png' })); return t; }""",
        list(image.getvalue()),
    )
    page.locator(".mf-root").dispatch_event("drop", {"dataTransfer": transfer})
    field_shows(page, "image")
    page.wait_for_function("document.querySelector('.mf-image').naturalWidth === 384")


def sound(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        for packet in [*stream.encode(frame), *stream.encode()]:
            out.mux(packet)


def test_files_that_are_neither_are_refused_with_a_sentence(shared_page, site, tmp_path):
    page = shared_page(site)
    (tmp_path / "empty.mp4").write_bytes(b"")
    upload(page, tmp_path / "empty.mp4")  # not even sent
    page.wait_for_function("document.querySelector('.mf-status').textContent === 'empty.mp4 is empty.'")
    sound(tmp_path / "sound.mp4")
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (tmp_path / "page.html").write_bytes(b"<script>window.HACKED=1</script>")
    for name in ("sound.mp4", "cut.mp4", "page.html"):
        upload(page, tmp_path / name)
        page.wait_for_function("document.querySelector('.tokviz-notice-error') !== null")
        assert page.locator(".tokviz-notice").inner_text().endswith("."), name
        field_shows(page, "none")
        page.locator("#tokviz-examples button").first.click()
        page.wait_for_function("document.querySelector('.tokviz-notice-error') === null")
        field_shows(page, "image")
    assert page.evaluate("window.HACKED") is None


def test_a_client_cannot_name_a_file_of_the_server():
    """What the browser sends is data of a stranger: what does not come from gradio's own upload is no file."""
    with pytest.raises(ValueError, match="meta"):
        MediaField.data_model.model_validate({"path": "/etc/hostname"}, context={"validate_meta": True})


def test_a_film_is_opened_from_a_file_and_an_image_after_it(shared_page, site, tmp_path):
    page = shared_page(site)
    path = tmp_path / "film.json"
    path.write_text(film_comparison(4, lit=2, rows=5, cols=8, budget=24).to_json())
    page.get_by_role("tab", name="Export").click()
    page.locator("input[accept='.json']").set_input_files(str(path))
    notice_says(page, "It contains the sampled frames, not the video")
    field_shows(page, "none")
    page.wait_for_function("document.querySelectorAll('.tv-film-cell img').length === 4")
    page.wait_for_function("[...document.querySelectorAll('.tv-film-cell img')].every((i) => i.naturalWidth === 384)")
    assert page.locator(".tv-scrub-told").inner_text() == "3 of 4 · 1.00 s · evidence"
    page.mouse.wheel(0, 300)
    page.wait_for_function("scrollY > 200")
    page.locator(".tv-lane").first.scroll_into_view_if_needed()
    assert page.locator(".tv-scrub").bounding_box()["y"] >= -1, "the scrubber stays in sight"
    page.locator("#tokviz-examples button").first.click()
    page.get_by_role("heading", name="The triangle").wait_for()
    field_shows(page, "image")
    assert page.locator(".tv-film").is_visible() is False and page.locator(".tv-scrub").is_visible() is False
    assert page.locator(".tv-lane-bars").first.is_visible() is False
    assert page.locator(".tv-where").nth(1).inner_text() == "64 of 576 patches kept"
