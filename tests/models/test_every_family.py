"""From a user's side: a local folder of every architecture is loaded, asked about an image (or video) by every method.

Budgets, kept tokens and geometry have to agree, whatever the family; what cannot run is refused by the very sentence
that planning gives.
"""

import io
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from tiny_case import N_FRAMES, noise
from tiny_families import CASES

import tokviz
from tokviz.comparison import Comparison
from tokviz.engine import encode, prune, shorten
from tokviz.models.prompts import model_inputs
from tokviz.pruners import PRUNERS, get
from tokviz.runs.execute import planning_info
from tokviz.runs.inputs import geometry_of
from tokviz.runs.metrics import evidence_shares
from tokviz.types import Budget

ALL = [pruner.id for pruner in PRUNERS]
SIZE = (60, 40)
QUESTION = "what is it ?"
BOX = (10, 10, 35, 30)


def video_file():
    """A short clip, every frame of which is noise of its own."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=4)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuvj420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.asarray(noise(*SIZE, seed=number)), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()


EVERYWHERE = {"full", "random", "uniform", "divprune", "fastv", "pdrop", "vtw", "apet"}
"""Those that need nothing but features run everywhere."""


def products():
    """Every family with those and a third of the others, each in seven families; with `make test-all` with all."""
    for number, name in enumerate(CASES):
        methods = [method for place, method in enumerate(ALL) if method in EVERYWHERE or (place + number) % 3 == 0]
        yield pytest.param((name, methods), id=f"{name}-in turn")
        yield pytest.param((name, ALL), id=f"{name}-all", marks=pytest.mark.generator)


@pytest.fixture(scope="module", params=products())
def asked(request, tmp_path_factory):
    """``(case, loaded model, comparison of many methods)``"""
    name, methods = request.param
    case, folder = CASES[name], tmp_path_factory.mktemp("family")
    case.model(torch.float32).save_pretrained(folder)
    case.processor().save_pretrained(folder)
    vlm = tokviz.load(folder)
    thing, options = (noise(*SIZE, seed=7), {}) if case.media == "image" else (video_file(), {"frames": N_FRAMES})
    options |= {"evidence": [BOX], "evidence_frames": [1] if options else []}
    n = tokviz.compare(vlm, thing, QUESTION, [], budget=1, max_new_tokens=1, **options).grid.n_tokens
    return case, vlm, tokviz.compare(vlm, thing, QUESTION, methods, budget=n // 2, max_new_tokens=3, **options)


def test_a_folder_is_loaded_as_its_family(asked):
    case, vlm, comparison = asked
    assert vlm.family is case.here and comparison.model.family == case.family
    assert comparison.grid.is_video == (case.media == "video") == (comparison.video is not None)
    if comparison.video is not None:
        # Two frames may become one grid (Qwen), which wants an even number of them.
        assert N_FRAMES <= len(comparison.video.frames) <= N_FRAMES + 1
        shown = [frame for view in comparison.grid.views for frame in view.frames]
        assert shown == list(range(len(comparison.video.frames)))
        assert [view.level for view in comparison.grid.views] == list(range(len(comparison.grid.views)))


def test_every_method_runs_or_says_what_the_model_lacks(asked):
    _, vlm, comparison = asked
    info = planning_info(vlm, comparison.grid)
    for run in comparison.runs:
        missing = get(run.method).missing(info)
        assert run.error == missing, run.method
        if missing is None:
            assert run.answer_tokens and len(run.tokens_per_layer) == vlm.record.n_layers
    assert {run.method for run in comparison.runs if run.error is None} >= EVERYWHERE


def test_what_is_kept_is_there_and_within_the_budget(asked):
    _, _, comparison = asked
    n = comparison.grid.n_tokens
    assert comparison.runs[0].tokens_per_layer == [n] * comparison.model.n_layers
    for run in comparison.runs[1:]:
        if run.error is not None:
            continue
        alive = set(range(n))
        for stage in run.stages:
            assert set(stage.kept) <= alive and stage.kept == sorted(set(stage.kept)), run.method
            alive = set(stage.kept)
        assert run.actual is not None and run.planned is not None
        # What is no patch (newline, video [CLS]) is not counted by methods that never prune it.
        assert run.actual.final <= max(run.planned.final, 1) + sum(box is None for box in comparison.grid.box)
    for method in ("random", "divprune"):
        run = comparison[method]
        assert run.actual.average_in == comparison.request.budget, method


def thing_of(case, vlm):
    """What ``asked`` is about, as the model looks at it."""
    if case.media == "image":
        return noise(*SIZE, seed=7)
    return tokviz.media.video.read_video(video_file(), lambda facts: case.here.sampled(vlm.processor, facts, N_FRAMES))


def test_the_unpruned_run_is_the_stock_model(asked):
    """The same ids as plain ``generate`` on what the processor makes."""
    case, vlm, comparison = asked
    inputs, question = model_inputs(vlm, thing_of(case, vlm), QUESTION)
    with torch.no_grad():
        ids = vlm.model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert [token.id for token in comparison.runs[0].answer_tokens] == ids.tolist()
    assert question is not None and int(case.is_visual(inputs["input_ids"]).sum()) == comparison.grid.n_tokens
    words = vlm.processor.tokenizer.decode(inputs["input_ids"][question]).split()
    assert words == QUESTION.split(), "the user's own words, whatever stands around them"


def test_a_session_says_it_all_again(asked):
    assert Comparison.from_json(asked[2].to_json()) == asked[2]


@pytest.mark.slow
def test_keeping_every_token_is_the_stock_model_whatever_the_method(asked):
    """Every stage with a count is asked for more tokens than there are: bit-identical logits."""
    case, vlm, comparison = asked
    grid, n = comparison.grid, comparison.grid.n_tokens
    info, (inputs, words) = planning_info(vlm, grid), model_inputs(vlm, thing_of(case, vlm), QUESTION)
    marked = evidence_shares(grid, [BOX], [1] * grid.is_video)
    asked_about = {run.method for run in comparison.runs}
    running = [pruner for pruner in PRUNERS if pruner.id in asked_about and pruner.missing(info) is None]
    with torch.no_grad():
        stock = vlm.model(**inputs).logits
    for pruner in running:
        params = pruner.complete({})
        planned = pruner.schedule(Budget(n // 2), info, params).stages
        stages = [replace(stage, keep=n + 5) for stage in planned if stage.keep]
        late = [stage for stage in stages if isinstance(stage.site, int)]

        def choose(stage, signals, row, params=params):
            return stage.select(signals, stage.keep, params, torch.Generator().manual_seed(0))

        needs = {need for stage in stages for need in stage.needs}
        with torch.no_grad():
            told = {"question_mask": words, "geometry": [geometry_of(grid, marked)]}
            encoded = encode(vlm.model, case.here, inputs, needs, **told)
            short, events = shorten(vlm.model, case.here, encoded, [s for s in stages if s not in late], choose)
            with prune(vlm.model, case.here, short, late, choose) as trace:
                assert torch.equal(vlm.model(**short.generate_inputs()).logits, stock), pruner.id
        for event in [*events[0], *trace.events[0]]:
            assert event.kept.tolist() == list(range(n)), pruner.id
