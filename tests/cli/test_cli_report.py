"""``tokviz report``: cases of a mined run are taken away, chosen by options or by the page's address."""

import json

import pytest

from scripts.synthetic_run import Shape, write_run
from tokviz import cli
from tokviz.workbench import Filter, Found, HasText, OpenRun, Outcome, TagStore

LOST = Outcome(method="apet", budget=64, results=("lost",))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("report") / "drawn", Shape(cases=60, methods=3))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_cases_are_chosen_by_options_by_a_slice_and_by_an_address(run_folder, tmp_path, capsys):
    with OpenRun(run_folder) as run:
        wanted = [run.ids_of([one])[0] for one in Found(run, Filter(conditions=(LOST,))).ordinals()]
    out = tmp_path / "cases.jsonl"
    call = ["report", str(run_folder), "--cases", "--out", str(out)]
    assert cli.main([*call, "--where", "apet=lost"]) == 0
    assert [case["id"] for case in lines(out)] == wanted
    assert capsys.readouterr().out.startswith(f"{len(wanted)} cases in ")
    TagStore(run_folder).save_slice("lost", Filter(conditions=(LOST,)))
    assert cli.main([*call, "--slice", "lost"]) == 0
    assert [case["id"] for case in lines(out)] == wanted
    conditions = json.dumps([LOST.model_dump()])
    address = f"http://127.0.0.1:7860/#failures?run=x&budget=64&method=apet&filter={conditions}"
    assert cli.main([*call, "--view", address]) == 0
    assert [case["id"] for case in lines(out)] == wanted
    assert cli.main([*call, "--family", "text", "--text", "scene 4"]) == 0
    asked = Filter(conditions=(HasText(text="text"), HasText(text="scene 4")))
    with OpenRun(run_folder) as run:
        assert len(lines(out)) == len(Found(run, asked))


def test_a_report_is_written_whole(run_folder, tmp_path):
    out = tmp_path / "report.html"
    options = ["--where", "apet=lost", "--methods", "apet", "--budget", "128"]
    assert cli.main(["report", str(run_folder), "--out", str(out), *options]) == 0
    assert out.read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--out", "x.doc"], "--out must end in .html"),
        (["--out", "x.csv", "--cases"], "--out must end in .jsonl"),
        (["--out", "x.csv", "--where", "apet"], "takes a method and an outcome"),
        (["--out", "x.csv", "--where", "nobody=lost"], "no method 'nobody'; it has apet, fastv, divprune"),
        (["--out", "x.csv", "--where", "apet=gone"], "Input should be 'kept'"),
        (["--out", "x.csv", "--budget", "65"], "no budget 65"),
        (["--out", "x.csv", "--slice", "none"], "no saved slice 'none'"),
        (["--out", "x.csv", "--text", "no such word"], "No case fits"),
        (["--out", "x.csv", "--view", "http://x/#compare"], "the address of the page"),
    ],
)
def test_what_cannot_be_taken_is_one_sentence(run_folder, tmp_path, monkeypatch, capsys, options, sentence):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(run_folder), *options]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
