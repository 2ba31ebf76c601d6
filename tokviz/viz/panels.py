"""What one panel of a figure shows: the image of a run in a view, and the lines below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..chance import Overlap, against_random
from ..comparison import Comparison
from ..errors import BadInput
from ..records import Run, StageRecord, TokenMap
from ..runs.metrics import Verdict, distance_map, fates, judge, withdrawal
from . import palette
from .overlays import (
    cluster_overlay,
    heat_overlay,
    kept_basis,
    kept_overlay,
    kept_stage,
    merge_stage,
    plain_image,
    score_stage,
    sides_overlay,
    stage_record,
    survival_map,
)
from .palette import Theme
from .raster import Canvas, Pixels, grey_out
from .sheet import VERDICT, LegendItem, Paragraph, wrap

View = Literal["kept", "score", "order", "clusters", "dropped", "distance", "ab", "random"]
VIEWS: tuple[View, ...] = ("kept", "score", "order", "clusters", "dropped", "distance", "ab", "random")
_INSTEAD: dict[View, str | None] = {
    "kept": None,
    "score": "ranks no tokens: kept ones shown",
    "order": "picks in no order: kept ones shown",
    "clusters": "merges nothing: kept ones shown",
    "dropped": "drops in one stage: kept ones shown",
    "distance": "leaves no token to measure from: kept ones shown",
    "ab": None,
    "random": "drops nothing, or everything: kept ones shown",
}
"""Why kept patches are shown where another view was asked for."""
NOT_RUN, SILENT = "✗ not run", "(no answer)"
_MOST_DEVIATIONS = 4.0
"""Where the colours of the difference to random end, as on the page."""


@dataclass(frozen=True)
class Choice:
    """What of the runs is drawn, where it is not what tells most.

    stages: by key of the run, which of its stages. maps: which map of it, by label or name; the first is the score.
    against: lane A of the view ``ab``; the first pruned run where there is none. radius: of the view ``random``.
    """

    stages: Mapping[str, int] = field(default_factory=dict)
    maps: Mapping[str, str] = field(default_factory=dict)
    against: str | None = None
    radius: int = 2


NO_CHOICE = Choice()


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

    @property
    def look(self) -> tuple[tuple[float, float] | None, str]:
        """The ends of the colours, None for those of the map, and their colormap."""
        if self.drawn == "random":
            return (-_MOST_DEVIATIONS, _MOST_DEVIATIONS), palette.DIVERGING
        return None, palette.HEAT_MAP


def make_panel(canvas: Canvas, run: Run, view: View, choice: Choice = NO_CHOICE) -> Panel:
    """The panel of one run of the canvas's comparison. Raises BadInput for a stage or a map that is not there."""
    comparison = canvas.comparison
    unpruned = comparison.runs[0]
    sides = _sides(comparison, run, choice) if view == "ab" else None
    drawn = _drawn(run, view, choice.stages.get(run.key), choice.maps.get(run.key))
    if sides is not None:
        drawn = ("ab", -1)
    shown = drawn[0] if drawn else None
    scale = _scale(comparison, run, drawn, choice)
    lines = [] if run.error else facts(comparison, run, drawn, canvas.evidence_tokens)
    note = _INSTEAD[view] if shown == "kept" else None
    if view == "ab" and run is _lane_a(comparison, choice):
        note = "A: what the others are compared with"
    return Panel(
        title=run.label,
        subtitle="reference" if run is unpruned else run.family.replace("-", " "),
        pixels=_image(canvas, run, drawn, scale, sides),
        answer=run.answer,
        judged=judge(comparison, run),
        facts=lines if sides is None else [_overlap_words(sides), *lines],
        error=run.error,
        drawn=shown,
        scale=scale,
        note=note,
        stage=drawn[1] if drawn else None,
        basis=drawn is not None and shown == "kept" and bool(kept_basis(run.stages[drawn[1]])),
    )


def verdict_words(panel: Panel, width: float, theme: Theme) -> list[Paragraph]:
    """The verdict of a panel in its colour; nothing where there is none."""
    if panel.judged is None:
        return []
    color = {"good": theme.good, "bad": theme.bad, "different": theme.changed, "same": theme.muted}[panel.judged.tone]
    return [Paragraph(wrap(str(panel.judged), width, VERDICT, bold=True, max_lines=2), VERDICT, color, bold=True)]


def _lane_a(comparison: Comparison, choice: Choice) -> Run:
    """The run that the others are compared with. Raises BadInput where there is none of that name."""
    if choice.against is not None:
        return chosen_runs(comparison, [choice.against])[-1]
    pruned = (run for run in comparison.runs[1:] if run.error is None and run.stages)
    return next(pruned, comparison.runs[0])


def _sides(comparison: Comparison, run: Run, choice: Choice) -> Overlap | None:
    """What lane A and this run keep; None for A itself, for a run that failed, and for the unpruned reference."""
    a = _lane_a(comparison, choice)
    if run is a or run.error is not None or a.error is not None or run is comparison.runs[0]:
        return None
    return comparison.overlap(a.key, run.key)


def _overlap_words(found: Overlap) -> str:
    iou = "–" if found.iou is None else f"{found.iou:.2f}"
    return f"both {len(found.both)}, only A {len(found.only_a)}, only B {len(found.only_b)}, IoU {iou}"


def _scale(comparison: Comparison, run: Run, drawn: tuple[View, int] | None, choice: Choice) -> TokenMap | None:
    """The map behind the colours; None where the image is no heat map."""
    if drawn is None:
        return None
    shown, at = drawn
    stage = run.stages[at] if run.stages else None
    if shown == "score":
        return map_of(comparison, run, at, choice.maps.get(run.key))
    if shown == "order" and stage is not None and stage.order is not None:
        steps = [float(step + 1) if step >= 0 else None for step in stage.order]
        return TokenMap("order", "Step at which it was picked", steps, direction="low was picked first")
    if shown == "dropped":
        return survival_map(run, comparison.grid.n_tokens)
    if shown == "distance" and stage is not None:
        return distance_map(comparison.grid, stage.kept)
    if shown == "random" and stage is not None:
        return against_random(run.key, comparison.grid, stage.kept, radius=choice.radius).difference
    return None


def map_of(comparison: Comparison, run: Run, stage: int, name: str | None) -> TokenMap:
    """A map of a stage by its label or name, the score where none is named. Raises BadInput where there is none."""
    record = run.stages[stage]
    there = [found for found in (record.score, *record.maps) if found is not None]
    if 0 < len(record.kept) < record.n_in:
        there.append(distance_map(comparison.grid, record.kept))
    for found in there:
        if name in (None, found.label, found.name):
            return found
    raise BadInput(f"{run.label} has no map {name!r} at this stage; it has {', '.join(one.label for one in there)}.")


def legend_items(canvas: Canvas, panels: list[Panel], theme: Theme) -> list[LegendItem]:
    """Swatches with their words; only what can be seen in this figure."""
    drawn = {panel.drawn for panel in panels}
    color = palette.hex_color
    blue, gold, red = color(palette.KEPT_OUTLINE), color(palette.BASIS_OUTLINE), color(palette.EVIDENCE[0])
    light = color(palette.CASING[1])
    dark, dropped = color(palette.CASING[0]), color((palette.DROPPED_GREY + 18,) * 3)

    def box(face: str, edge: str, **more: Any) -> dict[str, Any]:
        return {"facecolor": face, "edgecolor": edge, **more}

    def frame(edge: str, face: str = "none", **more: Any) -> dict[str, Any]:
        return box(face, edge, linewidth=1.2, **more)

    coarse = canvas.coarse is not None and "kept" in drawn
    unseen = bool((canvas.raster.owner < 0).any())
    items = [
        ("kept" in drawn, frame(blue, "#ffffff"), "kept (outlined)"),
        (bool(drawn & {"kept", "ab"}), box(dropped, dropped), "dropped"),
        (any(panel.basis for panel in panels), frame(gold, "#ffffff"), "basis token"),
        (coarse, frame(theme.ink, "#a9abae"), "kept only coarsely, from the whole image"),
        (bool(drawn & {"score", "order", "distance", "random"}), frame(theme.ink), "kept (on heat maps)"),
        ("dropped" in drawn, frame(theme.ink), "kept to the end (on heat maps)"),
        ("clusters" in drawn, box("#7aa7c4", dark), "group; a ring marks the kept token that carries or covers it"),
        ("ab" in drawn, box(color(palette.SIDES["both"]), light), "kept by both"),
        ("ab" in drawn, box(color(palette.SIDES["a"]), dark), "only A keeps it"),
        ("ab" in drawn, box(color(palette.SIDES["b"]), dark, hatch="//////", linewidth=0.4), "only B keeps it"),
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
    if drawn is not None and len(run.stages) > 1 and drawn[0] not in ("dropped", "ab"):
        lines.append(f"drawn: stage {drawn[1] + 1} of {len(run.stages)}, {run.stages[drawn[1]].site_label}")
    return lines


def _drawn(run: Run, view: View, stage: int | None = None, map_name: str | None = None) -> tuple[View, int] | None:
    """The view and stage that a panel can show: kept patches where there is no score or nothing merges.

    stage: which is asked for; None: the one that tells most. map_name: a map that stands for the score.
    """
    kept = kept_stage(run)
    if stage is not None and run.stages:
        stage_record(run, stage)
        stage %= len(run.stages)
        kept = stage
    candidates: dict[View, int | None] = {
        "score": score_stage(run) if map_name is None else kept,
        "order": next((i for i, one in enumerate(run.stages) if one.order is not None), None),
        "clusters": merge_stage(run),
        "dropped": len(run.stages) - 1 if len(run.stages) > 1 else None,
        "distance": kept if kept is not None and run.stages[kept].kept else None,
        "random": kept if kept is not None and 0 < len(run.stages[kept].kept) < run.stages[0].n_in else None,
    }
    shows = candidates.get(view)
    if shows is not None and stage is not None and view != "dropped":
        shows = stage if _has(run.stages[stage], view, map_name) else None
    if shows is not None:
        return view, shows
    return None if kept is None else ("kept", kept)


def _has(stage: StageRecord, view: View, map_name: str | None) -> bool:
    """Whether a stage has what a view shows."""
    return {
        "score": stage.score is not None or map_name is not None,
        "order": stage.order is not None,
        "clusters": stage.assignment is not None or stage.covered_by is not None,
    }.get(view, True)


def _image(
    canvas: Canvas, run: Run, drawn: tuple[View, int] | None, scale: TokenMap | None, sides: Overlap | None
) -> Pixels:
    if run.error is not None:
        everywhere = np.ones(canvas.raster.owner.shape, dtype=bool)
        return grey_out(canvas.pixels, everywhere, palette.UNSEEN_WHITE, palette.UNSEEN_SHOWS)
    if sides is not None:
        return sides_overlay(canvas, sides)
    if drawn is None:
        return plain_image(canvas)
    view, stage = drawn
    if view == "kept":
        return kept_overlay(canvas, run, stage)
    if view == "clusters":
        return cluster_overlay(canvas, run, stage)
    if scale is None:
        raise BadInput(f"{run.label} has nothing to show in the view {view!r}.")
    kept = run.stages[stage].kept
    canvas.raster.flags(kept)  # refuses what is no token
    if view == "random":
        return heat_overlay(canvas, scale, (-_MOST_DEVIATIONS, _MOST_DEVIATIONS), kept, palette.DIVERGING)
    return heat_overlay(canvas, scale, None, kept)


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
