"""The whole way of a lane, model and engine and method, with the model on another device: nothing is left behind."""

import threading

import pytest
import torch
from pretend_device import There, move, pretended_device

from benchmarks import prefill
from benchmarks.prefill_models import KINDS, bench
from tokviz.pruners import methods
from tokviz.runs.execute import Settings
from tokviz.types import Budget

SETTINGS = Settings(Budget(1), seed=0, repeats=1, max_new_tokens=2, stop=threading.Event())


def test_tensors_of_two_devices_do_not_meet():
    there, here = There(torch.arange(3.0)), torch.arange(3)
    with pretended_device():
        assert (there + torch.arange(3, device=there.device)).tolist() == [0, 2, 4]
        assert there[here].device == there.device and int(there.sum()) == 3
        assert (there * 2).to("cpu").tolist() == [0, 2, 4] and type(there.cpu()) is torch.Tensor
        with pytest.raises(RuntimeError, match="two devices"):
            there + here
        with pytest.raises(RuntimeError, match="two devices"):
            there.masked_fill(here > 1, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        pytest.param(KINDS[0], ("visionzip", "apet", "tome", "sparsevlm", "todre"), id=f"{KINDS[0].id}, a few"),
        *(pytest.param(kind, (), id=kind.id, marks=pytest.mark.generator) for kind in KINDS),
    ],
)
def test_every_method_runs_where_the_model_is(kind, names):
    """In bfloat16, as on a GPU: every method leaves as many tokens in every layer as on this device."""
    made = bench(kind, "tiny", torch.device("cpu"), torch.bfloat16, "sdpa")
    torch.manual_seed(0)
    for parameter in made.model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 1.4 / parameter[0].numel() ** 0.5)
    chosen = [pruner for pruner in methods() if pruner.id != "full" and (not names or pruner.id in names)]
    planned, _ = prefill.plans(made, chosen, kind.budgets_of("tiny")[:1])
    wanted = [plan for plan in planned if plan.how != "eager" or plan.method in ("visionzip", "fastv")]
    here = {plan.key: prefill.fire(made, plan, SETTINGS).shot for plan in wanted}
    move(made.model)
    made.inputs = {name: There(tensor) for name, tensor in made.inputs.items()}
    made.question_mask = There(made.question_mask)
    for plan in wanted:
        # Without inference_mode: these tensors were made outside it.
        with pretended_device(), torch.no_grad():
            there = prefill.fire.__wrapped__(made, plan, SETTINGS).shot
        kept = [[len(event.kept) for event in shot.events] for shot in (there, here[plan.key])]
        assert kept[0] == kept[1], plan.key
        assert len(there.answer.token_ids) == 2
