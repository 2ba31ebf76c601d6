"""The ablations: declarations that fit the papers, and verdicts that follow from runs written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fidelity.ablation_pages import page
from benchmarks.fidelity.ablations import (
    AGREES,
    DISAGREES,
    FORMAT,
    NOT_IN_PAPER,
    ONLY_HERE,
    REFERENCE,
    UNCHANGED,
    UNDECIDED,
    UNDEFINED,
    ablation_result,
    document,
    judged,
    write,
)
from benchmarks.fidelity.papers import ABLATIONS, Ablation, Setting
from tests.fidelity.conftest import ABOUT, entry, flags, is_of_the_runner_before, measured
from tokviz.errors import BadInput
from tokviz.mining.kept import pack_indices
from tokviz.pruners import get
from tokviz.tables.published import PrintedRow, PrintedTable
from tokviz.types import Budget, PlanningInfo

APET_SAMPLING, POLYMORPHIC_K_64, TODRE_STAGES, TODRE_TAU, ADAPTVTP_FILTER = (
    next(ablation for ablation in ABLATIONS if ablation.id == name)
    for name in ("apet_sampling", "polymorphic_k_64", "todre_stages", "todre_tau", "adaptvtp_filter")
)
TINY = PlanningInfo(n_visual=576, n_layers=8, n_vision_layers=5)
ROOT = Path(__file__).resolve().parents[2]


def test_polymorphic_alone_spends_the_same_average_at_every_setting():
    for ablation in ABLATIONS:
        for setting in ablation.settings if ablation.method == "polymorphic" else ():
            pruner = get("polymorphic")
            schedule = pruner.schedule(Budget(ablation.budget), TINY, pruner.complete(setting.params))
            assert schedule.meanings(576, 8).average_in == pytest.approx(ablation.budget, abs=0.5)


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
    settings = (Setting("a", {}, printed), Setting("b", {"mode": "official"}))
    given = {"id": "x", "title": "", "varies": "", "table": table, "on": "", "reference": "a", "settings": settings}
    given |= {"claim": "", "method": "apet", "budget": 64}
    assert Ablation(**given).paper_mean(settings[0]) == 50
    short = replace(settings[0], printed=replace(printed, scores={}))
    for wrong in ({"reference": "c"}, {"settings": (short, settings[1])}, {"settings": (*settings, settings[0])}):
        with pytest.raises(ValueError, match="x: "):
            Ablation(**(given | wrong))


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
        (1, {"value": 1.0, "low": None, "high": None}, False, UNDEFINED),
        (1, None, False, UNDEFINED),
    ],
)
def test_verdicts(direction, difference, unchanged, verdict):
    assert judged(direction, difference, unchanged) == verdict


def of_name(found):
    return {setting["name"]: setting for setting in found["settings"]}


@pytest.fixture(scope="module")
def at_64(tmp_path_factory):
    """ApET is right in all that the unpruned model has right, with DPC in half of it; ToDRE withdraws with one τ."""
    half = flags(existence=10, attribute=10, relation=10, counting=5, reading=10)
    methods = [
        entry("apet"), entry("apet", sampling="dpc"), entry("fastv"), entry("todre", stage_1=False),
        entry("todre", stage_1=False, tau=0.01), entry("todre", stage_1=False, tau=1.0),
    ]  # fmt: skip
    answers = dict(zip([(each.key, 64) for each in methods], [[flags()], *[[half]] * 5], strict=True))
    late = {"kept": pack_indices(range(512, 576)), "answer": "x"}
    gone = {"kept": pack_indices([]), "n_final": 0, "n_kept": 0, "average_tokens": 300.0}
    columns = {(methods[1].key, 64): {"answer": "y"}, (methods[2].key, 64): late, (methods[5].key, 64): gone}
    return measured(tmp_path_factory.mktemp("ablations"), answers, methods, columns)


def test_a_setting_beside_its_reference_in_exact_numbers(at_64):
    found = ablation_result(APET_SAMPLING, at_64, {("ApET", 64): "cannot run"})
    results = of_name(found)
    assert (results["FPS"]["verdict"], results["FPS"]["difference"]) == (REFERENCE, None)
    assert list(results["DPC"]["accuracy"].values()) == [50, 50, 50, 25, 50]
    assert results["DPC"]["retained"]["value"] == 50 and results["DPC"]["difference"]["value"] == -50
    assert results["DPC"]["verdict"] == AGREES and results["DPC"]["kept"] == 64
    assert results["random"]["left_out"] == "cannot run"
    assert found["sentence"] == (
        "Beside FPS: DPC points the way of the paper. Highest here: FPS (100.0%); highest in the paper: FPS (94.1%)."
    )


def test_a_setting_without_effect_is_called_so_even_where_the_paper_has_one(at_64):
    results = of_name(ablation_result(TODRE_TAU, at_64, {}))
    assert results["τ = 0.01"]["verdict"] == UNCHANGED and results["τ = 0.01"]["none_kept"] == 0
    # As many right answers, but no token is left: that is no difference that could be shown, yet an effect.
    withdrawn = results["τ = 1 (not in the paper)"]
    assert (withdrawn["verdict"], withdrawn["none_kept"], withdrawn["average"]) == (UNDECIDED, 1, 300)
    assert results["τ = 0.05"]["left_out"] == "It was not mined."


def test_without_its_reference_nothing_is_compared(at_64):
    found = ablation_result(TODRE_STAGES, at_64, {})
    assert of_name(found)["stage 2 only"]["verdict"] == UNDEFINED and "is undefined." in found["sentence"]
    nothing = ablation_result(TODRE_STAGES, None, {})
    assert nothing["sentence"] == "Nothing of the paper's ablation could be compared here."


def test_the_documents_are_written_and_agree(at_64, tmp_path):
    left_out = [{"label": "ApET", "budget": 64, "why": "has <no> place | here"}]
    found = document({"at-64": at_64}, {**ABOUT, "left_out": left_out})
    paths = write(found, tmp_path / "new" / "folder", tmp_path / "docs")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "new/folder/ablations.json", "new/folder/ablations.md", "docs/ablations.md",
    ]  # fmt: skip
    text = paths[1].read_text(encoding="utf-8")
    assert paths[2].read_text(encoding="utf-8") == text == page(found)
    stored = json.loads(paths[0].read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [a["id"] for a in stored["ablations"]] == [a.id for a in ABLATIONS]
    assert stored["ablations"][0]["settings"][1]["paper"] == {"GQA": 57.1, "POPE": 84.8, "MME": 1691}
    assert "not run: has &lt;no&gt; place \\| here" in text and "a \\| machine &lt;b&gt;" in text
    assert "| DPC | 57.1 / 84.8 / 1691 | 93.9 | -0.1 | 50.0 / 50.0 / 50.0 / 25.0 / 50.0 | 50.0 [" in text
    assert "100.0% of the questions." in text
    cells = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert cells == {10, 11}, "as many in every row"
    fastv, apet, truth = stored["positions"]
    assert (fastv["name"], fastv["verdict"], truth["by"]) == ("fastv", "agrees", "truth")
    assert fastv["lean"]["value"] == pytest.approx(1) and apet["lean"]["value"] == pytest.approx(-1)


def test_the_committed_pages_are_those_of_the_committed_numbers():
    found = json.loads((ROOT / "benchmarks" / "ablations.json").read_text(encoding="utf-8"))
    if is_of_the_runner_before(found, FORMAT):
        return
    for folder in ("benchmarks", "docs"):
        assert (ROOT / folder / "ablations.md").read_text(encoding="utf-8") == page(found)
    for entry_, ablation in zip(found["ablations"], ABLATIONS, strict=True):
        assert entry_["notes"] == list(ablation.notes)
        for setting, declared in zip(entry_["settings"], ablation.settings, strict=True):
            assert (setting["name"], setting["params"]) == (declared.name, dict(declared.params))
            assert setting["paper"] == (declared.printed and ablation.table.columns(declared.printed))
