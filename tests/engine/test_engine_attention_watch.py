"""What layers look at while a model answers, against whole maps of eager attention in float64, and its manners."""

import threading
from dataclasses import replace

import engine_oracle
import pytest
import torch
from attention_oracle import exact_softmax, generated_maps, tower_maps
from engine_models import FAMILY, merged, prompt, ragged, stage
from tiny_families import CASES

from tokviz.engine import answer, attention_watch, capture, encode, running_on, shorten, tower_attention, watching
from tokviz.errors import Unsupported

EXACT = 1e-9
STEPS = 4


def quiet(_ids):
    """Nobody listens."""


def watched(model, family, inputs, stages=(), select=None, map_layers=(0, 3), most_maps=99):
    """The answer's ids and what was watched; stages as ``tokviz.inside`` carries them out."""
    with torch.inference_mode():
        whole = encode(model, family, inputs, {need for one in stages for need in one.needs})
        early = [one for one in stages if not isinstance(one.site, int)]
        late = [one for one in stages if isinstance(one.site, int)]
        short = shorten(model, family, whole, early, select)[0] if early else whole
        with (
            running_on(model, family, short, late, select) as pruned,
            watching(model, family, short, pruned, map_layers, whole.n_visual[0], most_maps) as watch,
        ):
            said = answer(model, short, max_new_tokens=STEPS, on_tokens=quiet, stop=threading.Event())
    return said.token_ids, watch


def agrees(watch, maps, visual, alive, cut=()):
    """Compare with maps ``maps(step, layer) -> (q, k)`` of the unpruned columns, and how many rows were compared.

    visual: ``(L,)`` bool of the prompt. alive: per layer ``(N,)`` bool, which visual tokens it had at prefill.
    """
    length, where = len(visual), visual.nonzero()[:, 0]
    text = torch.arange(length) > where.max()
    system = ~visual & ~text
    for layer, mine in enumerate(alive):
        prefill, looks = maps(0, layer), watch.layers[layer]
        there = visual.clone()
        there[where[~mine]] = False
        for rows, sums, count in ((there, looks.of_image, looks.n_image), (text, looks.of_text, looks.n_text)):
            expected = torch.stack([prefill[rows][:, kind].sum() for kind in (system, visual, text)])
            assert (sums[:3] - expected).abs().max() <= EXACT and count == int(rows.sum())
            assert sums[3:].eq(0).all() and float(sums.sum()) == pytest.approx(count, abs=1e-9)
        assert looks.of_image[2] == 0, "no visual token sees text behind it"
        assert sorted(looks.alive.tolist()) == mine.nonzero()[:, 0].tolist()
        for step, spent in enumerate(watch.spent):
            row = maps(step, layer)[-1]
            expected = [row[:length][kind].sum() for kind in (system, visual, text)]
            expected = torch.stack([*expected, row.new_zeros(()), row[length:].sum()])
            assert (spent[layer] - expected).abs().max() <= EXACT
            if layer in watch.map_layers:
                mapped = watch.maps[step][1 + watch.map_layers.index(layer)]
                assert (mapped - row[where]).abs().max() <= EXACT
    for step, found in enumerate(watch.maps):
        mean = torch.stack([maps(step, layer)[-1][where] for layer in range(len(alive))]).mean(0)
        assert (found[0] - mean).abs().max() <= EXACT


RECOMPUTED = ("llava", "qwen2_5_vl (videos)", "qwen3_vl", "internvl (norms)")
"""Eager attention cannot be tapped: some of each kind."""


@pytest.mark.parametrize(("name", "kernel"), [*((n, "sdpa") for n in CASES), *((n, "eager") for n in RECOMPUTED)])
def test_every_family_looks_where_its_eager_maps_say(name, kernel):
    """Grouped heads, positions of three axes, features added inside the LLM, images, tiles and videos."""
    case = CASES[name]
    eager = case.model(torch.float64, "eager")
    inputs = case.prompt(eager, [[4, "visual", 6]])
    model = eager if kernel == "eager" else case.model(torch.float64)
    ids, attentions = generated_maps(eager, inputs, STEPS)
    with exact_softmax():
        said, watch = watched(model, case.here, inputs)
    assert said == ids and len(watch.spent) == len(watch.maps) == STEPS
    visual = case.is_visual(inputs["input_ids"][0])
    every = [torch.ones(int(visual.sum()), dtype=torch.bool)] * len(attentions[0])
    agrees(watch, lambda step, layer: attentions[step][layer].mean(0), visual, every)
    modules = [getattr(layer, case.here.attention_name) for layer in case.here.vision_layers(eager, case.media)]
    own = case.here.vision_layers(model)
    _tower_agrees(case, model, inputs, tower_maps(eager, modules, inputs), eager, depth=len(own))


def _tower_agrees(case, model, inputs, maps, eager, depth):
    """Every layer's row against the whole maps of the tower, token by token."""
    with exact_softmax():
        found = tower_attention(model, case.here, inputs)
    assert len(found.layers) == depth == len(maps)
    seen, cls = case.seen(eager, inputs)[0], case.here.has_cls(eager)
    assert found.kind == ("cls_attention" if cls else "received_attention")
    merging = case.here.patch_merging(eager)
    for number, made in maps.items():
        if merging is not None:
            values = _merged_by_hand(case, eager, inputs, merging, made)
        elif cls:
            values = torch.cat([one.mean(1)[:, 0, 1:] for one in made])
        else:
            values = torch.cat([one.mean(dim=(1, 2)) for one in made])
        expected = seen.of_patches(values if values.dim() == 2 else values[None])
        layer = found.layers[number]
        assert (layer[seen.is_patch] - expected).abs().max() <= EXACT
        assert layer[~seen.is_patch].isnan().all() and layer[seen.is_patch].isfinite().all()
    if case.family == "qwen2_5_vl":
        assert found.windowed == {0, 3}, "all but fullatt_block_indexes"


def _merged_by_hand(case, model, inputs, merging, made):
    """Parts (frames, or windows of them) laid into one whole map; then back to the LLM's order of patches.

    Shape: -> ``(1, patches)``.
    """
    grid = inputs["image_grid_thw" if case.media == "image" else "video_grid_thw"]
    frames = [h * w for t, h, w in grid.tolist() for _ in range(t)]
    whole, start = torch.zeros(sum(frames), sum(frames), dtype=torch.float64), 0
    for part in made:
        n = part.shape[-1]
        whole[start : start + n, start : start + n] = part[0].mean(0)
        start += n
    received = torch.cat([rows.mean(0) for rows in _blocks(whole, frames)])
    size = merging.patches_per_token
    patches = (merging.tower_positions(grid)[:, None] * size + torch.arange(size)).flatten()
    return received[patches][None]


def _blocks(whole, frames):
    """The map of each frame; outside of these nobody sees anybody."""
    ends = torch.tensor(frames).cumsum(0).tolist()
    found = [whole[end - n : end, end - n : end] for n, end in zip(frames, ends, strict=True)]
    assert sum(float(block.sum()) for block in found) == pytest.approx(float(whole.sum()))
    return found


def test_windows_of_different_sizes_weigh_as_they_do_in_the_frames_map():
    """Of two images, the second with an odd number of columns."""
    case = CASES["qwen2_5_vl"]
    model, eager = case.model(torch.float64), case.model(torch.float64, "eager")
    inputs = case.prompt(model, [[4, "visual", 2, "visual", 6]])
    modules = [layer.attn for layer in case.here.vision_layers(eager)]
    maps = tower_maps(eager, modules, inputs)
    assert len({part.shape[-1] for part in maps[0]}) > 1
    _tower_agrees(case, model, inputs, maps, eager, depth=4)


# -- pruned ------------------------------------------------------------------------------------------------------------


PLANS = {
    "three places": [stage("encoder", 12), stage(2, 8), stage(4, 3)],
    "renumbered": [stage("projector", 12, "reindex"), stage(1, 9, "reindex"), stage(3, 4, "reindex")],
    "cut": [stage(1, 12), replace(stage(3, 6), cuts_cache=True), stage(5, 2)],
    "rectified": [replace(stage("projector", 12), rectify=True), replace(stage(3, 5), rectify=True)],
    "inside": [stage("projector", 13), stage(1, 10), stage(3, 4)],
    "all gone": [stage(3, 0)],
}


RUNS = [
    *(("llava", plan, kernel) for plan in PLANS for kernel in ("sdpa", "eager")),
    ("llava_next (mistral)", "three places", "sdpa"), ("qwen3_vl", "inside", "sdpa"),
    ("qwen2_5_vl (videos)", "inside", "eager"), ("internvl", "rectified", "sdpa"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plan", "kernel"), RUNS)
def test_a_pruned_run_looks_where_the_masked_model_does(name, plan, kernel, monkeypatch):
    """The reference keeps the whole sequence and hides what was dropped; see ``engine_oracle``."""
    case, stages = CASES[name], PLANS[plan]
    model, exact = case.model(torch.float64, kernel), case.model(torch.float64)
    inputs = case.prompt(exact, [[5, "visual", 6]])
    choose = merged if plan == "rectified" else ragged
    with exact_softmax():
        ids, watch = watched(model, case.here, inputs, stages, choose)
    maps, alive = {}, {}
    original = engine_oracle._layer

    def recorded(lm, number, state):
        made = original(lm, number, state)
        maps[number], alive[number] = made[1].mean(0), state["key"].clone()
        return made

    monkeypatch.setattr(engine_oracle, "_layer", recorded)
    engine_oracle.oracle(exact, inputs, stages, choose, torch.tensor([ids]), case)
    visual = case.is_visual(inputs["input_ids"][0])
    length = len(visual)

    def of(step, layer):
        rows = maps[layer][:length, :length] if step == 0 else maps[layer][length + step - 1 : length + step]
        return rows[:, : length + step]

    agrees(watch, of, visual, [alive[layer][:length][visual] for layer in range(len(maps))])
    assert len({int(mine.sum()) for mine in alive.values()}) > 1, "nothing was pruned: no teeth"


# -- in bounded memory, and without a trace ----------------------------------------------------------------------------


def test_rows_are_summed_up_in_slices_and_nothing_larger_is_made(sdpa64, monkeypatch):
    inputs = prompt(sdpa64, [[5, "image", 6]])
    _, whole = watched(sdpa64, FAMILY, inputs)
    sizes, original = [], attention_watch.attention_rows

    def measured(*args):
        made = original(*args)
        sizes.append(made.numel())
        return made

    monkeypatch.setattr(attention_watch, "attention_rows", measured)
    monkeypatch.setattr(attention_watch, "AT_ONCE", 300)
    _, sliced = watched(sdpa64, FAMILY, inputs)
    assert max(sizes) <= 300 < 4 * 27 * 22 and len(sizes) > 60
    for layer, looks in whole.layers.items():
        assert torch.allclose(looks.of_image, sliced.layers[layer].of_image, atol=EXACT, rtol=0)
        assert torch.allclose(looks.of_text, sliced.layers[layer].of_text, atol=EXACT, rtol=0)
    assert torch.allclose(torch.stack(whole.maps), torch.stack(sliced.maps), atol=EXACT, rtol=0)


def test_as_many_maps_are_kept_as_there_is_room_for(sdpa64):
    _, watch = watched(sdpa64, FAMILY, prompt(sdpa64, [[5, "image", 6]]), map_layers=(), most_maps=2)
    assert [tuple(one.shape) for one in watch.maps] == [(1, 16)] * 2 and len(watch.spent) == STEPS


def test_watching_leaves_nothing_behind_and_changes_nothing(sdpa64):
    inputs = prompt(sdpa64, [[5, "image", 6]])
    with torch.inference_mode():
        plain = answer(sdpa64, encode(sdpa64, FAMILY, inputs, ()), max_new_tokens=STEPS, on_tokens=quiet,
                       stop=threading.Event())  # fmt: skip
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in sdpa64.modules()]
    ids, _ = watched(sdpa64, FAMILY, inputs)
    tower_attention(sdpa64, FAMILY, inputs)
    assert ids == plain.token_ids and sdpa64.config._attn_implementation == "sdpa"
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in sdpa64.modules()] == before
    assert not capture._wrapped and not len(capture._taps)


@torch.no_grad()
def test_other_threads_are_not_watched(sdpa64):
    inputs = prompt(sdpa64, [[5, "image", 6]])
    whole = encode(sdpa64, FAMILY, inputs, ())
    with watching(sdpa64, FAMILY, whole, None, (), 16, 9) as watch:
        other = threading.Thread(target=lambda: sdpa64(**inputs))
        other.start()
        other.join()
        assert not watch.layers and not watch.spent


def test_a_sequence_that_nobody_described_is_refused(sdpa64):
    inputs = prompt(sdpa64, [[5, "image", 6]])
    whole = encode(sdpa64, FAMILY, inputs, ())
    longer = prompt(sdpa64, [[9, "image", 6]])
    with torch.no_grad(), watching(sdpa64, FAMILY, whole, None, (), 16, 9), pytest.raises(Unsupported, match="columns"):
        sdpa64(**longer)
