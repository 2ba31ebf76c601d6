"""Effective rank, attention entropy, distances to what was kept, carriers, margins: by hand and by brute force."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tokviz
from tokviz.engine import VisionSignals
from tokviz.records import AnswerToken, GridView, Run, StageRecord, TokenGrid
from tokviz.runs import image_measures as measuring
from tokviz.runs.image_measures import attention_entropy, effective_rank, image_measures, mean_effective_rank
from tokviz.runs.metrics import Reach, absorbed_into, nearest_kept, reach, selected


def by_svd(rows):
    """The definition itself."""
    values = np.linalg.svd(np.asarray(rows, dtype=np.float64), compute_uv=False)
    shares = values / values.sum()
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def test_effective_rank_by_hand():
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1)
    # singular values 3 and 1: shares 3/4 and 1/4, not those of their squares
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.tensor([[3.0, 0.0], [0.0, -1.0], [0.0, 0.0]])) == pytest.approx(expected, rel=1e-12)
    assert effective_rank(torch.full((2, 2), 2.0)) == pytest.approx(1), "not centred: a constant is one direction"
    assert effective_rank(torch.zeros(4, 3)) == effective_rank(torch.empty(0, 3)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_effective_rank_is_that_of_the_singular_values(seed):
    generator = np.random.default_rng(seed)
    n, d, rank = generator.integers(1, 40, 3)
    rows = generator.normal(size=(n, rank)) @ generator.normal(size=(rank, d)) * 10.0 ** generator.integers(-12, 12)
    assert effective_rank(torch.from_numpy(rows)) == pytest.approx(by_svd(rows), rel=1e-6)
    broken = np.concatenate([rows, np.full((1, d), np.nan), np.full((1, d), np.inf)])
    assert effective_rank(torch.from_numpy(broken)) == pytest.approx(by_svd(rows), rel=1e-6)


def test_entropy_by_hand():
    assert attention_entropy(torch.full((8,), 0.01)) == pytest.approx(math.log(8)), "shares of what the patches get"
    assert attention_entropy(torch.tensor([0.0, 0.3, 0.0])) == 0
    expected = -(0.5 * math.log(0.5) + 0.5 * math.log(0.25))
    assert attention_entropy(torch.tensor([0.2, torch.nan, 0.1, 0.1])) == pytest.approx(expected)
    assert attention_entropy(torch.tensor([torch.nan, 0.0])) is None


def test_views_are_measured_one_by_one_without_what_is_no_patch(monkeypatch):
    features = torch.zeros(7, 3)
    features[0, 0] = features[1, 1] = features[2, 2] = 1.0  # view 0: three directions; row 3 is a newline
    features[3] = 100.0
    features[4:] = torch.tensor([1.0, 1.0, 0.0])  # view 1: one
    view, patch = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([True] * 3 + [False] + [True] * 3)
    seen = {"cls_attention": {"feature": torch.tensor([1, 1, 1, torch.nan, 1, 0, 0])}}
    vision = VisionSignals(features, seen, view, patch)
    assert mean_effective_rank(vision) == pytest.approx(2)
    assert mean_effective_rank(vision, [0, 3, 4, 6]) == pytest.approx(1)
    assert mean_effective_rank(vision, [0, 1]) == pytest.approx(1), "a view that is left empty counts as 0"
    assert mean_effective_rank(vision, []) == 0
    vlm = SimpleNamespace(record=SimpleNamespace(name="this model"))
    found = image_measures(vlm, SimpleNamespace(vision=[vision]))
    assert found.attention_entropy == pytest.approx(math.log(3) / 2) and found.effective_rank == pytest.approx(2)
    assert (found.views, found.notes) == (2, [])
    monkeypatch.setattr(measuring, "LARGEST", 2)
    without = image_measures(vlm, SimpleNamespace(vision=[VisionSignals(features, {}, view, patch)]))
    assert (without.attention_entropy, without.effective_rank) == (None, None)
    assert without.notes[0] == "this model has no [CLS] token, whose attention the entropy would be of."
    assert "7 tokens of 3 numbers" in without.notes[1]


# -- distances -----------------------------------------------------------------------------------------------------


def grid_of(*views, others=0):
    """A grid of whole views; ``others``: tokens at the end that are no patch."""
    cells = [(number, row, col) for number, v in enumerate(views) for row in range(v.rows) for col in range(v.cols)]
    cells += [(len(views) - 1, -1, -1)] * others
    return TokenGrid(
        image_size=(8, 8), views=list(views), view=[c[0] for c in cells], row=[c[1] for c in cells],
        col=[c[2] for c in cells], box=[None if c[1] < 0 else (0.0, 0.0, 1.0, 1.0) for c in cells],
    )  # fmt: skip


def view(rows, cols, **more):
    return GridView(name="v", rows=rows, cols=cols, seen=(0, 0, 8, 8), **more)


def test_distances_by_hand():
    grid = grid_of(view(3, 3), others=1)
    root = math.sqrt
    assert nearest_kept(grid, [0, 9]) == [0, 1, 2, 1, root(2), root(5), 2, root(5), root(8), None]
    assert reach(grid, [0, 9], [0, 2, 8, 9]) == Reach((2 + root(8)) / 2, root(8), 0), "kept ones are not counted"
    assert reach(grid, list(range(10))) is None and reach(grid, [0], [0]) is None
    assert nearest_kept(grid, []) == [None] * 10 and reach(grid, []) == Reach(None, None, 9)


def test_crops_lie_side_by_side_and_levels_and_frames_apart():
    tiled = grid_of(view(2, 2), view(2, 2, level=1), view(2, 2, level=1, left=2))
    found = nearest_kept(tiled, [5])  # row 0, column 1 of the left crop
    assert found[:4] == [None] * 4 and found[8] == 1 and found[11] == pytest.approx(math.sqrt(5))
    assert reach(tiled, [5]).apart == 4
    film = grid_of(view(1, 2, frames=(0,)), view(1, 2, level=1, frames=(1,)))
    assert nearest_kept(film, [0]) == [0, 1, None, None]


@pytest.mark.parametrize("few", [0, 7, 2**20], ids=["over the grid", "in parts", "at once"])
@pytest.mark.parametrize("seed", range(8))
def test_distances_are_those_of_brute_force(seed, few, monkeypatch):
    monkeypatch.setattr("tokviz.runs.metrics._FEW_PAIRS", max(few, 1))
    generator = np.random.default_rng(seed)
    grid = grid_of(view(4, 5), view(3, 2, level=1), view(3, 3, level=1, left=2), others=2)
    n = grid.n_tokens
    kept = sorted(generator.choice(n, generator.integers(0, n), replace=False).tolist())

    def place(token):
        v = grid.views[grid.view[token]]
        return v.level, grid.row[token] + v.top, grid.col[token] + v.left

    for token, found in enumerate(nearest_kept(grid, kept)):
        mine = place(token)
        others = [place(k) for k in kept if grid.row[k] >= 0 and place(k)[0] == mine[0]]
        expected = min((math.dist(mine[1:], other[1:]) for other in others), default=None)
        assert found == (None if grid.row[token] < 0 or expected is None else pytest.approx(expected))


# -- carriers and margins ------------------------------------------------------------------------------------------


def stage(kept, assignment=None, n_in=6):
    return StageRecord(
        title="", site="projector", site_label="", positions="keep", planned_keep=None, n_in=n_in, kept=kept,
        score=None, order=None, assignment=assignment, maps=[], facts={}, selection_ms=None,
    )  # fmt: skip


def test_the_token_that_absorbed_the_evidence_is_named_through_all_merges():
    first, second = stage([0, 2, 4], [0, 0, 2, 2, 4, -1]), stage([0, 4], [0, -1, 4, -1, 4, -1], 3)
    assert absorbed_into([1, 2, 3, 4, 5], [first], 6) == {1: 0, 3: 2}
    assert absorbed_into([1, 2, 3, 4, 5], [first, second], 6) == {1: 0, 2: 4, 3: 4}
    assert absorbed_into([1], [first, stage([2, 4], None, 3)], 6) == {}, "its carrier was dropped: it is lost"
    run = Run(method="m", label="m", family="control", params={}, stages=[first, second, stage([], None, 2)])
    assert selected(run) == [0, 4], "before everything is withdrawn"
    assert selected(run.model_copy(update={"stages": [stage([])]})) is None


def test_margins_by_hand():
    tokens = [
        AnswerToken(id=1, text="a", logprob=-0.5, runner_up=-2.0),
        AnswerToken(id=2, text="b", logprob=-0.25, runner_up=-0.5),
        AnswerToken(id=3, text="c", logprob=-0.1),
    ]
    run = Run(method="m", label="m", family="control", params={}, answer_tokens=tokens)
    assert [token.margin for token in tokens] == [1.5, 0.25, None]
    assert (run.margin, run.least_margin) == (1.5, 0.25)
    empty = run.model_copy(update={"answer_tokens": []})
    assert (empty.margin, empty.least_margin) == (None, None)


@pytest.fixture(scope="module")
def compared(vlm, scene_image):
    boxes = [(40, 40, 140, 140)]
    methods = ["apet", "random", "fastv", "vtw", "downsample"]
    return tokviz.compare(vlm, scene_image, "what color is the star?", methods, budget=64, evidence=boxes)


def test_margins_come_from_the_logits_of_the_run(vlm, scene_image, compared):
    inputs = tokviz.inputs_for(vlm, scene_image, "what color is the star?")
    generation = {"max_new_tokens": 32, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    made = vlm.model.generate(**inputs, **generation)
    for said, logits in zip(compared["full"].answer_tokens, made.logits, strict=True):
        best, second = logits[0].float().log_softmax(-1).topk(2).values.tolist()
        assert (said.logprob, said.runner_up) == (pytest.approx(best, abs=1e-3), pytest.approx(second, abs=1e-3))
    assert all(run.least_margin >= 0 for run in compared)


def test_ranks_of_runs_are_those_of_what_they_kept(vlm, compared):
    whole = compared["full"].effective_rank
    assert compared.measures.effective_rank == whole == compared["vtw"].effective_rank
    assert 0 < compared.measures.attention_entropy < math.log(compared.grid.n_tokens)
    assert compared.measures.notes == [] and compared.measures.views == 1
    pruned = [compared[name] for name in ("apet", "random", "fastv", "downsample")]
    assert all(1 <= run.effective_rank < min(whole, 64) for run in pruned)
    again = tokviz.Comparison.from_json(compared.to_json())
    assert again.measures == compared.measures and again["apet"].effective_rank == compared["apet"].effective_rank


def test_the_table_names_what_absorbed_the_evidence(compared):
    table = compared.to_pandas()
    merged = table.loc["apet"]
    assert merged.evidence_absorbed == len(merged.evidence_carriers) > 0
    assert set(merged.evidence_carriers.values()) <= set(compared["apet"].kept)
    assert (table.evidence_kept + table.evidence_absorbed + table.evidence_lost).nunique() == 1
    assert table.evidence_lost["fastv"] > 0 and table.evidence_carriers["fastv"] == {}
    assert table.nearest_kept_max["random"] >= table.nearest_kept_mean["random"] >= 1
    assert math.isnan(table.nearest_kept_mean["full"]) and table.margin["full"] == compared["full"].margin
