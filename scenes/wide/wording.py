"""From a template and what fills it to a question whose words are known to name this or that thing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from scenes.types import SceneQuestion
from scenes.wide.dice import pick
from scenes.wide.phrasings import (
    GENERIC_NOUNS,
    KIND_FAMILIES,
    RELATION_PHRASES,
    RESERVED,
    SIZE_WORDS,
    UNKNOWN,
    WORDINGS,
    plural_of,
    words_of,
)

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Mention:
    """Words of a question that describe things.

    They are the words `start` to `end` (exclusive) of `words_of(text)`, the last of them the noun; `things` are the
    numbers, as in `Scene.owner`, of all that fit: none where the answer rests on absence.
    """

    start: int
    end: int
    things: tuple[int, ...]


@dataclass(frozen=True)
class WideQuestion(SceneQuestion):
    """A question in one of PHRASINGS; `unknown` says that it holds a word that stands for an unknown one."""

    kind: str
    phrasing: str
    mentions: tuple[Mention, ...]
    unknown: bool


@dataclass(frozen=True)
class Named:
    """Words that describe things: "red star", with its noun to be put into the plural on demand."""

    words: tuple[str, ...]
    things: tuple[int, ...] = ()

    def singular(self) -> str:
        """ "red star"."""
        return " ".join(self.words)

    def many(self) -> str:
        """ "red stars"."""
        return " ".join((*self.words[:-1], plural_of(self.words[-1])))

    def with_article(self) -> str:
        """ "a red star", "an orange star"."""
        return with_article(self.singular())


def with_article(words: str) -> str:
    """The words behind "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def unknown_word(rng: np.random.Generator) -> str:
    """A word that stands for one that the model does not know; half of them what the tokenizer makes of such a word."""
    return UNKNOWN if rng.random() < 0.5 else pick(rng, RESERVED)


class Writer:
    """Words questions at random: in the canonical form, or (a share `paraphrased`) in any other one."""

    def __init__(self, rng: np.random.Generator, paraphrased: float) -> None:
        self.rng, self.paraphrased = rng, paraphrased

    def describe(
        self, size: str | None, color: str | None, shape: str | None, things: tuple[int, ...] = (), *, about: str = ""
    ) -> Named:
        """Words for a description. Args: about: what is asked, so that no "shape" is asked for its shape."""
        noun = shape
        if noun is None:
            noun = GENERIC_NOUNS[0]
            if about != "shape" and self.rng.random() < 0.4 * self.paraphrased:
                noun = pick(self.rng, GENERIC_NOUNS)
        words = [color, noun]
        if size is not None:
            words.insert(0, pick(self.rng, SIZE_WORDS[size]) if self.rng.random() < self.paraphrased else size)
        return Named(tuple(word for word in words if word), things)

    def relation(self, relation: str) -> str:
        """One of the phrases of a relation."""
        phrases = RELATION_PHRASES[relation]
        return pick(self.rng, phrases) if self.rng.random() < self.paraphrased else phrases[0]

    def write(
        self, kind: str, answer: str, evidence: tuple[tuple[float, float, float, float], ...], **slots: Named | str
    ) -> WideQuestion:
        """A question of a kind. Args: slots: `thing` and `other` fill all slots for things, strings their own."""
        forms = WORDINGS[kind]
        template = pick(self.rng, forms) if self.rng.random() < self.paraphrased else forms[0]
        parts: list[str] = []
        mentions: list[Mention] = []
        unknown = False
        at = 0
        for part in template.split():
            found = _SLOT.match(part)
            text = part
            if found:
                value = slots["other" if found[1] == "other" else "thing"] if _is_thing(found[1]) else slots[found[1]]
                said = value if isinstance(value, str) else _say(found[1], value)
                unknown = unknown or "<" in said
                text = said + part[found.end() :]
                if isinstance(value, Named):
                    end = at + len(words_of(said))
                    mentions.append(Mention(end - len(value.words), end, value.things))
            parts.append(text)
            at += len(words_of(text))
        text = " ".join(parts)
        sign = slots.get("sign")
        if isinstance(sign, Named):
            mentions.append(Mention(at - 1, at, sign.things))
        if self.rng.random() < 0.2 * self.paraphrased:
            text = text.rstrip("?")
        return WideQuestion(text, answer, KIND_FAMILIES[kind], evidence, kind, template, tuple(mentions), unknown)


def _is_thing(slot: str) -> bool:
    return slot in ("a", "the", "bare", "many", "other")


def _say(slot: str, value: Named) -> str:
    if slot == "a":
        return value.with_article()
    if slot in ("the", "other"):
        return f"the {value.singular()}"
    return value.many() if slot == "many" else value.singular()
