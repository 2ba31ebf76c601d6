"""Models shared by the engine's tests (built once; no test changes them)."""

from collections import defaultdict

import pytest
import torch
from engine_models import build
from tiny_families import CASES


def pytest_collection_modifyitems(config, items):
    """Of the products over every family, run a covering array: LLaVA's whole product is in test_engine_exactness.py."""
    families = [i for i in items if i.path.name == "test_engine_families.py" and "case" in i.fixturenames]
    values = defaultdict(dict)
    for item in families:
        for name, value in item.callspec.params.items():
            values[item.originalname, name].setdefault(value, len(values[item.originalname, name]))
    left_out = {item for item in families if not _is_run(item.callspec.params, item.originalname, values)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _is_run(params, test, values):
    """Whether a product of values is this family's: each value of the widest parameter once, the pairs in turn.

    Two pairs take all four combinations in every family, and with every value of the widest over any four families in
    a row. values: (test, parameter) -> value -> its number.
    """
    case, number = CASES[params["case"]], list(CASES).index(params["case"])
    given = {name: values[test, name][value] for name, value in params.items() if name != "case"}
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
