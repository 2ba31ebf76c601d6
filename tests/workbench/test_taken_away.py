"""Stored cases in the lanes, exports, the report, and what of a run folder is never followed or believed."""

import csv
import io
import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

from scripts.synthetic_run import Shape, write_run
from tokviz.cases import open_cases
from tokviz.errors import BadInput
from tokviz.mining.manifest import read_manifest
from tokviz.mining.schema import schema_of
from tokviz.workbench import Edit, OpenRun, TagStore, Workbench, stored_comparison
from tokviz.workbench.exports import exported

HOSTILE = '</script><img src=x onerror=alert(1)>=HYPERLINK("http://x")&amp;\'"{braces}'


@pytest.fixture
def own_run(run_folder, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(run_folder, tmp_path / "own")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose every text is hostile, with a tag and a note that are."""
    folder = write_run(tmp_path_factory.mktemp("hostile") / "run", Shape(cases=8, methods=3, budgets=(64,)))
    for table, columns in (("cases", ("question", "family", "answer", "split", "model")), ("rows", ("answer",))):
        path = next((folder / table).iterdir())
        records = pq.read_table(path).to_pylist()
        for record in records:
            record |= dict.fromkeys(columns, HOSTILE)
            record["case_id"] = f"{HOSTILE}{record['ordinal']}"
            if table == "cases":
                record["answers"] = [HOSTILE]
        pq.write_table(pq.read_table(path).schema.empty_table().from_pylist(records, schema=schema_of(table)), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["methods"][0]["label"] = manifest["command"] = manifest["cases"]["name"] = HOSTILE
    (folder / "manifest.json").write_text(json.dumps(manifest))
    TagStore(folder).edit(Edit(case_ids=(f"{HOSTILE}0",), seen=0, add=(HOSTILE[:60],), note=HOSTILE))
    return Workbench(folder)


def view(run="drawn", **more):
    return {"run": run, "budget": 64, "methods": ["apet", "fastv", "random"], **more}


LOST = {"conditions": [{"kind": "outcome", "method": "apet", "budget": 64, "results": ["lost"]}]}


@pytest.fixture(scope="module")
def bench(run_folder):
    made = Workbench(run_folder)
    yield made
    made.close()


def lost_by(mined_rows, method):
    return [
        o for (o, m, budget), rows in mined_rows.items() if (m, budget) == (method, 64) and rows[0]["outcome"] == "lost"
    ]


def test_a_stored_case_is_what_was_mined(run, mined_cases, mined_rows):
    comparison = stored_comparison(run, 9, ["random", "apet"], 64, seed=1)
    case, row = mined_cases[9], next(r for r in mined_rows[9, "random", 64] if r["seed"] == 1)
    assert (comparison.request.question, comparison.request.expected_answer) == (case["question"], case["answers"][0])
    assert [run.key for run in comparison.runs] == ["full", "random", "apet"]
    assert comparison.answers == {
        "full": case["answer"],
        "random": row["answer"],
        "apet": mined_rows[9, "apet", 64][0]["answer"],
    }
    assert (comparison["random"].kept or [])[:3] == comparison["random"].stages[0].kept[:3]
    assert len(comparison["random"].kept) == 64
    assert type(comparison).from_json(comparison.to_json()) == comparison


def test_an_image_that_was_changed_is_not_shown(own_run):
    with OpenRun(own_run) as run:
        Image.new("RGB", (336, 336)).save(own_run / "media" / "005.png")
        with pytest.raises(BadInput, match="its content has changed"):
            stored_comparison(run, 5, ["apet"], 64)
        assert "its content has changed" in stored_comparison(run, 5, ["apet"], 64, thumbnail=True).warnings[0]
        (own_run / "media" / "006.png").unlink()
        with pytest.raises(BadInput, match="with --media"):
            stored_comparison(run, 6, ["apet"], 64)


def test_nothing_outside_of_the_run_and_its_media_is_followed(own_run, tmp_path):
    """A path that leads out names a file with the right digest; a part is a link to another file."""
    outside = shutil.copy(own_run / "media" / "003.png", tmp_path / "outside.png")
    path = own_run / "cases" / "part-00000.parquet"
    table = pq.read_table(path)
    for written in ("../outside.png", str(outside)):
        records = table.to_pylist()
        records[3]["image"] = written
        pq.write_table(table.from_pylist(records, schema=table.schema), path)
        with OpenRun(own_run) as run, pytest.raises(BadInput, match="lies outside of the run"):
            stored_comparison(run, 3, ["apet"], 64)
    shutil.move(path, tmp_path / "part.parquet")
    path.symlink_to(tmp_path / "part.parquet")
    with pytest.raises(BadInput, match=r"lacks its file cases/part-00000\.parquet"):
        OpenRun(own_run)


def test_a_statement_reaches_nothing_but_the_run(run, tmp_path):
    import duckdb

    (tmp_path / "secret.csv").write_text("a\n1\n")
    for sql in (f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')", "SET memory_limit = '1TB'", "INSTALL httpfs"):
        with pytest.raises((duckdb.Error, BadInput)):
            run.query(sql)


@pytest.mark.parametrize("damage", ["truncated", "other columns", "no parts", "unknown outcome"])
def test_a_damaged_run_is_refused_in_a_sentence(own_run, damage):
    path = own_run / "rows" / "part-00001.parquet"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "other columns":
        pq.write_table(pq.read_table(path).drop_columns(["margin"]), path)
    elif damage == "unknown outcome":
        table = pq.read_table(path)
        records = table.to_pylist()
        records[0]["outcome"] = "<b>kept</b>"
        pq.write_table(table.from_pylist(records, schema=table.schema), path)
    else:
        manifest = read_manifest(own_run).model_copy(update={"parts": []})
        (own_run / "manifest.json").write_bytes(manifest.to_bytes())
    with pytest.raises(BadInput, match=r"^(The|This|A) .*\.$") as told:
        OpenRun(own_run)
    assert str(own_run.parent) not in str(told.value)


def test_a_run_that_is_mined_on_is_read_anew(own_run):
    whole = read_manifest(own_run)
    (own_run / "manifest.json").write_bytes(whole.model_copy(update={"parts": whole.parts[:2]}).to_bytes())
    with OpenRun(own_run) as run:
        assert run.query("SELECT count(*) FROM facts") == [(128,)]
        assert not run.refresh()
        (own_run / "manifest.json").write_bytes(whole.to_bytes())
        assert run.refresh()
        assert run.query("SELECT count(*) FROM facts") == [(240,)]


def test_rows_are_exported_with_what_people_said(bench, run_folder, mined_rows):
    wanted = lost_by(mined_rows, "apet")
    n_rows = sum(len(rows) for (ordinal, *_), rows in mined_rows.items() if ordinal in wanted)
    bench.tags("drawn").edit(
        Edit(case_ids=(f"case-{wanted[0]:06}",), seen=0, add=("sign",), note="-1+1", status="confirmed")
    )
    name, _, content = exported(bench, "jsonl", view(filter=LOST))
    records = [json.loads(line) for line in content.decode().splitlines()]
    assert name == "drawn-rows.jsonl"
    assert (len(records), {record["ordinal"] for record in records}) == (n_rows, set(wanted))
    assert all(len(record["kept"]) == record["n_kept"] for record in records)
    tagged = [record for record in records if record["tags"] == ["sign"]]
    assert {(record["ordinal"], record["status"]) for record in tagged} == {(wanted[0], "confirmed")}
    table = list(csv.DictReader(io.StringIO(exported(bench, "csv", view(filter=LOST))[2].decode())))
    assert [row["case_id"] for row in table] == [record["case_id"] for record in records]
    assert next(row for row in table if row["ordinal"] == str(wanted[0]))["note"] == "'-1+1"  # no formula
    parquet = pq.read_table(io.BytesIO(exported(bench, "parquet", view(filter=LOST))[2]))
    assert parquet.num_rows == n_rows


def test_a_case_file_is_exported_that_can_be_mined_again(bench, run_folder, tmp_path, mined_cases, mined_rows):
    wanted = lost_by(mined_rows, "apet")
    (tmp_path / "again.jsonl").write_bytes(exported(bench, "cases", view(filter=LOST))[2])
    again = open_cases(tmp_path / "again.jsonl", media=run_folder)
    read = list(again)
    assert [case.id for case in read] == [mined_cases[ordinal]["case_id"] for ordinal in wanted]
    assert again.problems == []
    assert read[0].evidence == tuple(tuple(box) for box in mined_cases[wanted[0]]["evidence"])
    assert again.media_path(read[0]) == run_folder / mined_cases[wanted[0]]["image"]


def test_a_figure_of_several_cases_is_the_same_every_time(bench):
    two = {"conditions": [{"kind": "cases", "ordinals": [3, 9]}]}
    first, second = (exported(bench, "figure-png", view(filter=two, methods=["apet"]))[2] for _ in range(2))
    assert first == second
    shown = Image.open(io.BytesIO(first))
    assert 0.6 < shown.height / shown.width < 1.2  # two rows, and a question with two images beside it


def test_the_report_opens_offline_and_is_escaped(hostile):
    """No script, nothing from anywhere, and none of the hostile texts as markup."""
    content = exported(hostile, "report", view("run", methods=["apet", "fastv"]))[2].decode()
    assert "Content-Security-Policy\" content=\"default-src 'none'" in content
    assert HOSTILE not in content
    assert "<script" not in content
    assert "<img" not in content
    assert content.count("&lt;/script&gt;") > 8 * 4
    links = re.findall(r'(?:href|src)="([^"#][^"]{0,30})', content)
    assert links and all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert "{braces}" in content


@pytest.mark.generator
def test_a_report_of_200_cases_stays_below_20_megabytes(bench):
    content = exported(
        bench, "report", view(filter={"conditions": [{"kind": "range", "column": "ordinal", "high": 199}]})
    )[2]
    assert content.count(b"<li><svg class=defs") == 200
    assert 500_000 < len(content) < 20_000_000


def test_what_cannot_be_exported_is_said(bench):
    with pytest.raises(BadInput, match="No case fits"):
        exported(bench, "csv", view(filter={"conditions": [{"kind": "text", "text": "no such word"}]}))
    with pytest.raises(BadInput, match="no export 'exe'"):
        exported(bench, "exe", view())
    with pytest.raises(BadInput, match="no run 'other'"):
        exported(bench, "csv", view("other"))


def test_actions_of_the_page_answer_or_say_what_is_wrong(bench, mined_rows):
    told = bench.answer("search", view(filter=LOST))
    assert (told["found"], len(told["cards"])) == (len(lost_by(mined_rows, "apet")), told["found"])
    assert json.loads(json.dumps(told, allow_nan=False))["cards"][0]["ordinal"] == told["cards"][0]["ordinal"]
    assert bench.answer("page", view(offset=230))["cards"][0]["ordinal"] == 230
    edited = bench.answer("edit_all", {**view(filter=LOST), "edit": {"seen": 0, "add": ["all"]}, "who": "ann"})
    assert edited["cases"] == told["found"]
    tagged = {"conditions": [{"kind": "tag", "values": ["all"]}]}
    assert bench.answer("search", view(filter=tagged))["found"] == told["found"]
    bench.answer("undo", {"run": "drawn", "change": edited["change"]})
    assert bench.answer("search", view(filter=tagged))["found"] == 0
    for action, asked, words in (
        ("search", view(methods=[]), "methods"),
        ("search", view(more=1), "more"),
        ("edit", {"run": "drawn", "edit": {"case_ids": ["nobody"], "seen": 0, "add": ["x"]}}, "does not hold"),
        ("case", view(ordinal=9999), "no case number 9999"),
        ("nothing", {}, "no such action"),
        ("search", [], "cannot be read"),
        ("search", {**view(), "run": "../drawn"}, "no run"),
    ):
        with pytest.raises(BadInput, match=words):
            bench.answer(action, asked)
