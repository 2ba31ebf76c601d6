"""The recipe itself, on one process and a clock that counts steps: start, stop, go on, export, answer."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scenes import FAMILIES, HELD_OUT_SEEDS, TRAINING_SEEDS, generate_scene
from training import export, grow, language, vision
from training.loop import Optimizers
from training.scoring import ask, load_folder

SHIPPED = Path(__file__).parents[2] / "assets" / "tokviz-tiny"
pytestmark = pytest.mark.timeout(900)
"""Under a minute of work, which crowded cores may stretch."""
SECONDS_PER_STEP = 50.0
STEPS = 5
"""A checkpoint is due after more than 120 s: behind step 3."""


class StoppedError(Exception):
    """What a machine that is taken away looks like."""


def run(stage: Any, options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, stop_before: int = 99) -> None:
    """Train one sitting in this process; every step takes `SECONDS_PER_STEP`, and the next after some is its last."""
    taken = 0

    class Counted(Optimizers):
        def step(self, factor: float, clip: float = 1.0) -> float:
            nonlocal taken
            if taken == stop_before:
                raise StoppedError
            taken += 1
            return super().step(factor, clip)

    class StepClock:
        def __init__(self, before: float = 0.0) -> None:
            self.before = before

        def seconds(self) -> float:
            return self.before + SECONDS_PER_STEP * taken

    monkeypatch.setattr(stage, "Optimizers", Counted)
    monkeypatch.setattr(stage, "Clock", StepClock)
    stage.train(0, 1, options)


def options_for(out: Path, start: Path | None, **changes: Any) -> argparse.Namespace:
    values = {
        "out": out, "minutes": STEPS * SECONDS_PER_STEP / 60 - 0.01, "batch": 2, "start": start, "muon_lr": 1e-4,
        "adam_lr": 1e-4, "log_every": 1, "validate_every": 100, "first_seed": TRAINING_SEEDS.start, "optimizer": "muon",
        "compile": False,
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=False)["task"]
    return state


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer validation and statistics scenes; what is trained stays as it is."""
    validate, validation_set = vision.validate, language.validation_set
    monkeypatch.setattr(vision, "validate", lambda task, scenes: validate(task, 25))
    monkeypatch.setattr(language, "validation_set", lambda eyes, scenes: validation_set(eyes, 20))
    monkeypatch.setattr(language, "statistics", few_statistics)


def few_statistics(eyes: language.Eyes) -> tuple[torch.Tensor, torch.Tensor]:
    seeds = [language.FIRST_SEED - 1 - i for i in range(8)]
    features = torch.stack([example.features for example in language.look(eyes, seeds)]).float()
    return features.mean((0, 1)), features.std((0, 1)) + 1e-4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 0 from the folder that ships."""
    path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["grow", "--folder", str(SHIPPED), "--out", str(path)])
        grow.main()
    return path


@pytest.mark.generator
@pytest.mark.usefixtures("small")
def test_a_stopped_vision_training_goes_on_bit_for_bit(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole runs would show that seeds decide everything; one whole and one in two sittings show that and more."""
    start = runs / "vision-start.pt"
    run(vision, options_for(runs / "whole", start), monkeypatch)
    with pytest.raises(StoppedError):
        run(vision, options_for(runs / "parts", start), monkeypatch, stop_before=STEPS - 1)
    stopped = torch.load(runs / "parts" / "vision.pt", weights_only=False)
    assert stopped["step"] == 3 and stopped["seconds"] == 3 * SECONDS_PER_STEP
    run(vision, options_for(runs / "parts", start), monkeypatch)
    whole = torch.load(runs / "whole" / "vision.pt", weights_only=False)
    assert whole["step"] == STEPS
    assert_equal(weights(runs / "whole" / "vision.pt"), weights(runs / "parts" / "vision.pt"))
    with pytest.raises(AssertionError):  # the comparison sees a difference where there is one
        assert_equal(stopped["task"], whole["task"])
    lines = [json.loads(line) for line in (runs / "whole" / "vision.jsonl").read_text().splitlines()]
    assert lines[-1]["final"] and {"val_shape", "val_text", "val_presence"} <= lines[-1].keys()


@pytest.mark.generator
@pytest.mark.usefixtures("small")
def test_the_recipe_from_the_grown_start_to_a_folder_that_answers(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(vision, options_for(tmp_path, runs / "vision-start.pt", minutes=SECONDS_PER_STEP / 60, batch=1), monkeypatch)
    start = runs / "language-start.pt"
    final = []
    for sitting in ("first", "second"):
        (tmp_path / "language.pt").unlink(missing_ok=True)
        run(language, options_for(tmp_path, start), monkeypatch)
        final.append(weights(tmp_path / "language.pt"))
        assert sitting and torch.load(tmp_path / "language.pt", weights_only=False)["step"] == STEPS
    assert_equal(*final)  # the seed decides everything
    longer = options_for(tmp_path, start, minutes=(STEPS + 1) * SECONDS_PER_STEP / 60 - 0.01)
    run(language, longer, monkeypatch)  # goes on where the checkpoint ends
    assert torch.load(tmp_path / "language.pt", weights_only=False)["step"] == STEPS + 1
    out = tmp_path / "folder"
    monkeypatch.setattr(sys, "argv", ["export", "--runs", str(tmp_path), "--out", str(out)])
    export.main()
    assert answers_right(out) >= 0.6


def answers_right(folder: Path) -> float:
    """The share of right answers to easy questions: far above the third that guessing them would get."""
    model, processor = load_folder(folder)
    good = asked = 0
    for number in range(6):
        scene = generate_scene(HELD_OUT_SEEDS[7000 + number])
        for question in scene.questions:
            if question.family in FAMILIES[:2]:
                good += ask(model, processor, Image.fromarray(scene.image), question.text) == question.answer
                asked += 1
    return good / asked
