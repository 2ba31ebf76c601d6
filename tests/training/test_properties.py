"""The six properties: every measure on hand-made numbers, signals against the stock model, the command as a whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

import tokviz
from scenes import HELD_OUT_SEEDS, Scene, SceneObject, SceneQuestion, SceneSign, generate_scene
from tokviz.errors import BadInput
from training import properties, property_tables
from training import property_measures as measures
from training.architecture import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, build_tokenizer, vocabulary
from training.property_signals import Heard, Picture, Prompt, Subject
from training.property_values import (
    Asked,
    Rated,
    Truth,
    attention_values,
    cls_values,
    length_values,
    naming_values,
    rated_values,
    rater_values,
    scene_side,
    variation_values,
)

BLOCKS, PATCHES = 4, 16
PAGE = Path(properties.OUT)


def truth_of(*evidence: list[int], n: int = PATCHES) -> Truth:
    """Patches 8 and up are background."""
    masks = [torch.isin(torch.arange(n), torch.tensor([*own, -1])) for own in evidence]
    return Truth(torch.arange(n) >= 8, masks, {})


def picture_of(states: torch.Tensor, tower: torch.Tensor | None = None, cls: torch.Tensor | None = None) -> Picture:
    return Picture(states[0] if tower is None else tower, torch.ones(1) if cls is None else cls, states, None, 1)


# -- measures ----------------------------------------------------------------------------------------------------------


def test_auc_counts_ties_half_and_needs_both_sides() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0, 0.0])
    marked = torch.tensor([True, True, False, False, False])
    # 3 beats all three; 1 loses to 2, ties with 1, beats 0.
    assert measures.auc(scores, marked, ~marked) == (3 + 0 + 0.5 + 1) / 6
    assert math.isnan(measures.auc(scores, marked & ~marked, ~marked))


def test_outliers_are_told_by_the_median() -> None:
    lengths = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 5.0])
    assert measures.outliers(lengths) == (0.25, 4.0, 5.0)  # two are exactly not more than twice as long
    share, factor, longest = measures.outliers(torch.ones(4))
    assert (share, longest) == (0.0, 1.0) and math.isnan(factor)
    assert all(math.isnan(value) for value in measures.outliers(torch.ones(0)))


def test_evenness_and_the_strongest_share() -> None:
    weights = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [2, 2, 0, 0]])
    assert measures.evenness(weights).tolist() == pytest.approx([1.0, 0.0, 0.5])
    rows = torch.cat([torch.full((38,), 1.0), torch.tensor([10.0, 12.0])])
    assert float(measures.top_share(rows)) == pytest.approx(22 / 60)  # two of forty


def test_naming_is_a_rank_among_words_of_one_kind() -> None:
    words = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    tokens = torch.tensor([[2.0, 0.1], [0.0, 0.0]])
    similar = measures.cosines(tokens, words)
    assert similar[1].tolist() == [0, 0, 0]
    assert measures.naming_auc(similar, torch.tensor([0, 0])).tolist() == [1.0, 0.5]
    assert measures.naming_auc(similar, torch.tensor([1, 0])).tolist() == [0.5, 0.5]
    assert measures.naming_auc(similar, torch.tensor([2, 0])).tolist() == [0.0, 0.5]


def test_correlations() -> None:
    a, b = torch.tensor([1.0, 2, 3, 10]), torch.tensor([1.0, 4, 9, 10])
    assert measures.pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert measures.spearman(a, b) == pytest.approx(1.0)
    assert measures.ranks(torch.tensor([5.0, 1.0, 5.0, 7.0])).tolist() == [1.5, 0.0, 1.5, 3.0]
    assert math.isnan(measures.pearson(a, torch.ones(4)))


def test_scenes_that_say_nothing_are_left_out_of_the_mean() -> None:
    found = measures.summarise([
        {"one": 1.0, "blocks": [1.0, math.nan], "none": math.nan},
        {"one": math.nan, "blocks": [3.0, math.nan], "none": math.nan},
        {"one": 4.0, "blocks": [5.0, 2.0], "none": math.nan},
    ])  # fmt: skip
    assert found["one"] == {"mean": 2.5, "low": 1.0, "high": 4.0, "scenes": 2}
    assert found["blocks"]["mean"] == [3.0, 2.0] and found["blocks"]["scenes"] == 3
    assert found["blocks"]["low"][1] == found["blocks"]["high"][1] == 2.0
    assert found["none"]["mean"] is None and found["none"]["scenes"] == 0


def test_the_interval_is_that_of_a_mean_over_scenes() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = measures.summarise([{"x": float(value)} for value in values])["x"]
    half = 1.96 * values.std() / 20
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-4)
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.1)


# -- what a scene says -------------------------------------------------------------------------------------------------


def test_truth_is_what_the_scene_drew() -> None:
    owner = np.full((96, 96), -1, np.int16)
    owner[0:24, 0:24], owner[48:72, 24:72] = 0, 1
    star = SceneObject("star", "red", "small", (12.0, 12.0), 10.0, 0.0, (0, 0, 24, 24))
    sign = SceneSign("stop", "word", (24, 48, 72, 72), "font")
    questions = (
        SceneQuestion("is there a star?", "yes", "existence", (star.box,)),
        SceneQuestion("is there a ring?", "no", "existence", ()),
    )
    scene = Scene(1, np.zeros((96, 96, 3), np.uint8), owner, (star,), (sign,), questions, (0, 0, 96, 96))
    truth = Truth.of(scene, 4)
    assert (~truth.background).nonzero()[:, 0].tolist() == [0, 9, 10]
    assert [mask.nonzero()[:, 0].tolist() for mask in truth.evidence] == [[0], []]
    assert truth.named["color"] == [(0, "red")] and truth.named["word"] == [(9, "stop"), (10, "stop")]
    # Of a scene's questions, those without evidence say nothing.
    assert truth.auc(torch.arange(16.0)) == 0.0 and truth.auc(-torch.arange(16.0)) == 1.0


def test_lengths() -> None:
    lengths = torch.cat([torch.full((8,), 4.0), torch.full((7,), 2.0), torch.tensor([6.0])])
    states = lengths[None, :, None] * torch.tensor([1.0, 0.0])
    words = torch.tensor([[0.0, 0.5], [0.5, 0.0], [9.0, 0.0]])
    values = length_values(
        SimpleNamespace(words=words), picture_of(states, 1 / states[0].clamp(min=0.1)),
        [Prompt([0, 1], range(1), [2], [2])], truth_of([0, 1], []),
    )  # fmt: skip
    assert values["auc"] == 7 / 8 and values["outlier_share"] == 1 / 8 and values["outlier_factor"] == 3.0
    assert values["median"] == 4.0 and values["words_median"] == 0.5 and values["ratio"] == 8.0
    assert values["tower_auc"] != values["auc"]


def test_tokens_that_point_at_their_words_are_aligned() -> None:
    known = {"star": 0, "ring": 1, "red": 2, "blue": 3}
    subject = SimpleNamespace(words=torch.eye(4), word_id=known.get)
    truth = Truth(torch.zeros(2, dtype=torch.bool), [], {
        "shape": [(0, "star"), (1, "ring")], "color": [(0, "red"), (1, "red")],
        "size": [(0, "small")], "word": [], "number": [], "digit": [],
    })  # fmt: skip
    tokens = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]])  # the second has the right shape and the wrong colour
    values = naming_values(subject, picture_of(tokens[None]), truth)
    assert (values["naming_shape"], values["naming_color"], values["naming"]) == (1.0, 0.5, 0.75)
    assert math.isnan(values["naming_size"]) and math.isnan(values["naming_digit"])  # unknown words, nothing shown
    assert values["cosine_right"] == pytest.approx((1 / 2**0.5 + 0.5 / 2**0.5) / 2)


def test_raters() -> None:
    """Three words: "is", "star" and the template's; evidence leans on "star" in the input, on "is" behind it."""
    names = ["is", "star", "assistant"]
    subject = SimpleNamespace(word_of=lambda token: names[token])
    text = torch.eye(3)
    first = torch.zeros(PATCHES, 3)
    first[:8, 1], first[8:, 2] = 60.0, 60.0
    second = torch.zeros(PATCHES, 3)
    second[:, 0] = 60.0
    picture = picture_of(torch.stack([first, second, second]))
    heard = Heard(torch.ones(2, 3, PATCHES), torch.ones(2, 1, PATCHES), torch.stack([text, text]))
    asked = Asked(torch.arange(PATCHES) < 2, torch.arange(PATCHES) >= 8)
    rated = rater_values(subject, picture, heard, Prompt([0, 1, 2], range(2), [1], [1]), asked)
    assert rated.blocks["one_hot"] == [1.0, 1.0]
    assert rated.blocks["on_naming"] == pytest.approx([0.5, 0.0], abs=1e-6)
    assert rated.blocks["on_template"] == pytest.approx([0.5, 0.0], abs=1e-6)
    assert rated.blocks["on_other"] == pytest.approx([0.0, 1.0], abs=1e-6)
    assert rated.blocks["rater_evenness"] == pytest.approx([0.0, 0.0], abs=1e-6)
    # Raters are "star" and "assistant", on which all lean alike: the score tells nothing apart.
    assert rated.blocks["rater_auc"] == [0.5, 0.5]
    assert rated.strongest == [{"star": 8, "assistant": 8}, {"is": PATCHES}]
    assert rated.single["naming_words"] == pytest.approx(1 / 3)
    # All tokens are equally long; those that point at words of the user's are nearer to these.
    assert rated.single["adaptvtp_auc"] == 1.0


def test_rated_values_are_means_and_polymorphics_layers_are_picked() -> None:
    def one(value: float) -> Rated:
        blocks = {name: [value, value + 1, math.nan] for name in rated_names}
        return Rated({"naming_words": value}, blocks, [{}, {}, {}])  # type: ignore[list-item]

    rated_names = ("rater_evenness", "one_hot", "on_template", "on_naming", "on_other", "rater_auc")
    questions = [SimpleNamespace(family="existence"), SimpleNamespace(family="reading")]
    values = rated_values([one(1.0), one(3.0)], SimpleNamespace(questions=questions), [1])
    assert values["one_hot"][:2] == [2.0, 3.0] and math.isnan(values["one_hot"][2])
    assert values["one_hot_polymorphic"] == 3.0 and values["naming_words"] == 2.0
    assert values["rater_auc_existence"][:2] == [1.0, 2.0] and values["rater_auc_existence_polymorphic"] == 2.0
    assert all(math.isnan(value) for value in values["rater_auc_counting"])


def test_attention_migrates_and_leans() -> None:
    """Six blocks; the last token gives the picture 0.6, later 0.1, the other text token nothing."""
    ramp = torch.arange(1.0, 5.0) / 10
    asking = torch.zeros(6, 2, 4)
    asking[:, 1] = torch.stack([ramp * 0.6] * 4 + [ramp.flip(0) * 0.1] * 2)
    answering = asking[:, 1:] / 2
    right = [[False, False]] * 3 + [[True, False]] + [[True, True]] * 3
    migration, position = attention_values([Heard(asking, answering, torch.zeros(6, 2, 1))], right)
    assert migration["last_row"] == pytest.approx([0.6] * 4 + [0.1] * 2)
    assert migration["text_rows"] == pytest.approx([0.3] * 4 + [0.05] * 2)
    assert migration["answer_rows"] == pytest.approx([0.3] * 4 + [0.05] * 2)
    assert migration["last_row_early"] == pytest.approx(0.6) and migration["last_row_late"] == pytest.approx(0.1)
    assert migration["withdrawn"] == [0, 0, 0, 0.5, 1, 1, 1] and migration["withdrawn_late"] == 0
    assert position["last_row_pearson"] == pytest.approx([1.0] * 4 + [-1.0] * 2)
    assert position["text_rows_spearman_mean"] == pytest.approx(1 / 3)


def test_variation_and_cls_attention() -> None:
    states = torch.zeros(3, PATCHES, 2)
    states[1, :4, 0], states[1, 4:, 0] = 3.0, 1.0
    states[2] = states[1]
    states[2, 8:, 1] = 2.0
    states[2, :8, 1] = 1.0
    picture = picture_of(states, cls=torch.stack([torch.ones(PATCHES), torch.eye(PATCHES)[0] + 1e-9]))
    values = variation_values(picture, truth_of([0, 1]))
    assert values["auc"] == [1.0, 0.0] and values["ratio"] == pytest.approx([3.0, 0.5])
    values = cls_values(picture, truth_of([0, 1]), 1)
    assert values["evenness"] == pytest.approx([1.0, 0.0], abs=1e-6)
    assert values["top_share"] == pytest.approx([1 / 16, 1.0]) and values["auc"] == [0.5, 0.75]
    assert values["evenness_early"] == 1.0 and values["evenness_penultimate"] == pytest.approx(0.0, abs=1e-6)


# -- signals -----------------------------------------------------------------------------------------------------------


def tiny(**changes: object) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A random model of 4 x 4 patches, a tower of 3 blocks and a decoder of 4."""
    torch.manual_seed(4)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=16, initializer_range=0.5,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=24, intermediate_size=24, num_hidden_layers=BLOCKS,
        num_attention_heads=3, num_key_value_heads=1, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        initializer_range=0.5,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, **changes)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=5, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images, build_tokenizer(), patch_size=8, vision_feature_select_strategy="default", chat_template=CHAT_TEMPLATE,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    return model, processor


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(*tiny())


@pytest.fixture(scope="module")
def scene() -> Scene:
    return generate_scene(HELD_OUT_SEEDS[3], (96, 96), questions_per_family=1)


def stock_inputs(subject: Subject, scene: Scene, question: str) -> dict[str, torch.Tensor]:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = subject.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(subject.processor(images=Image.fromarray(scene.image), text=text, return_tensors="pt"))


def test_models_of_another_make_are_refused() -> None:
    with pytest.raises(BadInput, match=r"behind a \[CLS\]"):
        Subject(*tiny(vision_feature_select_strategy="full"))


def test_a_prompt_knows_what_the_user_wrote(subject: Subject) -> None:
    prompt = subject.prompt("is there a star?", "yes")
    assert [subject.word_of(prompt.ids[place]) for place in prompt.own] == ["is", "there", "a", "star"]
    assert subject.word_of(prompt.ids[-1]) == "assistant" and len(prompt.ids) == 5
    assert prompt.labels == [vocabulary()["yes"], EOS] and subject.word_id("yes") == vocabulary()["yes"]
    assert subject.word_id("zeppelin") is None and subject.word_id("red star") is None
    assert scene_side(subject) == 96


@torch.no_grad()
def test_signals_equal_those_of_single_stock_prompts(subject: Subject, scene: Scene) -> None:
    picture = subject.look(scene.image)
    prompts = [subject.prompt(question.text, question.answer) for question in scene.questions]
    heard, _ = subject.listen(picture, prompts)
    assert len(prompts) >= 3
    for question, prompt, one in zip(scene.questions, prompts, heard, strict=True):
        inputs = stock_inputs(subject, scene, question.text)
        out = subject.model(**inputs, output_attentions=True, output_hidden_states=True)
        visual = (inputs["input_ids"][0] == IMAGE).nonzero()[:, 0]
        last = slice(int(visual[-1]) + 1, None)
        assert inputs["input_ids"][0, last].tolist() == prompt.ids
        for block in range(BLOCKS):
            rows = out.attentions[block][0, :, last][:, :, visual].mean(0)
            assert torch.allclose(one.asking[block], rows, atol=1e-5)
            assert torch.allclose(one.states[block], out.hidden_states[block][0, last], atol=1e-4)
            assert torch.allclose(picture.states[block], out.hidden_states[block][0, visual], atol=1e-4)
    normed = subject.decoder.norm(picture.states[-1])
    assert torch.allclose(normed, out.hidden_states[-1][0, visual], atol=1e-4)
    tower = subject.tower(inputs["pixel_values"], output_hidden_states=True, output_attentions=True)
    assert torch.equal(picture.tower, tower.hidden_states[-2][0, 1:]) and subject.feature_layer == 2
    assert torch.allclose(picture.cls[1], tower.attentions[1][0, :, 0, 1:].mean(0))


@torch.no_grad()
def test_withdrawing_the_picture_is_what_vtw_does(subject: Subject, scene: Scene) -> None:
    """The greedy answers of the engine under VTW are right where, and only where, the same block withdraws."""
    vlm = tokviz.wrap(subject.model, subject.processor)
    picture, told = subject.look(scene.image), []
    for question in scene.questions[:2]:
        inputs = stock_inputs(subject, scene, question.text)
        answers = [tuple(subject.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :].tolist())]
        for block in range(1, BLOCKS):
            with tokviz.prune(vlm, inputs, "vtw", budget=1, params={"layer": block}) as pruned:
                answers.append(tuple(subject.model.generate(**pruned.inputs)[0].tolist()))
        told.append(answers)
        prompt = subject.prompt(question.text, "yes")
        for answer in answers:
            claimed = [Prompt(prompt.ids, prompt.own, list(answer[:-1]), list(answer))]
            assert subject.listen(picture, claimed)[1] == [answer == answers[0]]
            for block in range(1, BLOCKS):
                assert subject.withdrawn(picture, claimed, block) == [answer == answers[block]]
    assert max(len(set(answers)) for answers in told) >= 3  # else withdrawal would not show


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_measures_a_folder_and_keeps_what_was_there(tmp_path: Path) -> None:
    model, processor = tiny()
    model.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    out = tmp_path / "found.json"
    for label in ("before", "after | 2"):
        properties.main([str(tmp_path / "small"), "--scenes", "2", "--label", label, "--out", str(out),
                         "--questions-per-family", "1"])  # fmt: skip
    models = json.loads(out.read_text())
    assert list(models) == ["before", "after | 2"]
    one, other = models.values()
    assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    assert one["decoder_blocks"] == BLOCKS and one["v2drop_layers"] == [1, 2, 3] and one["cls_block"] == 1
    assert len(one["migration"]["withdrawn"]["mean"]) == BLOCKS + 1 and len(one["cls"]["auc"]["mean"]) == 3
    assert one["scenes"] == one["lengths"]["auc"]["scenes"] == 2
    page = out.with_suffix(".md").read_text()
    assert page == property_tables.page(models) and "after \\| 2" in page
    assert str(tmp_path) not in page + out.read_text()
    # Random weights of 4 blocks: nothing is aligned, and it is not as deep as wanted.
    rows = {row.what: property_tables.cell(row, one) for row in property_tables.WANTED}
    assert rows["blocks of the decoder"] == "4: no"
    assert len(rows) == len(property_tables.WANTED)


def test_the_page_in_the_repository_is_written_from_its_numbers() -> None:
    models = json.loads(PAGE.read_text())
    assert PAGE.with_suffix(".md").read_text() == property_tables.page(models)
    assert "properties.md" in (PAGE.parent / "README.md").read_text()


@pytest.mark.parametrize(("name", "value", "holds"), [
    ("lengths.auc", 0.61, False), ("lengths.auc", 0.5, True),
    ("alignment.naming", 0.849, False), ("alignment.naming", 0.85, True),
    ("migration.last_row_late", 0.05, False), ("migration.last_row_late", 0.049, True),
    ("alignment.one_hot_polymorphic", 0.5, False), ("lengths.outlier_share", 0.2, False),
])  # fmt: skip
def test_targets(name: str, value: float, holds: bool) -> None:
    result = json.loads(PAGE.read_text()).popitem()[1]
    group, key = name.split(".")
    result[group][key] = {"mean": value, "low": value, "high": value, "scenes": 1}
    title = {
        "lengths.auc": "length tells", "alignment.naming": "nearer to the word that names it than to the others: all",
        "migration.last_row_late": "attention of the last text token on", "lengths.outlier_share": "background tokens",
        "alignment.one_hot_polymorphic": "Polymorphic's softmaxes",
    }[name]  # fmt: skip
    row = next(row for row in property_tables.WANTED if row.what.startswith(title))
    assert row.holds is not None and row.holds(result) is holds
