"""The choice of examples: fair to every family of methods, plain to see, the same every time."""

import pytest

from scenes import FAMILIES
from scripts.cases.choosing import (
    METHOD_FAMILIES,
    N_SHOWN,
    SURE,
    Shown,
    choose,
    missed_goals,
    showings,
    telling,
    wanted_goals,
)
from scripts.cases.difficulty import KINDS
from scripts.cases.search import FoundCase, Outcome


def outcome(family, right, evidence, sure=0.9, answer="red"):
    return Outcome(label=family, family=family, answer=answer, right=right, sure=sure, evidence=evidence, inside=False)


def case(seed, losers, keepers, *, family="attribute", kinds=("small evidence",), sure=0.9, **changed):
    """Losers hold none and keepers all of the four patches of evidence, unless ``changed`` says another outcome."""
    outcomes = {f: outcome(f, False, 0) for f in losers} | {f: outcome(f, True, 4) for f in keepers}
    return FoundCase(
        seed=seed, size=(48, 48), question=f"question {seed}?", expected="red", question_family=family, n_tokens=9,
        n_evidence=4, kinds=kinds, hard="It is hard.", sure=sure, outcomes=outcomes | changed,
    )  # fmt: skip


def test_three_methods_of_three_families_are_shown_and_some_lost_and_some_kept():
    found = list(showings(case(1, ["merging", "diversity"], ["text-guided", "progressive"])))
    assert len(found) == 4
    for shown in found:
        assert len(shown.methods) == N_SHOWN == len({o.family for o in shown.outcomes})
        assert {o.right for o in shown.outcomes} == {True, False}
    second = outcome("merging", True, 4)
    found = list(showings(case(1, ["merging"], ["diversity", "text-guided"], another=second)))
    assert [shown.methods for shown in found] == [("merging", "diversity", "text-guided")], "one method per family"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (case(1, [], ["merging", "diversity", "text-guided"]), "nothing is lost"),
        (case(1, ["merging", "diversity", "text-guided"], []), "nothing is kept"),
        (case(1, ["merging"], ["diversity", "text-guided"], sure=SURE - 0.01), "the model itself is not sure"),
        (case(1, ["merging"], ["diversity"], progressive=outcome("progressive", True, 4, SURE - 0.01)), "a near-tie"),
        (
            case(1, [], [], **{f: outcome(f, f != "merging", 2) for f in ("merging", "diversity", "progressive")}),
            "the evidence does not tell them apart",
        ),
    ],
)
def test_what_cannot_be_shown_plainly_is_not_shown(found, reason):
    assert list(showings(found)) == [], reason


def test_clarity_is_evidence_in_the_right_hands():
    halves = {"merging": outcome("merging", False, 1), "diversity": outcome("diversity", True, 3)}
    shown = Shown(case(1, [], ["progressive"], **halves), ("merging", "diversity", "progressive"))
    assert shown.clarity == pytest.approx((0.75 + 0.75 + 1) / 3)
    assert shown.ends() == ("merging", "progressive")
    assert shown.goals == {
        ("loses", "merging"), ("wins", "diversity"), ("wins", "progressive"), ("question", "attribute"),
        ("difficulty", "small evidence"),
    }  # fmt: skip
    plainer = Shown(case(1, ["merging"], ["diversity", "progressive"], kinds=()), shown.methods)
    assert plainer.clarity == 1 and telling(plainer) == 1.5, "half a point for methods that drop before the LLM"
    assert telling(shown) == pytest.approx(shown.clarity + 1.0)
    hidden = outcome("diversity", True, 4).model_copy(update={"inside": True})
    assert telling(Shown(case(1, ["merging"], ["progressive"], kinds=(), diversity=hidden), shown.methods)) == 1.0


def whole_pool():
    """Twelve scenes, every family losing in two and winning in four, all kinds of questions and difficulties."""
    n = len(METHOD_FAMILIES)
    return [
        case(
            seed, [METHOD_FAMILIES[seed % n]], [METHOD_FAMILIES[(seed + 1) % n], METHOD_FAMILIES[(seed + 2) % n]],
            family=FAMILIES[seed % len(FAMILIES)], kinds=(KINDS[seed % len(KINDS)],),
        )
        for seed in range(12)
    ]  # fmt: skip


def test_a_choice_covers_everything_it_can_and_says_what_it_cannot():
    chosen = choose(whole_pool(), 10)
    assert len(chosen) == 10 == len({shown.case.seed for shown in chosen})
    assert missed_goals(chosen) == []
    alone = [shown for shown in chosen if shown.case.seed == 0]
    covered = wanted_goals() & alone[0].goals
    assert missed_goals(alone) == sorted(" ".join(goal) for goal in wanted_goals() - covered)
    assert len(missed_goals([])) == 2 * len(METHOD_FAMILIES) + len(FAMILIES) + 8


def test_the_choice_is_the_same_however_the_cases_were_found():
    pool = whole_pool()
    assert choose(pool, 8) == choose(pool[::-1], 8)
    assert choose([], 8) == []


def test_the_most_telling_case_comes_first_then_the_families_in_order():
    dull = [case(seed, ["merging"], ["diversity", "progressive"], family=FAMILIES[seed], kinds=()) for seed in range(4)]
    best = case(9, ["merging"], ["diversity", "progressive"], family="reading")
    chosen = choose([*dull, best], 5)
    assert chosen[0].case == best
    order = [FAMILIES.index(shown.case.question_family) for shown in chosen[1:]]
    assert order == sorted(order)
