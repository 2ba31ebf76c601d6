"""Numbers, facts and untrusted text as words: once for page, figures and terminal. No other room formats them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from ..records import Timing

MAX_CHARACTERS = 4000
_MAX_COMBINING = 2
_FACT_CHARACTERS = 240
_FACT_ENTRIES = 12
BAR_TOPS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Shares that the full length of a bar may stand for: easy to read."""


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


def milliseconds(ms: float) -> str:
    """A duration with three significant digits, e.g. ``"8.31 ms"``, ``"52 ms"``, ``"1.42 s"``."""
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    if ms >= 100:
        return f"{ms:.0f} ms"
    return f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def how_measured(timing: Timing) -> str:
    """How a duration was measured, in words."""
    return "single shot" if timing.single_shot else f"median of {timing.samples}"


def size(n_bytes: float) -> str:
    """Bytes in decimal units, e.g. ``"295 KB"``."""
    for unit in ("B", "KB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if n_bytes >= 100 or unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"


def flops(count: float) -> str:
    """Floating point operations with a decimal prefix, e.g. ``"1.2 GFLOP"``."""
    if count <= 0 or not math.isfinite(count):
        return "0 FLOP"
    power = min(int(math.log10(count)) // 3, 5)
    scaled = count / 1000**power
    digits = f"{scaled:.0f}" if scaled >= 10 else f"{scaled:.2g}"
    return f"{digits} {' kMGTP'[power].strip()}FLOP"


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` as a percentage with one decimal; nothing and all of it without, and only they read so."""
    if not part or not whole:
        return "0%"
    percent = f"{100 * part / whole:.1f}%"
    if part == whole:
        return "100%"
    return {"0.0%": "< 0.1%", "100.0%": "> 99.9%"}.get(percent, percent)


def ratio(reference: float, value: float, worse: str = "slower") -> str:
    """How many times smaller ``value`` is than ``reference``, e.g. ``"1.8×"``; empty when it cannot be said.

    Where it is larger, that is said, and how many times: ``"1.9× slower"``. worse: the word for it.
    """
    if not (value > 0 and reference > 0 and 0 < reference / value < math.inf):
        return ""
    times = reference / value
    if times >= 0.95:
        return f"{_times(times)}×"
    return f"{_times(value / reference)}× {worse}"


def speed(times: float | None) -> str:
    """A speed-up in words, e.g. ``"1.8× faster"``, ``"1.2× slower"``, ``"as fast"``; empty for None."""
    if times is None or not times > 0 or not math.isfinite(times):
        return ""
    # From two digits on, as papers print it.
    if round(times, 2) == 1:
        return "as fast"
    return f"{_times(times, 2)}× faster" if times > 1 else f"{_times(1 / times, 2)}× slower"


def _times(times: float, digits: int = 1) -> str:
    return f"{times:,.0f}" if times >= 99.5 else f"{times:.1f}" if times >= 9.95 else f"{times:.{digits}f}"


def fact_name(name: str) -> str:
    """A recorded fact's name as words, e.g. ``"basis_tokens"`` as ``"basis tokens"``."""
    return name.replace("_", " ").strip()[:_FACT_CHARACTERS]


def fact_value(value: Any) -> str:
    """A recorded fact (any JSON value) as short words; long lists and texts are cut, and say so."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        value = [f"{fact_name(str(key))} {fact_value(entry)}" for key, entry in value.items()]
    if isinstance(value, list | tuple):
        shown = ", ".join(fact_value(entry) for entry in value[:_FACT_ENTRIES])
        value = f"{shown}, … ({len(value):,} entries)" if len(value) > _FACT_ENTRIES else shown
    return cut(str(value))


def cut(words: str) -> str:
    """Words of a label or fact; far more than a method writes is cut: one word of 20,000 letters freezes a browser."""
    return words if len(words) <= _FACT_CHARACTERS else words[: _FACT_CHARACTERS - 1] + "…"
