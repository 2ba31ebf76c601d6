"""Whether the lists of a comparison fit its grid: session files come from strangers, and the page draws by them."""

from __future__ import annotations

import math
from itertools import pairwise

from ..comparison import Comparison
from ..errors import BadInput
from ..records import Chart, StageRecord
from ..session_limits import MAX_FRAMES, MAX_PER_STAGE

MAX_CHART_POINTS = 20_000
"""More points than any stage has tokens; a page that draws more would freeze."""
MAX_TOKENS = 100_000
"""More visual tokens than any model makes of the largest image; a browser cannot draw many more."""
MAX_WORDS = 20_000
MAX_SECONDS = 1e6


def check_fits_grid(comparison: Comparison) -> None:
    """Raise BadInput when an index or a list of a stage does not fit the grid (a damaged or forged session file)."""
    n_tokens = comparison.grid.n_tokens
    sizes = (comparison.image.width, comparison.image.height, *comparison.grid.image_size)
    if not comparison.grid.views or not n_tokens or min(sizes) < 1:
        raise BadInput("The session is damaged: it has no patches or no image.")
    if n_tokens > MAX_TOKENS or len(comparison.text_tokens) > MAX_WORDS:
        raise BadInput(f"The session is too large: more than {MAX_TOKENS:,} visual tokens or {MAX_WORDS:,} words.")
    _check_frames(comparison)
    for run in comparison.runs:
        alive = set(range(n_tokens))
        for stage in run.stages:
            misfit = _misfit(stage, alive, n_tokens, len(comparison.text_tokens))
            if misfit:
                raise BadInput(
                    f"The session is damaged: the lane {run.label!r} does not fit its {n_tokens} tokens ({misfit})."
                )
            alive = set(stage.kept)


def _check_frames(comparison: Comparison) -> None:
    """Raise BadInput when frames of a video cannot be drawn; that those which are named exist was checked before."""
    video, grid = comparison.video, comparison.grid
    if video is None:
        return
    n_frames = len(video.frames)
    sizes = {(frame.image.width, frame.image.height) for frame in video.frames}
    shown = [frame for view in grid.views for frame in view.frames]
    levels = {view.level for view in grid.views}
    if (
        not 0 < n_frames <= MAX_FRAMES
        or sizes != {grid.image_size}
        or sorted(shown) != list(range(n_frames))
        or not all(view.frames for view in grid.views)
        or len(levels) != len(grid.views)
        or not all(math.isfinite(frame.time_s) and 0 <= frame.time_s <= MAX_SECONDS for frame in video.frames)
        or not math.isfinite(video.duration_s)
    ):
        raise BadInput("The session is damaged: its patches do not fit the frames of its video.")


def _misfit(stage: StageRecord, alive: set[int], n_tokens: int, n_words: int) -> str | None:
    """What of a stage cannot be, in a few words; None when everything fits."""
    if any(a >= b for a, b in pairwise(stage.kept)) or not alive.issuperset(stage.kept):
        return "kept tokens"
    carried = (stage.assignment, stage.covered_by)
    lists = [stage.order, *carried, *(m.values for m in (stage.score, *stage.maps) if m is not None)]
    if any(len(values) != n_tokens for values in lists if values is not None):
        return "the length of a map"
    if any(not all(-1 <= token < n_tokens for token in tokens) for tokens in carried if tokens is not None):
        return "merged tokens"
    if not 0 <= stage.n_extra <= n_tokens:
        return "added tokens"
    if stage.sequence is not None and sorted(stage.sequence) != [-1] * stage.n_extra + stage.kept:
        return "the order of its tokens"
    if max(len(stage.maps), len(stage.charts), len(stage.readings), len(stage.facts)) > MAX_PER_STAGE:
        return f"more than {MAX_PER_STAGE} maps, charts, readings or facts"
    if any(not _chart_fits(chart, n_tokens) for chart in stage.charts):
        return "a chart"
    scores = stage.text
    if scores is not None and not len(scores.values) == len(scores.chosen) == n_words:
        return "the prompt's words"
    return None


def _chart_fits(chart: Chart, n_tokens: int) -> bool:
    n_points = len(chart.y)
    return (
        n_points <= MAX_CHART_POINTS
        and all(len(values) in (0, n_points) for values in (chart.x, chart.names, chart.tokens))
        and all(0 <= token < n_tokens for token in (*chart.tokens, chart.about or 0))
        and all(0 <= place < n_points for place in chart.marked)
    )
