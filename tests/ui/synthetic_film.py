"""Synthetic video comparisons: a ball rolls through, a lamp is lit in one frame only. The selections are invented.

One view per frame, or one per two frames (merged patches in time, as Qwen's); every frame may end with a token that is
no patch.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from synthetic import HOSTILE, image_record, make_image, map_record, run, stage

from tokviz.comparison import Comparison
from tokviz.names import Box
from tokviz.records import (
    Chart,
    FrameRecord,
    GridView,
    ModelRecord,
    Request,
    RequestedMethod,
    Run,
    StageRecord,
    TokenGrid,
    VideoRecord,
)

LAMP: Box = (280.0, 40.0, 330.0, 90.0)


def film_frames(n_frames: int, lit: int, size: tuple[int, int] = (384, 240)) -> list[Image.Image]:
    """The frames: a ball from left to right, a lamp that is lit (yellow) in frame ``lit`` and dark else."""
    frames = []
    for number in range(n_frames):
        image = make_image(*size)
        draw = ImageDraw.Draw(image)
        x = 20 + number * (size[0] - 70) / max(n_frames - 1, 1)
        draw.ellipse([x, 150, x + 44, 194], fill=(214, 69, 65))
        draw.ellipse(LAMP, fill=(250, 222, 60) if number == lit else (60, 60, 66))
        frames.append(image)
    return frames


def film_grid(
    size: tuple[int, int], n_frames: int, rows: int, cols: int, together: int = 1, extra: int = 0
) -> TokenGrid:
    """``rows x cols`` patches for every ``together`` frames, each view followed by ``extra`` tokens."""
    width, height = size
    views, view, row, col, box = [], [], [], [], []
    for number in range(n_frames // together):
        frames = tuple(range(number * together, (number + 1) * together))
        name = f"frame {frames[0] + 1}" if together == 1 else f"frames {frames[0] + 1} and {frames[-1] + 1}"
        views.append(GridView(name=name, rows=rows, cols=cols, seen=(0, 0, width, height), level=number, frames=frames))
        for r in range(rows):
            for c in range(cols):
                view.append(number)
                row.append(r)
                col.append(c)
                box.append((c * width / cols, r * height / rows, (c + 1) * width / cols, (r + 1) * height / rows))
        for _ in range(extra):
            view.append(number)
            row.append(-1)
            col.append(-1)
            box.append(None)
    return TokenGrid(image_size=size, views=views, view=view, row=row, col=col, box=box)


def _runs(grid: TokenGrid, frames: list[Image.Image], lit: int, budget: int, answer: str) -> list[Run]:
    n = grid.n_tokens
    rng = np.random.default_rng(4)
    patches = [token for token in range(n) if grid.row[token] >= 0]
    grey = [np.asarray(frame.convert("L"), float) for frame in frames]

    def spread(token: int) -> float:
        place = grid.box[token]
        if place is None:
            return 0.0
        x0, y0, x1, y1 = (int(edge) for edge in place)
        return float(grey[grid.views[grid.view[token]].frames[0]][y0:y1, x0:x1].std())

    saliency = np.array([spread(token) for token in range(n)])
    early = saliency * np.array([3.0 if grid.view[t] < 2 else 0.6 for t in range(n)]) + rng.random(n)
    by_attention = sorted(int(t) for t in np.argsort(-early)[:budget])
    change = np.zeros(n)
    per_view = n // len(grid.views)
    for token in patches:
        change[token] = abs(saliency[token] - saliency[token - per_view]) if token >= per_view else saliency[token]
    error = change + 0.2 * saliency + rng.random(n)
    basis = [int(t) for t in np.linspace(0, len(patches) - 1, 10).astype(int)]
    basis = [patches[t] for t in basis]
    by_error = sorted({*[int(t) for t in np.argsort(-error) if int(t) not in basis][: budget - 10], *basis})
    order = [basis.index(t) if t in basis else -1 for t in range(n)]
    kept = np.array(by_error)
    places = np.array([[grid.row[t], grid.col[t], 0.3 * grid.view[t]] for t in range(n)], float)
    distance = np.linalg.norm(places[:, None] - places[None, kept], axis=-1)
    assignment = [int(kept[i]) for i in distance.argmin(1)]
    for token in by_error:
        assignment[token] = token
    late = sorted(int(t) for t in rng.choice(n, min(4 * budget, n), replace=False))
    later = late[:: max(len(late) // budget, 1)][:budget]
    attention = map_record("[CLS] attention", early / early.sum(), "share", "log")
    by_text = map_record("text attention", rng.random(n), "share", "log", set(late))
    brightest = [int(token) for token in np.argsort(-early)[:40]]
    ranked = Chart(
        name="ranked", label="attention of the first tokens", kind="line", y=[float(early[t]) for t in brightest],
        x_label="rank", y_label="attention", tokens=brightest,
    )  # fmt: skip
    stages: dict[str, list[StageRecord]] = {
        "fastervlm": [stage("encoder", by_attention, n, score=attention, charts=[ranked])],
        "apet": [stage("projector", by_error, n, score=map_record("approximation error", error), order=order,
                       assignment=assignment)],
        "todre": [stage("projector", late, n, score=map_record("picked early", -np.arange(n) % 97)),
                  stage(5, later, len(late), score=by_text)],
    }  # fmt: skip
    return [
        run("full", "No pruning", "control", "yellow", n, n, 152.3),
        run("fastervlm", "FasterVLM", "attention-ranked", answer, budget, budget, 79.2, stages=stages["fastervlm"]),
        run("apet", "ApET", "approximation-error", "yellow", budget, budget, 81.0, stages=stages["apet"]),
        run("todre", "ToDRE", "diversity", "Yellow.", len(later), 2.2 * len(later), 80.4, stages=stages["todre"]),
    ]


def film_comparison(
    n_frames: int = 8, *, lit: int = 5, rows: int = 10, cols: int = 16, together: int = 1, extra: int = 0,
    budget: int = 96, copies: int = 0, answer: str = "grey", name: str = "lamp.mp4",
    question: str = "what colour is the lamp when it is lit ?",
) -> Comparison:  # fmt: skip
    """Four lanes (one merging over frames, one with two stages) and ``copies`` further ones on a made-up clip."""
    frames = film_frames(n_frames, lit)
    grid = film_grid(frames[0].size, n_frames, rows, cols, together, extra)
    runs = _runs(grid, frames, lit, budget, answer)
    runs += [runs[1].model_copy(update={"method": f"copy{i}", "label": f"Copy {i + 1}"}) for i in range(copies)]
    records = [image_record(frame) for frame in frames]
    video = VideoRecord(
        name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), width=frames[0].width, height=frames[0].height,
        duration_s=n_frames * 0.5, fps=24.0, n_frames=n_frames * 12,
        frames=[FrameRecord(index=12 * i, time_s=0.5 * i, image=record) for i, record in enumerate(records)],
    )  # fmt: skip
    request: dict[str, Any] = {
        "question": question, "methods": [RequestedMethod(method=r.method) for r in runs], "budget": budget,
        "budget_as": "published", "seed": 0, "max_new_tokens": 32, "repeats": 5, "expected_answer": "yellow",
        "evidence": [LAMP], "evidence_frames": [lit],
    }  # fmt: skip
    return Comparison(
        request=Request(**request),
        model=ModelRecord(
            name="tokviz-tiny-video", family="llava_next_video", n_layers=8, hidden_size=192, dtype="float32",
            device="cpu", attention="sdpa", embedded=True,
        ),
        image=records[0], video=video, grid=grid, runs=runs, versions={}, timings={}, warnings=[],
    )  # fmt: skip


def hostile_film() -> Comparison:
    """File name, question and answer try to be markup."""
    return film_comparison(4, lit=2, answer=HOSTILE, name=HOSTILE, question=HOSTILE, rows=4, cols=6, budget=24)
