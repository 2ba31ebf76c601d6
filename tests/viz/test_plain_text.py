import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokviz.viz.format import plain_text
from tokviz.viz.sheet import MISSING, drawable, text_width, wrap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a\tb\r\nc\u2028d  ", "a b c d"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07x", "]0;titlex"),
        ("abc\u202edef\u2066", "abcdef"),
        ("\x9b2Jx\x00y\x7f", "2Jxy"),
        ("a\ud800b", "ab"),
        ("e" + "\u0301" * 50, "é" + "\u0301" * 2),
        ("$x^2$ [bold]<script>", "$x^2$ [bold]<script>"),
        ("日本語", "日本語"),
        ("", ""),
    ],
)
def test_plain_text_keeps_what_can_be_read_and_nothing_that_acts(text, expected):
    assert plain_text(text) == expected


def test_plain_text_is_cut_with_an_ellipsis_and_a_huge_answer_costs_little():
    assert plain_text("abcdef", 4) == "abc…"
    assert len(plain_text("x" * 10_000_000)) == 4000


@settings(deadline=None)
@given(st.text(max_size=80))
def test_plain_text_is_one_line_without_controls_and_stable(text):
    clean = plain_text(text)
    assert all(character.isprintable() for character in clean)
    assert plain_text(clean) == clean


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200), st.floats(0.3, 4), st.integers(1, 5))
def test_wrapped_lines_fit_and_lose_nothing_unless_cut(text, width, max_lines):
    lines = wrap(text, width, 8, max_lines=max_lines)
    assert len(lines) <= max_lines
    assert all(text_width(line, 8) <= width + 1e-6 or len(line) == 1 for line in lines)
    if not (lines and lines[-1].endswith("…")):
        assert "".join(lines).replace(" ", "") == drawable(text).replace(" ", "")


def test_lines_break_at_blanks_and_long_words_are_broken():
    assert wrap("aaa bbb ccc", text_width("aaa bbb", 8) + 0.01, 8) == ["aaa bbb", "ccc"]
    assert "".join(wrap("a" * 60, 1.0, 8, max_lines=9)) == "a" * 60


def test_characters_without_a_glyph_become_a_box():
    assert drawable("日本 ok") == MISSING * 2 + " ok"
    assert drawable(MISSING) == MISSING


def test_bold_is_wider_and_width_grows_with_the_size():
    assert text_width("answer", 8, bold=True) > text_width("answer", 8)
    assert text_width("answer", 16) == pytest.approx(2 * text_width("answer", 8))
