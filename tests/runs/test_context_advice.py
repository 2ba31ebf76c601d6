"""What a request that is too long for its model is told: what really needs the tokens."""

import pytest
from PIL import Image

import tokviz
from tokviz.errors import BadInput

IMAGE = Image.new("RGB", (336, 336), "white")


def asked(vlm, monkeypatch, positions, question="what color is the star?", **options):
    monkeypatch.setattr(vlm.text_config, "max_position_embeddings", positions)
    with pytest.raises(BadInput, match="Image, question and answer need") as caught:
        tokviz.compare(vlm, IMAGE, question, ["random"], 64, **options)
    return str(caught.value)


def test_fewer_new_tokens_where_there_is_room_for_some(vlm, monkeypatch):
    assert "allow at most " in asked(vlm, monkeypatch, 600, max_new_tokens=100)


def test_a_shorter_question_only_where_that_is_enough(vlm, monkeypatch):
    words = "what color is the star and " * 20
    assert "shorten the question by at least " in asked(vlm, monkeypatch, 620, words)
    assert "shorten" not in asked(vlm, monkeypatch, 500, words)


def test_where_the_image_needs_the_tokens_it_is_named(vlm, monkeypatch):
    told = asked(vlm, monkeypatch, 300)
    assert "shorten" not in told and "every image takes 576 of them" in told and "another model" in told


def test_a_smaller_image_where_the_model_makes_fewer_tokens_of_one(vlm, monkeypatch):
    monkeypatch.setattr("tokviz.runs.requests._fewer_when_smaller", lambda vlm, grid: True)
    assert "use a smaller image, which alone takes 576" in asked(vlm, monkeypatch, 300)
