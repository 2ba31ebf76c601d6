"""Which of the many settings of a method meet which of the checks with every change."""

import pytest

IN_TURN = (
    "test_half_precision_is_ranked_in_float32",
    "test_one_broken_signal_breaks_nothing",
    "test_same_input_and_seed_give_the_same_bits",
    "test_a_map_that_says_high_is_kept_first_is_the_ranking_in_each_view",
    "test_a_stage_looks_only_at_what_it_declares",
    "test_shuffled_tokens_are_chosen_alike",
    "test_every_tensor_is_made_where_the_signals_are",
    "test_more_steps_do_not_mean_more_waiting",
)
"""A stage under the default settings meets all of them; another value of a parameter meets every third, the next two
values the others. `make test-all` runs the rest."""


@pytest.hookimpl(tryfirst=True)  # before those with a mark are left out
def pytest_collection_modifyitems(items):
    """Mark what is left to `make test-all`."""
    numbers = {}
    for item in items:
        if item.path.parent.name != "pruners" or item.originalname not in IN_TURN:
            continue
        variant = item.callspec.params["variant"]
        if variant.params == variant.pruner.complete({}):
            continue
        number = numbers.setdefault(id(variant), len(numbers))
        if (number + IN_TURN.index(item.originalname)) % 3:
            item.add_marker(pytest.mark.generator)
