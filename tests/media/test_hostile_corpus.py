"""A sample of the hostile corpus; all of it is run by ``python -m scripts.hostile_corpus``."""

import os

import pytest

from scripts.hostile_corpus import corpus, no_files, outcome_of, run

SAMPLE = ["many_pages.tif", "sixteen_bit.png", "cut_50", "huge_frames", "deep_boxes", "long_times", "chunks.avi"]


def test_a_sample_of_the_corpus_is_held(tmp_path):
    outcomes, left = run(tmp_path, SAMPLE)
    assert left == 0 and len(outcomes) >= 14
    assert [outcome.line() for outcome in outcomes if not outcome.is_held] == []
    assert {outcome.name for outcome in outcomes if outcome.sentence.startswith("read")} >= {"many_pages.tif"}


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
def test_names_without_a_file_are_held(tmp_path):
    outcomes = [outcome_of(path) for path in no_files(tmp_path)]
    assert all(outcome.is_held and "There is no" in outcome.sentence for outcome in outcomes), outcomes


def test_the_corpus_is_the_same_every_time(tmp_path):
    names = [name for name, _ in corpus()]
    assert len(names) == len(set(names)) > 80
    for word in ("many_segments", "comments.gif", "metadata.mp4", "cut_90.png"):
        ((_, make),) = corpus([word])
        assert make() == make()


def test_the_time_for_the_corpus_is_bounded(tmp_path):
    outcomes, left = run(tmp_path, ["cut_"], minutes=0)
    assert outcomes == [] and left > 20
