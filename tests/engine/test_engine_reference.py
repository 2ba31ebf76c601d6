"""Another answer scored on the cache of the one generated, and answers forced through several stages, by masking."""

import threading

import pytest
import torch
from engine_oracle import oracle
from tiny_case import LAYERS
from tiny_families import CASES

from tokviz.engine import ForcedAnswer, answer, encode, running_on, shorten
from tokviz.types import Selection, Stage

NEW = 4


def unused(*_):
    raise AssertionError("select() is asked instead")


def keeping(stages, keeps):
    """``select`` that keeps these rows of each stage (of those still there)."""
    return lambda stage, _signals, _row: Selection(kept=torch.tensor(keeps[stages.index(stage)], dtype=torch.int64))


@pytest.fixture(scope="module", params=CASES)
def made(request):
    """``(case, model, inputs, prompt)`` in float64."""
    case = CASES[request.param]
    model = case.model(torch.float64, "sdpa")
    inputs = case.prompt(model, [[3, "visual", 6]])
    return case, model, inputs, encode(model, case.here, inputs, ())


def said(case, model, prompt, stages, select, reference):
    early = [stage for stage in stages if not isinstance(stage.site, int)]
    late = [stage for stage in stages if isinstance(stage.site, int)]
    short, _ = shorten(model, case.here, prompt, early, select)
    stop = threading.Event()
    with running_on(model, case.here, short, late, select):
        return answer(model, short, max_new_tokens=NEW, on_tokens=lambda _ids: None, stop=stop, reference=reference)


def stages_of(case, kind):
    """Stages and what each keeps of the rows that it is given."""
    positions = "reindex" if case.here.reindexes else "keep"
    return {
        "none": ([], lambda n: []),
        "early": ([Stage("projector", None, unused, (), positions)], lambda n: [range(0, n, 2)]),
        "late": ([Stage(2, None, unused, (), "keep")], lambda n: [range(1, n, 2)]),
        "both": (
            [Stage("projector", None, unused, (), "keep"), Stage(1, None, unused, (), positions),
             Stage(4, None, unused, (), "keep")],
            lambda n: [range(1, n), range(0, n - 1, 2), [0, 1]],
        ),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["none", "early", "late", "both"])
def test_another_answer_is_scored_as_the_masked_model_scores_it(made, kind):
    case, model, inputs, prompt = made
    n = prompt.n_visual[0]
    stages, keep = stages_of(case, kind)
    select = keeping(stages, [list(rows) for rows in keep(n)])
    own = said(case, model, prompt, stages, select, ()).token_ids
    other = torch.randint(4, 89, (6,), generator=torch.Generator().manual_seed(3)).tolist()
    longest = [other, [*own[:2], *other[:3]], [*own, *other[:2]]]
    references = [*longest[:2], own[:1], longest[2], other[:1], own]
    known = [oracle(model, inputs, stages, select, torch.tensor([ids]), case)[0][:, 0] for ids in longest]
    for reference in references:
        found = said(case, model, prompt, stages, select, reference)
        assert found.token_ids == own and len(found.reference_logprobs) == len(reference)
        # What begins an answer is predicted alike whatever follows.
        logits = next(k for k, ids in zip(known, longest, strict=True) if ids[: len(reference)] == reference)
        expected = logits.log_softmax(-1)[range(len(reference)), reference]
        assert found.reference_logprobs == pytest.approx(expected.tolist(), abs=2e-5)
    assert found.reference_logprobs == found.logprobs, "its own answer costs nothing and is the same bits"


def test_several_stages_are_masks_from_several_layers_on(made):
    case, model, inputs, prompt = made
    n = prompt.n_visual[0]
    positions = "reindex" if case.here.reindexes else "keep"
    stages = [
        Stage(0, None, unused, (), positions),
        Stage(2, None, unused, (), "keep"),
        Stage(5, None, unused, (), "keep"),
    ]
    keeps = [
        [list(range(0, n, 2)), [0, 1], [0]],
        [list(range(n)), list(range(n)), list(range(n))],
        [list(range(1, n)), list(range(n - 1)), []],
    ]
    masked = [Stage("projector", None, unused, (), positions), *stages[1:]]
    ids = torch.randint(4, 89, (3,), generator=torch.Generator().manual_seed(5)).tolist()
    forced = ForcedAnswer(model, case.here, prompt, ids, [0])

    def select(stage, _signals, row):
        return Selection(kept=torch.tensor(keeps[row][stages.index(stage)], dtype=torch.int64))

    scores, greedy = forced.judged(stages, select, len(keeps))
    for copy, rows in enumerate(keeps):
        logits, _ = oracle(model, inputs, masked, keeping(masked, rows), torch.tensor([ids]), case)
        expected = logits[:, 0].log_softmax(-1)[range(len(ids)), ids].sum()
        assert float(scores[copy]) == pytest.approx(float(expected), abs=1e-9)
        assert not bool(greedy[copy]) and logits[:, 0].argmax(-1).tolist() != ids, "not what a random model says"
    assert len({round(float(score), 6) for score in scores}) == len(keeps)


def test_an_answer_is_said_to_be_given_where_the_model_gives_it(made):
    case, model, _, prompt = made
    n, stage = prompt.n_visual[0], Stage(LAYERS - 2, None, unused, (), "keep")
    keep = list(range(0, n, 3))
    own = said(case, model, prompt, [stage], keeping([stage], [keep]), ()).token_ids
    forced = ForcedAnswer(model, case.here, prompt, own, [stage.site])
    assert forced.judged([stage], keeping([stage], [keep]), 1)[1].tolist() == [True]
    changed = ForcedAnswer(model, case.here, prompt, [*own[:-1], own[-1] % 50 + 7], [stage.site])
    assert changed.judged([stage], keeping([stage], [keep]), 1)[1].tolist() == [False]


def test_what_a_model_never_says_and_what_it_is_loath_to_repeat_is_known(made, monkeypatch):
    case, model, _, prompt = made
    own = said(case, model, prompt, [], keeping([], []), ()).token_ids
    for name, value in (("suppress_tokens", [own[1], 90, 91]), ("repetition_penalty", 1.3)):
        monkeypatch.setattr(model.generation_config, name, value)
        now = said(case, model, prompt, [], keeping([], []), ()).token_ids
        stage, everything = Stage(3, None, unused, (), "keep"), list(range(prompt.n_visual[0]))
        for ids in (now, own):
            forced = ForcedAnswer(model, case.here, prompt, ids, [3])
            assert forced.judged([stage], keeping([stage], [everything]), 1)[1].tolist() == [ids == now]
