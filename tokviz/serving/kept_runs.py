"""Finished runs, kept by what they were about, so that the same question is not computed twice.

The key is everything that a result follows from: the bytes and the name of the file, the question, every setting, the
seed, and the loaded model itself: another checkpoint, or the same one loaded anew, has no part in it. Runs about a file
that the page shows to everybody (an example) are everybody's. All others are kept for the address that asked: whoever
sends the same file from elsewhere is neither served from here nor learns that it was asked about before. There is no
list of what is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from .callers import CALLER
from .model_cache import is_loaded, loaded
from .running import Runner, RunRequest
from .storage import LIFETIME_S

MARK = "Measured at {} UTC and kept: the same was asked before, so that times are of that run, not of now."
"""Stands among the warnings or notes of whatever was not computed just now."""
_MARKED = re.compile(re.escape(MARK).replace(r"\{\}", r"(\d\d:\d\d)"))
_BLOCK = 1 << 20


def measured_at(warnings: Sequence[str]) -> str:
    """The time (hours and minutes, UTC) at which what is kept was measured; empty for what was computed just now."""
    return next((found[1] for found in map(_MARKED.fullmatch, warnings) if found), "")


def limit() -> int:
    """Bytes that all kept runs together may take in memory; 0: none is kept."""
    try:
        return max(0, int(os.environ.get("TOKVIZ_KEPT_MB") or 100)) * 1_000_000
    except ValueError:
        return 100_000_000


@dataclass(frozen=True)
class _Kept:
    """data: the last output, pickled and compressed. at: when it was finished, in seconds since 1970."""

    data: bytes
    at: float


def _weights(request: RunRequest) -> object:
    """The model that would answer, None while it is not loaded."""
    return loaded(request.spec.name) if is_loaded(request.spec) else None


class KeptRuns:
    """A ``Runner`` that computes what was not computed before. Thread-safe.

    A run that failed, has a lane that failed, was stopped, or had to leave something out because its time was over is
    not kept. What is kept lives as long as an upload, at most; the least used makes room.

    Args: run does the work. weights: what stands for the loaded model of a request, None for none: then nothing is
    kept. in_all: bytes. clock: seconds since 1970.
    """

    def __init__(
        self,
        run: Runner,
        weights: Callable[[RunRequest], Any] = _weights,
        in_all: Callable[[], int] = limit,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run, self._weights, self._in_all, self._clock = run, weights, in_all, clock
        self._is_public: Callable[[str], bool] = lambda digest: False
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._numbers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._next = count()
        self._lock = threading.Lock()

    def share(self, is_public: Callable[[str], bool]) -> None:
        """Say which files, by the SHA-256 of their bytes, everybody is shown."""
        self._is_public = is_public

    @property
    def size(self) -> int:
        """Bytes that are taken."""
        with self._lock:
            return sum(len(kept.data) for kept in self._kept.values())

    def __call__(self, request: RunRequest, stop: threading.Event) -> Iterator[Any]:
        """What ``run`` yields; of a run that is kept its last output alone, marked as what it is."""
        key = self._key(request) if self._in_all() else None
        kept = None if key is None else self._find(key)
        if kept is not None:
            yield _marked(pickle.loads(zlib.decompress(kept.data)), kept.at)
            return
        last = None
        for output in self._run(request, stop):
            last = output
            yield output
        if not self._in_all() or stop.is_set() or not _is_whole(last, request):
            return
        # The model may have been loaded by the run itself; one that was exchanged meanwhile is not what answered.
        after = self._key(request)
        if after is not None and key in (None, after):
            self._keep(after, last)

    def _find(self, key: str) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            if self._clock() - kept.at > LIFETIME_S:
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
            return kept

    def _keep(self, key: str, last: Any) -> None:
        data, most = zlib.compress(pickle.dumps(last), 1), self._in_all()
        now = self._clock()
        with self._lock:
            for old in [name for name, kept in self._kept.items() if now - kept.at > LIFETIME_S]:
                del self._kept[old]
            if len(data) > most // 2:  # everything else would have to go for it
                return
            self._kept[key] = _Kept(data, now)
            while sum(len(kept.data) for kept in self._kept.values()) > most:
                self._kept.popitem(last=False)

    def _key(self, request: RunRequest) -> str | None:
        """None where it cannot be said what the result follows from."""
        weights = self._weights(request)
        if weights is None or request.image is None or request.media is not None:
            return None
        digest = _file_digest(request.image)
        if digest is None:
            return None
        model = getattr(weights, "model", weights)
        with self._lock:
            if model not in self._numbers:
                self._numbers[model] = next(self._next)
            number = self._numbers[model]
        named = {field.name: getattr(request, field.name) for field in fields(request)}
        named |= {"image": (digest, Path(request.image).name), "weights": number}
        named["of"] = None if self._is_public(digest) else (CALLER.get(),)
        return hashlib.sha256(json.dumps(named, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A record inside a request as what it says; warnings of a comparison change nothing that is computed from it."""
    if isinstance(value, BaseModel):
        return hashlib.sha256(value.model_dump_json(exclude={"warnings"}).encode()).hexdigest()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a key.")


def _file_digest(path: str) -> str | None:
    """None where there is no such file (any more): whoever opens it says so."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def _is_whole(last: Any, request: RunRequest) -> bool:
    """Whether a result is there, every lane of it ran, and it would be the same with more time."""
    if last is None or (request.kind == "compare" and last.kind != "done"):
        return False
    comparison = getattr(last, "comparison", last)
    lanes = [*getattr(comparison, "runs", ()), *getattr(last, "methods", ()), *getattr(last, "curves", ())]
    if any(lane.error is not None for lane in lanes):
        return False
    return request.options.get("seconds") is None or not last.notes


def _marked(last: Any, at: float) -> Any:
    """A result that says when it was measured. Its times stay what they were."""
    words = MARK.format(time.strftime("%H:%M", time.gmtime(at)))
    if not isinstance(last, BaseModel):  # an event
        return replace(last, comparison=_with(last.comparison, "warnings", words))
    return _with(last, "warnings" if hasattr(last, "warnings") else "notes", words)


def _with(record: Any, name: str, words: str) -> Any:
    told = [*getattr(record, name)]
    return record.model_copy(update={name: told if words in told else [*told, words]})
