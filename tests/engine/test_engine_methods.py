"""Every registered method on tiny stock models: what the tap shows is what eager attention is, and K = N is nothing."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from engine_models import FAMILY, IMAGE, LAYERS, PATCHES, everything, generated, prompt
from engine_sequences import rebuilt

from tokviz.engine import Geometry, encode, prune, shorten
from tokviz.errors import BadInput
from tokviz.pruners import PRUNERS
from tokviz.types import Budget, PlanningInfo

PADDED = [[5, "image", 6], [2, "image", 3]]
INFO = PlanningInfo(PATCHES, LAYERS, n_vision_layers=3)
ATTENTION = ("last_row", "text_rows", "head_rows")
CELLS = torch.tensor([[place // 4, place % 4] for place in range(PATCHES)])
EVIDENCE = torch.tensor([0.0, 1.0, 0.5]).repeat(6)[:PATCHES]
PLACES = Geometry(cell=CELLS, evidence=EVIDENCE)
HERE = [pruner for pruner in PRUNERS if pruner.missing(INFO) is None]


def identity(pruner):
    return pruner.id


def planned(pruner, **given):
    """The stages and parameters of a schedule for a small budget that this model can meet."""
    params = pruner.complete(given)
    for tokens in (6, 8, 10):
        for meaning in ("published", "final", "average"):
            try:
                return pruner.schedule(Budget(tokens, meaning), INFO, params).stages, params
            except BadInput:
                continue
    assert given, f"{pruner.id} meets no budget of this model"
    return (), params  # a choice that this model cannot serve


def attentive(stage):
    return any(need.kind in ATTENTION for need in stage.needs)


def attentive_methods():
    """Every method, under every choice of one parameter, that looks at attention inside the LLM."""
    for pruner in HERE:
        variants = [{}, *({param.name: choice} for param in pruner.params for choice in param.choices[1:])]
        for given in variants:
            if any(attentive(stage) for stage in planned(pruner, **given)[0]):
                yield pytest.param(pruner, given, id=" ".join([pruner.id, *given.values()]))


ATTENTIVE = list(attentive_methods())


def words(inputs):
    """Everything behind the image but the last token, as if the template ended in one."""
    ids = inputs["input_ids"]
    columns = torch.arange(ids.shape[1])
    last_visual = torch.where(ids == IMAGE, columns, -1).amax(dim=1, keepdim=True)
    return (columns > last_visual) & (columns < ids.shape[1] - 1)


def chosen_by(params):
    """What a lane does: the stage's own function, one seeded generator per row."""
    generators = {}

    def choose(stage, signals, row):
        generator = generators.setdefault(row, torch.Generator().manual_seed(row))
        return stage.select(signals, stage.keep, params, generator)

    return choose


def carried_out(model, inputs, stages, choose):
    """Logits and kept tokens as a lane gets them: shortened prompt first, hooks for the rest."""
    needs = {need for stage in stages for need in stage.needs}
    told = {"question_mask": words(inputs), "geometry": [PLACES] * len(inputs["input_ids"])}
    encoded = encode(model, FAMILY, inputs, needs, **told)
    early = [stage for stage in stages if not isinstance(stage.site, int)]
    late = [stage for stage in stages if isinstance(stage.site, int)]
    short, events = shorten(model, FAMILY, encoded, early, choose)
    with prune(model, FAMILY, short, late, choose) if late else nullcontext() as trace:
        logits = generated(model, short.generate_inputs(), steps=4)[1]
    rows = events if trace is None else [[*a, *b] for a, b in zip(events, trace.events, strict=True)]
    return logits, [[event.kept.tolist() for event in row] for row in rows]


@pytest.mark.parametrize("pruner", HERE, ids=identity)
def test_keeping_everything_is_bit_identical_to_the_stock_model(model, pruner):
    """Every stage with a count is asked for more tokens than there are; others decide at run time, or drop all."""
    stages, params = planned(pruner)
    stages = [replace(stage, keep=PATCHES + 5) for stage in stages if stage.keep]
    inputs = prompt(model, PADDED)
    logits, kept = carried_out(model, inputs, stages, chosen_by(params))
    assert torch.equal(logits, generated(model, inputs, steps=4)[1])
    assert all(stage_kept == list(range(PATCHES)) for row in kept for stage_kept in row)


@pytest.mark.parametrize("pruner", HERE, ids=identity)
def test_a_method_carried_out_twice_is_the_same_and_prunes(sdpa32, pruner):
    inputs = prompt(sdpa32, PADDED)
    stages, params = planned(pruner)
    first = carried_out(sdpa32, inputs, stages, chosen_by(params))
    again = carried_out(sdpa32, inputs, stages, chosen_by(params))
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    assert bool(stages) == any(len(kept) < PATCHES for row in first[1] for kept in row)


@pytest.mark.parametrize("kernel", ["sdpa32", "eager32"])
@pytest.mark.parametrize("pruner, given", ATTENTIVE)
def test_every_stage_keeps_what_eager_attention_weights_say(request, kernel, pruner, given, eager32):
    """Each stage alone on the unpruned, left-padded batch, against the maps that transformers itself returns."""
    model = request.getfixturevalue(kernel)
    inputs = prompt(model, PADDED)
    with torch.no_grad():
        maps = eager32(**inputs, output_attentions=True).attentions
    stages, params = planned(pruner, **given)
    for stage in filter(attentive, stages):
        seen = {}

        def look(stage, signals, row, seen=seen):
            seen[row] = signals
            return everything(stage, signals, row)

        told = {"question_mask": words(inputs), "geometry": [PLACES] * 2}
        with torch.no_grad(), prune(model, FAMILY, None, [stage], look, **told):
            model(**inputs)
        for row, signals in seen.items():
            expected = replace(signals, **from_eager(stage, maps, inputs["input_ids"][row] == IMAGE, row))
            mine, theirs = (stage.select(s, stage.keep, params, torch.Generator()) for s in (signals, expected))
            assert torch.equal(mine.kept, theirs.kept)
            assert signals.attention_rows is None or signals.attention_rows.max() > 0.02
        assert len(seen) == 2


def from_eager(stage, maps, visual, row):
    """The stage's attention signals out of maps ``(B, H, L, L)`` per layer."""
    found, first = {}, int(visual.nonzero().max()) + 1
    for need in stage.needs:
        if need.kind in ATTENTION:
            weights = maps[stage.site if need.layer == "this" else stage.site - 1][row]
            heads = weights[:, -1:] if need.kind == "last_row" else weights[:, first:]
            heads = heads[:, :, visual]
            found["head_rows" if need.kind == "head_rows" else "attention_rows"] = (
                heads if need.kind == "head_rows" else heads.mean(0)
            )
    return found


@pytest.mark.parametrize("pruner, given", ATTENTIVE)
def test_a_whole_schedule_keeps_what_the_oracle_keeps(sdpa64, pruner, given):
    """All stages in the LLM, one after the other, against a sequence rebuilt by hand with its own attention."""
    stages, params = planned(pruner, **given)
    inside = [stage for stage in stages if isinstance(stage.site, int)]
    inputs = prompt(sdpa64, PADDED)

    def choose(stage, signals, row):
        return stage.select(signals, stage.keep, params, torch.Generator().manual_seed(row))

    with prune(sdpa64, FAMILY, None, inside, choose, question_mask=words(inputs)) as trace:
        sequences, logits = generated(sdpa64, inputs, steps=3)
    expected, orders = rebuilt(sdpa64, inputs, inside, choose, sequences[:, inputs["input_ids"].shape[1] :])
    assert [[event.sequence.tolist() for event in row] for row in trace.events] == orders
    assert (logits - expected).abs().max() <= 1e-5
