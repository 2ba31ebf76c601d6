"""A method of one stage from its select function alone, and diagnostics that nobody pays for unasked."""

import pytest
import torch
from pruner_signals import VARIANTS
from torch.utils._python_dispatch import TorchDispatchMode

from tokviz.errors import BadInput
from tokviz.pruners.ops import highest
from tokviz.pruners.pruner import Pruner, fixed_count, needs_on, single_stage
from tokviz.types import (
    CLS_ATTENTION,
    CLS_FEATURE,
    ENCODER_KEYS,
    RECEIVED_ATTENTION,
    Budget,
    Diagnostics,
    PlanningInfo,
    Selection,
)

LLAVA, QWEN = PlanningInfo(576, 32), PlanningInfo(576, 28, has_cls=False, merges_patches=True, renumbers=False)


@fixed_count
def longest(signals, keep, params, generator):
    return Selection(highest(signals.features.norm(dim=1), keep))


def planned(site="projector", info=LLAVA, counted_as="published", tokens=64, **more):
    pruner = Pruner(
        id="longest", label="Longest", family="control", claim="?", schedule=single_stage(longest, site, **more)
    )
    return pruner.schedule(Budget(tokens, counted_as), info, {}).stages[0]


@pytest.mark.parametrize("counted_as", ["published", "final", "average"])
def test_before_the_llm_all_meanings_of_a_budget_agree(counted_as):
    stage = planned(counted_as=counted_as, title="Longest tokens")
    assert (stage.site, stage.keep, stage.positions, stage.title) == ("projector", 64, "reindex", "Longest tokens")


def test_encoder_is_behind_the_merger_where_patches_are_merged():
    assert planned("encoder").site == "encoder"
    assert planned("encoder", QWEN).site == "projector"
    assert planned("encoder", QWEN).positions == "keep"  # several axes cannot be renumbered


def test_inside_the_llm_an_average_is_met_or_refused_by_the_name_of_the_method():
    assert planned(2).keep == planned(2, counted_as="final").keep == 64
    assert planned(2, counted_as="average").keep == 30  # (32 * 64 - 2 * 576) / 30
    with pytest.raises(BadInput, match="Longest drops tokens before layer 32; this model has 0 to 31"):
        planned(32, label="Longest")
    with pytest.raises(BadInput, match="Longest cannot reach an average of 9 tokens"):
        planned(2, counted_as="average", tokens=9, label="Longest")
    with pytest.raises(BadInput, match="at least 1 visual token"):
        planned(2, tokens=0)


def test_attention_received_stands_in_for_cls():
    needs = (CLS_ATTENTION, RECEIVED_ATTENTION, ENCODER_KEYS, CLS_FEATURE)
    assert needs_on(LLAVA, *needs) == (CLS_ATTENTION, ENCODER_KEYS, CLS_FEATURE)
    assert needs_on(QWEN, *needs) == (RECEIVED_ATTENTION, ENCODER_KEYS)
    assert needs_on(LLAVA, RECEIVED_ATTENTION) == (RECEIVED_ATTENTION,)  # asked for as such


class HostReads(TorchDispatchMode):
    """Counts the numbers that the host waits for."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.seen += operator is torch.ops.aten._local_scalar_dense.default
        return operator(*args, **(kwargs or {}))


READS = {"fastervlm": 1, "fastv": 1, "pdrop": 1, "v2drop": 1, "vtw": 0, "random": 0, "uniform": 0}
"""Numbers that the host must know to select: whether all scores are finite."""


@pytest.mark.parametrize("method", READS)
def test_ranking_reads_one_number_and_diagnostics_are_not_made_unasked(method):
    variant = next(v.values[0] for v in VARIANTS if v.values[0].pruner.id == method)
    signals, _ = variant.signals(3, variant.layouts()[3])
    with HostReads() as reads:
        selection = variant.select(signals, variant.keeps(variant.layouts()[3].n)[-4 if method != "vtw" else 0])
    assert reads.seen <= READS[method]
    assert "diagnostics" not in vars(selection)
    assert isinstance(selection.diagnostics, Diagnostics)
    assert "diagnostics" in vars(selection)
