"""Videos and tiled images between the records and the page: payload, request form, export."""

import hashlib
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from own_loop import run_async
from synthetic import comparison
from synthetic_film import LAMP, film_comparison, film_frames

from tokviz.errors import BadInput
from tokviz.models.llava_next import tile_grid
from tokviz.runs.examples import Example, load_examples
from tokviz.serving import running
from tokviz.ui import files
from tokviz.ui.files import shown_files
from tokviz.ui.handlers import Handlers
from tokviz.ui.payload import to_payload


def request(**changed):
    start = {"model": "m", "image": None, "question": "?", "methods": (("apet", {}),), "budget": 24}
    return running.RunRequest(**{**start, **changed})


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield


@pytest.fixture
def act():
    return Handlers(None, None, (), ())


@pytest.fixture(scope="module")
def session():
    return film_comparison(6, lit=4, rows=4, cols=6, budget=24, extra=1)


@pytest.fixture(scope="module")
def tiles():
    grid = tile_grid((480, 300), [(96, 192), (192, 96), (192, 192)], 96, 8)
    return comparison(480, 300).model_copy(update={"grid": grid, "runs": []})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 384, 240, "yuv420p"
        for frame in film_frames(8, 5):
            out.mux(stream.encode(av.VideoFrame.from_image(frame)))
        out.mux(stream.encode())
    return path


def example_of(session, clip):
    video = session.video.model_copy(update={"sha256": hashlib.sha256(clip.read_bytes()).hexdigest()})
    case = SimpleNamespace(title="Lamp", question=session.request.question, answer="yellow", why="why")
    return Example("lamp", case, session.model_copy(update={"video": video}), clip)


def test_the_payload_carries_frames_with_times_and_files(session):
    payload = to_payload(session, **shown_files(session))
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert [frame["time"] for frame in payload["video"]["frames"]] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert [frame["index"] for frame in payload["video"]["frames"]] == [0, 12, 24, 36, 48, 60]
    files = [frame["image"]["path"] for frame in payload["video"]["frames"]]
    assert len(set(files)) == 6 and all(Path(path).is_file() for path in files)
    assert payload["evidence_frames"] == [4] and payload["image"] is None
    assert [view["frames"] for view in payload["grid"]["views"]] == [[frame] for frame in range(6)]


def test_an_image_has_no_video_in_its_payload():
    payload = to_payload(comparison())
    assert payload["video"] is None and payload["evidence_frames"] == []


@pytest.mark.parametrize("change", ["next frame", "frame left out", "two views of a frame", "size", "time", "levels"])
def test_frames_that_cannot_be_drawn_are_refused(session, change):
    grid, video = session.grid, session.video
    views = grid.views
    frames = video.frames
    moved = {
        "next frame": [view.model_copy(update={"frames": (view.frames[0] + 1,)}) for view in views],
        "frame left out": [*views[:-1], views[-1].model_copy(update={"frames": ()})],
        "two views of a frame": [*views[:-1], views[-1].model_copy(update={"frames": (0,)})],
        "levels": [view.model_copy(update={"level": 0}) for view in views],
    }.get(change, views)
    other = {
        "size": [*frames[:-1], frames[-1].model_copy(update={"image": comparison().image})],
        "time": [*frames[:-1], frames[-1].model_copy(update={"time_s": float("inf")})],
    }.get(change, frames)
    damaged = session.model_copy(
        update={"grid": grid.model_copy(update={"views": moved}), "video": video.model_copy(update={"frames": other})}
    )
    with pytest.raises(BadInput, match="do not fit the frames"):
        to_payload(damaged)


def test_the_field_gets_the_clip_of_an_example_and_nothing_of_an_opened_session(session, clip):
    assert files.request_file(session) is None
    file = files.request_file(session, clip)
    assert Path(file.path).read_bytes() == clip.read_bytes()
    assert Path(file.path).name == "clip.mp4", "this name is shown when the example is run again"
    assert (file.orig_name, file.mime_type) == ("lamp.mp4", "video/mp4")
    still = files.request_file(comparison())
    assert (still.orig_name, still.mime_type) == ("synthetic.png", "image/png")


def test_an_uploaded_video_is_looked_at_at_once(act, clip, tmp_path):
    field, notice = Handlers._checked(str(clip))
    assert notice == {"kind": "info", "text": "Video: 2.0 s, 8 frames of 384 × 240 pixels."}
    assert "value" not in field
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:300])
    caller = SimpleNamespace(client=None, headers={})
    field, notice = run_async(act.check_media(str(broken), caller))
    assert field is None and notice["kind"] == "error" and "video" in notice["text"]


def test_the_truth_of_a_clip_is_told_in_frames_of_the_file(session, clip):
    act = Handlers(None, None, (), [example_of(session, clip)])
    asked = request(model="m", image=str(clip), question=session.request.question, methods=(("apet", {}),), budget=24)
    known = act.known.with_truth(asked)
    assert known.expected == "yellow" and known.evidence == (LAMP,) and known.evidence_at == (48,)
    other = act.known.with_truth(request(image=str(clip), question="what is it ?"))
    assert other.expected is None and other.evidence_at == ()


@pytest.mark.parametrize(("indices", "expected"), [((0, 24, 48), {"evidence": [LAMP], "evidence_frames": [2]}),
                                                   ((0, 30, 60), {"evidence": [], "evidence_frames": []})])  # fmt: skip
def test_evidence_counts_only_in_frames_that_are_looked_at(indices, expected):
    asked = request(
        model="m",
        image="clip.mp4",
        question="?",
        methods=(("apet", {}),),
        budget=24,
        evidence=(LAMP,),
        evidence_at=(48,),
    )
    assert running._evidence(asked, SimpleNamespace(indices=indices)) == expected


def test_a_request_about_a_video_reaches_the_comparison_with_its_frames(monkeypatch, clip):
    seen = {}

    def open_media(vlm, source, frames, **options):
        seen.update(options, frames=frames)
        return SimpleNamespace(indices=(0, 5))

    def compare_events(vlm, media, question, **options):
        assert seen.pop("isolated") and seen.pop("stop") is options["stop"]
        seen.update(options)
        return iter(())

    monkeypatch.setattr(running, "model", lambda *name: "model")
    monkeypatch.setattr("tokviz.compare_events", compare_events)  # first: it imports what uses the other
    monkeypatch.setattr("tokviz.runs.inputs.open_media", open_media)
    asked = request(
        model="m",
        image=str(clip),
        question="?",
        methods=(("apet", {}),),
        budget=24,
        evidence=(LAMP,),
        evidence_at=(5,),
        frames=2,
    )
    list(running.run_request(asked, threading.Event()))
    assert seen["frames"] == 2 and seen["evidence_frames"] == [1] and seen["evidence"] == [LAMP]


def test_examples_find_their_clip(tmp_path, session, clip):
    folder = tmp_path / "lamp"
    folder.mkdir()
    (folder / "session.json").write_text(session.to_json())
    facts = {"title": "t", "question": "q", "answer": "yellow", "why": "w"}
    (folder / "case.json").write_text(json.dumps(facts))
    assert load_examples(tmp_path)[0].clip is None
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    assert load_examples(tmp_path)[0].clip == folder / "clip.mp4"


def test_the_export_asks_for_levels_of_tiles_and_frames_of_videos(session, tiles):
    level, frames = files.figure_choices(tiles)
    assert level["choices"] == [("both, overlaid", "both"), ("whole image", "0"), ("4 crops", "1")]
    assert level["visible"] and level["value"] == "both" and not frames["visible"]
    level, frames = files.figure_choices(session)
    assert frames["visible"] and not level["visible"]
    for nothing in (comparison(), None):
        assert not any(choice["visible"] for choice in files.figure_choices(nothing))


def test_what_the_export_asks_for_reaches_the_figure(act, session, tiles, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "tokviz.viz.figures.save_figure", lambda comparison, path, **options: asked.append(options) or path
    )
    tiles = tiles.model_copy(update={"runs": comparison(480, 300).runs})
    for shown, level, frames in ((tiles, "both", ""), (tiles, "1", "3"), (session, None, "1, 5 2"), (session, "0", "")):
        act.exports.figure(files.key_of(shown), "kept", level, frames)
    wanted = [{"level": "both"}, {"level": 1}, {"frames": [0, 4, 1]}, {}]
    assert asked[::3] == [{"view": "kept", **options} for options in wanted]


def test_the_same_figure_is_drawn_once(act, session, monkeypatch):
    drawn = []
    monkeypatch.setattr("tokviz.viz.figures.save_figure", lambda comparison, path, **options: drawn.append(path))
    key = files.key_of(session)
    first, again, other = (act.exports.figure(key, "kept", None, frames)[0] for frames in ("2, 3", "2 3", "2"))
    assert first["value"] == again["value"] and len(drawn) == 2 * 3
    assert [Path(path).suffix for path in first["value"]] == [".png", ".svg", ".pdf"]
    assert not set(first["value"]) & set(other["value"])


@pytest.mark.parametrize(("frames", "words"), [("7", "no frame 7"), ("0", "no frame 0"), ("one", "with commas"),
                                               ("1-3", "with commas"), ("9" * 50, "with commas")])  # fmt: skip
def test_frames_that_are_not_there_are_said(act, session, frames, words):
    _, notice = act.exports.figure(files.key_of(session), "kept", None, frames)
    assert notice["kind"] == "error" and words in notice["text"]
