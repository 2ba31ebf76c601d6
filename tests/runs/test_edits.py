"""Runs whose kept tokens are given: the method's own where nothing was changed, masked keys where something was."""

import pytest
import torch
from masked_model import masked_stages
from tiny_case import noise
from tiny_families import CASES

import tokviz
from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.records import GridView, TokenGrid

QUESTION = "what is it ?"
DROPPING = ["random", "divprune", "fastv", "random_at", "pdrop", "vtw", "divprune+fastv"]
"""Methods that only drop: before the LLM, inside it, in several stages, all that is left."""


@pytest.fixture(scope="module")
def tiny():
    """LLaVA with 4 x 4 patches, float64."""
    case = CASES["llava"]
    return tokviz.wrap(case.model(torch.float64), case.processor())


@pytest.fixture(scope="module")
def image():
    return noise(48, 48, seed=5)


@pytest.fixture(scope="module")
def compared(tiny, image):
    return tokviz.compare(tiny, image, QUESTION, [*DROPPING, "tome"], 6, max_new_tokens=3)


@pytest.mark.parametrize("method", DROPPING)
def test_a_method_s_own_choice_is_the_method_s_own_run(tiny, image, compared, method):
    run = compared[method]
    more = tokviz.ask_with(tiny, image, QUESTION, run.kept, of=method, into=compared)
    edited = more[-1]
    assert (edited.label, edited.answer_tokens, edited.kept) == (f"Edited: {run.label}", run.answer_tokens, run.kept)
    assert edited.tokens_per_layer == run.tokens_per_layer and edited.actual == run.actual and edited.warnings[-1:]
    assert [stage.kept for stage in edited.stages] == [stage.kept for stage in run.stages]
    assert len(more) == len(compared) + 1 and more.runs[:-1] == compared.runs
    assert [asked.key for asked in more.request.methods] == [one.key for one in more.runs]


def score(run):
    return sum(token.logprob for token in run.answer_tokens)


@pytest.mark.parametrize("method", ["random_at", "pdrop"])
def test_tokens_brushed_in_survive_every_stage_and_those_brushed_out_leave_at_the_first(tiny, image, compared, method):
    keeping = tokviz.compare(tiny, image, QUESTION, [(method, {"positions": "keep"})], 6, max_new_tokens=3)
    run = keeping[1]
    out, added = run.kept[0], max(set(range(16)) - set(run.stages[0].kept))
    kept = [token for token in run.kept if token != out] + [added]
    edited = tokviz.ask_with(tiny, image, QUESTION, kept, of=run)[1]
    sets = [sorted({*stage.kept, added} - {out}) for stage in run.stages]
    assert [stage.kept for stage in edited.stages] == sets and edited.kept == sorted(kept)
    gone = [(stage.site, set(range(16)) - set(some)) for stage, some in zip(run.stages, sets, strict=True)]
    ids = [token.id for token in edited.answer_tokens]
    assert score(edited) == pytest.approx(masked_stages(tiny, image, QUESTION, ids, gone), abs=1e-5)
    facts, change = edited.stages[0].facts, edited.stages[0].maps[0].values
    assert facts == {"added": 1, "removed": 1} and edited.warnings[-1].startswith("The answer was cut")
    assert [token for token, value in enumerate(change) if value] == sorted([added, out])
    assert change[added] == 1 and change[out] == -1


@pytest.mark.parametrize("layer", [None, 2, 5])
def test_any_set_is_kept_before_the_llm_or_inside_it(tiny, image, layer):
    for kept in ([], [3], [9, 2, 2, 15], range(16)):
        run = tokviz.ask_with(tiny, image, QUESTION, kept, layer=layer, positions="keep", max_new_tokens=3)[-1]
        assert run.kept == sorted({*kept}) and run.label == "Edited" and run.method == "edited"
        ids, gone = [token.id for token in run.answer_tokens], set(range(16)) - set(kept)
        assert score(run) == pytest.approx(masked_stages(tiny, image, QUESTION, ids, [(layer or 0, gone)]), abs=1e-5)


def test_it_stands_beside_methods_and_in_a_prune_context(tiny, image, compared):
    mine = tokviz.edited([1, 2, 3, 9, 11, 12], of=compared["fastv"])
    both = tokviz.compare(tiny, image, QUESTION, ["fastv", mine], 6, max_new_tokens=3)
    assert list(both.answers) == ["full", "fastv", "edited-fastv"] and both["edited-fastv"].kept == [1, 2, 3, 9, 11, 12]
    inputs = tokviz.inputs_for(tiny, image, QUESTION)
    with tokviz.prune(tiny, inputs, mine, budget=6) as pruned:
        ids = tiny.model.generate(**pruned.inputs, max_new_tokens=3, do_sample=False)
    assert ids[0].tolist() == [token.id for token in both[2].answer_tokens]
    assert pruned.kept[0].tolist() == both[2].kept
    swept = tokviz.sweep(tiny, image, QUESTION, [mine], budgets=[6], max_new_tokens=3)
    assert swept[0].points[0].answer_tokens == both[2].answer_tokens


def test_a_merging_method_says_that_its_tokens_stay_what_they_were(tiny, image, compared):
    more = tokviz.ask_with(tiny, image, None, compared["tome"].kept, of="tome", into=compared)
    assert "merges tokens or adds some" in more[-1].warnings[0] and more[-1].stages[0].assignment is None


def test_a_session_is_enough_and_keys_stay_apart(tiny, compared, tmp_path):
    compared.save(tmp_path / "s.json")
    again = Comparison.load(tmp_path / "s.json")
    once = tokviz.ask_with(tiny, None, None, [0, 1, 2], of="fastv", into=again)
    twice = tokviz.ask_with(tiny, None, None, [4], of="fastv", into=once)
    assert [run.key for run in twice.runs[-2:]] == ["edited-fastv", "edited-fastv (2)"]
    assert twice["edited-fastv (2)"].kept == [4] and twice["edited-fastv"].kept == [0, 1, 2]
    assert Comparison.from_json(twice.to_json()) == twice
    third = tokviz.ask_with(tiny, None, None, [4, 5], of="edited-fastv (2)", into=twice)
    assert (third[-1].label, third[-1].key) == ("Edited: FastV (2)", "edited-fastv-2")
    assert third[-1].kept == [4, 5] and tokviz.edited([1], of=once[-1]).label == "Edited: FastV"


def test_boxes_become_tokens(tiny, image, compared):
    grid = compared.grid  # 4 x 4 patches of 12 px
    assert tokviz.tokens_in(grid, [(0, 0, 12, 12)]) == [0]
    assert tokviz.tokens_in(grid, [(11, 0, 25, 12)]) == [1], "less than a tenth of 0 and 2"
    assert tokviz.tokens_in(grid, [(0, 0, 24, 24), (36, 36, 48, 48)]) == [0, 1, 4, 5, 15]
    assert tokviz.tokens_in(grid, []) == [] and tokviz.tokens_in(grid, [(0, 0, 1e9, 1e9)]) == list(range(16))
    views = [GridView(name=f"frame {n}", rows=1, cols=2, seen=(0, 0, 20, 10), level=n, frames=(n,)) for n in (0, 1)]
    film = TokenGrid(
        image_size=(20, 10), views=views, view=[0, 0, 1, 1], row=[0] * 4, col=[0, 1, 0, 1],
        box=[(0, 0, 10, 10), (10, 0, 20, 10)] * 2,
    )  # fmt: skip
    assert tokviz.tokens_in(film, [(0, 0, 10, 10)], [1]) == [2]
    for boxes, frames, sentence in (
        ([(0, 0, 10, 10)], [], "needs its frame"), ([(0, 0, 10, 10)], [2], "A frame must be"), ([3], [0], "box is"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=sentence):
            tokviz.tokens_in(film, boxes, frames)
    with pytest.raises(BadInput, match="those of an image none"):
        tokviz.tokens_in(grid, [(0, 0, 9, 9)], [0])
    with pytest.raises(BadInput, match="not a Comparison"):
        tokviz.tokens_in(compared, [])


@pytest.mark.parametrize(
    ("kept", "options", "sentence"),
    [
        ([16], {}, "token 16; there are 16"), ([-1], {}, "not -1"), ([0.5], {}, r"not 0\.5"),
        ("01", {}, "must be a list"), ([True], {}, "not True"),
        ([1], {"layer": 6}, "no layer 6: this model has 0 to 5"),
        ([1], {"layer": "2"}, "The layer must be"), ([1], {"of": "fastv"}, "its key in the comparison into"),
        ([1], {"of": 3}, "not 3"), ([1], {"question": None}, "Give an image and a question"),
        ([1], {"positions": "x"}, "positions must be one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tiny, image, kept, options, sentence):
    asked = {"image": image, "question": QUESTION, "kept": kept, "max_new_tokens": 1} | options
    with pytest.raises(BadInput, match=sentence):
        done = tokviz.ask_with(tiny, **asked)
        raise BadInput(done[-1].error or "")


def test_a_comparison_about_something_else_is_not_added_to(tiny, image, compared):
    def with_(**changes):
        return {"image": image, "question": QUESTION, "kept": [1], "into": compared} | changes

    other = compared.model_copy(update={"model": compared.model.model_copy(update={"name": "other"})})
    small = compared.image.model_copy(update={"sha256": "0"})
    failed = compared.model_copy(
        update={"runs": [compared[0], compared["fastv"].model_copy(update={"error": "It broke."})]}
    )
    for asked, sentence in (
        (with_(image=noise(48, 48, seed=6)), "another image"), (with_(question="what ?"), "another question"),
        (with_(into=other), "made with other"), (with_(of="nosuch"), "no run 'nosuch'; it has full, random"),
        (with_(image=None, into=compared.model_copy(update={"image": small})), "large images in small only"),
        (with_(of="fastv", into=failed), "nothing to edit: It broke"), (with_(kept=[99]), "there are 16"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=sentence):
            done = tokviz.ask_with(tiny, **asked)
            raise BadInput(done[-1].error or "")
