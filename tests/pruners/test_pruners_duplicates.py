"""Equal tokens are interchangeable, so of several the lowest index is picked first, whatever N and the kernels do."""

import pytest
import torch

from tokviz.pruners import get, ops, pairs
from tokviz.pruners.bipartite_matching import bipartite_soft_matching
from tokviz.pruners.prumerge import absorb
from tokviz.pruners.raters import alignment_logits
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


SIZES = [(n, width) for n in (9, 21, 36, 50, 101, 144, 199) for width in (3, 24, 64)]


@pytest.mark.parametrize(("n", "width"), SIZES)
def test_of_equal_targets_the_lowest_index_takes_the_merge(n, width):
    for seed in range(6):
        values, first = repeated(n, width, seed)
        lots = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        for count in (3, 11, n // 2 + 3):
            targets = lots[:count].sort().values
            taken = targets[ops.nearest_by_cosine(values[targets], values, ops.complement(targets, n))]
            lowest = [int(targets[first[targets] == first[row]][0]) for row in taken]
            assert taken.tolist() == lowest, (seed, count)


@pytest.mark.parametrize(("n", "width"), SIZES)
def test_tome_pairs_equal_keys_with_the_first_taker_and_ranks_equal_givers_alike(n, width):
    for seed in range(6):
        keys, first = repeated(n, width, seed)
        pairs_found = bipartite_soft_matching(keys, torch.ones(n, dtype=torch.bool), torch.arange(n), n // 4, True)
        taking = torch.arange(0, n, 2)
        lowest = [int(taking[first[taking] == first[row]][0]) for row in pairs_found.targets]
        assert pairs_found.targets.tolist() == lowest
        groups = first[pairs_found.giving].tolist()
        best_of = dict(zip(groups, pairs_found.best.tolist(), strict=True))
        assert pairs_found.best.tolist() == [best_of[group] for group in groups]


@pytest.mark.parametrize(("n", "width"), SIZES)
def test_prumerge_adds_the_lowest_of_equal_neighbours(n, width):
    for seed in range(6):
        keys, first = repeated(n, width, seed)
        for count in (1, 2, n // 3):
            centres = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count].sort().values
            taken = absorb(keys, keys, torch.ones(n), centres, 3).taken_in
            for copies in (torch.where(first == row)[0] for row in first.unique()):
                copies = copies[~torch.isin(copies, centres)]  # a centre is not its own neighbour
                assert taken[copies].tolist() == sorted(taken[copies].tolist(), reverse=True), (seed, count)


@pytest.mark.parametrize(("n", "width"), SIZES)
def test_equal_tokens_lean_on_the_text_alike(n, width):
    values, first = repeated(n, width, n)
    for words in (1, 2, 6, 17):
        text = torch.randn(words, width, generator=torch.Generator().manual_seed(words))
        logits = alignment_logits(values, text, 1.0)
        assert torch.equal(logits, logits[first])
