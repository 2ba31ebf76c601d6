"""What a run cost, and what papers print of the speed of methods."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ui"))
from synthetic import comparison

import tokviz
from tokviz.records import AnswerToken, Timing
from tokviz.ui.costs import costs


def timed(ms, samples=5):
    return Timing(median_ms=ms, samples=samples, single_shot=samples == 1)


def measured():
    """Unpruned: 100 + 50 + 3 × 10 ms; FasterVLM prefills slower than that; ApET ran the tower itself."""
    whole = comparison()
    said = [AnswerToken(id=i, text=word, logprob=-0.1) for i, word in enumerate(("a", " b", " c", "</s>"))]
    times = [
        {"prefill": timed(50.0), "selection": timed(0.0), "decode_per_token": timed(10.0)},
        {"prefill": timed(80.0), "selection": timed(20.0), "decode_per_token": timed(10.0)},
        {"prefill": timed(10.0), "selection": timed(1.0), "decode_per_token": timed(5.0), "vision": timed(40.0)},
        {"prefill": timed(25.0, 1)},
    ]
    runs = [
        run.model_copy(update={"timings": time, "answer_tokens": said})
        for run, time in zip(whole.runs, times, strict=True)
    ]
    return whole.model_copy(update={"runs": runs, "timings": {"vision": timed(100.0)}})


def test_the_parts_of_a_run_add_up_and_say_what_they_share():
    result = measured()
    unpruned, slow, own, bare = (result.cost(i) for i in range(4))
    assert [part.ms for part in unpruned.parts] == [100.0, None, 50.0, 30.0]
    assert [part.ms for part in slow.parts] == [100.0, 20.0, 80.0, 30.0]
    assert (unpruned.ms, slow.ms, own.ms, bare.ms) == (180.0, 230.0, 66.0, 125.0)
    assert slow["encode"].shared and not own["encode"].shared and own["decode"].steps == 3
    assert slow.speedup == pytest.approx(180 / 230) and slow.prefill_speedup == pytest.approx(50 / 80)
    assert own.speedup == pytest.approx(180 / 66) and unpruned.speedup == 1.0
    assert own.tokens_per_layer == result["apet"].tokens_per_layer
    with pytest.raises(KeyError, match="no part 'vision'"):
        own["vision"]


def test_a_run_that_failed_cost_nothing_that_was_measured():
    failed = comparison(failed=True)
    cost = failed.cost(len(failed) - 1)
    assert cost.ms is None and cost.speedup is None and cost.flops == 0.0 and cost.kv_cache_bytes is None


def test_a_slower_run_is_called_slower_on_the_page():
    shown = costs(measured())["runs"]
    assert shown[0]["all"] == ["180 ms", ""] and shown[1]["all"] == ["230 ms", "1.28× slower"]
    assert shown[1]["llm"] == ["130 ms", "1.62× slower"] and shown[2]["llm"] == ["26.0 ms", "3.08× faster"]
    assert shown[1]["parts"][3]["told"] == "3 × 10.0 ms = 30.0 ms" and shown[3]["parts"][3]["told"] == "not measured"
    assert all("0.0×" not in str(run) for run in shown)


def test_printed_speed_ups_are_those_of_the_printed_values():
    speeds = tokviz.published_speeds()
    known = {pruner.id for pruner in tokviz.methods()}
    assert len(speeds) > 30 and {speed.method for speed in speeds} <= known
    for speed in speeds:
        ratio = speed.unpruned / speed.value if speed.what != "throughput" else speed.value / speed.unpruned
        if speed.printed is None:
            assert speed.speedup == ratio
        else:
            digits = 2 if speed.what != "throughput" else 1  # as they are printed
            assert abs(round(ratio, digits) - speed.printed) < 1.01 * 10**-digits, speed
        assert speed.device and speed.model and speed.source
    slower = [speed for speed in tokviz.published_speeds("sparsevlm") if speed.what == "decode"]
    assert [round(speed.speedup, 2) for speed in slower] == [0.79]


def test_of_the_published_only_methods_of_the_comparison_are_shown_with_their_source():
    shown = costs(comparison())["published"]
    assert {line["label"] for line in shown} == {"FasterVLM", "ApET", "ToDRE"}
    (line,) = (line for line in shown if line["label"] == "ApET" and line["values"] == "86.9 → 62.8 ms")
    assert line["speed"] == "1.38× faster" and line["device"] == "one A100, POPE" and line["source"] == "ApET, Table 7"
    assert line["here"] == "1.69× faster"  # 52.3 ms here, and 31.0
