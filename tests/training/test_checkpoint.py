"""The checkpoint that ships: small enough, loads as stock classes, answers held-out scenes, and says true numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from tokviz.scenes import FAMILIES, HELD_OUT_SEEDS, generate_scene
from training.evaluate import ask

FOLDER = Path(__file__).parents[2] / "assets" / "tokviz-tiny"
# Well below what evaluation.json says: a sample of 40 questions a family has an error of several points.
LEAST = {"existence": 0.9, "attribute": 0.9, "counting": 0.55, "spatial": 0.5, "reading": 0.7}


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(FOLDER, local_files_only=True).eval()


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return AutoProcessor.from_pretrained(FOLDER, local_files_only=True)


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 25 * 1000 * 1000


def test_classes_are_stock(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    assert type(model) is LlavaForConditionalGeneration
    assert type(processor) is LlavaProcessor
    assert model.config.text_config.num_hidden_layers >= 8
    assert model.dtype == torch.float32


def test_a_prompt_has_one_token_per_patch(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    scene = generate_scene(HELD_OUT_SEEDS[0])
    inputs = processor(images=Image.fromarray(scene.image), text="USER: <image>\nhi ASSISTANT:", return_tensors="pt")
    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    assert int((inputs["input_ids"] == model.config.image_token_index).sum()) == side * side


def test_one_question_by_the_chat_template(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    scene = generate_scene(HELD_OUT_SEEDS[0])
    answer = ask(model, processor, Image.fromarray(scene.image), f"Is there a {scene.objects[0].shape}?")
    assert answer == "yes"


def test_answers_held_out_scenes(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for i in range(40):
        scene = generate_scene(HELD_OUT_SEEDS[5000 + i], questions_per_family=1)
        texts = [f"USER: <image>\n{question.text} ASSISTANT:" for question in scene.questions]
        pictures = [Image.fromarray(scene.image)] * len(texts)
        inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
        out = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        answers = processor.batch_decode(out, skip_special_tokens=True)
        for question, answer in zip(scene.questions, answers, strict=True):
            asked[question.family] += 1
            right[question.family] += answer.strip() == question.answer
    accuracy = {family: right[family] / asked[family] for family in FAMILIES}
    assert all(accuracy[family] >= LEAST[family] for family in FAMILIES), accuracy


def test_the_card_quotes_the_evaluation() -> None:
    numbers = json.loads((FOLDER / "evaluation.json").read_text())
    card = (FOLDER / "README.md").read_text()
    for family in FAMILIES:
        assert numbers["accuracy"][family] > numbers["blind_majority"][family] + 0.1
        assert f"{100 * numbers['accuracy'][family]:.1f}" in card
