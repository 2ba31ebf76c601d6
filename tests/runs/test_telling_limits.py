"""What an embedded model does not know is said beside its answers, and so is an answer that is none."""

import pytest
from PIL import Image

import tokviz
from tokviz import cli
from tokviz.runs.examples import EXAMPLES, load_examples, stored_digests
from tokviz.runs.execute import EMPTY_ANSWER

SENTENCE = "This image is unlike the drawn scenes that tokviz-tiny was trained on"


@pytest.fixture(scope="module")
def photograph():
    return Image.effect_noise((200, 150), 60).convert("RGB")


def test_beside_every_answer_about_another_image_stands_what_the_model_was_trained_on(vlm, photograph):
    result = tokviz.compare(vlm, photograph, "where is the ring?", ["apet"], budget=32)
    assert [w for w in result.warnings if w.startswith(SENTENCE)] and result.runs[0].answer
    for event in tokviz.compare_events(vlm, photograph, "where is the ring?", methods=[], budget=32):
        assert any(w.startswith(SENTENCE) for w in event.comparison.warnings), "from the first event on"


def test_the_examples_of_the_page_are_drawn_scenes_and_nothing_is_said_of_them(vlm):
    image = sorted(EXAMPLES.glob("*/image.png"))[0]
    result = tokviz.compare(vlm, image, "hello", ["apet"], budget=64)
    assert not [w for w in result.warnings if w.startswith(SENTENCE)]
    digests = {example.comparison.image.sha256 for example in load_examples()}
    digests |= {e.comparison.video.sha256 for e in load_examples() if e.comparison.video is not None}
    assert digests <= stored_digests()
    assert not [w for example in load_examples() for w in example.comparison.warnings if "drawn scenes" in w]


def test_models_without_statistics_say_nothing_of_the_kind(photograph, tmp_path):
    import shutil

    from tokviz.models.catalog import embedded_folder
    from tokviz.models.out_of_world import FILE

    mine = tokviz.load(shutil.copytree(embedded_folder(), tmp_path / "mine", ignore=shutil.ignore_patterns(FILE)))
    assert not mine.record.embedded
    result = tokviz.compare(mine, photograph, "where is the ring?", [], budget=32)
    assert not [w for w in result.warnings if "drawn scenes" in w]


def test_the_command_prints_it(vlm, photograph, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tokviz, "load", lambda *_, **__: vlm, raising=False)
    photograph.save(tmp_path / "photo.png")
    assert cli.main(["compare", str(tmp_path / "photo.png"), "--question", "where is the ring?", "--methods", ""]) == 0
    assert SENTENCE in " ".join(capsys.readouterr().out.split())


def test_an_empty_answer_is_told_as_one(vlm):
    """As the model card says; answers are not changed."""
    answers = []
    for image in sorted(EXAMPLES.glob("*/image.png"))[:6]:
        for run in tokviz.compare(vlm, image, "hello", ["apet"], budget=64).runs:
            assert (run.answer == "") == (EMPTY_ANSWER in run.warnings)
            answers.append(run.answer)
    assert "" in answers and any(answers)
