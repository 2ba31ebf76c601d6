"""tokviz's own case files: what is read, what is refused and where, and that no path leads out."""

import hashlib
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tokviz.cases import Case, open_cases
from tokviz.cases.reading import MAX_LINE_BYTES
from tokviz.errors import BadInput

GOOD = {"id": "a", "image": "a.png", "question": "what color is the star?", "answer": "red"}


@pytest.fixture
def written(tmp_path):
    """Writes lines (objects, texts or bytes) to a case file and opens it."""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")

    def write(*lines, **options):
        parts = [line if isinstance(line, bytes) else _text(line).encode() for line in lines]
        (tmp_path / "cases.jsonl").write_bytes(b"\n".join(parts))
        return open_cases(tmp_path / "cases.jsonl", **options)

    return write


def _text(line):
    return line if isinstance(line, str) else json.dumps(line)


def test_a_case_has_what_its_line_says(written):
    line = GOOD | {"family": "attribute", "split": "test", "metric": "vqa", "evidence": [[1, 2, 3.5, 4]], "id": 7}
    (case,) = written(line)
    assert case == Case(
        id="7",
        image="a.png",
        question="what color is the star?",
        answers=("red",),
        family="attribute",
        split="test",
        metric="vqa",
        evidence=((1.0, 2.0, 3.5, 4.0),),
    )


def test_several_answers_numbers_and_none(written):
    lines = [{"id": i, "image": "a.png", "question": "q"} for i in range(4)]
    lines[0] |= {"answers": ["red", 3]}
    lines[1] |= {"answer": 2.5}
    lines[2] |= {"answer": None}
    cases = written(*lines)
    assert [case.answers for case in cases] == [("red", "3"), ("2.5",), (), ()]
    assert not cases.problems


def test_evidence_of_a_video_needs_its_frames(written):
    line = {"id": "v", "video": "v.mp4", "question": "q", "evidence": [[0, 0, 1, 1]]}
    cases = written(line, line | {"id": "w", "evidence_frames": [3]})
    assert [case.evidence_frames for case in cases] == [(3,)]
    assert "evidence_frames" in str(cases.problems[0])


BROKEN = {
    "not JSON": (b'{"id": 1,', "cases.jsonl:2: not JSON"),
    "no object": ("[1]", "expected a JSON object"),
    "no UTF-8": (b'{"id": "\xff"}', "not UTF-8"),
    "not a number": ('{"id": "x", "evidence": [[0, 0, 1, NaN]]}', "NaN is no number"),
    "a number without end": (f'{{"id": {"9" * 5000}}}', "not JSON"),
    "nested": ("[" * 100_000, "not JSON"),
    "no id": ({"image": "a.png", "question": "q"}, "id is missing"),
    "no question": ({"id": "x", "image": "a.png"}, "question is missing"),
    "an empty question": (GOOD | {"id": "x", "question": "  "}, "question: is empty"),
    "no image": ({"id": "x", "question": "q"}, "an image or a video"),
    "two media": (GOOD | {"id": "x", "video": "v.mp4"}, "only one of them"),
    "answer and answers": (GOOD | {"id": "x", "answers": ["a"]}, "answer and answers"),
    "a truth": (GOOD | {"id": "x", "answer": True}, "answer must be a text, not true or false"),
    "many answers": ({"id": "x", "image": "a.png", "question": "q", "answers": ["a"] * 257}, "257"),
    "an unknown metric": (GOOD | {"id": "x", "metric": "bleu"}, "metric"),
    "a box of three": (GOOD | {"id": "x", "evidence": [[1, 2, 3]]}, "needs a list of boxes"),
    "a box inside out": (GOOD | {"id": "x", "evidence": [[5, 0, 1, 1]]}, "x0 < x1"),
    "frames of an image": (GOOD | {"id": "x", "evidence": [[0, 0, 1, 1]], "evidence_frames": [0]}, "only for videos"),
    "the same id": (GOOD, "taken by cases.jsonl, line 1"),
    "a path that is a list": (GOOD | {"id": "x", "image": ["a.png"]}, "must be a text"),
    "a long id": (GOOD | {"id": "x" * 513}, "id:"),
    "up": (GOOD | {"id": "x", "image": "../a.png"}, "'..'"),
    "up in the middle": (GOOD | {"id": "x", "image": "b/../a.png"}, "'..'"),
    "up as on Windows": (GOOD | {"id": "x", "image": "..\\a.png"}, "'..'"),
    "absolute": (GOOD | {"id": "x", "image": "/etc/hostname"}, "absolute path outside"),
    "an address": (GOOD | {"id": "x", "image": "https://example.org/a.png"}, "is an address"),
    "embedded": (GOOD | {"id": "x", "image": "data:image/png;base64,AA"}, "is an address"),
    "no text in the id": (GOOD | {"id": "\ud800"}, "id:"),
    "no text in the path": (GOOD | {"id": "x", "image": "\ud800.png"}, "cannot be followed"),
    "no text in another answer": (GOOD | {"id": "x", "others": {"m": "\ud800"}}, "others:"),
    "no text in another's name": (GOOD | {"id": "x", "others": {"\ud800": "m"}}, "others:"),
    "a zero byte": (GOOD | {"id": "x", "image": "a\0.png"}, "cannot be the name"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_told_with_its_place_and_the_rest_is_read(written, name):
    line, reason = BROKEN[name]
    cases = written(GOOD, line, GOOD | {"id": "last"})
    assert [case.id for case in cases] == ["a", "last"]
    (problem,) = cases.problems
    assert (problem.file, problem.line, cases.n_problems) == ("cases.jsonl", 2, 1)
    assert reason in str(problem)


def test_a_line_that_does_not_end_is_skipped_as_one(written):
    cases = written(GOOD, b"x" * (2 * MAX_LINE_BYTES + 5), GOOD | {"id": "last"})
    assert [case.id for case in cases] == ["a", "last"]
    assert [(problem.line, "4,000,000 bytes" in problem.reason) for problem in cases.problems] == [(2, True)]


def test_empty_lines_a_byte_order_mark_and_windows_ends_are_no_problem(written):
    cases = written(b"\xef\xbb\xbf" + _text(GOOD).encode() + b"\r", b"", b"  ", _text(GOOD | {"id": "b"}) + "\r")
    assert [case.id for case in cases] == ["a", "b"]
    assert not cases.problems


def test_reading_again_counts_anew(written):
    cases = written(GOOD, "broken", GOOD | {"id": "b", "colour": 1})
    assert len(list(cases)) == len(list(cases)) == 2
    assert cases.n_problems == len(cases.problems) == 1
    assert cases.unused_keys == {"colour": 1}


def test_names_that_are_too_long_for_a_file_are_missing_files(written):
    cases = written(GOOD | {"image": "x" * 3000}, GOOD | {"id": "b", "image": "a" + "/b" * 1500})
    for case in cases:
        with pytest.raises(BadInput, match="There is no image file"):
            cases.media_path(case)
    assert not cases.problems


def test_html_stays_text(written):
    hostile = "<script>alert(1)</script>"
    (case,) = written(GOOD | {"id": hostile, "question": hostile, "answer": hostile})
    assert (case.id, case.question, case.answers) == (hostile, hostile, (hostile,))


def test_links_that_lead_out_are_refused_and_those_inside_are_followed(written, tmp_path):
    outside = tmp_path.parent / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    os.symlink(outside, tmp_path / "out.png")
    os.symlink(tmp_path.parent, tmp_path / "up")
    os.symlink(tmp_path / "a.png", tmp_path / "in.png")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    names = ["out.png", "up/outside.png", "in.png", "loop"]
    cases = written(*({"id": name, "image": name, "question": "q"} for name in names))
    (case,) = [case for case in cases if case.id != "loop"]
    assert cases.media_path(case) == (tmp_path / "a.png").resolve()
    assert ["leads out" in str(problem) for problem in cases.problems[:2]] == [True, True]


def test_a_link_that_turns_outwards_after_reading_is_not_opened(written, tmp_path):
    cases = written(GOOD)
    (case,) = cases
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadInput, match="no image file named"):
        cases.media_path(case)
    os.symlink("/etc/hostname", tmp_path / "a.png")
    with pytest.raises(BadInput, match="leads out"):
        cases.media_path(case)


def test_media_lie_in_the_folder_that_the_user_names(written, tmp_path):
    media = tmp_path / "elsewhere"
    media.mkdir()
    Image.new("RGB", (8, 8)).save(media / "b.png")
    cases = written(GOOD | {"image": "b.png"}, GOOD | {"id": "b", "image": str(media / "b.png")}, media=media)
    assert [cases.media_path(case) for case in cases] == [media / "b.png"] * 2
    with pytest.raises(BadInput, match="no media folder named 'nowhere'"):
        open_cases(tmp_path / "cases.jsonl", media="nowhere")


def test_the_digest_is_that_of_the_file(written, tmp_path):
    cases = written(GOOD)
    assert cases.digest == hashlib.sha256((tmp_path / "cases.jsonl").read_bytes()).hexdigest()
    assert cases.name == "cases.jsonl" and open_cases(tmp_path).digest == cases.digest


def test_a_prompt_goes_around_each_question(written):
    (case,) = written(GOOD | {"question": "{question}?"}, prompt="{question}\nAnswer briefly.")
    assert case.question == "{question}?\nAnswer briefly."
    plain, other = written(GOOD), written(GOOD, prompt="{question} Briefly.")
    assert len({plain.digest, other.digest, written(GOOD, prompt="{question}!").digest}) == 3
    assert plain.digest == written(GOOD, prompt="{question}").digest
    with pytest.raises(BadInput, match="The prompt needs"):
        written(GOOD, prompt="Answer briefly.")


def test_what_cannot_be_opened_says_what_to_do(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, layout, words in (
        (tmp_path / "nothing.jsonl", None, "no case file or folder named 'nothing.jsonl'"),
        (tmp_path / "notes.txt", None, "not recognised"),
        (tmp_path, None, "not recognised"),
        (tmp_path, "jsonl", "has no cases.jsonl"),
        (tmp_path / "notes.txt", "jsonlines", "did you mean 'jsonl'"),
    ):
        with pytest.raises(BadInput, match=words):
            open_cases(path, layout)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*Case.model_fields, "answer"]), _values, max_size=8))
def test_whatever_a_line_holds_is_a_case_or_a_problem(tmp_path_factory, line):
    folder = tmp_path_factory.getbasetemp() / "any_line"
    folder.mkdir(exist_ok=True)
    (folder / "cases.jsonl").write_text(json.dumps(line))
    cases = open_cases(folder)
    assert len(list(cases)) + cases.n_problems == 1
