"""How a comparison is run again: as Python, as a command, as a link to a page. Pure text; every value is quoted."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..comparison import Comparison
from ..errors import BadInput
from ..models.catalog import EMBEDDED_MODEL
from ..names import EDITED, UNPRUNED, edited_id
from ..pruners import get
from ..records import RequestedMethod, Run
from .compare import compare
from .examples import example_of_digest

PAGE = "http://127.0.0.1:7860/"
"""Where ``tokviz serve`` is found on one's own machine."""
_DEFAULTS = {name: each.default for name, each in inspect.signature(compare).parameters.items()}
_KERNELS = {"flash_attention_2": "flash", "eager": "eager", "sdpa": "sdpa"}


@dataclass(frozen=True)
class _Asked:
    """What was asked for, as keywords that are not the defaults of ``compare``."""

    methods: list[tuple[str, dict[str, Any]]]
    edits: list[Run]
    unknown: list[str]
    keywords: dict[str, Any]
    loading: dict[str, str]


def example_of(comparison: Comparison) -> str | None:
    """The id of the stored example that asks about the same image or clip; None where there is none."""
    digest = comparison.image.sha256 if comparison.video is None else comparison.video.sha256
    return example_of_digest().get(digest)


def python_code(comparison: Comparison, source: str | None = None) -> str:
    """Python that asks again; see ``Comparison.to_python``."""
    asked, model = _asked(comparison), comparison.model
    lines = ["import tokviz", ""]
    example = example_of(comparison) if source is None else None
    lines += [f"# {words}" for words in _remarks(comparison, asked, example is not None or source is not None)]
    loading = "".join(f", {name}={value!r}" for name, value in asked.loading.items())
    if example is not None:
        lines.append(f"example = next(one for one in tokviz.load_examples() if one.id == {example!r})")
        image = "example.clip" if comparison.video is not None else "example.image"
    else:
        image = repr(source or _file_name(comparison))
    lines.append(f"vlm = tokviz.load({model.name!r}{loading})")
    methods = ", ".join(repr(name) if not params else f"({name!r}, {params!r})" for name, params in asked.methods)
    arguments = [image, repr(comparison.request.question), f"methods=[{methods}]"]
    arguments += [f"{name}={value!r}" for name, value in asked.keywords.items()]
    lines += ["result = tokviz.compare(", "    vlm,", *(f"    {argument}," for argument in arguments), ")"]
    for run in asked.edits:
        where = _edited_where(comparison, run)
        again = "".join(f", {name}={value!r}" for name, value in where.items())
        lines.append(f"result = tokviz.ask_with(vlm, {image}, None, {run.kept or []}{again}, into=result)")
    lines += ["print(result.answers)", "kept = {run.key: run.kept for run in result}  # original indices"]
    return "\n".join(lines) + "\n"


def command(comparison: Comparison, source: str | None = None) -> str:
    """A command line that asks again; see ``Comparison.to_command``."""
    asked, request = _asked(comparison), comparison.request
    example = example_of(comparison) if source is None else None
    first = f"--example {shlex.quote(example)}" if example else _path(source or _file_name(comparison))
    methods = ",".join(
        ":".join([name, *(f"{param}={_option(value)}" for param, value in params.items())])
        for name, params in asked.methods
    )
    parts = [f"tokviz compare {first}", f"--question={_shell(request.question)}"]
    parts += [f"--methods {_shell(methods)}" if methods else "--methods ''"]
    parts.append(f"--budget {request.budget}")
    if comparison.model.name != EMBEDDED_MODEL:
        parts.append(f"--model {_shell(comparison.model.name)}")
    parts += [f"--{name} {_shell(value)}" for name, value in asked.loading.items()]
    options = {"expected": "answer"}
    for name, value in asked.keywords.items():
        if name in ("budget", "evidence", "evidence_frames"):
            continue
        parts.append(f"--{options.get(name, name.replace('_', '-'))}={_shell(str(value))}")
    frames: Sequence[int | None] = request.evidence_frames or [None] * len(request.evidence)
    for box, frame in zip(request.evidence, frames, strict=True):
        at = "" if frame is None else f"{frame}:"
        parts.append(f"--evidence={at}{','.join(f'{edge!r}' for edge in box)}")
    notes = _remarks(comparison, asked, True)
    notes += [f"{run.key} was chosen by hand: the Python code has it, a command has not." for run in asked.edits]
    return "".join(f"# {_one_line(words)}\n" for words in notes) + " \\\n  ".join(parts) + "\n"


def link(comparison: Comparison, page: str = PAGE) -> str:
    """An address that fills a page's form the same way; see ``Comparison.to_link``."""
    asked, request = _asked(comparison), comparison.request

    def plain(value: object) -> str:
        return quote(str(value), safe="-._").replace("~", "%7E")

    methods = ",".join(
        "~".join([plain(name), *(plain(f"{param}={_option(value)}") for param, value in params.items())])
        for name, params in asked.methods
    )
    example = example_of(comparison)
    parts = [
        *([f"example={plain(example)}"] if example else []),
        f"question={plain(request.question)}",
        *([f"methods={methods}"] if methods else []),
        f"budget={request.budget}",
        *([f"as={request.budget_as}"] if "budget_as" in asked.keywords else []),
        *([f"seed={request.seed}"] if "seed" in asked.keywords else []),
        *([f"new={request.max_new_tokens}"] if "max_new_tokens" in asked.keywords else []),
    ]
    return f"{page.split('#')[0]}#compare?{'&'.join(parts)}"


def _asked(comparison: Comparison) -> _Asked:
    request, model = comparison.request, comparison.model
    methods: list[tuple[str, dict[str, Any]]] = []
    edits, unknown = [], []
    for requested in request.methods:
        if requested.method == UNPRUNED:
            continue
        if requested.method.split("-")[0] == EDITED:
            edits += [run for run in comparison.runs if run.key == requested.key and run.error is None]
            continue
        params, is_known = _changed(requested)
        methods.append((requested.method, params))
        if not is_known:
            unknown.append(requested.method)
    keywords: dict[str, Any] = {"budget": request.budget}
    optional = {
        "budget_as": request.budget_as,
        "seed": request.seed,
        "repeats": request.repeats,
        "max_new_tokens": request.max_new_tokens,
        "expected": request.expected_answer,
        "evidence": [tuple(box) for box in request.evidence] or (),
        "evidence_frames": [*request.evidence_frames] or (),
        "frames": None if comparison.video is None else len(comparison.video.frames),
    }
    keywords |= {name: value for name, value in optional.items() if value != _DEFAULTS[name]}
    loading: dict[str, str] = {}
    on_gpu = not model.device.startswith("cpu")
    if model.quantization:
        loading["quantization"] = model.quantization
    elif model.dtype != ("bfloat16" if on_gpu else "float32"):
        loading["dtype"] = model.dtype
    kernel = _KERNELS.get(model.attention, model.attention)
    if kernel != "sdpa":
        loading["attention"] = kernel
    return _Asked(methods, edits, unknown, keywords, loading)


def _changed(requested: RequestedMethod) -> tuple[dict[str, Any], bool]:
    """The parameters that are not the method's defaults, and whether it is known here."""
    try:
        pruner = get(requested.method)
    except BadInput:
        return dict(requested.params), False
    defaults = {param.name: param.default for param in pruner.settings}
    given = requested.params.items()
    return {name: value for name, value in given if name not in defaults or defaults[name] != value}, True


def _edited_where(comparison: Comparison, run: Run) -> Mapping[str, Any]:
    """Which run was edited, or before which layer tokens were dropped, as arguments of ``ask_with``."""
    where: dict[str, Any] = {}
    for other in comparison.runs:
        if other is not run and run.method != EDITED and edited_id(other.key) == run.method:
            where["of"] = other.key
            break
    site = run.stages[0].site if run.stages else None
    if not where and isinstance(site, int):
        where["layer"] = site
    if run.params.get("positions", "source") != "source":
        where["positions"] = run.params["positions"]
    return where


def _remarks(comparison: Comparison, asked: _Asked, has_file: bool) -> list[str]:
    """What code alone cannot bring along."""
    words = []
    if not has_file:
        words.append("The file is your own: it stands here by its name.")
    if asked.unknown:
        words.append(f"Register your own first, with tokviz.register: {_one_line(', '.join(asked.unknown))}.")
    if not comparison.model.embedded and "/" not in comparison.model.name:
        words.append("The model was loaded from a folder: give its path in place of the name.")
    return words


def _file_name(comparison: Comparison) -> str:
    named = comparison.image.name if comparison.video is None else comparison.video.name
    fallback = "video.mp4" if comparison.video is not None else f"image.{comparison.image.mime.split('/')[1]}"
    return named or fallback


def _path(name: str) -> str:
    """A file as the shell takes it; one that begins with a hyphen is no option."""
    return _shell(f"./{name}" if name.startswith("-") else name)


def _shell(text: str) -> str:
    """One word of a command, on one line: control characters would be commands of their own when pasted."""
    return shlex.quote(_one_line(text))


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split(" "))


def _option(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
