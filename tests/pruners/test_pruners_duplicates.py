"""Equal tokens are interchangeable, so of several the lowest index is picked first, whatever N and the kernels do."""

import pytest
import torch

from tokviz.pruners import get, ops, pairs
from tokviz.types import Budget, PlanningInfo, Signals


def repeated(n, width, seed):
    """Rows of which about half are exact copies of others, the last of the first, and the first index of each."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(0, max(2, n // 2), (n,), generator=generator)
    which[-1] = which[0]
    values = torch.randn(int(which.max()) + 1, width, generator=generator)[which]
    first = (which.unsqueeze(0) == which.unsqueeze(1)).int().argmax(1)
    return values, first


@pytest.mark.parametrize("n", [*range(4, 20), 33, 144, 257, 300, 513])
def test_equal_rows_have_the_very_same_products(n):
    for width in (5, 64, 100):
        values, first = repeated(n, width, n)
        unit = ops.unit_rows(values)
        for found in (pairs.symmetric_product(unit), pairs.euclidean_distances(values)):
            assert torch.equal(found, found[first])


@pytest.mark.parametrize("method", ["divprune", "todre", "adaptvtp", "cdpruner", "dart"])
@pytest.mark.parametrize(("n", "width"), [(5, 3), (9, 5), (11, 24), (47, 64), (257, 16)])
def test_of_equal_tokens_the_lowest_index_is_picked_first(method, n, width):
    pruner = get(method)
    stage = pruner.schedule(Budget(2), PlanningInfo(n, 8), pruner.complete({})).stages[0]
    for seed in range(12):
        values, first = repeated(n, width, seed)
        numbers = torch.Generator().manual_seed(seed)
        question, per_token = torch.randn(4, width, generator=numbers), torch.rand(n, generator=numbers)[first]
        signals = Signals(
            features=values, cls_attention=per_token, question_features=question, key_norms=per_token,
            text_key_norms=torch.rand(4, generator=numbers), normed_features=values, normed_text=question,
        )  # fmt: skip
        for keep in (2, n // 2, n - 1):
            order = stage.select(signals, keep, pruner.complete({}), torch.Generator()).order
            step = torch.where(order < 0, n, order)
            for copies in (torch.where(first == row)[0] for row in first.unique()):
                assert step[copies].tolist() == sorted(step[copies].tolist()), (seed, keep, copies)
