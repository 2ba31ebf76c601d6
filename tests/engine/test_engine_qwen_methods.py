"""Every registered method that runs on Qwen: K = N is nothing, twice is the same, attention is the eager models'."""

from dataclasses import replace

import pytest
import torch
from engine_models import everything, generated
from tiny_case import IMAGE, LAYERS
from tiny_families import CASES
from tiny_qwen import KINDS, MERGE

from tokviz.engine import Geometry, encode, prune, running_on, shorten
from tokviz.errors import BadInput
from tokviz.pruners import PRUNERS
from tokviz.types import RECEIVED_ATTENTION, Budget, PlanningInfo

ROWS = [[5, "visual", 6]]
GRID = CASES["qwen2_vl"].prompt(torch.zeros(0), ROWS)["image_grid_thw"][0].tolist()
N, COLUMNS = GRID[1] * GRID[2] // MERGE**2, GRID[2] // MERGE
CELLS = torch.tensor([[token // COLUMNS, token % COLUMNS] for token in range(N)])
PLACES = Geometry(cell=CELLS, evidence=torch.arange(N) % 3 / 2)
INFO = PlanningInfo(N, LAYERS, "qwen2_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen")
HERE = [pruner for pruner in PRUNERS if pruner.missing(INFO) is None]
ATTENTION = ("last_row", "text_rows", "head_rows")


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return CASES[request.param].model(torch.float32)


def here(model):
    return CASES[model.config.model_type].here


def prompt(model):
    return CASES[model.config.model_type].prompt(model, ROWS)


def planned(pruner, tokens=5):
    params = pruner.complete({})
    for meaning in ("published", "final", "average"):
        for more in (0, 2, 4):
            try:
                return pruner.schedule(Budget(tokens + more, meaning), INFO, params).stages, params
            except BadInput:
                continue
    raise AssertionError(f"{pruner.id} meets no budget of this model")


def words(inputs):
    """Everything behind the image but the last token."""
    columns = torch.arange(inputs["input_ids"].shape[1])
    last = (inputs["input_ids"][0] == IMAGE).nonzero().max() + 1  # and the mark that ends the image
    return ((columns > last) & (columns < len(columns) - 1))[None]


def carried_out(model, inputs, stages, params):
    """Logits and kept tokens as a lane gets them: shortened prompt first, hooks for the rest."""
    generator = torch.Generator().manual_seed(0)

    def choose(stage, signals, row):
        return stage.select(signals, stage.keep, params, generator)

    needs = {need for stage in stages for need in stage.needs}
    encoded = encode(
        model, here(model), inputs, needs, question_mask=words(inputs), geometry=[PLACES]
    )  # fmt: skip
    late = [stage for stage in stages if isinstance(stage.site, int)]
    short, events = shorten(model, here(model), encoded, [s for s in stages if s not in late], choose)
    with running_on(model, here(model), short, late, choose) as trace:
        logits = generated(model, short.generate_inputs(), steps=3)[1]
    return logits, [event.kept.tolist() for event in [*events[0], *(trace.events[0] if trace else [])]]


def test_the_methods_that_run_here_are_those_of_the_digest():
    """``methods.md`` 15.1: all but those that need crops or frames."""
    missing = {pruner.id for pruner in PRUNERS} - {pruner.id for pruner in HERE}
    assert missing == {pruner.id for pruner in PRUNERS if pruner.needs_tiles or pruner.needs_frames}


@pytest.mark.parametrize("pruner", HERE, ids=lambda pruner: pruner.id)
def test_a_method_prunes_repeatably_and_keeping_everything_is_bit_identical(model, pruner):
    inputs = prompt(model)
    stages, params = planned(pruner)
    first, again = (carried_out(model, inputs, stages, params) for _ in range(2))
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    assert bool(stages) == any(len(kept) < N for kept in first[1])
    stages = [replace(stage, keep=N + 5) for stage in stages if stage.keep]
    logits, kept = carried_out(model, inputs, stages, params)
    assert torch.equal(logits, generated(model, inputs, steps=3)[1])
    assert all(stage_kept == list(range(N)) for stage_kept in kept)


@pytest.mark.parametrize("pruner", HERE, ids=lambda pruner: pruner.id)
def test_before_the_llm_methods_act_behind_the_merger(pruner):
    for stage in planned(pruner)[0]:
        assert stage.positions == "keep" and (stage.site == "projector" or isinstance(stage.site, int))
        assert RECEIVED_ATTENTION not in stage.needs or stage.site == "projector"


@pytest.mark.parametrize("pruner", HERE, ids=lambda pruner: pruner.id)
def test_every_stage_in_the_llm_keeps_what_eager_attention_weights_say(model, pruner):
    inputs = prompt(model)
    visual = inputs["input_ids"][0] == IMAGE
    eager = CASES[model.config.model_type].model(torch.float32, "eager")
    stages, params = planned(pruner)
    for stage in stages:
        wanted = [need for need in stage.needs if need.kind in ATTENTION]
        if not wanted:
            continue
        seen = []

        def look(stage, signals, row, seen=seen):
            seen.append(signals)
            return everything(stage, signals, row)

        told = {"question_mask": words(inputs), "geometry": [PLACES]}
        with torch.no_grad(), prune(model, here(model), None, [stage], look, **told):
            model(**inputs)
        with torch.no_grad():
            maps = eager(**inputs, output_attentions=True).attentions
        first, found = int(visual.nonzero().max()) + 1, {}
        for need in wanted:
            weights = maps[stage.site if need.layer == "this" else stage.site - 1][0]
            heads = (weights[:, -1:] if need.kind == "last_row" else weights[:, first:])[:, :, visual]
            found["head_rows" if need.kind == "head_rows" else "attention_rows"] = (
                heads if need.kind == "head_rows" else heads.mean(0)
            )
        mine, theirs = (
            stage.select(signals, stage.keep, params, torch.Generator())
            for signals in (seen[0], replace(seen[0], **found))
        )
        assert torch.equal(mine.kept, theirs.kept)
