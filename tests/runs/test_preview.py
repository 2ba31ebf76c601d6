"""A preview of a budget is exactly what a run at that budget keeps."""

import pytest

import tokviz
from tokviz.runs.preview import NESTED, nesting, preview

ASKED, SMALLER, LARGER = 64, (1, 20, 33), 150


@pytest.fixture(scope="module")
def runs(vlm, scene_image):
    """By budget; one answer token is enough."""
    question = "what color is the star?"
    methods = [*sorted(NESTED), "dart", "apet", "random"]
    return {
        budget: tokviz.compare(vlm, scene_image, question, methods, budget, max_new_tokens=1)
        for budget in (ASKED, *SMALLER, LARGER)
    }


@pytest.mark.parametrize("method", sorted(NESTED))
def test_a_preview_is_what_the_run_keeps(runs, method, n_tokens):
    run = runs[ASKED][method]
    budgets = SMALLER if nesting(run, n_tokens) == "greedy" else (*SMALLER, LARGER)
    for budget in budgets:
        assert preview(run, n_tokens, budget) == runs[budget][method].kept, budget


def test_more_than_was_picked_is_not_known(runs, n_tokens):
    assert nesting(runs[ASKED]["divprune"], n_tokens) == "greedy"
    assert preview(runs[ASKED]["divprune"], n_tokens, ASKED + 1) is None
    assert preview(runs[ASKED]["fastervlm"], n_tokens, n_tokens + 1) is None


@pytest.mark.parametrize("method", ["dart", "apet", "random"])
def test_no_preview_where_choices_do_not_nest_or_leave_no_order(runs, method, n_tokens):
    assert preview(runs[ASKED][method], n_tokens, 20) is None
