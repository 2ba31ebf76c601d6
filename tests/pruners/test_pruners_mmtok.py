"""MMTok on an example that can be checked on paper, and against a slow reference."""

import math

import pytest
import torch

from tokviz.pruners import get, mmtok
from tokviz.pruners.mmtok import NO_QUESTION, image_cover, joint_cover, select
from tokviz.types import ENCODER_FEATURES, QUESTION_FEATURES, TEXT_FEATURES, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("mmtok").complete(given)


def signals(tokens, encoded, text, index=None, **more):
    text = torch.as_tensor(text, dtype=torch.float32)
    index = torch.arange(len(text)) if index is None else torch.tensor(index, dtype=torch.int64)
    given = {"question_features": text[index], "question_index": index, "text_features": text, **more}
    return Signals(torch.as_tensor(tokens), encoder_features=torch.as_tensor(encoded), **given)


def shown(selection, name):
    return next(m.values for m in selection.diagnostics.maps if m.name == name).tolist()


# ------------------------------------------------------------------------------------------------- on paper

# With temperature 1/ln 3 a cosine of 1 weighs 3 times as much as one of 0.
THIRD = 1 / math.log(3)
EAST, NORTH, UP = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]


def test_words_alone():
    # Word 0 of the text is no part of the question. EAST covers token 0 with 3 / 5 of itself and the others with 1 / 5,
    # NORTH token 1: with two words every token is worth at first 0.3 + 0.1, 0.1 + 0.3, 0.1 + 0.1.
    given = signals([EAST, NORTH, UP], [EAST, NORTH, UP], [UP, EAST, NORTH], [1, 2])
    selection = select(given, 2, params(alpha=0.0, text_temperature=round(THIRD, 3)), generator())
    assert selection.order.tolist() == [0, 1, -1]  # then token 1 adds 0.2, token 2 nothing
    assert selection.diagnostics.score.values.tolist() == pytest.approx([0.4, 0.2, 0.0], abs=1e-3)
    assert shown(selection, "word") == pytest.approx([2, 3, NAN], nan_ok=True)  # numbers in the text, from 1
    assert shown(selection, "text_share") == pytest.approx([1, 1, NAN], nan_ok=True)
    text = selection.diagnostics.text
    assert text.values.tolist() == pytest.approx([NAN, 1, 1], nan_ok=True) and text.chosen.tolist() == [
        False,
        True,
        True,
    ]
    assert selection.diagnostics.facts == {"kept_for_words": 2, "text_share": 1.0, "non_finite": 0}


def test_words_and_image():
    # Of the image tokens 0 and 1 are equal: each covers itself, and the other, with 3 / 7, token 2 covers itself with
    # 3 / 5 and them with 1 / 7. As a share of 3 tokens, at half weight: (3 / 7 + 3 / 7 + 1 / 5) / 6 = 0.17619, and
    # (1 / 7 + 1 / 7 + 3 / 5) / 6 = 0.14762. The word, east, covers token 0 with 3 / 5 and the others with 1 / 5.
    given = signals([EAST, NORTH, UP], [EAST, EAST, UP], [EAST])
    temperature = round(THIRD, 3)
    selection = select(given, 2, params(text_temperature=temperature, image_temperature=round(THIRD, 2)), generator())
    assert selection.order.tolist() == [0, -1, 1]
    # Token 0: 0.6 + 0.17619. Then token 1 adds nothing, token 2 covers itself by (3 - 1) / 5 / 6 more.
    assert selection.diagnostics.score.values.tolist() == pytest.approx([0.77619, 0, 0.06667], abs=1e-3)
    assert shown(selection, "word") == pytest.approx([1, NAN, 0], nan_ok=True)
    assert shown(selection, "text_share") == pytest.approx([0.6 / 0.77619, NAN, 0], nan_ok=True, abs=1e-3)
    assert shown(selection, "covered") == pytest.approx([1, 1, 1])


def test_without_a_finite_question_token_the_image_is_covered():
    given = signals([EAST, NORTH, UP], [EAST, EAST, UP], [[NAN, 0, 0]])
    selection = select(given, 2, params(), generator())
    assert selection.kept.tolist() == [0, 2] and selection.diagnostics.warnings == (NO_QUESTION,)
    assert selection.diagnostics.facts["kept_for_words"] == 0


def test_every_view_covers_the_words_by_itself():
    x = torch.randn(6, 5, generator=generator(1))
    text = torch.randn(3, 5, generator=generator(2))
    both = signals(torch.cat([x, x]), torch.cat([x, x]), text, view=torch.tensor([0] * 6 + [1] * 6))
    one = select(signals(x, x, text), 3, params(), generator())
    two = select(both, 6, params(), generator())
    assert two.kept.tolist() == [*one.kept.tolist(), *(6 + one.kept).tolist()]
    counts = one.diagnostics.text.values
    assert two.diagnostics.text.values.tolist() == (2 * counts).tolist()


def test_the_stage():
    stages = get("mmtok").schedule(Budget(64), PlanningInfo(576, 32), params()).stages
    needs = (ENCODER_FEATURES, QUESTION_FEATURES, TEXT_FEATURES)
    assert [(s.site, s.keep, s.needs, s.positions) for s in stages] == [("projector", 64, needs, "reindex")]


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, encoded, words, count, alpha, text_temperature, image_temperature):
    """Picks, who may have asked for each, and how near the runner-up was; one number at a time, float64."""

    def cosine(a, b):
        length = math.hypot(*a) * math.hypot(*b)
        return sum(p * q for p, q in zip(a, b, strict=True)) / length if length else 0.0

    def softmax(values, temperature):
        weights = [math.exp(value / temperature) for value in values]
        return [weight / sum(weights) for weight in weights]

    x, encoded, words = (tensor.double().tolist() for tensor in (x, encoded, words))
    n, m = len(x), len(words)
    cover = [[p / m for p in softmax([cosine(w, v) for v in x], text_temperature)] for w in words]
    cover += [[alpha * q / n for q in softmax([cosine(e, f) for f in encoded], image_temperature)] for e in encoded]
    best, picks, asked, margin = [0.0] * len(cover), [], [], math.inf
    for _ in range(count):
        worth = {j: sum(max(0.0, row[j] - b) for row, b in zip(cover, best, strict=True)) for j in range(n)}
        left = [j for j in range(n) if j not in picks]
        pick = min(left, key=lambda j: (-worth[j], j))
        margin = min([margin, *(worth[pick] - worth[j] for j in left if j != pick)])
        raised = [cover[r][pick] - best[r] for r in range(m)]
        most = [r + 1 for r in range(m) if raised[r] > max(raised) - 1e-6]  # equal up to rounding
        asked.append(most if max(raised) > 0 else [0])
        picks.append(pick)
        best = [max(b, row[pick]) for row, b in zip(cover, best, strict=True)]
    return picks, asked, margin


def test_against_a_slow_reference():
    compared = 0
    for seed in range(60):
        n, m = 4 + seed % 17, 1 + seed % 4
        count = 1 + seed % (n - 1)
        x, encoded = (torch.randn(n, 6, generator=generator(seed + k)) for k in (0, 100))
        words = torch.randn(m, 6, generator=generator(seed + 200))
        given = {
            "alpha": (0.5, 1.0, 0.0)[seed % 3],
            "text_temperature": (0.2, 0.02)[seed % 2],
            "image_temperature": 0.2,
        }
        picks, asked, margin = slow(x, encoded, words, count, *given.values())
        if margin < 1e-6:
            continue
        compared += 1
        selection = select(signals(x, encoded, words), count, params(**given), generator())
        assert [selection.order.tolist().index(step) for step in range(count)] == picks
        word = shown(selection, "word")
        assert all(word[pick] in may for pick, may in zip(picks, asked, strict=True))
    assert compared >= 35


def test_without_room_for_the_matrix_the_cover_is_the_same(monkeypatch):
    x, encoded = (torch.randn(40, 9, generator=generator(seed)) for seed in (1, 2))
    words = torch.randn(3, 9, generator=generator(3))
    unit = [rows / rows.norm(dim=1, keepdim=True) for rows in (words, x, encoded)]
    every = torch.arange(40)
    stored = joint_cover(*unit, params())(every)
    assert stored[:, :3].sum(0).tolist() == pytest.approx([1 / 3] * 3)
    assert stored[:, 3:].sum(0).tolist() == pytest.approx([0.5 / 40] * 40)
    monkeypatch.setattr(mmtok, "LARGEST_COSINE_MATRIX", 10)
    assert torch.allclose(stored[:, 3:], image_cover(unit[2], 0.2, 0.5)(every), rtol=1e-5)
