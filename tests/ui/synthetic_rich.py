"""A synthetic comparison with everything a stage can leave for the views.

Charts, readings, words, added tokens, an order of its own, 23 places in the vision tower, five stages in the LLM.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
from synthetic import HOSTILE, image_record, make_image, map_record, nearest, run, stage

from tokviz.comparison import Comparison
from tokviz.models.llava import centre_crop_grid
from tokviz.names import VisionLayer
from tokviz.records import (
    Chart,
    ModelRecord,
    Reading,
    Request,
    RequestedMethod,
    Run,
    StageRecord,
    TextScores,
    TokenGrid,
)

WORDS = ["\n", "what", " color", " is", " the", " small", " tri", "angle", " ?", "\n", "ASS", "ISTANT", ":"]


def vision_stages(grid: TokenGrid, n_stages: int = 23, merged: int = 5) -> list[StageRecord]:
    """ToMe-like: every vision layer merges a few patches into their most similar neighbour."""
    rng = np.random.default_rng(5)
    alive, stages = list(range(grid.n_tokens)), []
    for layer in range(n_stages):
        sources = sorted(int(t) for t in rng.choice(alive, merged, replace=False))
        kept = [t for t in alive if t not in sources]
        assignment = [-1] * grid.n_tokens
        for token in kept:
            assignment[token] = token
        carriers = nearest(grid, kept)
        for token in sources:
            assignment[token] = carriers[token]
        similarity = map_record("similarity to its partner", rng.random(grid.n_tokens), "cosine", alive=set(alive))
        site = VisionLayer(layer)
        stages.append(
            stage(site, kept, len(alive), score=similarity, assignment=assignment,
                  site_label=f"inside vision layer {layer}", facts={"pairs_merged": merged})
        )  # fmt: skip
        alive = kept
    return stages


def clustered_stage(grid: TokenGrid) -> StageRecord:
    """A decision graph with centres, bars of group sizes, rater words, one added token and an order of its own."""
    n = grid.n_tokens
    rng = np.random.default_rng(11)
    density, distance = rng.beta(2, 3, n), rng.beta(1.2, 6, n)
    centres = [int(t) for t in np.argsort(-density * distance)[:16]]
    kept = sorted(centres)
    assignment = nearest(grid, kept)
    sizes = [assignment.count(token) for token in centres]
    scores = rng.random(len(WORDS)) / 6
    line = 1 / len(WORDS)
    return stage(
        "projector", kept, n, score=map_record("density times distance", density * distance),
        order=[centres.index(t) if t in centres else -1 for t in range(n)], assignment=assignment,
        maps=[map_record("local density", density), map_record("distance to a denser patch", distance)],
        n_extra=1, extra_name="[CLS]", sequence=[-1, *centres], planned_keep=len(kept) + 1,
        charts=[
            Chart(name="decision", label="Decision graph", kind="scatter", x=list(density), y=list(distance),
                        x_label="local density", y_label="distance to a denser patch", tokens=list(range(n)),
                        marked=centres),
            Chart(name="sizes", label="Patches per group", kind="bars", y=[float(s) for s in sizes],
                        names=[f"group {i + 1}" for i in range(16)], y_label="patches", tokens=centres, line=n / 16),
            Chart(name="gain", label="Log-determinant by step", kind="line",
                        y=[float(v) for v in np.log1p(np.arange(16))], x=[float(i + 1) for i in range(16)],
                        x_label="step", y_label="log det", line=2.0, marked=[15]),
        ],
        text=TextScores(name="raters", label="mean attention of the word on the image",
                              values=[float(v) for v in scores], chosen=[bool(v > line) for v in scores], line=line),
        facts={"added_token": "[CLS]", "neighbours": 5, "dc_percentile": 0.02, "exact": True},
    )  # fmt: skip


def progressive_stages(grid: TokenGrid) -> list[StageRecord]:
    """Five stages inside the LLM, each with a measured number and its threshold."""
    rng = np.random.default_rng(2)
    score, alive, stages = rng.random(grid.n_tokens), list(range(grid.n_tokens)), []
    for step, (layer, share) in enumerate([(2, 0.7), (3, 0.5), (5, 0.3), (6, 0.12), (7, 0.0)]):
        kept = sorted(sorted(alive, key=lambda t: -score[t])[: int(share * grid.n_tokens)])
        value = 0.62 - 0.13 * step
        reading = Reading(name="alpha", label="attention on the image", value=value, line=0.2, unit="share")
        stages.append(
            stage(layer, kept, len(alive), score=map_record("attention", score, "share", alive=set(alive)),
                  readings=[reading], planned_keep=None, facts={"withdraws": not kept})
        )  # fmt: skip
        alive = kept
    return stages


def rich_comparison(*, hostile: bool = False) -> Comparison:
    """Five lanes on a 12 × 12 grid. ``hostile``: every text that a method may leave tries to be code."""
    image = make_image(480, 480)
    grid = centre_crop_grid((480, 480), 336, 336, 28)
    n = grid.n_tokens
    clustered = clustered_stage(grid)
    steps = progressive_stages(grid)
    if hostile:
        clustered = _hostile(clustered)
        # Layers so far out that adding one to a float changes nothing.
        steps = [stage.model_copy(update={"site": 2**62 + 1024 * (i // 4)}) for i, stage in enumerate(steps)]
    layers = [n, n, 100, 72, 72, 43, 17, 0]
    runs = [
        run("full", "No pruning", "control", "cyan", n, n, 12.3),
        run("merges", "Merging in the tower", "merging", "cyan", 29, 29, 9.2, stages=vision_stages(grid)),
        run("clusters", "Density clusters", "text-guided", "blue", 17, 17, 8.8, stages=[clustered]),
        run("steps", "Five steps", "progressive", "cyan", 0, 62, 10.2, stages=steps,
            tokens_per_layer=layers),
        Run(method="tiles", label="Crops", family="attention-ranked", params={},
            error="Crops compares a thumbnail with its crops, and this model looks at one image without crops."),
    ]  # fmt: skip
    return Comparison(
        request=Request(
            question="what color is the small triangle ?",
            methods=[RequestedMethod(method=r.method) for r in runs[1:]], budget=29,
            budget_as="published", seed=0, max_new_tokens=32, repeats=5, expected_answer="cyan",
            evidence=[(283, 206, 331, 254)],
        ),
        model=ModelRecord(
            name="tokviz-tiny", family="llava", n_layers=8, hidden_size=160, dtype="float32", device="cpu",
            attention="sdpa", embedded=True,
        ),
        image=image_record(image), grid=grid, text_tokens=[HOSTILE if hostile else w for w in WORDS], runs=runs,
        versions={}, timings={}, warnings=[],
    )  # fmt: skip


def _hostile(record: StageRecord) -> StageRecord:
    charts = [replace(c, label=HOSTILE, x_label=HOSTILE, y_label=HOSTILE) for c in record.charts]
    charts[1] = replace(charts[1], names=[HOSTILE] * 16)
    assert record.text is not None
    return record.model_copy(update={
        "charts": charts, "text": replace(record.text, label=HOSTILE), "facts": {HOSTILE: HOSTILE},
        "site_label": HOSTILE, "title": HOSTILE,
        "readings": [Reading(name="r", label=HOSTILE, value=1, line=2, unit=HOSTILE)],
    })  # fmt: skip


def write_rich_examples(folder: Any) -> None:
    """Two example cases: the rich one and its hostile twin."""
    for name, hostile in (("a-everything", False), ("b-hostile", True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        case = rich_comparison(hostile=hostile)
        (folder / name / "session.json").write_text(case.to_json())
        facts = {"title": "Everything a stage can leave" if not hostile else "Hostile", "question": name,
                 "answer": "cyan", "why": "", "source": "drawn", "licence": "Apache-2.0"}  # fmt: skip
        (folder / name / "case.json").write_text(json.dumps(facts))
