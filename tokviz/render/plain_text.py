"""Untrusted text (answers, questions, file names) made safe to draw or to print: one line of visible characters."""

from __future__ import annotations

import unicodedata

MAX_CHARACTERS = 4000
_MAX_COMBINING = 2


def plain_text(text: str, limit: int = MAX_CHARACTERS) -> str:
    """One line without control characters, terminal escapes, direction overrides or towers of accents.

    White space (line breaks too) becomes single spaces; what is cut off after ``limit`` characters is marked with an
    ellipsis. Escape sequences lose their ESC and so their power; the harmless rest stays readable.
    """
    visible: list[str] = []
    combining = 0
    # One look-ahead slice bounds the work on a megabyte answer before anything is normalised.
    for character in unicodedata.normalize("NFC", text[: 4 * limit]):
        category = unicodedata.category(character)
        if character.isspace() or category in ("Zl", "Zp"):
            visible.append(" ")
            continue
        if category in ("Cc", "Cf", "Cs", "Co", "Cn"):
            continue
        combining = combining + 1 if category in ("Mn", "Me") else 0
        if combining <= _MAX_COMBINING:
            visible.append(character)
    line = " ".join("".join(visible).split())
    if len(line) > limit:
        return line[: limit - 1].rstrip() + "…"
    return line
