"""Which tokens are the user's own words, whatever the template says around them."""

import pytest
import torch
from PIL import Image

from tokviz.models.prompts import model_inputs, question_span, question_tokens

IMAGE = Image.new("RGB", (300, 200), "white")
PLACE = "\ue000"


def marked(vlm, question):
    inputs, mask = model_inputs(vlm, IMAGE, question)
    assert mask.shape == inputs["input_ids"].shape and mask.dtype == torch.bool
    return vlm.processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][mask].tolist())


@pytest.mark.parametrize(
    "question, words",
    [
        ("what color is the star?", ["what", "color", "is", "the", "star"]),
        ("user", ["user"]),  # also the template's first word
        ("assistant", ["assistant"]),  # also the template's last word
        ("is the star red or is the star blue", ["is", "the", "star", "red", "or", "is", "the", "star", "blue"]),
    ],
)
def test_the_words_are_the_questions_and_no_others(vlm, question, words):
    assert marked(vlm, question) == words


def test_the_inputs_are_the_stock_processors(vlm):
    inputs, mask = model_inputs(vlm, IMAGE, "what is it?")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    stock = vlm.processor(images=[IMAGE], text=[text], return_tensors="pt")
    assert inputs.keys() == stock.keys()
    assert all(torch.equal(inputs[name], stock[name]) for name in stock)
    behind = (inputs["input_ids"][0] == vlm.model.config.image_token_id).nonzero().max()
    assert mask[0].nonzero().min() > behind


def test_a_question_is_where_the_template_puts_it():
    def span(template, question):
        return question_span(template.format(question), template.format(PLACE), question)

    assert span("A: hi <image>\n{} B: hi", "hi") == (14, 16)
    assert span("{}", "hi") == (0, 2)
    assert question_span("A: HI B:", f"A: {PLACE} B:", "hi") is None, "the template changed it"
    assert question_span("A: hi hi B:", f"A: {PLACE} {PLACE} B:", "hi") is None, "twice"
    assert question_span("A: B:", "A: B:", "hi") is None, "not at all"


def tokens_of(text, pieces, inserted=("<im>", "<im>", "<im>")):
    """Offsets in the text whose placeholder was replaced, one token per piece, and where the last token ends in it."""
    wide = text.replace("<im>", "".join(inserted))
    offsets, at = [], 0
    for piece in pieces:
        low = wide.index(piece, at)
        offsets.append((low, low + len(piece)))
        at = low + len(piece)
    return torch.tensor(offsets), len(text.rstrip())


def asked(text, span, pieces, **options):
    offsets, plain_end = tokens_of(text, pieces, **options)
    found = question_tokens(text, span, ["<im>"], offsets, plain_end)
    return [piece for piece, wanted in zip(pieces, found.tolist(), strict=True) if wanted]


def test_widened_placeholders_are_reckoned_with():
    pieces = ["hi", ":", "<im>", "<im>", "<im>", " hi", " the", "re ", ":", "hi"]
    assert asked("hi: <im> hi there :hi", (9, 17), pieces) == [" hi", " the", "re "]


def test_what_is_written_around_frames_is_not_the_users():
    """Qwen3-VL, SmolVLM and InternVL write times or numbers, some of them behind the last frame."""
    inserted = ["<0.5 s>", "[", "<im>", "]", "<1.5 s>", "[", "<im>", "]", " hi", "."]
    pieces = ["hi", ":", *inserted, " hi", " the", "re ", ":", "hi"]
    assert asked("hi: <im> hi there :hi", (9, 17), pieces, inserted=inserted) == [" hi", " the", "re "]


def test_blanks_at_the_end_that_no_token_holds_shift_nothing():
    pieces = ["<im>", "<im>", "<im>", "hi", ":"]
    assert asked("<im> hi : \n", (5, 7), pieces) == ["hi"]


def test_a_question_before_the_image_and_one_between_two():
    assert asked("what? <im> A", (0, 5), ["what", "?", "<im>", "<im>", "<im>", "A"]) == ["what", "?"]
    text = "<im> what <im> A"
    offsets, plain_end = tokens_of(text, ["<im>"] * 3 + ["what"] + ["<im>"] * 3 + ["A"])
    assert question_tokens(text, (5, 9), ["<im>"], offsets, plain_end) is None


def test_tokens_that_hold_only_blanks_or_nothing_are_nobodys():
    offsets = torch.tensor([(0, 0), (0, 1), (1, 2), (1, 3), (3, 5)])
    found = question_tokens("a b c", (1, 3), ["<im>"], offsets, 5)
    assert found.tolist() == [False, False, False, True, False]
