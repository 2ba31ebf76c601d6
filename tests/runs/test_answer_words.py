"""The words of an answer: likelihood from its tokens, alignment with the unpruned answer."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ui"))
from synthetic import comparison, run

from tokviz.answers import answer_words
from tokviz.records import AnswerToken


def answered(answer, *tokens):
    said = [AnswerToken(id=i, text=text, logprob=logprob) for i, (text, logprob) in enumerate(tokens)]
    return run("m", "M", "control", answer, 1, 1, 1.0, answer_tokens=said)


def told(words):
    return [(word.text, word.same, word.instead_of) for word in words]


def test_a_word_is_as_likely_as_its_tokens_together():
    said = answered(
        "a small tri-\nangle",
        ("a", -0.5),
        (" small", -1.0),
        (" tri", -0.25),
        ("-\n", -0.25),
        ("angle", -2.0),
        ("</s>", -9.0),
    )
    words = answer_words(said, said)
    assert [(word.before, word.text, word.logprob) for word in words] == [
        ("", "a", -0.5), (" ", "small", -1.0), (" ", "tri-", -0.5), ("\n", "angle", -2.0),
    ]  # fmt: skip
    assert words[2].probability == pytest.approx(math.exp(-0.5))
    assert "".join(word.before + word.text for word in words) == said.answer
    assert all(word.same for word in words)


def test_a_word_that_tokens_do_not_spell_has_no_likelihood():
    said = answered("ein ☃ mann", ("ein", -1.0), ("\ufffd", -1.0), ("\ufffd", -1.0), ("mann", -1.0))
    assert [word.logprob for word in answer_words(said, said)] == [-1.0, None, None]
    unknown = answered("yes", ("y", None), ("es", -1.0))
    assert answer_words(unknown, unknown)[0].logprob is None


def test_words_are_aligned_with_the_unpruned_answer():
    full = answered("The red square is left of a circle.")
    lane = answered("the blue square is above a circle")
    assert told(answer_words(lane, full)) == [
        ("the", True, ""), ("blue", False, "red"), ("square", True, ""), ("is", True, ""),
        ("above", False, "left of"), ("a", True, ""), ("circle", True, ""),
    ]  # fmt: skip
    assert told(answer_words(answered("a square"), answered("a red square here"))) == [
        ("a", True, ""), ("square", True, "red"), ("", False, "here"),
    ]  # fmt: skip
    assert told(answer_words(answered("two cups"), answered("2 cups"))) == [("two", True, ""), ("cups", True, "")]
    assert told(answer_words(answered("!"), answered("?"))) == [("!", False, "?")]
    assert told(answer_words(answered("  "), full)) == [("", False, full.answer)]


def test_a_comparison_has_the_words_of_each_run():
    words = comparison().answer_words("fastervlm")
    assert told(words) == [("blue", False, "cyan")] and words[0].logprob is None
    assert told(comparison().answer_words("todre")) == [("Cyan.", True, "")]
