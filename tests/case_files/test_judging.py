"""Each metric against cases that were worked out by hand, and against what its data set publishes."""

import itertools

import pytest

from tokviz.cases import METRICS, Case, Judgement, judge
from tokviz.cases.boxes import box_score, overlap, place_in
from tokviz.cases.judging import (
    anls,
    choice_says,
    edit_distance,
    mme_figures,
    mme_says,
    options_of,
    pope_figures,
    pope_says,
)
from tokviz.vqa import alike, vqa_score


def case(metric, *answers, question="q", **fields):
    return Case(id="1", image="a.png", question=question, answers=answers, metric=metric, **fields)


@pytest.mark.parametrize("metric", METRICS)
def test_without_an_answer_nothing_is_judged(metric):
    assert judge(case(metric), "yes") == Judgement(None, None)


def test_exact_takes_any_of_the_answers_apart_from_case_and_punctuation():
    assert judge(case("exact", "red", "dark red"), " Dark  Red. ") == Judgement(True, 1.0)
    assert judge(case("exact", "red"), "it is red") == Judgement(False, 0.0)


PEOPLE = ["red"] * 4 + ["dark red"] * 3 + ["maroon"] * 2 + ["brown"]


@pytest.mark.parametrize(
    ("answer", "score"),
    # Four said it: whoever is left out, three remain. Three: 3 x 2/3 + 7 x 1. Two: 2 x 1/3 + 8 x 2/3. One: 9 x 1/3.
    [("red", 1.0), ("dark red", 0.9), ("maroon", 0.6), ("brown", 0.3), ("blue", 0.0), ("The RED!", 1.0)],
)
def test_the_vqa_score_is_the_mean_over_nine_of_ten_people(answer, score):
    assert vqa_score(answer, PEOPLE) == pytest.approx(score)
    assert judge(case("vqa", *PEOPLE), answer).right is (score >= 0.5)


def test_the_vqa_score_is_its_definition():
    for answer, n in itertools.product(("red", "maroon", "brown"), (2, 3, 10)):
        people = PEOPLE[-n:]
        rest = [people[:i] + people[i + 1 :] for i in range(n)]
        assert vqa_score(answer, people) == pytest.approx(sum(min(1, r.count(answer) / 3) for r in rest) / n)
    assert vqa_score("Red", ["red"]) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        vqa_score("red", [])


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        ("The Dog", "dog"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("somebody'd", "somebodyd"),
        ("it's", "it's"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("red-ish", "red ish"),
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        ("2.5", "2.5"),
        ("2. 5", "2 5"),
        ("mr. smith", "mr smith"),
        ("yes,\nno", "yes no"),
        ("what?", "what"),
        ("", ""),
    ],
)
def test_answers_are_made_alike_as_in_the_vqa_evaluation(answer, compared):
    assert alike(answer) == compared


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("NO", "yes"),  # so in the original
        ("There is not a dog.", "no"),
        ("I see it. No, wait", "yes"),
        ("No, there is none", "no"),
        ("nothing", "yes"),
        ("", "yes"),
    ],
)
def test_pope_reads_answers_as_its_evaluation_does(answer, said):
    assert pope_says(answer) == said
    assert judge(case("pope", "Yes"), answer).right is (said == "yes")


def test_pope_figures():
    expected = ["yes", "yes", "yes", "no", "no", "yes", "no", "no"]
    answers_ = ["Yes", "Yes", "No", "Yes", "No", "yes.", "No", "no"]
    # Hits 3 (1st, 2nd, 6th), false alarms 1 (4th), misses 1 (3rd), right rejections 3.
    figures = pope_figures(expected, answers_)
    assert figures.accuracy == 6 / 8
    assert figures.precision == figures.recall == 3 / 4
    assert figures.f1 == 0.75 and figures.yes_ratio == 4 / 8


def test_pope_figures_that_are_undefined_are_none():
    figures = pope_figures(["no", "no"], ["no", "No"])
    assert (figures.accuracy, figures.precision, figures.recall, figures.f1) == (1.0, None, None, None)
    for expected, said in (([], []), (["yes"], []), (["maybe"], ["yes"])):
        with pytest.raises(ValueError, match="POPE"):
            pope_figures(expected, said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("y", "yes"),
        ("No.", "no"),
        ("N", "no"),
        (" yes, it is", "yes"),
        ("It is yes", "other"),
        ("x", "other"),
        ("", "other"),
        ("not", "no"),
        ("a yes", "other"),
        ("ayes", "yes"),
    ],
)
def test_mme_reads_answers_as_its_evaluation_does(answer, said):
    assert mme_says(answer) == said
    assert judge(case("mme", "Yes"), answer).right is (said == "yes")


def test_mme_sums_accuracy_and_accuracy_plus():
    answers_ = [("count", "1", True), ("count", "1", True), ("count", "2", True), ("count", "2", False)]
    answers_ += [("OCR", "1", False), ("OCR", "1", False), ("code_reasoning", "1", True), ("code_reasoning", "1", True)]
    figures = mme_figures(answers_)
    # count: 3 of 4 right, 1 of 2 images whole: 75 + 50. OCR: 0 + 0. code_reasoning: 100 + 100.
    assert figures.categories == {"count": 125.0, "OCR": 0.0, "code_reasoning": 200.0}
    assert (figures.perception, figures.cognition, figures.total) == (125.0, 200.0, 325.0)


SHELF = "Which is right?\nA. a cat\n(B) two dogs\nC) The fish\nAnswer with the option's letter."


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B. two dogs", "B"),
        ("B: two dogs", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is: (C)", "C"),
        ("Two dogs.", "B"),
        ("The fish", "C"),
        ("The answer is a cat", None),
        ("A cat", "A"),
        ("A dog", None),
        ("Both", None),
        ("D", None),
        ("The answer is A or the answer is B", None),
        ("", None),
    ],
)
def test_choices(answer, letter):
    assert options_of(SHELF) == {"A": "a cat", "B": "two dogs", "C": "The fish"}
    assert choice_says(answer, options_of(SHELF)) == letter
    for right in "ABC":
        assert judge(case("choice", right, question=SHELF), answer).right is (letter == right)


def test_a_choice_may_be_given_by_its_text_and_without_options():
    assert judge(case("choice", "two dogs", question=SHELF), "B").right
    assert judge(case("choice", "B"), "B. whatever").right
    assert not judge(case("choice", "B"), "C").right


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edit_distance(left, right, distance):
    assert edit_distance(left, right) == edit_distance(right, left) == distance


def test_edit_distance_against_its_recursion():
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["".join(letters) for n in range(4) for letters in itertools.product("ab", repeat=n)]
    for a, b in itertools.product(words, repeat=2):
        assert edit_distance(a, b) == slow(a, b)


@pytest.mark.parametrize(
    ("answer", "answers_", "score"),
    [
        ("Dakota", ["dakota"], 1.0),
        ("dakot", ["dakota"], 5 / 6),
        ("dako", ["dakota", "da"], 4 / 6),
        ("dak", ["dakota"], 0.5),
        ("da", ["dakota"], 0.0),  # 2/6 is below one half
        ("x", ["dakota"], 0.0),
        ("a  b", ["A b"], 1.0),
    ],
)
def test_anls(answer, answers_, score):
    assert anls(answer, answers_) == pytest.approx(score)
    assert judge(case("anls", *answers_), answer).right is (score > 0)


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("[10, 20, 30, 40]", (10, 20, 30, 40)),
        ("The box is (10, 20), (30, 40).", (10, 20, 30, 40)),
        ('{"bbox_2d": [10.5, 20, 30, 40], "label": "dog 7"}', (10.5, 20, 30, 40)),
        ("[0.1, 0.2, 0.5, 1.0]", (20, 20, 100, 100)),
        ("<|box_start|>(100,200),(500,1000)<|box_end|>", (20, 20, 100, 100)),
        ("<box>[[100, 200, 500, 1000]]</box>", (20, 20, 100, 100)),
        ("[30, 40, 10, 20]", (10, 20, 30, 40)),
        ("(55, 20)", (55, 20)),
        ('<point x="50" y="20.5" alt="dog">', (100, 20.5)),
        ("55 20", (55, 20)),
        ("10 20 30 40", (10, 20, 30, 40)),
        ("a dog", None),
        ("10 20 30", None),
        ("3 dogs", None),
    ],
)
def test_places_in_answers(answer, place):
    found = place_in(answer, (200, 100))
    assert found == (None if place is None else pytest.approx(place))


def test_shares_of_an_image_of_unknown_size_are_no_place():
    assert place_in("[0.1, 0.2, 0.5, 1.0]") is None
    assert place_in("[1, 2, 5, 10]") == (1, 2, 5, 10)


def test_overlap():
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("[0, 0, 100, 50]", 1.0),
        ("[50, 0, 100, 50]", 0.5),
        ("[60, 0, 100, 50]", 0.4),
        ("(99, 1)", 1.0),
        ("(101, 1)", 0.0),
        ("[0, 0, 0.5, 0.5]", 1.0),
        ("no idea", 0.0),
    ],
)
def test_boxes_and_points_are_judged_by_overlap_and_by_lying_inside(answer, score):
    asked = case("box", "[0, 0, 100, 50]")
    judged = judge(asked, answer, (200, 100))
    assert judged.score == pytest.approx(score) and judged.right is (score >= 0.5)
    assert box_score(None, []) == 0.0


def test_long_and_hostile_answers_take_no_time():
    long = "a" * 20_000
    for metric in METRICS:
        judge(case(metric, long, "[0, 0, 1, 1]"), "1, " * 100_000 + "(" * 100_000 + long, (200, 100))
