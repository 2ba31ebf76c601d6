"""Every method obeys the contract: what it declares, and what its stages return whatever they are given."""

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokviz.pruners as pruners
from tokviz.errors import BadInput
from tokviz.pruners import PRUNERS
from tokviz.pruners.base import Param
from tokviz.types import Budget, Need, PlanningInfo, Schedule, Selection, Signals

INFO = PlanningInfo(n_visual=144, n_blocks=8)
BASIS = 10  # ApET's M

by_id = pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner.id)


# ------------------------------------------------------------------------------------------------- declarations


def test_ids_are_unique_and_the_baseline_comes_first():
    ids = [pruner.id for pruner in PRUNERS]
    assert len(set(ids)) == len(ids)
    assert ids[0] == "full"
    assert pruners.methods() == PRUNERS


def test_get_names_the_known_ids():
    assert pruners.get("apet") is pruners.apet.PRUNER
    with pytest.raises(BadInput, match=r"no method 'apex'.*full, random, .*apet"):
        pruners.get("apex")


@by_id
def test_declaration(pruner):
    assert pruner.id.isidentifier()
    assert pruner.id == pruner.id.lower()
    assert pruner.label
    assert 0 < len(pruner.claim) <= 120
    if pruner.family == "control":
        assert pruner.paper is None
    else:
        assert pruner.paper.title
        assert pruner.paper.authors
        assert 2020 < pruner.paper.year < 2030
        assert pruner.paper.url.startswith("https://arxiv.org/abs/")


@by_id
def test_params_have_help_and_a_default_that_they_accept(pruner):
    names = [param.name for param in pruner.params]
    assert len(set(names)) == len(names)
    for param in pruner.params:
        assert param.label
        assert param.help
        assert param.check(param.default) == param.default
        if param.kind in ("int", "float"):
            assert param.minimum < param.maximum
            assert param.step > 0
        if param.kind == "choice":
            assert param.default in param.choices
    assert pruner.complete(None) == pruner.complete({}) == {param.name: param.default for param in pruner.params}
    with pytest.raises(BadInput, match=f"{pruner.label} has no parameter 'colour'"):
        pruner.complete({"colour": 1})


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int", 2.5, "whole number"), ("int", True, "a number"), ("int", "2", "a number"),
        ("int", 9, "between 1 and 4"), ("int", math.nan, "finite"), ("int", math.inf, "finite"),
        ("float", math.nan, "finite"),
        ("float", 0.5, "between 1 and 4"), ("choice", "c", "one of a, b"), ("bool", 1, "true or false"),
    ],
)  # fmt: skip
def test_bad_parameter_values_are_refused(kind, value, message):
    param = Param("p", "P", kind, 1, "help", minimum=1, maximum=4, step=1, choices=("a", "b"))
    with pytest.raises(BadInput, match=message):
        param.check(value)


@by_id
@pytest.mark.parametrize("tokens", [0, -1, 2.5, True, "64", None, math.nan, math.inf])
def test_budgets_below_one_or_not_whole_are_refused(pruner, tokens):
    with pytest.raises(BadInput, match="whole number of at least 1"):
        pruner.schedule(Budget(tokens), INFO, pruner.complete({}))


@by_id
def test_an_unknown_meaning_of_the_budget_is_refused(pruner):
    with pytest.raises(BadInput, match="published, final, average"):
        pruner.schedule(Budget(16, "total"), INFO, pruner.complete({}))


@by_id
@pytest.mark.parametrize("counted_as", ["published", "final", "average"])
@pytest.mark.parametrize("tokens", [48, 144, 500, 60.0])
def test_schedules_are_consistent(pruner, counted_as, tokens):
    schedule = pruner.schedule(Budget(tokens, counted_as), INFO, pruner.complete({}))
    order = {"encoder": -2, "projector": -1}
    depths = [order.get(stage.site, stage.site) for stage in schedule.stages]
    assert depths == sorted(depths)
    for stage in schedule.stages:
        assert stage.title
        assert stage.keep is None or (isinstance(stage.keep, int) and stage.keep >= 1)
        assert set(stage.needs) <= set(pruner.needs)
        assert not isinstance(stage.site, int) or 0 <= stage.site < INFO.n_blocks
        for need in stage.needs:
            assert need.block != "previous" or stage.site >= 1
    counts = schedule.counts_per_block(INFO.n_visual, INFO.n_blocks)
    assert counts == sorted(counts, reverse=True)
    if pruner.family != "control" or pruner.id != "full":
        found = schedule.meanings(INFO.n_visual, INFO.n_blocks)
        if counted_as == "final":
            assert found.final == min(tokens, INFO.n_visual)
        if counted_as == "average":
            assert found.average_in == pytest.approx(min(tokens, INFO.n_visual), abs=0.5)


def test_every_need_is_used_by_some_schedule():
    for pruner in PRUNERS:
        used = {n for s in pruner.schedule(Budget(16), INFO, pruner.complete({})).stages for n in s.needs}
        assert used == set(pruner.needs)
        assert all(isinstance(need, Need) for need in pruner.needs)


# ------------------------------------------------------------------------------------------------- selections


def variants():
    """Every stage of every method that keeps a planned number, with every choice of its parameters, one at a time."""
    for pruner in PRUNERS:
        settings_ = [{}] + [
            {param.name: choice} for param in pruner.params for choice in param.choices if choice != param.default
        ]
        settings_ += [{"mode": "official", "sampling": choice} for choice in ("dpc", "random") if pruner.id == "apet"]
        for given_ in settings_:
            params = pruner.complete(given_)
            stages = pruner.schedule(Budget(48), INFO, params).stages
            for number, stage in enumerate(stages):
                if stage.keep is not None:
                    name = "-".join([pruner.id, *given_.values(), str(number)])
                    yield pytest.param(pruner, stage.select, params, id=name)


VARIANTS = list(variants())
each_variant = pytest.mark.parametrize(("pruner", "select", "params"), VARIANTS)
quick = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def make_signals(seed, n, width, kind="gaussian", dtype=torch.float32):
    """Signals of ``n`` tokens and the rows that carry no finite number."""
    g = generator(seed)
    x = torch.randn(n, width, generator=g)
    bad = torch.zeros(n, dtype=torch.bool)
    if kind == "constant":
        x = torch.full((n, width), 3.0)
    elif kind == "duplicates":
        x = x[torch.randint(max(1, n // 3), (n,), generator=g)]
    elif kind == "zero rows":
        x[torch.rand(n, generator=g) < 0.4] = 0.0
    elif kind == "all zero":
        x = torch.zeros(n, width)
    elif kind in ("nan", "inf", "all nan"):
        bad = torch.rand(n, generator=g) < (2.0 if kind == "all nan" else 0.3)
        x[bad, 0] = math.inf if kind == "inf" else math.nan
    attention = torch.rand(3, n, generator=g).softmax(1)
    attention[:, bad] = math.nan
    return Signals(x.to(dtype), cls_attention=attention[0].to(dtype), attention_rows=attention), bad


KINDS = ["gaussian", "constant", "duplicates", "zero rows", "all zero", "nan", "inf", "all nan"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
cases = st.tuples(
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 3, 5, 8, 11, 12, 17, 24, 31]),
    st.integers(1, 7),
    st.sampled_from(KINDS),
    st.sampled_from(DTYPES),
)


def check(selection: Selection, signals: Signals, keep: int):
    n = len(signals.features)
    kept = selection.kept.tolist()
    assert selection.kept.dtype == torch.int64
    assert kept == sorted(set(kept))
    assert len(kept) == min(keep, n)
    assert all(0 <= index < n for index in kept)
    for token_map in [*selection.maps, *([selection.score] if selection.score else [])]:
        assert token_map.values.shape == (n,)
        assert token_map.label
        assert token_map.direction
    if selection.order is not None:
        steps = sorted(step for step in selection.order.tolist() if step >= 0)
        assert selection.order.shape == (n,)
        assert steps == list(range(len(steps)))
    if selection.features is not None:
        assert selection.features.shape == (len(kept), signals.features.shape[1])
        assert selection.features.dtype == signals.features.dtype
    if selection.assignment is not None:
        assignment = selection.assignment.tolist()
        assert selection.assignment.shape == (n,)
        assert all(assignment[index] == index for index in kept)
        assert set(assignment) - {-1} <= set(kept)
    for value in selection.facts.values():
        assert isinstance(value, bool | int | float | str | list)


@each_variant
@quick
@given(case=cases)
def test_a_stage_keeps_exactly_what_it_was_asked_for(pruner, select, params, case):
    seed, n, width, kind, dtype = case
    signals, bad = make_signals(seed, n, width, kind, dtype)
    untouched = {f.name: v.clone() for f in fields(signals) if (v := getattr(signals, f.name)) is not None}
    usable = n - int(bad.sum())
    for keep in sorted({0, 1, 2, BASIS, BASIS + 1, n // 2, n - 1, n, n + 5}):
        selection = select(signals, keep, params, generator(seed))
        check(selection, signals, keep)
        if keep >= n:
            assert selection == Selection(kept=selection.kept)
            continue
        if pruner.family != "control":
            assert int(bad[selection.kept].sum()) == max(0, keep - usable)
            if keep > 0:
                assert selection.facts["non_finite"] == int(bad.sum())
                assert bool(selection.warnings) == bool(bad.any())
    for name, value in untouched.items():
        assert torch.equal(value.nan_to_num(), getattr(signals, name).nan_to_num()), f"{name} was changed"


@each_variant
@quick
@given(case=cases, keep=st.integers(1, 20))
def test_same_input_and_seed_give_the_same_bits(pruner, select, params, case, keep):
    signals, _ = make_signals(*case)
    first, second = (select(signals, keep, params, generator(case[0])) for _ in range(2))
    assert torch.equal(first.kept, second.kept)
    assert first.facts == second.facts
    for name in ("order", "assignment", "features"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None and b is None) or torch.equal(a.nan_to_num(), b.nan_to_num())


@each_variant
@quick
@given(seed=st.integers(0, 10_000), n=st.integers(3, 24), dtype=st.sampled_from(DTYPES[1:]), share=st.floats(0.1, 0.9))
def test_half_precision_is_ranked_in_float32(pruner, select, params, seed, n, dtype, share):
    signals, _ = make_signals(seed, n, 6, dtype=dtype)
    upcast = Signals(signals.features.float(), signals.cls_attention.float(), attention_rows=signals.attention_rows)
    keep = max(1, int(share * n))
    half, full = (select(s, keep, params, generator(seed)) for s in (signals, upcast))
    assert torch.equal(half.kept, full.kept)
    if half.features is not None:
        assert torch.equal(half.features, full.features.to(dtype))


def depends_on_position(pruner, params):
    # Density peaks with few neighbours are full of ties: mutually nearest tokens are equally dense.
    return (
        pruner.id in ("random", "uniform") or params.get("sampling") in ("random", "dpc") or "random" in params.values()
    )


@pytest.mark.parametrize(
    ("pruner", "select", "params"), [v for v in VARIANTS if not depends_on_position(v.values[0], v.values[2])]
)
@quick
@given(seed=st.integers(0, 10_000), n=st.integers(3, 24), share=st.floats(0.1, 0.9))
def test_shuffled_tokens_are_chosen_alike(pruner, select, params, seed, n, share):
    width = BASIS + n  # a basis that spans the space would leave only rounding to rank by
    signals, _ = make_signals(seed, n, width)
    shuffle = torch.randperm(n, generator=generator(seed))
    shuffled = Signals(
        signals.features[shuffle], signals.cls_attention[shuffle], attention_rows=signals.attention_rows[:, shuffle]
    )
    # Officially basis tokens can be ranked, by rounding alone, once fewer than M tokens are dropped.
    keep = max(1, min(int(share * n), n - BASIS - 1 if params.get("mode") == "official" else n))
    here, there = (select(s, keep, params, generator(seed)) for s in (signals, shuffled))
    assert sorted(shuffle[there.kept].tolist()) == here.kept.tolist()
    if here.features is not None and params["mode"] == "paper":
        expected = here.features[torch.searchsorted(here.kept, shuffle[there.kept])]
        assert torch.allclose(there.features, expected, atol=1e-4)


NESTED = ("fastervlm", "fastv", "divprune", "todre")


@pytest.mark.parametrize(("pruner", "select", "params"), [v for v in VARIANTS if v.values[0].id in NESTED])
@quick
@given(seed=st.integers(0, 10_000), n=st.integers(3, 24))
def test_nested_methods_only_add_tokens_and_their_score_is_the_ranking(pruner, select, params, seed, n):
    signals, _ = make_signals(seed, n, 6)
    smaller = set()
    for keep in range(1, n):
        selection = select(signals, keep, params, generator(seed))
        assert smaller <= set(selection.kept.tolist())
        smaller = set(selection.kept.tolist())
        score, mask = selection.score.values, torch.zeros(n, dtype=torch.bool)
        mask[selection.kept] = True
        assert score[mask].min() >= score[~mask].max()


def test_withdrawal_stages_are_the_only_ones_without_a_count():
    uncounted = [
        (pruner.id, stage.title)
        for pruner in PRUNERS
        for stage in pruner.schedule(Budget(16), INFO, pruner.complete({})).stages
        if stage.keep is None
    ]
    assert uncounted == [("todre", "Withdrawal probe")] * 4


def test_an_empty_schedule_is_possible():
    assert Schedule(()).final_count(9) == 9
