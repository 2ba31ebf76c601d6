"""What is known of questions that the page has shown: the right answer and the evidence, for a live run of the same."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..comparison import Comparison
from ..serving.running import RunRequest
from .files import evidence_in_file, image_bytes

_MOST_LEARNT = 100


class KnownQuestions:
    """By the digest of the file that a question is about. Whoever asks the same of the same file learns the same.

    always: comparisons that stay known; of those that are learnt later, the last ``_MOST_LEARNT``. Thread-safe.
    """

    def __init__(self, always: Sequence[Comparison]):
        self._by_file: dict[str, list[Comparison]] = {}
        self._learnt: deque[tuple[str, Comparison]] = deque()
        self._lock = threading.Lock()
        for comparison in always:
            self._by_file.setdefault(_file_digest(comparison), []).append(comparison)

    def learn(self, comparison: Comparison) -> None:
        """Remember what is known of a question, unless it is known already."""
        digest = _file_digest(comparison)
        with self._lock:
            known = self._by_file.get(digest, [])
            if any(one.request.question == comparison.request.question for one in known):
                return
            self._by_file[digest] = [*known, comparison]
            self._learnt.append((digest, comparison))
            if len(self._learnt) > _MOST_LEARNT:
                digest, oldest = self._learnt.popleft()
                self._by_file[digest] = [one for one in self._by_file[digest] if one is not oldest]

    def has_file(self, digest: str) -> bool:
        """Whether a file is that of an example or of a mined case, which everybody is shown; digest: of its bytes."""
        with self._lock:
            return digest in self._by_file

    def with_truth(self, asked: RunRequest) -> RunRequest:
        """Add the known answer and evidence when image and question are those of an example or a mined case.

        What the visitor gave of them counts instead.
        """
        if asked.image is None:
            return asked
        digest, question = hashlib.sha256(Path(asked.image).read_bytes()).hexdigest(), asked.question.strip()
        known = next((one for one in self._by_file.get(digest, ()) if one.request.question.strip() == question), None)
        if known is None:
            return asked
        truth: dict[str, Any] = {"expected": asked.expected or known.request.expected_answer}
        if not asked.evidence:
            truth["evidence"], truth["evidence_at"] = evidence_in_file(known)
        # The lanes stay where they are when an example is run again; a method's further copies go behind its first.
        stored = [(one.method, one.params) for one in known.request.methods]
        ids = [method for method, _ in stored]
        if all(method in ids for method, _ in asked.methods):

            def place(one: tuple[str, Mapping[str, Any]]) -> int:
                return stored.index(one) if one in stored else ids.index(one[0])

            truth["methods"] = tuple(sorted(asked.methods, key=place))
        return replace(asked, **truth)


def _file_digest(comparison: Comparison) -> str:
    """Of the file that a stored comparison was asked about."""
    video = comparison.video
    return video.sha256 if video else hashlib.sha256(image_bytes(comparison.image)).hexdigest()
