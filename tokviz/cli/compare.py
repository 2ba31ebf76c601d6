"""``compare``: one image or video, one question, many methods, one budget."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import BadInput
from ..names import DEFAULT_METHODS
from ..viz.figures import save_figure
from ..viz.format import plain_text
from ..viz.panels import VIEWS
from ..viz.tables import answer_table, cost_table, frame_table, measure_table, notes, why_table
from .terminal import add_loading_options, checked_outputs, loading_options, out, quiet_unless

if TYPE_CHECKING:
    from ..comparison import Comparison
    from ..media.images import InputImage
    from ..models.loading import VisionLanguageModel
    from ..pruners.pruner import Param, Pruner


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    parser = commands.add_parser(
        "compare", allow_abbrev=False, help="answer a question with and without pruning, at a given budget"
    )
    parser.set_defaults(run=run_compare)
    add = parser.add_argument
    kinds = "PNG, JPEG, WebP, GIF, BMP, TIFF, or a video: MP4, MOV, WebM, MKV, AVI; detected from the content"
    add("file", nargs="?", metavar="FILE", help=f"image ({kinds})")
    add("--image", "--video", dest="image", metavar="FILE", help="same as FILE, as an option")
    add("--example", metavar="NAME", help="the image or clip of a stored example, e.g. 01-existence, in place of FILE")
    add("--question", required=True, metavar="TEXT", help="one question about the image or video")
    frames = "number of frames to sample from a video, 1 to 64 (default: depends on the model family)"
    add("--frames", type=int, metavar="N", help=frames)
    own = "method ids, optionally with parameters after a colon: apet,apet:mode=official"
    add("--methods", default=",".join(DEFAULT_METHODS), metavar="ID,ID", help=f"{own} (default: %(default)s)")
    add("--budget", type=int, default=64, metavar="N", help="visual tokens to keep (default: %(default)s)")
    counted = "what the budget counts: as in the method's paper, after the last stage, or on average over the model's"
    meanings = ("published", "final", "average")
    add("--budget-as", default="published", choices=meanings, help=f"{counted} layers (default: %(default)s)")
    add("--model", default="tokviz-tiny", metavar="NAME", help="menu entry, folder, or Hub id (default: %(default)s)")
    add_loading_options(parser)
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    add("--repeats", type=int, default=1, metavar="N", help="timed runs; above 1: medians after a warm-up")
    add("--max-new-tokens", type=int, default=32, metavar="N", help="maximum answer length (default: %(default)s)")
    add("--param", action="append", default=[], metavar="ID.NAME=VALUE", help="set a method's parameter; repeatable")
    add("--answer", metavar="TEXT", help="the right answer, to mark each answer as right or wrong")
    boxes = (
        "box in pixels around the evidence for the answer; for a video, FRAME is a sampled frame (from 0); repeatable"
    )
    add("--evidence", action="append", default=[], metavar="[FRAME:]X0,Y0,X1,Y1", help=boxes)
    add("--json", metavar="FILE", help="write the session to FILE")
    add("--figure", metavar="FILE", help="write a figure to FILE (.png, .svg or .pdf)")
    add("--view", default="kept", choices=VIEWS, help="what the figure shows (default: %(default)s)")


def run_compare(arguments: argparse.Namespace) -> int:
    """Compare, print the tables, write session and figure. Everything that can be wrong is checked before the work."""
    source = checked_outputs(arguments)
    progress = Console(stderr=True)
    quiet_unless(progress.is_terminal)

    shown = checked(source, arguments.frames)
    evidence = [parse_evidence(text) for text in arguments.evidence]
    methods = parse_methods(arguments.methods)
    options = {
        "methods": methods,
        "budget": arguments.budget,
        "budget_as": arguments.budget_as,
        "params": parse_params(arguments.param, [method for method, _ in methods]),
        "seed": arguments.seed,
        "repeats": arguments.repeats,
        "max_new_tokens": arguments.max_new_tokens,
        "expected": arguments.answer,
        "evidence": [box for _, box in evidence],
        "evidence_frames": [frame for frame, _ in evidence if frame is not None],
        "frames": arguments.frames,
    }
    loading = loading_options(arguments)
    comparison = _compare_with_progress(arguments.model, loading, shown, arguments.question, options, progress)
    _print_comparison(comparison)
    if arguments.json:
        comparison.save(arguments.json)
    if arguments.figure:
        save_figure(comparison, arguments.figure, view=arguments.view)
    errors = [run.error for run in comparison.runs if run.error]
    if errors and len(errors) >= len(comparison.runs) - 1:
        raise BadInput(errors[0])
    return 0


def checked(source: str, frames: int | None) -> InputImage | str:
    """The image, or the name of the video that the model will choose frames of. Raises BadInput."""
    from ..media.images import read_image
    from ..media.video import is_video, named_as_video, probe

    if is_video(source) or named_as_video(source):
        probe(source)
        return source
    if frames is not None:
        raise BadInput("--frames only applies to videos; this is an image.")
    return read_image(source)


def _compare_with_progress(
    model: str,
    loading: dict[str, Any],
    shown: InputImage | str,
    question: str,
    options: dict[str, Any],
    console: Console,
) -> Comparison:
    """Load the model and run the comparison; on a terminal say what is going on, else stay silent."""
    import tokviz

    if console.is_terminal:
        console.print(Text(f"Loading {plain_text(model)} …"))
    vlm: VisionLanguageModel = tokviz.load(model, **loading)
    for notice in vlm.notices:
        console.print(Text(notice))
    generator: Any = tokviz.compare_events(vlm, shown, question, **options)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        closing(generator) as events,
    ):
        task = progress.add_task("Reading and encoding", total=None)
        for event in events:
            planned = event.comparison.request.methods
            if event.kind in ("lane", "text"):
                where = f"{planned[event.lane].key} ({event.lane + 1} of {len(planned)})"
                progress.update(task, description=f"{where}  {plain_text(event.text)[-60:]}")
    return event.comparison


def _print_comparison(comparison: Comparison) -> None:
    console = out()
    console.print(answer_table(comparison))
    console.print(measure_table(comparison))
    reasons = why_table(comparison)
    if reasons is not None:
        console.print(reasons)
    console.print(cost_table(comparison))
    frames = frame_table(comparison)
    if frames is not None:
        console.print(frames)
    for line in notes(comparison):
        console.print(Text(line))


def parse_methods(text: str) -> list[tuple[str, dict[str, Any]]]:
    """``"apet,apet:mode=official"`` as ids with parameters of their own, checked. Raises BadInput."""
    from ..pruners import get

    methods = []
    for entry in filter(None, map(str.strip, text.split(","))):
        id, *settings = map(str.strip, entry.split(":"))
        pruner, values = get(id), dict[str, Any]()
        for setting in settings:
            name, equals, value = map(str.strip, setting.partition("="))
            if not equals:
                raise BadInput(f"--methods takes id:name=value, e.g. apet:mode=official, not {entry!r}.")
            values[name] = _value(pruner, name, value)
        pruner.complete(values)
        methods.append((id, values))
    return methods


def parse_params(texts: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``["apet.mode=official"]`` as ``{"apet": {"mode": "official"}}``, typed and checked by the methods themselves.

    Raises BadInput for unknown methods (also among ``methods``), parameters and values.
    """
    from ..pruners import get

    pruners = {method: get(method) for method in methods}
    given: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, parameter = name.strip().partition(".")
        if not (equals and dot and method and parameter):
            raise BadInput(f"--param takes method.name=value, e.g. apet.mode=official, not {text!r}.")
        if method not in pruners:
            raise BadInput(f"--param {text!r} sets a parameter of {method!r}, which is not in --methods.")
        given.setdefault(method, {})[parameter] = _value(pruners[method], parameter, value.strip())
    for method, values in given.items():
        pruners[method].complete(values)
    return given


def _value(pruner: Pruner, name: str, text: str) -> bool | int | float | str:
    """A parameter's text in its type; as it is where the method has no such parameter, which the method says itself."""
    spec = next((param for param in pruner.settings if param.name == name), None)
    return text if spec is None else parse_value(spec, text)


def parse_value(param: Param, text: str) -> bool | int | float | str:
    """The text of a parameter in the type of its kind. Raises BadInput."""
    if param.kind == "bool":
        if text.lower() not in ("true", "false"):
            raise BadInput(f"{param.name} must be true or false, not {text!r}.")
        return text.lower() == "true"
    if param.kind == "choice":
        return text
    try:
        return int(text) if param.kind == "int" else float(text)
    except ValueError as error:
        whole = "a whole number" if param.kind == "int" else "a number"
        raise BadInput(f"{param.name} must be {whole}, not {text!r}.") from error


def parse_evidence(text: str) -> tuple[int | None, tuple[float, float, float, float]]:
    """``"2:x0,y0,x1,y1"`` as the number of a frame and a box; without a frame None. Raises BadInput."""
    frame, colon, box = text.rpartition(":")
    try:
        x0, y0, x1, y1 = (float(part) for part in box.split(","))
        return int(frame) if colon else None, (x0, y0, x1, y1)
    except ValueError as error:
        raise BadInput(
            f"--evidence takes x0,y0,x1,y1 in pixels (frame:x0,y0,x1,y1 for a video), not {text!r}."
        ) from error
