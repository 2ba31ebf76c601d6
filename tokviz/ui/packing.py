"""Stages of a lane as they travel: lists of thousands of numbers as short text. ``assets/unpacking.js`` reads it back.

Nothing is lost: values have four significant digits before. What does not fit a code stays a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_MANTISSAS = 9000
"""Of four digits, the first of which is no zero."""
_CODES = 64**3
_FEW = 64
"""Different values that one character can tell apart."""


def packed_stages(stages: Sequence[Mapping[str, Any]], n_tokens: int) -> list[dict[str, Any]]:
    """The stages of ``payload`` with ``gone``, ``order``, ``absorbed``, ``covered`` and maps as text."""
    alive, result = list(range(n_tokens)), []
    for stage in stages:
        gone = set(stage["gone"])
        kept = [token for token in alive if token not in gone]
        changed = {
            "gone": _flags([token in gone for token in alive]),
            "order": _picks(stage["order"]),
            "maps": [{**one, "values": packed_values(one["values"])} for one in stage["maps"]],
        }
        for name in ("absorbed", "covered"):
            changed[name] = _carriers(stage[name], stage["gone"], kept)
        result.append({**stage, **changed})
        alive = kept
    return result


def _chars(number: int, width: int) -> str:
    return "".join(ALPHABET[(number >> (6 * place)) & 63] for place in reversed(range(width)))


def _flags(flags: Sequence[bool]) -> str:
    """Six to a character, the first one the highest bit."""
    padded = [*flags, *[False] * (-len(flags) % 6)]
    return "".join(
        ALPHABET[int("".join("01"[flag] for flag in padded[i : i + 6]), 2)] for i in range(0, len(padded), 6)
    )


def _picks(order: Sequence[int] | None) -> Any:
    """Positions in the order of their steps, three characters each; a list where steps do not count up from 0."""
    if order is None:
        return None
    picked = sorted((step, at) for at, step in enumerate(order) if step >= 0)
    if [step for step, _ in picked] != list(range(len(picked))) or len(order) > _CODES:
        return list(order)
    return "".join(_chars(at, 3) for _, at in picked)


def _carriers(pairs: Sequence[int] | None, gone: Sequence[int], kept: Sequence[int]) -> Any:
    """For each token of ``gone`` the position of its carrier in ``kept``, from 1, in two characters; 0: none."""
    if pairs is None or len(kept) >= 64**2 - 1:
        return pairs
    carrier = dict(zip(pairs[::2], pairs[1::2], strict=True))
    place = {token: at for at, token in enumerate(kept, 1)}
    if not all(token in place for token in carrier.values()):
        return pairs
    return "".join(_chars(place[carrier[token]] if token in carrier else 0, 2) for token in gone)


def packed_values(values: Sequence[float | None]) -> Any:
    """Numbers of at most four significant digits as text.

    Few different ones: a list of them and one character per value. Else three characters per value: 0 for None, 1 for
    zero, or sign, exponent and the four digits. The list itself where neither fits.
    """
    different = sorted({value for value in values if value is not None})
    if len(different) < _FEW:
        place = {value: at for at, value in enumerate(different, 1)}
        return {"of": different, "at": "".join(ALPHABET[0 if v is None else place[v]] for v in values)}
    parts = {value: _digits(value) for value in different if value}
    lowest = min(exponent for _, exponent, _ in parts.values())
    signs = 2 if different[0] < 0 else 1
    span = max(exponent for _, exponent, _ in parts.values()) - lowest + 1
    if span * signs * _MANTISSAS + 2 > _CODES or any(mantissa % 1 for _, _, mantissa in parts.values()):
        return list(values)

    def code(value: float | None) -> int:
        if not value:
            return 0 if value is None else 1
        negative, exponent, mantissa = parts[value]
        return ((exponent - lowest) * signs + negative) * _MANTISSAS + int(mantissa) - 1000 + 2

    codes = {value: _chars(code(value), 3) for value in (None, 0.0, *parts)}
    return {"lowest": lowest, "signs": signs, "at": "".join(codes[value] for value in values)}


def _digits(value: float) -> tuple[int, int, Decimal]:
    """Sign (1: negative), and the exponent for a mantissa of four digits: 0.01234 is 1234 and -5."""
    number = abs(Decimal(repr(value)))
    exponent = number.adjusted() - 3
    return int(value < 0), exponent, number.scaleb(-exponent)
