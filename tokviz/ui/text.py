"""Every sentence and every number format of the page, in one place (so that it can be translated one day)."""

from __future__ import annotations

import re
import unicodedata

from ..names import MethodFamily, PositionPolicy, VideoFacts

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
    "approximation-error": "Keep what a small basis cannot approximate.",
    "attention-ranked": "Keep what gets the most attention.",
    "diversity": "Keep the patches that differ most.",
    "merging": "Merge similar patches into one token.",
    "text-guided": "Let the question decide what to keep.",
    "progressive": "Drop more at each of several layers of the LLM.",
    "control": "Baselines that every method must beat.",
    "custom": "Added by you or by another package.",
}
"""One line per family, for people who meet these methods for the first time."""

POSITIONS: dict[PositionPolicy, str] = {"reindex": "renumbered without gaps", "keep": "unchanged"}

WEIGHTS: dict[bool, str] = {True: "as many as they carry, in attention of later layers", False: "one token each"}
"""What merged tokens weigh, rectified or not."""

BUDGET_MEANINGS: list[tuple[str, str]] = [
    ("as published by each method", "published"),
    ("final count, after the last stage", "final"),
    ("average per LLM layer", "average"),
]

FIGURE_VIEWS: list[tuple[str, str]] = [
    ("as the lanes show it", "shown"),
    ("kept patches", "kept"),
    ("scores", "score"),
    ("order of the picks", "order"),
    ("merge groups", "clusters"),
    ("where each token was dropped", "dropped"),
    ("distance to the nearest kept token", "distance"),
    ("A vs B", "ab"),
    ("beside a random selection", "random"),
]

NO_IMAGE = "Choose an image or a video first: drop a PNG, JPEG or MP4 file, for example, into the field above."
NO_QUESTION = "Write a question about the image first."
SESSION_OPEN = "Session opened."
VIDEO_SESSION_OPEN = "Session opened. It contains the sampled frames, not the video: to ask again, choose the video."
NO_METHOD = "Choose at least one method to compare with no pruning."
UNREADABLE_MENU = "The page sent a list of methods that cannot be read; please reload it."
PRECISIONS: list[tuple[str, str]] = [("as published", "auto"), ("8-bit", "8bit"), ("4-bit", "4bit")]
KERNELS: list[tuple[str, str]] = [
    ("automatic", "auto"),
    ("SDPA", "sdpa"),
    ("flash attention", "flash"),
    ("flash attention from the Hub", "kernels"),
]
STOPPED_LOADING = "Stopped. The model keeps loading and will be ready for the next question."
QUEUED = "Queued"
NOTHING_TO_DRAW = "There is nothing to draw: run a comparison or open an example first."
STALE = "These results belong to an earlier request; the last one was not answered."
STOPPED_WAITING = "Stopped before it started."
STOPPED_STUDY = "Stopped."
OTHER_LANES = "The lanes show another run by now, so nothing was added to them."
FILE_GONE = "The file that you had chosen is no longer on the server: please choose it again."
STOPPED = "Stopped. The runs that had finished are kept."


def no_quota(seconds: int) -> str:
    """What a visitor can do whose GPU time of the day is used up."""
    return (
        f"This run needs {seconds} s of GPU time, which is more than you have left today. Choose fewer methods or a "
        "shorter answer, log in to Hugging Face for more time, or come back tomorrow; the examples need no GPU."
    )


def cost_line(seconds: float, declared: int | None, n_measured: int) -> str:
    """What a run will cost, before it starts. ``declared``: GPU seconds to be asked for, None where none are lent."""
    if declared is not None:
        return f"This run requests {declared} s of your GPU time."
    if not n_measured:
        return ""
    took = f"{seconds:.0f} s" if seconds >= 2 else f"{seconds:.1f} s"
    return f"About {took}, estimated from {'the last run' if n_measured == 1 else f'the last {n_measured} runs'}."


def queued(before: int) -> str:
    """What is said while a run waits for its turn."""
    return f"{QUEUED}: {before} {'run' if before == 1 else 'runs'} ahead …"


EXAMPLE_SETTINGS = {"budget": "budget", "budget_as": "counted as", "seed": "seed"}
"""Settings that an example brings with it, so that Compare gives the answers that are shown, and their names."""


def set_by_example(changed: list[tuple[str, str, str]]) -> str:
    """What an example changed in the form: ``(name, before, now)`` each."""
    return f"Set by the example: {', '.join(f'{name} {now} (was {before})' for name, before, now in changed)}."


def file_stem(question: str, budget: int, view: str = "") -> str:
    """The name of a file that is taken away, without suffix: what was asked, the budget and, of a figure, the view."""
    plain = unicodedata.normalize("NFKD", question).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))[:40].strip("-")
    return "-".join(part for part in ("tokviz", words, f"{budget}-tokens", view) if part)


def video_facts(facts: VideoFacts) -> str:
    """What was found in a video file, in a line."""
    width, height = facts.size
    frames = f"{facts.n_frames:,} frames" if facts.n_frames != 1 else "1 frame"
    return f"Video: {facts.duration_s:.1f} s, {frames} of {width} × {height} pixels."


def added_lane(label: str, answer: str) -> str:
    """What a run with tokens that were chosen by hand said, in a line."""
    words = answer if len(answer) <= 120 else f"{answer[:119]}…"
    return f"{label} is a lane now. It answers: {words}"
