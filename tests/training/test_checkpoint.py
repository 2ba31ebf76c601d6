"""The checkpoint that ships: small enough, loads as stock classes, answers held-out scenes, and says true numbers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from scenes import FAMILIES, HELD_OUT_SEEDS, generate_scene
from training.architecture import GRID, pixel_values
from training.card import FOLDER, LOGS, card, read_numbers
from training.scoring import ask, check, load_folder, project

SCENES = 24
LEAST_QUESTIONS = 2000


@pytest.fixture(scope="module")
def loaded() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    return load_folder(FOLDER)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    return read_numbers(FOLDER)


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in Path(FOLDER).rglob("*") if path.is_file()) <= 25 * 1000 * 1000


def test_classes_are_stock(loaded: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    model, _ = loaded  # load_folder has checked the classes
    assert model.config.text_config.num_hidden_layers >= 8
    assert model.dtype == torch.float32


def test_a_prompt_has_one_token_per_patch(loaded: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    model, processor = loaded
    scene = generate_scene(HELD_OUT_SEEDS[0])
    inputs = processor(images=Image.fromarray(scene.image), text="USER: <image>\nhi ASSISTANT:", return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_index).sum()) == GRID * GRID == 576


def test_one_question_by_the_chat_template(loaded: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    scene = generate_scene(HELD_OUT_SEEDS[0])
    answer = ask(*loaded, Image.fromarray(scene.image), f"Is there a {scene.objects[0].shape}?")
    assert answer == "yes"


@pytest.mark.generator
@torch.no_grad()
def test_answers_held_out_scenes(
    loaded: tuple[LlavaForConditionalGeneration, LlavaProcessor], numbers: dict[str, Any]
) -> None:
    """As often as evaluation.json says, within four standard errors of this sample, on scenes it did not measure."""
    model, _ = loaded
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    first = numbers["scenes"] + 5000
    for number in range(first, first + SCENES, 4):
        scenes = [generate_scene(HELD_OUT_SEEDS[number + i]) for i in range(4)]
        features = project(model, pixel_values(np.stack([scene.image for scene in scenes])))
        every = np.broadcast_to(np.arange(GRID * GRID), (4, GRID * GRID))
        verdicts = check(model, features, every, [scene.questions for scene in scenes])
        for scene, verdict in zip(scenes, verdicts, strict=True):
            for question, good in zip(scene.questions, verdict, strict=True):
                asked[question.family] += 1
                right[question.family] += good
    for family in FAMILIES:
        wanted, n = numbers["accuracy"][family], asked[family]
        assert right[family] / n >= wanted - 4 * math.sqrt(wanted * (1 - wanted) / n) - 1 / n, family


def test_it_was_measured_on_enough_questions_and_beats_guessing(numbers: dict[str, Any]) -> None:
    for family in FAMILIES:
        assert numbers["questions"][family] >= LEAST_QUESTIONS
        low = numbers["interval"][family][0]
        for baseline in ("blind_majority", "grey_picture", "shuffled_picture"):
            assert low > numbers[baseline][family] + 0.1, (family, baseline)
    assert numbers["generation_check"]["agreement"] >= 0.98  # rounding may tip a tie


def test_the_card_is_what_card_writes_from_the_files() -> None:
    assert (FOLDER / "README.md").read_text() == card(FOLDER, LOGS)
