"""GlobalCom2 on grids of crops: on paper, and against plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pruner_signals import tiles

from tokviz.errors import Unsupported
from tokviz.pruners import get
from tokviz.pruners.globalcom2 import crop_ratios, crop_sums, exact_counts, find_tiles
from tokviz.types import Budget, PlanningInfo, Signals

PRUNER = get("globalcom2")
NEXT = PlanningInfo(2880 + 48, 32, family="llava_next", n_views=5, has_tiles=True)


def stage(tokens, **params):
    return PRUNER.schedule(Budget(tokens), NEXT, PRUNER.complete(params)).stages[0]


def select(signals, tokens, **params):
    planned = stage(tokens, **params)
    return planned.select(signals, planned.keep, PRUNER.complete(params), torch.Generator())


def signals_of(layout, scores):
    return Signals(
        torch.ones(layout.n, 2),
        cls_logits=torch.as_tensor(scores, dtype=torch.float32),
        cls_attention=torch.as_tensor(scores, dtype=torch.float32).exp(),
        candidates=layout.candidates,
        view=layout.view,
        cell=layout.cell,
    )


# ------------------------------------------------------------------------------------------------- on paper


def test_worked_example():
    # A thumbnail of 2 x 2 and 1 x 2 crops of 2 x 2 patches without padding; newlines end the two grid rows.
    layout = tiles(2, 1, 2, newlines=True)
    newline = -9.0
    thumbnail = [1.0, 3.0, 0.0, 4.0]
    #       crop 1      crop 2
    grid = [5.0, 1.0,   2.0, 2.0, newline,
            1.0, 0.0,   2.0, 8.0, newline]  # fmt: skip
    found = select(signals_of(layout, [*thumbnail, *grid]), 6)
    # Crop 1 shows the thumbnail's left column, sum 1, crop 2 the right one, sum 7: w = softmax(-0.6, 0).
    low = math.exp(-0.6)
    weights = [low / (1 + low), 1 / (1 + low)]
    ratio = 6 / 12
    assert found.diagnostics.facts["crop_ratios"] == pytest.approx(
        [ratio * (0.5 + w) for w in weights], abs=1e-5
    )  # .427, .573
    # Thumbnail int(4 / 2) = 2: the scores 4 and 3. Crops: targets 1.71 and 2.29, floors 1 and 2, and the one that is
    # left goes to the larger remainder, crop 1.
    assert found.diagnostics.facts["tokens_of_thumbnail_and_crops"] == [2, 2, 2]
    # The thumbnail resized to 2 x 4, columns at 0, 1/4, 3/4, 1 between its two: rows 1 1.5 2.5 3 and 0 1 3 4. Crop 1
    # sees 1 1.5 0 1 (length sqrt(4.25)) beside its own 5 1 1 0 (length sqrt(27)).
    score = {token_map.name: token_map.values for token_map in (found.diagnostics.score, *found.diagnostics.maps)}
    own, seen = math.sqrt(27), math.sqrt(1 + 1.5**2 + 1)
    assert score["rank_score"][[4, 5, 9, 10]].tolist() == pytest.approx(
        [5 / own + 1 / seen, 1 / own + 1.5 / seen, 1 / own + 0 / seen, 0 / own + 1 / seen]
    )
    # So crop 1 keeps its first two (4, 5). Crop 2 has 2 2 2 8 beside 2.5 3 3 4: the last one (12), then of 2 beside 3,
    # twice, the first in the image (7).
    assert found.kept.tolist() == [1, 3, 4, 5, 7, 8, 12, 13]
    # The thumbnail comes by score: 3 (4.0) before 1 (3.0); everything else as in the image, newlines included.
    assert found.kept[found.sequence].tolist() == [3, 1, 4, 5, 7, 8, 12, 13]
    assert select(signals_of(layout, [*thumbnail, *grid]), 6, order="raster").sequence is None
    assert found.diagnostics.facts["newlines_kept"] == 2


def test_official_counts_are_floors():
    layout = tiles(2, 1, 2, newlines=True)
    scores = [1.0, 3.0, 0.0, 4.0, 5.0, 1.0, 2.0, 2.0, -9.0, 1.0, 0.0, 2.0, 8.0, -9.0]
    assert stage(6, counts="official").keep is None
    found = select(signals_of(layout, scores), 6, counts="official")
    assert found.diagnostics.facts["tokens_of_thumbnail_and_crops"] == [2, 1, 2]
    assert len(found.kept) == 5 + 2


def test_saturated_ratios_are_those_of_methods_md():
    # Sums of about 144 logits differ by far more than the temperature: one crop takes all of the softmax.
    ratios = crop_ratios([144.0, -100.0, -300.0, 0.0], 0.25)
    assert ratios == pytest.approx([0.4375, 0.1875, 0.1875, 0.1875], abs=1e-6)
    assert sum(ratios) / 4 == pytest.approx(0.25)
    assert max(crop_ratios([0.0, 500.0], 0.9)) == 1.0  # 0.9 * 1.5 is cut


def test_sums_over_crops_give_the_remainder_to_the_last():
    grid = torch.arange(25.0).reshape(5, 5)
    assert crop_sums(grid, (1, 1)) == [300.0]
    # Columns 0-1 and 2-4, rows 0-1 and 2-4.
    assert crop_sums(grid, (2, 2)) == [0 + 1 + 5 + 6, 2 + 3 + 4 + 7 + 8 + 9, 10 + 11 + 15 + 16 + 20 + 21, 162.0]


@pytest.mark.parametrize(
    ("targets", "sizes", "total", "counts"),
    [
        ([252.0, 108.0, 108.0, 108.0], [576] * 4, 576, [252, 108, 108, 108]),
        ([1.7, 2.3], [4, 4], 4, [2, 2]),
        ([1.5, 1.5], [4, 4], 3, [2, 1]),  # equal remainders: the first
        ([9.0, 1.0], [3, 9], 6, [3, 3]),  # what does not fit goes to the other
        ([2.0, 2.0], [2, 2], 4, [2, 2]),
        ([0.0, 0.0], [5, 5], 3, [2, 1]),
        ([5.0], [4], 0, [0]),
    ],
)
def test_exact_counts(targets, sizes, total, counts):
    assert exact_counts(targets, sizes, total) == counts


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("layout", "grid", "size", "crops"),
    [
        (tiles(4, 2, 2, newlines=True), (2, 2), (8, 8), [16] * 4),
        (tiles(4, 1, 3, newlines=True), (1, 3), (4, 12), [16] * 3),
        (tiles(4, 3, 1, newlines=False), (3, 1), (12, 4), [16] * 3),
        (tiles(4, 2, 2, newlines=True, cut_rows=1), (2, 2), (6, 8), [12] * 4),
        (tiles(4, 2, 2, newlines=False, cut_cols=3), (2, 2), (8, 2), [4] * 4),
        (tiles(4, 1, 1, newlines=True), (1, 1), (4, 4), [16]),
        (tiles(4, 1, 1, newlines=True, cut_rows=1), (1, 1), (2, 4), [8]),
        (tiles(4, 3, 1, newlines=False, cut_rows=5), (3, 1), (2, 4), [8]),  # first and last crop are all padding
        (tiles(4, 1, 3, newlines=True, cut_cols=5), (1, 3), (4, 2), [8]),
        (tiles(4, 3, 2, newlines=True, cut_rows=5), (3, 2), (2, 8), [8, 8]),
    ],
)  # fmt: skip
def test_the_layout_is_read_off_the_cells(layout, grid, size, crops):
    signals = signals_of(layout, torch.zeros(layout.n))
    pool = torch.arange(layout.n) if layout.candidates is None else layout.candidates.nonzero().flatten()
    found = find_tiles(signals, pool)
    assert (found.grid, found.size, found.sizes[1:]) == (grid, size, crops)
    numbers = sorted(set(layout.view[pool].tolist()) - {0})
    assert found.places == [divmod(number - 1, grid[1]) for number in numbers]


def test_without_a_thumbnail_it_refuses():
    layout = tiles(3, 1, 2, newlines=False)
    signals = signals_of(layout, torch.zeros(layout.n))
    with pytest.raises(Unsupported, match="square thumbnail and at least one crop"):
        select(replace(signals, view=torch.zeros(layout.n, dtype=torch.int64)), 5)
    with pytest.raises(Unsupported, match="without crops"):
        PRUNER.schedule(Budget(5), PlanningInfo(576, 32), PRUNER.complete({}))


# ------------------------------------------------------------------------------------------------- plain loops


def bilinear(image, height, width):
    """Half-pixel centres, edges repeated: what align_corners=False means."""
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            sy = min(max((y + 0.5) * len(image) / height - 0.5, 0), len(image) - 1)
            sx = min(max((x + 0.5) * len(image[0]) / width - 0.5, 0), len(image[0]) - 1)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, len(image) - 1), min(x0 + 1, len(image[0]) - 1)
            fy, fx = sy - y0, sx - x0
            top = image[y0][x0] * (1 - fx) + image[y0][x1] * fx
            out[y, x] = top * (1 - fy) + (image[y1][x0] * (1 - fx) + image[y1][x1] * fx) * fy
    return out


def reference(layout, scores, side, grid, tokens):
    """Official counts and kept tokens, one number at a time."""
    patch = [True] * layout.n if layout.candidates is None else layout.candidates.tolist()
    view, cell = layout.view.tolist(), layout.cell.tolist()
    ratio = tokens / sum(patch)
    thumb = [i for i in range(layout.n) if patch[i] and view[i] == 0]
    image = [[scores[thumb[r * side + c]] for c in range(side)] for r in range(side)]
    sums = [0.0] * (grid[0] * grid[1])
    for r in range(side):
        for c in range(side):
            high, wide = min(r // max(side // grid[0], 1), grid[0] - 1), min(c // max(side // grid[1], 1), grid[1] - 1)
            sums[high * grid[1] + wide] += image[r][c]
    weights = [math.exp((value - max(sums)) / 10) for value in sums]
    weights = [weight / (sum(weights) + 1e-8) for weight in weights]
    ratios = [min(1.0, ratio * (1 + weight - sum(weights) / len(weights))) for weight in weights]
    grid_rows = [cell[i] for i in range(layout.n) if patch[i] and view[i] > 0]
    resized = bilinear(image, 1 + max(r for r, _ in grid_rows), 1 + max(c for _, c in grid_rows))
    best_first = sorted(thumb, key=lambda i: (-scores[i], i))[: int(len(thumb) * ratio + 1e-9)]
    kept, counts = list(best_first), [len(best_first)]
    for number in range(1, 1 + len(sums)):
        rows = [i for i in range(layout.n) if patch[i] and view[i] == number]
        own = math.sqrt(sum(scores[i] ** 2 for i in rows))
        seen = math.sqrt(sum(resized[tuple(cell[i])] ** 2 for i in rows))
        total = {i: scores[i] / own + resized[tuple(cell[i])] / seen for i in rows}
        count = int(len(rows) * ratios[number - 1] + 1e-9)
        kept += sorted(rows, key=lambda i: -total[i])[:count]
        if rows:
            counts.append(count)
    newlines = [i for i in range(layout.n) if not patch[i]]
    return ratios, counts, sorted([*kept, *newlines]), best_first


SHAPES = [
    (2, 2, 0, 0),
    (1, 3, 0, 0),
    (2, 2, 1, 0),
    (2, 2, 0, 2),
    (1, 1, 0, 0),
    (3, 1, 0, 1),
    (3, 1, 5, 0),
    (1, 2, 1, 0),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("newlines", [True, False])
def test_against_plain_loops(shape, newlines):
    high, wide, cut_rows, cut_cols = shape
    layout = tiles(4, high, wide, newlines, cut_rows, cut_cols)
    patches = layout.n if layout.candidates is None else int(layout.candidates.sum())
    for seed in range(25):
        rng = np.random.default_rng(seed)
        scores = np.float32(rng.normal(size=layout.n) * (1 + seed % 5)).astype(float)
        tokens = int(rng.integers(1, patches))
        ratios, counts, kept, thumbnail = reference(layout, scores, 4, (high, wide), tokens)
        found = select(signals_of(layout, scores), tokens, counts="official")
        assert found.diagnostics.facts["crop_ratios"] == pytest.approx(ratios, abs=1e-5)
        assert found.diagnostics.facts["tokens_of_thumbnail_and_crops"] == counts
        assert found.kept.tolist() == kept
        assert found.kept[found.sequence][: len(thumbnail)].tolist() == thumbnail
        chart = found.diagnostics.charts[0]
        assert list(chart.y) == pytest.approx(ratios, abs=1e-5) and len(chart.names) == high * wide
        exact = select(signals_of(layout, scores), tokens)
        others = layout.n - patches
        assert len(exact.kept) == tokens + others
        if len(set(ratios)) == 1 or (sum(counts) <= tokens and cut_rows == cut_cols == 0 and max(ratios) < 1):
            assert set(kept) <= set(exact.kept.tolist())  # equal crops: floors, and what they leave on top


def test_the_share_of_a_tile_is_what_stays_of_it_and_the_chart_is_the_rule():
    # The middle one of three crops has tokens, a third of the weights: exactly counted it must give all that is asked.
    layout = tiles(4, 3, 1, newlines=False, cut_rows=5)
    scores = torch.rand(layout.n, generator=torch.Generator().manual_seed(2))
    for counts in ("exact", "official"):
        found = select(signals_of(layout, scores), 12, counts=counts)
        share = next(token_map.values for token_map in found.diagnostics.maps if token_map.name == "tile_share")
        for view in (0, 2):
            rows = (layout.view == view).nonzero().flatten()
            stay = int(torch.isin(rows, found.kept).sum())
            assert share[rows].tolist() == pytest.approx([stay / len(rows)] * len(rows))
        assert list(found.diagnostics.charts[0].y) == pytest.approx(found.diagnostics.facts["crop_ratios"], abs=1e-5)


def test_probabilities_can_be_asked_for():
    layout = tiles(4, 2, 2, newlines=True)
    scores = torch.randn(layout.n, generator=torch.Generator().manual_seed(1))
    assert [need.kind for need in stage(40).needs] == ["cls_logits"]
    assert [need.kind for need in stage(40, scores="probs").needs] == ["cls_attention"]
    as_logits = select(signals_of(layout, scores.exp()), 40)
    probabilities = select(signals_of(layout, scores), 40, scores="probs")
    assert probabilities.kept.tolist() == as_logits.kept.tolist()
    assert (
        probabilities.diagnostics.score.values.nan_to_num().tolist()
        == as_logits.diagnostics.score.values.nan_to_num().tolist()
    )


def test_published_budget():
    planned = stage(720)
    assert (planned.site, planned.keep, planned.positions) == ("projector", 720, "reindex")
    layout = tiles(24, 2, 2, newlines=True)
    scores = torch.rand(layout.n, generator=torch.Generator().manual_seed(0)) + (layout.cell[:, 0] < 12)
    found = select(signals_of(layout, scores), 720, counts="official")
    # Top row of the thumbnail about twice as high: both upper crops share the softmax.
    assert len(found.kept) - 48 == pytest.approx(720, abs=5)
    assert found.diagnostics.facts["tokens_of_thumbnail_and_crops"][0] == 144
    assert len(select(signals_of(layout, scores), 720).kept) == 720 + 48


def test_a_token_without_a_finite_feature_comes_last_whatever_its_score():
    layout = tiles(4, 2, 2, newlines=False)
    signals = signals_of(layout, torch.arange(layout.n).float())
    keep = layout.n // 2
    best = 15  # of the thumbnail's 16
    assert best in select(signals, keep).kept.tolist()
    features = signals.features.clone()
    features[best] = torch.nan
    found = select(replace(signals, features=features), keep)
    assert best not in found.kept.tolist() and found.diagnostics.facts["non_finite"] == 1
