"""The ablations: declarations that fit the methods, and verdicts that follow from made-up outcomes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fidelity.ablation_pages import page
from benchmarks.fidelity.ablations import (
    AGREES,
    DISAGREES,
    NO_PRUNING,
    NOT_IN_PAPER,
    ONLY_HERE,
    REFERENCE,
    UNCHANGED,
    UNDECIDED,
    UNDEFINED,
    ablation_result,
    document,
    judged,
    read,
    variants,
    write,
)
from benchmarks.fidelity.outcomes import EVIDENCE_ORACLE, FAMILIES, FULL, Outcome
from benchmarks.fidelity.papers import ABLATIONS, Ablation, PrintedRow, PrintedTable, Setting, variant
from benchmarks.fidelity.retained import measure
from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.types import Budget, PlanningInfo

APET_SAMPLING, POLYMORPHIC_K_64, TODRE_STAGES, TODRE_TAU, ADAPTVTP_FILTER = (
    next(ablation for ablation in ABLATIONS if ablation.id == name)
    for name in ("apet_sampling", "polymorphic_k_64", "todre_stages", "todre_tau", "adaptvtp_filter")
)
TINY = PlanningInfo(n_visual=576, n_layers=8, n_vision_layers=5)
ROOT = Path(__file__).resolve().parents[2]
SCENES = range(201_000_000, 201_000_004)
ABOUT = {
    "command": "python -m tokviz bench ablations",
    "machine": "a | machine <b>",
    "date": "2026-11-21",
    "versions": {"torch": "2.11.0"},
    "model": "tokviz-tiny",
    "fingerprint": "0123abcd",
    "n_visual": 576,
    "n_layers": 8,
    "first_seed": SCENES[0],
    "scenes": len(SCENES),
    "budgets": [128, 64],
    "workers": 2,
    "seconds": 12.5,
    "left_out": [],
}


def outcome(seed, number, right, **more):
    given = {"kept": 64, "average": 64.0, "correlation": 0.1, "thirds": [20, 20, 24], **more}
    return Outcome(
        seed=seed,
        number=number,
        family=FAMILIES[number % 5],
        question="?",
        expected="yes",
        answer="yes" if right else "no",
        right=right,
        kept=given["kept"],
        average=given["average"],
        evidence_recall=None,
        position_correlation=given["correlation"],
        kept_thirds=given["thirds"],
    )


def answers(right, scenes=SCENES, **more):
    """``right(number)`` says which of ten questions per scene are answered, two of every family."""
    return [outcome(seed, number, right(number), **more) for seed in scenes for number in range(10)]


def everything(n):
    return True


def first_half(n):
    """One of the two questions of every family."""
    return n < 5


# ------------------------------------------------------------------------------------------------- declarations


def test_the_unpruned_model_comes_first_and_nothing_twice():
    found = variants()
    assert found[0] == NO_PRUNING
    assert len(found) == len(set(found))
    assert 30 <= len(found) <= 40
    by_key = {(v.method, v.budget, json.dumps(dict(v.params), sort_keys=True)) for v in found}
    assert len(by_key) == len(found)


@pytest.mark.parametrize("found", variants(), ids=lambda v: f"{v.label} {v.budget}")
def test_every_variant_is_one_that_its_method_can_plan(found):
    assert found.method != EVIDENCE_ORACLE
    pruner = get(found.method)
    defaults = pruner.complete({})
    complete = pruner.complete(found.params)
    assert all(complete[name] != defaults[name] for name in found.params), "equal variants must look equal"
    schedule = pruner.schedule(Budget(found.budget or 576), TINY, complete)
    counts = schedule.counts_per_layer(576, 8)
    if found.method == "full" or (found.params.get("stage_1") is False and found.method == "todre"):
        assert counts == [576] * 8  # until withdrawal, which is decided at run time
    else:
        assert schedule.final_count(576) <= found.budget


def test_polymorphic_alone_spends_the_same_average_at_every_setting():
    for ablation in ABLATIONS:
        for setting in ablation.settings:
            if setting.variant.method == "polymorphic":
                pruner, budget = get("polymorphic"), setting.variant.budget
                schedule = pruner.schedule(Budget(budget), TINY, pruner.complete(setting.variant.params))
                assert schedule.meanings(576, 8).average_in == pytest.approx(budget, abs=0.5)


def test_polymorphic_without_stage_1_cannot_do_64_as_the_note_says():
    pruner = get("polymorphic")
    with pytest.raises(BadInput, match="average of 64: 576 enter"):
        pruner.schedule(Budget(64), TINY, pruner.complete({"stage_1": False}))


@pytest.mark.parametrize("ablation", [a for a in ABLATIONS if a.table.column], ids=lambda a: a.id)
def test_printed_means_are_those_of_the_printed_columns(ablation):
    # A slip in copying a number would break this: the papers' means are of the columns beside them.
    for setting in ablation.settings:
        if setting.printed:
            ratios = list(ablation.table.ratios(setting.printed).values())
            within = 0.051 if ablation.table.paper == "ToDRE" else 0.011
            assert sum(ratios) / len(ratios) == pytest.approx(setting.printed.mean, abs=within)


def test_means_that_no_paper_prints_are_computed():
    fps, dpc = APET_SAMPLING.settings[:2]
    assert APET_SAMPLING.paper_mean(fps) == pytest.approx(100 * (56.9 / 61.9 + 84.4 / 85.9 + 1714 / 1862) / 3)
    assert APET_SAMPLING.paper_difference(dpc) == pytest.approx(-0.1489, abs=1e-4)
    assert APET_SAMPLING.paper_direction(dpc) == -1


def test_directions_of_the_papers():
    directions = {setting.name: TODRE_TAU.paper_direction(setting) for setting in TODRE_TAU.settings}
    assert directions["τ = 0.01"] == 0  # 98.9 and 98.9
    assert directions["τ = 0.10"] == -1
    assert directions["τ = 1 (not in the paper)"] is None
    assert [POLYMORPHIC_K_64.paper_direction(s) for s in POLYMORPHIC_K_64.settings] == [-1, 0, 1, -1]
    without = ADAPTVTP_FILTER.settings[1]
    assert (ADAPTVTP_FILTER.paper_mean(without), ADAPTVTP_FILTER.paper_direction(without)) == (None, -1)


def test_a_declaration_that_contradicts_itself_is_refused():
    full, printed = PrintedRow("full", "576", {"c": 2.0}, None), PrintedRow("a", "64", {"c": 1.0}, None)
    table = PrintedTable("Paper", "", "Table 1", None, "", full, (printed,))
    settings = (Setting("a", variant("apet", 64), printed), Setting("b", variant("random", 64)))
    given = {"id": "x", "title": "", "varies": "", "table": table, "on": "", "reference": "a", "settings": settings}
    given["claim"] = ""
    assert Ablation(**given).paper_mean(settings[0]) == 50
    short = replace(settings[0], printed=replace(printed, scores={}))
    for wrong in ({"reference": "c"}, {"settings": (short, settings[1])}, {"settings": (*settings, settings[0])}):
        with pytest.raises(ValueError, match="x: "):
            Ablation(**(given | wrong))


# ------------------------------------------------------------------------------------------------- verdicts


def span(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("direction", "difference", "unchanged", "verdict"),
    [
        (1, span(0.1, 2.0), False, AGREES),
        (-1, span(-2.0, -0.1), False, AGREES),
        (1, span(-2.0, -0.1), False, DISAGREES),
        (-1, span(0.1, 2.0), False, DISAGREES),
        (-1, span(-2.0, 0.0), False, UNDECIDED),
        (0, span(-1.0, 1.0), False, UNDECIDED),
        (0, span(0.1, 2.0), False, ONLY_HERE),
        (None, span(0.1, 2.0), False, NOT_IN_PAPER),
        (None, span(-0.1, 2.0), False, UNDECIDED),
        (1, span(0.0, 0.0), True, UNCHANGED),
        (1, span(math.nan, math.nan), False, UNDEFINED),
        (1, None, False, UNDEFINED),
    ],
)
def test_verdicts(direction, difference, unchanged, verdict):
    assert judged(direction, difference, unchanged) == verdict


def of_name(found):
    return {setting["name"]: setting for setting in found["settings"]}


def test_a_setting_beside_its_reference_in_exact_numbers():
    # The unpruned model and the reference answer all; DPC answers half of every family: retention 50, in every scene.
    fps, dpc, random = (setting.variant for setting in APET_SAMPLING.settings)
    paired = {NO_PRUNING: answers(everything), fps: answers(everything), dpc: answers(first_half)}
    found = ablation_result(APET_SAMPLING, measure(paired), {(random.label, None): "cannot run"})
    results = of_name(found)
    assert results["FPS"]["verdict"] == REFERENCE
    assert results["FPS"]["difference"] is None
    assert list(results["DPC"]["accuracy"].values()) == [50.0] * 5
    assert results["DPC"]["retained"] == {"value": 50.0, "low": 50.0, "high": 50.0}
    assert results["DPC"]["difference"] == {"value": -50.0, "low": -50.0, "high": -50.0}
    assert results["DPC"]["verdict"] == AGREES
    assert results["random"]["left_out"] == "cannot run"
    assert found["sentence"] == (
        "Beside FPS: DPC points the way of the paper. Highest here: FPS (100.0%); highest in the paper: FPS (94.1%)."
    )


def test_differences_are_paired_by_scene():
    # Retention swings with the scene, yet DPC loses the same question everywhere: the difference has no spread.
    fps, dpc, _ = (setting.variant for setting in APET_SAMPLING.settings)
    hard, easy = SCENES[:2], SCENES[2:]
    some = answers(lambda n: n < 5, hard) + answers(everything, easy)
    fewer = answers(lambda n: 0 < n < 5, hard) + answers(lambda n: n > 0, easy)
    paired = {NO_PRUNING: answers(everything), fps: some, dpc: fewer}
    result = of_name(ablation_result(APET_SAMPLING, measure(paired), {}))["DPC"]
    assert result["retained"]["high"] - result["retained"]["low"] > 10
    assert result["difference"] == pytest.approx({"value": -10.0, "low": -10.0, "high": -10.0})


def test_a_setting_without_effect_is_called_so_even_where_the_paper_has_one():
    reference, others = TODRE_TAU.settings[1], [TODRE_TAU.settings[i] for i in (0, 3, 6)]
    paired = {NO_PRUNING: answers(everything), reference.variant: answers(first_half)}
    paired |= {setting.variant: answers(first_half) for setting in others[:2]}
    paired[others[2].variant] = answers(lambda n: n < 3, kept=0, correlation=None, thirds=[0, 0, 0])
    found = ablation_result(TODRE_TAU, measure(paired), {})
    results = of_name(found)
    assert [results[setting.name]["verdict"] for setting in others] == [UNCHANGED, UNCHANGED, NOT_IN_PAPER]
    assert results["τ = 1 (not in the paper)"]["none_kept"] == 1.0
    assert results["τ = 0.05"]["left_out"] == "There are no outcomes of it."
    assert found["sentence"] == (
        "Beside τ = 0.03: τ = 0.01, τ = 0.10 have no effect at all, the same outcome in every question. "
        "Highest here: τ = 0.01, τ = 0.03, τ = 0.10 (50.0%); highest in the paper: τ = 0.01, τ = 0.03 (98.9%)."
    )


def test_without_its_reference_nothing_is_compared():
    only = TODRE_STAGES.settings[0]
    paired = {NO_PRUNING: answers(everything), only.variant: answers(first_half)}
    found = ablation_result(TODRE_STAGES, measure(paired), {})
    assert of_name(found)["stage 1 only"]["verdict"] == UNDEFINED
    assert found["sentence"] == "Beside both: stage 1 only is undefined."
    nothing = ablation_result(TODRE_STAGES, measure({NO_PRUNING: paired[NO_PRUNING]}), {})
    assert nothing["sentence"] == "Nothing of the paper's ablation could be compared here."


def test_families_that_the_unpruned_model_cannot_answer_are_left_out_of_the_mean():
    knows = {NO_PRUNING: answers(lambda n: n % 5 != 4), variant("apet", 64): answers(lambda n: n in (0, 1, 2, 3))}
    measured = measure(knows)
    assert measured.answerable.tolist() == [True, True, True, True, False]
    assert measured.mean.tolist() == [100.0, 50.0]


# ------------------------------------------------------------------------------------------------- the document


def all_outcomes():
    full = answers(everything, kept=576, average=576.0, correlation=None, thirds=[192, 192, 192])
    return {v: full if v.method == FULL else answers(first_half) for v in variants()}


def test_the_documents_are_written_and_agree(tmp_path):
    outcomes = all_outcomes()
    missing = APET_SAMPLING.settings[2].variant
    del outcomes[missing]
    why = "has <no> place | here"
    about = {**ABOUT, "left_out": [{"label": missing.label, "budget": 64, "why": why}]}
    paths = write(outcomes, about, tmp_path / "new" / "folder", tmp_path / "docs")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "new/folder/ablations.json", "new/folder/ablations.md", "docs/ablations.md",
    ]  # fmt: skip
    text = paths[1].read_text(encoding="utf-8")
    assert paths[2].read_text(encoding="utf-8") == text
    stored = json.loads(paths[0].read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [a["id"] for a in stored["ablations"]] == [a.id for a in ABLATIONS]
    assert (stored["questions"], stored["scenes"], stored["families"]) == (40, 4, list(FAMILIES))
    assert stored["ablations"][0]["settings"][1]["paper"] == {"GQA": 57.1, "POPE": 84.8, "MME": 1691}
    assert stored["ablations"][0]["settings"][2]["left_out"] == why
    assert "not run: has &lt;no&gt; place \\| here" in text
    assert "a \\| machine &lt;b&gt;" in text
    for found in stored["ablations"]:
        assert found["title"] in text
        assert all(setting["name"] in text for setting in found["settings"])
    assert "| DPC | 57.1 / 84.8 / 1691 | 93.9 | -0.1 | 50.0 / 50.0 / 50.0 / 50.0 / 50.0 | 50.0 [50.0, 50.0] |" in text
    compared = sum(verdict["paper_direction"] is not None and verdict["name"] != a["reference"] and "verdict" in verdict
                   for a in stored["ablations"] for verdict in a["settings"])  # fmt: skip
    assert f"Of {compared} comparisons that the papers have: agree 0, disagree 0, differ only here 0" in text
    assert f"had no effect here {compared}." in text  # every variant was given the same outcomes
    assert "| K = 2.5 | 56.54 / 41.69 / 1755.58 / 82.75 / 93.12 | 93.1 | +0.2 |" in text
    fastv, *_, truth = stored["positions"]
    assert (fastv["name"], fastv["verdict"], fastv["difference"]) == (
        "fastv", "no difference that these scenes could show", {"value": 0.0, "low": 0.0, "high": 0.0},
    )  # fmt: skip
    assert fastv["bottom"]["value"] == 37.5  # 24 of 64
    assert (truth["by"], truth["undefined"]) == ("truth", 0)
    assert "no difference that these scenes could show: fastv, sparsevlm, pdrop" in text


def test_the_committed_pages_are_those_of_the_committed_numbers():
    found = read(ROOT / "benchmarks" / "ablations.json")
    for folder in ("benchmarks", "docs"):
        assert (ROOT / folder / "ablations.md").read_text(encoding="utf-8") == page(found)


def test_the_committed_numbers_stand_beside_what_the_papers_print():
    stored = read(ROOT / "benchmarks" / "ablations.json")["ablations"]
    for found, ablation in zip(stored, ABLATIONS, strict=True):
        assert (found["notes"], found["may_withdraw"]) == (list(ablation.notes), ablation.may_withdraw)
        for entry, setting in zip(found["settings"], ablation.settings, strict=True):
            assert entry["name"] == setting.name and entry["params"] == dict(setting.variant.params)
            assert entry["paper"] == (setting.printed and ablation.table.columns(setting.printed))


def test_tables_have_as_many_cells_in_every_row(tmp_path):
    write(all_outcomes(), ABOUT, tmp_path)
    lines = (tmp_path / "ablations.md").read_text(encoding="utf-8").splitlines()
    tables = [line.replace("\\|", "").count("|") for line in lines if line.startswith("|")]
    assert set(tables) == {10, 11}


def test_only_shared_questions_count(tmp_path):
    outcomes = all_outcomes()
    short = APET_SAMPLING.settings[0].variant
    outcomes[short] = outcomes[short][:7]
    found = document(outcomes, ABOUT)
    assert (found["questions"], found["scenes"]) == (7, 1)


def test_what_cannot_be_compared_is_refused():
    outcomes = all_outcomes()
    with pytest.raises(BadInput, match="unpruned model"):
        document({v: each for v, each in outcomes.items() if v != NO_PRUNING}, ABOUT)
    with pytest.raises(BadInput, match="no question in common"):
        document(outcomes | {NO_PRUNING: answers(everything, range(5, 9))}, ABOUT)
    uncounted = [replace(each, kept_thirds=None) for each in outcomes[variant("fastv", 64)]]
    with pytest.raises(BadInput, match="in which part of the picture"):
        document(outcomes | {variant("fastv", 64): uncounted}, ABOUT)


@pytest.mark.generator
def test_a_report_is_the_same_twice():
    rng = np.random.default_rng(3)
    outcomes = {v: answers(lambda n: bool(rng.random() < 0.6)) for v in variants()}
    assert json.dumps(document(outcomes, ABOUT)) == json.dumps(document(outcomes, ABOUT))
