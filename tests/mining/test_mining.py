"""Every row is what compare gives, bit for bit; and whatever happens on the way, the tables come out the same."""

import hashlib
import io
import json
import math
import threading

import numpy as np
import pytest
import torch
from clip_files import coded, grey_frames
from PIL import Image
from tiny_families import CASES

import tokviz
from tokviz import cli
from tokviz.cases import open_cases
from tokviz.errors import BadInput
from tokviz.mining import mine as mining
from tokviz.mining import receipts
from tokviz.mining.kept import unpack_indices
from tokviz.mining.manifest import read_manifest
from tokviz.mining.mapping import laid_out
from tokviz.mining.plan import positions
from tokviz.runs.metrics import evidence_tokens
from tokviz.workbench.run import OpenRun
from tokviz.workbench.stored import stored_comparison


def tables(folder):
    """The digests of all parts."""
    return [(part.name, part.sha256, part.cases_sha256) for part in read_manifest(folder).parts]


# -- exactly what compare gives ------------------------------------------------------------------------------------


def test_every_row_is_the_run_that_compare_gives_at_this_budget_and_seed(tiny, data_set, options, mined):
    rows, cases = mined.rows(), mined.cases().set_index("case_id")
    file = open_cases(data_set)
    for case in file:
        if case.id in ("broken", "gone"):
            continue
        own = rows[rows.case_id == case.id]
        for budget in options["budgets"]:
            for seed in (0, 1) if budget == options["budgets"][1] else (1,):
                comparison = tokviz.compare(
                    tiny, file.media_path(case), case.question, options["methods"], budget, seed=seed,
                    max_new_tokens=3, evidence=case.evidence,
                )  # fmt: skip
                unpruned = comparison[0]
                assert cases.answer[case.id] == unpruned.answer
                assert cases.margin[case.id] == unpruned.margin
                assert cases.logprob[case.id] == math.fsum(token.logprob for token in unpruned.answer_tokens)
                assert cases.cls_entropy[case.id] == comparison.measures.attention_entropy
                assert cases.effective_rank[case.id] == comparison.measures.effective_rank
                assert cases.grid[case.id] == comparison.grid.model_dump_json()
                for run in comparison.runs[1:]:
                    same = own[(own.method == run.key) & (own.budget == budget)]
                    row = same[same.seed == seed].iloc[0] if seed in set(same.seed) else same.iloc[0]
                    assert_same(row, run, comparison.grid.n_tokens)


def assert_same(row, run, n_tokens):
    if run.error is not None:
        assert (row.outcome, row.error) == ("error", run.error)
        return
    assert row.answer == run.answer
    assert row.margin == run.margin
    assert row.logprob == math.fsum(token.logprob for token in run.answer_tokens)
    kept = list(range(n_tokens)) if run.kept is None else run.kept
    assert unpack_indices(row.kept).tolist() == kept
    assert row.n_kept == len(kept)
    assert row.n_final == run.actual.final
    assert row.average_tokens == run.actual.average_in
    assert json.loads(row.layers) == run.tokens_per_layer
    assert row.effective_rank == run.effective_rank
    assert json.loads(row.params) == run.params
    assert row.kind == run.family


def test_the_unpruned_answer_is_scored_as_a_sweep_scores_it(tiny, data_set, options, mined):
    rows = mined.rows()
    file = open_cases(data_set)
    case = next(iter(file))
    sweep = tokviz.sweep(
        tiny, file.media_path(case), case.question, options["methods"], budgets=options["budgets"], seeds=2,
        max_new_tokens=3, evidence=case.evidence,
    )  # fmt: skip
    own = rows[rows.case_id == case.id]
    own = own[own.outcome != "error"]
    found = {(row.method, row.budget, row.seed): row.reference_logprob for row in own.itertuples()}
    points = [(curve.key, point) for curve in sweep for point in curve.points if point.error is None]
    expected = {(key, point.budget, point.seed): point.logprob for key, point in points}
    assert found == expected


def test_only_what_draws_random_numbers_has_a_row_for_every_seed(mined, options):
    rows = mined.rows(["case_id", "method", "budget", "seed"])
    own = rows[rows.case_id == "a"]
    seeds = own.groupby(["method", "budget"], observed=True).seed.apply(list).to_dict()
    assert seeds == {
        (method, budget): [0, 1] if method == "random" and budget < 16 else [0]
        for method in ("apet", "random", "fastv", "fastv (layer=3)", "pdrop", "downsample")
        for budget in options["budgets"]
    }


def test_outcomes_and_verdicts_of_a_known_answer(mined):
    cases = mined.cases().set_index("case_id")
    for row in mined.rows().itertuples():
        case = cases.loc[row.case_id]
        if row.outcome == "error":
            continue
        if not len(case.answers):
            assert row.right is None and row.score != row.score and row.flipped is None
            assert row.outcome == ("same" if row.answer == case.answer else "differs")
            continue
        right = row.answer in list(case.answers)
        assert row.right == right and row.score == float(right)
        before = case.answer in list(case.answers)
        wrong = "wrong" if row.answer == case.answer else "changed"
        assert row.outcome == {(1, 1): "kept", (1, 0): "lost", (0, 1): "rescued", (0, 0): wrong}[before, right]
        assert row.unpruned_wrong == (not before)


def test_evidence_is_counted_on_the_grid(tiny, mined):
    cases = mined.cases().set_index("case_id")
    rows = mined.rows()
    shown = evidence_tokens(tokviz.records.TokenGrid.model_validate_json(cases.grid["a"]), [(0, 0, 24, 24)])
    assert cases.evidence_tokens["a"] == len(shown) > 0
    assert cases.evidence_size["a"] == len(shown) / 16
    own = rows[(rows.case_id == "a") & (rows.method == "random")]
    for row in own.itertuples():
        kept = set(unpack_indices(row.kept).tolist())
        assert row.evidence_kept == len(kept & set(shown)) / len(shown)
        assert row.evidence_kept + row.evidence_absorbed + row.evidence_lost == pytest.approx(1)
    assert rows[rows.case_id == "b"].evidence_kept.isna().all()


# -- what is wrong in a data set -----------------------------------------------------------------------------------


def test_what_cannot_be_answered_is_a_case_with_a_reason(mined, options):
    cases, rows = mined.cases().set_index("case_id"), mined.rows()
    assert list(cases.index) == ["a", "b", "broken", "c", "gone", "d", "e"]
    assert "damaged" in cases.error["broken"]
    assert "no image file named 'gone.png'" in cases.error["gone"]
    for case in ("broken", "gone"):
        own = rows[rows.case_id == case]
        assert set(own.outcome) == {"error"} and set(own.error) == {cases.error[case]}
        assert len(own) == 6 * 3
        assert own.answer.isna().all() and own.kept.isna().all()
    assert cases.error.drop(["broken", "gone"]).isna().all()
    assert mined.manifest.problems == 1
    assert mined.manifest.status == "done"


def test_hostile_cases_become_text_or_an_error(tiny, tmp_path):
    """Markup in ids and questions, images outside the folder, a picture of a gigapixel."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (48, 48)).save(tmp_path / "in" / "ok.png")
    Image.new("RGB", (48, 48)).save(tmp_path / "outside.png")
    bomb = io.BytesIO()
    Image.new("1", (30000, 30000)).save(bomb, "PNG")
    (tmp_path / "in" / "bomb.png").write_bytes(bomb.getvalue())
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside.png")
    names = ["ok.png", "../outside.png", str(tmp_path / "outside.png"), "link.png", "bomb.png", "/etc/passwd"]
    script = "<script>alert(1)</script>"
    lines = [
        {"id": f"{script}{at}", "image": name, "question": f"what is {script} ?", "answer": "'; DROP TABLE rows; --"}
        for at, name in enumerate(names)
    ]
    (tmp_path / "in" / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = tokviz.mine(tiny, tmp_path / "in" / "c.jsonl", ["random"], [8], out=tmp_path / "run", workers=1)
    cases = run.cases()
    assert list(cases.case_id) == [f"{script}0", f"{script}4"]  # the others are problems of the file
    assert run.manifest.problems == 4
    assert cases.error.isna()[0] and "megapixels" in cases.error[1]
    assert str(tmp_path) not in cases.error[1]
    assert list(cases.question) == [f"what is {script} ?"] * 2


# -- on the disk, once --------------------------------------------------------------------------------------------


def test_the_same_call_twice_does_nothing_twice(tiny, data_set, options, mined, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in sorted(mined.path.rglob("*")) if path.name != ".lock"}
    monkeypatch.setattr(mining, "mined_here", lambda *_: pytest.fail("nothing is left to do"))
    tokviz.mine(tiny, data_set, out=mined.path, **options)
    after = {path: path.stat().st_mtime_ns for path in sorted(mined.path.rglob("*")) if path.name != ".lock"}
    assert {path for path in before if path.is_file() and before[path] != after[path]} == set()


@pytest.mark.parametrize("cases_before", [1, pytest.param(3, marks=pytest.mark.generator), 6])
def test_it_goes_on_where_it_was_stopped(tiny, data_set, options, mined, tmp_path, cases_before):
    stop, seen = threading.Event(), []

    def on_progress(event):
        seen.append(event)
        if event.mined == cases_before:
            stop.set()

    run = tokviz.mine(tiny, data_set, out=tmp_path / "run", stop=stop, on_progress=on_progress, **options)
    assert run.manifest.status == "running"
    assert seen[-1].done == cases_before
    seen.clear()
    run = tokviz.mine(tiny, data_set, out=tmp_path / "run", on_progress=seen.append, **options)
    assert (seen[0].done, seen[-1].mined) == (cases_before, 7 - cases_before)
    assert tables(run.path) == tables(mined.path)
    assert (run.path / "map.parquet").read_bytes() == (mined.path / "map.parquet").read_bytes()


def test_small_parts_hold_the_same_rows(tiny, data_set, options, mined, tmp_path, monkeypatch):
    monkeypatch.setattr(receipts, "PART_CASES", 2)
    run = tokviz.mine(tiny, data_set, out=tmp_path / "run", **options)
    assert len(run.manifest.parts) == 4
    for table in ("rows", "cases"):
        assert run.table(table).to_pylist() == mined.table(table).to_pylist()


def test_progress_says_how_fast_it_is_and_what_is_left(tiny, data_set, options, tmp_path):
    seen = []
    tokviz.mine(tiny, data_set, out=tmp_path / "run", on_progress=seen.append, **options)
    assert [event.done for event in seen] == list(range(8))
    assert seen[0].rate is None and seen[-1].remaining == 0
    assert seen[-1].rows == 5 * (6 * 3 + 2) + 2 * 18
    assert all(event.rate > 0 and event.remaining >= 0 for event in seen[3:])


def test_media_are_copied_once_under_their_digest(tiny, data_set, options, tmp_path):
    run = tokviz.mine(tiny, data_set, out=tmp_path / "run", copy_media=True, **options)
    copied = {path.name: path.read_bytes() for path in (run.path / "media").iterdir()}
    used = [data_set.parent / name for name in ("0.png", "1.png", "2.png", "plain.png")]
    assert copied == {f"{hashlib.sha256(p.read_bytes()).hexdigest()}.png": p.read_bytes() for p in used}
    assert set(run.cases().media_sha256.dropna()) == {name.removesuffix(".png") for name in copied}


def test_a_video_is_a_case_like_any_other(tmp_path):
    pytest.importorskip("av")
    kind = CASES["llava_next_video (videos)"]
    film = tokviz.wrap(kind.model(torch.float32), kind.processor())
    (tmp_path / "clip.mp4").write_bytes(coded(grey_frames(30, 64, 48)))
    lines = [
        {
            "id": "v",
            "video": "clip.mp4",
            "question": "what is it ?",
            "evidence": [[0, 0, 20, 20]],
            "evidence_frames": [1],
        },
        {
            "id": "late",
            "video": "clip.mp4",
            "question": "what is it ?",
            "evidence": [[0, 0, 9, 9]],
            "evidence_frames": [9],
        },
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = tokviz.mine(film, tmp_path / "c.jsonl", ["divprune"], [5], out=tmp_path / "run", frames=4, max_new_tokens=2)
    compared = tokviz.compare(
        film, tmp_path / "clip.mp4", "what is it ?", ["divprune"], 5, frames=4, max_new_tokens=2,
        evidence=[(0, 0, 20, 20)], evidence_frames=[1],
    )  # fmt: skip
    row, case = run.rows().iloc[0], run.cases().iloc[0]
    assert_same(row, compared["divprune"], compared.grid.n_tokens)
    assert case.media_sha256 == compared.video.sha256 and case.video == "clip.mp4"
    assert list(case.frames) == [frame.index for frame in compared.video.frames]
    with OpenRun(run.path) as opened:  # in the lanes: the frames that the model saw, read from the file
        shown = stored_comparison(opened, 0, ["divprune"], 5, roots=[tmp_path], frames=True)
        assert (shown.video, shown.image, shown.grid) == (compared.video, compared.image, compared.grid)
        assert shown["divprune"].kept == compared["divprune"].kept
        assert shown.request.evidence_frames == [1]
        with pytest.raises(BadInput, match="--media"):
            stored_comparison(opened, 0, ["divprune"], 5, frames=True)
    assert [list(box) for box in case.evidence] == [list(box) for box in compared.request.evidence]
    assert case.evidence_tokens == len(
        evidence_tokens(compared.grid, compared.request.evidence, compared.request.evidence_frames)
    )
    assert "sampled frames" in run.cases().error[1]


# -- which cases and budgets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "limit", "quick", "expected"),
    [
        (5, None, False, [0, 1, 2, 3, 4]),
        (10, 4, False, [0, 2, 5, 7]),
        (3, 9, False, [0, 1, 2]),
        (80, None, True, list(range(0, 80, 2))),
        (80, 2, True, [0, 40]),
    ],
)
def test_a_part_of_a_data_set_is_spread_over_all_of_it(count, limit, quick, expected):
    assert list(positions(count, limit, quick)) == expected


def test_quick_takes_the_outer_budgets_and_one_seed(tiny, data_set, options, tmp_path):
    run = tokviz.mine(tiny, data_set, out=tmp_path / "run", quick=True, limit=2, **options)
    manifest = run.manifest
    assert (manifest.budgets, manifest.seeds, manifest.cases.asked) == ([16, 3], [0], 2)
    assert list(run.cases().ordinal) == [0, 3]


def test_an_image_with_fewer_tokens_than_a_budget_is_not_pruned(tiny, data_set, tmp_path):
    run = tokviz.mine(
        tiny, data_set, ["random", "downsample"], [100, "50%"], out=tmp_path / "run", limit=1, workers=1
    )  # fmt: skip
    rows = run.rows()
    assert list(rows.budget) == [100, 8, 100, 8]
    assert list(rows.n_kept[:2]) == [16, 8]
    assert rows.answer[0] == run.cases().answer[0] and rows.reference_logprob[0] == run.cases().logprob[0]


# -- the receipt ---------------------------------------------------------------------------------------------------


def test_the_receipt_tells_weights_code_and_what_was_asked(tiny, data_set, mined, options):
    manifest = mined.manifest
    assert manifest.cases.digest == hashlib.sha256(data_set.read_bytes()).hexdigest()
    assert [method.key for method in manifest.methods] == [
        "apet", "random", "fastv", "fastv (layer=3)", "pdrop", "downsample",
    ]  # fmt: skip
    codes = {method.key: method.code_sha256 for method in manifest.methods}
    assert codes["fastv"] == codes["fastv (layer=3)"] and len(set(codes.values())) == 5
    assert (manifest.seeds, manifest.budgets, manifest.max_new_tokens) == ([0, 1], [16, 8, 3], 3)
    assert manifest.versions["tokviz"] == tokviz.__version__
    assert {"torch", "transformers", "python"} <= set(manifest.versions)


@pytest.mark.parametrize(
    "program, told", [("/home/me/env/bin/tokviz", "tokviz"), ("/a/__main__.py", "python -m tokviz")]
)
def test_a_receipt_does_not_tell_where_the_program_lies(monkeypatch, program, told):
    monkeypatch.setattr("sys.argv", [program, "mine", "--cases", "a b.jsonl"])
    assert mining._own_command() == f"{told} mine --cases 'a b.jsonl'"


def test_other_weights_are_another_run(tiny, data_set, options, mined):
    weight = tiny.model.get_input_embeddings().weight
    before = weight[0, 0].item()
    with pytest.raises(BadInput, match=r"model\.weights_sha256"):
        try:
            weight.data[0, 0] = before + 1
            tokviz.mine(tiny, data_set, out=mined.path, **options)
        finally:
            weight.data[0, 0] = before
    tokviz.mine(tiny, data_set, out=mined.path, **options)


# -- the map, thumbnails, features ---------------------------------------------------------------------------------


def test_the_map_lays_every_case_out_that_has_features(mined):
    found = mined.connection().sql("select case_id, x, y from map").fetchall()
    assert [case for case, *_ in found] == ["a", "b", "c", "d", "e"]
    assert np.isfinite([place for _, *place in found]).all()
    assert mined.manifest.map.method == "pca" and mined.manifest.map.cases == 5


def test_a_line_of_cases_is_a_line_on_the_map():
    line = np.outer(np.arange(5.0), [3.0, 4.0, 0.0])
    places = laid_out(line, "pca")
    assert np.allclose(np.diff(places[:, 0]), np.diff(places[:, 0])[0])
    assert abs(np.diff(places[:, 0])[0]) == pytest.approx(5)
    assert np.allclose(places[:, 1], 0)
    assert laid_out(np.ones((4, 3)), "pca").tolist() == [[0, 0]] * 4
    assert laid_out(np.ones((1, 3)), "pca").tolist() == [[0, 0]]
    assert laid_out(np.array([[0.0], [2.0]]), "pca")[:, 1].tolist() == [0, 0]


def test_thumbnails_are_small_and_features_have_length_one(mined):
    for case in mined.cases().dropna(subset=["answer"]).itertuples():
        small = Image.open(io.BytesIO(case.thumbnail))
        assert small.format == "JPEG" and max(small.size) <= 160
        image, question = np.split(np.array(case.features, dtype=np.float64), 2)
        assert np.linalg.norm(image) == pytest.approx(1, abs=1e-2)
        assert np.linalg.norm(question) == pytest.approx(1, abs=1e-2)
    features = mined.cases().set_index("case_id").features
    assert list(features["a"][:128]) == list(features["b"][:128])  # one image, two questions
    assert list(features["a"][128:]) != list(features["b"][128:])


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": []}, "no method to mine"),
        ({"methods": ["apett"]}, "did you mean 'apet'"),
        ({"budgets": []}, "There are no budgets"),
        ({"budgets": [0]}, "A budget is a whole number"),
        ({"budgets": ["200%"]}, "A budget is a whole number"),
        ({"seeds": 0}, "The number of seeds"),
        ({"seed": -1}, "The seed"),
        ({"max_new_tokens": 0}, "The number of new tokens"),
        ({"limit": 0}, "The limit"),
        ({"workers": 0}, "The number of workers"),
        ({"engine": "spark"}, "engine must be local or ray"),
        ({"address": "auto"}, "needs engine='ray'"),
        ({"budget_as": "kept"}, "budget_as must be"),
        ({"cases": 5}, "cases is a case file"),
        ({"cases": "nothing.jsonl"}, "no case file"),
    ],
)
def test_bad_arguments_are_refused_before_a_folder_is_made(tiny, data_set, options, tmp_path, changes, told):
    given = {"cases": data_set, **options} | changes
    with pytest.raises(BadInput, match=told):
        tokviz.mine(tiny, given.pop("cases"), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_file_without_cases_is_refused(tiny, tmp_path):
    (tmp_path / "none.jsonl").write_text('{"id": "a", "image": "0.png", "question": " "}\n')
    with pytest.raises(BadInput, match="no case"):
        tokviz.mine(tiny, tmp_path / "none.jsonl", ["random"], [8], out=tmp_path / "run")


def test_a_method_of_this_process_needs_one_worker(tiny, data_set, tmp_path):
    from tokviz.pruners.controls import RANDOM

    mine = tokviz.Pruner(id="mine", label="Mine", family="control", claim="x", schedule=RANDOM.schedule)
    with pytest.raises(BadInput, match="mine exists in this process only"):
        tokviz.mine(tiny, data_set, [mine], [8], out=tmp_path / "a", workers=2)
    run = tokviz.mine(tiny, data_set, [mine], [8], out=tmp_path / "b", limit=1)
    assert list(run.rows().method) == ["mine"]


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_mines_says_what_became_of_answers_and_goes_on(tiny_folder, data_set, tmp_path, capsys):
    line = ["mine", "--cases", str(data_set), "--model", str(tiny_folder), "--methods", "apet,fastv:layer=3,random"]
    line += ["--budgets", "8,25%", "--seeds", "2", "--max-new-tokens", "3", "--workers", "1", "--limit", "3"]
    line += ["--out", str(tmp_path / "run")]
    assert cli.main(line) == 0
    told = capsys.readouterr()
    assert "3 of 3 cases" in told.err
    assert "3 of 7 cases, evenly spaced over the file; budgets 8, 4; 2 seed(s)." in told.out
    assert "1 entry of the case file could not be used" in told.out
    assert cli.main(line) == 0
    run = tokviz.open_run(tmp_path / "run")
    assert run.n_cases == 3
    assert cli.main([*line, "--seed", "4"]) == 2
    assert "seeds: 0, 1 there, 4, 5 now" in capsys.readouterr().err
