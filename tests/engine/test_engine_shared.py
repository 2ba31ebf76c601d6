"""What is computed once for several questions or methods is, bit for bit, what each would compute alone."""

import threading

import pytest
import torch
from engine_models import spread, stage
from tiny_case import LAYERS
from tiny_families import CASES

from tokviz.engine import EncodedMedia, answer, encode, given_prefix, noted_prefix, running_on, shorten
from tokviz.engine.capture import stood_in
from tokviz.types import LAST_ROW, TEXT_ROWS, VALUES, Need


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case):
    return case.model(torch.float32, "sdpa")


def tensors(thing, name="prompt"):
    """All tensors of a prompt, by where they stand."""
    if isinstance(thing, torch.Tensor):
        return {name: thing}
    if isinstance(thing, dict):
        items = thing.items()
    elif isinstance(thing, list | tuple):
        items = enumerate(thing)
    elif hasattr(thing, "__dataclass_fields__"):
        items = ((field, getattr(thing, field)) for field in thing.__dataclass_fields__)
    else:
        return {}
    return {key: found for at, value in items for key, found in tensors(value, f"{name}.{at}").items()}


def assert_alike(one, other):
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys() and "prompt.inputs_embeds" in one
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name].nan_to_num(), other[name].nan_to_num()), (
            name
        )


def other_words(inputs):
    """The same images with other words around them."""
    ids = inputs["input_ids"].clone()
    ids[0, 0], ids[0, -2:] = 7, torch.tensor([8, 9])
    return inputs | {"input_ids": ids}


def test_another_question_about_an_image_is_encoded_without_the_tower(case, model):
    inputs = case.prompt(model, [[3, "visual", 6]])
    another, different = other_words(inputs), case.prompt(model, [[3, "visual", 6]], seed=5)
    ran, seen = [], EncodedMedia(most=2)
    tower = [module for name, module in model.named_modules() if "patch_embed" in name]
    watches = [module.register_forward_pre_hook(lambda *_: ran.append(1)) for module in tower]
    try:
        first = encode(model, case.here, inputs, case.vision, media=seen)
        assert len(ran) > 0
        ran.clear()
        second = encode(model, case.here, another, case.vision, media=seen)
        assert not ran
        unseen = encode(model, case.here, different, case.vision, media=seen)
        assert ran
        ran.clear()
        encode(model, case.here, inputs, None, media=seen)  # what nobody looked at is another encoding
        assert ran
    finally:
        for watch in watches:
            watch.remove()
    assert_alike(first, encode(model, case.here, inputs, case.vision))
    assert_alike(second, encode(model, case.here, another, case.vision))
    assert_alike(unseen, encode(model, case.here, different, case.vision))


def test_only_so_many_are_remembered():
    case = CASES["llava"]
    model = case.model(torch.float32, "sdpa")
    seen = EncodedMedia(most=1)
    one, other = (case.prompt(model, [[3, "visual", 6]], seed=seed) for seed in (1, 5))
    values = []
    for at, inputs in enumerate((one, one, other, one)):
        encode(model, case.here, inputs, (), media=seen)
        values.append(seen.noted("number", lambda at=at: at))
    assert values == [0, 0, 2, 3]


LOOKS = [(1, (LAST_ROW,)), (3, (TEXT_ROWS,)), (2, (Need("last_row", "this"),)), (3, (VALUES,))]


def answered(case, model, prompt, stages, prefix=None, depth=0):
    """An answer with its log-probabilities, and what was kept."""
    with (
        running_on(model, case.here, prompt, stages, spread) as trace,
        given_prefix(model, case.here, prompt, prefix, depth),
    ):
        said = answer(
            model, prompt, max_new_tokens=3, on_tokens=lambda ids: None, stop=threading.Event(), reference=[5, 6, 7]
        )
    kept = [event.kept.tolist() for event in trace.events[0]]
    return said.token_ids, said.logprobs, said.runners_up, said.reference_logprobs, kept


def test_layers_before_the_first_stage_need_not_run_again(case, model):
    """Whatever the stages look at; the layers that are known are not run, and are as they were afterwards."""
    prompt = encode(model, case.here, case.prompt(model, [[3, "visual", 6]]), case.vision)
    with noted_prefix(model, case.here, prompt, LAYERS - 1) as prefix, running_on(model, case.here, prompt):
        answer(model, prompt, max_new_tokens=3, on_tokens=lambda ids: None, stop=threading.Event())
    if prompt.deepstack is not None:  # its features enter further inside
        assert prefix.depth == 0
        return
    assert prefix.depth == LAYERS - 1
    layers = case.here.layers(model)
    ran = []
    watches = [
        layer.self_attn.register_forward_pre_hook(lambda *_, at=at: ran.append(at)) for at, layer in enumerate(layers)
    ]
    before = [set(vars(layer)) for layer in layers]
    try:
        for site, needs in LOOKS:
            stages = [stage(site, 5, needs=needs), stage(LAYERS - 1, 3, needs=needs)]
            alone = answered(case, model, prompt, stages)
            whole = list(ran)
            ran.clear()
            assert answered(case, model, prompt, stages, prefix, site) == alone
            assert ran == [at for number, at in enumerate(whole) if not (number < LAYERS and at < site)]
            ran.clear()
    finally:
        for watch in watches:
            watch.remove()
    assert [set(vars(layer)) for layer in layers] == before


def test_a_shortened_prompt_and_one_of_several_rows_go_by_no_prefix():
    case = CASES["llava"]
    model = case.model(torch.float32, "sdpa")
    prompt = encode(model, case.here, case.prompt(model, [[3, "visual", 6]]), ())
    with noted_prefix(model, case.here, prompt, 2) as prefix:
        answer(model, prompt, max_new_tokens=1, on_tokens=lambda ids: None, stop=threading.Event())
    short, _ = shorten(model, case.here, prompt, [stage("projector", 4)], spread)
    stages = [stage(2, 2, needs=(LAST_ROW,))]
    assert answered(case, model, short, stages, prefix, 2) == answered(case, model, short, stages)
    pair = encode(model, case.here, case.prompt(model, [[3, "visual", 6], [3, "visual", 6]]), ())
    with noted_prefix(model, case.here, pair, 2) as none:
        model(**pair.generate_inputs())
    assert none.depth == 0


def test_a_module_whose_forward_somebody_replaced_is_left_alone():
    case = CASES["llava"]
    model = case.model(torch.float32, "sdpa")
    prompt = encode(model, case.here, case.prompt(model, [[3, "visual", 6]]), ())
    second = case.here.layers(model)[1]
    second.forward = second.forward  # as accelerate does to move weights
    with noted_prefix(model, case.here, prompt, 4) as prefix:
        answer(model, prompt, max_new_tokens=1, on_tokens=lambda ids: None, stop=threading.Event())
    assert prefix.depth == 1
    with stood_in(case.here.layers(model)[0], lambda args, kwargs: NotImplemented):
        assert "forward" in vars(case.here.layers(model)[0])
    assert "forward" not in vars(case.here.layers(model)[0]) and "forward" in vars(second)
