"""The controls that are more than a draw of rows: random tokens inside the LLM, pooling, the marked evidence."""

import pytest
import torch

from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.pruners.controls import select_random
from tokviz.types import Budget, PlanningInfo, Signals

LLAVA = PlanningInfo(576, 32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------ random from a layer on


def random_at(tokens=64, counted_as="published", info=LLAVA, **params):
    pruner = get("random_at")
    (stage,) = pruner.schedule(Budget(tokens, counted_as), info, pruner.complete(params)).stages
    return stage


@pytest.mark.parametrize(("n_layers", "layer"), [(32, 16), (28, 14), (7, 3), (2, 1), (1, 0)])
def test_half_of_the_layers_see_every_token_where_nobody_said(n_layers, layer):
    stage = random_at(info=PlanningInfo(576, n_layers))
    assert (stage.site, stage.keep, stage.positions, stage.needs) == (layer, 64, "keep", ())


def test_a_layer_that_was_asked_for_is_taken_or_refused():
    assert random_at(layer=2).site == 2
    assert random_at(layer=31).site == 31
    with pytest.raises(BadInput, match="Random from a layer on drops tokens before layer 32; this model has 0 to 31"):
        random_at(layer=32)
    with pytest.raises(BadInput, match="layer must lie between 0 and 127"):
        random_at(layer=-1)


def test_an_average_is_met_by_what_is_left_behind_the_layer():
    # 16 of 32 layers with 576 and 16 with 192 are 384 on average; 2 with 576 and 30 with 98 are 127.875.
    assert random_at(384, "average").keep == 192
    assert random_at(128, "average", layer=2).keep == 98
    assert random_at(128, "final", layer=2).keep == 128
    with pytest.raises(BadInput, match="Random from a layer on cannot reach an average of 128 tokens"):
        random_at(128, "average")


def test_it_draws_the_tokens_that_random_draws_before_the_llm():
    stage, signals = random_at(20), Signals(torch.zeros(100, 1))
    for seed in range(20):
        inside = stage.select(signals, 20, {}, generator(seed)).kept
        assert torch.equal(inside, select_random(signals, 20, {}, generator(seed)).kept)
