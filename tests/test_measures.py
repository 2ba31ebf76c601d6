"""Hand-worked measures."""

import pytest

from tokviz.measures import decode_flops, evidence_recall, evidence_tokens, overlap, prefill_flops, timing, verdict
from tokviz.models.llava import centre_crop_grid
from tokviz.types import budget_meanings, tokens_per_block


def test_prefill_flops_by_hand():
    # d = 2, m = 3; block of n = 5: 4*5*4 + 2*25*2 + 2*5*2*3 = 80 + 100 + 60; block of n = 1: 16 + 4 + 12
    assert prefill_flops([5, 1], d=2, m=3) == 240 + 32


def test_decode_flops_equals_the_closed_form_of_the_paper():
    # ToDRE Eq. 2 with T equal blocks: T (4Ld² + 2Ldm + dL(2n + L − 1))
    T, n, L, d, m = 3, 7, 5, 4, 6
    assert decode_flops([n] * T, d, m, L) == T * (4 * L * d**2 + 2 * L * d * m + d * L * (2 * n + L - 1))


def test_the_published_ratio_of_encoding_prefilling_and_decoding():
    # ToDRE 3.1: LLaVA-NeXT-7B, n = 3000, L = 20: prefilling : decoding ≈ 63.6 : 0.4
    prefill, decode = prefill_flops([3000] * 32, 4096, 11008), decode_flops([3000] * 32, 4096, 11008, 20)
    assert decode / prefill == pytest.approx(0.4 / 63.6, rel=0.1)


def test_overlap():
    assert overlap([1, 2, 3], [2, 3, 4]) == 0.5
    assert overlap([], []) == 1.0
    assert overlap([1], []) == 0.0


@pytest.mark.parametrize(
    ("answer", "baseline", "expected", "kind"),
    [
        ("Red.", "red", "RED", "right"),
        ("blue", "red", "red", "flipped"),
        ("red", "blue", "red", "recovered"),
        ("blue", "green", "red", "wrong"),
        ("two  stars", "Two stars", None, "same"),
        ("one", "two", None, "changed"),
    ],
)
def test_verdicts(answer, baseline, expected, kind):
    assert verdict(answer, baseline, expected).kind == kind


def test_evidence_recall_counts_patches_that_show_it():
    grid = centre_crop_grid((40, 40), 40, 40, 10)
    evidence = [(10.0, 10.0, 20.0, 30.0)]
    assert evidence_tokens(grid, evidence) == [5, 9]
    assert evidence_recall(grid, evidence, [5, 0]) == 0.5
    assert evidence_recall(grid, [(0.0, 0.0, 0.1, 0.1)], [0]) is None


def test_timing_says_whether_it_is_a_median():
    assert timing([3.0, 1.0, 2.0]).median_ms == 2.0
    assert timing([5.0]).single_shot and not timing([5.0, 6.0]).single_shot


def test_budget_meanings_of_sparsevlm_as_published():
    # methods.md section 6: [300, 200, 110] with clusters 309/204/113 at the outputs of blocks 2, 6, 15 of 32
    per_block = tokens_per_block(576, 32, [(3, 309), (7, 204), (16, 113)])
    meanings = budget_meanings(per_block, 113)
    assert meanings.average_in == pytest.approx(206.5, abs=0.05)
    assert meanings.average_logged == pytest.approx(192.0, abs=0.05)
    assert meanings.final == 113


def test_stages_before_the_llm_count_from_block_zero():
    assert tokens_per_block(576, 4, [("encoder", 300), ("projector", 100), (2, None), (3, 0)]) == [100, 100, 100, 0]
