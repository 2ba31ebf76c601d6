"""A session goes to JSON and back without loss, and what is no session is refused with a sentence."""

import json

import pytest
from PIL import Image

from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.media.images import read_image
from tokviz.models.llava import centre_crop_grid
from tokviz.records import (
    AnswerToken,
    BudgetMeanings,
    Cost,
    ModelRecord,
    Request,
    RequestedMethod,
    Run,
    StageRecord,
    Timing,
    TokenMap,
)


def comparison() -> Comparison:
    scores = TokenMap(
        name="error",
        label="error",
        unit="",
        direction="high is kept first",
        scale="log",
        values=[0.1, None, 1 / 3, 2e-9],
    )
    stage = StageRecord(
        title="t", site=3, site_label="before layer 3", positions="reindex", planned_keep=2, n_in=4, kept=[0, 2],
        score=scores, order=[-1, 0, 1, -1], assignment=[0, 2, 2, -1], maps=[scores],
        facts={"tau": 0.03, "a": [1, None]}, selection_ms=0.123456789,
    )  # fmt: skip
    shot = Timing(median_ms=1 / 7, samples=1, single_shot=True)
    run = Run(
        method="apet", label="ApET", family="approximation-error", params={"basis_tokens": 10, "mode": "paper"},
        planned=BudgetMeanings(final=2, average_in=2.5, average_logged=2.0), tokens_per_layer=[4, 4, 4, 2],
        stages=[stage], answer='<img src=x onerror="1">${}"\n',
        answer_tokens=[AnswerToken(id=1, text="é", logprob=-0.1)],
        timings={"prefill": shot},
        cost=Cost(prefill_flops=1e15 / 3, decode_flops=0, vision_flops=1, kv_cache_bytes=7, peak_memory_bytes=None),
    )  # fmt: skip
    return Comparison(
        request=Request(
            question="what?",
            methods=[RequestedMethod(method="full"), RequestedMethod(method="apet", params={"m": 3})],
            budget=2, budget_as="final", seed=2**53, repeats=1, max_new_tokens=8, expected_answer="red",
            evidence=[(0.0, 1.0, 2.5, 3.0)],
        ),
        model=ModelRecord(
            name="m", family="llava", n_layers=4, hidden_size=8, dtype="float32", device="cpu", attention="sdpa",
            embedded=True,
        ),
        image=read_image(Image.new("RGB", (20, 30), "red")).record,
        grid=centre_crop_grid((20, 30), 20, 20, 10),
        runs=[Run(method="full", label="No pruning", family="control", params={}), run],
        versions={"torch": "2.11.0"},
    )  # fmt: skip


def test_json_there_and_back_is_the_same():
    original = comparison()
    again = Comparison.from_json(original.to_json())
    assert again == original
    assert again.to_json() == original.to_json()


def test_run_by_method():
    assert comparison()["apet"].kept == [0, 2]
    assert comparison()["full"].kept is None
    with pytest.raises(KeyError, match="apet"):
        comparison()["fastv"]


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "\x00", '{"schema_version": 1}'])
def test_what_is_no_session_is_refused(text):
    with pytest.raises(BadInput, match="not a tokviz session"):
        Comparison.from_json(text)


def test_another_schema_version_is_refused_by_number():
    data = json.loads(comparison().to_json())
    data["schema_version"] = 99
    with pytest.raises(BadInput, match="schema version 99"):
        Comparison.from_json(json.dumps(data))
