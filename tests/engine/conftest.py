"""Models shared by the engine's tests (built once; no test changes them)."""

from collections import defaultdict

import pytest
import torch
from engine_models import build
from tiny_families import CASES

IN_TURN = {
    "test_another_answer_is_scored_as_the_masked_model_scores_it": (4, "made", "kind"),
    "test_dropping_is_masking_from_that_layer_on": (2, "made", "layer"),
    "test_added_and_reordered_tokens_equal_a_sequence_rebuilt_by_hand": (2, "where", "positions", "choose"),
    "test_every_kind_of_prompt_takes_them": (2, "model", "batch", "positions"),
    "test_keeping_everything_is_bit_identical_to_the_stock_model": (3, "model", "pruner"),
    "test_a_method_prunes_repeatably_and_keeping_everything_is_bit_identical": (3, "model", "pruner"),
    "test_every_stage_in_the_llm_keeps_what_eager_attention_weights_say": (3, "model", "pruner"),
}
"""Of products of independent parameters every second (third, fourth) runs with every change: each value of each, with
some of the others'; LLaVA meets all. `make test-all` runs the rest."""


@pytest.hookimpl(tryfirst=True)  # before those with a mark are left out
def pytest_collection_modifyitems(config, items):
    """Of the products over every family, run a covering array: LLaVA's whole product is in test_engine_exactness.py."""
    families = [i for i in items if i.path.name == "test_engine_families.py" and "case" in i.fixturenames]
    values = defaultdict(dict)
    for item in [*families, *(i for i in items if i.originalname in IN_TURN)]:
        for name, value in item.callspec.params.items():
            numbers = values[item.originalname, name]
            numbers.setdefault(id(value), len(numbers))
    left_out = {item for item in families if not _is_run(item.callspec.params, item.originalname, values)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if item.path.parent.name == "engine" and _is_for_later(item, values):
            item.add_marker(pytest.mark.generator)


def _is_for_later(item, values):
    """Whether this one of a product runs with `make test-all` alone."""
    if item.originalname in IN_TURN:
        every, *names = IN_TURN[item.originalname]
        if item.callspec.params.get("made") == "llava":
            return False
        return sum(values[item.originalname, name][id(item.callspec.params[name])] for name in names) % every != 0
    if item.path.name != "test_engine_families.py" or "case" not in item.fixturenames:
        return False
    number = list(CASES).index(item.callspec.params["case"])
    places = {name: values[item.originalname, name] for name in item.callspec.params if name != "case"}
    widest = max(places, key=lambda name: len(places[name]), default=None)
    if widest is None or len(places[widest]) < 4:
        return False
    # One of four, another in the next family and in the family's next test; after every four families others again,
    # so that the pairs stay in turn.
    place = places[widest][id(item.callspec.params[widest])]
    test = [test for test, name in values if name == widest].index(item.originalname)
    return (place - number - number // 4 - test) % 4 != 0


def _is_run(params, test, values):
    """Whether a product of values is this family's: each value of the widest parameter once, the pairs in turn.

    Two pairs take all four combinations in every family, and with every value of the widest over any four families in
    a row. values: (test, parameter) -> id of a value -> its number.
    """
    case, number = CASES[params["case"]], list(CASES).index(params["case"])
    given = {name: values[test, name][id(value)] for name, value in params.items() if name != "case"}
    if not case.here.reindexes and given.pop("positions", 0):
        return False  # there is but one
    if len(given) < 2:
        return True
    widest, *pairs = sorted(given, key=lambda name: -len(values[test, name]))
    return all(given[pair] == ((given[widest] >> k) + (number >> k)) % 2 for k, pair in enumerate(pairs))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny matrices: more threads only cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sdpa64():
    """float64, SDPA: the exact one."""
    return build(torch.float64, "sdpa")


@pytest.fixture(scope="session")
def sdpa32():
    """float32, SDPA."""
    return build(torch.float32, "sdpa")


@pytest.fixture(scope="session")
def eager32():
    """float32, eager (float64 eager with padding is NaN in the unpatched model)."""
    return build(torch.float32, "eager")


@pytest.fixture(params=["sdpa64", "sdpa32", "eager32"])
def model(request):
    """Each of the models in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def tolerance(model):
    """What a correct implementation reaches: generate casts logits to float32, which alone costs 1e-7."""
    return 1e-6 if model.dtype == torch.float64 else 5e-5
