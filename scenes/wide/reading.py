"""Questions about what is written in a wide scene."""

from __future__ import annotations

from collections.abc import Sequence

from scenes.types import Box, SceneSign
from scenes.wide.dice import pick
from scenes.wide.wording import Named, WideQuestion, Writer, unknown_word
from scenes.words import SIGN_KINDS, SIGN_NUMBERS, SIGN_WORDS

_ASK_ABSENT = {"word": 0.84, "number": 0.62, "digit": 0.45}
"""How often "no" is said where it would be right, so that it is as frequent as "yes": signs are there more seldom."""
_ASK_PRESENT = 0.34
"""The same for any text at all, which is there more often than not."""


class ReadingMaker:
    """Draws reading questions; `first` is the number of the first sign among the things."""

    def __init__(self, writer: Writer, first: int, signs: Sequence[SceneSign]) -> None:
        self.write, self.rng, self.signs, self.first = writer, writer.rng, signs, first
        self.single = len({sign.kind for sign in signs}) == len(signs)

    def reading(self) -> WideQuestion | None:
        """What is written, or whether this or that is; None where "the sign" would be several."""
        if not self.single:
            return None
        kind = self.rng.random()
        if kind < 0.1:
            return self._whether_any()
        if not self.signs and self.rng.random() < 0.6:
            return None  # else a quarter of the answers would be "none"
        if kind < 0.2 and self.signs:
            return self._whether_this()
        if kind < 0.5 and len(self.signs) < 2 and (self.signs or self.rng.random() < 0.5):
            answer = self.signs[0].text if self.signs else "none"
            return self.write.write("text", answer, self._boxes(self.signs), sign=self._sign(self.signs))
        present = [sign.kind for sign in self.signs]
        asked = pick(self.rng, present) if present and self.rng.random() < 0.88 else pick(self.rng, SIGN_KINDS)
        found = [sign for sign in self.signs if sign.kind == asked]
        return self.write.write(asked, found[0].text if found else "none", self._boxes(found), sign=self._sign(found))

    def unknown(self) -> WideQuestion:
        """Whether a word is there that the model does not know: no."""
        kind = "is word" if len(self.signs) != 1 else pick(self.rng, ("is text", "is word"))
        return self.write.write(kind, "no", self._boxes(self.signs), text=unknown_word(self.rng))

    @staticmethod
    def _boxes(signs: Sequence[SceneSign]) -> tuple[Box, ...]:
        return tuple(sign.box for sign in signs)

    def _sign(self, signs: Sequence[SceneSign]) -> Named:
        return Named(("sign",), tuple(self.first + self.signs.index(sign) for sign in signs))

    def _whether_any(self) -> WideQuestion | None:
        asked = pick(self.rng, ("text", "text", *SIGN_KINDS))
        found = [sign for sign in self.signs if asked in ("text", sign.kind)]
        if asked == "text":
            skipped = bool(found) and self.rng.random() >= _ASK_PRESENT
        else:
            skipped = not found and self.rng.random() >= _ASK_ABSENT[asked]
        if skipped or (asked == "number" and not found and any(sign.kind == "digit" for sign in self.signs)):
            return None  # a handwritten digit is a number too
        return self.write.write(f"has {asked}", "yes" if found else "no", self._boxes(found))

    def _whether_this(self) -> WideQuestion | None:
        wanted = self.rng.random() < 0.5
        if len(self.signs) == 1 and self.rng.random() < 0.6:
            sign = self.signs[0]
            names = SIGN_WORDS if sign.kind == "word" else SIGN_NUMBERS
            said = sign.text if wanted else pick(self.rng, [name for name in names if name != sign.text])
            return self.write.write(
                "is text", "yes" if wanted else "no", self._boxes([sign]), text=said, sign=self._sign([sign])
            )
        words = [sign for sign in self.signs if sign.kind == "word"]
        if not words:
            return None
        other = [name for name in SIGN_WORDS if name != words[0].text]
        said = words[0].text if wanted else pick(self.rng, other)
        return self.write.write("is word", "yes" if wanted else "no", self._boxes(words), text=said)
