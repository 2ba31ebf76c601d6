"""Wide scenes in training: the vocabulary is closed both ways, labels say what patches show."""

from __future__ import annotations

import numpy as np
import pytest

from scenes import COLORS, SHAPES, SIZES, generate_scene
from scenes.wide import RESERVED, WideQuestionMaker, generate_wide_scene
from training.architecture import (
    GRID,
    SPECIAL,
    UNKNOWN,
    WIDE_VOCABULARY_ROWS,
    build_tokenizer,
    build_wide_tokenizer,
    vocabulary,
    wide_vocabulary,
)
from training.labels import SIGN, TEXTS, patch_labels, patch_owners
from training.prompts import pack
from training.wide_labels import IGNORED, OTHER_COLOR, OTHER_SHAPE, WIDE_HEADS, wide_patch_labels, wide_presence
from training.wide_prompts import (
    WIDE_EARLY_SHARES,
    WIDE_SHARES,
    WIDE_WORDS,
    encode_wide,
    random_wide_blocks,
    wide_block,
)

NAMES = {index: word for word, index in wide_vocabulary().items()}


@pytest.mark.generator
def test_training_shows_every_word_and_no_other() -> None:
    rng, shown = np.random.default_rng(0), set()
    for seed in range(150):
        scene = generate_wide_scene(seed, questions_per_family=0)
        maker = WideQuestionMaker(rng, scene.objects, scene.signs, scene.square)
        kinds = (maker.existence, maker.attribute, maker.counting, maker.spatial, maker.reading, maker.listing)
        for kind in (*kinds, maker.unknown):
            for question in (kind() for _ in range(20)):
                if question is not None:  # encoding raises for a word without an id
                    shown |= {NAMES[i] for i in (*encode_wide(question.text), *encode_wide(question.answer))}
    template = {"user", "assistant", "<image>", "<s>", "</s>", "<pad>"}
    assert set(wide_vocabulary()) - shown == template
    assert set(RESERVED) | {"<unk>"} <= shown
    assert len(wide_vocabulary()) <= WIDE_VOCABULARY_ROWS


def test_the_tokenizer_splits_as_the_training_does() -> None:
    tokenizer, rng = build_wide_tokenizer(), np.random.default_rng(1)
    asked = 0
    for seed in range(150):
        scene = generate_wide_scene(seed, questions_per_family=0)
        maker = WideQuestionMaker(rng, scene.objects, scene.signs, scene.square)
        questions = [maker.make(f) for f in ("existence", "attribute", "counting", "spatial", "reading")]
        for question in [q for q in (*questions, maker.listing()) if q is not None]:
            ids = tokenizer(f"USER: <image>\n{question.text} ASSISTANT: {question.answer}")["input_ids"]
            block = wide_block(question, scene)
            assert ids[3:] == [*block.question, *block.answer], question
            assert (UNKNOWN in ids) == ("<unk>" in question.text)
            asked += 1
    assert asked > 600


def test_words_that_training_never_showed_are_unknown() -> None:
    tokenizer = build_wide_tokenizer()
    for word in ("dog", "zebra", "teal", "hexagon", "heart", "white", "which's", "<word16>"):
        assert UNKNOWN in tokenizer(f"is there a {word}?")["input_ids"], word
    for text in ("What's the COLOUR of the star?", "what’s the color of the star", "whats the color of the star"):
        assert tokenizer(text)["input_ids"][1:] == encode_wide("what is the color of the star?")


def test_the_tokenizer_is_the_same_after_saving(tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = build_wide_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "USER: <image>\nisn't there a <word3> or a dog? what’s the colour? ASSISTANT: none"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_counts_follow_one_another_and_the_special_tokens_stay() -> None:
    words = wide_vocabulary()
    assert [words[str(n)] - words["0"] for n in range(11)] == list(range(11))
    assert [words[word] for word in SPECIAL] == [vocabulary()[word] for word in SPECIAL]


def test_the_old_vocabulary_and_tokenizer_are_as_before() -> None:
    assert len(vocabulary()) == 109
    assert build_tokenizer()("What's the colour?")["input_ids"] == build_tokenizer()("what s the colour")["input_ids"]


@pytest.mark.parametrize("shares", [WIDE_SHARES, WIDE_EARLY_SHARES])
def test_blocks_fit_and_their_points_lie_on_what_they_name(shares: dict[str, float]) -> None:
    rng, pointed = np.random.default_rng(2), 0
    for seed in range(60):
        scene = generate_wide_scene(seed, questions_per_family=0)
        blocks = random_wide_blocks(scene, rng, 120, shares, 0.2)
        assert sum(len(block.question) + len(block.answer) for block in blocks) <= 120
        pack([blocks], 120)
        for block in blocks:
            for place, (x, y) in block.points.items():
                word = NAMES[block.question[place]]
                owner = int(scene.owner[int(y * 336), int(x * 336)])
                if word in SHAPES and word != "ring":
                    assert scene.objects[owner].shape == word, (seed, word)
                    pointed += 1
    assert pointed > 50


def test_labels_name_what_the_pixels_of_a_patch_belong_to() -> None:
    side = 336 // GRID
    others = 0
    for seed in range(40):
        scene = generate_wide_scene(seed, dense=seed % 2 == 0)
        labels, owners = wide_patch_labels(scene, GRID), patch_owners(scene, GRID)
        for patch in range(GRID * GRID):
            row, column = divmod(patch, GRID)
            pixels = scene.owner[row * side : (row + 1) * side, column * side : (column + 1) * side]
            owner = int(owners[patch])
            shape, color, size, text, center = labels[patch]
            if owner < 0:
                assert (pixels >= 0).mean() < 0.2 and not labels[patch].any()
                continue
            assert (pixels == owner).any(), (seed, patch)
            if owner >= len(scene.objects):
                sign = scene.signs[owner - len(scene.objects)]
                assert shape == SIGN and TEXTS[text - 1].endswith(sign.text)
                continue
            item = scene.objects[owner]
            assert shape == (SHAPES.index(item.shape) + 1 if item.shape in SHAPES else OTHER_SHAPE)
            assert color == (list(COLORS).index(item.color) + 1 if item.color in COLORS else OTHER_COLOR)
            assert size == (SIZES.index(item.size) + 1 if item.size else IGNORED)
            assert bool(center) == (int(item.center[1]) // side == row and int(item.center[0]) // side == column)
            others += shape == OTHER_SHAPE
        for head, column in zip(WIDE_HEADS, labels.T, strict=True):
            assert column.max() < WIDE_HEADS[head]
        assert labels[:, 4].sum() == len(scene.objects)  # every centre has a patch of its own
        assert wide_presence(scene).sum() <= len({item.name for item in scene.objects})
    assert others


def test_old_scenes_can_be_asked_in_the_wide_wordings() -> None:
    rng = np.random.default_rng(4)
    for seed in range(20):
        scene = generate_scene(seed, questions_per_family=0)
        blocks = random_wide_blocks(scene, rng, 120, WIDE_SHARES, 0.2)
        assert len(blocks) > 6
        assert {block.family for block in blocks} <= {
            "existence",
            "attribute",
            "counting",
            "spatial",
            "reading",
            "list",
        }


def test_labels_of_old_scenes_are_the_old_ones() -> None:
    for seed in range(5):
        scene = generate_scene(seed)
        assert np.array_equal(wide_patch_labels(scene, GRID), patch_labels(scene, GRID))


def test_the_word_ids_are_those_of_the_tokenizer() -> None:
    assert build_wide_tokenizer().get_vocab() == WIDE_WORDS
