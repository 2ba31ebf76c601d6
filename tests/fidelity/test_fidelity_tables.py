"""From outcomes to files: numbers that reach the pages, marks, escapes, and pages rebuilt from the JSON alone."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_outcomes import BUDGETS, SKILLS, about, outcomes, variants

from benchmarks.fidelity import tables
from benchmarks.fidelity.chart import chart_bytes
from benchmarks.fidelity.outcomes import EVIDENCE_ORACLE, FAMILIES, FULL, Variant
from benchmarks.fidelity.pages import TEMPLATES, rows_at, written
from benchmarks.fidelity.plan import describe, where
from benchmarks.fidelity.statistics import mcnemar
from benchmarks.fidelity.summary import most_frequent, summarise
from tokviz.errors import BadInput
from tokviz.names import VisionLayer
from tokviz.types import PlanningInfo
from training.language import COUNTS

ROOT = Path(__file__).resolve().parents[2]


def conclusions(document):
    return written("conclusions", document).strip().split("\n\n")


def accuracy_tables(document):
    return written("accuracy", document, short=False).strip().split("\n\n")


def full_page(document):
    return written("fidelity", document, short=False)


@pytest.fixture(scope="module")
def made():
    return outcomes()


@pytest.fixture(scope="module")
def document(made):
    return summarise(made, about(), resamples=400)


@pytest.fixture(scope="module")
def files(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fidelity")
    return folder, tables.write(made, about(), folder / "benchmarks", folder / "docs")


def row(document, method, budget):
    return next(row for row in rows_at(document, budget) if row["method"] == method)


def test_numbers_are_those_of_the_outcomes(document, made):
    apet, full, random = (
        next(own for variant, own in made.items() if (variant.method, variant.budget) == pair)
        for pair in (("apet", 64), (FULL, None), ("random", 64))
    )
    found = row(document, "apet", 64)
    ratios = []
    for family in FAMILIES:
        right = [sum(o.right for o in own if o.family == family) for own in (apet, full)]
        assert found["accuracy"][family]["value"] == pytest.approx(right[0] / 120)
        ratios.append(right[0] / right[1])
    assert found["mean_retention"]["value"] == pytest.approx(100 * sum(ratios) / 5)
    assert found["mean_retention"]["low"] < found["mean_retention"]["value"] < found["mean_retention"]["high"]
    lost = sum(f.right and not a.right for a, f in zip(apet, full, strict=True))
    gained = sum(a.right and not f.right for a, f in zip(apet, full, strict=True))
    assert found["flips"] == {"lost": lost, "gained": gained}
    only_ours = sum(a.right and not r.right for a, r in zip(apet, random, strict=True))
    only_theirs = sum(r.right and not a.right for a, r in zip(apet, random, strict=True))
    test = found["against"]["random"]
    assert (test["only_ours"], test["only_theirs"], test["p"]) == (
        only_ours,
        only_theirs,
        mcnemar(only_ours, only_theirs),
    )
    assert test["p"] <= test["p_holm"] <= 1
    recalls = [o.evidence_recall for o in apet if o.evidence_recall is not None]
    assert found["evidence_recall"] == {"mean": pytest.approx(sum(recalls) / len(recalls)), "questions": len(recalls)}
    assert (found["kept"], found["average"], found["type"], found["where"]) == (
        64,
        64,
        "approximation-error",
        "projector",
    )


def test_the_unpruned_model_retains_everything_and_controls_are_not_corrected(document):
    full = row(document, FULL, None)
    assert full["mean_retention"] == {"value": 100, "low": 100, "high": 100} and full["against"] == {}
    assert document["rows"][0] is full and [r["budget"] for r in document["rows"][1:]] == sorted(
        (r["budget"] for r in document["rows"][1:]), reverse=True
    )
    assert row(document, "random", 64)["against"]["random"] is None
    assert row(document, "uniform", 64)["against"]["random"]["p_holm"] is None
    assert row(document, EVIDENCE_ORACLE, 64)["against"]["random"]["p_holm"] is None


def test_the_benchmark_with_known_skills_is_judged_as_it_was_made(document):
    separation = document["separation"]
    assert separation["budget"] == 64 and separation["spread"]["holds"] and separation["oracle"]["holds"]
    assert separation["spread"]["best"] == "Apet" and separation["spread"]["worst"] in ("Tome", "Fastv")
    assert {"Tome", "Fastv"} == set(separation["spread"]["below_random"])
    together = document["published"]["budgets"][-1]["together"]
    assert together["n"] == 9 and together["rho"] > 0.6
    first, second, third = conclusions(document)
    assert "Apet" in first and "beyond their intervals holds" in first
    assert "within error holds" in second or "within error does not hold" in second
    assert "claims nothing" in third


@pytest.mark.generator
def test_conclusions_turn_with_the_numbers():
    turned = {**SKILLS, "apet": (0.6, 0.5, 0.2, 0.6), EVIDENCE_ORACLE: (0.7, 0.6, 0.5, 0.4)}
    document = summarise(outcomes(skills=turned), about(), resamples=200)
    first, second, _ = conclusions(document)
    assert "Fastervlm) of the unpruned accuracy" in first and "(Apet) to" in first
    assert "within error does not hold" in second and "at every budget does not hold" in second
    assert document["separation"]["fall"]["violations"][0]["label"] == "Apet"


def test_the_mean_over_the_budgets_is_of_the_same_methods(document):
    """SparseVLM and PDrop have no row at 32: that they leave must not look like a rise or a fall."""
    second = conclusions(document)[1]
    own = [row["mean_retention"]["value"] for row in rows_at(document, 192) if not row["control"]]
    same = [
        row["mean_retention"]["value"]
        for row in rows_at(document, 192)
        if not row["control"] and row["method"] not in ("sparsevlm", "pdrop")
    ]
    mean = f"{sum(same) / len(same):.1f}% at 192"
    assert len(own) == len(same) + 2 and mean != f"{sum(own) / len(own):.1f}% at 192"
    assert f"over the {len(same)} methods that ran at every budget goes {mean}" in second


@pytest.mark.generator
def test_what_does_not_keep_to_the_budget_is_set_apart(made):
    """A dear method counts in the spread, but what the others span is said beside it; one without tokens at the end
    says nothing about the evidence."""
    changed = {
        variant: [replace(o, average=300.0, kept=0) for o in own] if variant.method == "apet" else own
        for variant, own in made.items()
    }
    first, second, _ = conclusions(summarise(changed, about(), resamples=200))
    assert "per layer on average: Apet (300.0). The other 9 keep from" in first
    assert "(n = 9; without Apet, which end with no token)" in second


def test_what_is_said_of_the_training_is_what_it_does():
    assert f"down to {min(COUNTS)} of {max(COUNTS)} and by lot" in (TEMPLATES / "reasons.md.j2").read_text()


@pytest.mark.generator
def test_the_pages_hold_every_method_and_the_demands(files):
    folder, paths = files
    assert [path.relative_to(folder).as_posix() for path in paths] == [
        "benchmarks/fidelity.json", "benchmarks/fidelity.md", "benchmarks/fidelity.png", "benchmarks/fidelity.svg",
        "docs/fidelity.md",
    ]  # fmt: skip
    page, short = paths[1].read_text(), paths[4].read_text()
    for text in (page, short):
        assert all(variant.label in text for variant in variants())
        assert all(f"**{budget} of 576 tokens" in text for budget in BUDGETS)
        assert "claims nothing about models of 7 billion parameters" in text
        assert not re.search(r"\bnan\b|None", text)
    assert "(../benchmarks/fidelity.png)" in short and "(fidelity.png)" in page
    for heading in ("Answers that flip", "Does the benchmark separate?", "Beside the papers", "Left out"):
        assert f"## {heading}" in page
    assert len(short) < len(page) / 2


@pytest.mark.generator
def test_tables_are_rectangular(files):
    for path in files[1]:
        if path.suffix == ".md":
            for layer in path.read_text().split("\n\n"):
                if layer.startswith("|"):
                    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in layer.splitlines()}) == 1, layer


@pytest.mark.generator
def test_text_from_outside_cannot_build_columns_or_html(files):
    page = files[1][1].read_text()
    assert r"Sparse\|VLM &lt;b&gt; at 32: cannot reach 32" in page and "<b>" not in page


@pytest.mark.generator
def test_pages_can_be_rebuilt_from_the_json_file_alone(files, tmp_path):
    folder, paths = files
    copy = tmp_path / "benchmarks" / "fidelity.json"
    copy.parent.mkdir()
    copy.write_bytes(paths[0].read_bytes())
    command = [sys.executable, "-m", "benchmarks.fidelity.tables", str(copy), "--docs", str(tmp_path / "docs")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    for path in paths:
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


def test_the_committed_pages_are_those_of_the_committed_numbers():
    document = tables.read(ROOT / "benchmarks" / "fidelity.json")
    assert (ROOT / "benchmarks" / "fidelity.md").read_text() == full_page(document)
    short = written("fidelity_short", document, short=True, folder="../benchmarks")
    assert (ROOT / "docs" / "fidelity.md").read_text() == short


@pytest.mark.generator
def test_the_same_outcomes_give_the_same_document(document, made):
    again = summarise(dict(made), about(), resamples=400)
    assert json.dumps(again) == json.dumps(document)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}'])
def test_a_damaged_file_is_refused_with_a_sentence(tmp_path, content, capsys):
    path = tmp_path / "fidelity.json"
    path.write_text(content)
    assert tables.main([str(path)]) == 2
    assert "fidelity.json" in capsys.readouterr().err
    assert tables.main([str(tmp_path / "missing.json")]) == 2


def test_best_and_second_best_are_marked_and_controls_are_not(document):
    at_64 = accuracy_tables(document)[7]
    average = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[8] for line in at_64.splitlines()[2:]}
    assert average["Apet"].startswith("**") and average["Fastervlm"].startswith("<u>")
    assert not average["Evidence Oracle"].startswith("*")
    assert sum(text.startswith("**") for text in average.values()) == 1


@pytest.mark.generator
def test_blind_baselines_stand_below_the_unpruned_model(made):
    blind = {"Grey picture": {"existence": 0.5, "reading": 0.031}}
    document = summarise(made, about(blind=blind), resamples=50)
    most_frequent, grey = accuracy_tables(document)[1].splitlines()[-2:]
    assert grey.startswith("| Grey picture | no picture | 50.0 | – | – | – | 3.1 | – | – |")
    # Half of the made-up questions of each family expect the first answer, half the second.
    assert most_frequent.startswith("| Most frequent answer | no picture | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | – |")
    full = row(document, FULL, None)["accuracy"]
    kept = [50 / full[family]["value"] for family in FAMILIES]
    assert document["blind"]["Most frequent answer"]["mean_retention"] == pytest.approx(sum(kept) / 5)
    assert document["blind"]["Grey picture"]["mean_retention"] is None


def test_the_most_frequent_answer_is_known_per_kind_of_question(made):
    base = next(iter(made.values()))[0]
    asked = [("what color is the star?", "red")] * 3 + [("what color is it?", "blue")] + [("what size is it?", "big")]
    questions = [replace(base, family="attribute", question=q, expected=e) for q, e in asked]
    assert most_frequent(questions) == {"attribute": 4 / 5}


@pytest.mark.generator
def test_only_shared_questions_count(made):
    shorter = {variant: own[:-7] if variant.method == "tome" else own for variant, own in made.items()}
    document = summarise(shorter, about(), resamples=50)
    assert (document["questions"]["shared"], document["questions"]["not_shared"]) == (593, 7)
    assert "7 questions that not every variant has" in full_page(document)


@pytest.mark.generator
def test_a_family_that_the_unpruned_model_cannot_answer_is_left_out_and_named(made):
    def without_reading(own):
        return [replace(o, right=False, answer="?") if o.family == "reading" else o for o in own]

    made = {v: without_reading(own) if v.method == FULL else own for v, own in made.items() if v.method != "tome"}
    document = summarise(made, about(), resamples=50)
    apet = row(document, "apet", 64)
    assert document["families_left_out"] == ["reading"] and apet["retention"]["reading"]["value"] is None
    others = [apet["retention"][family]["value"] for family in FAMILIES[:4]]
    assert apet["mean_retention"]["value"] == pytest.approx(sum(others) / 4)
    page = full_page(document)
    assert "answers no question right of: reading" in page and not re.search(r"\bnan\b|None", page)


@pytest.mark.generator
def test_a_family_in_which_the_unpruned_model_only_guesses_is_named(made):
    def guessing(own):
        return [replace(o, right=i % 2 == 0) if o.family == "counting" else o for i, o in enumerate(own)]

    document = summarise(
        {v: guessing(own) if v.method == FULL else own for v, own in made.items()}, about(), resamples=50
    )
    assert document["families_at_chance"] == ["counting"]
    assert "most frequent answer beyond error in: counting" in full_page(document)


@pytest.mark.generator
def test_what_cannot_be_compared_is_refused(made):
    without_full = {variant: own for variant, own in made.items() if variant.method != FULL}
    with pytest.raises(BadInput, match="unpruned"):
        summarise(without_full, about())
    only_full = {variant: own for variant, own in made.items() if variant.method == FULL}
    with pytest.raises(BadInput, match="only the unpruned"):
        summarise(only_full, about())
    apart = {v: [replace(o, seed=1) for o in own] if v.method == "tome" else own for v, own in made.items()}
    with pytest.raises(BadInput, match="no question in common"):
        summarise(apart, about())
    other = {v: [replace(o, expected="x") for o in own] if v.method == "tome" else own for v, own in made.items()}
    with pytest.raises(BadInput, match="not the same for all"):
        summarise(other, about())
    nothing = {v: [replace(o, right=False) for o in own] for v, own in made.items()}
    with pytest.raises(BadInput, match="no question right"):
        summarise(nothing, about())


@pytest.mark.generator
def test_a_small_run_with_few_methods_writes_too(made, tmp_path):
    few = {v: own[:10] for v, own in made.items() if v.method in (FULL, "random", "apet") and v.budget in (None, 32)}
    bare = {name: value for name, value in about().items() if name not in ("methods", "left_out")}
    paths = tables.write(few, bare, tmp_path)
    page = paths[1].read_text()
    assert "nothing can be ranked" in page and "not judged" in page and "Nothing: every variant ran." in page


@pytest.mark.generator
def test_variants_of_one_method_keep_their_own_rows(made):
    own = next(own for variant, own in made.items() if (variant.method, variant.budget) == ("apet", 64))
    document = summarise({**made, Variant("apet", {"m": 6}, "ApET, M = 6", 64): own}, about(), resamples=50)
    assert row(document, "apet", 64)["params"] == {} and document["published"]["budgets"][-1]["together"]["n"] == 9
    assert any(r["label"] == "ApET, M = 6" and r["params"] == {"m": 6} for r in document["rows"])


@pytest.mark.generator
def test_charts_are_images_and_repeatable(made):
    few = {v: own for v, own in made.items() if v.method in (FULL, "random", "apet", "fastv")}
    document = summarise(few, about(), resamples=50)
    png, svg = chart_bytes(document, "png"), chart_bytes(document, "svg")
    assert png.startswith(b"\x89PNG") and svg.lstrip().startswith(b"<?xml")
    assert chart_bytes(document, "svg") == svg
    with pytest.raises(BadInput, match="pdf"):
        chart_bytes(document, "pdf")


def test_sites_in_words():
    assert where(["projector"]) == "projector" and where([]) == ""
    assert where(["encoder", 4]) == "encoder, layer 4" and where([2, 4, 6]) == "layers 2/4/6"
    assert where([VisionLayer(i) for i in range(5)]) == "vision layers 0-4"


def test_methods_describe_themselves_at_every_budget_that_they_can_meet():
    asked = [Variant("apet", {}, "ApET", 64), Variant("pdrop", {}, "PDrop", 64), Variant("pdrop", {}, "PDrop", 32)]
    asked += [Variant(FULL, {}, "No pruning", None), Variant(EVIDENCE_ORACLE, {}, "oracle", 64)]
    described = describe(asked, PlanningInfo(576, 8, n_vision_layers=5))
    assert described["apet"] == {"family": "approximation-error", "where": {"64": "encoder, layer 4"}}
    assert set(described["pdrop"]["where"]) == {"64"} and described[FULL]["family"] == "control"
    assert described[EVIDENCE_ORACLE] == {"family": "control", "where": {}}
