"""The papers' numbers as transcribed, and the comparison of rankings on made-up results."""

import math

import pytest

from benchmarks.fidelity import published
from benchmarks.fidelity.measured import FAMILIES
from benchmarks.fidelity.papers import read_ablation
from benchmarks.fidelity.published import RANKINGS, SETTINGS, Ours, ranks, spearman
from tokviz.tables.published import published_budget, read_table

ENTRY = {"paper": "Paper", "title": "Title", "table": "Table 1", "mean": "Avg.", "remark": ""}
GOOD = """row,tokens,GQA,POPE,Avg.
full,576,60.0,80,100
apet,64,30.0,80,75.0
fastv,64,,40,50.0
"""


def test_printed_averages_are_the_means_of_the_printed_scores():
    """A digit read wrongly would show here."""
    for table in RANKINGS:
        for row in table.rows:
            ratios = list(table.ratios(row).values())
            assert row.mean is None or sum(ratios) / len(ratios) == pytest.approx(row.mean, abs=0.06), row


def test_a_table_is_read_as_printed(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(GOOD)
    table = read_table(path, ENTRY)
    apet, fastv = table.rows
    assert (apet.tokens, table.columns(apet)) == ("64", {"GQA": 30.0, "POPE": 80, "Avg.": 75.0})
    assert fastv.scores == {"POPE": 40} and table.average(fastv) == 50 and table.unpruned.mean == 100
    path.write_text("\n".join(line.rpartition(",")[0] for line in GOOD.splitlines()))
    assert read_table(path, {**ENTRY, "mean": ""}).average(apet) == 75


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("75.0", "57.0"),  # digits that changed places
        ("75.0", ""),
        ("30.0,80", "30.0"),
        ("30.0,80", "30.0,80,1"),
        ("30.0", "x"),
        ("30.0", "-30.0"),
        ("fastv", "apet"),
        ("full", "FULL"),
        ("full,576,60.0", "full,576,"),
        ("GQA", "POPE"),
        ("row,tokens", "tokens,row"),
        ("Avg.", "Mean"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, old, new):
    path = tmp_path / "table.csv"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError):
        read_table(path, ENTRY)


def test_a_printed_row_that_no_setting_names_is_an_error(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(GOOD.replace(",,40,50.0", ",30.0,40,50.0"))
    tables = {"t": read_table(path, ENTRY)}
    given = {"id": "x", "title": "", "varies": "", "table": "t", "on": "", "claim": "", "method": "apet", "budget": 64}
    given |= {"reference": "apet", "settings": {"apet": {}, "fastv": {"mode": "x"}}}
    assert [setting.printed.mean for setting in read_ablation(given, tables).settings] == [75.0, 50.0]
    with pytest.raises(ValueError, match="no setting is named 'fastv'"):
        read_ablation({**given, "settings": {"apet": {}}}, tables)
    with pytest.raises(TypeError):
        read_ablation({**given, "misspelt": 1}, tables)


def test_every_method_has_every_published_budget_and_a_word_on_its_setting():
    for table in RANKINGS:
        methods = {row.name for row in table.rows}
        budgets = ("192", "128", "64")
        assert {(row.name, row.tokens) for row in table.rows} == {(m, b) for m in methods for b in budgets}
        assert methods <= set(SETTINGS)
    assert published.budgets() == [192, 128, 64]


def test_adaptvtp_prints_no_average_so_it_is_computed_and_its_rescaled_rows_are_left_out():
    source = next(table for table in RANKINGS if table.paper == "AdaptVTP")
    assert source.column is None and {row.name for row in source.rows} == {"divprune", "adaptvtp"}
    row = next(row for row in source.rows if (row.name, row.tokens) == ("adaptvtp", "64"))
    by_hand = (16.36 / 18.2 + 1.02 / 1.1 + 61.34 / 64.09 + 1359.12 / 1508.24 + 36.11 / 36.33) / 10
    by_hand += (0.98 / 1.06 + 29 / 31.3 + 49.37 / 53.44 + 95.01 / 93.86 + 41.45 / 46.11) / 10
    assert source.average(row) == pytest.approx(100 * by_hand)


@pytest.mark.parametrize(
    ("budget", "n_visual", "same"), [(64, 576, 64), (32, 576, None), (16, 144, 64), (48, 144, 192), (65, 577, None)]
)
def test_budgets_compare_at_the_same_share_of_tokens(budget, n_visual, same):
    assert published_budget(budget, n_visual) == same


def results(**means):
    """Method -> budget -> our numbers, from {method: (at 192, at 64)}."""
    return {
        m: {b: Ours(v, dict.fromkeys(FAMILIES, v)) for b, v in zip((192, 64), v2, strict=True)}
        for m, v2 in means.items()
    }


def test_a_ranking_like_the_papers_agrees_wholly():
    ours = results(tome=(50, 20), fastv=(55, 30), sparsevlm=(60, 42), pdrop=(61, 41), visionzip=(62, 50), apet=(70, 60))
    compared = published.compare(ours)
    assert [at["budget"] for at in compared["budgets"]] == [192, 64]
    apet = compared["budgets"][1]["sources"][0]
    assert (apet["source"], apet["n"], apet["rho"]) == ("ApET", 6, pytest.approx(1))
    assert apet["p"] == pytest.approx(2 / math.factorial(6)) and apet["farthest"] == []
    assert [row["method"] for row in apet["methods"]][:2] == ["apet", "visionzip"]


def test_the_method_out_of_place_is_named_with_both_ranks():
    ours = results(tome=(99, 99), fastv=(55, 30), sparsevlm=(60, 42), pdrop=(61, 41), visionzip=(62, 50), apet=(70, 60))
    apet = published.compare(ours)["budgets"][1]["sources"][0]
    assert apet["farthest"] == ["tome"] and apet["largest_gap"] == 5
    tome = next(row for row in apet["methods"] if row["method"] == "tome")
    assert (tome["our_rank"], tome["published_rank"], tome["published"]) == (1, 6, 70.1)
    # d = 1, 1, 1, 1, 1, 5 -> 1 - 6 * 30 / (6 * 35)
    assert apet["rho"] == pytest.approx(1 - 180 / 210)


def test_a_method_that_two_papers_print_differently_keeps_both_and_counts_once_together():
    compared = published.compare(results(fastv=(80, 70), visionzip=(90, 80), divprune=(85, 75)))
    at = compared["budgets"][1]
    each = [{row["method"]: row["published"] for row in source["methods"]} for source in at["sources"]]
    assert (each[0]["fastv"], each[1]["fastv"]) == (76.7, 57.35)
    together = {row["method"]: row["published"] for row in at["together"]["methods"]}
    assert together["fastv"] == pytest.approx((76.7 + 57.35) / 2) and at["together"]["n"] == 3
    assert "divprune" in together and "divprune" not in each[0]


def test_falls_stand_beside_each_other():
    falls = published.compare(results(fastv=(90, 60), visionzip=(90, 80), vispruner=(1, 2)))["falls"]
    assert (falls["from"], falls["to"], falls["n"]) == (192, 64, 2)
    rows = {(row["method"], row["source"]): (row["ours"], row["published"]) for row in falls["methods"]}
    assert rows["fastv", "ApET"] == (30, pytest.approx(90.4 - 76.7))
    assert rows["fastv", "Polymorphic"] == (30, pytest.approx(89.65 - 57.35))
    assert rows["visionzip", "ApET"] == (10, pytest.approx(97.8 - 92.7))
    assert all(method != "vispruner" for method, _ in rows)


def test_families_are_compared_with_the_benchmark_they_mirror():
    ours = results(tome=(50, 20), fastv=(55, 30), sparsevlm=(60, 40), visionzip=(62, 50), apet=(70, 60))
    pope = dict(zip(ours, (52.5, 48.0, 75.1, 77.0, 84.4), strict=True))
    for method, score in pope.items():
        old = ours[method][64]
        ours[method][64] = Ours(old.retention, {**old.families, "existence": 100 - score})
    mirrored = published.compare(ours)["mirrored"]
    found = {(m["budget"], m["source"], m["benchmark"]): m for m in mirrored}
    assert found[64, "ApET", "POPE"]["rho"] == pytest.approx(-1)
    assert found[64, "ApET", "GQA"]["families"] == ["attribute", "relation"]
    assert (192, "AdaptVTP", "POPE") not in found


def test_undefined_results_are_left_out_of_rankings():
    ours = results(fastv=(80, math.nan), visionzip=(90, 80), apet=(95, 85))
    at = published.compare(ours)["budgets"][1]["sources"][0]
    assert at["n"] == 2 and [row["method"] for row in at["methods"]] == ["apet", "visionzip"]


def test_methods_without_a_printed_row_are_named():
    compared = published.compare(results(random=(1, 1), apet=(2, 2)))
    assert compared["not_compared"] == ["random"]
    assert set(compared["settings"]) == {"apet"}


def test_rank_correlations_are_exact_over_all_orders():
    assert ranks([3.0, 9.0, 3.0]) == [2.5, 1, 2.5]
    # Of the six orders of three, two are at least as extreme as a perfect one: it and its reverse.
    assert spearman([1, 2, 3], [10, 20, 30]) == published.Correlation(pytest.approx(1), 3, pytest.approx(2 / 6))
    # d = 0, 1, 1: 1 - 6 * 2 / (3 * 8), and |rho| of three is never smaller than that.
    assert spearman([1, 2, 3], [10, 30, 20]) == published.Correlation(pytest.approx(0.5), 3, pytest.approx(1))
    assert spearman([1, 1], [1, 2]).rho is None and spearman([1], [1]).rho is None
    assert spearman(range(10), range(10)).p is None
    with pytest.raises(ValueError, match="cannot be paired"):
        spearman([1], [1, 2])
