"""What the evaluation counts, and that it asks the right questions behind the right pictures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scenes import FAMILIES, HELD_OUT_SEEDS, TRAINING_SEEDS, UNSEEN_PAIRS, SceneQuestion, generate_scene
from scenes.lettering import FONT_FILES, TRAINING_FONTS
from training import card, evaluate, tables, tally
from training.architecture import pixel_values
from training.evaluate import BUDGETS, POSITIONS, SELECTIONS, SIZES, Chunk, named, sized
from training.scoring import PATCHES, choose, evidence_ranks, patch_cover
from training.tally import Answered, groups_of, kind_of, paired_difference, wilson

FEW = Chunk(Path("nowhere"), HELD_OUT_SEEDS.start, 6, 2, pruned=True)


def test_wilson_intervals() -> None:
    assert wilson(98, 100) == pytest.approx((0.93, 0.9945), abs=1e-4)
    assert wilson(2, 100) == pytest.approx((1 - 0.9945, 1 - 0.93), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(2000, 2000)[1] == 1.0


def answered(**right: bool) -> Answered:
    return Answered(0, SceneQuestion("is there a star?", "yes", "existence", ()), (), right)


def test_paired_differences_count_what_was_gained_and_lost() -> None:
    rows = [answered(a=True, b=True)] * 90 + [answered(a=True, b=False)] * 7 + [answered(a=False, b=True)] * 3
    change = paired_difference(rows, "a", "b")
    assert (change["difference"], change["gained"], change["lost"], change["n"]) == (-0.04, 3, 7, 100)
    # Standard error of a mean of 3 ones, 7 minus ones and 90 zeros.
    error = np.std([1] * 3 + [-1] * 7 + [0] * 90) / 10
    assert change["high"] - change["low"] == pytest.approx(2 * 1.96 * error, abs=1e-3)


def test_kinds_forget_colours_shapes_and_sizes() -> None:
    def kind(text: str, answer: str, family: str) -> str:
        return kind_of(SceneQuestion(text, answer, family, ()))

    assert kind("is there an orange star?", "yes", "existence") == "is there a *"
    assert kind("what shape is the small red object?", "none", "attribute") == "what shape is the * (none)"
    assert kind("is the red star above the blue cross?", "no", "spatial") == tables.RELATION.split(": ")[1]
    assert kind("where is the red star?", "top", "spatial") == tables.PLACE.split(": ")[1]


@pytest.mark.generator
def test_groups_say_what_is_new() -> None:
    seen: Counter[str] = Counter()
    for number in range(120):
        scene = generate_scene(HELD_OUT_SEEDS[number])
        signs = {sign.kind: sign for sign in scene.signs}
        for question in scene.questions:
            groups = groups_of(scene, question)
            seen.update(groups)
            if question.family == "reading" and "handwritten" not in question.text and question.answer != "none":
                new = FONT_FILES.index(signs[question.text.split()[1]].font) >= TRAINING_FONTS
                assert ("font: held out" in groups) == new and ("font: of training" in groups) == (not new)
            names_unseen = any(f"{color} {shape}" in question.text for color, shape in UNSEEN_PAIRS)
            assert ("named pair: unseen" in groups) == names_unseen
    for group in ("named pair: seen", "pair behind the answer: unseen", "handwriting: held out", "font: held out"):
        assert seen[group] >= 10, seen
    assert {name for _, name in (*tally.OBJECT_BINS, *tally.TEXT_BINS)} <= set(seen)


@pytest.mark.generator
def test_nothing_is_new_in_training_scenes() -> None:
    groups = {
        group
        for number in range(60)
        for scene in [generate_scene(TRAINING_SEEDS[number])]
        for question in scene.questions
        for group in groups_of(scene, question)
    }
    assert "named pair: seen" in groups and "font: of training" in groups
    assert not [group for group in groups if "unseen" in group or "held out" in group]


def test_every_box_gets_its_best_patch_first() -> None:
    small, large = (30.0, 30.0, 40.0, 40.0), (100.0, 100.0, 240.0, 240.0)
    assert patch_cover(large).sum() == pytest.approx(140 * 140)
    ranks = evidence_ranks((large, small))
    assert ranks[2 * 24 + 2] == 0 and (ranks == 0).sum() == 2
    assert (ranks < PATCHES).sum() == ((patch_cover(large) + patch_cover(small)) > 0).sum()
    question = SceneQuestion("how many?", "2", "counting", (large, small))
    kept = choose(question, 8, np.random.default_rng(0))
    assert 2 * 24 + 2 in kept and len(kept) == 8 and (np.diff(kept) > 0).all()


def test_random_patches_are_drawn_evenly() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([choose(None, 64, rng) for _ in range(400)]), minlength=PATCHES)
    assert counts.sum() == 400 * 64
    assert counts.min() > 15 and counts.max() < 85


@pytest.fixture
def transparent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is right exactly where it is shown the picture that the question belongs to."""
    own: dict[int, list[float]] = {}  # several where a question without evidence is asked of several scenes
    for number in range(FEW.count):
        scene = generate_scene(FEW.first + number)
        for question in scene.questions:
            own.setdefault(id_of(question), []).append(picture_mean(scene.image))

    def project(model: Any, pixels: Tensor) -> Tensor:
        return pixels.mean((1, 2, 3))[:, None, None].expand(len(pixels), PATCHES, 1)

    def check(model: Any, features: Tensor, visible: Any, rows: Any, closed: bool = False) -> list[list[bool]]:
        assert features.shape[:2] == visible.shape and len(rows) == len(visible)
        means = features[:, 0, 0].tolist()
        return [
            [any(abs(one - mean) < 1e-5 for one in own[id_of(q)]) for q in row]
            for row, mean in zip(rows, means, strict=True)
        ]

    monkeypatch.setattr(evaluate, "_loaded", lambda folder: (None, None))
    monkeypatch.setattr(evaluate, "project", project)
    monkeypatch.setattr(evaluate, "check", check)


def id_of(question: SceneQuestion) -> int:
    return hash((question.text, question.answer, question.evidence))


def picture_mean(image: np.ndarray) -> float:
    return float(pixel_values(image[None]).mean((1, 2, 3))[0])


@pytest.mark.generator
@pytest.mark.usefixtures("transparent")
def test_every_question_meets_its_own_the_next_and_a_grey_picture() -> None:
    rows = evaluate.measure(FEW)
    asked = [question for scene in FEW.scenes() for question in scene.questions]
    assert [row.question for row in rows] == asked
    pruned = [named(keep, how, where) for keep in BUDGETS for how in SELECTIONS for where in POSITIONS]
    for row in rows:
        assert row.right == {"full": True, "shuffled": False, "grey": False, **dict.fromkeys(pruned, True)}


@pytest.fixture
def numbers(transparent: None) -> dict[str, Any]:
    """What evaluation.json would hold for the transparent model, with invented baselines."""
    rows = evaluate.measure(FEW)
    for i, row in enumerate(rows):
        row.right["blind"] = i % 3 == 0
        row.right.update({sized(size): True for size in SIZES})
    return {
        "scenes": FEW.count, "first_seed": FEW.first, "visual_tokens": PATCHES, **evaluate._report(rows),
        **evaluate._few_patches(rows), "picture_sizes": evaluate._sizes(rows), "machine": "a machine", "seconds": 90.0,
        "generation_check": {"questions": 9, "agreement": 1.0, "accuracy": 0.5, "picture_sizes": ["448x336"]},
        "median_seconds_per_answer": {"1": 0.25, "2": 0.125},
    }  # fmt: skip


def test_reports_add_up(numbers: dict[str, Any]) -> None:
    assert sum(numbers["questions"].values()) == numbers["pruned_questions"]
    assert sum(entry["n"] for entry in numbers["kinds"].values()) == numbers["pruned_questions"]
    assert numbers["accuracy"] == dict.fromkeys(FAMILIES, 1.0)
    assert numbers["shuffled_picture"] == dict.fromkeys(FAMILIES, 0.0)
    assert len(numbers["pruned"]) == len(BUDGETS) * len(SELECTIONS) * len(POSITIONS)
    json.dumps(numbers)


def test_the_card_is_made_of_files(numbers: dict[str, Any], tmp_path: Path) -> None:
    folder, logs = tmp_path / "folder", tmp_path / "logs"
    folder.mkdir(), logs.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(numbers))
    (folder / "model.safetensors").write_bytes(bytes(12_000))
    (logs / "machine.txt").write_text("an abacus\n")
    line = {"step": 77, "seconds": 600.0, "pictures": 308, "val_shape": 0.987}
    for name in ("vision", "language", "coarse-vision-1", "coarse-vision-2", "coarse-language"):
        (logs / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    text = card.card(folder, logs)
    for part in (
        "an abacus",
        "77 steps, 308",
        "98.7",
        "250 ms",
        "125 ms",
        "CC BY 4.0",
        "20 and 10 minutes",
        "1.5 minutes",
    ):
        assert part in text.replace("\n  ", " "), part
    assert "nan" not in text and "None" not in text
    with pytest.raises(SystemExit, match="train first"):
        card.card(folder, tmp_path)


def test_sentences_follow_the_numbers(numbers: dict[str, Any]) -> None:
    assert "Targets missed" not in tables.targets_sentence(numbers)
    numbers["accuracy"] = {**numbers["accuracy"], "counting": 0.8012}
    assert "Targets missed: counting by 4.9 points (85.0% wanted)." in tables.targets_sentence(numbers)
    kinds = {
        tables.RELATION: {"accuracy": 0.51, "low": 0.48, "high": 0.54},
        tables.PLACE: {**tally.share([answered(full=True)])},
    }
    assert "not answered better than by chance" in tables.relation_sentence({"kinds": kinds})
    kinds[tables.RELATION] = {"accuracy": 0.91, "low": 0.88, "high": 0.94}
    assert "not answered" not in tables.relation_sentence({"kinds": kinds})
    assert "All lie within 2 points" in tables.positions_sentence(numbers)
    numbers["re_indexed_minus_original"][3]["difference"] = -0.025
    assert "beyond the 2 points" in tables.positions_sentence(numbers)
    assert "not the same within error" not in tables.sizes_sentence(numbers)
    numbers["picture_sizes"]["minus_square"]["252x336"].update(low=-0.1, high=-0.01)
    assert "252x336: +0.0 points (-10.0 to -1.0), not the same within error" in tables.sizes_sentence(numbers)


def test_curves_are_thinned_and_end_at_the_end() -> None:
    lines = [{"step": i, "seconds": 60.0 * i, "val_existence": i / 100} for i in range(1, 42)]
    table = tables.curve_table(lines).splitlines()
    assert table[0] == "| minutes | step | existence |"
    assert len(table) == 2 + tables.CURVE_ROWS
    assert table[2] == "| 1.0 | 1 | 1.0 |" and table[-1] == "| 41.0 | 41 | 41.0 |"


def test_a_broken_sitting_does_not_run_the_curve_backwards(tmp_path: Path) -> None:
    steps = [(100, 60.0), (200, 120.0), (300, 180.0), (250, 150.0), (300, 185.0), (400, 240.0)]
    lines = [{"step": step, "seconds": seconds, "val_existence": seconds / 1000} for step, seconds in steps]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    sitting = card.read_log(tmp_path / "log.jsonl")
    assert [(line["step"], line["seconds"]) for line in sitting.validations] == [steps[0], steps[1], *steps[3:]]
    assert sitting.went_on == [250] and sitting.steps == 400 and sitting.minutes == 4.0
    assert "near step 250" in card.history(sitting) and "again" not in card.history(sitting)


def test_the_readme_keeps_all_but_what_stands_between_the_markers() -> None:
    readme = f"before\n{card.README_START}\nold\n{card.README_END}\nafter\n"
    section = f"{card.README_START}\nnew\n{card.README_END}"
    assert card.with_section(readme, section) == f"before\n{section}\nafter\n"
    for broken in ("no marker", readme + readme, readme.replace(card.README_END, "")):
        with pytest.raises(ValueError, match="expected one"):
            card.with_section(broken, section)


def test_logs_of_a_finished_training_are_copied_with_their_machine(tmp_path: Path) -> None:
    runs, logs = tmp_path / "runs", tmp_path / "logs"
    runs.mkdir(), logs.mkdir()
    card.collect(runs, logs)
    assert not list(logs.iterdir())  # nothing ran here: the logs that are there stay
    (runs / "vision.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match="finish the training first"):
        card.collect(runs, logs)
    (runs / "language.jsonl").write_text("{}\n")
    card.collect(runs, logs)
    assert sorted(path.name for path in logs.iterdir()) == ["language.jsonl", "machine.txt", "vision.jsonl"]


def test_blind_guesses_are_learnt_piece_by_piece() -> None:
    whole, parts = evaluate.learn(0, 12), [evaluate.learn(0, 5), evaluate.learn(5, 7)]
    for kind, counts in whole.items():
        assert counts == sum((part.get(kind, Counter()) for part in parts), Counter())
    assert tally.most_frequent(Counter({"b": 2, "a": 2, "c": 1})) == "a"
    assert tally.most_frequent(Counter()) is None


def test_pieces_come_back_in_order() -> None:
    workers = evaluate.Workers(1)
    assert workers.run("roots", pow, [3, 1, 2], [2, 2, 2]) == [9, 1, 4]
    workers.close()
    assert torch.get_num_threads() == 1
