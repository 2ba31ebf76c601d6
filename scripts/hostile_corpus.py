"""Make images and videos as a hostile client would send them, read each as the page does, and tell what came of it.

    python -m scripts.hostile_corpus FOLDER --minutes 5

Every file must be read or refused with a sentence, within the limits of ``tokviz.media.worker``; the exit code is 1
when one is not. The files stay in FOLDER. Files that were not reached in time are counted at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokviz.errors import BadInput
from tokviz.files import is_file, shown_name
from tokviz.media.images import checked_image
from tokviz.media.video import checked_video, is_video
from tokviz.media.worker import Limits, Usage, warm_up

from .hostile_images import Maker, images
from .hostile_videos import videos

HEAD = f"{'file':32} {'bytes':>10} {'CPU s':>6} {'MB':>5}  outcome"
_HEADROOM_S = 1.0
"""Limits of CPU time are told in whole seconds."""


@dataclass(frozen=True)
class Outcome:
    """What came of one file. cpu_s, peak_mb: of its process; None when there was none or it could not tell."""

    name: str
    n_bytes: int
    sentence: str
    cpu_s: float | None
    peak_mb: float | None
    is_held: bool
    """Read or refused with a sentence, within the limits."""

    def line(self) -> str:
        """A line of the table."""
        cpu = "-" if self.cpu_s is None else f"{self.cpu_s:.2f}"
        peak = "-" if self.peak_mb is None else f"{self.peak_mb:.0f}"
        told = self.sentence if self.is_held else f"NOT HELD: {self.sentence}"
        return f"{self.name:32} {self.n_bytes:10,} {cpu:>6} {peak:>5}  {told}"


def outcome_of(path: Path) -> Outcome:
    """Read a file as the page does: an image, or the first and the last frame of a video."""
    used: list[Usage] = []
    held = True
    try:
        if is_video(path):
            video = checked_video(path, lambda facts: [0, facts.n_frames - 1], on_usage=used.append)
            sentence = " ".join((f"read, {video.facts.n_frames} frames.", *video.notices))
        else:
            image = checked_image(path, on_usage=used.append)
            sentence = " ".join((f"read, {image.image.width} × {image.image.height}.", *image.notices))
    except BadInput as error:
        sentence = str(error)
        held = "\n" not in sentence and sentence.endswith(".") and str(path.parent) not in sentence
    except Exception as error:
        sentence, held = f"{type(error).__name__}: {error}".splitlines()[0], False
    limits = Limits.from_environment()
    cpu_s = max((one.cpu_s for one in used), default=None)
    peak_mb = max((one.peak_mb for one in used), default=None)
    held &= (cpu_s or 0.0) <= limits.cpu_s + _HEADROOM_S and (peak_mb or 0.0) <= limits.memory_mb
    n_bytes = path.stat().st_size if is_file(path) else 0
    return Outcome(shown_name(path).replace("\0", "\\0"), n_bytes, sentence, cpu_s, peak_mb, held)


def no_files(folder: Path) -> Iterator[Path]:
    """Names under which there is no plain file."""
    yield folder / "missing.png"
    for name, target in (("loop.png", "loop.png"), ("nowhere.png", "nowhere/at/all"), ("zeros.png", "/dev/zero")):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        yield link
    pipe, directory = folder / "pipe.mp4", folder / "folder.png"
    if not pipe.exists():
        os.mkfifo(pipe)
    directory.mkdir(exist_ok=True)
    yield from (pipe, directory, folder / ("long" * 200 + ".png"), folder / "zero\0byte.png")


def corpus(only: Sequence[str] = ()) -> list[tuple[str, Maker]]:
    """All files, or those whose names hold one of the words."""
    return [(name, make) for name, make in (*images(), *videos()) if not only or any(word in name for word in only)]


def run(folder: Path, only: Sequence[str] = (), minutes: float = float("inf")) -> tuple[list[Outcome], int]:
    """Outcomes, printed as they come, and how many files were not reached in time."""
    folder.mkdir(parents=True, exist_ok=True)
    end, outcomes = time.monotonic() + 60 * minutes, list[Outcome]()
    files = corpus(only)
    warm_up()
    print(HEAD)
    for name, make in files:
        if time.monotonic() > end:
            break
        path = folder / name
        path.write_bytes(make())
        outcomes.append(outcome_of(path))
        print(outcomes[-1].line(), flush=True)
    left = len(files) - len(outcomes)
    if not only and os.name == "posix":
        for path in no_files(folder):
            outcome = outcome_of(path)
            outcomes.append(outcome)
            print(outcome.line(), flush=True)
    return outcomes, left


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files are written")
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no further file after so long (default: 5)")
    parser.add_argument("--only", nargs="*", default=(), metavar="WORD", help="only files with such names")
    arguments = parser.parse_args()
    outcomes, left = run(arguments.folder, arguments.only, arguments.minutes)
    missed = [outcome.name for outcome in outcomes if not outcome.is_held]
    print(f"{len(outcomes)} files, {len(missed)} of them not held within the limits; {left} not reached in time.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
