"""Videos through the named endpoint of the running page, with a model that takes them and one that does not."""

import os
from unittest.mock import patch

import pytest
import torch
from clip_files import coded, grey_frames, sound_only
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from tiny_families import CASES

from tokviz.comparison import Comparison
from tokviz.models.catalog import EMBEDDED_MODEL


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """The folder of a tiny model that takes videos, which is also its name on the page."""
    case, folder = CASES["llava_next_video (videos)"], tmp_path_factory.mktemp("film")
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def client(film, tmp_path_factory):
    from tokviz.ui.build import build_page, launch_settings

    with patch.dict(os.environ, TOKVIZ_MODEL=f"{film},{EMBEDDED_MODEL}"):
        os.environ.setdefault("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        with patch("gradio.networking.url_ok", return_value=True):
            page = build_page(examples=[])
            page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_settings())
        yield Client(page.local_url, verbose=False)
        page.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "clip.mp4").write_bytes(coded(grey_frames(30)))
    (folder / "named-as-image.png").write_bytes(coded(grey_frames(30)))
    (folder / "cut.mp4").write_bytes(coded(grey_frames(30))[:900])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "song.mp4").write_bytes(sound_only())
    (folder / "text.mp4").write_text("not a video")
    Image.linear_gradient("L").convert("RGB").save(folder / "image.png")
    return folder


def ask(client, file, **changed):
    request = {"question": "what is it ?", "methods": ["random"], "budget": 5, "max_new_tokens": 2, **changed}
    return client.predict(image=handle_file(str(file)), api_name="/compare", **request)


@pytest.mark.parametrize("name", ["clip.mp4", "named-as-image.png"])
def test_a_video_is_compared(client, files, name):
    whole = Comparison.model_validate(ask(client, files / name, frames=3))
    assert [view.frames for view in whole.grid.views] == [(0,), (1,), (2,)]
    assert whole.video.n_frames == 30 and len(whole["random"].kept) == 5


def test_the_model_chooses_how_many_frames_and_an_image_has_none(client, files):
    assert len(Comparison.model_validate(ask(client, files / "clip.mp4")).video.frames) > 1
    assert Comparison.model_validate(ask(client, files / "image.png")).video is None


@pytest.mark.parametrize(
    ("name", "changed", "sentence"),
    [
        ("cut.mp4", {}, "damaged or incomplete"),
        ("empty.mp4", {}, "is empty"),
        ("song.mp4", {}, "sound but no video"),
        ("text.mp4", {}, "not a readable video"),
        ("clip.mp4", {"frames": 0}, "from 1 to 64, not 0"),
        ("clip.mp4", {"frames": 2.5}, "frames must be a whole number"),
        ("clip.mp4", {"model": EMBEDDED_MODEL}, "does not answer questions about videos"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(client, files, name, changed, sentence):
    with pytest.raises(AppError) as refused:
        ask(client, files / name, **changed)
    assert sentence in str(refused.value)
