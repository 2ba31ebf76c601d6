"""The command line with a video: from the file to the session."""

import pytest
import torch
from clip_files import coded, grey_frames
from tiny_families import CASES

import tokviz
from tokviz import cli
from tokviz.comparison import Comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that takes videos."""
    case, folder = CASES["llava_next_video (videos)"], tmp_path_factory.mktemp("film")
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    return folder


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(coded(grey_frames(30)))
    return path


def compare(folder, *arguments):
    return cli.main(["compare", "--question", "what is it ?", "--model", str(folder), "--max-new-tokens", "2",
                     "--methods", "random", "--budget", "5", *map(str, arguments)])  # fmt: skip


@pytest.mark.parametrize("named", [[], ["--image"], ["--video"]])
def test_a_video_is_compared_like_an_image(folder, clip, tmp_path, capsys, named):
    session = tmp_path / "session.json"
    code = compare(
        folder, *named, clip, "--frames", 3, "--evidence", "0:1,2,30,40", "--evidence", "2:5,6,30,40", "--json", session
    )
    assert code == 0
    comparison = Comparison.from_json(session.read_bytes())
    assert [view.frames for view in comparison.grid.views] == [(0,), (1,), (2,)]
    assert comparison.request.evidence == [(1, 2, 30, 40), (5, 6, 30, 40)]
    assert comparison.request.evidence_frames == [0, 2]
    assert comparison.video.name == "clip.mp4"
    assert "The model looks at 3 of 30 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--frames", 65], "from 1 to 64"),
        (["--evidence", "1,2,30,40"], "needs the sampled frame"),
        (["--evidence", "64:1,2,30,40"], "not 64"),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(folder, clip, more, sentence, capsys):
    assert compare(folder, clip, *more) == 2
    assert sentence in capsys.readouterr().err


def test_a_damaged_video_is_refused_before_the_model_is_loaded(clip, monkeypatch, capsys):
    monkeypatch.setattr(tokviz, "load", None, raising=False)
    clip.write_bytes(clip.read_bytes()[:500])
    assert compare("nowhere", clip) == 2
    assert "damaged" in capsys.readouterr().err


def test_the_video_is_never_overwritten(folder, clip, capsys):
    before = clip.read_bytes()
    assert compare(folder, clip, "--json", clip) == 2
    assert clip.read_bytes() == before
