"""The sentence about the evidence, worked out by hand."""

import pytest

from tokviz.comparison import Comparison
from tokviz.models.llava import centre_crop_grid
from tokviz.names import site_label
from tokviz.records import ImageRecord, ModelRecord, Request, Run, StageRecord, TokenMap
from tokviz.runs.why import why

GRID = centre_crop_grid((30, 30), 30, 30, 10)


def stage(site, kept, n_in, scores, **more):
    score = None if scores is None else TokenMap("score", "Attention", scores)
    return StageRecord(**{
        "title": "", "site": site, "site_label": site_label(site), "positions": "reindex", "planned_keep": None,
        "n_in": n_in, "kept": kept, "score": score, "order": None, "assignment": None, "maps": [], "facts": {},
        "selection_ms": None, **more,
    })  # fmt: skip


def comparison_of(evidence, stages, error):
    boxes = [GRID.box[token] for token in evidence]
    request = Request(question="?", methods=[], budget=4, budget_as="published", seed=0, max_new_tokens=1, repeats=1,
                      evidence=boxes)  # fmt: skip
    image = ImageRecord(width=30, height=30, sha256="", mime="image/png", base64="")
    model = ModelRecord.model_construct()
    runs = [Run(method="full", label="No pruning", family="control", params={}),
            Run(method="method", label="A", family="control", params={}, stages=[*stages], error=error)]  # fmt: skip
    return Comparison.model_construct(request=request, image=image, model=model, grid=GRID, runs=runs, video=None)


def said(evidence, *stages, error=None):
    comparison = comparison_of(evidence, stages, error)
    return why(comparison, comparison.runs[1])


SCORES = [0.9, 0.1, 0.5, 0.5, 0.2, 0.8, 0.0, 0.3, 0.7]
"""Of a grid of three by three. From the highest: 0, 5, 8, 2 (before its equal), 3, 7, 4, 1, 6."""


@pytest.mark.parametrize(
    ("evidence", "sentence"),
    [
        ([3], "The evidence patch ranks 5 of 9 by score; 4 are kept: it is dropped."),
        ([2, 3], "The 2 evidence patches rank 4 and 5 of 9 by score; 4 are kept: 1 stays, 1 is dropped."),
        ([0, 5], "The 2 evidence patches rank 1 and 2 of 9 by score; 4 are kept: both stay."),
        ([1, 4, 6], "The 3 evidence patches rank 7, 8 and 9 of 9 by score; 4 are kept: all 3 are dropped."),
        (
            [0, 1, 2, 3, 4, 5],
            "The 6 evidence patches rank 1 to 8 (median 4.5) of 9 by score; 4 are kept: 3 stay, 3 are dropped.",
        ),
        ([], ""),
    ],
)
def test_ranks_of_a_method_that_keeps_the_highest(evidence, sentence):
    assert said(evidence, stage("projector", [0, 2, 5, 8], 9, SCORES)) == sentence


def test_what_is_absorbed_is_not_lost():
    """5 and 7 go into 8, 4 goes into 0; a score that is not all that counts is called that."""
    merged = stage("encoder", [0, 1, 8], 9, SCORES, assignment=[0, 1, -1, -1, 0, 8, -1, 8, 8])
    assert said([4, 5, 7], merged) == (
        "The 3 evidence patches rank 2, 6 and 7 of 9 by score; 3 are kept, not by score alone: "
        "all 3 are absorbed into 2 kept tokens."
    )


def test_the_layer_is_named_and_the_first_loss_decides():
    """2 stays; 5 goes into 8, which is dropped before layer 4; 7 is dropped at once, and decides: no score there."""
    first = stage("encoder", [0, 2, 8], 9, None, assignment=[0, -1, 2, -1, -1, 8, -1, -1, 8])
    second = stage(4, [2], 3, SCORES)
    assert said([2, 5, 7], first, second) == (
        "Of 9 tokens 3 are kept. The 3 evidence patches: 1 stays, 1 is dropped at the encoder output, "
        "1 is dropped before layer 4."
    )


def test_a_stage_that_withdraws_everything_is_no_selection():
    kept = stage("projector", [0, 5], 9, SCORES)
    assert said([5], kept, stage(2, [], 2, None)) == (
        "The evidence patch ranks 2 of 9 by score; 2 are kept: it stays, until all tokens are withdrawn before layer 2."
    )


def test_no_ranks_where_a_patch_of_the_evidence_was_not_scored():
    scores = [None if token == 3 else score for token, score in enumerate(SCORES)]
    assert said([0, 3], stage("projector", [0, 5], 9, scores)) == (
        "Of 9 tokens 2 are kept. The 2 evidence patches: 1 stays, 1 is dropped."
    )


def test_nothing_is_said_of_a_run_that_failed_or_pruned_nothing():
    assert said([0], error="No.") == said([0]) == ""


def test_a_comparison_says_it_of_its_runs():
    comparison = comparison_of([3], [stage("projector", [0, 2, 5, 8], 9, SCORES)], None)
    assert comparison.why("method").startswith("The evidence patch ranks 5 of 9")
    assert comparison.why(0) == ""
