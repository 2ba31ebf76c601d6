"""What a request must be before anything is computed; everything else is refused with a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from ..errors import BadInput
from ..models.loading import VisionLanguageModel
from ..models.prompts import placeholders
from ..names import Box
from ..records import TokenGrid
from ..session_limits import MAX_EVIDENCE
from ..short import kind_of, passed

MAX_QUESTION_CHARACTERS = 2000
MAX_NEW_TOKENS = 1024


def check_question(question: str, vlm: VisionLanguageModel) -> str:
    """The question without outer blanks. Raises BadInput when empty, too long, or with the model's reserved words."""
    if not isinstance(question, str) or not question.strip():
        raise BadInput("There is no question: type one about the picture.")
    question = question.strip()
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise BadInput(
            f"The question has {len(question):,} characters; the limit is {MAX_QUESTION_CHARACTERS:,}. "
            "Please shorten it."
        )
    check_text("The question", question)
    tokenizer = vlm.processor.tokenizer
    # As ids, not only as text: a tokenizer may normalise case or width before it looks for its reserved words.
    ids = set(tokenizer(question, add_special_tokens=False)["input_ids"]) & set(tokenizer.all_special_ids)
    written = [reserved for reserved in (*tokenizer.all_special_tokens, *placeholders(vlm)) if reserved in question]
    reserved_ids = ids - {tokenizer.unk_token_id}
    if written or reserved_ids:
        reserved = written[0] if written else tokenizer.convert_ids_to_tokens(min(reserved_ids))
        raise BadInput(f"The question contains {reserved!r}, which is reserved by the model; please leave it out.")
    return question


def check_text(what: str, value: object) -> None:
    """Raises BadInput for what is no text that can be written."""
    if not isinstance(value, str):
        raise BadInput(f"{what} must be text, not {passed(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{what} is not valid text (UTF-8); please type it again.") from error


def check_model(vlm: object) -> None:
    """Raises BadInput for anything but a loaded model."""
    if not isinstance(vlm, VisionLanguageModel):
        raise BadInput(
            f"The first argument is a model as tokviz.load returns it, not {kind_of(vlm)}: "
            "write tokviz.compare(tokviz.load(...), image, question), with the model's id or the folder that its "
            "save_pretrained wrote."
        )


def listed(name: str, values: object) -> list[Any]:
    """Values that should be a list. Raises BadInput."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise BadInput(f"{name} must be a list, not {passed(values)}.")
    return list(values)


def check_numbers(budget: int, budget_as: str, seed: int, repeats: int, max_new_tokens: int, grid: TokenGrid) -> None:
    """Raises BadInput for numbers that are none, or out of range."""
    for name, value, low, high in (
        ("The budget", budget, 1, grid.n_tokens),
        ("The seed", seed, 0, 2**63 - 1),
        ("The number of repeats", repeats, 1, 100),
        ("The number of new tokens", max_new_tokens, 1, MAX_NEW_TOKENS),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            what = "video" if grid.is_video else "picture"
            why = f" (this {what} has {grid.n_tokens} visual tokens)" if name == "The budget" else ""
            raise BadInput(f"{name} must be a whole number from {low} to {high}{why}, not {passed(value)}.")
    if budget_as not in ("published", "final", "average"):
        raise BadInput(f"budget_as must be published, final or average, not {passed(budget_as)}.")


def evidence_boxes(evidence: Sequence[Box]) -> list[Box]:
    """The boxes as four floats each. Raises BadInput for anything else, and for more than a session holds."""
    boxes = listed("evidence", evidence)
    if len(boxes) > MAX_EVIDENCE:
        raise BadInput(f"There are {len(boxes):,} evidence boxes; a session holds at most {MAX_EVIDENCE:,}.")
    return [_check_box(box) for box in boxes]


def _check_box(box: object) -> Box:
    sides = list(box) if isinstance(box, Iterable) and not isinstance(box, str | bytes | Mapping) else []
    if len(sides) == 4 and all(isinstance(side, Real) and not isinstance(side, bool) for side in sides):
        try:
            x0, y0, x1, y1 = map(float, sides)
        except OverflowError:  # a whole number beyond every float
            x0 = y0 = x1 = y1 = math.inf
        if all(map(math.isfinite, (x0, y0, x1, y1))) and x0 < x1 and y0 < y1:
            return x0, y0, x1, y1
    raise BadInput(f"An evidence box is x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1, not {passed(box)}.")


def check_context(vlm: VisionLanguageModel, length: int, max_new_tokens: int, question: str, grid: TokenGrid) -> None:
    """Refuse what the model has no positions for, with the advice that helps. length: of the prompt, image included."""
    limit = getattr(vlm.text_config, "max_position_embeddings", None)
    if not limit or length + max_new_tokens <= limit:
        return
    room = limit - length
    what = "Video" if grid.is_video else "Picture"
    asked = len(vlm.processor.tokenizer(question, add_special_tokens=False)["input_ids"])
    if room > 0:
        advice = f"allow at most {room} new {'token' if room == 1 else 'tokens'}"
    elif sum(len(view.frames) for view in grid.views) > 1:
        advice = "use fewer frames"
    elif 1 - room < asked:  # a question that much shorter still asks something
        advice = f"shorten the question by at least {1 - room} of its {asked} tokens"
    elif _fewer_when_smaller(vlm, grid):
        advice = f"use a smaller picture, which alone takes {grid.n_tokens} of them, or another model"
    else:
        advice = f"choose another model: with this one every picture takes {grid.n_tokens} of them"
    raise BadInput(
        f"{what}, question and answer need {length + max_new_tokens} tokens; {vlm.record.name} takes {limit}. "
        f"Please {advice}."
    )


def _fewer_when_smaller(vlm: VisionLanguageModel, grid: TokenGrid) -> bool:
    """Whether the model makes fewer visual tokens of a picture of a quarter of the size per side."""
    width, height = (max(side // 4, 1) for side in grid.picture_size)
    try:
        return vlm.family.grid(vlm.model, vlm.processor, (width, height), {}).n_tokens < grid.n_tokens
    except BadInput:  # so small a picture is none that the model takes
        return False
