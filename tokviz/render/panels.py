"""What one panel of a figure shows: the picture of a run in a view, and the lines below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import BadInput
from ..records import Comparison, Run, TokenMap
from ..runs.metrics import VerdictKind, fates, verdict, withdrawal
from . import palette
from .marks import grey_out
from .overlay import (
    cluster_overlay,
    kept_basis,
    kept_overlay,
    kept_stage,
    merge_stage,
    plain_picture,
    score_overlay,
    score_stage,
    survival_map,
    survival_overlay,
)
from .palette import Theme
from .raster import Canvas, Pixels

View = Literal["kept", "score", "clusters", "died"]
VIEWS: tuple[View, ...] = ("kept", "score", "clusters", "died")

GLYPHS: dict[VerdictKind, str] = {
    "right": "✓", "recovered": "✓", "wrong": "✗", "flipped": "✗", "same": "=", "changed": "≠",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """Everything about one run that a figure draws; texts are still untrusted here.

    ``drawn`` is the view that the picture shows (None: the plain picture), ``note`` says why not the one asked for.
    ``stage`` is the stage whose kept tokens are drawn. ``scale`` is the map behind the colours when the picture is a
    heat map, ``basis`` whether basis tokens are outlined. ``verdict`` and ``kind`` are empty where there is nothing to
    compare with.
    """

    title: str
    subtitle: str
    pixels: Pixels
    answer: str
    verdict: str
    kind: VerdictKind | None
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
    baseline = comparison.runs[0]
    drawn = _drawn(run, view)
    shown = drawn[0] if drawn else None
    scale = None
    if drawn is not None and shown == "score":
        scale = run.stages[drawn[1]].score
    elif shown == "died":
        scale = survival_map(run, comparison.grid.n_tokens)
    notes = {
        "kept": None,
        "score": "ranks no tokens: kept ones shown",
        "clusters": "merges nothing: kept ones shown",
        "died": "drops in one stage: kept ones shown",
    }
    note = notes[view] if shown == "kept" else None
    kind: VerdictKind | None = None
    label = ""
    expected = comparison.request.expected_answer
    # The unpruned run is what others are compared with: without a known answer there is nothing to say about it.
    if run.error is None and baseline.error is None and not (run is baseline and expected is None):
        judged = verdict(run.answer, baseline.answer, expected)
        kind, label = judged.kind, f"{GLYPHS[judged.kind]} {judged.label}"
    return Panel(
        title=run.label,
        subtitle="reference" if run is baseline else run.family.replace("-", " "),
        pixels=_picture(canvas, run, drawn),
        answer=run.answer,
        verdict=label,
        kind=kind,
        facts=[] if run.error else facts(comparison, run, drawn, canvas.evidence_tokens),
        error=run.error,
        drawn=shown,
        scale=scale,
        note=note,
        stage=drawn[1] if drawn else None,
        basis=drawn is not None and shown == "kept" and bool(kept_basis(run, drawn[1])),
    )


def verdict_color(kind: VerdictKind, theme: Theme) -> str:
    """Ink of a verdict; the glyph says the same without colour."""
    if kind in ("right", "recovered"):
        return theme.good
    if kind in ("wrong", "flipped"):
        return theme.bad
    return theme.changed if kind == "changed" else theme.muted


def evidence_words(evidence: Sequence[int], run: Run, stage: int, n_tokens: int) -> str:
    """What became of the evidence tokens up to a stage, in a line."""
    became = fates(evidence, run.stages[: stage + 1], n_tokens)
    words = f"evidence: {len(became.kept)} of {len(evidence)} patches kept"
    if not became.absorbed:
        return words
    return f"{words}, {len(became.absorbed)} merged into kept ones, {len(became.lost)} lost"


def facts(comparison: Comparison, run: Run, drawn: tuple[View, int] | None, evidence: Sequence[int]) -> list[str]:
    """The small lines: tokens after the last stage, average per block (A_in), evidence, mode, which stage is drawn."""
    lines = []
    n_tokens = comparison.grid.n_tokens
    if run.actual is not None:
        final, average = run.actual.final, run.actual.average_in
        if not run.stages:
            lines.append(f"all {n_tokens} tokens in every block")
        elif abs(average - final) < 0.05:
            lines.append(f"{final} of {n_tokens} tokens in every block")
        else:
            lines += [f"{final} of {n_tokens} tokens at the end", f"{average:.1f} per block on average"]
    withdrawn = withdrawal(run)
    if withdrawn is not None:
        lines.append(f"{withdrawn.n_in} until all are withdrawn {withdrawn.site_label}")
    stage = kept_stage(run)
    if stage is not None and evidence:
        lines.append(evidence_words(evidence, run, stage, n_tokens))
    if "mode" in run.params:
        lines.append(f"mode: {run.params['mode']}")
    if drawn is not None and len(run.stages) > 1 and drawn[0] != "died":
        lines.append(f"drawn: stage {drawn[1] + 1} of {len(run.stages)}, {run.stages[drawn[1]].site_label}")
    return lines


def _drawn(run: Run, view: View) -> tuple[View, int] | None:
    """The view and stage that a panel can show: kept patches where there is no score or nothing merges."""
    candidates: dict[View, int | None] = {
        "score": score_stage(run),
        "clusters": merge_stage(run),
        "died": len(run.stages) - 1 if len(run.stages) > 1 else None,
    }
    stage = candidates.get(view)
    if stage is not None:
        return view, stage
    stage = kept_stage(run)
    return None if stage is None else ("kept", stage)


def _picture(canvas: Canvas, run: Run, drawn: tuple[View, int] | None) -> Pixels:
    comparison = canvas.comparison
    if run.error is not None:
        everywhere = np.ones(canvas.raster.owner.shape, dtype=bool)
        return grey_out(canvas.pixels, everywhere, palette.UNSEEN_WHITE, palette.UNSEEN_SHOWS)
    if drawn is None:
        return plain_picture(comparison, canvas=canvas)
    if drawn[0] == "died":
        return survival_overlay(comparison, run, canvas=canvas)
    draw = {"kept": kept_overlay, "score": score_overlay, "clusters": cluster_overlay}[drawn[0]]
    return draw(comparison, run, stage=drawn[1], canvas=canvas)


BUDGET_WORDS = {
    "published": "counted as each method's paper counts",
    "final": "counted after the last stage",
    "average": "counted as the average over the model's blocks",
}


def footer(comparison: Comparison) -> list[str]:
    """The small lines below a figure: model, budget, seed, version, and what the embedded model is not."""
    request, model = comparison.request, comparison.model
    version = comparison.versions.get("tokviz", "")
    lines = [
        f"{model.name} · budget {request.budget} of {comparison.grid.n_tokens} visual tokens, "
        f"{BUDGET_WORDS[request.budget_as]} · seed {request.seed} · tokviz {version}".rstrip()
    ]
    if model.embedded:
        lines.append(
            f"{model.name} is the small embedded model, trained on drawn scenes: "
            "no claim about the published numbers of large models."
        )
    return lines


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
