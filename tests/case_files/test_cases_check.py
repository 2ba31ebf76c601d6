"""``cases check`` and scenes as a case file: what is counted, what is told, how it ends."""

import json

import pytest
from PIL import Image

from scripts import scene_cases
from tests.case_files.test_layouts import write_gqa
from tokviz import cli
from tokviz.cases import check_cases, open_cases
from tokviz.errors import BadInput
from tokviz.media.images import image_size, read_image


@pytest.fixture
def damaged(tmp_path):
    """Four lines, of which one is broken; images that are whole, cut short, no image, and missing."""
    Image.effect_noise((200, 100), 50).save(tmp_path / "whole.png")
    Image.open(tmp_path / "whole.png").save(tmp_path / "all.jpg")
    (tmp_path / "short.jpg").write_bytes((tmp_path / "all.jpg").read_bytes()[:-4000])
    (tmp_path / "text.png").write_text("<script>alert(1)</script>")
    box = {"evidence": [[150, 0, 250, 50], [0, 0, 201, 100]], "family": "count", "split": "val"}
    names = ("short.jpg", "text.png", "gone.png")
    cases = [{"id": name, "image": name, "question": "q", "answer": "1"} for name in names]
    lines = [json.dumps(case) for case in [{"id": "whole", "image": "whole.png", "question": "q"} | box, *cases]]
    (tmp_path / "cases.jsonl").write_text("\n".join([*lines, "{"]))
    return tmp_path


def test_a_report_counts_what_there_is_and_what_is_wrong(damaged):
    report = check_cases(open_cases(damaged))
    assert (report.cases, report.images, report.n_problems, report.n_missing) == (4, 4, 1, 1)
    assert report.families == {"(none)": 3, "count": 1} and report.splits == {"(none)": 3, "val": 1}
    assert (report.with_evidence, report.without_answers, report.metrics) == (1, 1, {"exact": 4})
    assert report.missing == ["gone.png"] and report.problems[0].startswith("cases.jsonl:5: not JSON")
    assert report.n_unreadable == 1 and "not a readable image" in report.unreadable[0]
    assert (report.n_outside, report.outside) == (1, ["whole"])
    assert not report.ok
    decoded = check_cases(open_cases(damaged), decode=True)
    assert decoded.n_unreadable == 2 and any("short.jpg: " in line for line in decoded.unreadable)


def test_the_command_prints_the_report_and_ends_with_a_sentence(damaged, capsys):
    report = damaged / "report.json"
    assert cli.main(["cases", "check", str(damaged), "--json", str(report)]) == 2
    printed = capsys.readouterr()
    assert "cases.jsonl:5: not JSON" in printed.out and "gone.png" in printed.out
    assert printed.err == (
        "tokviz: 4 cases can be read; not in order: 1 broken, 1 without their file, 1 unreadable, "
        "1 evidence boxes outside of the image.\n"
    )
    assert json.loads(report.read_text())["n_missing"] == 1


def test_a_file_in_order_ends_well(tmp_path, capsys):
    path = write_gqa(tmp_path)
    assert cli.main(["cases", "check", str(path), "--prompt", "{question}\\nBriefly."]) == 0
    printed = capsys.readouterr()
    assert "read as gqa" in printed.out and printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.jsonl"], "no case file or folder"),
        (["{folder}", "--layout", "popes"], "did you mean 'pope'"),
        (["{folder}", "--media", "nowhere"], "no media folder"),
        (["{folder}", "--prompt", "briefly"], "needs {question}"),
    ],
)
def test_bad_arguments_are_a_sentence(damaged, capsys, arguments, words):
    assert cli.main(["cases", "check", *(argument.format(folder=damaged) for argument in arguments)]) == 2
    assert words in capsys.readouterr().err


def test_a_header_tells_the_size_that_decoding_does(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    Image.new("RGB", (60, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").image.size == (20, 60)


def test_scenes_as_cases_are_those_that_are_drawn_and_the_same_each_time(tmp_path, scene):
    from scenes import HELD_OUT_SEEDS

    n = scene_cases.write_scenes(tmp_path / "a", 2, HELD_OUT_SEEDS[3])
    cases = open_cases(tmp_path / "a")
    report = check_cases(cases, decode=True)
    assert report.ok and report.cases == n and report.images == 2
    found = [case for case in cases if case.image == f"images/{HELD_OUT_SEEDS[3]}.png"]
    assert [(case.question, case.answers, case.evidence) for case in found] == [
        (asked.text, (asked.answer,), tuple(tuple(map(float, box)) for box in asked.evidence))
        for asked in scene.questions
    ]
    assert (read_image(cases.media_path(found[0])).image.tobytes()) == scene.image.tobytes()
    assert scene_cases.write_scenes(tmp_path / "b", 2, HELD_OUT_SEEDS[3], most=3) == 3
    assert (tmp_path / "b" / "cases.jsonl").read_text().splitlines() == (
        (tmp_path / "a" / "cases.jsonl").read_text().splitlines()[:3]
    )


@pytest.mark.parametrize("arguments", [(0,), (1, 5), (1,)])
def test_scenes_are_held_out_and_overwrite_nothing(tmp_path, arguments):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BadInput):
        scene_cases.write_scenes(tmp_path, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
