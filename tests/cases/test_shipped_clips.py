"""The shipped clips are true: rendered by this project, found by search, what the embedded video model does today."""

import json
from pathlib import Path

import numpy as np
import pytest

import tokviz
from scenes import EXAMPLE_SEEDS
from scripts.cases.choosing import SURE
from scripts.cases.clips import MOMENT, clip_of, looked_at, moment_in_words
from scripts.cases.search import left, separate
from tokviz.media.video import probe, read_video
from tokviz.models.catalog import EMBEDDED_VIDEO_MODEL
from tokviz.runs.examples import load_examples
from tokviz.runs.metrics import evidence_recall, evidence_tokens, normalised, verdict

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLIPS = [example for example in load_examples(EXAMPLES) if example.comparison.video is not None]
each = pytest.mark.parametrize("example", CLIPS, ids=lambda example: example.id)


def record(example):
    return json.loads((EXAMPLES / example.id / "case.json").read_text())


@pytest.fixture(scope="module")
def film():
    """The embedded video model."""
    return tokviz.load(EMBEDDED_VIDEO_MODEL)


def test_there_are_two_of_different_kinds():
    assert len(CLIPS) == 2
    assert len({record(example)["family"] for example in CLIPS}) == 2
    assert {example.id for example in CLIPS} == {path.parent.name for path in EXAMPLES.glob("*/clip.mp4")}


@each
def test_the_file_is_small_and_shows_the_clip_of_its_seed(example):
    data = example.clip.read_bytes()
    assert len(data) < 300_000
    scene = record(example)["scene"]
    assert scene["seed"] in EXAMPLE_SEEDS
    clip = clip_of(scene["seed"], tuple(scene["size"]))
    facts = probe(data)
    assert (facts.n_frames, facts.size) == (len(clip.frames), tuple(scene["size"])) and facts.duration_s == 4
    video = read_video(data, lambda facts: range(facts.n_frames))
    for drawn, shown in zip(clip.frames, video.frames, strict=True):
        assert np.abs(np.asarray(shown).astype(int) - drawn).mean() < 4, "another processor may round an edge"
    stored = example.comparison.video
    again = read_video(data, lambda facts: [frame.index for frame in stored.frames])
    assert stored.sha256 == again.record.sha256
    question = next(q for q in clip.questions if q.text == record(example)["question"])
    boxes, places = looked_at(question, again)
    assert (example.comparison.request.evidence, example.comparison.request.evidence_frames) == (boxes, places)


@each
def test_the_case_agrees_with_its_session(example):
    case, comparison = record(example), example.comparison
    request, runs, grid = comparison.request, comparison.runs, comparison.grid
    assert (case["question"], case["answer"]) == (request.question, request.expected_answer)
    assert 0 < len(set(request.evidence_frames)) <= MOMENT, "one moment decides"
    assert verdict(runs[0].answer, runs[0].answer, case["answer"]).kind == "right"
    lost, kept = separate(comparison)
    assert len({run.family for run in runs[1:]}) == len(runs) - 1 == len(lost) + len(kept)
    for run in runs[1:]:
        assert run.answer == case["answers"][run.method] and run.label in case["title"]
        assert np.exp(run.answer_tokens[0].logprob) >= SURE
    recalls = {
        run.method: evidence_recall(grid, request.evidence, left(run, grid), request.evidence_frames)
        for run in runs[1:]
    }
    assert max(recalls[method] for method in kept) - min(recalls[method] for method in lost) >= 0.5
    n_evidence = len(evidence_tokens(grid, request.evidence, request.evidence_frames))
    assert case["hard"] == moment_in_words(comparison, n_evidence) and case["why"].startswith(case["hard"])
    wrong = sum(normalised(answer) != normalised(case["answer"]) for answer in case["answers"].values())
    assert case["why"].endswith(f" {wrong} of {len(case['answers'])} methods lose this answer.")


@each
def test_the_model_still_answers_and_keeps_as_stored(example, film):
    stored = example.comparison
    request = stored.request
    assert stored.model.name == EMBEDDED_VIDEO_MODEL and stored.model.embedded
    again = tokviz.compare(
        film, example.clip, request.question, request.methods, request.budget, seed=request.seed,
        max_new_tokens=request.max_new_tokens,
    )  # fmt: skip
    assert [frame.index for frame in again.video.frames] == [frame.index for frame in stored.video.frames]
    everything = range(stored.grid.n_tokens)
    for before, now in zip(stored.runs, again.runs, strict=True):
        assert now.answer == before.answer, before.method
        now_kept, before_kept = (set(run.kept or everything) for run in (now, before))
        assert len(now_kept & before_kept) > 0.8 * len(now_kept | before_kept), before.method
