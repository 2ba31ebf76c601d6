"""What ``sweep``, ``rescue``, ``horizon`` and ``inside`` share: a question asked, a bar, a table, files written."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..names import Box
from ..viz.format import plain_text
from .compare import checked, parse_evidence
from .terminal import add_loading_options, checked_outputs, loading_options, out, quiet_unless

if TYPE_CHECKING:
    from ..media.images import InputImage
    from ..media.video import Video
    from ..models.loading import VisionLanguageModel
    from ..study import Study

StudyT = TypeVar("StudyT", bound="Study")


def add_asking_options(parser: argparse.ArgumentParser) -> None:
    """Declare what is asked about which image, by which model, and where the result goes."""
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="image or video, as for compare")
    add("--image", "--video", dest="image", metavar="FILE", help="same as FILE, as an option")
    add("--question", required=True, metavar="TEXT", help="one question about the image or video")
    add("--frames", type=int, metavar="N", help="number of frames to sample from a video, 1 to 64")
    add("--model", default="tokviz-tiny", metavar="NAME", help="menu entry, folder, or Hub id (default: %(default)s)")
    add_loading_options(parser)
    add("--seed", type=int, default=0, metavar="N", help="first random seed (default: %(default)s)")
    add("--max-new-tokens", type=int, default=32, metavar="N", help="maximum answer length (default: %(default)s)")
    add("--answer", metavar="TEXT", help="the right answer")
    box = "box in pixels around the evidence; for a video with its sampled frame (from 0); repeatable"
    add("--evidence", action="append", default=[], metavar="[FRAME:]X0,Y0,X1,Y1", help=box)
    add("--json", metavar="FILE", help="write the result to FILE")
    add("--figure", metavar="FILE", help="write a figure to FILE (.png, .svg or .pdf)")


@dataclass(frozen=True)
class Asked:
    """What ``add_asking_options`` declares, checked. evidence: frames and boxes; console: where progress is shown."""

    arguments: argparse.Namespace
    shown: str | InputImage | Video
    evidence: list[tuple[int | None, Box]]
    console: Console

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Asked:
        """Check everything that can be wrong before the work. Raises BadInput."""
        source = checked_outputs(arguments)
        evidence = [parse_evidence(text) for text in arguments.evidence]
        console = Console(stderr=True)
        quiet_unless(console.is_terminal)
        return cls(arguments, checked(source, arguments.frames), evidence, console)

    def load(self) -> VisionLanguageModel:
        """Load the model and print what there is to know about it."""
        import tokviz

        vlm = tokviz.load(self.arguments.model, **loading_options(self.arguments))
        for notice in vlm.notices:
            self.console.print(Text(notice))
        return vlm

    def options(self) -> dict[str, Any]:
        """What all functions that ask take."""
        return {
            "seed": self.arguments.seed,
            "max_new_tokens": self.arguments.max_new_tokens,
            "expected": self.arguments.answer,
            "evidence": [box for _, box in self.evidence],
            "evidence_frames": [frame for frame, _ in self.evidence if frame is not None],
            "frames": self.arguments.frames,
        }

    @contextmanager
    def progress(self, told: str) -> Iterator[Callable[..., None]]:
        """A bar on a terminal. Yields the function that moves it to a share, and may change what it tells."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(told, total=1.0)
            yield lambda share, told=None: bar.update(task, completed=share, description=told)

    def show(
        self,
        found: StudyT,
        answers: Sequence[str],
        table: Table,
        sentences: Sequence[str],
        save_figure: Callable[[StudyT, str], object],
    ) -> None:
        """Print what was found, and write it where that was asked for."""
        screen = out()
        for line in answers:
            screen.print(Text(line))
        screen.print(table)
        for line in sentences:
            screen.print(Text(plain_text(line)))
        if self.arguments.json:
            found.save(self.arguments.json)
        if self.arguments.figure:
            save_figure(found, self.arguments.figure)


def answered(text: str) -> str:
    """An answer as one plain line."""
    return plain_text(text) or "(no answer)"
