"""What a case file holds, and what is wrong with it: counted before anything is mined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..errors import BadInput
from ..media.images import image_size, read_image
from ..media.video import is_video, probe
from ..records import Record
from .case import Case
from .case_file import CaseFile

SHOWN = 20
"""Examples of each kind of problem that a report carries."""
NONE = "(none)"


class CaseReport(Record):
    """What a case file holds and what is wrong with it.

    Attributes:
        name: Of the file or folder.
        layout: Name of the layout.
        digest: SHA-256 of the file or files, media aside.
        cases: How many can be used.
        images: Distinct image files. videos: Distinct video files.
        families: Cases of each question family; ``(none)`` for those without. splits, metrics: likewise.
        with_evidence: Cases with evidence boxes.
        without_answers: Cases that cannot be judged, since no answer is expected.
        others: How many answers of other models or runs there are, by name.
        left_out: Entries that are in order but no cases, by kind.
        unused_keys: Keys without a meaning here, with how many entries have them.
        n_problems: Entries that are broken. problems: The first of them, with file and line.
        n_missing: Media files that are not there. missing: The first of them, as written.
        n_unreadable: Media files that cannot be used. unreadable: The first of them, with the reason.
        n_outside: Evidence boxes that reach out of their image by more than a pixel. outside: Cases of the first.
        decoded: Whether media were decoded whole, or only their headers read.
    """

    name: str
    layout: str
    digest: str
    cases: int
    images: int
    videos: int
    families: dict[str, int]
    splits: dict[str, int]
    metrics: dict[str, int]
    with_evidence: int
    without_answers: int
    others: dict[str, int]
    left_out: dict[str, int]
    unused_keys: dict[str, int]
    n_problems: int
    problems: list[str]
    n_missing: int
    missing: list[str]
    n_unreadable: int
    unreadable: list[str]
    n_outside: int
    outside: list[str]
    decoded: bool

    @property
    def ok(self) -> bool:
        """Whether every entry can be mined."""
        return not (self.n_problems or self.n_missing or self.n_unreadable or self.n_outside or not self.cases)


class _Media:
    """The media files that were looked at: each once."""

    def __init__(self, cases: CaseFile, decode: bool) -> None:
        self._cases, self._decode = cases, decode
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self.images = self.videos = 0
        self.missing: list[str] = []
        self.unreadable: list[str] = []

    def size(self, case: Case) -> tuple[int, int] | None:
        """Width and height in px; None where it cannot be told."""
        if case.media not in self._sizes:
            self._sizes[case.media] = self._look(case)
        return self._sizes[case.media]

    def _look(self, case: Case) -> tuple[int, int] | None:
        self.images += case.image is not None
        self.videos += case.video is not None
        try:
            path = self._cases.media_path(case)
        except BadInput:
            self.missing.append(case.media)
            return None
        try:
            if case.video is not None:
                return _video_size(path, self._decode)
            return read_image(path).image.size if self._decode else image_size(path)
        except BadInput as error:
            self.unreadable.append(f"{case.media}: {error}")
            return None


def _video_size(path: Path, decode: bool) -> tuple[int, int] | None:
    """None where the video was not decoded. Raises BadInput."""
    if decode:
        return probe(path).size
    if not is_video(path):
        raise BadInput("This file is not a readable video.")
    return None


def check_cases(
    cases: CaseFile, *, decode: bool = False, on_progress: Callable[[int], None] | None = None
) -> CaseReport:
    """Read a case file to its end and look at every image and video.

    Args:
        cases: What ``open_cases`` opened.
        decode: Decode media whole, which finds files that were cut short and takes some 30 ms for each image; otherwise
            their headers are read.
        on_progress: Called with the number of cases so far, now and then.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("families", "splits", "metrics", "others")}
    media, n, with_evidence, without_answers, outside = _Media(cases, decode), 0, 0, 0, Counter[str]()
    for n, case in enumerate(cases, start=1):
        counts["families"][case.family or NONE] += 1
        counts["splits"][case.split or NONE] += 1
        counts["metrics"][case.metric] += 1
        counts["others"].update(case.others.keys())
        with_evidence += bool(case.evidence)
        without_answers += not case.answers
        size = media.size(case)
        if size is not None:
            outside[case.id] += sum(_reaches_out(box, size) for box in case.evidence)
        if on_progress is not None and n % 100 == 0:
            on_progress(n)
    outside = +outside
    return CaseReport(
        name=cases.name,
        layout=cases.layout,
        digest=cases.digest,
        cases=n,
        images=media.images,
        videos=media.videos,
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
        with_evidence=with_evidence,
        without_answers=without_answers,
        left_out=dict(cases.left_out),
        unused_keys=dict(cases.unused_keys.most_common()),
        n_problems=cases.n_problems,
        problems=[str(problem) for problem in cases.problems[:SHOWN]],
        n_missing=len(media.missing),
        missing=media.missing[:SHOWN],
        n_unreadable=len(media.unreadable),
        unreadable=media.unreadable[:SHOWN],
        n_outside=outside.total(),
        outside=list(outside)[:SHOWN],
        decoded=decode,
    )


def _reaches_out(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = box
    return x0 < -1 or y0 < -1 or x1 > size[0] + 1 or y1 > size[1] + 1
