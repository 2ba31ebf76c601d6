"""The search over clips finds what plain comparisons find, about moments that the sampled frames really show."""

from dataclasses import replace

import pytest
import torch
from tiny_families import CASES

import tokviz
from scenes import EXAMPLE_SEEDS
from scripts.cases.clips import MOMENT, clip_of, examine_clip, file_of, find_clip_flips, looked_at
from scripts.cases.search import verdicts_of
from tokviz.runs.inputs import open_media
from tokviz.runs.metrics import evidence_tokens

METHODS = ("random", "divprune", "fastv")
SIZE = (128, 128)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A tiny model with random weights that takes videos."""
    case, folder = CASES["llava_next_video (videos)"], tmp_path_factory.mktemp("film")
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    return tokviz.load(folder)


@pytest.fixture(scope="module")
def clips(film):
    """``(clip, video)`` with things that the frames show for a moment only."""
    made = [clip_of(seed, SIZE) for seed in EXAMPLE_SEEDS[:6]]
    return [(clip, open_media(film, file_of(clip))) for clip in made]


def test_evidence_is_counted_in_the_frames_that_are_looked_at(clips):
    n_moments = 0
    for clip, video in clips:
        assert len(video.indices) < len(clip.frames)
        for question in clip.questions:
            boxes, places = looked_at(question, video)
            n_moments += 0 < len(set(places)) <= MOMENT
            assert [boxes[i] for i in range(len(boxes))] == [
                box for number in video.indices for box in question.evidence[number]
            ]
            assert all(box in question.evidence[video.indices[place]] for box, place in zip(boxes, places, strict=True))
    assert n_moments > 0


def test_a_case_is_what_a_plain_comparison_says(film, clips):
    """The model cannot answer: what it says unpruned is taken for right, so that the methods are told apart by it."""
    clip, video = clips[0]
    # Large enough for the few and large patches of this model, in one frame that is looked at and one that is not.
    evidence = [()] * len(clip.frames)
    evidence[video.indices[3]] = evidence[video.indices[3] + 1] = ((0.0, 0.0, 80.0, 60.0),)
    found = 0
    for budget in (70, 2):  # so many that some methods change the answer and some do not, and so few that all do
        options = {"budget": budget, "evidence": evidence[video.indices[3]], "evidence_frames": [3]}
        options["max_new_tokens"] = 8
        said = tokviz.compare(film, video, "what is it ?", [], **options).runs[0].answer
        asked = replace(clip.questions[0], text="what is it ?", answer=said, evidence=tuple(evidence))
        plain = tokviz.compare(film, video, asked.text, METHODS, expected=said, **options)
        rights = {method: kind == "right" for method, kind in verdicts_of(plain).items()}
        case = examine_clip(film, clip, video, asked, METHODS, budget)
        shown = evidence_tokens(plain.grid, evidence[video.indices[3]], [3])
        assert len(shown) == 4 and (case is not None) == (len(set(rights.values())) == 2)
        if case is not None:
            found += 1
            assert {method: outcome.right for method, outcome in case.outcomes.items()} == rights
            assert case.n_evidence == 4 and "in one of the 8 frames" in case.hard and "in 4 of 72 patches" in case.hard
    assert found == 1


@pytest.mark.generator
def test_wrong_answers_of_the_model_itself_are_no_cases(film):
    assert list(find_clip_flips(film, EXAMPLE_SEEDS[:2], METHODS, 2, size=SIZE)) == []
