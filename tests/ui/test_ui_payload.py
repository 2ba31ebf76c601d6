"""From records to what the page draws: lanes, verdicts, numbers, geometry, damaged sessions."""

import json

import pytest
from synthetic import HOSTILE, comparison

from tokviz.errors import BadInput
from tokviz.records import Comparison, Timing
from tokviz.ui import numbers, text
from tokviz.ui.payload import Live, to_payload


@pytest.fixture(scope="module")
def whole():
    return comparison(failed=True)


def lane(payload, method):
    return next(lane for lane in payload["lanes"] if lane["method"] == method)


def with_runs(whole, count):
    return whole.model_copy(update={"runs": whole.runs[:count]})


def test_every_lane_is_complete_and_plain_json(whole):
    payload = to_payload(whole, title="t", why="w", origin="o")
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert [entry["method"] for entry in payload["lanes"]] == ["full", "fastervlm", "apet", "todre", "fastv"]
    assert len(payload["grid"]["box"]) == 4 * 576
    assert len(json.dumps(payload)) < 120_000


def test_verdicts_against_the_expected_answer(whole):
    payload = to_payload(whole)
    assert lane(payload, "full")["verdict"] == {"kind": "good", "text": "right"}
    assert lane(payload, "fastervlm")["verdict"] == {"kind": "bad", "text": "flipped by pruning"}
    assert lane(payload, "todre")["verdict"]["text"] == "right"  # "Cyan." is "cyan"
    assert lane(payload, "fastv")["verdict"] is None


def test_verdicts_without_an_expected_answer():
    payload = to_payload(comparison(expected=None))
    assert lane(payload, "full")["verdict"] is None
    assert lane(payload, "fastervlm")["verdict"]["kind"] == "different"
    assert lane(payload, "apet")["verdict"] == {"kind": "same", "text": "same as no pruning"}


def test_a_lane_beside_a_failed_unpruned_run_is_not_judged(whole):
    failed = whole.runs[0].model_copy(update={"error": "out of memory"})
    broken = whole.model_copy(
        update={
            "runs": [failed, *whole.runs[1:]],
            "request": whole.request.model_copy(update={"expected_answer": None}),
        }
    )
    assert all(entry["verdict"] is None for entry in to_payload(broken)["lanes"])


def test_numbers_say_value_ratio_and_how(whole):
    shown = {line["label"]: line for line in lane(to_payload(whole), "fastervlm")["numbers"]}
    assert (shown["visual tokens"]["value"], shown["visual tokens"]["ratio"]) == ("64", "11.1%")
    prefill = shown["prefill"]
    assert (prefill["value"], prefill["ratio"], prefill["how"], prefill["look"]) == (
        "29.2 ms", "1.8×", "median of 5", "measured",
    )  # fmt: skip
    assert shown["selection"]["how"] == "single shot"
    assert shown["prefill compute"]["look"] == "estimated"
    assert "mean per block" not in shown
    two_stages = {line["label"]: line for line in lane(to_payload(whole), "todre")["numbers"]}
    assert two_stages["mean per block"]["value"] == "140.2"


def test_evidence_counts_the_patches_that_survived(whole):
    run = whole.run("fastervlm")
    everything = run.model_copy(update={"stages": [run.stages[0].model_copy(update={"kept": list(range(576))})]})
    all_kept = whole.model_copy(update={"runs": [whole.runs[0], everything]})
    shown = {n.label: n for n in numbers.of_run(everything, all_kept)}
    kept, total = shown["evidence into LLM"].value.split(" of ")
    assert kept == total and int(total) > 0
    nothing = run.model_copy(update={"stages": [run.stages[0].model_copy(update={"kept": [0]})]})
    shown = {n.label: n for n in numbers.of_run(nothing, whole.model_copy(update={"runs": [whole.runs[0], nothing]}))}
    assert shown["evidence into LLM"].value == f"0 of {total}"


def test_basis_tokens_are_marked_for_approximation_error_only(whole):
    payload = to_payload(whole)
    assert len(lane(payload, "apet")["stages"][0]["basis"]) == 10
    assert lane(payload, "todre")["stages"][0]["basis"] == []


def test_dropped_tokens_have_no_value_on_later_maps(whole):
    late = lane(to_payload(whole), "todre")["stages"][1]
    assert late["maps"][0]["values"].count(None) == 576 - late["n_in"]
    assert late["maps"][0]["scale"] == "log"


def test_unfinished_lanes_wait_and_stream(whole):
    live = Live(running=2, answers={2: "cy"}, methods=())
    lanes = to_payload(with_runs(whole, 2), live=live)["lanes"]
    assert [entry["status"] for entry in lanes] == ["done", "done", "running", "waiting", "waiting"]
    assert lanes[2]["answer"] == "cy"
    assert [entry["status"] for entry in to_payload(with_runs(whole, 0), live=Live())["lanes"]] == ["waiting"] * 5


def test_without_live_only_finished_lanes_are_shown(whole):
    assert len(to_payload(with_runs(whole, 2))["lanes"]) == 2


def test_the_view_keeps_its_pins_only_while_the_request_stays(whole):
    assert to_payload(with_runs(whole, 1))["id"] == to_payload(whole)["id"]
    assert to_payload(comparison(question="another"))["id"] != to_payload(whole)["id"]


@pytest.mark.parametrize(
    "change",
    [{"kept": [0, 576]}, {"order": [0]}, {"assignment": [-2] * 576}, {"assignment": [0] * 575}],
)
def test_a_session_that_does_not_fit_its_grid_is_refused(whole, change):
    run = whole.run("apet")
    forged = run.model_copy(update={"stages": [run.stages[0].model_copy(update=change)]})
    with pytest.raises(BadInput, match="damaged"):
        to_payload(whole.model_copy(update={"runs": [whole.runs[0], forged]}))


def test_the_table_has_one_row_per_lane_with_plain_numbers(whole):
    rows = numbers.table(whole)
    assert all(len(row) == len(numbers.TABLE_HEADERS) == len(numbers.TABLE_WIDTHS) for row in rows)
    assert rows[1][4:7] == [64, 64.0, 29.2]
    assert "beyond this model's 8 blocks" in rows[4][-1]


def test_hostile_texts_stay_texts(whole):
    hostile = comparison(answer=HOSTILE, question=HOSTILE)
    payload = to_payload(Comparison.from_json(hostile.to_json()), title=HOSTILE)
    assert payload["title"] == payload["question"] == lane(payload, "fastervlm")["answer"] == HOSTILE


def test_templates_interpolate_nothing():
    from tokviz.ui.patch_view import asset

    for name in ("patch_view.html", "page_head.html", "patch_view.css"):
        source = asset(name)
        assert "${" not in source and "{{" not in source and "`" not in source and "\\" not in source, name
    for name in ("patch_view.js", "patch_lane.js", "patch_draw.js", "patch_geometry.js", "notice.js", "page_head.js"):
        source = asset(name)
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in source, (name, forbidden)


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.4123, "0.41 ms"), (9.999, "10.00 ms"), (52.34, "52.3 ms"), (123.4, "123 ms"), (1420, "1.42 s")]
)
def test_milliseconds(ms, shown):
    assert text.milliseconds(ms) == shown


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(7, "7 B"), (33_000, "33 KB"), (295_400, "295 KB"), (1_240_000, "1.24 MB"), (2.5e9, "2.50 GB")],
)
def test_sizes(n_bytes, shown):
    assert text.size(n_bytes) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 FLOP"), (950, "950 FLOP"), (3.1e8, "310 MFLOP"), (1.97e9, "2 GFLOP"), (3.58e12, "3.6 TFLOP")],
)
def test_flops(count, shown):
    assert text.flops(count) == shown


def test_how_a_time_was_measured():
    assert text.how_measured(Timing(median_ms=1, samples=1, single_shot=True)) == "single shot"
    assert text.how_measured(Timing(median_ms=1, samples=7, single_shot=False)) == "median of 7"
