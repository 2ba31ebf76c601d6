"""Kept tokens in few bytes: a bitmap, or the gaps between them, whichever is shorter. No torch.

576 tokens are at most 73 bytes, 64 of them at most 65: 1.2 million rows stay below 100 MB before Parquet compresses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput

_BITMAP, _GAPS = b"B", b"D"
MOST_TOKENS = 2**24
"""No index that is read may be larger: a file of a few bytes must not ask for gigabytes."""


def pack_indices(indices: Sequence[int] | NDArray[np.integer]) -> bytes:
    """Pack ascending indices of tokens.

    A letter comes first. ``B``: a bitmap, the lowest index in the highest bit. ``D``: for each index by how much it
    exceeds the least that it can be (0, or its predecessor plus 1), seven bits to a byte, the lowest first, the highest
    bit set where another byte follows. The shorter of the two; the bitmap where they are equal.

    Raises:
        ValueError: If the indices are not ascending, or negative, or larger than any model's.
    """
    values = np.asarray(indices, dtype=np.int64)
    gaps = np.diff(values, prepend=-1) - 1
    if values.ndim != 1 or bool((gaps < 0).any()) or (len(values) and int(values[-1]) >= MOST_TOKENS):
        raise ValueError("indices must ascend from 0 or more, each once")
    width = 0 if not len(values) else int(values[-1]) // 8 + 1
    lengths = np.maximum(1, -(-np.ceil(np.log2(gaps + 1.0)).astype(np.int64) // 7)) if len(gaps) else gaps
    if int(lengths.sum()) < width:
        return _GAPS + b"".join(_varint(gap) for gap in gaps.tolist())
    bits = np.zeros(width * 8, dtype=bool)
    bits[values] = True
    return _BITMAP + np.packbits(bits).tobytes()


def _varint(value: int) -> bytes:
    found = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        found.append(low | (0x80 if value else 0))
        if not value:
            return bytes(found)


def unpack_indices(packed: bytes) -> NDArray[np.int64]:
    """Return the ascending indices that ``pack_indices`` packed. Shape: ``(K,)``.

    Raises:
        BadInput: If these are not such bytes.
    """
    kind, data = packed[:1], np.frombuffer(packed, dtype=np.uint8, offset=min(1, len(packed)))
    if kind == _BITMAP and len(data) <= MOST_TOKENS // 8:
        return np.flatnonzero(np.unpackbits(data)).astype(np.int64)
    ends = np.flatnonzero(data < 0x80)
    if kind != _GAPS or (len(data) and (not len(ends) or ends[-1] != len(data) - 1)):
        raise BadInput("These bytes hold no kept tokens, or they are damaged.")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    if len(place) and int(place.max()) > 3:
        raise BadInput("These bytes hold no kept tokens, or they are damaged.")
    gaps = np.add.reduceat((data & 0x7F).astype(np.int64) << (7 * place), starts) if len(ends) else ends
    values = np.cumsum(gaps + 1) - 1
    if len(values) and int(values[-1]) >= MOST_TOKENS:
        raise BadInput("These bytes hold no kept tokens, or they are damaged.")
    return values.astype(np.int64)
