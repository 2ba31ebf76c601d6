"""Session files of strangers: every one is opened or refused with a sentence, in little time."""

import json

import pytest

from scripts import hostile_session_files as files
from scripts.hostile_sessions import opened
from tokviz import session_limits
from tokviz.comparison import Comparison
from tokviz.errors import BadInput

SLOW = (
    "MB of", "60 MB", "million", "1000000", "5900000", "20000000", "400000", "900000", "290000", "30000 lanes",
    "60000", "100001 tokens", "200 stages", "5000 maps", "megapixels",
)  # fmt: skip
SAMPLE = {name: make for name, make in files.all_cases(25) if not any(word in name for word in SLOW)}


def message(data):
    with pytest.raises(BadInput) as caught:
        Comparison.from_json(data)
    return str(caught.value)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_hostile_file_is_opened_or_refused_with_a_sentence_in_little_time(name):
    outcome = opened(SAMPLE[name](), figures=name in ("1024 different evidence boxes", "merged in a circle"))
    assert outcome.kind in ("opened", "refused"), outcome
    assert outcome.read_s < 5 and outcome.payload_s < 10, outcome


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("16000 views", "16,000 views"),  # took 54 s
        ("20000 evidence boxes", "20,000 evidence boxes"),  # took 61 s
        ("257 stages", "257 stages"),
        ("90000 answer tokens", "90,000 answer tokens"),
        ("a key twice", "'schema_version' is written twice"),
        ("NaN as fact", "NaN is not a number"),
        ("-Infinity as score", "-Infinity is not a number"),
        ("1e999 as box", "too large or not a number"),
        ("400 digits as order", "64 bits"),
        ("a whole number as text", "64 bits"),
        ("900 lists in each other", "not a tokviz session"),
        ("100000 lists in each other", "not a tokviz session"),
        ("a million objects", "more than 100,000 objects"),
        ("1001 facts", "more than 1,000 entries"),
        ("129 frames", "129 frames"),
        ("64 larger frames than said", "larger than the session says"),
        ("UTF-16", "not a tokviz session"),
    ],
)
def test_what_is_refused_is_said(name, sentence):
    assert sentence in message(dict(files.all_cases(0))[name]())


def test_what_is_as_large_as_allowed_is_opened():
    for name in ("512 views", "1024 evidence boxes", "256 stages", "64 lanes", "128 frames"):
        assert opened(SAMPLE[name](), figures=False).kind == "opened", name


def test_the_largest_session_of_a_request_fits_with_room():
    """22 lanes on 1,872 tokens of 13 frames made 251,239 commas, 2,729 lists, 577 objects, 5,132 texts, 1.84 MB; a
    request of 25,000 tokens and 64 frames has as much of it per token."""
    grown = 25_000 / 1_872
    assert 1.5 * 251_239 * grown < session_limits.MAX_NUMBERS
    assert 8 * 2_729 * grown < session_limits.MAX_LISTS
    assert 10 * 577 * grown < session_limits.MAX_OBJECTS and 10 * 5_132 * grown < session_limits.MAX_TEXTS
    assert 1.5 * (1_642_000 * grown + 64 * 200_000) < session_limits.MAX_BYTES


@pytest.mark.parametrize("at", ["MAX_BYTES", "MAX_NUMBERS", "MAX_LISTS", "MAX_OBJECTS", "MAX_TEXTS", "MAX_KEYS"])
def test_every_limit_on_the_text_bites_before_anything_is_built(monkeypatch, at):
    data = files.compact(files.base())
    Comparison.from_json(data)
    monkeypatch.setattr(session_limits, at, 5)
    monkeypatch.setattr(Comparison, "model_validate_json", None)
    assert "too large" in message(data) or "entries" in message(data)


def test_a_list_of_wrong_entries_is_given_up_at_the_first():
    data = files.base()
    data["grid"]["view"] = ["a"] * 50_000
    with pytest.raises(BadInput) as caught:
        Comparison.from_json(json.dumps(data))
    assert caught.value.__cause__.error_count() == 1
