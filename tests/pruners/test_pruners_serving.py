"""Flags of serving stacks: their own arithmetic gives the number of tokens that the run left, or says why it cannot."""

import json
import re
from fractions import Fraction

import pytest

from tokviz.pruners import PRUNERS, get
from tokviz.pruners.serving_flags import Served, edge_total, openvino_total, vllm_total


def flags(method, served, **given):
    pruner = get(method)
    return {flag.stack: flag for flag in pruner.deployed(served, pruner.complete(given))}


def number(command, name):
    return float(re.search(rf"{name} ([0-9.]+)", command)[1])


IMAGE = Served((576,), (576,), 144, "llava")
FILM = Served((36,) * 4, (144,), 48, "qwen2_5_vl")


def test_methods_of_serving_stacks_and_no_others():
    named = {pruner.id for pruner in PRUNERS if pruner.deployed is not None}
    assert named == {"evs", "vidcom2", "dart", "cdpruner", "downsample"}


def test_evs_in_three_stacks():
    found = flags("evs", FILM)
    assert list(found) == ["vLLM", "SGLang", "TensorRT-LLM"]
    assert found["vLLM"].command == "vllm serve MODEL --video-pruning-rate 0.66 --video-pruning-method evs"
    setting = re.search("--json-model-override-args '(.*)'", found["SGLang"].command)[1]
    assert json.loads(setting) == {"video_pruning_rate": 0.66}
    assert number(found["TensorRT-LLM"].command, "--video_pruning_rate") == 0.66
    assert all(flag.read_in for flag in found.values())


def test_a_budget_below_the_first_frame_has_no_flag():
    (found,) = flags("evs", Served((36,) * 4, (144,), 20, "qwen2_5_vl")).values()
    assert found.command == "" and found.note == "none: it keeps at least 36 of these 144 tokens"


def test_vidcom2_says_where_the_run_differs():
    assert flags("vidcom2", FILM)["vLLM"].note == "Qwen3-VL only"
    assert "not by cosine as here" in flags("vidcom2", FILM, similarity="cosine")["vLLM"].note


def test_dart_on_the_edge():
    found = flags("dart", IMAGE, at="embeddings")["TensorRT-Edge-LLM"]
    assert (
        found.command.endswith("--visualPrune --dartReductionRatio 0.75")
        and found.note == "Qwen2.5-VL and Qwen3-VL only"
    )
    assert "at = embeddings" in flags("dart", IMAGE)["TensorRT-Edge-LLM"].note
    own = flags("dart", IMAGE, at="embeddings", visual_pivots=3, text_pivots=0, order="released")["TensorRT-Edge-LLM"]
    assert own.command.endswith("0.75 --dartPivotImageTokens 3 --dartPivotTextTokens 0")
    assert "order of insertion" in own.note
    few = flags("dart", Served((15,), (15,), 4, "qwen2_5_vl"))["TensorRT-Edge-LLM"]
    assert few.command == "" and "fewer than 16" in few.note
    uneven = flags("dart", Served((50, 50), (50, 50), 3, "qwen2_5_vl"))["TensorRT-Edge-LLM"]
    assert uneven.note == "none: no ratio leaves 3 of 100 tokens here"


def test_the_ratio_is_a_single():
    # 1 - 0.9 in single precision is 0.100000024: of twenty tokens the engine keeps three, in double precision two.
    assert edge_total((20,), 0.9) == 3 and edge_total((20,), 0.91) == 2
    found = flags("dart", Served((40,), (40,), 12, "qwen2_5_vl"))["TensorRT-Edge-LLM"]
    assert edge_total((40,), number(found.command, "--dartReductionRatio")) == 12


def test_cdpruner_in_whole_percentages():
    split = flags("cdpruner", IMAGE, kernel="openvino")["OpenVINO GenAI"]
    assert split.command == "config.pruning_ratio = 75; config.relevance_weight = 0.5"
    assert split.note == "Qwen2-VL to Qwen3-VL only"
    whole = flags("cdpruner", Served((576,), (576,), 145, "llava"))["OpenVINO GenAI"]
    assert whole.command == (
        'os.environ["CDPRUNER_SPLIT_THRESHOLD"] = "0"; config.pruning_ratio = 75; config.relevance_weight = 1'
    )
    assert "whole percentages only: this one leaves 144 of 576" in whole.note


def test_openvino_rounds_half_up_in_every_image():
    assert openvino_total((9, 9), 50) == 10 and openvino_total((10,), 75) == 3


def test_downsampling_is_a_limit_of_pixels_where_the_family_has_one():
    small = Served((576,), (576,), 64, "qwen2_5_vl", pixels=224 * 224)
    found = flags("downsample", small)
    assert found["vLLM"].command == "vllm serve MODEL --mm-processor-kwargs '{\"max_pixels\": 50176}'"
    assert json.loads(re.search("'(.*)'", found["SGLang"].command)[1]) == {"image": {"max_pixels": 50176}}
    assert flags("downsample", Served((576,), (576,), 64, "llava", pixels=112 * 112)) == {}


@pytest.mark.parametrize(("frames", "least"), [((36,) * 4, 36), ((576,), 576), ((150, 150, 150), 150)])
def test_rates_leave_just_as_many(frames, least):
    n = sum(frames)
    for keep in range(1, n):
        served = Served(frames, frames, keep, "qwen2_5_vl")
        command = flags("evs", served)["vLLM"].command
        if keep < least:
            assert command == ""
        else:
            rate = number(command, "--video-pruning-rate")
            assert vllm_total(n, rate, least) == keep and rate < 1
            # No shorter decimal does, of all that there are.
            digits = len(str(Fraction(str(rate)).denominator)) - 1
            assert digits <= 4
        command = flags("dart", served)["TensorRT-Edge-LLM"].command
        if command:
            assert edge_total(frames, number(command, "--dartReductionRatio")) == keep
        elif len(set(frames)) == 1:  # equal spans keep equally many each
            assert keep % len(frames) != 0
        percent = number(flags("cdpruner", served)["OpenVINO GenAI"].command, "pruning_ratio =")
        here = abs(openvino_total(frames, int(percent)) - keep)
        assert here == min(
            abs(openvino_total(frames, other) - keep) for other in range(1, 100) if openvino_total(frames, other)
        )
