"""Filters, order and facets against loops over the rows."""

from collections import Counter

import numpy as np
import pytest
from pydantic import TypeAdapter

from tokviz.errors import BadInput
from tokviz.workbench import Filter, Found, Sort, Within, cards
from tokviz.workbench.filters import Condition, Labels, condition_about_methods, parsed
from tokviz.workbench.kept import kept_boxes, unpacked
from tokviz.workbench.queries import count, points

AT = {"method": "random", "budget": 64}
LABELS = Labels(
    tags={"odd": ["case-000001", "case-000003"]}, statuses={"confirmed": ["case-000001"]}, noted=["case-000005"]
)


def good(row):
    return row["outcome"] in ("kept", "rescued", "same")


def outcomes(rows):
    return {row["outcome"] for row in rows}


def share(rows, holds):
    return sum(map(holds, rows)) / len(rows)


def is_inside(x, y, polygon):
    """By the angles that the corners are seen under: another way than the one under test."""
    corners = [complex(a, b) - complex(x, y) for a, b in polygon]
    turns = [np.angle(after / before) for before, after in zip(corners, [*corners[1:], corners[0]], strict=True)]
    return abs(sum(turns)) > 3


def mean(rows, name):
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) / len(known) if known else None


CORNERS = [(0.0, -0.4), (1.4, -0.2), (0.9, 1.1), (0.3, 0.2), (-0.5, 1.3)]
CONDITIONS = [
    ({"kind": "is", "column": "family", "values": ["color", "text"]}, lambda c, r: c["family"] in ("color", "text")),
    ({"kind": "is", "column": "split", "values": ["test"], "negate": True}, lambda c, r: c["split"] != "test"),
    ({"kind": "bool", "column": "right", "values": [False]}, lambda c, r: not c["right"]),
    ({"kind": "range", "column": "margin", "low": 1, "high": 3}, lambda c, r: 1 <= c["margin"] <= 3),
    ({"kind": "range", "column": "evidence_tokens", "high": 9}, lambda c, r: c["evidence_tokens"] <= 9),
    ({"kind": "outcome", **AT, "results": ["lost"]}, lambda c, r: share(r, lambda x: x["outcome"] == "lost") > 0.5),
    ({"kind": "outcome", **AT, "results": ["lost"], "seeds": "any"}, lambda c, r: "lost" in outcomes(r)),
    ({"kind": "outcome", **AT, "results": ["lost"], "seeds": "all"}, lambda c, r: outcomes(r) == {"lost"}),
    ({"kind": "outcome", **AT, "results": ["right"]}, lambda c, r: share(r, good) > 0.5),
    ({"kind": "outcome", **AT, "results": ["not right"]}, lambda c, r: share(r, good) < 0.5),
    ({"kind": "measure", **AT, "column": "evidence_kept", "low": 0.5}, lambda c, r: mean(r, "evidence_kept") >= 0.5),
    ({"kind": "measure", **AT, "column": "flip_budget"}, lambda c, r: mean(r, "flip_budget") is not None),
    ({"kind": "flag", **AT, "column": "flipped"}, lambda c, r: any(x["flipped"] for x in r)),
    ({"kind": "flag", **AT, "column": "all_failed", "value": False}, lambda c, r: not any(x["all_failed"] for x in r)),
    ({"kind": "text", "text": "SCENE 3?"}, lambda c, r: "scene" in c["question"] and "3?" in c["question"]),
    ({"kind": "text", "text": "red", "where": "expected"}, lambda c, r: "red" in c["answers"][0]),
    ({"kind": "text", "text": "100% _'\"; DROP TABLE facts"}, lambda c, r: False),
    ({"kind": "tag", "values": ["odd"]}, lambda c, r: c["case_id"] in LABELS.tags["odd"]),
    ({"kind": "status", "values": ["confirmed"]}, lambda c, r: c["case_id"] == "case-000001"),
    ({"kind": "status", "values": ["unreviewed", "unclear"]}, lambda c, r: c["case_id"] != "case-000001"),
    ({"kind": "note"}, lambda c, r: c["case_id"] == "case-000005"),
    ({"kind": "cases", "ordinals": [7, 2, 9999]}, lambda c, r: c["ordinal"] in (2, 7)),
    (
        {"kind": "any", "of": [{"kind": "note"}, {"kind": "range", "column": "ordinal", "high": 3}]},
        lambda c, r: c["ordinal"] <= 3 or c["ordinal"] == 5,
    ),
]  # fmt: skip


def the_filter(*conditions):
    return parsed({"conditions": list(conditions)}, Filter, "The filter")


def test_every_condition_and_every_two_of_them_find_what_a_loop_finds(run, mined_cases, mined_rows):
    """Alone, turned around, and each together with the next."""

    def wanted(*holds):
        return [
            case["ordinal"]
            for case in mined_cases
            if all(hold(case, mined_rows[case["ordinal"], "random", 64]) for hold in holds)
        ]

    everything = set(wanted())
    for at, (condition, hold) in enumerate(CONDITIONS):
        other, other_holds = CONDITIONS[(at + 1) % len(CONDITIONS)]
        assert Found(run, the_filter(condition), LABELS).ordinals().tolist() == wanted(hold), condition
        turned = {**condition, "negate": not condition.get("negate", False)}
        assert set(Found(run, the_filter(turned), LABELS).ordinals().tolist()) == everything - set(wanted(hold)), turned
        both = the_filter(condition, other)
        assert Found(run, both, LABELS).ordinals().tolist() == wanted(hold, other_holds), (condition, other)
        assert count(run, both, LABELS) == len(wanted(hold, other_holds))
    kinds = {kind for kind, *_ in ((c["kind"],) for c, _ in CONDITIONS)} | {"lasso"}
    assert kinds == set(TypeAdapter(Condition).json_schema()["discriminator"]["mapping"])


def test_the_lasso_finds_the_points_inside(run, mined_cases):
    found = Found(run, the_filter({"kind": "lasso", "polygon": CORNERS}))
    places = points(run, 64, "apet")
    inside = [
        int(ordinal)
        for ordinal, x, y in zip(places["ordinal"], places["x"], places["y"], strict=True)
        if is_inside(float(x), float(y), CORNERS)
    ]
    assert found.ordinals().tolist() == inside
    assert 10 < len(inside) < len(mined_cases) - 10


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"kind": "outcome", "method": "nope", "budget": 64, "results": ["lost"]}, "no method 'nope'"),
        ({"kind": "outcome", "method": "apet", "budget": 63, "results": ["lost"]}, "no budget 63; it has 64, 128, 192"),
    ],
)
def test_what_was_not_mined_is_refused(run, condition, words):
    with pytest.raises(BadInput, match=words):
        Found(run, the_filter(condition))


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "range", "column": "margin; DROP TABLE facts"},
        {"kind": "range", "column": "margin", "low": float("nan")},
        {"kind": "lasso", "polygon": [[0, 0], [1, 1]]},
        {"kind": "text", "text": ""},
        {"kind": "nothing"},
        {"kind": "is", "column": "family", "values": ["a"], "more": 1},
    ],
)
def test_what_is_no_condition_is_refused_in_a_sentence(data):
    with pytest.raises(BadInput, match=r"^The filter cannot be read: conditions\.0.*\.$"):
        the_filter(data)


def test_facets_count_without_their_own_condition(run, mined_cases, mined_rows):
    asked = the_filter(
        {"kind": "outcome", **AT, "results": ["lost"]},
        {"kind": "is", "column": "family", "values": ["text"]},
        {"kind": "bool", "column": "right", "values": [True]},
        {"kind": "tag", "values": ["odd"], "negate": True},
    )
    found = Found(run, asked, LABELS)
    facets = found.facets(64, "random")

    def lost(case):
        return share(mined_rows[case["ordinal"], "random", 64], lambda row: row["outcome"] == "lost") > 0.5

    untagged = [case for case in mined_cases if case["case_id"] not in LABELS.tags["odd"]]
    right = [case for case in untagged if case["right"]]
    text = [case for case in right if case["family"] == "text"]
    assert facets.found == len(found) == sum(map(lost, text))
    assert facets.total == len(mined_cases)
    assert dict(facets.words["family"]) == Counter(case["family"] for case in right if lost(case))
    unpruned = [case for case in untagged if case["family"] == "text" and lost(case)]
    assert facets.flags["right"] == {"none": 0, "no": sum(not c["right"] for c in unpruned), "yes": facets.found}
    assert facets.outcomes["random"]["lost"] == sum(map(lost, text))
    assert sum(facets.outcomes["random"].values()) == len(text)
    assert sum(facets.outcomes["apet"].values()) == facets.found
    apet = Counter(mined_rows[case["ordinal"], "apet", 64][0]["outcome"] for case in text if lost(case))
    assert facets.outcomes["apet"] == apet
    margins = facets.numbers["margin"]
    assert sum(margins["counts"]) == facets.found
    assert (margins["low"], margins["high"]) == (
        min(c["margin"] for c in mined_cases),
        max(c["margin"] for c in mined_cases),
    )
    assert dict(facets.tags)["odd"] == sum(
        case["case_id"] in LABELS.tags["odd"] and case["family"] == "text" and case["right"] and lost(case)
        for case in mined_cases
    )
    flips = facets.numbers["row.flip_budget"]
    assert sum(flips["counts"]) + flips["missing"] == facets.found


def test_order_and_neighbours(run, mined_cases, mined_rows):
    asked = the_filter({"kind": "is", "column": "family", "values": ["color"]})
    cases = [case for case in mined_cases if case["family"] == "color"]
    found = Found(run, asked)
    by_margin = [c["ordinal"] for c in sorted(cases, key=lambda c: -c["margin"])]
    assert found.ordinals(Sort(column="margin", descending=True)).tolist() == by_margin
    by_question = [c["ordinal"] for c in sorted(cases, key=lambda c: (c["question"], c["ordinal"]))]
    assert found.ordinals(Sort(column="question")).tolist() == by_question

    def flip(case):
        value = mean(mined_rows[case["ordinal"], "random", 64], "flip_budget")
        return (value is None, value or 0, case["ordinal"])

    by_flip = [case["ordinal"] for case in sorted(cases, key=flip)]
    assert found.ordinals(Sort(column="flip_budget", method="random", budget=64)).tolist() == by_flip

    def losses(case, methods):
        return sum(
            share(mined_rows[case["ordinal"], key, 64], lambda row: row["outcome"] == "lost") > 0.5 for key in methods
        )

    shown = ("random", "pdrop")
    by_losses = sorted(cases, key=lambda c: (-losses(c, shown), -losses(c, run.methods), c["ordinal"]))
    sort = Sort(column="losses", methods=shown, budget=64, descending=True)
    assert found.ordinals(sort).tolist() == [case["ordinal"] for case in by_losses]
    sort = Sort(column="margin", descending=True)
    assert found.neighbours(by_margin[1], sort) == {"at": 1, "of": 48, "before": by_margin[0], "after": by_margin[2]}
    assert found.neighbours(by_margin[-1], sort)["after"] is None
    assert found.neighbours(1, sort) == {"at": None, "of": 48, "before": None, "after": by_margin[0]}


def test_a_card_shows_what_the_rows_hold(run, mined_cases, mined_rows):
    shown = cards(run, [200, 3], ["random", "apet"], 128, seed=2)
    assert [card["ordinal"] for card in shown] == [200, 3]
    card, case = shown[1], mined_cases[3]
    assert (card["id"], card["question"], card["expected"]) == (case["case_id"], case["question"], case["answers"])
    row = next(row for row in mined_rows[3, "random", 128] if row["seed"] == 2)
    lane = card["lanes"][0]
    assert (lane["answer"], lane["outcome"], lane["seed"]) == (row["answer"], row["outcome"], 2)
    assert card["lanes"][1]["seed"] == 0
    kept = unpacked(row["kept"], 576)
    assert len(kept) == 128
    drawn = set()
    for x0, y0, x1, y1 in kept_boxes(lane["mask"]):
        assert round(24 * (y1 - y0) / 1000) == 1
        at = round(24 * y0 / 1000) * 24
        drawn |= set(range(at + round(24 * x0 / 1000), at + round(24 * x1 / 1000)))
    assert sorted(drawn) == kept
    x0, _, x1, _ = case["evidence"][0]
    assert card["evidence"][0][0::2] == [round(1000 * x0 / 336), round(1000 * x1 / 336)]


def test_conditions_on_methods_are_told_from_those_on_cases():
    nested = {"kind": "any", "of": [{"kind": "note"}, {"kind": "flag", **AT, "column": "flipped"}]}
    asked = the_filter(
        {"kind": "outcome", **AT, "results": ["lost"]}, nested, {"kind": "range", "column": "margin", "low": 1}
    )
    assert [condition_about_methods(one) for one in asked.conditions] == [True, True, False]
    assert Within(column="margin", low=1.0) == asked.conditions[2]
