"""Tables of a run that was written by hand: every number is worked out beside it."""

import csv
import io
import json

import numpy as np
import pytest

from tests.tables.small_run import method, write_run
from tokviz import cli
from tokviz.errors import BadInput
from tokviz.mining.mined import open_run
from tokviz.tables import Cell, Results, ResultTable, TableRow, against, by_budget, by_slice, retention

T, F = True, False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 cases about 40 images: 20 count, 20 read; the unpruned model has 30 right (10 and 20 of each).

    ApET at 64 loses the ten it had right of counting, and answers two of the others; at 192 it loses nothing. Random
    has three seeds: 20, 22 and 24 right of 40 at 64.
    """
    right = [T] * 10 + [F] * 10 + [T] * 20
    cases = [
        {
            "right": flag,
            "family": "counting" if i < 20 else "reading",
            "evidence_size": i / 40,
            "difficult": flag or None,
        }
        for i, flag in enumerate(right)
    ]
    answers = {
        ("apet", 192): [right],
        ("apet", 64): [[F] * 10 + [T] * 2 + [F] * 8 + [T] * 20],
        ("random", 64): [[F] * (20 - more) + [T] * (20 + more) for more in (0, 2, 4)],
        ("random", 192): [right] * 3,
    }
    methods = [method("apet"), method("random", kind="control")]
    return write_run(tmp_path_factory.mktemp("run"), cases, answers, methods)


@pytest.fixture(scope="module")
def results(folder):
    return Results(open_run(folder))


def cells(table, name):
    return next(row for row in table.rows if row.name == name).cells


def test_methods_by_slice(results):
    table = by_slice(results, "family", 64)
    assert table.columns == ("all", "counting (n = 20)", "reading (n = 20)")
    assert [cell.value for cell in cells(table, "No pruning")] == [75, 50, 100]
    assert [cell.value for cell in cells(table, "ApET")] == [55, 10, 100]
    # Random: 50, 55 and 60; of counting 0, 2 and 4 of 20, of reading all.
    assert [cell.value for cell in cells(table, "Random ±")] == pytest.approx([55, 10, 100])
    assert [cell.band for cell in cells(table, "Random ±")] == [(50, 60), (0, 20), (100, 100)]
    assert [cell.n for cell in cells(table, "ApET")] == [40, 20, 20]
    assert [row.kind for row in table.rows] == ["unpruned", "method", "control"]
    assert "64 of 576 tokens" in table.title


def test_cells_in_the_band_of_random_are_marked(results):
    table = by_slice(results, "family", 64)
    assert [cell.text for cell in cells(table, "ApET")] == ["~", "~", "~"]  # 55 of 50 to 60, 10 of 0 to 20, 100
    assert {cell.text for cell in cells(table, "No pruning")} == {""}
    assert any(note.startswith("~: between") for note in table.notes)
    assert str(cells(by_slice(results, "evidence_size", 64), "ApET")[2]).endswith(" ~")


def test_cells_say_which_cases_they_are(results):
    table = by_slice(results, "family", 64)
    assert cells(table, "ApET")[1].where == {"method": "apet", "budget": 64, "family": "counting"}
    assert cells(table, "No pruning")[0].where == {"budget": 64}


def test_intervals_are_over_images(results):
    cell = cells(by_slice(results, "family", 64), "ApET")[0]
    half = 196 * np.sqrt(0.55 * 0.45 / 40)
    assert cell.low == pytest.approx(55 - half, abs=2.5) and cell.high == pytest.approx(55 + half, abs=2.5)


def test_numbers_are_cut_into_thirds(results):
    table = by_slice(results, "evidence_size", 64)
    # 0, 1/40, ... 39/40: thirds end at 13/40 and 26/40, which belong to the lower one: 14, 13 and 13 cases.
    assert table.columns == ("all", "0 to 0.325 (n = 14)", "0.325 to 0.65 (n = 13)", "0.65 to 0.975 (n = 13)")
    assert [cell.value for cell in cells(table, "ApET")] == pytest.approx([55, 100 * 2 / 14, 100 * 7 / 13, 100])
    places = [cell.where["evidence_size"] for cell in cells(table, "ApET")[1:]]
    assert [place["low"] for place in places] == [None, pytest.approx(0.325), pytest.approx(0.65)]
    assert cells(table, "ApET")[2].low is None and cells(table, "ApET")[2].refusal.have == 13


def test_methods_by_budget(results):
    table = by_budget(results)
    assert table.columns == ("192 of 576 tokens", "64 of 576 tokens")
    assert [cell.value for cell in cells(table, "ApET")] == [75, 55]
    assert [cell.value for cell in cells(table, "No pruning")] == [75, 75]


def test_each_method_is_tested_against_random_and_against_no_pruning(results):
    table = against(results, 64)
    (row,) = table.rows
    # Most seeds of random: those right in two of three: case 18, 19 and all of reading. ApET: 10 and 11 and reading.
    assert [cell.value for cell in row.cells[:4]] == pytest.approx([55, 0, 2, 2])
    assert row.cells[4].value is None and "at least 6 must differ" in str(row.cells[-1])
    table = against(results, 64, "full")
    apet, random = table.rows
    # ApET loses ten and rescues two: p = 2 (1 + 12 + 66) / 2^12; Holm doubles the smaller. Random: 10 and 2, too.
    assert [cell.value for cell in apet.cells[:6]] == pytest.approx([55, -20, 2, 10, 158 / 4096, 2 * 158 / 4096])
    assert apet.cells[2].where == {"method": "apet", "budget": 64, "outcome": "rescued"}
    assert "not told apart from No pruning; about" in str(apet.cells[-1])
    assert [random.cells[2].value, random.cells[3].value] == [2, 10] and random.kind == "control"


def test_retention_has_the_shape_of_table_1(results):
    table = retention([results])
    assert table.columns == ("counting", "reading", "mean retention, %")
    here = [row for row in table.rows if row.kind != "published"]
    assert [(row.group, row.name) for row in here] == [
        ("Unpruned, 576 tokens (100%)", "No pruning"),
        ("Retain 192 tokens (↓ 66.7%)", "ApET"),
        ("Retain 192 tokens (↓ 66.7%)", "Random"),
        ("Retain 64 tokens (↓ 88.9%)", "ApET"),
        ("Retain 64 tokens (↓ 88.9%)", "Random"),
    ]
    # ApET at 64: 10 of 50 and 100 of 100, so (20 + 100) / 2.
    assert [cell.value for cell in here[3].cells] == pytest.approx([10, 100, 60])
    assert [cell.value for cell in here[0].cells] == [50, 100, 100]
    assert here[3].cells[-1].low < 60 < here[3].cells[-1].high and here[3].cells[0].low is None
    assert (here[1].cells[-1].low, here[1].cells[-1].high) == (100, 100)  # it loses nothing at 192


def test_published_rows_stand_beside_at_the_same_share_and_say_where_they_are_from(results):
    table = retention([results])
    printed = [row for row in table.rows if row.kind == "published" and row.name == "ApET"]
    assert [(row.group[:9], row.source, row.cells[-1].value) for row in printed] == [
        ("Retain 19", "ApET, Table 1", 98.0),
        ("Retain 64", "ApET, Table 1", 95.2),
    ]
    assert [cell.value for cell in printed[0].cells[:-1]] == [None, None]
    assert any("LLaVA-1.5-7B" in note for note in table.notes)


def pope_run(folder, **options):
    """Four questions, right after pruning: hit, miss, false alarm, right rejection."""
    answers = [["yes"], ["yes"], ["no"], ["no"]]
    cases = [{"right": T, "answers": a, "metric": "pope", "family": "existence"} for a in answers]
    options = {"layout": "pope", "name": "coco_pope_random.json"} | options
    return write_run(folder, cases, {("apet", 64): [[T, F, F, T]]}, [method("apet")], **options)


def test_a_data_set_of_the_papers_is_a_column_with_its_own_score(tmp_path):
    pope = Results(open_run(pope_run(tmp_path / "pope")))
    questions = [
        {"right": T, "metric": "mme", "family": family, "media_sha256": family + image, "answers": ["Yes"]}
        for family in ("count", "OCR")
        for image in "ab"
        for _ in range(2)
    ]
    answers = {("apet", 64): [[T, T, T, F, T, T, F, F]]}
    mme = Results(open_run(write_run(tmp_path / "mme", questions, answers, [method("apet")], layout="mme")))
    table = retention([pope, mme])
    assert table.columns == ("POPE", "MME", "mean retention, %")
    apet = next(row for row in table.rows if row.name == "ApET" and row.kind == "method")
    # POPE: 1 hit, 1 miss, 1 false alarm: F1 50. MME: count 75 + 50, OCR 50 + 50, of 400. (50% + 56.25%) / 2.
    assert [cell.value for cell in apet.cells] == pytest.approx([50, 225, 53.125])
    printed = next(row for row in table.rows if row.name == "ApET" and row.kind == "published")
    assert [(cell.value, cell.digits) for cell in printed.cells] == [(84.4, 1), (1714, 0), (95.2, 1)]
    full = [row for row in table.rows if row.group.startswith("Unpruned")]
    assert [row.source for row in full] == [
        "",
        "ApET, Table 1",
        "Polymorphic, Table 1",
        "AdaptVTP, Table 1",
    ]
    assert [cell.value for cell in full[0].cells] == [100, 400, 100]
    assert [str(cell) for cell in full[2].cells] == ["85.85", "1864.84", "100.0"]


def test_failed_answers_and_cases_without_an_answer_are_left_out_and_told(tmp_path):
    cases = [{"right": T}, {"right": F}, {"right": T}, {"right": None, "answers": []}]
    write_run(tmp_path, cases, {("apet", 64): [[T, F, None, None]]}, [method("apet")])
    results = Results(open_run(tmp_path))
    table = by_budget(results)
    assert [cell.value for row in table.rows for cell in row.cells] == pytest.approx([200 / 3, 50])
    assert [row.cells[0].n for row in table.rows] == [3, 2]
    notes = " ".join(table.notes)
    assert "1 cases have no expected answer" in notes
    assert "answers that failed are left out. ApET at 64, 1 answer: apet cannot." in notes
    assert against(results).rows[0].cells[0].n == 2


def test_a_method_that_fails_on_some_cases_takes_none_from_the_others(tmp_path):
    answers = {("apet", 64): [[T] * 8 + [F] * 32], ("fastv", 64): [[None] * 39 + [T]], ("random", 64): [[F] * 40]}
    methods = [method("apet"), method("fastv"), method("random", kind="control")]
    write_run(tmp_path, [{"right": T}] * 40, answers, methods)
    apet, fastv = against(Results(open_run(tmp_path)), 64).rows
    # All eight go one way: p = 2 / 2^8, doubled for two methods.
    assert [cell.value for cell in apet.cells[:6]] == pytest.approx([20, 20, 8, 0, 1 / 128, 1 / 64])
    assert [cell.n for cell in (apet.cells[0], fastv.cells[0])] == [40, 1] and fastv.cells[4].value is None


def test_retention_of_what_a_method_answered_is_beside_the_unpruned_model_on_the_same(tmp_path):
    """FastV answers half of each family, as well as the unpruned model does, which has all and half of them."""
    right = [T] * 20 + [T, F] * 10
    cases = [{"right": flag, "family": "counting" if i < 20 else "reading"} for i, flag in enumerate(right)]
    answers = {("fastv", 64): [[None] * 10 + right[10:20] + [None] * 10 + right[30:]], ("apet", 64): [right]}
    write_run(tmp_path, cases, answers, [method("fastv"), method("apet")])
    table = retention([Results(open_run(tmp_path))])
    assert [cell.value for cell in cells(table, "fastv")] == pytest.approx([100, 50, 100])
    assert [cell.value for cell in cells(table, "ApET")] == pytest.approx([100, 50, 100])
    # The unpruned model has ten of twenty; the method answers those ten and has five of them.
    cases = [{"right": flag, "family": "counting"} for flag in [T] * 10 + [F] * 10]
    write_run(tmp_path / "b", cases, {("fastv", 64): [[T] * 5 + [F] * 5 + [None] * 10]}, [method("fastv")])
    assert [cell.value for cell in cells(retention([Results(open_run(tmp_path / "b"))]), "fastv")] == [50, 50]


def test_a_budget_at_which_a_method_always_fails_says_so(tmp_path):
    answers = {("apet", 64): [[T, T]], ("apet", 32): [[None, None]], ("fastv", 64): [[T, F]]}
    write_run(tmp_path, [{"right": T}, {"right": T}], answers, [method("apet"), method("fastv")])
    table = by_budget(Results(open_run(tmp_path)))
    assert [str(cell) for cell in cells(table, "ApET")] == ["100.0", "failed"]
    assert [str(cell) for cell in cells(table, "fastv")] == ["50.0", "not mined"]
    assert table.notes[-1].endswith("left out. ApET at 32, 2 answers: apet cannot.")
    with pytest.raises(BadInput, match="apet has no answers at 32 tokens"):
        against(Results(open_run(tmp_path)), 32, "apet")
    assert (
        not against(Results(open_run(tmp_path)), 32).rows and by_slice(Results(open_run(tmp_path)), "metric", 32).rows
    )


def test_a_p_value_is_never_nothing():
    assert [str(Cell(value=p, digits=4)) for p in (1e-9, 4.9e-5, 5.1e-5, 1)] == [
        "< 0.0001",
        "< 0.0001",
        "0.0001",
        "1.0000",
    ]


def test_scores_count_where_credit_is_given_in_parts(tmp_path):
    cases = [{"right": T, "metric": "vqa", "score": 0.6}, {"right": F, "metric": "vqa", "score": 0.3}]
    write_run(tmp_path, cases, {("apet", 64): [[T, F]]}, [method("apet")])
    table = by_budget(Results(open_run(tmp_path)))
    assert table.title == "cases.jsonl: VQA score, %, by budget"
    assert [row.cells[0].value for row in table.rows] == pytest.approx([45, 50])


def test_a_filter_is_respected(folder):
    some = Results(open_run(folder), [f"c{i}" for i in range(20, 40)])
    assert [row.cells[0].value for row in by_budget(some).rows] == [100, 100, 100]
    with pytest.raises(BadInput, match="nothing to put into a table"):
        Results(open_run(folder), [])


def test_what_there_is_not_is_a_sentence(results):
    for call, words in (
        (lambda: by_slice(results, "famly"), "did you mean 'family'"),
        (lambda: by_slice(results, "family", 65), "budgets 192, 64, not 65"),
        (lambda: against(results, 64, "apett"), "did you mean 'apet'"),
        (lambda: by_budget(results).write("html"), "markdown, csv, latex"),
    ):
        with pytest.raises(BadInput, match=words):
            call()


@pytest.fixture
def hostile():
    """Names that mean something in Markdown, HTML, LaTeX or a spreadsheet."""
    evil = "<script>|a_b*\n&50%$#{x}\\~^"
    row = TableRow(name=evil, group="=cmd()", cells=(Cell(value=-1.25, low=-2, high=1, n=3), Cell(text="=1+1")))
    other = TableRow(name="b", cells=(Cell(value=1.0), Cell()), kind="published", source="Paper, Table 1, p. 7")
    third = TableRow(name="c", group="=cmd()", cells=(Cell(value=0.5, digits=2), Cell(value=1)))
    return ResultTable(title=evil, head="method", columns=("x", "=y"), rows=(row, third, other), notes=(evil,))


def test_markdown_means_nothing_but_the_table(hostile):
    text = hostile.markdown()
    assert "<script>" not in text and "&lt;script&gt;\\|a\\_b\\* &amp;50%" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 4 for line in rows)
    assert "*b (published: Paper, Table 1, p. 7)* | *1.0* | – |" in text
    assert "-1.2 \\[-2.0, 1.0\\]" in text or "-1.2 [-2.0, 1.0]" in text


def test_csv_has_numbers_alone_and_no_formulas(hostile):
    head, first, _, second = csv.reader(io.StringIO(hostile.csv()))
    assert head[4:] == ["x", "x low", "x high", "x n", "'=y", "'=y low", "'=y high", "'=y n"]
    assert first[0] == "'=cmd()" and first[4:9] == ["-1.25", "-2.0", "1.0", "3", "'=1+1"]
    assert second[1:5] == ["b", "published", "Paper, Table 1, p. 7", "1.0"]


def test_latex_means_nothing_but_the_table(hostile):
    text = hostile.latex()
    escaped = "$<$script$>$|a\\_b* \\&50\\%\\$\\#\\{x\\}\\textbackslash{}\\textasciitilde{}\\textasciicircum{}"
    assert f"\\caption{{{escaped}}}" in text
    assert "\\textbf{0.50}" in text and "\\textbf{-1.2" not in text
    body = [line for line in text.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert [line.replace("\\&", "").count("&") for line in body] == [2, 2, 2, 2]


def test_numbers_survive_writing_and_reading(results):
    table = by_slice(results, "family", 64)
    assert ResultTable.model_validate_json(table.model_dump_json()) == table
    assert json.loads(table.model_dump_json())["rows"][1]["cells"][1]["where"]["family"] == "counting"


def test_the_command_prints_and_writes_tables(folder, tmp_path, capsys):
    assert cli.main(["tables", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "Retain 64 tokens (↓ 88.9%)" in printed and "ApET (published: ApET, Table 1)" in printed
    assert cli.main(["tables", str(folder), "--only", "slices", "--by", "evidence_size", "--format", "latex"]) == 0
    assert capsys.readouterr().out.startswith("\\begin{table}[t]")
    assert cli.main(["tables", str(folder), "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{k}.{e}" for k in ("retention", "budgets", "slices", "tests") for e in ("md", "csv", "tex")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "is no mined run"),
        (["{folder}", "--by", "famly"], "did you mean 'family'"),
        (["{folder}", "--budget", "3"], "not 3"),
        (["{folder}", "--out", "{folder}/manifest.json"], "is a file"),
    ],
)
def test_bad_arguments_are_a_sentence(folder, capsys, arguments, words):
    assert cli.main(["tables", *(argument.format(folder=folder) for argument in arguments)]) == 2
    assert words in capsys.readouterr().err
