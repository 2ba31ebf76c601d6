"""The words of an answer: how likely the model found each, and which of them the unpruned answer has, too."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from .records import AnswerToken, Run
from .vqa import alike

CUT_ANSWER = "The answer was cut after {} new tokens; more can be allowed."
_CUT = re.compile(re.escape(CUT_ANSWER).replace(re.escape("{}"), r"(\d{1,6})"))


@dataclass(frozen=True)
class AnswerWord:
    """A word of an answer.

    Attributes:
        before: White space in front of the word, as it was written.
        text: The word with its punctuation.
        logprob: Log-probability of the word (natural log): the sum over its tokens, each given what came before. None
            where the tokens do not spell the word, as with characters that take several tokens.
        same: Whether the unpruned answer has the word at this place, apart from case and punctuation.
        instead_of: Words of the unpruned answer that were left out in front of this word or replaced by it.
    """

    before: str
    text: str
    logprob: float | None
    same: bool
    instead_of: str = ""

    @property
    def probability(self) -> float | None:
        """The word's probability, 0 to 1."""
        return None if self.logprob is None else math.exp(self.logprob)


def cut_after(warnings: Sequence[str]) -> int | None:
    """After how many new tokens a run's answer was cut, by its warnings; None when it came to its own end."""
    found = (_CUT.fullmatch(warning) for warning in warnings)
    return next((int(match[1]) for match in found if match), None)


def answer_words(run: Run, unpruned: Run) -> list[AnswerWord]:
    """Split an answer into words and align them with those of the unpruned answer, the longest runs of words first.

    A last word without text stands for words of the unpruned answer that are missing at the end.
    """
    found = [(match[1], match[2], match.start(2), match.end(2)) for match in re.finditer(r"(\s*)(\S+)", run.answer)]
    spans = _token_spans(run.answer, run.answer_tokens)
    there = unpruned.answer.split()
    same, instead = _aligned([_plain(text) for _, text, _, _ in found], [_plain(text) for text in there], there)
    words = [
        AnswerWord(before, text, _word_logprob(start, end, spans), same[i], instead[i])
        for i, (before, text, start, end) in enumerate(found)
    ]
    return [*words, AnswerWord("", "", None, False, instead[-1])] if instead[-1] else words


def _plain(word: str) -> str:
    """A word without case and outer punctuation, a number in digits; one that is nothing else stays."""
    bare = word.casefold().strip(string.punctuation) or word
    return alike(bare, none_is_zero=False) or bare


def _aligned(words: Sequence[str], others: Sequence[str], spelled: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Which words are in both, and which of the others are missing in front of each word, and behind the last."""
    same, instead = [False] * len(words), [""] * (len(words) + 1)
    # An answer of a thousand words is one that repeats itself; without autojunk that takes a second.
    matcher = SequenceMatcher(None, words, others, autojunk=max(len(words), len(others)) > 400)
    for kind, first, last, left, right in matcher.get_opcodes():
        if kind == "equal":
            same[first:last] = [True] * (last - first)
        elif left < right:
            instead[first] = " ".join(spelled[left:right])
    return same, instead


def _token_spans(answer: str, tokens: Sequence[AnswerToken]) -> list[tuple[int, int, float | None]]:
    """Where each token stands in the answer, without white space; tokens that are not written there are left out."""
    spans, at = [], 0
    for token in tokens:
        text = token.text.strip()
        while at < len(answer) and answer[at].isspace():
            at += 1
        if text and answer.startswith(text, at):
            spans.append((at, at + len(text), token.logprob))
            at += len(text)
    return spans


def _word_logprob(start: int, end: int, spans: Sequence[tuple[int, int, float | None]]) -> float | None:
    """The sum over the tokens that begin in a word; None unless they spell it to the last character."""
    inside = [(first, last, logprob) for first, last, logprob in spans if start <= first < end]
    known = [logprob for _, _, logprob in inside if logprob is not None]
    spelled = sum(min(last, end) - first for first, last, _ in inside)
    return math.fsum(known) if spelled == end - start and len(known) == len(inside) else None
