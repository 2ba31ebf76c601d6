"""What one panel of a figure shows: the image of a run in a view, and the lines below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..comparison import Comparison
from ..errors import BadInput
from ..records import Run, TokenMap
from ..runs.metrics import Verdict, distance_map, fates, judge, withdrawal
from . import palette
from .overlays import (
    cluster_overlay,
    distance_overlay,
    kept_basis,
    kept_overlay,
    kept_stage,
    merge_stage,
    plain_image,
    score_overlay,
    score_stage,
    survival_map,
    survival_overlay,
)
from .palette import Theme
from .raster import Canvas, Pixels, grey_out
from .sheet import LegendItem

View = Literal["kept", "score", "clusters", "dropped", "distance"]
VIEWS: tuple[View, ...] = ("kept", "score", "clusters", "dropped", "distance")
_OVERLAYS = {
    "kept": kept_overlay,
    "score": score_overlay,
    "clusters": cluster_overlay,
    "dropped": survival_overlay,
    "distance": distance_overlay,
}
_INSTEAD: dict[View, str | None] = {
    "kept": None,
    "score": "ranks no tokens: kept ones shown",
    "clusters": "merges nothing: kept ones shown",
    "dropped": "drops in one stage: kept ones shown",
    "distance": "leaves no token to measure from: kept ones shown",
}
"""Why kept patches are shown where another view was asked for."""


@dataclass(frozen=True)
class Panel:
    """Everything about one run that a figure draws; texts are still untrusted here.

    ``drawn`` is the view that the image shows (None: the plain image), ``note`` says why not the one asked for.
    ``stage`` is the stage whose kept tokens are drawn. ``scale`` is the map behind the colours when the image is a
    heat map, ``basis`` whether basis tokens are outlined. ``judged`` is None where there is nothing to compare with.
    """

    title: str
    subtitle: str
    pixels: Pixels
    answer: str
    judged: Verdict | None
    facts: list[str]
    error: str | None
    drawn: View | None
    scale: TokenMap | None = None
    note: str | None = None
    stage: int | None = None
    basis: bool = False


def make_panel(canvas: Canvas, run: Run, view: View) -> Panel:
    """The panel of one run of the canvas's comparison."""
    comparison = canvas.comparison
    unpruned = comparison.runs[0]
    drawn = _drawn(run, view)
    shown = drawn[0] if drawn else None
    scale = None
    if drawn is not None and shown == "score":
        scale = run.stages[drawn[1]].score
    elif shown == "dropped":
        scale = survival_map(run, comparison.grid.n_tokens)
    elif drawn is not None and shown == "distance":
        scale = distance_map(comparison.grid, run.stages[drawn[1]].kept)
    return Panel(
        title=run.label,
        subtitle="reference" if run is unpruned else run.family.replace("-", " "),
        pixels=_image(canvas, run, drawn),
        answer=run.answer,
        judged=judge(comparison, run),
        facts=[] if run.error else facts(comparison, run, drawn, canvas.evidence_tokens),
        error=run.error,
        drawn=shown,
        scale=scale,
        note=_INSTEAD[view] if shown == "kept" else None,
        stage=drawn[1] if drawn else None,
        basis=drawn is not None and shown == "kept" and bool(kept_basis(run.stages[drawn[1]])),
    )


def legend_items(canvas: Canvas, panels: list[Panel], theme: Theme) -> list[LegendItem]:
    """Swatches with their words; only what can be seen in this figure."""
    drawn = {panel.drawn for panel in panels}
    color = palette.hex_color
    blue, gold, red = color(palette.KEPT_OUTLINE), color(palette.BASIS_OUTLINE), color(palette.EVIDENCE[0])
    dark, dropped = color(palette.CASING[0]), color((palette.DROPPED_GREY + 18,) * 3)

    def box(face: str, edge: str, **more: Any) -> dict[str, Any]:
        return {"facecolor": face, "edgecolor": edge, **more}

    def frame(edge: str, face: str = "none", **more: Any) -> dict[str, Any]:
        return box(face, edge, linewidth=1.2, **more)

    coarse = canvas.coarse is not None and "kept" in drawn
    unseen = bool((canvas.raster.owner < 0).any())
    items = [
        ("kept" in drawn, frame(blue, "#ffffff"), "kept (outlined)"),
        ("kept" in drawn, box(dropped, dropped), "dropped"),
        (any(panel.basis for panel in panels), frame(gold, "#ffffff"), "basis token"),
        (coarse, frame(theme.ink, "#a9abae"), "kept only coarsely, from the whole image"),
        (bool(drawn & {"score", "distance"}), frame(theme.ink), "kept (on heat maps)"),
        ("dropped" in drawn, frame(theme.ink), "kept to the end (on heat maps)"),
        ("clusters" in drawn, box("#7aa7c4", dark), "group; a ring marks the kept token that carries or covers it"),
        (bool(canvas.comparison.request.evidence), frame(red, dashed=True), "evidence for the answer"),
        (unseen, box("#eeeeee", "#969696", linewidth=0.6, hatch="//////"), "not seen by the model"),
    ]
    return [(swatch, words) for seen, swatch, words in items if seen]


def evidence_words(evidence: Sequence[int], run: Run, stage: int, n_tokens: int) -> str:
    """What became of the evidence tokens up to a stage, in a line."""
    became = fates(evidence, run.stages[: stage + 1], n_tokens)
    words = f"evidence: {len(became.kept)} of {len(evidence)} patches kept"
    if not became.absorbed:
        return words
    return f"{words}, {len(became.absorbed)} merged into kept ones, {len(became.lost)} lost"


def facts(comparison: Comparison, run: Run, drawn: tuple[View, int] | None, evidence: Sequence[int]) -> list[str]:
    """The small lines: tokens after the last stage, average per layer (A_in), evidence, mode, which stage is drawn."""
    lines = []
    n_tokens = comparison.grid.n_tokens
    if run.actual is not None:
        final, average = run.actual.final, run.actual.average_in
        if not run.stages:
            lines.append(f"all {n_tokens} tokens in every layer")
        elif abs(average - final) < 0.05:
            lines.append(f"{final} of {n_tokens} tokens in every layer")
        else:
            lines += [f"{final} of {n_tokens} tokens at the end", f"{average:.1f} per layer on average"]
    withdrawn = withdrawal(run)
    if withdrawn is not None:
        lines.append(f"{withdrawn.n_in} until all are withdrawn {withdrawn.site_label}")
    stage = kept_stage(run)
    if stage is not None and evidence:
        lines.append(evidence_words(evidence, run, stage, n_tokens))
    if "mode" in run.params:
        lines.append(f"mode: {run.params['mode']}")
    if drawn is not None and len(run.stages) > 1 and drawn[0] != "dropped":
        lines.append(f"drawn: stage {drawn[1] + 1} of {len(run.stages)}, {run.stages[drawn[1]].site_label}")
    return lines


def _drawn(run: Run, view: View) -> tuple[View, int] | None:
    """The view and stage that a panel can show: kept patches where there is no score or nothing merges."""
    candidates: dict[View, int | None] = {
        "score": score_stage(run),
        "clusters": merge_stage(run),
        "dropped": len(run.stages) - 1 if len(run.stages) > 1 else None,
        "distance": _distance_stage(run),
    }
    stage = candidates.get(view)
    if stage is not None:
        return view, stage
    stage = kept_stage(run)
    return None if stage is None else ("kept", stage)


def _distance_stage(run: Run) -> int | None:
    stage = kept_stage(run)
    return stage if stage is not None and run.stages[stage].kept else None


def _image(canvas: Canvas, run: Run, drawn: tuple[View, int] | None) -> Pixels:
    if run.error is not None:
        everywhere = np.ones(canvas.raster.owner.shape, dtype=bool)
        return grey_out(canvas.pixels, everywhere, palette.UNSEEN_WHITE, palette.UNSEEN_SHOWS)
    if drawn is None:
        return plain_image(canvas)
    view, stage = drawn
    return _OVERLAYS[view](canvas, run, stage)


BUDGET_WORDS = {
    "published": "counted as each method's paper counts",
    "final": "counted after the last stage",
    "average": "counted as the average over the model's layers",
}


def footer(comparison: Comparison) -> list[str]:
    """The small lines below a figure: model, budget, seed, version, and what the embedded model is not."""
    request, model = comparison.request, comparison.model
    lines = [
        f"{model.name} · budget {request.budget} of {comparison.grid.n_tokens} visual tokens, "
        f"{BUDGET_WORDS[request.budget_as]} · seed {request.seed} · {version_words(comparison)}"
    ]
    if model.embedded:
        lines.append(
            f"{model.name} is the small embedded model, trained on drawn scenes: "
            "no claim about the published numbers of large models."
        )
    return lines


def version_words(comparison: Comparison) -> str:
    """The version of tokviz that measured."""
    return f"tokviz {comparison.versions.get('tokviz', '')}".rstrip()


def chosen_runs(comparison: Comparison, names: Sequence[str] | None) -> list[Run]:
    """The unpruned run, then those of these keys or method ids, in that order (None: all). Raises BadInput."""
    if names is None:
        return list(comparison.runs)
    chosen = [comparison.runs[0]]
    for name in names:
        try:
            run = comparison[name]
        except KeyError as error:
            there = ", ".join(run.key for run in comparison)
            raise BadInput(f"This comparison has no run of {name!r}; it has {there}.") from error
        if not any(run is other for other in chosen):
            chosen.append(run)
    return chosen
