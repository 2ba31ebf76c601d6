"""The video model that ships: small, stock, with the picture model's tower, measured, and in need of the clip."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor

from scenes import CLIP_FAMILIES, HELD_OUT_SEEDS, ClipQuestion, generate_clip
from training.architecture import pixel_values
from training.card import LOGS
from training.clip_prompts import VIDEO_TOKENS, WORDS
from training.video_architecture import build_video_processor
from training.video_card import FOLDER, card
from training.video_scoring import ask_video, check_clip, load_video_folder, project_video

CLIPS = 8
LEAST_QUESTIONS = 1500
Loaded = tuple[LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_video_folder(FOLDER)  # checks the classes and float32


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "evaluation.json").read_text())
    return loaded


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 12 * 1000 * 1000


def test_the_tower_is_that_of_the_picture_model(loaded: Loaded) -> None:
    stored = load_file(Path(FOLDER).with_name("tokviz-tiny") / "model.safetensors")
    picture = {name.split("vision_tower.")[1]: value for name, value in stored.items() if "vision_tower." in name}
    tower = loaded[0].model.vision_tower.state_dict()
    parts = {name.removeprefix("vision_model."): value for name, value in picture.items()}
    assert len(tower) == len(parts) > 50
    for name, value in tower.items():
        assert torch.equal(value, parts[name.removeprefix("vision_model.")].half().float()), name


def test_the_processor_is_the_one_that_the_recipe_builds(loaded: Loaded) -> None:
    _, processor = loaded
    built = build_video_processor()
    assert processor.tokenizer.get_vocab() == built.tokenizer.get_vocab() == WORDS
    assert processor.chat_template == built.chat_template
    assert processor.video_processor.to_dict() == built.video_processor.to_dict()
    assert not processor.video_processor.do_sample_frames


def test_a_prompt_has_144_tokens_per_frame(loaded: Loaded) -> None:
    model, processor = loaded
    clip = generate_clip(HELD_OUT_SEEDS[0])
    inputs = processor(videos=[clip.frames], text="USER: <video>\nhi ASSISTANT:", return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == VIDEO_TOKENS == 8 * 144
    assert torch.allclose(inputs["pixel_values_videos"][0], pixel_values(clip.frames), atol=1e-5)


@pytest.mark.generator
def test_one_question_gets_the_answer_of_the_clip_it_stands_behind(loaded: Loaded) -> None:
    """By the chat template and `generate`: what is there in one clip, is not in another."""
    model, processor = loaded
    clip = generate_clip(HELD_OUT_SEEDS[0])
    name = clip.objects[0].name
    seeds = HELD_OUT_SEEDS[1:40]
    other = next(c for c in (generate_clip(seed) for seed in seeds) if name not in {item.name for item in c.objects})
    answers = [ask_video(model, processor, c.frames, f"Is there a {name}?") for c in (clip, other)]
    assert answers == ["yes", "no"]


@pytest.mark.generator
@pytest.mark.slow
def test_answers_held_out_clips_and_needs_them(loaded: Loaded, numbers: dict[str, Any]) -> None:
    """As often as evaluation.json says, within four standard errors, on clips it did not measure; not behind others."""
    model, _ = loaded
    right = wrong = asked = 0
    expected = 0.0
    before: tuple[ClipQuestion, ...] = ()
    for number in range(numbers["clips"] + 5000, numbers["clips"] + 5000 + CLIPS):
        clip = generate_clip(HELD_OUT_SEEDS[number])
        verdicts = check_clip(model, project_video(model, pixel_values(clip.frames)), [*clip.questions, *before])
        right += sum(verdicts[: len(clip.questions)])
        wrong += sum(verdicts[len(clip.questions) :])
        asked += len(clip.questions)
        expected += sum(numbers["accuracy"][question.family]["accuracy"] for question in clip.questions)
        before = clip.questions
    share = expected / asked
    assert right / asked >= share - 4 * math.sqrt(share * (1 - share) / asked) - 1 / asked
    assert right > wrong + 0.2 * asked


def test_it_was_measured_on_enough_questions_and_beats_guessing(numbers: dict[str, Any]) -> None:
    assert numbers["questions"] >= LEAST_QUESTIONS
    for family in CLIP_FAMILIES:
        low = numbers["accuracy"][family]["low"]
        for baseline in ("blind", "grey", "shuffled"):
            assert low > numbers["baselines"][baseline][family]["accuracy"], (family, baseline)
    assert numbers["generation_check"]["agreement"] >= 0.98  # rounding may tip a tie


def test_the_card_is_what_the_script_writes_from_the_files() -> None:
    assert (FOLDER / "README.md").read_text() == card(FOLDER, LOGS)
