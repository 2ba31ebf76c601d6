"""Videos through the whole library: frames, evidence in frames, limits, and what is said when something is wrong."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_files import coded, grey_frames, sound_only
from PIL import Image
from tiny_families import CASES

import tokviz
from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.media.images import read_image
from tokviz.media.video import MAX_SAMPLED, read_video
from tokviz.names import VideoFacts
from tokviz.runs.compare import compare_events
from tokviz.runs.inputs import _sampled, untrained
from tokviz.runs.metrics import evidence_recall, evidence_tokens
from tokviz.viz.tables import notes

QUESTION = "what is it ?"
SIZE = (64, 48)


@pytest.fixture(scope="module")
def clip():
    return coded(grey_frames(30, *SIZE))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A tiny model that takes images and videos."""
    case, folder = CASES["llava_next_video (videos)"], tmp_path_factory.mktemp("film")
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    return tokviz.load(folder)


def ask(film, source, **options):
    return tokviz.compare(
        film,
        source,
        QUESTION,
        options.pop("methods", ["divprune"]),
        options.pop("budget", 5),
        max_new_tokens=2,
        **options,
    )


@pytest.fixture(scope="module")
def comparison(film, clip):
    return ask(film, clip, frames=4)


def test_the_session_holds_the_frames_that_the_model_saw(comparison, clip):
    video = comparison.video
    assert [frame.index for frame in video.frames] == sorted({frame.index for frame in video.frames})
    assert len(video.frames) == 4 and video.n_frames == 30 and (video.width, video.height) == SIZE
    assert comparison.image == video.frames[0].image and comparison.grid.image_size == SIZE
    assert [view.frames for view in comparison.grid.views] == [(0,), (1,), (2,), (3,)]
    assert comparison.warnings[0] == "The model looks at 4 of 30 frames, about one every 0.3 seconds."
    assert Comparison.from_json(comparison.to_json()) == comparison
    again = read_video(clip, lambda facts: [frame.index for frame in video.frames])
    assert again.record == video


def test_path_bytes_and_video_are_the_same_request(film, clip, comparison, tmp_path):
    path = tmp_path / "clip.dat"  # the content decides, not the name
    path.write_bytes(clip)
    video = read_video(clip, lambda facts: [frame.index for frame in comparison.video.frames])
    for source, options in [(path, {"frames": 4}), (str(path), {"frames": 4}), (video, {}), (video, {"frames": 4})]:
        other = ask(film, source, **options)
        assert [run.answer_tokens for run in other.runs] == [run.answer_tokens for run in comparison.runs]
        assert [run.kept for run in other.runs] == [run.kept for run in comparison.runs]
        assert other.video.frames == comparison.video.frames


def test_the_family_chooses_how_many_frames_unless_it_is_told(film, clip):
    facts = read_video(clip, lambda facts: [0]).facts
    own = film.family.sampled(film.processor, facts, None)
    assert [frame.index for frame in ask(film, clip).video.frames] == list(own)
    assert len(ask(film, clip, frames=2).video.frames) == 2


def test_a_short_video_is_seen_whole_and_nothing_is_said(film):
    comparison = ask(film, coded(grey_frames(3)), frames=3)
    assert [frame.index for frame in comparison.video.frames] == [0, 1, 2]
    assert not any("looks at" in warning for warning in comparison.warnings)


def test_the_budget_is_of_all_frames_together(film, clip, comparison):
    per_frame = len(comparison.grid.view) // 4
    assert comparison.grid.n_tokens == 4 * per_frame
    assert len(ask(film, clip, frames=4, methods=["random"], budget=2 * per_frame)["random"].kept) == 2 * per_frame
    with pytest.raises(BadInput, match=f"this video has {comparison.grid.n_tokens} visual tokens"):
        ask(film, clip, frames=4, budget=comparison.grid.n_tokens + 1)


def test_evidence_lies_in_its_frame_only(film, clip):
    comparison = ask(film, clip, frames=4, evidence=[(0, 0, 64, 48)], evidence_frames=[2])
    grid, request = comparison.grid, comparison.request
    shown = evidence_tokens(grid, request.evidence, request.evidence_frames)
    assert shown == [token for token in range(grid.n_tokens) if grid.views[grid.view[token]].frames == (2,)]
    assert evidence_recall(grid, request.evidence, shown[:1], request.evidence_frames) == 1 / len(shown)
    assert evidence_tokens(grid, [], []) == []
    with pytest.raises(ValueError, match="the frame of each"):
        evidence_tokens(grid, request.evidence)


def test_evidence_follows_frames_that_were_scaled_down(film):
    large = coded(grey_frames(2, 1920, 1080), options={"preset": "ultrafast"})
    request = ask(film, large, evidence=[(192, 108, 960, 540)], evidence_frames=[1], frames=2).request
    assert request.evidence == [pytest.approx((128, 72, 640, 360))] and request.evidence_frames == [1]


def test_the_order_of_frames_matters(film):
    """Frames reach the model in their order: a film played backwards gives other tokens, frame by frame."""
    from tokviz.models.prompts import model_inputs

    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    forward, backward = (
        model_inputs(film, read_video(coded(f, "avi", "ffv1", pix_fmt="bgr0"), lambda facts: range(4)), QUESTION)[0]
        for f in (frames, frames[::-1])
    )
    assert torch.equal(forward["pixel_values_videos"][0], backward["pixel_values_videos"][0].flip(0))
    assert not torch.equal(forward["pixel_values_videos"], backward["pixel_values_videos"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"frames": 0}, "from 1 to 64, not 0"),
        ({"frames": 65}, "from 1 to 64, not 65"),
        ({"frames": 2.5}, "from 1 to 64, not 2.5"),
        ({"frames": True}, "from 1 to 64, not True"),
        ({"evidence": [(0, 0, 9, 9)]}, "needs the sampled frame"),
        ({"evidence": [(0, 0, 9, 9)], "evidence_frames": [4], "frames": 4}, "0 to 3, not 4"),
        ({"evidence": [(0, 0, 9, 9)], "evidence_frames": [-1], "frames": 4}, "0 to 3, not -1"),
        ({"evidence": [(9, 0, 0, 9)], "evidence_frames": [0]}, "evidence box"),
        ({"source": b""}, "not a readable image"),
        ({"source": sound_only()}, "sound but no video"),
        ({"source": "nowhere.mp4"}, "no video file named"),
        ({"source": Image.new("RGB", SIZE), "frames": 4}, "a setting for videos"),
        ({"source": Image.new("RGB", SIZE), "evidence": [(0, 0, 9, 9)], "evidence_frames": [0]}, "is for videos"),
    ],
)
def test_bad_input_is_one_sentence(film, clip, options, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        ask(film, options.pop("source", clip), **options)
    assert "\n" not in str(caught.value)


def test_more_frames_than_the_model_can_read_are_refused_before_they_are_encoded(film, clip, monkeypatch):
    monkeypatch.setattr(film.text_config, "max_position_embeddings", 24)
    monkeypatch.setattr(tokviz.runs.job, "encode", None)
    with pytest.raises(BadInput, match=r"Video, question and answer need .* takes 24\. Please use fewer frames"):
        ask(film, clip, frames=20)


def test_a_text_file_that_calls_itself_a_video_is_refused_as_one(film, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("not a video")
    with pytest.raises(BadInput, match="not a readable video"):
        ask(film, path)


def test_a_video_that_was_read_with_other_frames_is_refused(film, clip):
    with pytest.raises(BadInput, match="already read with 2 frames, not with 4"):
        ask(film, read_video(clip, lambda facts: [0, 9]), frames=4)


def test_a_model_for_images_names_models_that_take_videos(vlm, clip):
    with pytest.raises(
        BadInput, match=r"tokviz-tiny does not answer questions about videos.*such as tokviz-tiny-video or .+/"
    ):
        tokviz.compare(vlm, clip, "is there a star?")


def test_a_model_for_videos_may_take_no_images(film, monkeypatch):
    monkeypatch.setattr(type(film.family), "takes", ("video",))
    with pytest.raises(BadInput, match="does not answer questions about images; choose a model that does"):
        ask(film, Image.new("RGB", SIZE))


def test_the_placeholder_of_frames_is_reserved(film, clip):
    for word in ("<video>", "<image>"):
        with pytest.raises(BadInput, match="reserved by the model"):
            tokviz.compare(film, clip, f"what is {word} ?")


def test_events_of_a_video(film, clip):
    events = list(compare_events(film, clip, QUESTION, methods=["random"], budget=4, frames=2, max_new_tokens=2))
    assert events[0].kind == "encoded" and events[-1].kind == "done"
    assert all(event.comparison.video is not None for event in events)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: {"video": None},
        lambda c: {"video": c.video.model_copy(update={"frames": c.video.frames[:3]})},
        lambda c: {"request": c.request.model_copy(update={"evidence": [(0.0, 0.0, 1.0, 1.0)]})},
        lambda c: {
            "request": c.request.model_copy(update={"evidence": [(0.0, 0.0, 1.0, 1.0)], "evidence_frames": [4]})
        },
    ],
)
def test_sessions_whose_frames_do_not_belong_together_are_refused(comparison, damage):
    damaged = comparison.model_copy(update=damage(comparison))
    with pytest.raises(BadInput, match="not a tokviz session"):
        Comparison.from_json(damaged.to_json())


def _first_frame(session, **changes):
    session["video"]["frames"][0].update(changes)


@pytest.mark.parametrize(
    "forge",
    [
        lambda session: _first_frame(session, index=-1),
        lambda session: _first_frame(session, index=29),  # the first of several, and the file's last
        lambda session: session["video"].update(n_frames=4),
        lambda session: session["grid"]["view"].__setitem__(0, 4),
        lambda session: session["grid"]["view"].__setitem__(0, -1),
        lambda session: session["grid"]["row"].__setitem__(0, 99),
        lambda session: session["grid"]["col"].__setitem__(0, -1),
    ],
)
def test_sessions_whose_frames_or_patches_do_not_exist_are_refused(comparison, forge):
    session = json.loads(comparison.to_json())
    forge(session)
    with pytest.raises(BadInput, match="not a tokviz session"):
        Comparison.from_json(json.dumps(session))


@pytest.mark.parametrize(("n_frames", "fps"), [(9000, 30.0), (6000, 10.0), (200, 25.0)])
def test_a_long_video_is_looked_at_from_its_first_to_its_last_frame(n_frames, fps):
    """Qwen's rule, two frames a second up to 768, asks for more than may be: the frames are spread, not cut off."""
    case = CASES["qwen2_5_vl (videos)"]
    vlm = SimpleNamespace(family=case.here, processor=case.processor())
    facts = VideoFacts(n_frames, fps, n_frames / fps, (64, 48))
    numbers = _sampled(vlm, facts, None)
    own = case.here.sampled(vlm.processor, facts, None)
    assert len(numbers) == min(len(own), MAX_SAMPLED) and numbers == sorted(set(numbers))
    assert numbers[0] == 0 and numbers[-1] >= 0.98 * own[-1]


def test_a_model_trained_with_videos_only_says_so_of_images():
    image = read_image(Image.new("RGB", (32, 32)))
    video = read_video(coded(grey_frames(4)), lambda facts: [0, 2])
    model = {name: SimpleNamespace(record=SimpleNamespace(name=name)) for name in ("tokviz-tiny-video", "a folder")}
    assert untrained(model["tokviz-tiny-video"], image) == [
        "tokviz-tiny-video was trained with videos only: its answers about an image mean little."
    ]
    assert untrained(model["tokviz-tiny-video"], video) == untrained(model["a folder"], image) == []


def test_a_run_says_how_serving_stacks_do_the_same(film, clip):
    methods = ["evs", "vidcom2", ("dart", {"at": "embeddings"}), "cdpruner", "divprune"]
    runs = ask(film, clip, methods=methods, budget=12, frames=3)
    told = {run.method: [flag.stack for flag in run.serving] for run in runs}
    assert told == {
        "full": [], "evs": ["vLLM", "SGLang", "TensorRT-LLM"], "vidcom2": ["vLLM"], "dart": ["TensorRT-Edge-LLM"],
        "cdpruner": ["OpenVINO GenAI"], "divprune": [],
    }  # fmt: skip
    n = runs.grid.n_tokens
    rate = float(runs["vidcom2"].serving[0].command.split("--video-pruning-rate ")[1].split()[0])
    assert max(3, int(n * (1 - rate))) == 12 == len(runs["vidcom2"].kept)
    assert Comparison.from_json(runs.to_json())["evs"].serving == runs["evs"].serving
    (line,) = [line for line in notes(runs) if line.startswith("VidCom2 as deployed")]
    assert runs["vidcom2"].serving[0].command in line and "read in: " in line
    assert ask(film, clip, methods=["vidcom2"], budget=n, frames=3)["vidcom2"].serving == []


def test_a_video_is_swept_edited_and_rescued(film, clip, comparison, tmp_path):
    swept = tokviz.sweep(film, clip, QUESTION, ["divprune"], budgets=[5], frames=4, max_new_tokens=2)
    assert swept[0].points[0].answer_tokens == comparison["divprune"].answer_tokens
    inside = tokviz.tokens_in(comparison.grid, [(0, 0, 40, 48)], [2])
    assert inside and {
        frame for token in inside for frame in comparison.grid.views[comparison.grid.view[token]].frames
    } == {2}
    more = tokviz.ask_with(film, clip, None, inside, into=comparison, frames=4)
    assert more[-1].kept == inside and more.video == comparison.video
    with pytest.raises(BadInput, match="holds no whole video"):
        tokviz.ask_with(film, None, None, inside, into=comparison)
    found = tokviz.rescue(film, clip, comparison=comparison, method="divprune", seconds=None, seeds=1, frames=4)
    grid = comparison.grid
    assert all(len({grid.view[token] for token in one.tokens}) == 1 for one in found.blocks), "blocks lie in one frame"
    assert {grid.view[one.tokens[0]] for one in found.blocks} == set(range(len(grid.views)))
    found.figure(tmp_path / "v.png", dpi=40)
