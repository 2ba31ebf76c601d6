"""Everything that stock ``generate`` can do goes on working inside ``pruning``."""

import copy
import gc
import weakref
from threading import Thread

import pytest
import torch
from engine_models import FAMILY, IMAGE, build, generated, merged, nothing, prompt, ragged, spread, stage
from engine_oracle import oracle
from transformers import DynamicCache, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from tokviz.engine import encode, kv_cache_bytes, prune, shorten
from tokviz.engine.cache import PrunedCache, Segment
from tokviz.types import CLS_ATTENTION, LAST_ROW, TEXT_ROWS, Selection

STAGES = {
    positions: [stage("projector", 9, positions), stage(2, 5, positions), stage(4, 2, positions)]
    for positions in ("keep", "reindex")
}
POSITIONS = pytest.mark.parametrize("positions", ["keep", "reindex"])
ROWS = pytest.mark.parametrize(
    "rows", [[[3, "image", 6]], [[5, "image", 6], [2, "image", 3]]], ids=["one row", "left-padded"]
)


def same_for_copies(stage, signals, row):
    """What ``spread`` keeps in row 0: copies of a prompt must be pruned alike."""
    return spread(stage, signals, 0)


@POSITIONS
@ROWS
def test_sampling_draws_the_same_tokens_as_from_the_oracles_logits(sdpa64, rows, positions):
    inputs = prompt(sdpa64, rows)
    with prune(sdpa64, FAMILY, None, STAGES[positions], ragged):
        torch.manual_seed(5)
        output = sdpa64.generate(
            **inputs, do_sample=True, top_k=20, max_new_tokens=6, return_dict_in_generate=True, output_logits=True
        )
    new = output.sequences[:, inputs["input_ids"].shape[1] :]
    expected, _ = oracle(sdpa64, inputs, STAGES[positions], ragged, new)
    assert (torch.stack(output.logits) - expected).abs().max() <= 1e-6


@POSITIONS
@ROWS
def test_beam_scores_are_the_oracles_log_probabilities(sdpa64, rows, positions):
    inputs = prompt(sdpa64, rows)

    # Beams reorder only within a prompt, so a choice that depends on the prompt's number is the same for its beams.
    def choose(stage, signals, row):
        return ragged(stage, signals, row // 3)

    with prune(sdpa64, FAMILY, None, STAGES[positions], choose):
        output = sdpa64.generate(
            **inputs, num_beams=3, max_new_tokens=6, length_penalty=0.0, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
    new = output.sequences[:, inputs["input_ids"].shape[1] :]
    logits, _ = oracle(sdpa64, inputs, STAGES[positions], ragged, new)
    scores = logits.log_softmax(-1).gather(-1, new.T[..., None])[..., 0].sum(0)
    assert (output.sequences_scores - scores).abs().max() <= 1e-5


def test_differently_pruned_beams_stay_with_their_cache(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    with prune(sdpa64, FAMILY, None, STAGES["reindex"], ragged) as trace:
        generated(sdpa64, inputs, steps=1)
        cache = trace.cache
        cache.batch_repeat_interleave(3)
        cache.reorder_cache(torch.tensor([2, 0, 1]))
        assert cache._tokviz_state.segments[1].real.shape[0] == 3
        cache.batch_select_indices(torch.tensor([1]))
        assert cache._tokviz_state.segments[1].real.shape[0] == 1 == cache.layers[0].keys.shape[0]
        generated(sdpa64, prompt(sdpa64, [[3, "image", 6], [3, "image", 6]]), steps=1)
        before = trace.cache._tokviz_state.segments[1].real
        trace.cache.reorder_cache(torch.tensor([1, 0]))
        after = trace.cache._tokviz_state.segments[1].real
        assert torch.equal(after, before.flip(0)) and not torch.equal(after, before)


def test_a_cache_that_was_cropped_into_its_prompt_is_masked_as_far_as_it_goes():
    """Assisted decoding takes back what it guessed wrongly in the first forward, and then may guess less."""
    real = torch.tensor([[False, True, True, True, True]])
    segment = Segment(0, real, padded=True, shift=None)
    assert segment.mask(2, None, 1).tolist() == [[False, True, True]]
    assert segment.mask(2, torch.tensor([[0, 1, 0]]), 1).tolist() == [[False, True, False]]
    assert segment.mask(5, None, 1).tolist() == [[False, True, True, True, True, True]]


@POSITIONS
def test_several_returned_sequences_equal_one(sdpa64, positions):
    inputs = prompt(sdpa64, [[3, "image", 6], [2, "image", 4]])
    stages = [stage("encoder", 11, positions), *STAGES[positions]]

    def choose(stage, signals, row):
        return merged(stage, signals, row // 2)

    with prune(sdpa64, FAMILY, None, stages, choose) as trace:
        torch.manual_seed(3)
        output = sdpa64.generate(
            **inputs, do_sample=True, num_return_sequences=2, max_new_tokens=6, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    assert len(trace.events) == 4
    doubled = {
        "input_ids": inputs["input_ids"].repeat_interleave(2, 0),
        "attention_mask": inputs["attention_mask"].repeat_interleave(2, 0),
        "pixel_values": inputs["pixel_values"].repeat_interleave(2, 0),
    }
    new = output.sequences[:, inputs["input_ids"].shape[1] :]
    expected, _ = oracle(sdpa64, doubled, stages, choose, new)
    assert (torch.stack(output.logits) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("way", ["encoded", "inputs of one's own"])
def test_copies_of_a_prompt_look_at_their_own_image(sdpa64, way):
    inputs, seen = prompt(sdpa64, [[3, "image", 6], [2, "image", 4]]), []
    encoded = encode(sdpa64, FAMILY, inputs, (CLS_ATTENTION,))
    given, copies = (encoded, 1) if way == "encoded" else (None, 2)  # a prompt that is known decides for its copies

    def select(stage, signals, row):
        seen.append(signals.cls_attention)
        return spread(stage, signals, row // copies)

    with prune(sdpa64, FAMILY, given, [stage(2, 5, "keep", (CLS_ATTENTION,))], select) as pruned:
        sdpa64.generate(
            **(pruned.inputs if given else inputs), do_sample=True, num_return_sequences=2, max_new_tokens=1
        )
    rows = [vision.seen["cls_attention"]["feature"] for vision in encoded.vision for _ in range(copies)]
    assert not torch.equal(rows[0], rows[-1])
    assert len(seen) == len(rows) and all(map(torch.equal, seen, rows))


class _Tokenizer:
    def decode(self, ids, **_):
        return "".join(f"{int(i)} " for i in ids)


def test_an_answer_streams_from_a_bound_thread(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    with prune(sdpa64, FAMILY, None, STAGES["keep"], spread):
        tokens = generated(sdpa64, inputs)[0][0, inputs["input_ids"].shape[1] :].tolist()
    streamer = TextIteratorStreamer(_Tokenizer(), skip_prompt=True, timeout=30)
    with prune(sdpa64, FAMILY, None, STAGES["keep"], spread, this_thread=False) as trace:
        options = {**inputs, "max_new_tokens": 6, "do_sample": False, "streamer": streamer}
        worker = Thread(target=trace.bind(sdpa64.generate), kwargs=options)
        worker.start()
        text = "".join(streamer)
    assert [int(token) for token in text.split()] == tokens
    worker.join(5)
    assert not worker.is_alive() and len(trace.events[0]) == 3


def test_leaving_by_an_exception_stops_a_bound_thread(sdpa64):
    from tokviz.errors import Stopped

    inputs = prompt(sdpa64, [[3, "image", 6]])
    stopped = []

    class Counter(BaseStreamer):
        def __init__(self):
            self.count = 0

        def put(self, value):
            self.count += 1

        def end(self):
            pass

    streamer = Counter()

    def work():
        try:
            trace.bind(sdpa64.generate)(**inputs, max_new_tokens=200, do_sample=False, streamer=streamer)
        except Stopped:
            stopped.append(streamer.count)

    worker = Thread(target=work)
    with pytest.raises(KeyboardInterrupt), prune(sdpa64, FAMILY, None, STAGES["keep"], spread) as trace:
        worker.start()
        while streamer.count < 3:
            pass
        raise KeyboardInterrupt
    worker.join(5)
    assert stopped and stopped[0] < 150
    with pytest.raises(ValueError, match="has been left"):
        trace.bind(sdpa64.generate)(**inputs, max_new_tokens=1)


@POSITIONS
@pytest.mark.parametrize("needs", [(), (TEXT_ROWS,)], ids=["blind", "text-guided"])
def test_without_a_cache_the_first_decision_stands(model, tolerance, positions, needs):
    calls = []

    def choose(stage, signals, row):
        calls.append(row)
        if signals.attention_rows is None:
            return merged(stage, signals, row)
        kept = signals.attention_rows.mean(0).argsort(descending=True)[: stage.keep - 2 * row].sort().values
        return Selection(kept=kept)

    inputs = prompt(model, [[5, "image", 6], [2, "image", 3]])
    stages = [stage("encoder", 12, positions), stage(2, 8, positions, needs), stage(4, 5, positions, needs)]
    with prune(model, FAMILY, None, stages, choose):
        cached = generated(model, inputs)
        assert len(calls) == 6
        uncached = generated(model, inputs, use_cache=False)
        assert len(calls) == 12
        generated(model, inputs, use_cache=False, steps=2)
        assert len(calls) == 18, "a new prompt is a new decision"
    assert torch.equal(cached[0], uncached[0])
    assert (cached[1] - uncached[1]).abs().max() <= tolerance


@POSITIONS
@ROWS
def test_a_second_turn_goes_on_from_the_pruned_cache(sdpa64, rows, positions):
    inputs = prompt(sdpa64, rows)
    batch = len(rows)
    more = torch.randint(2, 89, (batch, 4), generator=torch.Generator().manual_seed(4))
    with prune(sdpa64, FAMILY, None, STAGES[positions], ragged) as trace:
        first = sdpa64.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat([first.sequences, more], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(batch, 7, dtype=torch.long)], dim=1)
        sequences, logits = generated(
            sdpa64, {"input_ids": ids, "attention_mask": mask, "past_key_values": first.past_key_values}, steps=4
        )
        assert trace.cache is first.past_key_values
    new = sequences[:, inputs["input_ids"].shape[1] :]
    expected, _ = oracle(sdpa64, inputs, STAGES[positions], ragged, new)
    assert (logits - expected[7:]).abs().max() <= 1e-6


@POSITIONS
@ROWS
def test_a_manual_loop_without_positions_is_right(sdpa64, rows, positions):
    inputs = prompt(sdpa64, rows)
    if len(rows) > 1:  # without position ids a direct forward counts pads, in the unpruned model as well
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    lengths, tokens, logits = [], [], []
    mask = inputs["attention_mask"]
    with torch.no_grad(), prune(sdpa64, FAMILY, None, STAGES[positions], ragged):
        output = sdpa64(**inputs, use_cache=True)
        for _ in range(6):
            logits.append(output.logits[:, -1])
            tokens.append(logits[-1].argmax(-1))
            lengths.append(output.past_key_values.get_seq_length())
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            options = {"attention_mask": mask} if len(rows) > 1 else {}
            if len(rows) > 1:
                options["position_ids"] = mask.sum(1, keepdim=True) - 1
            output = sdpa64(tokens[-1][:, None], past_key_values=output.past_key_values, **options)
    length = inputs["input_ids"].shape[1]
    assert lengths == list(range(length, length + 6)), "the cache tells the unpruned length"
    expected, _ = oracle(sdpa64, inputs, STAGES[positions], ragged, torch.stack(tokens, 1))
    assert (torch.stack(logits) - expected).abs().max() <= 1e-9


@POSITIONS
def test_prompt_lookup_gives_the_tokens_of_greedy_search(sdpa64, positions):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    # A repeating question makes lookup guess already in the first forward, and guess wrongly.
    inputs["input_ids"][0, -6:] = torch.tensor([7, 8, 9, 7, 8, 9])
    with prune(sdpa64, FAMILY, None, STAGES[positions], spread):
        greedy = generated(sdpa64, inputs, steps=8)[0]
        lookup = sdpa64.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(greedy, lookup)
    with (
        prune(sdpa64, FAMILY, None, [stage(2, 5, positions, (LAST_ROW,))], spread),
        pytest.raises(ValueError, match="guess"),
    ):
        sdpa64.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)


def test_two_generates_in_one_context_and_a_clean_model_afterwards(sdpa64):
    first, second = prompt(sdpa64, [[3, "image", 6]]), prompt(sdpa64, [[5, "image", 2], [1, "image", 4]], seed=9)
    plain = generated(sdpa64, first)
    alone = []
    for inputs in (first, second):
        with prune(sdpa64, FAMILY, None, STAGES["reindex"], ragged):
            alone.append(generated(sdpa64, inputs)[1])
    with prune(sdpa64, FAMILY, None, STAGES["reindex"], ragged) as trace:
        assert torch.equal(generated(sdpa64, first)[1], alone[0])
        assert torch.equal(generated(sdpa64, second)[1], alone[1])
        assert len(trace.events) == 2
    assert torch.equal(generated(sdpa64, first)[1], plain[1])


def test_a_text_only_prompt_is_left_alone(model):
    inputs = prompt(model, [[5], [3]])
    plain = generated(model, inputs)
    with prune(model, FAMILY, None, [stage("encoder", 3), stage(2, 1, "reindex", (LAST_ROW,))], nothing) as trace:
        inside = generated(model, inputs)
    assert torch.equal(plain[1], inside[1]) and trace.events == [[], []]


def test_the_cache_is_as_small_as_the_stages_make_it(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    with prune(sdpa64, FAMILY, None, STAGES["keep"], spread) as trace:
        generated(sdpa64, inputs, steps=1)
    lengths = [layer.keys.shape[-2] for layer in trace.cache.layers]
    assert lengths == [18, 18, 14, 14, 11, 11]
    assert kv_cache_bytes(trace.cache) == sum(lengths) * 2 * 2 * 8 * 8  # K and V, 2 heads of 8 numbers of 8 bytes


def test_a_copied_cache_is_its_own(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    with torch.no_grad(), prune(sdpa64, FAMILY, None, STAGES["reindex"], spread):
        cache = sdpa64(**inputs, use_cache=True).past_key_values
        twin = copy.deepcopy(cache)
        once = sdpa64(torch.tensor([[7]]), past_key_values=cache).logits
        assert cache.get_seq_length() == 26 and twin.get_seq_length() == 25
        assert torch.equal(sdpa64(torch.tensor([[7]]), past_key_values=twin).logits, once)
        twin.reset()
        stock = DynamicCache(config=sdpa64.config)
        assert set(vars(twin)) == set(vars(stock)), "an emptied cache is like any other"
        # transformers 5.17 blanks the 19 tokens that were kept and goes on counting them; nothing counts the dropped.
        assert twin.get_seq_length() in (0, 19)


def test_a_pruned_cache_is_gone_with_its_last_user(sdpa64):
    """No cycle keeps it until the garbage collector comes by: the peak memory of the next lane would count it."""
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad(), prune(sdpa64, FAMILY, None, STAGES["reindex"], spread) as trace:
            sdpa64(**prompt(sdpa64, [[3, "image", 6]]), use_cache=True)
            cache = weakref.ref(trace.cache)
            assert cache().get_seq_length() == 25
        del trace
        assert cache() is None
    finally:
        gc.enable()


def test_a_pruned_cache_is_refused_where_it_would_be_misread(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    with torch.no_grad():
        with prune(sdpa64, FAMILY, None, STAGES["keep"], spread):
            cache = sdpa64(**inputs, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="use it inside prune"):
            sdpa64(torch.tensor([[7]]), past_key_values=cache)
        with prune(sdpa64, FAMILY, None, [stage(3, 2)], spread), pytest.raises(ValueError, match="other stages"):
            sdpa64(torch.tensor([[7]]), past_key_values=cache)
        with prune(sdpa64, FAMILY, None, STAGES["keep"], spread):
            sdpa64(torch.tensor([[7]]), past_key_values=cache)


def test_a_pruned_cache_belongs_to_its_model(sdpa64):
    """Also when that is gone and another one has come, perhaps at the same address."""
    model = build(torch.float64)
    with torch.no_grad():
        with prune(model, FAMILY, None, STAGES["keep"], spread):
            cache = model(**prompt(model, [[3, "image", 6]]), use_cache=True).past_key_values
        alive = weakref.ref(model)
        for _ in range(2):
            with prune(sdpa64, FAMILY, None, STAGES["keep"], spread), pytest.raises(ValueError, match="use it inside"):
                sdpa64(torch.tensor([[7]]), past_key_values=copy.deepcopy(cache))
            model = None
            gc.collect()
        assert alive() is None, "a cache keeps no model in memory"


def test_a_cache_of_ours_is_like_any_other_until_something_is_pruned(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    stock, ours = DynamicCache(config=sdpa64.config), PrunedCache(config=sdpa64.config)
    first, second = (generated(sdpa64, inputs, past_key_values=cache) for cache in (stock, ours))
    assert torch.equal(first[1], second[1]) and ours.get_seq_length() == stock.get_seq_length() == 30
    assert [ours.get_seq_length(99), ours.get_mask_sizes(1, 0)] == [
        stock.get_seq_length(99),
        stock.get_mask_sizes(1, 0),
    ]
    ours.batch_repeat_interleave(2)
    ours.reset()
    with prune(sdpa64, FAMILY, None, STAGES["keep"], spread) as trace:
        pruned = generated(sdpa64, inputs)[1]
        cache = PrunedCache(config=sdpa64.config)
        assert torch.equal(generated(sdpa64, inputs, past_key_values=cache)[1], pruned)
        assert trace.cache is cache and cache.get_seq_length() == 30 and cache.layers[5].get_seq_length() == 16


def test_the_hook_free_way_serves_beams_and_a_given_cache(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    early = [stage("encoder", 8), stage("projector", 5, "reindex")]
    short, _ = shorten(sdpa64, FAMILY, encode(sdpa64, FAMILY, inputs, ()), early, merged)
    options = {"num_beams": 3, "max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
    free = sdpa64.generate(**short.generate_inputs(), **options, past_key_values=DynamicCache(config=sdpa64.config))

    def choose(stage, signals, row):
        return merged(stage, signals, row // 3)

    with prune(sdpa64, FAMILY, None, early, choose):
        hooked = sdpa64.generate(**inputs, **options)
    assert torch.equal(free.sequences_scores, hooked.sequences_scores)
    assert torch.equal(free.sequences, hooked.sequences[:, inputs["input_ids"].shape[1] :])
    late = [stage(2, 3, "reindex")]

    def one_choice(stage, signals, row):
        return spread(stage, signals, 0)

    with prune(sdpa64, FAMILY, short, late, one_choice):
        free = sdpa64.generate(**short.generate_inputs(), **options)

    def either(stage, signals, row):
        return merged(stage, signals, row // 3) if stage in early else spread(stage, signals, 0)

    with prune(sdpa64, FAMILY, None, [*early, *late], either):
        hooked = sdpa64.generate(**inputs, **options)
    assert torch.equal(free.sequences_scores, hooked.sequences_scores)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_kernel_gets_no_mask_where_the_stock_model_gives_none(sdpa64, monkeypatch, batch):
    inputs = prompt(sdpa64, [[3, "image", 6]] * batch)
    masks = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **kwargs):
        masks.append((query.shape[-2], key.shape[-2], attn_mask))
        return original(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    for positions in ("keep", "reindex"):
        with prune(sdpa64, FAMILY, None, [stage("encoder", 12), *STAGES[positions]], spread):
            generated(sdpa64, inputs, steps=3)
    assert {key for _, key, _ in masks} >= {18, 14, 11, 19, 15, 12}
    assert all(mask is None for _, _, mask in masks)


def test_image_ids_among_generated_tokens_do_no_harm(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    with torch.no_grad(), prune(sdpa64, FAMILY, None, STAGES["keep"], spread) as trace:
        output = sdpa64(**inputs, use_cache=True)
        sdpa64(torch.tensor([[IMAGE]]), past_key_values=output.past_key_values)
    assert len(trace.events[0]) == 3
