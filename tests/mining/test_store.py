"""A run folder: whatever is broken, killed or full, no case is lost or doubled, and one sentence says what is wrong."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tokviz.errors import BadInput
from tokviz.mining import store as storing
from tokviz.mining.manifest import MANIFEST, Manifest, MinedFile, MinedMethod, MinedModel, differences, read_manifest
from tokviz.mining.mined import open_run
from tokviz.mining.schema import schema_of
from tokviz.mining.store import RunStore, payload_of

N_CASES, PART = 7, 3


def asked(**changes):
    fields = {
        "created": "2026-11-29T08:00:00+00:00",
        "command": "tokviz mine",
        "cases": MinedFile(name="cases.jsonl", digest="c0", layout="tokviz", count=N_CASES, asked=N_CASES),
        "model": MinedModel(id="m", revision=None, family="llava", weights_sha256="00", settings_sha256="11"),
        "methods": [
            MinedMethod(key="apet", id="apet", label="ApET", kind="error", params={"k": 10}, code_sha256="22"),
            MinedMethod(key="fastv", id="fastv", label="FastV", kind="attention", params={}, code_sha256="33"),
        ],
        "budgets": [64, 32],
        "budget_as": "published",
        "seeds": [0],
        "seed": 0,
        "max_new_tokens": 8,
        "frames": None,
        "device": "cpu",
        "dtype": "float32",
        "kernel": "sdpa",
        "versions": {"torch": "2"},
        "part_cases": PART,
    }
    return Manifest(**{**fields, **changes})


def payload(position, note=""):
    case = dict.fromkeys(schema_of("cases").names) | {"case_id": f"c{position}", "ordinal": position, "answer": note}
    case |= {"answers": [], "evidence": [[1.0, 2.0, 3.0, 4.0]], "features": [0.5], "thumbnail": b"\xff\x00"}
    row = dict.fromkeys(schema_of("rows").names) | {"case_id": f"c{position}", "ordinal": position, "seed": 0}
    return payload_of(case, [row | {"method": name, "kept": b"B\x80"} for name in ("apet", "fastv")])


def filled(folder, positions, **changes):
    with RunStore(folder, asked(**changes)) as store:
        for position in positions:
            store.add(position, payload(position), 1.5)
        return store.notes


def files_of(folder):
    """Every file of the tables by its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without any trouble."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    filled(folder, range(N_CASES))
    return folder


def test_cases_become_parts_in_the_order_of_the_file(whole):
    run = open_run(whole)
    assert [(part.name, part.cases, part.rows) for part in run.manifest.parts] == [
        ("part-00000", 3, 6), ("part-00001", 3, 6), ("part-00002", 1, 2),
    ]  # fmt: skip
    assert run.table("cases")["case_id"].to_pylist() == [f"c{n}" for n in range(N_CASES)]
    assert run.table("rows", ["method", "kept"]).to_pylist()[:2] == [
        {"method": "apet", "kept": b"B\x80"}, {"method": "fastv", "kept": b"B\x80"},
    ]  # fmt: skip
    assert run.manifest.parts[0].seconds == 4.5
    assert not list((whole / "pending").iterdir())


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [0, 3, 6, 1, 4, 2, 5]])
def test_the_bytes_do_not_depend_on_the_order_in_which_cases_come(tmp_path, whole, order):
    filled(tmp_path / "run", order)
    assert files_of(tmp_path / "run") == files_of(whole)


def test_a_case_that_comes_twice_is_written_once(tmp_path, whole):
    filled(tmp_path / "run", [0, 0, 1, 1, 2, 0, 3, 4, 5, 6, 3])
    assert files_of(tmp_path / "run") == files_of(whole)


def test_it_goes_on_after_every_case(tmp_path, whole):
    for position in range(N_CASES):
        assert filled(tmp_path / "run", [position]) == []
        with RunStore(tmp_path / "run", asked()) as store:
            assert [store.has(other) for other in range(N_CASES)] == [other <= position for other in range(N_CASES)]
            assert store.n_done == position + 1
    assert files_of(tmp_path / "run") == files_of(whole)


def test_the_log_may_end_anywhere(tmp_path, whole):
    """What a kill in the middle of a write, or a power cut, leaves: every length of a log of two cases."""
    folder = tmp_path / "run"
    filled(folder, [0, 1])
    log = folder / "pending" / "part-00000.log"
    content = log.read_bytes()
    half = len(content) // 2
    for length in [*range(0, len(content), 97), half - 1, half, half + 1, len(content) - 1, len(content)]:
        log.write_bytes(content[:length])
        with RunStore(folder, asked()) as store:
            assert [store.has(0), store.has(1)] == [length >= half, length >= len(content)]
            assert len(store.notes) == (length not in (0, half, len(content)))
    log.write_bytes(content)
    filled(folder, range(N_CASES))
    assert files_of(folder) == files_of(whole)


def test_a_changed_byte_in_the_log_costs_that_case_and_what_follows(tmp_path, whole):
    folder = tmp_path / "run"
    filled(folder, [0, 1])
    log = folder / "pending" / "part-00000.log"
    content = bytearray(log.read_bytes())
    content[len(content) // 2 + 200] ^= 1
    log.write_bytes(content)
    with RunStore(folder, asked()) as store:
        assert (store.has(0), store.has(1)) == (True, False)
        assert "mined again" in store.notes[0]
    filled(folder, range(1, N_CASES))
    assert files_of(folder) == files_of(whole)


def forbid(path, monkeypatch):
    """Make a file one that may not be read. Nothing is forbidden to root by its mode, and tests run as root."""
    as_before = Path.open

    def guarded(self, *args, **kwargs):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return as_before(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)


@pytest.mark.parametrize("table", ["rows", "cases"])
@pytest.mark.parametrize("harm", ["change", "cut", "remove", "empty", "forbid"])
def test_a_damaged_part_is_found_and_made_again(tmp_path, whole, table, harm, monkeypatch):
    folder = tmp_path / "run"
    filled(folder, range(N_CASES))
    path = folder / table / "part-00001.parquet"
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "forbid":
        forbid(path, monkeypatch)
    else:
        changed = content[:99] + bytes([content[99] ^ 1]) + content[100:]
        path.write_bytes({"change": changed, "cut": content[:-1], "empty": b""}[harm])
    with RunStore(folder, asked()) as store:
        assert [store.has(position) for position in range(N_CASES)] == [True] * 3 + [False] * 3 + [True]
        assert "3 cases are mined again" in store.notes[0]
        for position in (3, 4, 5):
            store.add(position, payload(position), 0.0)
    monkeypatch.undo()
    assert files_of(folder) == files_of(whole)


def test_a_part_that_no_manifest_names_is_not_read(tmp_path, whole):
    """Killed between writing a part and naming it: its log is still there, and it is made again."""
    folder = tmp_path / "run"
    filled(folder, [0, 1])
    (folder / "rows" / "part-00000.parquet").write_bytes(b"half")
    (folder / "rows" / ".part-00000.parquet.1.x.unfinished").write_bytes(b"half")
    (folder / "pending" / "payloads").mkdir()
    (folder / "pending" / "payloads" / "3-77").write_bytes(b"of a worker whose parent was killed")
    filled(folder, range(2, N_CASES))
    assert files_of(folder) == files_of(whole)
    assert not list((folder / "rows").glob(".*"))


def test_files_that_nobody_wrote_here_are_left_alone(tmp_path, whole):
    folder = tmp_path / "run"
    filled(folder, [0])
    for name in ("part-x.log", "part-00009.log", "part-99999.log", "notes.txt"):
        (folder / "pending" / name).write_bytes(b"?" * 50)
    filled(folder, range(1, N_CASES))
    assert files_of(folder) == files_of(whole)
    assert len(list((folder / "pending").iterdir())) == 4


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    folder = tmp_path / "run"
    filled(folder, range(3))
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"part-00000"', '"../../../tmp/part-00000"'))
    with pytest.raises(BadInput, match=r"parts\.0\.name"):
        open_run(folder)


def test_a_whole_log_whose_part_was_not_written_becomes_a_part_when_it_is_opened(tmp_path, whole, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "_finish_if_whole", lambda *_: None)
        filled(folder, range(3))
    assert read_manifest(folder).parts == []
    filled(folder, range(3, N_CASES))
    assert files_of(folder) == files_of(whole)


def test_a_second_mining_of_one_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    with RunStore(folder, asked()):
        with pytest.raises(BadInput, match="being mined by another process"):
            RunStore(folder, asked())
        code = (
            "import sys; sys.path[:0] = sys.argv[2:]\n"
            "from tokviz.mining.store import _locked\nfrom pathlib import Path\n"
            "try: _locked(Path(sys.argv[1]))\nexcept ValueError as error: print(error)"
        )
        told = subprocess.run(
            [sys.executable, "-c", code, str(folder), *sys.path], capture_output=True, text=True, check=True
        )
        assert "being mined by another process" in told.stdout
    filled(folder, [0])


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, whole, monkeypatch):
    folder = tmp_path / "run"
    filled(folder, [0])
    real = os.fsync

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunStore(folder, asked()) as store:
        monkeypatch.setattr(storing.os, "fsync", full)
        for _ in range(2):  # again and again
            with pytest.raises(BadInput, match=r"no space left on device\. What was mined before is kept"):
                store.add(1, payload(1), 0.0)
        assert (store.has(0), store.has(1)) == (True, False)
        monkeypatch.setattr(storing.os, "fsync", real)
        store.add(1, payload(1), 0.0)
        monkeypatch.setattr(storing, "write_whole", lambda *_: full(0))
        with pytest.raises(BadInput, match="no space"):  # the case is on the disk; its part is not
            store.add(2, payload(2), 0.0)
        monkeypatch.undo()
    filled(folder, range(2, N_CASES))
    assert files_of(folder) == files_of(whole)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budgets": [64, 16]}, "budgets: 64, 32 there, 64, 16 now"),
        ({"seeds": [0, 1]}, "seeds: 0 there, 0, 1 now"),
        ({"dtype": "bfloat16"}, "dtype: 'float32' there, 'bfloat16' now"),
        ({"versions": {"torch": "3"}}, "versions.torch: '2' there, '3' now"),
        (
            {"cases": MinedFile(name="cases.jsonl", digest="c1", layout="tokviz", count=N_CASES, asked=N_CASES)},
            "cases.digest: 'c0' there, 'c1' now",
        ),
        ({"methods": asked().methods[:1]}, "methods: apet, fastv there, apet now"),
        (
            {"methods": [asked().methods[0].model_copy(update={"params": {"k": 5}}), asked().methods[1]]},
            "method apet, params.k: 10 there, 5 now",
        ),
        (
            {"methods": [asked().methods[0], asked().methods[1].model_copy(update={"code_sha256": "34"})]},
            "method fastv, code_sha256: '33' there, '34' now",
        ),
    ],
)
def test_another_command_is_refused_with_what_differs(tmp_path, changes, told):
    folder = tmp_path / "run"
    filled(folder, [0])
    before = files_of(folder), (folder / MANIFEST).read_bytes()
    with pytest.raises(BadInput, match="begun by another command") as caught:
        RunStore(folder, asked(**changes))
    assert told in str(caught.value)
    assert (files_of(folder), (folder / MANIFEST).read_bytes()) == before
    filled(folder, [1])  # and the first one still goes on


def test_what_does_not_change_the_tables_may_differ():
    assert differences(asked(), asked(created="later", command="tokviz mine --workers 9", problems=3)) == []


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="must be empty or absent"):
        RunStore(tmp_path, asked())
    assert (tmp_path / "thesis.tex").read_text() == "x"
    with pytest.raises(BadInput, match="cannot be written: not a directory"):
        RunStore(tmp_path / "thesis.tex" / "run", asked())


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 2}', b"\xff" * 10])
def test_a_damaged_manifest_is_one_sentence(tmp_path, content):
    folder = tmp_path / "run"
    filled(folder, [0])
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BadInput, match=r"manifest\.json is damaged"):
        RunStore(folder, asked())
    with pytest.raises(BadInput, match=r"manifest\.json is damaged"):
        open_run(folder)


def test_a_run_is_opened_while_it_is_mined_and_answers_sql(tmp_path):
    folder = tmp_path / "run"
    with RunStore(folder, asked()) as store:
        with pytest.raises(BadInput, match="no whole part yet"):
            open_run(folder).connection()
        for position in (0, 1, 2, 3):
            store.add(position, payload(position), 0.0)
        run = open_run(folder)
        assert (run.n_cases, run.n_rows) == (3, 6)
        found = run.connection().sql("select method, count(*) from rows group by method order by method").fetchall()
        assert found == [("apet", 3), ("fastv", 3)]
        assert run.connection().sql("select features, evidence from cases limit 1").fetchall() == [
            ([0.5], [[1.0, 2.0, 3.0, 4.0]])
        ]
    (folder / "rows" / "part-00000.parquet").unlink()
    with pytest.raises(BadInput, match="missing or damaged"):
        run.rows()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is no mined run"):
        open_run(tmp_path)


def test_files_hold_the_columns_of_the_schema(whole):
    for table in ("rows", "cases"):
        assert pq.read_schema(whole / table / "part-00000.parquet").names == schema_of(table).names


def test_the_docs_tell_every_column():
    from tokviz.files import resource

    text = (resource("docs/methods").parent / "mining.md").read_text()
    rows, cases = text.split("## Columns of rows")[1].split("## Columns of cases")
    for name, told in (("rows", rows), ("cases", cases)):
        names = {word for line in told.splitlines() if line.startswith("| `") for word in line.split("`")[1:-1:2]}
        assert set(schema_of(name).names) <= names, set(schema_of(name).names) - names


def test_a_row_group_holds_the_rows_of_so_many_cases(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "_GROUP_CASES", 2)
    filled(tmp_path / "run", range(N_CASES))
    for table, per_case in (("cases", 1), ("rows", 2)):
        file = pq.ParquetFile(tmp_path / "run" / table / "part-00000.parquet")
        groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        assert groups == [2 * per_case, per_case]
        assert file.read()["ordinal"].to_pylist() == [at for at in range(PART) for _ in range(per_case)]
