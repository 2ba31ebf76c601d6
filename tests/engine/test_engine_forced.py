"""A forced answer without some tokens is the answer with those keys masked from that layer on, in every family."""

import pytest
import torch
from engine_oracle import oracle
from tiny_case import LAYERS
from tiny_families import CASES

from tokviz.engine import ForcedAnswer, encode, prune
from tokviz.errors import Unsupported
from tokviz.types import Selection, Stage


@pytest.fixture(scope="module", params=CASES)
def made(request):
    """``(case, model, inputs, prompt, answer, forced)`` in float64."""
    case = CASES[request.param]
    model = case.model(torch.float64, "sdpa")
    inputs = case.prompt(model, [[3, "visual", 6]])
    prompt = encode(model, case.here, inputs, ())
    answer = torch.randint(4, 89, (4,), generator=torch.Generator().manual_seed(3)).tolist()
    return case, model, inputs, prompt, answer, ForcedAnswer(model, case.here, prompt, answer, range(LAYERS))


def unused(*_):
    raise AssertionError("select() is asked instead")


def dropped(n, lists):
    """``select`` that drops these tokens of each copy."""
    keeps = [[token for token in range(n) if token not in gone] for gone in lists]
    return lambda _stage, _signals, row: Selection(kept=torch.tensor(keeps[row], dtype=torch.int64))


@pytest.mark.parametrize(("layer", "positions"), [(0, "keep"), (1, "keep"), (LAYERS - 1, "keep"), (3, "reindex")])
def test_dropping_is_masking_from_that_layer_on(made, layer, positions):
    case, model, inputs, prompt, answer, forced = made
    if positions == "reindex" and not case.here.reindexes:
        pytest.skip("positions of several axes are never renumbered")
    n = prompt.n_visual[0]
    lists = [[], [0], [n - 1, n // 2], list(range(n)), list(range(1, n))]
    stage = Stage(layer, None, unused, positions=positions, title="blocks")
    found = forced.scores(stage, dropped(n, lists), len(lists))
    for copy, gone in enumerate(lists):
        select = dropped(n, [gone])
        logits, kept = oracle(model, inputs, [stage], select, torch.tensor([answer]), case)
        assert kept == [[[token for token in range(n) if token not in gone]]]
        expected = logits[:, 0].log_softmax(-1)[range(len(answer)), answer].sum()
        assert float(found[copy]) == pytest.approx(float(expected), abs=1e-9), (copy, gone)
    assert float(found[0]) == pytest.approx(float(forced.logprobs.sum()), abs=1e-9)
    assert len({round(float(value), 6) for value in found}) == len(lists), "a dropped token shows"


def test_it_is_what_the_engine_decodes_token_by_token(made):
    case, model, _, prompt, _, _ = made
    n = prompt.n_visual[0]
    stage, select = Stage(2, None, unused, positions="keep", title="blocks"), dropped(n, [[0, n - 1]])
    with prune(model, case.here, prompt, [stage], select) as pruned:
        said = model.generate(
            **pruned.inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    answer = said.sequences[0].tolist()
    expected = sum(float(logits[0].log_softmax(-1)[token]) for logits, token in zip(said.logits, answer, strict=True))
    forced = ForcedAnswer(model, case.here, prompt, answer, [2])
    assert float(forced.scores(stage, select, 1)) == pytest.approx(expected, abs=1e-4)


def test_the_hooks_are_gone_and_unknown_layers_refused(made):
    case, model, _, prompt, answer, forced = made
    assert not any(layer._forward_pre_hooks for layer in case.here.layers(model))
    few = ForcedAnswer(model, case.here, prompt, answer[:1], [3])
    with pytest.raises(ValueError, match="before layer 2"):
        few.scores(Stage(2, None, unused), dropped(prompt.n_visual[0], [[]]), 1)
    with pytest.raises(ValueError, match="at least one token"):
        ForcedAnswer(model, case.here, prompt, [], [3])
    assert len(forced.logprobs) == len(answer) and forced.length == prompt.inputs_embeds.shape[1] + len(answer) - 1


def test_a_model_that_is_more_than_its_layers_is_refused(monkeypatch):
    case = CASES["llava"]
    model = case.model()
    prompt = encode(model, case.here, case.prompt(model, [[3, "visual", 6]]), ())
    wider = torch.nn.Linear(32, 100, bias=False).double()
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda _self: wider)
    with pytest.raises(Unsupported, match="cannot be run one by one"):
        ForcedAnswer(model, case.here, prompt, [5, 6], [0])
