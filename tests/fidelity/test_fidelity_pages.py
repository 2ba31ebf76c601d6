"""What is computed of mined runs for the fidelity pages, against numbers worked out by hand, and what the pages say."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import wording
from benchmarks.fidelity import pages
from benchmarks.fidelity.document import BLIND, FORMAT, document, main, read, write
from benchmarks.fidelity.measured import Measured, most_frequent
from benchmarks.fidelity.pages import written
from tests.fidelity.conftest import ABOUT, entry, flags, is_of_the_runner_before, measured
from tokviz.errors import BadInput
from tokviz.tables import ResultTable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(whole, deep):
    return document(whole, deep, ABOUT)


def row(found, key, budget=64):
    return next(each for each in found["rows"] if (each["key"], each["budget"]) == (key, budget))


def test_mean_retention_is_over_families_and_seeds(found, whole):
    assert row(found, "apet")["retention"]["value"] == pytest.approx(80)
    assert row(found, "apet")["families"] == pytest.approx(
        {"existence": 100, "attribute": 100, "relation": 50, "counting": 50, "reading": 100}
    )
    random = row(found, "random")
    assert random["retention"]["value"] == pytest.approx(85) and random["draws"] == pytest.approx([80, 90])
    assert row(found, "downsample")["retention"]["value"] == pytest.approx(20), "counting: the other half is right"
    assert row(found, "apet", 192)["retention"]["value"] == pytest.approx(100) and not row(found, "apet")["draws"]
    assert whole.key("apet", {"sampling": "dpc"}) is None and whole.key("apet", {"sampling": "fps"}) == "apet"


def test_differences_are_paired(found, whole):
    minus = row(found, "apet")["minus"]
    assert minus["random"]["value"] == pytest.approx(80 - 85) and minus["downsample"]["value"] == pytest.approx(60)
    assert "random" not in row(found, "random")["minus"]
    # All images alike but for one family: what differs in no image has no width.
    points = whole.results.points("apet", 64)
    same = whole.retained((points - points)[None])[0]
    assert same == {"value": 0, "low": 0, "high": 0}


def test_answers_that_failed_leave_the_unpruned_model_too(found):
    oracle = row(found, "oracle")
    assert oracle["retention"]["value"] == pytest.approx(100)
    assert set(oracle["families"].values()) == {100}
    table = ResultTable.model_validate(found["retention"])
    shown = next(each for each in table.rows if each.name == "Oracle" and each.group.startswith("Retain 64"))
    assert shown.cells[-1].value == pytest.approx(100), "of the same questions"


def test_evidence_that_was_merged_is_absorbed_not_gone(found):
    apet = row(found, "apet")
    assert [apet[f"evidence_{fate}"] for fate in ("kept", "absorbed", "lost")] == [0.25, 0.5, 0.25]
    assert pages.reaching(apet) == 0.75
    page = written("fidelity", found, short=False)
    line = next(line for line in page.splitlines() if line.startswith("| ApET | approximation error | 80.0 |"))
    assert line.endswith("| 25.0 | 50.0 | 25.0 | 64.0 | 64.0 | encoder, layer 4 |")


def test_the_blind_baseline_knows_the_kind_of_question(found):
    asked = [("counting", "how many a?", "2"), ("counting", "how many b?", "3"), ("reading", "x", "y")]
    assert most_frequent(asked) == {"counting": 50, "reading": 100}
    assert found["blind"]["retention"] == pytest.approx((75 + 75 + 75 + 150 + 75) / 5)
    assert found["retention"]["rows"][1]["name"] == BLIND


def test_layers_are_judged_beside_random_tokens_of_the_same_layer(found):
    first, second = found["depth"]["layers"]
    assert (first["layer"], first["random"]["value"], first["draws"]) == (
        1,
        pytest.approx(90),
        pytest.approx([80, 100]),
    )
    assert first["methods"][0]["label"] == "FastV" and first["methods"][0]["minus"]["value"] == pytest.approx(10)
    assert second["methods"][0]["minus"]["value"] == 0
    assert found["depth"]["last"] == 1
    assert "Up to layer 1 of 8 FastV is better than random" in written("fidelity", found, short=False)


def test_ranks_and_tests_follow_from_the_same_numbers(found):
    at = next(at for at in found["published"]["budgets"] if at["budget"] == 64)["together"]
    assert {each["method"]: each["our_rank"] for each in at["methods"]} == {"fastv": 1, "apet": 2}
    values = pages._values(found)
    assert [each["key"] for each in values["ranked"]] == ["fastv", "apet"]
    # ApET beats downsampling on 80 of 100 questions and loses 10; random's majority of two is its worse seed: 20 lost.
    assert values["beaten"](64)["by"]["Downsampling"] == ["FastV", "ApET"] and values["beaten"](64)["none"] == []
    assert values["falling"] == {"methods": 2, "means": {192: 100, 64: pytest.approx(85)}}


def test_everything_is_in_the_json_file_and_text_is_escaped(found, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.fidelity.document.FORMATS", ("png",))
    first = write(found, tmp_path, tmp_path / "docs")
    assert {path.name for path in first} == {"fidelity.json", "fidelity.md", "fidelity.png"}
    texts = {path: path.read_bytes() for path in first if path.suffix != ".json"}
    for path in texts:
        path.unlink()
    assert main([str(tmp_path / "fidelity.json"), "--docs", str(tmp_path / "docs")]) == 0
    assert {path: path.read_bytes() for path in texts} == texts
    page = texts[tmp_path / "fidelity.md"].decode()
    assert "a \\| machine &lt;b&gt;" in page and "EVS compares &lt;frames&gt;." in page and "<b>" not in page
    assert "the first of 200: the others are not mined yet" in page
    assert "![Mean retention over the budget](../fidelity.png)" in texts[tmp_path / "docs" / "fidelity.md"].decode()
    assert not re.search(r"\bnan\b|None", page)


def test_properties_stand_beside_the_ranks(found):
    assert "have not been measured" in written("fidelity", found, short=False)
    about = {**ABOUT, "properties": "| | property |\n| --- | --- |\n| 1 | lengths |"}
    page = written("fidelity", {**found, "about": about}, short=False)
    assert "| 1 | lengths |" in page[page.index("## Beside the papers") :]


def test_what_was_written_by_hand_is_about_its_weights_alone(found, tmp_path, monkeypatch):
    text = tmp_path / "why.md"
    text.write_text("weights: 0123456789ab\n\nBy hand.\n\n### ApET\nMerges\nall.\n")
    monkeypatch.setattr(pages, "WHY", text)
    for template in ("fidelity", "fidelity_short"):
        page = written(template, found, short=True, folder="x")
        assert "badly here\n\nBy hand.\n\n### ApET\n\nMerges all.\n" in page
    text.write_text(text.read_text().replace("0123456789ab", "another"))
    assert "By hand" not in written("fidelity", found, short=False)
    assert wording.by_hand(text, "another").startswith("By hand.")


def test_one_method_without_controls_and_layers_has_a_page(tmp_path):
    alone = document(measured(tmp_path, {("apet", 64): [flags()]}, [entry("apet")]), None, {**ABOUT, "budgets": [64]})
    page = written("fidelity", alone, short=False)
    assert alone["depth"] is None and "## From which layer" not in page and "beat random" not in page
    assert json.dumps(alone, allow_nan=False)


def test_nothing_can_be_retained_of_nothing(tmp_path):
    from tests.tables.small_run import write_run
    from tokviz.mining.mined import open_run

    cases = [{"right": False, "family": "reading"}] * 3
    write_run(tmp_path, cases, {("apet", 64): [[True] * 3]}, [entry("apet")])
    with pytest.raises(BadInput, match="nothing that pruning could retain"):
        document(Measured(open_run(tmp_path)), None, ABOUT)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("{", "no JSON"), ('{"format": 1}', "format 3")]
)
def test_another_file_is_a_sentence(tmp_path, content, words, capsys):
    path = tmp_path / "fidelity.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=words):
        read(path)
    assert main([str(path)]) == 2 and words in capsys.readouterr().err
    assert main([str(tmp_path / "x.json")]) == 2 and "is no fidelity.json" in capsys.readouterr().err


def test_the_committed_pages_are_those_of_the_committed_numbers(tmp_path):
    stored = json.loads((ROOT / "benchmarks" / "fidelity.json").read_text())
    if is_of_the_runner_before(stored, FORMAT):
        return
    assert (ROOT / "benchmarks" / "fidelity.md").read_text() == written("fidelity", stored, short=False)
    short = written("fidelity_short", stored, short=True, folder="../benchmarks")
    assert (ROOT / "docs" / "fidelity.md").read_text() == short
