"""Models shared by the engine's tests (built once; no test changes them)."""

import pytest
import torch
from engine_models import build
from tiny_families import CASES


def pytest_collection_modifyitems(config, items):
    """Of products of three and more parameters, run all for LLaVA and a covering array for every other family."""
    families = [i for i in items if i.path.name == "test_engine_families.py" and "case" in i.fixturenames]
    left_out = {item for item in families if not _is_run(item.callspec)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _is_run(callspec):
    """Half of the product: the parity of all indices is even, so every pair of two parameters' values occurs."""
    case = CASES[callspec.params["case"]]
    given = {name: index for name, index in callspec.indices.items() if name != "case"}
    if not case.here.reindexes:
        given.pop("positions", None)  # there is but one
    return callspec.params["case"] == "llava" or len(given) < 3 or sum(given.values()) % 2 == 0


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
