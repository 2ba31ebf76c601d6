"""Whatever a stage of any method is given, what it returns obeys the contract of ``Selection``."""

import math
from dataclasses import fields, replace

import pytest
import torch
from loops import each
from pruner_signals import (
    DTYPES,
    KINDS,
    PER_TOKEN,
    PER_TOKEN_LAST_AXIS,
    VARIANTS,
    broken,
    each_variant,
    make_signals,
    mapped,
    shuffled,
)

from tokviz.pruners import PRUNERS
from tokviz.types import Selection

FEWER: dict[str, str] = {"pool": "a grid has as many cells as its sides give"}
"""Methods that may keep fewer than they were asked for, and why; none may keep more."""

BAD_ROWS_STAY: dict[str, str] = {"tome": "half of the tokens cannot leave a layer, whatever they hold"}
"""Methods that keep rows without a finite number although enough others are there, and why they may."""


def cases(variant, kinds=KINDS):
    """``(seed, layout, kind, dtype, M)``: every kind of content on two layouts, sizes and dtypes in rotation."""
    layouts = variant.layouts()
    for seed in range(2 * len(kinds)):
        yield (
            seed,
            layouts[(5 * seed + seed // 7) % len(layouts)],
            kinds[seed % len(kinds)],
            DTYPES[seed % 3],
            (1, 5)[seed // len(kinds)],
        )


def check_maps(selection, n):
    for token_map in [
        *selection.diagnostics.maps,
        *([selection.diagnostics.score] if selection.diagnostics.score else []),
    ]:
        assert token_map.values.shape == (n,)
        assert token_map.values.is_floating_point()
        assert token_map.name.isidentifier()
        assert token_map.label
        assert token_map.direction
    names = [token_map.name for token_map in selection.diagnostics.maps]
    assert len(set(names)) == len(names)


def check_diagrams(selection, signals, n):
    for chart in selection.diagnostics.charts:
        assert chart.name.isidentifier()
        assert chart.label
        assert all(isinstance(value, int | float) for value in [*chart.x, *chart.y])
        assert len(chart.x) in (0, len(chart.y))
        assert len(chart.names) in (0, len(chart.y))
        assert chart.kind != "bars" or chart.names or chart.tokens or chart.x
        assert chart.kind != "scatter" or len(chart.x) == len(chart.y)
        assert len(chart.tokens) in (0, len(chart.y))
        assert all(isinstance(token, int) and 0 <= token < n for token in chart.tokens)
        assert all(isinstance(place, int) and 0 <= place < len(chart.y) for place in chart.marked)
        assert chart.line is None or isinstance(chart.line, int | float)
    for reading in selection.diagnostics.readings:
        assert reading.name.isidentifier()
        assert reading.label
        assert isinstance(reading.value, int | float)
        assert reading.line is None or isinstance(reading.line, int | float)
    if selection.diagnostics.text is not None:
        behind = next(
            t
            for t in (
                signals.text_features,
                signals.input_text,
                signals.attention_rows,
                signals.normed_text,
                None if signals.prompt_index is None else text_behind(signals),
                signals.text_values,
            )
            if t is not None
        )
        assert selection.diagnostics.text.values.shape == (len(behind),)
        assert selection.diagnostics.text.chosen.shape == (len(behind),)
        assert selection.diagnostics.text.chosen.dtype == torch.bool
        assert selection.diagnostics.text.label
    for value in selection.diagnostics.facts.values():
        assert isinstance(value, bool | int | float | str | list)


def text_behind(signals):
    """Rows of the prompt's text that stand behind the last visual token."""
    return signals.prompt_index[signals.prompt_index > signals.sequence_index.max()]


def check_count(selection, signals, keep, may_keep_fewer=False):
    """``keep`` counts all that is left; rows that are no patch stay uncounted, go, or compete (each is allowed)."""
    n, kept = len(signals.features), set(selection.kept.tolist())
    total = len(kept) + (0 if selection.extra is None else len(selection.extra))
    if keep is None:
        assert total <= n
        return
    if may_keep_fewer and 0 < keep < n:
        assert 0 < total <= keep
        return
    if signals.candidates is None or keep >= n:
        assert total == min(keep, n)
        return
    patches = set(signals.candidates.nonzero().flatten().tolist())
    others = set(range(n)) - patches
    keeps_all = total == min(keep, len(patches)) + len(others) and others <= kept
    keeps_none = total == min(keep, len(patches)) and not others & kept
    assert keeps_all or keeps_none or total == keep


def check(selection: Selection, signals, keep, may_keep_fewer=False):
    n = len(signals.features)
    kept = selection.kept.tolist()
    assert selection.kept.dtype == torch.int64
    assert kept == sorted(set(kept))
    assert all(0 <= index < n for index in kept)
    check_count(selection, signals, keep, may_keep_fewer)
    check_maps(selection, n)
    check_diagrams(selection, signals, n)
    extra = 0
    if selection.extra is not None:
        extra = len(selection.extra)
        assert selection.extra.shape == (extra, signals.features.shape[1])
        assert selection.extra.dtype == signals.features.dtype
    if selection.sequence is not None:
        assert selection.sequence.dtype == torch.int64
        assert sorted(selection.sequence.tolist()) == list(range(len(kept) + extra))
    if selection.sizes is not None:
        assert selection.sizes.shape == (len(kept),)
        assert bool((selection.sizes > 0).all())
        if selection.assignment is not None and bool((selection.assignment >= 0).all()):
            patches = n if signals.sizes is None else int(signals.sizes.sum())
            assert int(selection.sizes.sum()) == patches, "patches were lost or counted twice"
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
        assert selection.assignment.dtype == torch.int64
        assert all(assignment[index] == index for index in kept)
        assert set(assignment) - {-1} <= set(kept)
    covered_by = selection.diagnostics.covered_by
    if covered_by is not None:
        assert selection.assignment is None, "what is merged is carried, not covered"
        assert (covered_by.shape, covered_by.dtype) == ((n,), torch.int64)
        assert covered_by[selection.kept].tolist() == kept
        assert set(covered_by.tolist()) - {-1} <= set(kept)


def check_identity(selection, n):
    """``keep >= N``: the rows as they are, and no selection work."""
    assert selection.kept.tolist() == list(range(n))
    assert selection.features is None
    assert selection.extra is None
    assert selection.sequence is None
    assert selection.diagnostics.score is None


@each_variant()
def test_a_stage_keeps_exactly_what_it_was_asked_for(variant):
    for seed, layout, kind, dtype, text in cases(variant):
        signals, bad = variant.signals(seed, layout, kind, dtype, text=text)
        if signals.candidates is not None:
            bad = bad & signals.candidates
        untouched = mapped(signals, lambda _, tensor: tensor.clone())
        usable = int((~bad).sum())
        # Every content with all budgets on one layout, with a few on another.
        for keep in variant.keeps(layout.n) if seed < len(KINDS) else variant.few_keeps(layout.n):
            selection = variant.select(signals, keep, seed)
            check(selection, signals, keep, variant.pruner.id in FEWER)
            if keep is None or keep <= 0:
                assert keep is None or len(selection.kept) == 0
            elif keep >= layout.n:
                check_identity(selection, layout.n)
            elif variant.pruner.family != "control" and signals.candidates is None:
                if variant.pruner.id not in BAD_ROWS_STAY:
                    extra = 0 if selection.extra is None else len(selection.extra)
                    assert int(bad[selection.kept].sum()) == max(0, keep - extra - usable)
                assert selection.diagnostics.facts["non_finite"] == int(bad.sum())
                told = any("finite" in warning for warning in selection.diagnostics.warnings)
                assert told == bool(bad.any())
        for field in fields(signals):
            before, after = getattr(untouched, field.name), getattr(signals, field.name)
            if before is not None:
                assert torch.equal(before.nan_to_num(), after.nan_to_num()), f"{field.name} was changed"


@each_variant(only=lambda v: v.pruner.family != "control")
@each("value", [math.nan, math.inf, -math.inf])
def test_one_broken_signal_breaks_nothing(variant, value):
    layout = variant.layouts()[-1 if variant.pruner.needs_tiles or variant.pruner.needs_frames else 8]
    whole, _ = variant.signals(3, layout)
    for name in (*PER_TOKEN, *PER_TOKEN_LAST_AXIS):
        if getattr(whole, name) is None:
            continue
        rows = torch.arange(layout.n) % 5 == 2
        signals = broken(whole, name, rows, value)
        fixed = [keep for keep in (layout.n // 3, layout.n // 2) if keep >= variant.least(layout.n)]
        for keep in (None,) if variant.adaptive else (0,) if variant.withdraws else fixed:
            selection = variant.select(signals, keep)
            check(selection, signals, keep)
            if selection.features is not None:
                finite = signals.features[selection.kept].isfinite().all(1)
                assert selection.features[finite].isfinite().all(), f"{name} leaked into merged features"
            if selection.extra is not None:
                assert selection.extra.isfinite().all(), f"{name} leaked into an added token"


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner.id)
def test_merging_is_declared(pruner):
    carries = False
    for variant in (found.values[0] for found in VARIANTS):
        if variant.pruner is not pruner or variant.params != pruner.complete({}):
            continue
        layout = variant.layouts()[-1]
        keep = None if variant.adaptive else 0 if variant.withdraws else layout.n // 2
        for kind in ("gaussian", "constant"):  # some merge only what stands still
            assignment = variant.select(variant.signals(1, layout, kind)[0], keep).assignment
            if assignment is not None:
                carries |= bool((assignment[assignment >= 0].bincount() > 1).any())
    assert carries == pruner.merges


@each_variant()
def test_same_input_and_seed_give_the_same_bits(variant):
    for seed, layout, kind, dtype, text in cases(variant, ("gaussian", "duplicates", "nan")):
        signals, _ = variant.signals(seed, layout, kind, dtype, text=text)
        keep = variant.keeps(layout.n)[-1 if variant.adaptive or variant.withdraws else -4]
        first, second = (variant.select(signals, keep, seed) for _ in range(2))
        assert first.diagnostics.facts.keys() == second.diagnostics.facts.keys()
        assert str(first.diagnostics.facts) == str(second.diagnostics.facts)  # as text, where NaN equals NaN
        assert str(first.diagnostics.charts) == str(second.diagnostics.charts)
        assert str(first.diagnostics.readings) == str(second.diagnostics.readings)
        for name in ("kept", "order", "assignment", "features", "extra", "sequence", "sizes"):
            a, b = getattr(first, name), getattr(second, name)
            assert (a is None and b is None) or torch.equal(a.nan_to_num(), b.nan_to_num())


@each_variant()
def test_half_precision_is_ranked_in_float32(variant):
    for seed in range(4):
        layouts = variant.layouts()
        layout, dtype = layouts[(3 + 2 * seed) % len(layouts)], DTYPES[1 + seed % 2]
        half, _ = variant.signals(seed, layout, dtype=dtype)
        full = mapped(half, lambda _, tensor: tensor.float() if tensor.is_floating_point() else tensor)
        for keep in variant.few_keeps(layout.n):
            low, high = (variant.select(signals, keep, seed) for signals in (half, full))
            assert torch.equal(low.kept, high.kept)
            for name in ("features", "extra"):
                if getattr(low, name) is not None:
                    assert torch.equal(getattr(low, name), getattr(high, name).to(dtype))


@each_variant()
def test_a_stage_looks_only_at_what_it_declares(variant):
    layout = variant.layouts()[-2]
    everything, _ = make_signals(5, layout, llm_input=3 if isinstance(variant.stage.site, int) else 0)
    if not variant.info.has_cls:  # an encoder has [CLS], or attention received stands in for it: never both
        everything = replace(everything, cls_attention=None, cls_logits=None, cls_full_width=None, cls_feature=None)
    declared, _ = variant.signals(5, layout)
    if declared.attention_rows is not None:
        everything = mapped(everything, lambda name, t: declared.attention_rows if name == "attention_rows" else t)
    for keep in variant.keeps(layout.n):
        assert torch.equal(variant.select(everything, keep).kept, variant.select(declared, keep).kept)


# ------------------------------------------------------------------------------------- symmetries, where they hold

POSITION_MATTERS = {
    "random": "draws row numbers",
    "random_at": "draws row numbers",
    "uniform": "evenly spaced in the sequence",
    "tome": "even rows merge into odd rows",
    "visionzip": "targets are evenly spaced in what is left",
    "holov": "strips of the sequence",
    "prumerge_plus": "adds evenly spaced rows",
    "sparsevlm": "density peaks of mutually nearest tokens tie, and ties go to the lowest index",
    "polymorphic": "density peaks, as above",
    "fastvid": "density peaks, as above",
    "holitom": "density peaks, as above",
    "flashvid": "density peaks, as above",
    "evs": "of a first frame that is cut the lowest rows stay, as nothing tells them apart",
    "dycoke": "of whole frames that are cut evenly spaced rows stay",
    "globalcom2": "crops are slices of a map over the grid",
    "pool": "a cell is its row of lowest index",
    "oracle": "what has no evidence is evenly spaced in the sequence",
}
"""Methods that do not choose alike when tokens are shuffled, and why."""


def ignores_position(variant):
    if variant.pruner.id in POSITION_MATTERS or variant.withdraws:
        return False
    if variant.params.get("kernel") == "openvino":  # halves of the sequence
        return False
    # Density peaks with few neighbours are full of ties; a draw by lot draws row numbers.
    return variant.params.get("sampling") not in ("random", "dpc") and "random" not in variant.params.values()


@each_variant(only=ignores_position)
def test_shuffled_tokens_are_chosen_alike(variant):
    for seed in range(8):
        layout = [layout for layout in variant.layouts() if layout.candidates is None and layout.n > 2][seed % 5]
        # A basis that spans the space would leave only rounding to rank by, hence the width.
        signals, _ = variant.signals(seed, layout, width=10 + layout.n)
        shuffle = torch.randperm(layout.n, generator=torch.Generator().manual_seed(seed))
        moved = shuffled(signals, shuffle)
        for keep in variant.keeps(layout.n):
            if variant.params.get("mode") == "official" and variant.pruner.id == "apet" and keep > layout.n - 11:
                continue  # basis tokens are ranked by rounding alone once fewer than M tokens are dropped
            here, there = variant.select(signals, keep, seed), variant.select(moved, keep, seed)
            assert sorted(shuffle[there.kept].tolist()) == here.kept.tolist()
            if here.features is not None and variant.params.get("mode") != "official":
                place = torch.searchsorted(here.kept, shuffle[there.kept])
                assert torch.allclose(there.features, here.features[place], atol=1e-4)


RANKS = "high is kept first"
"""What a map says that orders the tokens of a view from those that stay to those that go, without exception."""


@each_variant(only=lambda v: not v.adaptive)
def test_a_map_that_says_high_is_kept_first_is_the_ranking_in_each_view(variant):
    layouts = variant.layouts()
    for seed in range(5):
        layout = layouts[(3 + seed) % len(layouts)]
        signals, _ = variant.signals(seed, layout)
        for keep in variant.few_keeps(layout.n):
            selection = variant.select(signals, keep, seed)
            kept = torch.zeros(layout.n, dtype=torch.bool).index_fill(0, selection.kept, True)
            shown = [
                *selection.diagnostics.maps,
                *([selection.diagnostics.score] if selection.diagnostics.score else []),
            ]
            for token_map in (shown_map for shown_map in shown if shown_map.direction == RANKS):
                for view in [0] if layout.view is None else layout.view.unique().tolist():
                    here = ~token_map.values.isnan() & (layout.view is None or layout.view == view)
                    stays, goes = token_map.values[here & kept], token_map.values[here & ~kept]
                    if len(stays) and len(goes):
                        assert stays.min() >= goes.max() - 1e-6, (token_map.name, layout.name, keep)


NESTED = ("fastervlm", "fastv", "divprune", "todre", "cdpruner", "v2drop", "pdrop")
"""Methods whose smaller selections are part of their larger ones."""


# Two halves are ranked one by one.
@each_variant(only=lambda v: v.pruner.id in NESTED and not v.adaptive and v.params.get("kernel") != "openvino")
def test_nested_methods_only_add_tokens_and_their_score_is_the_ranking(variant):
    for seed in range(4):
        layouts = variant.layouts()
        layout = layouts[(2 + seed) % len(layouts)]
        signals, _ = variant.signals(seed, layout)
        smaller = set()
        for keep in range(1, layout.n):
            selection = variant.select(signals, keep, seed)
            assert smaller <= set(selection.kept.tolist())
            smaller = set(selection.kept.tolist())
            score, mask = selection.diagnostics.score, torch.zeros(layout.n, dtype=torch.bool)
            mask[selection.kept] = True
            if score.name != "mean_distance":  # of a kept token to those before it, which need not fall
                assert score.values[mask].min() >= score.values[~mask].max()
