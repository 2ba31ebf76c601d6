"""The facts that make a case hard, on images drawn by hand on a grid of 4 x 4 patches."""

import numpy as np
import pytest

from scenes import Scene, SceneObject, SceneQuestion, SceneSign, generate_scene
from scripts.cases.difficulty import BUSY, CROWD, difficulty, lookalikes, rival_patches
from tokviz.models.llava import centre_crop_grid

CELL = 10
GRID = centre_crop_grid((40, 40), 40, 40, CELL)


def box(cell, span=1):
    """The box of a patch, or of ``span`` patches side by side."""
    row, column = divmod(cell, 4)
    return (CELL * column, CELL * row, CELL * (column + span), CELL * (row + 1))


def thing(shape, color, cell, size="small"):
    x0, y0, x1, y1 = map(float, box(cell))
    return SceneObject(shape, color, size, ((x0 + x1) / 2, (y0 + y1) / 2), CELL / 2, 0.0, (x0, y0, x1, y1))


def scene(objects=(), signs=(), striped=()):
    """Grey, with black and white stripes in every patch that holds something and in ``striped``."""
    image, owner = np.full((40, 40, 3), 128, np.uint8), np.full((40, 40), -1, np.int16)
    for number, item in enumerate([*objects, *signs]):
        x0, y0, x1, y1 = map(int, item.box)
        owner[y0:y1, x0:x1] = number
        image[y0:y1, x0:x1] = 100
        image[y0:y1:2, x0:x1] = 200
    for cell in striped:
        x0, y0, x1, y1 = box(cell)
        image[y0:y1, x0:x1] = 0
        image[y0:y1:2, x0:x1] = 255
    return Scene(0, image, owner, tuple(objects), tuple(signs), (), (0.0, 0.0, 40.0, 40.0))


def asked(text, answer, family, *items):
    return SceneQuestion(text, answer, family, tuple(item.box for item in items))


def test_little_evidence_among_things_that_look_alike():
    star = thing("star", "red", 5)
    image = scene([star, thing("ring", "red", 0), thing("star", "blue", 3), thing("cross", "blue", 15)])
    found = difficulty(image, asked("what color is the star?", "red", "attribute", star), GRID)
    assert found.kinds == ("small evidence", "near-duplicates") and found.n_evidence == 1
    assert found.sentence == (
        "The small red star covers 1 of 16 patches, and 2 other objects share its colour or its shape."
    )
    assert [item.name for item in lookalikes(image, [star])] == ["red ring", "blue star"]


def test_a_busy_background_is_counted_where_nothing_lies():
    star = thing("star", "red", 5)
    image = scene([star, thing("ring", "blue", 6)], striped=(0, 1, 6, 15))
    assert rival_patches(image, GRID, [5]) == 3, "a patch with an object is no background"
    found = difficulty(image, asked("is there a star?", "yes", "existence", star), GRID)
    assert "busy background" not in found.kinds and "background" not in found.sentence
    busy = generate_scene(300_000_002, size=(480, 480))
    grid = centre_crop_grid((480, 480), 336, 336, 14)
    question = next(q for q in busy.questions if q.evidence)
    found = difficulty(busy, question, grid)
    assert "busy background" in found.kinds
    rivals = int(found.sentence.split(" patches of bare background")[0].split()[-1])
    assert rivals >= BUSY


def test_a_crowd_is_counted_together():
    many = [thing("star", "red" if cell < 4 else "blue", cell) for cell in range(CROWD)]
    found = difficulty(scene(many), asked("how many red stars are there?", "4", "counting", *many[:4]), GRID)
    assert "crowd to count" in found.kinds
    assert found.sentence == f"The 4 red stars cover 4 of 16 patches, and the image holds {CROWD} objects."
    few = difficulty(scene(many[:5]), asked("how many red stars are there?", "4", "counting", *many[:4]), GRID)
    assert "crowd to count" not in few.kinds


def test_a_relation_names_both_and_existence_does_not_list():
    one, two = thing("star", "red", 5), thing("ring", "blue", 9, "large")
    found = difficulty(scene([one, two]), asked("is it left?", "yes", "spatial", one, two), GRID)
    assert "relation" in found.kinds
    assert found.sentence == "The small red star and the large blue ring cover 2 of 16 patches."
    both = difficulty(scene([one, two]), asked("is there a small object?", "yes", "existence", one, two), GRID)
    assert both.sentence.startswith("The 2 objects that fit cover")


@pytest.mark.parametrize(
    ("kind", "name"), [("word", "printed word"), ("number", "printed number"), ("digit", "handwritten digit")]
)
def test_signs_are_told_apart(kind, name):
    sign, other = SceneSign("7", kind, box(4, 2)), SceneSign("stop", "word", box(8))
    found = difficulty(scene(signs=[sign, other]), asked("what is it?", "7", "reading", sign), GRID)
    assert name in found.kinds
    assert found.sentence == f"The {name} “7” covers 2 of 16 patches, and 1 other sign can be mistaken for it."


def test_a_wide_image_is_one_that_is_not_seen_whole():
    wide = generate_scene(300_000_000, size=(640, 480))
    question = next(q for q in wide.questions if q.evidence)
    assert "wide image" in difficulty(wide, question, centre_crop_grid((640, 480), 336, 336, 14)).kinds
    square = generate_scene(300_000_000, size=(480, 480))
    assert "wide image" not in difficulty(square, question, centre_crop_grid((480, 480), 336, 336, 14)).kinds


def test_a_question_about_nothing_has_no_difficulty():
    with pytest.raises(ValueError, match="evidence"):
        difficulty(scene(), SceneQuestion("is there a star?", "no", "existence", ()), GRID)
