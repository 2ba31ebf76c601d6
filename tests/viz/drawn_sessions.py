"""Small hand-made comparisons to draw: every number in them is chosen, none comes from a model."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from tokviz.comparison import Comparison
from tokviz.records import (
    BudgetMeanings,
    FrameRecord,
    GridView,
    ImageRecord,
    ModelRecord,
    Request,
    RequestedMethod,
    Run,
    StageRecord,
    TokenGrid,
    TokenMap,
    VideoRecord,
)

COLOR = (100, 150, 200)
"""The plain image's colour; its brightness (Rec. 601) is 140.75."""


def plain_pixels(width, height):
    return Image.new("RGB", (width, height), COLOR)


def image_record(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return ImageRecord(
        width=image.width,
        height=image.height,
        sha256="0" * 64,
        mime="image/png",
        base64=base64.b64encode(buffer.getvalue()).decode(),
    )


def square_grid(size, n, patch, left=0, top=0):
    """n x n patches of ``patch`` px whose upper left corner lies at (left, top)."""
    cells = [(row, col) for row in range(n) for col in range(n)]
    return TokenGrid(
        image_size=size,
        views=[GridView(name="image", rows=n, cols=n, seen=(left, top, left + n * patch, top + n * patch))],
        view=[0] * len(cells),
        row=[row for row, _ in cells],
        col=[col for _, col in cells],
        box=[
            (left + c * patch, top + r * patch, left + (c + 1) * patch, top + (r + 1) * patch) for r, c in cells
        ],
    )  # fmt: skip


def score_map(values, scale="linear"):
    return TokenMap(
        name="error", label="Approximation error", unit="", direction="high is kept first", scale=scale,
        values=list(values),
    )  # fmt: skip


def stage(kept, n_in, score=None, assignment=None, site="encoder"):
    return StageRecord(
        title="stage", site=site, site_label=f"at {site}", positions="reindex", planned_keep=len(kept), n_in=n_in,
        kept=list(kept), score=score, order=None, assignment=assignment, maps=[], facts={}, selection_ms=0.1,
    )  # fmt: skip


def run(method, answer, stages=(), n_tokens=4, **changes):
    final = len(stages[-1].kept) if stages else n_tokens
    meanings = BudgetMeanings(final=final, average_in=final, average_logged=final)
    values = {
        "method": method, "label": method.title(), "family": "diversity", "params": {}, "planned": meanings,
        "actual": meanings, "tokens_per_layer": [final] * 2, "stages": list(stages), "answer": answer,
    } | changes  # fmt: skip
    return Run(**values)


def comparison(image, grid, runs, *, question="what color is the star?", expected=None, evidence=(), embedded=True,
               video=None, evidence_frames=()):  # fmt: skip
    return Comparison(
        request=Request(
            question=question, methods=[RequestedMethod(method=r.method) for r in runs],
            budget=2, budget_as="published", seed=7, max_new_tokens=8, repeats=1, expected_answer=expected,
            evidence=list(evidence), evidence_frames=list(evidence_frames),
        ),
        model=ModelRecord(
            name="tokviz-tiny", family="llava", n_layers=2, hidden_size=8, dtype="float32", device="cpu",
            attention="sdpa", embedded=embedded,
        ),
        image=image_record(image),
        video=video,
        grid=grid,
        runs=runs,
        versions={"tokviz": "0.1.0"},
    )  # fmt: skip


def tiny(kept=(0,), *, score=None, assignment=None, evidence=(), size=(12, 12), left=0):
    """A 2 x 2 grid of 6 px patches on a plain image, and one pruned run."""
    pruned = run("apet", "blue", [stage(kept, 4, score, assignment)])
    grid = square_grid(size, 2, 6, left=left)
    return comparison(plain_pixels(*size), grid, [run("full", "red"), pruned], evidence=evidence)


def typical(n_methods, *, answers=("red", "blue"), size=(64, 64), n=8, left=0, **options):
    """Noise image, n x n grid, n_methods runs with scores; every second one merges."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    patch = (min(size) - 2 * left) / n
    grid = square_grid(size, n, patch, left=left)
    n_tokens = n * n
    runs = [run("full", "red", n_tokens=n_tokens)]
    for index in range(n_methods):
        values = rng.random(n_tokens)
        kept = sorted(int(token) for token in np.argsort(-values)[: n_tokens // 4])
        assignment = [token if token in kept else kept[token % len(kept)] for token in range(n_tokens)]
        record = stage(kept, n_tokens, score_map(values.tolist()), assignment if index % 2 else None)
        runs.append(run(f"method{index}", answers[index % len(answers)], [record], n_tokens=n_tokens))
    return comparison(image, grid, runs, **options)


FRAME_COLORS = ((100, 150, 200), (200, 40, 40), (40, 180, 60), (30, 30, 160), (220, 200, 40), (90, 90, 90))
"""One plain colour per frame of ``film``, so that every pixel says which frame it was taken from."""


def film(kept, *, n_frames=4, together=1, evidence=(), evidence_frames=(), others=False, assignment=None, score=None):
    """A clip of plain frames, 12 x 12 px, 2 x 2 patches of 6 px per view, and one pruned run.

    together: frames that share a view; others: every view ends with a token that is no patch.
    """
    base = square_grid((12, 12), 2, 6)
    views, columns = [], []
    for number in range(n_frames // together):
        frames = tuple(range(number * together, (number + 1) * together))
        views.append(base.views[0].model_copy(update={"name": f"frame {number}", "level": number, "frames": frames}))
        columns += [(number, *place) for place in zip(base.row, base.col, base.box, strict=True)]
        columns += [(number, -1, -1, None)] if others else []
    view, row, col, box = (list(values) for values in zip(*columns, strict=True))
    grid = TokenGrid(image_size=(12, 12), views=views, view=view, row=row, col=col, box=box)
    images = [image_record(Image.new("RGB", (12, 12), color)) for color in FRAME_COLORS[:n_frames]]
    pruned = run("apet", "blue", [stage(kept, grid.n_tokens, score, assignment)])
    video = VideoRecord(
        name="clip.mp4", sha256="1" * 64, width=12, height=12, duration_s=n_frames / 2, fps=10.0, n_frames=5 * n_frames,
        frames=[FrameRecord(index=5 * i, time_s=i / 2, image=image) for i, image in enumerate(images)],
    )  # fmt: skip
    return comparison(
        Image.new("RGB", (12, 12), FRAME_COLORS[0]), grid, [run("full", "red", n_tokens=grid.n_tokens), pruned],
        evidence=evidence, video=video, evidence_frames=evidence_frames,
    )  # fmt: skip


def tiled(kept_coarse, kept_fine):
    """A 12 x 12 px image looked at twice: one patch of the whole (token 0) and 2 x 2 patches of a crop (1 to 4)."""
    fine = square_grid((12, 12), 2, 6)
    views = [
        GridView(name="whole image", rows=1, cols=1, seen=(0, 0, 12, 12), level=0),
        fine.views[0].model_copy(update={"name": "crop", "level": 1}),
    ]
    grid = TokenGrid(
        image_size=(12, 12), views=views, view=[0, 1, 1, 1, 1], row=[0, *fine.row], col=[0, *fine.col],
        box=[(0, 0, 12, 12), *fine.box],
    )  # fmt: skip
    kept = [*kept_coarse, *kept_fine]
    values = score_map([0.5, 0.0, 1.0, 0.25, 0.75])
    return comparison(
        plain_pixels(12, 12), grid, [run("full", "red", n_tokens=5), run("apet", "blue", [stage(kept, 5, values)])]
    )
