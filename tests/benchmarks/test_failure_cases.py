"""The page about failure cases, of a drawn run: its counts against loops that a reader can follow."""

import io

import pytest
from PIL import Image

from benchmarks import failure_cases
from benchmarks.failure_cases import COLUMNS, Failures, main
from scripts.synthetic_run import Shape, write_run
from tokviz.mining.mined import open_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("failures") / "run", Shape(cases=90, seeds=2, per_part=45))


@pytest.fixture(scope="module")
def rows(folder):
    """Rows of the first seed at 64 tokens."""
    rows = open_run(folder).table("rows").to_pylist()
    return [row for row in rows if row["budget"] == 64 and row["seed"] == 0 and row["outcome"] != "error"]


def test_outcomes_are_counted(folder, rows):
    failures = Failures(folder)
    assert failures.budget == 64
    table = failures.outcomes()
    assert len(table.rows) == len(failures.pruners) > 2
    for key, shown in zip(failures.pruners, table.rows, strict=True):
        own = [row for row in rows if row["method"] == key]
        lost = [row for row in own if row["outcome"] == "lost"]
        expected = [
            len(lost),
            sum(bool(row["only_failure"]) for row in own),
            sum(bool(row["random_beats_it"]) for row in lost),
            sum(row["outcome"] == "rescued" for row in own),
            sum(row["outcome"] == "changed" for row in own),
        ]
        assert [cell.value for cell in shown.cells] == expected
    assert any(cell.value for row in table.rows for cell in row.cells)


def test_evidence_is_compared_between_answers_that_are_kept_and_lost(folder, rows):
    failures = Failures(folder)
    for key, shown in zip(failures.pruners, failures.evidence().rows, strict=True):
        own = [row for row in rows if row["method"] == key and row["evidence_kept"] is not None]
        right, lost = ([row for row in own if row["outcome"] == outcome] for outcome in ("kept", "lost"))
        left = [row["evidence_kept"] + row["evidence_absorbed"] for row in lost]
        shares = (
            [row["evidence_kept"] for row in right],
            [row["evidence_kept"] for row in lost],
            left,
            [share == 0 for share in left],
        )
        expected = [100 * sum(some) / len(some) if some else None for some in shares]
        assert [cell.value for cell in shown.cells[:4]] == pytest.approx(expected)


def test_figures_show_what_they_say(folder, rows):
    found = {figure.name: figure for figure in Failures(folder).figures()}
    assert {"alone", "rescued"} <= set(found)
    by_case = {(row["ordinal"], row["method"]): row for row in rows}
    for figure in found.values():
        assert 0 < len(figure.ordinals) <= 3 and len(set(figure.methods)) == len(figure.methods) == COLUMNS
    alone, rescued = found["alone"], found["rescued"]
    assert all(by_case[ordinal, alone.methods[0]]["only_failure"] for ordinal in alone.ordinals)
    assert all(by_case[ordinal, rescued.methods[0]]["outcome"] == "rescued" for ordinal in rescued.ordinals)
    if "random-keeps-it" in found:
        figure = found["random-keeps-it"]
        assert figure.methods[1] == "random"
        assert all(by_case[ordinal, figure.methods[0]]["random_beats_it"] for ordinal in figure.ordinals)


def test_the_page_and_its_figures_are_written(folder, tmp_path, monkeypatch, capsys):
    learnt = tmp_path / "learnt.md"
    weights = open_run(folder).manifest.model.weights_sha256[:12]
    learnt.write_text(f"weights: {weights}\n\n## What was learnt\n\nBy hand.\n")
    monkeypatch.setattr(failure_cases, "LEARNT", learnt)
    monkeypatch.setattr(Failures, "figures", lambda self, figures=Failures.figures: figures(self)[:1])
    (tmp_path / "docs" / "failure-cases").mkdir(parents=True)
    (tmp_path / "docs" / "failure-cases" / "old.png").write_bytes(b"of another run")
    assert main([str(folder), "--docs", str(tmp_path / "docs")]) == 0
    (figure,) = (tmp_path / "docs" / "failure-cases").iterdir()
    page = (tmp_path / "docs" / "failure-cases.md").read_text()
    assert f"](failure-cases/{figure.name})" in page and "By hand." in page and f"weights `{weights}`" in page
    image = Image.open(io.BytesIO(figure.read_bytes()))
    assert image.format == "PNG" and image.width <= failure_cases.WIDTH and figure.stat().st_size < 300_000
    assert str(tmp_path / "docs" / "failure-cases.md") in capsys.readouterr().out
    learnt.write_text("weights: others\n\nBy hand.\n")
    assert "By hand" not in failure_cases.by_hand(learnt, weights)


def test_what_there_is_not_is_a_sentence(folder, tmp_path, capsys):
    for arguments, words in (([tmp_path], "is no mined run"), ([folder, "--budget", "5"], "has the budgets")):
        assert main([*map(str, arguments), "--docs", str(tmp_path / "docs")]) == 2
        assert words in capsys.readouterr().err
