"""The recipe on a few pictures: losses fall, and what comes out is a stock folder that loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from scenes import HELD_OUT_SEEDS, SHAPES, TRAINING_SEEDS, generate_scene
from training.architecture import GRID, build_processor, save_folder
from training.export import assemble
from training.labels import SIGN, center_patches, patch_labels, presence
from training.language import (
    Eyes,
    LanguageTask,
    answer_loss,
    count_loss,
    look,
    place_loss,
    point_loss,
    positions_and_mask,
    statistics,
)
from training.loop import Optimizers, split_matrices
from training.muon import orthogonalize
from training.prompts import QUESTION_SHARES, choose_visible, pack, question_block, random_blocks
from training.scoring import ask
from training.vision import VisionTask, batch_of, losses

PATCHES = GRID * GRID


@pytest.fixture(scope="module")
def vision() -> VisionTask:
    torch.manual_seed(0)
    return VisionTask()


@pytest.fixture(scope="module")
def eyes(vision: VisionTask) -> Eyes:
    return Eyes({k.removeprefix("tower."): v for k, v in vision.state_dict().items() if k.startswith("tower.")})


@pytest.fixture(scope="module")
def known(eyes: Eyes) -> tuple[torch.Tensor, torch.Tensor]:
    return statistics(eyes)


@pytest.fixture(scope="module")
def language(known: tuple[torch.Tensor, torch.Tensor]) -> LanguageTask:
    return LanguageTask(*known).eval()


@pytest.fixture(scope="module")
def folder(vision: VisionTask, language: LanguageTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save_folder(assemble(vision.state_dict(), language.state_dict()), path)
    return path


def test_patch_labels_say_what_the_scene_holds() -> None:
    for seed in range(10):
        scene = generate_scene(seed, questions_per_family=0)
        labels = patch_labels(scene, GRID)
        assert labels.shape == (PATCHES, 5)
        for item, patch in zip(scene.objects, center_patches(scene, GRID), strict=True):
            assert SHAPES[labels[patch, 0] - 1] == item.shape
            assert labels[patch, 4] == 1
        assert (labels[:, 3] > 0).sum() == (labels[:, 0] == SIGN).sum()
        assert presence(scene).sum() == len({item.name for item in scene.objects})


def test_orthogonalized_matrices_have_even_singular_values() -> None:
    stack = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(stack))
    assert values.min() > 0.5 and values.max() < 1.4
    assert torch.allclose(orthogonalize(stack.mT), orthogonalize(stack).mT, atol=1e-5)


@pytest.mark.generator
def test_vision_loss_falls(vision: VisionTask) -> None:
    torch.manual_seed(1)
    task = VisionTask()
    pixels, labels, present = batch_of([TRAINING_SEEDS[i] for i in range(4)], [False] * 4)
    matrices, rest = split_matrices(task, lambda name: ".layers." in name)
    optimizers = Optimizers(matrices, rest, 2e-3, 1e-3, decay=0.0)
    seen = []
    for _ in range(8):
        loss = sum(losses(*task(pixels), labels, present).values(), start=torch.zeros(()))
        loss.backward()
        optimizers.step(1.0)
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.7 * seen[0]


@pytest.mark.generator
def test_language_loss_falls(eyes: Eyes, known: tuple[torch.Tensor, torch.Tensor]) -> None:
    task, rng = LanguageTask(*known), np.random.default_rng(0)
    examples = look(eyes, [TRAINING_SEEDS[i] for i in range(4)])
    packed = pack([random_blocks(e.scene, rng, 60, QUESTION_SHARES, 0.5) for e in examples], 60)
    visible = np.stack([choose_visible(e.priorities, 80, rng) for e in examples])
    features = torch.stack([e.features[torch.from_numpy(v)] for e, v in zip(examples, visible, strict=True)]).float()
    positions, mask = positions_and_mask(visible, packed, np.array([True, False, True, False]))
    matrices, rest = split_matrices(task, lambda name: "decoder.layers." in name)
    optimizers = Optimizers(matrices, rest, 2e-3, 2e-3, decay=0.0)
    seen = []
    for _ in range(12):
        hidden, places, points, counts = task(features, torch.from_numpy(packed.tokens), positions, mask)
        loss = answer_loss(task.head, hidden, packed) + 0.1 * place_loss(places, visible)
        loss = loss + point_loss(points, packed) + count_loss(counts, packed)
        loss.backward()
        optimizers.step(1.0)
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.6 * seen[0]


@pytest.mark.generator
@torch.no_grad()
def test_many_questions_in_one_sequence_equal_single_prompts(eyes: Eyes, language: LanguageTask, folder: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    processor = build_processor()
    scene = generate_scene(HELD_OUT_SEEDS[3], questions_per_family=1)
    (example,) = look(eyes, [scene.seed])
    packed = pack([[question_block(q.text, q.answer, q.family) for q in scene.questions]], 80)
    positions, mask = positions_and_mask(np.arange(PATCHES)[None], packed, np.array([False]))
    tokens = torch.from_numpy(packed.tokens)
    logits = language.head(language(example.features[None].float(), tokens, positions, mask)[0])[0]
    for number, question in enumerate(scene.questions):
        text = f"USER: <image>\n{question.text} ASSISTANT:"
        inputs = processor(images=Image.fromarray(scene.image), text=text, return_tensors="pt")
        single = model(**inputs).logits[0, -1]
        at = np.flatnonzero((packed.blocks[0] == number) & (packed.labels[0] >= 0))[0]
        assert torch.allclose(single, logits[at], atol=2e-3), question  # features were rounded to float16


@pytest.mark.generator
def test_a_fresh_folder_loads_and_answers(folder: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    processor = LlavaProcessor.from_pretrained(folder, local_files_only=True)
    scene = generate_scene(HELD_OUT_SEEDS[0], (320, 240))
    answer = ask(model, processor, Image.fromarray(scene.image), "What color is the star?")
    assert isinstance(answer, str) and "<" not in answer
