"""The result of ``tokviz.compare``: the runs of one request, written to a session and read back, drawn and tabled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from . import chance
from .answers import AnswerWord, answer_words
from .chance import AgainstRandom, Overlap
from .costs import RunCost, cost_of
from .errors import BadInput
from .files import open_file, write_or_refuse
from .records import ImageMeasures, ImageRecord, Many, ModelRecord, Record, Request, Run, Timing, TokenGrid, VideoRecord
from .session_limits import MAX_BYTES, NO_SESSION, check_contents, check_text
from .short import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SCHEMA_VERSION = 2
_VERSION = re.compile(rb'\s*\{\s*"schema_version"\s*:\s*(\d{1,9})\s*,')


class Comparison(Record):
    """The runs of one request. ``runs[0]`` is the unpruned run (method ``full``).

    Attributes:
        image: The image, or the first sampled frame of a video.
        video: The video, or None for a question about an image. For a video, the boxes in ``request.evidence`` lie in
            the frames ``request.evidence_frames``.
        text_tokens: The prompt's tokens after the last visual token, as text; empty in sessions from earlier versions.
        measures: How spread out the image is; None in sessions from earlier versions.
    """

    schema_version: int = SCHEMA_VERSION
    request: Request
    model: ModelRecord
    image: ImageRecord
    video: VideoRecord | None = None
    grid: TokenGrid
    text_tokens: Many[str] = Field(default_factory=list)
    runs: Many[Run]
    versions: dict[str, str]
    measures: ImageMeasures | None = None
    timings: dict[str, Timing] = Field(default_factory=dict)
    warnings: Many[str] = Field(default_factory=list)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The question, the model, and the first answers; ``[...]`` and ``to_json`` have the rest."""
        shown = {short(run.key): short(run.answer if run.error is None else run.error) for run in self.runs[:4]}
        return [
            ("model", short(self.model.name)),
            ("question", short(self.request.question)),
            ("budget", self.request.budget),
            ("runs", len(self.runs)),
            ("answers", shown),
        ]

    @model_validator(mode="after")
    def _frames_exist(self) -> Self:
        request, n_frames = self.request, 0 if self.video is None else len(self.video.frames)
        if self.grid.is_video != (n_frames > 0):
            raise ValueError("a grid of frames belongs to a video with frames")
        if n_frames and len(request.evidence_frames) != len(request.evidence):
            raise ValueError("each evidence box of a video needs its frame")
        used = [*request.evidence_frames, *(frame for view in self.grid.views for frame in view.frames)]
        if not all(0 <= frame < n_frames for frame in used):
            raise ValueError(f"frames are numbered 0 to {n_frames - 1}")
        if self.video is not None:
            indices = [-1, *(frame.index for frame in self.video.frames), self.video.n_frames]
            if sorted(indices) != indices or indices[1] < 0 or indices[-2] == indices[-1]:
                raise ValueError(f"the file's frames are numbered 0 to {self.video.n_frames - 1}, ascending")
        return self

    @property
    def answers(self) -> dict[str, str]:
        """The answer of each run by its key, without the runs that failed."""
        return {run.key: run.answer for run in self.runs if run.error is None}

    def __getitem__(self, name: str | int) -> Run:
        """Return a run by its key, by its method id if the method ran only once, or by its index.

        Raises:
            KeyError: If there is no such run; the message lists the keys that exist.
        """
        if isinstance(name, int):
            return self.runs[name]
        found = [run for run in self.runs if run.key == name] or [run for run in self.runs if run.method == name]
        if len(found) == 1:
            return found[0]
        raise KeyError(f"no run {name!r}; this comparison has {[run.key for run in found or self.runs]}")

    def __iter__(self) -> Iterator[Run]:  # type: ignore[override]
        """Iterate over the runs, the unpruned one first."""
        return iter(self.runs)

    def __len__(self) -> int:
        """Return the number of runs, including the unpruned one."""
        return len(self.runs)

    def __bool__(self) -> bool:
        """Return True, even before the first run has finished."""
        return True

    def overlap(self, a: str | int, b: str | int) -> Overlap:
        """Compare which visual tokens two runs keep: both, only ``a``, only ``b``, neither, and their IoU.

        Of each run, the tokens left by the last stage that left any; all of them where nothing was pruned.

        Raises:
            KeyError: If there is no such run.
            BadInput: If one of the runs failed.
        """
        one, other = self[a], self[b]
        return chance.overlap(one.key, other.key, self._selected(one), self._selected(other), self.grid.n_tokens)

    def against_random(self, name: str | int, *, radius: int = 2) -> AgainstRandom:
        """Compare where a run keeps tokens with where a random selection of as many would.

        Args:
            name: The run, as in ``[...]``.
            radius: Patches around each patch, in each direction, in which kept tokens are counted.

        Raises:
            KeyError: If there is no such run.
            BadInput: If the run failed, or the radius is not between 1 and 64.
        """
        from .runs.metrics import evidence_tokens

        run, asked = self[name], self.request
        evidence = evidence_tokens(self.grid, asked.evidence, asked.evidence_frames)
        return chance.against_random(run.key, self.grid, self._selected(run), evidence, radius=radius)

    def answer_words(self, name: str | int) -> list[AnswerWord]:
        """Return the words of a run's answer: how likely each was, and which the unpruned answer has, too.

        Raises:
            KeyError: If there is no such run.
        """
        return answer_words(self[name], self.runs[0])

    def cost(self, name: str | int) -> RunCost:
        """Return what a run cost: time and compute of each part, tokens per layer, KV cache, and how much faster it is.

        Raises:
            KeyError: If there is no such run.

        Example:
            >>> cost = result.cost("fastv")
            >>> cost["prefill"].ms, cost.speedup, cost.kv_cache_bytes, cost.tokens_per_layer
        """
        return cost_of(self[name], self.runs[0], self.timings)

    def why(self, name: str | int) -> str:
        """Say in one sentence why a run kept or lost the evidence: ranks, and what became of how many patches.

        Empty where no evidence is marked, or nothing was pruned.

        Raises:
            KeyError: If there is no such run.
        """
        from .runs.why import why

        return why(self, self[name])

    def _selected(self, run: Run) -> list[int]:
        """Return the tokens left by the run's last stage that left any. Raises BadInput for a run that failed."""
        from .runs.metrics import selected

        if run.error is not None:
            raise BadInput(f"{run.label} could not run, so it keeps nothing that could be compared: {run.error}")
        kept = selected(run)
        return list(range(self.grid.n_tokens)) if kept is None else kept

    def to_pandas(self) -> DataFrame:
        """Return a table with one row per run: answer, verdict, tokens, times, cost.

        Raises:
            BadInput: If pandas is not installed.
        """
        from .viz.tables import data_frame

        return data_frame(self)

    def figure(
        self,
        path: str | Path | None = None,
        *,
        view: Literal["kept", "score", "order", "clusters", "dropped", "distance", "ab", "random"] = "kept",
        methods: Sequence[str] | None = None,
        theme: Literal["light", "dark"] = "light",
        level: int | Literal["both"] | None = None,
        frames: Sequence[int] | None = None,
        stages: Mapping[str, int] | None = None,
        maps: Mapping[str, str] | None = None,
        against: str | None = None,
        radius: int = 2,
        columns: int | None = None,
        title: str | None = None,
        dpi: int = 300,
    ) -> Figure:
        """Draw the image once per run, with what the run kept and answered; written to ``path`` where there is one.

        Args:
            path: A file that ends in .png, .svg or .pdf.
            view: What is drawn of a run: kept tokens, scores, the order in which tokens were picked, merge groups, how
                many stages each token survived, how far each is from the nearest kept one, what a run keeps beside
                another one (``ab``), or beside a random selection (``random``).
            methods: Runs beside the unpruned one, by key; None for all.
            theme: Colours of the page.
            level: Of an image that is looked at whole (0) and in crops (1), which is drawn, or both; None for the last.
            frames: Of a video, which of the sampled frames, from 0; None for at most 8, evenly, evidence among them.
            stages: Which stage of a run is drawn, by its key, from 0; without it, the one that tells most.
            maps: Which map of a run stands in place of its score in the view ``score``, by its label or name.
            against: Of the view ``ab``, the run that the others are compared with; None for the first that prunes.
            radius: Of the view ``random``, patches around each patch, as of ``against_random``.
            columns: Panels in a row, 1 to 12; None for at most 5, in even rows.
            title: In place of the question; ``""`` for none.
            dpi: Pixels per inch of the images inside.

        Raises BadInput for what is unknown or cannot be written.

        Example:
            >>> result.figure("scores.pdf", view="score", stages={"apet": 0}, methods=["apet", "fastv"], columns=3)
            >>> result.figure("a-vs-b.svg", view="ab", against="apet", methods=["fastv"], title="ApET beside FastV")
        """
        from .viz.figures import comparison_figure, save_figure

        options: dict[str, Any] = {"view": view, "methods": methods, "theme": theme}
        options |= {"level": level, "frames": frames, "stages": stages, "maps": maps, "against": against}
        options |= {"radius": radius, "columns": columns, "title": title, "dpi": dpi}
        if path is not None:
            save_figure(self, path, **options)
        return comparison_figure(self, **options)

    def to_python(self, image: str | None = None) -> str:
        """Return Python code that asks the same again: same answers, same kept tokens.

        Args:
            image: Path of the image or video, for the code; None for a stored example itself, else for its file name.
        """
        from .runs.reproduce import python_code

        return python_code(self, image)

    def to_command(self, image: str | None = None) -> str:
        """Return a command line that asks the same again. image: as of ``to_python``."""
        from .runs.reproduce import command

        return command(self, image)

    def to_link(self, page: str | None = None) -> str:
        """Return an address that opens a page with the same request, ready to be asked.

        Example, question, methods with their parameters and budget stand in the address itself, so that it needs
        nothing that the page's server keeps. An image of your own is not in it.

        Args:
            page: Address of the page; None for one that ``tokviz serve`` serves on this machine.
        """
        from .runs.reproduce import PAGE, link

        return link(self, PAGE if page is None else page)

    def _repr_html_(self) -> str:
        """Show the image once per run in a notebook, with what the run kept and answered."""
        from .viz.notebook import to_html

        return to_html(self)

    def patches(self, name: str | int) -> list[dict[str, Any]]:
        """Return a table of what became of each visual token in a run: one row per token, in the model's order.

        Columns: where the token is (view, row, column, box in pixels), its fate (kept, merged, dropped) and how many
        stages it survived, what carries it, whether it shows the evidence, and every score and map of every stage.

        Raises:
            KeyError: If there is no such run.
            BadInput: If the run failed.

        Example:
            >>> pandas.DataFrame(result.patches("apet")).query("fate == 'kept'")
        """
        from .viz.patches import patch_rows

        return patch_rows(self, self[name])

    def to_zip(
        self,
        path: str | Path | None = None,
        *,
        view: str = "kept",
        views: Sequence[str] = ("kept", "score", "ab"),
        **figure: Any,
    ) -> bytes:
        """Return everything as one ZIP file, written to ``path`` if given.

        In it: the session, the page of ``to_html``, figures, the numbers and each run's patches as CSV, the image, and
        the Python, command and link that ask again. File names say what they hold.

        Args:
            path: Where to write it.
            view: Of the figure that is there as PNG, SVG and PDF.
            views: Further views, as PDF.
            figure: More arguments of ``figure`` for all of them: ``theme``, ``methods``, ``columns``, ``title``, ...

        Raises:
            BadInput: For arguments that ``figure`` does not take, or if the file cannot be written.
        """
        from .ui.takeaway import bundle

        content = bundle(self, view, views, figure)
        if path is not None:
            write_or_refuse(path, content)
        return content

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the lanes as one HTML file that opens without a server, and offline; written to ``path`` if given.

        Everything of the page that needs no model works in it: views, hover, zoom, why, tables, costs. It loads nothing
        from anywhere, and everything in it that came from elsewhere is data, not markup.

        Raises:
            BadInput: If the session is damaged, or the file cannot be written.

        Example:
            >>> result.to_html("comparison.html")
        """
        from .ui.offline import page

        html = page(self)
        if path is not None:
            write_or_refuse(path, html.encode())
        return html

    def save(self, path: str | Path) -> None:
        """Write the comparison to a file, completely or not at all.

        Raises:
            BadInput: If the file cannot be written.
        """
        write_or_refuse(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read a file written by ``save``.

        Raises:
            BadInput: If the file cannot be read or is not a tokviz session; the message is one sentence.
        """
        with open_file(path, "session") as file:
            return cls.from_json(file.read(MAX_BYTES + 1))

    def to_json(self) -> str:
        """Return the whole comparison as JSON text, including the schema version."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Comparison:
        """Read the output of ``to_json``.

        Any input is answered within seconds: anything larger than a session can be is rejected before it is parsed into
        records; see ``session_limits``.

        Raises:
            BadInput: If the text is not a tokviz session; the message is one sentence.
        """
        other = "This session has schema version {}; this tokviz reads version {}: run the comparison again."
        data = text.encode() if isinstance(text, str) else text
        try:
            check_text(data)
            version = _VERSION.match(data)
            if version is not None and int(version[1]) != SCHEMA_VERSION:
                raise BadInput(other.format(int(version[1]), SCHEMA_VERSION))
            comparison = cls.model_validate_json(data)
        except BadInput:
            raise
        except ValueError as error:
            raise BadInput(NO_SESSION) from error
        if comparison.schema_version != SCHEMA_VERSION:
            raise BadInput(other.format(comparison.schema_version, SCHEMA_VERSION))
        check_contents(comparison)
        return comparison
