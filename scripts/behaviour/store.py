"""Digests of what a case did, the file they are kept in, and what differs between two sets of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("decisions", "floats", "diagnostics", "sentences")
"""What is told apart of a case:

decisions: everything counted or chosen (kept sets, assignment, order, sequence, sizes, token ids and text, tokens per
layer, FLOPs and budgets, which are reckoned from counts, the grid). floats: every bit of what was computed (signals a
stage was shown, its score, merged and added features, log-probabilities, logits). diagnostics: maps, charts, readings,
text scores and facts, with names and values as sessions store them. sentences: errors, warnings, words.
"""
MACHINE_INDEPENDENT = ("decisions", "sentences")
DIGESTS = Path(__file__).with_name("digests.json")
_WIDTH = 10

Content = Mapping[str, Any]
"""The four parts of one case, as plain values."""
Digests = dict[str, tuple[str, ...]]
"""Per case one short hash for each of ``PARTS``."""


def plain(value: Any) -> Any:
    """``value`` as JSON holds it, written in one way only: keys are sorted, tuples are lists, NaN is a word."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, set | frozenset):
        return sorted(plain(entry) for entry in value)
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def digest(value: Any) -> str:
    """A short hash of a plain value; floats count with every bit (JSON writes them so that they read back equal)."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_WIDTH]


def tensor_digest(tensor: Any) -> dict[str, Any]:
    """Shape, hash of all bits and the first values of a tensor of any float type; None stays None."""
    values = np.ascontiguousarray(tensor.detach().cpu().double().numpy())
    values[np.isnan(values)] = np.nan  # one NaN of many
    sha = hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()[:16]
    return {"shape": list(values.shape), "sha": sha, "first": plain(values.flatten()[:4].tolist())}


def digests_of(contents: Mapping[str, Content]) -> Digests:
    """The hashes of each case."""
    return {name: tuple(digest(content[part]) for part in PARTS) for name, content in contents.items()}


def write(path: Path, made_with: Mapping[str, str], digests: Digests) -> None:
    """One line per case, sorted, so that version control shows what changed."""
    lines = [
        f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(' '.join(digests[name]))}" for name in sorted(digests)
    ]
    head = f'{{\n"made_with": {json.dumps(dict(made_with), sort_keys=True)},\n"cases": {{\n'
    path.write_text(head + ",\n".join(lines) + "\n}\n}\n", encoding="utf-8")


def read(path: Path) -> tuple[dict[str, str], Digests]:
    """What ``write`` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["made_with"], {name: tuple(hashes.split()) for name, hashes in stored["cases"].items()}


def comparable(stored: Mapping[str, str], here: Mapping[str, str]) -> tuple[Sequence[str], list[str]]:
    """Which parts may be compared between two machines, and why not all: bits need the same arithmetic and packages."""
    reasons = [
        f"{name}: {stored.get(name)} there, {here.get(name)} here"
        for name in sorted({*stored, *here})
        if stored.get(name) != here.get(name)
    ]
    return (MACHINE_INDEPENDENT, reasons) if reasons else (PARTS, [])


def differences(stored: Digests, now: Digests, parts: Sequence[str] = PARTS) -> dict[str, list[str]]:
    """Per case the parts that differ; ``missing`` where a case is only in ``stored``, ``new`` where only in ``now``."""
    found: dict[str, list[str]] = {}
    for name in sorted({*stored, *now}):
        if name not in now or name not in stored:
            found[name] = ["new" if name in now else "missing"]
            continue
        pairs = zip(PARTS, stored[name], now[name], strict=True)
        differing = [part for part, before, after in pairs if before != after and part in parts]
        if differing:
            found[name] = differing
    return found
