import json
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tokviz import cli
from tokviz.cli.compare import parse_value
from tokviz.comparison import Comparison
from tokviz.errors import BadInput, Unsupported
from tokviz.pruners.pruner import Param

MODEL = "tokviz-tiny"
QUESTION = "what color is the triangle?"


@pytest.fixture
def image(tmp_path, scene_image):
    path = tmp_path / "scene.png"
    scene_image.save(path)
    return path


@pytest.fixture
def loaded(monkeypatch, vlm):
    """The model of the session, so that every call of main does not load it again."""
    import tokviz

    asked = []
    monkeypatch.setattr(tokviz, "load", lambda name, **loading: asked.append(name) or vlm, raising=False)
    return asked


def compare(image, *more):
    return cli.main(["compare", "--image", str(image), "--question", QUESTION, *map(str, more)])


def refusal(capsys):
    """The one sentence on stderr; nothing may have been printed."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tokviz: ") and lines[0].endswith("."), captured.err
    return lines[0]


def test_compare_prints_tables_and_writes_session_and_figure(image, loaded, capsys, tmp_path):
    session, figure = tmp_path / "session.json", tmp_path / "figure.svg"
    code = compare(
        image, "--methods", "apet, random", "--budget", 16, "--budget-as", "final", "--seed", 3, "--answer", "red",
        "--max-new-tokens", 3, "--param", "apet.mode=official", "--param", "apet.basis_tokens=4",
        "--evidence", "10,10,60,60", "--json", session, "--figure", figure, "--view", "score",
    )  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0
    assert captured.err == "", "quiet when it is not a terminal"
    comparison = Comparison.from_json(session.read_bytes())
    assert loaded == [MODEL]
    assert [run.method for run in comparison.runs] == ["full", "apet", "random"]
    request = comparison.request
    assert (request.budget, request.budget_as, request.seed, request.max_new_tokens) == (16, "final", 3, 3)
    assert comparison["apet"].params["mode"] == "official" and comparison["apet"].params["basis_tokens"] == 4
    assert request.expected_answer == "red" and request.evidence == [(10.0, 10.0, 60.0, 60.0)]
    assert figure.read_bytes().startswith(b"<?xml")
    for run in comparison.runs:
        row = next(line for line in captured.out.splitlines() if line.strip().startswith(run.label))
        assert f"{run.actual.final} of {comparison.grid.n_tokens}" in row
        assert f"{run.actual.average_in:.1f}" in row and run.answer in row
    assert "single shot" in captured.out and "estimated" in captured.out


def test_repeats_say_that_times_are_medians(image, loaded, capsys):
    assert compare(image, "--methods", "random", "--repeats", 2, "--max-new-tokens", 1) == 0
    out = capsys.readouterr().out
    assert "median of 2" in out and "single shot" not in out


def test_the_same_command_gives_the_same_session_but_for_its_times(image, loaded, tmp_path):
    for name in ("a.json", "b.json"):
        assert compare(image, "--methods", "random", "--max-new-tokens", 2, "--json", tmp_path / name) == 0
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    for session in (one, two):
        session.pop("timings")
        for run in session["runs"]:
            run.pop("timings")
            for stage in run["stages"]:
                stage.pop("selection_ms")
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "arguments are required: command"),
        (["dig"], "invalid choice: 'dig'"),
        (["compare", "--image", "x.png"], "required: --question"),
        (["compare", "--image", "x.png", "--question", "q", "--budget", "many"], "--budget: invalid int value: 'many'"),
        (["compare", "--image", "x.png", "--question", "q", "--budget-as", "x"], "--budget-as: invalid choice"),
        (["compare", "--image", "x.png", "--question", "q", "--view", "x"], "--view: invalid choice"),
        (["compare", "--image", "x.png", "--question", "q", "--imag"], "Unrecognized arguments: --imag"),
        (["compare", "--image", "missing.png", "--question", "q"], "no image file named 'missing.png'"),
        (["compare", "missing.mp4", "--question", "q"], "no video file named 'missing.mp4'"),
        (["compare", "--question", "q"], "Name one image or video"),
        (["compare", "a.png", "--image", "b.png", "--question", "q"], "Name one image or video"),
        (["compare", "a.mp4", "--frames", "many", "--question", "q"], "--frames: invalid int value: 'many'"),
        (["compare", "--image", "x\x1b[2J.png", "--question", "q"], "x\\x1b[2J.png"),
        (["methods", "--all"], "Unrecognized arguments: --all"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_sentence(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    assert sentence in refusal(capsys)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--methods", "apet,apex"], "There is no method 'apex'"),
        (["--param", "apet"], "--param takes method.name=value"),
        (["--param", "apet.mode"], "--param takes method.name=value"),
        (["--param", "todre.tau=0.1"], "not in --methods"),
        (["--param", "apet.speed=3"], "ApET has no parameter 'speed'"),
        (["--param", "apet.mode=fast"], "mode must be one of paper, official"),
        (["--param", "apet.basis_tokens=x"], "basis_tokens must be a whole number"),
        (["--param", "apet.basis_tokens=100000"], "basis_tokens must lie between"),
        (["--evidence", "1,2,3"], "--evidence takes x0,y0,x1,y1"),
        (["--evidence", "x:1,2,3,4"], "--evidence takes x0,y0,x1,y1"),
        (["--frames", "4"], "--frames only applies to videos"),
        (["--figure", "out.gif"], "must end in .png, .svg or .pdf"),
        (["--json", "no/such/folder/s.json"], "cannot be written: no such file or directory"),
        (["--json", "."], "is a folder"),
        (["--json", "same.png", "--figure", "same.png"], "name the same file"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(more, sentence, image, monkeypatch, capsys, tmp_path):
    import tokviz

    def load(name, **loading):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(tokviz, "load", load, raising=False)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert compare(image, *more) == 2
    assert sentence in refusal(capsys)
    assert sorted(tmp_path.iterdir()) == before, "a check left a file behind"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--budget", 0], "budget must be a whole number from 1"),
        (["--budget", 100_000], "visual tokens"),
        (["--repeats", 0], "repeats"),
        (["--max-new-tokens", 0], "new tokens"),
        (["--seed", -1], "seed"),
        (["--evidence", "9,9,1,1"], "evidence box"),
    ],
)
def test_what_only_the_model_can_judge_also_ends_with_2(more, sentence, image, loaded, capsys):
    assert compare(image, *more) == 2
    assert sentence in refusal(capsys)


def test_an_unknown_model_ends_with_2(image, capsys):
    assert compare(image, "--model", "./nowhere") == 2
    assert "no model './nowhere'" in refusal(capsys)


def test_the_image_is_never_overwritten(image, capsys):
    before = image.read_bytes()
    assert compare(image, "--figure", image) == 2
    assert "is the image itself" in refusal(capsys)
    assert image.read_bytes() == before


def test_an_image_that_is_none_ends_with_2(tmp_path, capsys):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    assert compare(path) == 2
    assert "not a readable image" in refusal(capsys)


@pytest.mark.parametrize("error", [BadInput("This is wrong."), Unsupported("That is not possible.")])
def test_refusals_from_anywhere_end_with_2(error, image, monkeypatch, capsys):
    import tokviz

    def load(name, **loading):
        raise error

    monkeypatch.setattr(tokviz, "load", load, raising=False)
    assert compare(image) == 2
    assert refusal(capsys) == f"tokviz: {error}"


def test_no_sentence_steers_the_terminal(image, monkeypatch, capsys):
    import tokviz

    def load(name, **loading):
        raise BadInput("The tokenizer's word \x1b]0;owned\x07 \u202e is unknown.")

    monkeypatch.setattr(tokviz, "load", load, raising=False)
    assert compare(image) == 2
    assert refusal(capsys) == "tokviz: The tokenizer's word ]0;owned is unknown."


def test_a_defect_is_not_hidden(image, monkeypatch):
    import tokviz

    def load(name, **loading):
        raise RuntimeError("a defect")

    monkeypatch.setattr(tokviz, "load", load, raising=False)
    with pytest.raises(RuntimeError, match="a defect"):
        compare(image)


def hostile_events(session):
    def events(*args, **kwargs):
        from tokviz.runs.events import Event

        yield Event("done", 1, "", session)

    return events


HOSTILE = "[red]markup[/red] [link=http://x]y[/link] \x1b[2J\x1b]0;owned\x07 :smile: \u202eexe\r\nrow"


@pytest.fixture
def changed(image, loaded, monkeypatch, tmp_path, capsys):
    """Runs a comparison whose real result was changed by ``change(session)`` before it is printed."""
    import tokviz

    path = tmp_path / "real.json"
    assert compare(image, "--methods", "random", "--max-new-tokens", 1, "--json", path) == 0
    session = Comparison.from_json(path.read_text())
    capsys.readouterr()

    def run(change):
        monkeypatch.setattr(tokviz, "compare_events", hostile_events(change(session)), raising=False)
        return compare(image, "--methods", "random")

    return run


def test_answers_can_neither_mark_up_nor_steer_the_terminal(changed, capsys):
    def change(session):
        runs = [run.model_copy(update={"answer": HOSTILE, "warnings": [HOSTILE]}) for run in session.runs]
        return session.model_copy(update={"runs": runs, "warnings": [HOSTILE]})

    assert changed(change) == 0
    out = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out)
    assert "[red]markup[/red]" in out and ":smile:" in out
    assert "Note: [red]markup[/red] [link=http://x]y[/link] [2J]0;owned :smile: exe row" in out


def test_a_lane_that_could_not_run_is_said_and_ends_with_2_when_nothing_else_ran(changed, capsys):
    def change(session):
        failed = session.runs[1].model_copy(update={"error": "Random needs luck.", "actual": None, "answer": ""})
        return session.model_copy(update={"runs": [session.runs[0], failed]})

    assert changed(change) == 2
    captured = capsys.readouterr()
    assert "Random was not run: Random needs luck." in captured.out and "✗ not run" in captured.out
    assert captured.err == "tokviz: Random needs luck.\n"


def test_methods_and_models_are_listed(capsys):
    from tokviz.models.catalog import CATALOG
    from tokviz.pruners import methods

    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    for pruner in methods():
        assert re.search(rf"^\s*{pruner.id} .*{pruner.family.replace('-', ' ')}", out, re.MULTILINE), pruner.id
        for param in pruner.params:
            assert f"{param.name}=" in out
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    for entry in CATALOG:
        line = next(line for line in out.splitlines() if f" {entry.id} " in line)
        said = [entry.licence, *entry.takes, (entry.revision or "")[:8]]
        assert all(word in line for word in said) and (not entry.memory_gb or f"{entry.memory_gb:.1f}" in line)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--device", "cuda:7"], "GPU"),
        (["--device", "toaster"], "no device 'toaster'"),
        (["--attention", "flash"], "Flash attention needs an NVIDIA GPU; the model lies on cpu."),
        (["--attention", "nosuch"], "no attention kernel 'nosuch'"),
        (["--quantization", "4bit"], "8-bit and 4-bit weights need an NVIDIA GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU cannot do")
def test_what_a_model_cannot_be_loaded_with_is_one_sentence(options, sentence, tmp_path, capsys):
    path = tmp_path / "grey.png"
    Image.new("RGB", (64, 64), "grey").save(path)
    assert cli.main(["compare", str(path), "--question", "what is it ?", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_help_and_version_end_with_0(capsys):
    for arguments in (["--help"], ["compare", "--help"], ["--version"]):
        assert cli.main(arguments) == 0
    assert "tokviz 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bool", "True", True),
        ("bool", "false", False),
        ("int", "7", 7),
        ("float", "0.5", 0.5),
        ("choice", "fps", "fps"),
    ],
)
def test_parameters_get_the_type_of_their_kind(kind, text, value):
    parsed = parse_value(Param("p", "P", kind, value, "", choices=("fps",)), text)
    assert parsed == value and type(parsed) is type(value)


def test_parameters_of_the_wrong_type_are_refused():
    for kind, text in (("bool", "1"), ("int", "1.5"), ("float", "much")):
        with pytest.raises(BadInput, match="p must be"):
            parse_value(Param("p", "P", kind, 0, ""), text)


@pytest.mark.generator  # test_wheel.py runs it installed
def test_the_real_command_in_a_fresh_process(image, tmp_path):
    figure, session = tmp_path / "figure.png", tmp_path / "session.json"
    command = [
        sys.executable, "-m", "tokviz", "compare", "--image", str(image), "--question", QUESTION, "--methods",
        "apet,fastervlm", "--budget", "16", "--max-new-tokens", "2", "--figure", str(figure), "--json", str(session),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "ApET" in done.stdout and "\x1b" not in done.stdout
    assert Image.open(figure).format == "PNG"
    assert len(Comparison.from_json(session.read_text()).runs) == 3


def test_an_interrupt_ends_with_130(image, monkeypatch, capsys):
    import tokviz

    def load(name, **loading):
        raise KeyboardInterrupt

    monkeypatch.setattr(tokviz, "load", load, raising=False)
    assert compare(image) == 130
    assert capsys.readouterr().err == "tokviz: interrupted.\n"
