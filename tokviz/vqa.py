"""The accuracy of the VQA challenge: answers made alike as its evaluation does, compared with those of ten people.

Source: the evaluation code of VQA (visualqa.org, GT-Vision-Lab/VQA), whose rules are restated here. It leaves answers
as they are where all people said the same; here, as in lmms-eval and VLMEvalKit, they are always made alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTRACTIONS = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
"""Words that get back an apostrophe, but only one: ``couldnt've`` becomes ``couldn't've``, ``couldntve`` stays."""


def _with_one_apostrophe_less() -> dict[str, str]:
    full = {
        word[:at] + word[at + 1 :]: word
        for word in _CONTRACTIONS.split()
        for at, character in enumerate(word)
        if character == "'"
    }
    return full | {"somebody'd": "somebodyd"}  # so in the original


_FULL_FORM = _with_one_apostrophe_less()
_DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_DIGITS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def alike(answer: str, *, none_is_zero: bool = True) -> str:
    """An answer as the VQA evaluation compares it: lower case, digits, no articles, little punctuation.

    none_is_zero: as there. Where answers are read off the image, "none" says that there is nothing, and not the digit.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    plain = _without_punctuation(text).lower().split()
    words = [word if word == "none" and not none_is_zero else _DIGITS.get(word, word) for word in plain]
    return " ".join(_FULL_FORM.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark goes where it stands at a space, or where the text has a number like 1,000; else it becomes a space."""
    number, result = _COMMA_IN_NUMBER.search(text) is not None, text
    for mark in _PUNCTUATION:
        at_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if at_space or number else " ")
    return _PERIOD.sub("", result)


def vqa_score(answer: str, answers: Sequence[str]) -> float:
    """Share of the people who agree, 0 to 1: of those that remain when one is left out, three are enough; the mean.

    With ten answers: 0.3, 0.6, 0.9 and 1 for one, two, three and four who said the same. A single answer is compared
    with as it is, since nobody remains.

    Raises:
        ValueError: If there are no answers.
    """
    if not answers:
        raise ValueError("a VQA score needs at least one answer")
    matches, n = [alike(answer) == alike(other) for other in answers], len(answers)
    if n == 1:
        return float(matches[0])
    agreed = sum(matches)
    return sum(min(1.0, (agreed - matched) / 3) for matched in matches) / n
