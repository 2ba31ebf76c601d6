"""Synthetic comparisons for the page's tests: the selections are invented, the shapes and rules are the real ones."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tokviz.comparison import Comparison
from tokviz.models.llava import centre_crop_grid
from tokviz.records import (
    BudgetMeanings,
    Cost,
    ImageRecord,
    ModelRecord,
    Request,
    RequestedMethod,
    Run,
    StageRecord,
    Timing,
    TokenGrid,
    TokenMap,
)

HOSTILE = (
    '<img src=x onerror="window.HACKED=1"> ${window.HACKED=2} '
    "{{constructor.constructor('window.HACKED=3')()}} </script><script>window.HACKED=4</script>"
)


def make_image(width: int, height: int) -> Image.Image:
    """A busy background with a few drawn things."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(3).normal(0, 6, (height, width))
    grey = 150 + 25 * np.sin(x / 90) + 20 * np.cos(y / 70) + noise
    image = Image.fromarray(np.stack([grey, grey + 6, grey - 8], -1).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    s = min(width, height) / 100
    cx, cy = width / 2, height / 2
    draw.rectangle([cx - 42 * s, cy + 8 * s, cx - 30 * s, cy + 20 * s], fill=(43, 80, 235))
    draw.ellipse([cx + 28 * s, cy - 38 * s, cx + 36 * s, cy - 30 * s], fill=(50, 168, 75))
    draw.polygon([(cx + 14 * s, cy - 6 * s), (cx + 18 * s, cy + 2 * s), (cx + 10 * s, cy + 2 * s)], fill=(50, 200, 220))
    draw.rectangle([cx + 20 * s, cy + 28 * s, cx + 42 * s, cy + 38 * s], fill=(40, 40, 40))
    draw.text((cx + 24 * s, cy + 29 * s), "wifi", fill=(250, 250, 250), font_size=7 * s)
    draw.rectangle([cx - 38 * s, cy - 34 * s, cx - 24 * s, cy - 28 * s], fill=(225, 225, 215))
    return image


def image_record(image: Image.Image) -> ImageRecord:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    return ImageRecord(
        width=image.width, height=image.height, sha256=hashlib.sha256(data).hexdigest(), mime="image/png",
        base64=base64.b64encode(data).decode(), name="synthetic.png",
    )  # fmt: skip


def map_record(label: str, values: Any, unit: str = "", scale: Any = "linear", alive: Any = None) -> TokenMap:
    shown = [float(v) if alive is None or i in alive else None for i, v in enumerate(values)]
    return TokenMap(name=label, label=label, unit=unit, direction="high is kept first", scale=scale, values=shown)


def stage(site: Any, kept: Any, n_in: int, **more: Any) -> StageRecord:
    labels = {"encoder": "encoder output, before the projector", "projector": "after the projector"}
    return StageRecord(**{
        "title": "", "site": site, "site_label": labels.get(site, f"before layer {site}"), "positions": "reindex",
        "planned_keep": len(kept), "n_in": n_in, "kept": sorted(int(k) for k in kept), "score": None, "order": None,
        "assignment": None, "maps": [], "facts": {}, "selection_ms": 0.41, **more,
    })  # fmt: skip


def run(method: str, label: str, family: Any, answer: str, final: int, average: float, ms: float, **more: Any) -> Run:
    meanings = BudgetMeanings(final=final, average_in=average, average_logged=average)
    timings = {
        "prefill": Timing(median_ms=ms, samples=5, single_shot=False),
        "decode_per_token": Timing(median_ms=3.1, samples=5, single_shot=False),
        "selection": Timing(median_ms=0.41, samples=1, single_shot=True),
    }
    cost = Cost(
        prefill_flops=2.1e7 * (average + 30), decode_flops=1e6, vision_flops=3e9,
        kv_cache_bytes=int(2048 * (average + 30)), peak_memory_bytes=None,
    )  # fmt: skip
    return Run(**{
        "method": method, "label": label, "family": family, "params": {}, "planned": meanings, "actual": meanings,
        "tokens_per_layer": [], "stages": [], "answer": answer, "timings": timings, "cost": cost, **more,
    })  # fmt: skip


def nearest(grid: TokenGrid, kept: list[int]) -> list[int]:
    centres = np.array([(r, c) for r, c in zip(grid.row, grid.col, strict=True)], float)
    distance = np.linalg.norm(centres[:, None] - centres[None, kept], axis=-1)
    assignment = [kept[i] for i in distance.argmin(1)]
    for token in kept:
        assignment[token] = token
    return assignment


@functools.lru_cache(maxsize=64)
def comparison(
    width: int = 480, height: int = 480, *, side: int = 336, budget: int = 64, answer: str | None = None,
    expected: str | None = "cyan", question: str = "what color is the triangle ?", failed: bool = False,
) -> Comparison:  # fmt: skip
    """Four lanes (one merging, one with two stages and an error lane on request) on a width × height image."""
    image = make_image(width, height)
    grid = centre_crop_grid((width, height), side, side, 14)
    n = grid.n_tokens
    rng = np.random.default_rng(7)
    centres = np.array([((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in grid.box if b])
    pixels = np.asarray(image.convert("L"), float)
    saliency = np.array([pixels[int(b[1]) : int(b[3]) + 1, int(b[0]) : int(b[2]) + 1].std() for b in grid.box if b])
    attention = saliency + rng.random(n)
    error = 0.5 * attention / attention.max() + 0.5 * rng.random(n)
    top = list(np.argsort(-attention)[:budget])
    basis = list(map(int, np.linspace(0, n - 1, 10).astype(int)))
    by_error = [int(t) for t in np.argsort(-error) if t not in basis][: budget - 10] + basis
    order = [basis.index(t) if t in basis else -1 for t in range(n)]
    spread = list(map(int, np.linspace(3, n - 4, budget).astype(int)))
    distance = np.linalg.norm(centres[:, None] - centres[None, spread], axis=-1).min(1)
    late = sorted(int(t) for t in rng.choice(n, 4 * budget, replace=False))
    later = late[::4]
    by_attention = map_record("[CLS] attention", attention / attention.sum(), "share", "log")
    merged = stage(
        "projector", by_error, n, score=map_record("approximation error", error), order=order, order_is_basis=True,
        assignment=nearest(grid, sorted(by_error)), maps=[map_record("distance to the basis", distance, "px")],
    )  # fmt: skip
    picked = [late.index(t) if t in late else -1 for t in range(n)]
    two_stages = [
        stage("projector", late, n, score=map_record("picked early", -np.arange(n) % 97), order=picked),
        stage(5, later, len(late), score=map_record("text attention", rng.random(n), "share", "log", set(late))),
    ]
    wrong = "blue" if answer is None else answer
    runs = [
        run("full", "No pruning", "control", "cyan", n, n, 52.3),
        run("fastervlm", "FasterVLM", "attention-ranked", wrong, budget, budget, 29.2,
            stages=[stage("encoder", top, n, score=by_attention)]),
        run("apet", "ApET", "approximation-error", "cyan", budget, budget, 31.0, stages=[merged]),
        run("todre", "ToDRE", "diversity", "Cyan.", len(later), 140.25, 30.4, stages=two_stages,
            warnings=["The last stage is decided at run time."]),
    ]  # fmt: skip
    if failed:
        runs.append(
            Run(method="fastv", label="FastV", family="attention-ranked", params={},
                error="FastV's layer K = 40 is beyond this model's 8 layers; choose at most 7.")
        )  # fmt: skip
    s, cx, cy = min(width, height) / 100, width / 2, height / 2
    return Comparison(
        request=Request(
            question=question, methods=[RequestedMethod(method=r.method) for r in runs], budget=budget,
            budget_as="published", seed=0, max_new_tokens=32, repeats=5, expected_answer=expected,
            evidence=[(cx + 9 * s, cy - 7 * s, cx + 19 * s, cy + 3 * s)],
        ),
        model=ModelRecord(
            name="tokviz-tiny", family="llava", n_layers=8, hidden_size=192, dtype="float32", device="cpu",
            attention="sdpa", embedded=True,
        ),
        image=image_record(image), grid=grid, runs=runs, versions={}, timings={}, warnings=[],
    )  # fmt: skip


def write_examples(folder: Any) -> None:
    """A folder of example cases as ``tokviz.runs.examples`` reads it."""
    import json

    cases = {
        "a-small-triangle": (comparison(), "The triangle that attention overlooks", "cyan"),
        "b-panorama": (comparison(760, 420, failed=True), "A panorama: what the crop cuts away", "cyan"),
        "c-hostile": (comparison(360, 560, answer=HOSTILE, question=HOSTILE), HOSTILE, "cyan"),
        "d-two-lines": (comparison(answer="a rather long sentence about a blue square and a triangle that is cyan",
                                   expected=None), "No expected answer", "cyan"),
    }  # fmt: skip
    for name, (case, title, answer) in cases.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "session.json").write_text(case.to_json())
        why = (
            "The triangle is four patches large and its colour is near that of the background, so [CLS] attention "
            "spends the budget on larger, brighter things."
        )
        facts = {"title": title, "question": case.request.question, "answer": answer, "why": why}
        (folder / name / "case.json").write_text(json.dumps({**facts, "source": "drawn", "licence": "Apache-2.0"}))
