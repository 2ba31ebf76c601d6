"""Every sentence and every number format of the page, in one place (so that it can be translated one day)."""

from __future__ import annotations

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
    ("average seen per LLM layer", "average"),
]

FIGURE_VIEWS: list[tuple[str, str]] = [
    ("kept patches", "kept"),
    ("scores", "score"),
    ("merge groups", "clusters"),
    ("where each token left", "dropped"),
]

NO_IMAGE = "Choose an image or a video first: drop a file, such as PNG, JPEG or MP4, into the field above."
NO_QUESTION = "Write a question about the image first."
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
