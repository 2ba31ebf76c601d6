"""What is measured outside the model's own world: answers as generated, phrasings that mean the same, unknown words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scenes import COLORS, EXAMPLE_SEEDS, Scene, SceneQuestion, generate_scene
from testworld import CROWDED, SINGLE, UNIFORM, Thing, World, generate_world
from training import evaluate_general, general, general_report, unknown_words
from training.architecture import build_processor
from training.general import OWN, SECOND, Asked, Denied, Rephrased
from training.phrasings import FORMS, rephrase
from training.replies import MOST_WORDS, Reply
from training.scoring import ask
from training.tally import Answered

SHIPPED = Path(__file__).parents[2] / "assets" / "tokviz-tiny"


@pytest.fixture(scope="module")
def shipped() -> Asked:
    torch.set_num_threads(1)
    return Asked(SHIPPED)


def test_replies_are_what_generate_says(shipped: Asked) -> None:
    """Many questions in one pass, longer answers than one word and words that it does not know among them."""
    scene = generate_scene(EXAMPLE_SEEDS[0])
    questions = [q.text for q in scene.questions[::2]] + ["is there a dog?", "list the objects", "where is it?"]
    _, behind = next(shipped.see("one", [scene.image]))
    replies = behind.ask(questions)
    said = [ask(shipped.model, shipped.processor, Image.fromarray(scene.image), question) for question in questions]
    assert [reply.answer for reply in replies] == [" ".join(words.split()[:MOST_WORDS]) for words in said]
    for one, other in zip(behind.ask(questions[2:5]), replies[2:5], strict=True):  # fewer at a time change nothing
        assert one.answer == other.answer and one.yes == pytest.approx(other.yes, abs=1e-5)
    assert behind.ask([]) == []


def pictures() -> list[Scene | World]:
    scenes: list[Scene | World] = [generate_scene(EXAMPLE_SEEDS[i], questions_per_family=4) for i in range(12)]
    return scenes + [generate_world(i, kind) for i in range(15) for kind in (CROWDED, SINGLE, UNIFORM)]


def sizes(picture: Scene | World) -> tuple[int, int]:
    if isinstance(picture, World):
        return len(picture.things), len(picture.captions)
    return len(picture.objects), len(picture.signs)


def test_there_are_sixty_phrasings_and_all_of_them_occur() -> None:
    assert sum(len(form.phrasings) for form in FORMS) >= 60
    assert all(len(set(form.phrasings)) == len(form.phrasings) for form in FORMS)
    seen = {
        (form.name, template)
        for picture in pictures()
        for question in picture.questions
        for form, template, _ in rephrase(question, *sizes(picture))
    }
    assert seen == {(form.name, template) for form in FORMS for template in form.phrasings}


def said(text: str, answer: str, family: str, things: int = 5, signs: int = 2) -> set[str]:
    return {other for _, _, other in rephrase(SceneQuestion(text, answer, family, ()), things, signs)}


def test_phrasings_fit_the_words() -> None:
    assert {"are there any red crosses?", "do you see an orange ring?"} <= said(
        "is there a red cross?", "yes", "existence"
    ) | said("is there an orange ring?", "no", "existence")
    assert "what colour is the small star?" in said("what color is the small star?", "red", "attribute")
    assert "count the blue objects." in said("how many blue objects are there?", "2", "counting")
    assert "how many stars can you see?" in said("how many stars are there?", "2", "counting")
    assert "where's the red star?" in said("where is the red star?", "top", "spatial")
    assert "is a red star left of an orange ring?" in said("is the red star left of the orange ring?", "yes", "spatial")
    assert "which number is on the sign?" in said("what number is on the sign?", "4", "reading")
    assert said("what digit is handwritten?", "4", "reading") == set()


def test_phrasings_mean_the_same() -> None:
    """ "the object" and "the sign" only where there is one, "objects" only where all are counted."""
    color, many, read = "what color is the object?", "how many objects are there?", "what does the sign say?"
    assert color in said("what color is the star?", "red", "attribute", things=1)
    assert color not in said("what color is the star?", "red", "attribute", things=2)
    assert color not in said("what color is the star?", "none", "attribute", things=1)
    assert many in said("how many red objects are there?", "3", "counting", things=3)
    assert many not in said("how many red objects are there?", "3", "counting", things=4)
    assert read in said("what word is on the sign?", "taxi", "reading", signs=1)
    assert read not in said("what word is on the sign?", "taxi", "reading", signs=2)
    assert read not in said("what word is on the sign?", "none", "reading", signs=1)
    above, left = "is the red star above the blue ring?", "is the red star left of the blue ring?"
    assert "is the red star over the blue ring?" in said(above, "yes", "spatial")
    assert "is the red star under the blue ring?" not in said(above, "yes", "spatial")
    assert not any(" over " in text or " higher " in text for text in said(left, "yes", "spatial"))
    assert "is the red star to the left of the blue ring?" in said(left, "yes", "spatial")
    assert not any(" to the above" in text for text in said(above, "yes", "spatial"))
    assert "is the star small or large?" not in said("what size is the star?", "none", "attribute")


def test_what_is_asked_of_the_unknown_is_not_there() -> None:
    processor = build_processor()
    nouns = unknown_words.strangers(processor, (*unknown_words.NOUNS, "star"))
    assert "star" not in nouns and len(nouns) == len(unknown_words.NOUNS) >= 40
    kinds = set()
    for i in range(30):
        world = generate_world(i)
        rng = np.random.default_rng(i)
        for question in unknown_words.absent_questions(world.things, nouns, unknown_words.UNKNOWN_COLORS, rng):
            kinds.add(question.kind)
            ids = processor.tokenizer(question.text)["input_ids"]
            assert processor.tokenizer.unk_token_id in ids, question
            if "unknown colour" in question.kind:
                assert all(thing.color in COLORS for thing in world.things)
            if question.kind == "known colour, noun":
                assert any(thing.color in question.text.split() for thing in world.things)
    assert kinds == set(unknown_words.KINDS)


def test_words_that_training_shows() -> None:
    shown = unknown_words.words_shown(40)
    assert {"is", "there", "how", "many", "star", "yes", "no", "none", "0", "1", "user", "assistant"} <= shown
    assert unknown_words.never_shown(["star", "nineteen", "any", "<unk>"], shown) == ["any", "nineteen"]


class Picky:
    """Answers only behind the first picture rightly; everything else with "no"."""

    def __init__(self, right: dict[str, str]) -> None:
        self.right = right

    def ask(self, questions: list[str]) -> list[Any]:
        return [Reply(self.right.get(question, "no"), 0.25, 0.5) for question in questions]


class Stand:
    """Stands for a loaded folder: knows every answer about a picture, and nothing about grey."""

    def __init__(self, worlds: list[World]) -> None:
        self.known = {w.image.tobytes(): {q.text: q.answer for q in w.questions} for w in worlds}

    def see(self, name: str, images: list[Any]) -> Any:
        for image in images:
            yield None, Picky(self.known.get(image.tobytes(), {}))


def test_every_question_is_asked_behind_its_own_picture() -> None:
    worlds = [generate_world(i) for i in range(4)]
    rows = general.ask_second_world(Stand(worlds), worlds)  # type: ignore[arg-type]
    assert [row.question for row in rows] == [question for world in worlds for question in world.questions]
    assert all(row.right["full"] for row in rows)
    assert all(row.right["grey"] == (row.question.answer == "no") for row in rows)
    assert not all(row.right["shuffled"] for row in rows)
    for world, before in zip(worlds, [worlds[-1], *worlds[:-1]], strict=True):
        wrong = {q.text: q.answer for q in before.questions}
        for row in (row for row in rows if row.seed == world.seed):
            assert row.right["shuffled"] == (wrong.get(row.question.text, "no") == row.question.answer)


def test_slices_tell_sizes_and_letters() -> None:
    groups = {
        (question.family, group)
        for i in range(40)
        for world in [generate_world(i)]
        for question in world.questions
        for group in general.groups_of(world, question)
    }
    names = {name for _, name in general.SIZES}
    assert {("existence", name) for name in names} <= groups and {("reading", name) for name in names} <= groups
    assert {("reading", "lower case, no plate"), ("reading", "upper case, on a plate")} <= groups
    assert ("existence", "about what is not there") in groups


def test_the_report_counts_what_was_asked() -> None:
    question = SceneQuestion("is there a star?", "yes", "existence", ())
    rows = [
        Answered(i, question, ("16-24 px",), {"full": i < 3, "grey": False, "blind": True, "shuffled": False})
        for i in range(4)
    ]
    accuracy = evaluate_general.accuracy_report(rows)
    assert accuracy["accuracy"]["existence"]["accuracy"] == 0.75 and accuracy["baselines"]["blind"]["existence"] == 1
    template = "is there any {thing}?"
    other = [Rephrased(OWN, "existence", template, "yes", "yes", "yes" if i < 9 else "no") for i in range(10)]
    other += [Rephrased(SECOND, "existence", template, "no", "yes", "yes") for _ in range(10)]
    ways = evaluate_general.phrasing_report(other)
    entry = next(entry for entry in ways["table"] if entry["phrasing"] == template)
    assert (entry[OWN]["like_canonical"], entry[SECOND]["like_canonical"], entry["both"]["like_canonical"]) == (
        0.9,
        1.0,
        0.95,
    )
    assert entry[SECOND]["right"] == 0 and ways["judged"] == ways["understood"] == 1
    denied = [Denied(OWN, "noun", "is there a dog?", "no" if i else "yes", 0.2) for i in range(4)]
    unknown = evaluate_general.unknown_report(denied, SimpleNamespace(processor=build_processor()))  # type: ignore[arg-type]
    assert unknown[OWN]["noun"]["no"]["share"] == 0.75 and unknown[OWN]["noun"]["mean_probability_of_yes"] == 0.2
    text = general_report.markdown({
        "folder": "x", "machine": "m", "seconds": 1.0, "second_world": accuracy, "phrasings": ways,
        "unknown_words": unknown, "never_shown_in_training": {"scenes": 3, "words": ["any"]},
        "out_of_world": {
            "score": "s", "statistics": "t", "threshold": 3.0, "false_alarms_wanted": 0.01,
            "auroc_photographs_second_world": 0.9, "photographs_beyond_second_world": 0.5, "photographs": 12,
            "sorts": {},
        },
    })  # fmt: skip
    assert "| existence | 4 | 75.0 (" in text and "| own world | noun | 4 | 75.0 (" in text and "any" in text


def test_things_have_a_size_word_only_where_it_is_plain() -> None:
    def size(diameter: float) -> str | None:
        return Thing("star", "red", (50, 50), diameter, (0, 0, 9, 9), 1.0, "flat").size

    assert (size(20), size(30), size(40)) == ("small", None, "large")
