"""Every sentence and every number format of the page, in one place (so that it can be translated one day)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..names import MethodFamily, PositionPolicy, VideoFacts
from ..records import Timing

TITLE = "tokviz"

FAMILY_LABELS: dict[MethodFamily, str] = {
    "approximation-error": "approximation error",
    "attention-ranked": "attention",
    "diversity": "diversity",
    "merging": "merging",
    "text-guided": "text-guided",
    "progressive": "progressive",
    "control": "control",
    "custom": "other packages",
}

FAMILY_EXPLAINED: dict[MethodFamily, str] = {
    "approximation-error": "Keep what the others cannot be rebuilt from.",
    "attention-ranked": "Keep what the model already looks at.",
    "diversity": "Keep patches that differ most from each other.",
    "merging": "Melt similar patches into one token.",
    "text-guided": "Let the question decide what is kept.",
    "progressive": "Drop in steps, deeper and deeper inside the LLM.",
    "control": "What every method must beat.",
    "custom": "What you or another package added.",
}
"""One line per family, for people who meet these methods for the first time."""

POSITIONS: dict[PositionPolicy, str] = {"reindex": "close up the gap", "keep": "stay as they were"}

BUDGET_MEANINGS: list[tuple[str, str]] = [
    ("as published by each method", "published"),
    ("final count, after the last stage", "final"),
    ("average seen per LLM block", "average"),
]

FIGURE_VIEWS: list[tuple[str, str]] = [
    ("kept patches", "kept"),
    ("scores", "score"),
    ("merge groups", "clusters"),
    ("where each token left", "died"),
]

NO_PICTURE = "Choose a picture or a video first: drop a file, such as PNG, JPEG or MP4, into the field above."
NO_QUESTION = "Write a question about the picture first."
SESSION_OPEN = "The session is open."
VIDEO_SESSION_OPEN = "The session is open. It holds the frames, not the video: choose the file again to ask anew."
NO_METHOD = "Choose at least one method to compare with no pruning."
PRECISIONS: list[tuple[str, str]] = [("as published", "auto"), ("8 bits", "8bit"), ("4 bits", "4bit")]
KERNELS: list[tuple[str, str]] = [
    ("automatic", "auto"),
    ("SDPA", "sdpa"),
    ("flash attention", "flash"),
    ("flash attention from the hub", "kernels"),
]
STOPPED_LOADING = "Stopped. The model goes on loading and will be there for the next question."
QUEUED = "In the queue"
NOTHING_TO_DRAW = "There is nothing to draw any more: run a comparison or open an example."
STALE = "These lanes belong to an earlier request: the last one was not answered."
STOPPED_WAITING = "Stopped before it began."
STOPPED = "Stopped. The lanes that were finished are kept."


def no_quota(seconds: int) -> str:
    """What a visitor can do whose GPU time of the day is used up."""
    return (
        f"This run needs {seconds} s of GPU time, which is more than you have left today. Choose fewer methods or a "
        "shorter answer, log in to Hugging Face for more time, or come back tomorrow; the examples need no GPU."
    )


def cost_line(seconds: float, declared: int | None, n_measured: int) -> str:
    """What a run will cost, before it starts. ``declared``: GPU seconds to be asked for, None where none are lent."""
    if declared is not None:
        return f"This run asks for {declared} s of your GPU time."
    if not n_measured:
        return ""
    took = f"{seconds:.0f} s" if seconds >= 2 else f"{seconds:.1f} s"
    runs = "the last run" if n_measured == 1 else f"{n_measured} runs"
    return f"About {took}, estimated from {runs} here."


def queued(before: int) -> str:
    """What is said while a run waits for its turn."""
    return f"{QUEUED}: {'1 run comes' if before == 1 else f'{before} runs come'} first …"


def example_name(question: str, is_video: bool) -> str:
    """What an example is called in the row of examples: its question, with a mark for films."""
    return f"▶ {question}" if is_video else question


def video_facts(facts: VideoFacts) -> str:
    """What was found in a video file, in a line."""
    width, height = facts.size
    frames = f"{facts.n_frames:,} frames" if facts.n_frames != 1 else "1 frame"
    return f"A video of {facts.duration_s:.1f} s, {frames} of {width} × {height} pixels."


def milliseconds(ms: float) -> str:
    """A duration with three significant digits, e.g. ``"8.31 ms"``, ``"52 ms"``, ``"1.42 s"``."""
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    if ms >= 100:
        return f"{ms:.0f} ms"
    return f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def how_measured(timing: Timing) -> str:
    """How a duration was measured, in words."""
    return "single shot" if timing.single_shot else f"median of {timing.samples}"


def size(n_bytes: float) -> str:
    """Bytes in decimal units, e.g. ``"295 KB"``."""
    for unit in ("B", "KB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if n_bytes >= 100 or unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"


def flops(count: float) -> str:
    """Floating point operations with a decimal prefix, e.g. ``"1.2 GFLOP"``."""
    if count <= 0 or not math.isfinite(count):
        return "0 FLOP"
    power = min(int(math.log10(count)) // 3, 5)
    scaled = count / 1000**power
    digits = f"{scaled:.0f}" if scaled >= 10 else f"{scaled:.2g}"
    return f"{digits} {' kMGTP'[power].strip()}FLOP"


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` as a percentage with one decimal; nothing and all of it without, and only they read so."""
    if not part or not whole:
        return "0%"
    percent = f"{100 * part / whole:.1f}%"
    if part == whole:
        return "100%"
    return {"0.0%": "< 0.1%", "100.0%": "> 99.9%"}.get(percent, percent)


def ratio(reference: float, value: float) -> str:
    """How many times smaller ``value`` is than ``reference``, e.g. ``"1.8×"``; empty when it cannot be said.

    Below 0.1 it has two significant digits (``"0.034×"``), so that what is far slower does not read as nothing.
    """
    if not value > 0 or not math.isfinite(reference / value):
        return ""
    times = reference / value
    if times >= 0.095:
        return f"{times:.1f}×"
    return f"{times:.2g}×" if times >= 1e-4 or times <= 0 else "< 0.0001×"


_FACT_CHARACTERS = 240
_FACT_ENTRIES = 12


def fact_name(name: str) -> str:
    """A recorded fact's name as words, e.g. ``"basis_tokens"`` as ``"basis tokens"``."""
    return name.replace("_", " ").strip()[:_FACT_CHARACTERS]


def fact_value(value: Any) -> str:
    """A recorded fact (any JSON value) as short words; long lists and texts are cut, and say so."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        value = [f"{fact_name(str(key))} {fact_value(entry)}" for key, entry in value.items()]
    if isinstance(value, list | tuple):
        shown = ", ".join(fact_value(entry) for entry in value[:_FACT_ENTRIES])
        value = f"{shown}, … ({len(value):,} entries)" if len(value) > _FACT_ENTRIES else shown
    return cut(str(value))


def cut(words: str) -> str:
    """Words of a label or fact; far more than a method writes is cut: one word of 20,000 letters freezes a browser."""
    return words if len(words) <= _FACT_CHARACTERS else words[: _FACT_CHARACTERS - 1] + "…"
