"""One run drawn on the image: what it kept, its scores, its merge groups. Pure: same comparison, same pixels.

All images are ``(height, width, 3)`` uint8 RGB of the canvas's size. ``stage`` counts like a Python index (-1: after
the last stage). What the model never saw is veiled white and hatched; the evidence is boxed in dashes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray

from ..chance import Overlap
from ..errors import BadInput
from ..records import Run, StageRecord, TokenMap
from ..runs.metrics import carriers
from . import palette
from .raster import (
    Canvas,
    PatchRaster,
    Pixels,
    brightness,
    cased_outline,
    dashed_boxes,
    grey_out,
    hatch,
    outline,
    rings,
    to_bytes,
)

LOG_DECADES = 1000
_GOLDEN_RATIO = 0.6180339887498949


def kept_stage(run: Run) -> int | None:
    """Index of the last stage that dropped tokens and left some; None when nothing was pruned.

    Probes that let everything pass decide nothing, and a withdrawal of all tokens leaves nothing to see. When there
    are only such stages it is the last one.
    """
    telling = [index for index, stage in enumerate(run.stages) if 0 < len(stage.kept) < stage.n_in]
    return telling[-1] if telling else len(run.stages) - 1 if run.stages else None


def kept_basis(stage: StageRecord) -> list[int]:
    """The tokens from which a stage rebuilds the others, and that it kept, ascending."""
    return sorted({*stage.basis} & {*stage.kept})


def score_stage(run: Run) -> int | None:
    """Index of the first stage with a score (it ranks the most tokens); None when no stage has one."""
    with_score = (i for i, stage in enumerate(run.stages) if stage.score is not None and map_limits(stage.score))
    return next(with_score, None)


def merge_stage(run: Run) -> int | None:
    """Index of the last stage that merges, whose groups hold all that was merged before.

    Where no stage merges, the last one whose kept tokens stand for others without a merge; None when no stage does.
    """
    merging = [i for i, stage in enumerate(run.stages) if stage.assignment is not None]
    covering = [i for i, stage in enumerate(run.stages) if stage.covered_by is not None]
    return max(merging or covering, default=None)


def survival_map(run: Run, n_tokens: int) -> TokenMap:
    """How many stages of a run each token survived; as many as there are for those kept to the end."""
    depth = [0.0] * n_tokens
    for stage in run.stages:
        if not all(0 <= token < n_tokens for token in stage.kept):
            raise BadInput("The kept tokens of this session do not fit its grid; the file is damaged.")
        for token in stage.kept:
            depth[token] += 1
    label = f"stages survived, of {len(run.stages)}"
    return TokenMap(name="survival", label=label, direction="high stayed longest", values=[*depth])


def stage_record(run: Run, stage: int = -1) -> StageRecord:
    """A stage of a run. Raises BadInput when the run has no such stage."""
    if not -len(run.stages) <= stage < len(run.stages):
        raise BadInput(f"{run.label} has {len(run.stages)} pruning stage(s); there is no stage {stage}.")
    return run.stages[stage]


def map_limits(values: TokenMap) -> tuple[float, float] | None:
    """The two ends of the colour bar: lowest and highest value; None when no token has a value.

    On a log scale at most three decades are shown, so that a few values next to nothing do not take all contrast from
    the others; values below the low end (zero too) share its colour.
    """
    known = [value for value in values.values if value is not None]
    if values.scale == "log":
        known = [value for value in known if value > 0]
    if not known:
        return None
    low, high = min(known), max(known)
    return (max(low, high / LOG_DECADES), high) if values.scale == "log" else (low, high)


def plain_image(canvas: Canvas) -> Pixels:
    """The image as the unpruned model sees it: all patches, the unseen part veiled."""
    return _framed(canvas.pixels, canvas)


def kept_overlay(canvas: Canvas, run: Run, stage: int = -1) -> Pixels:
    """Kept patches as they are, outlined as regions; dropped ones grey and darker. A run without stages kept all.

    Kept tokens from which approximation-error methods reconstruct the others (``kept_basis``) are outlined in
    gold. With both levels of a tiled image, what only a patch of the whole image shows is veiled by half, and outlined
    in black and white.
    """
    if not run.stages:
        return plain_image(canvas)
    pixels, width, record = canvas.pixels, canvas.raster.line_width, stage_record(run, stage)
    kept, coarse = canvas.areas(record.kept)
    dropped = (canvas.raster.owner >= 0) & ~kept & ~coarse
    pixels = grey_out(pixels, dropped, palette.DROPPED_GREY, palette.DROPPED_SHOWS)
    if canvas.coarse is not None:
        light = pixels.astype(np.float64)
        veiled = to_bytes(palette.COARSE_SHOWS * light + (1 - palette.COARSE_SHOWS) * palette.DROPPED_GREY)
        pixels = np.where((coarse & ~kept)[..., None], veiled, pixels)
        pixels = cased_outline(pixels, coarse, max(width // 2, 1))
    pixels = outline(pixels, kept, palette.KEPT_OUTLINE, width)
    basis = kept_basis(record)
    if basis:
        fine, coarse = canvas.areas(basis)
        pixels = outline(pixels, fine | coarse, palette.BASIS_OUTLINE, width)
    return _framed(pixels, canvas)


def score_overlay(canvas: Canvas, run: Run, stage: int = -1) -> Pixels:
    """Heat map of the score that ranked the tokens, over ``map_limits``; kept regions are outlined.

    Patches without a value are light grey and hatched. Raises BadInput when the stage ranks nothing.
    """
    record = stage_record(run, stage)
    if record.score is None:
        raise BadInput(f"{run.label} ranks no tokens at this stage, so it has no score map.")
    return _framed(_heat(canvas, record.score, record.kept), canvas)


def survival_overlay(canvas: Canvas, run: Run, stage: int = -1) -> Pixels:
    """Heat map of ``survival_map``: the earlier a token left, the darker; those kept to the end are outlined.

    Raises BadInput when the run has no stages.
    """
    kept = stage_record(run, stage).kept
    return _framed(_heat(canvas, survival_map(run, canvas.raster.n_tokens), kept), canvas)


def sides_overlay(canvas: Canvas, found: Overlap) -> Pixels:
    """What two runs keep: tinted where both do, where only A and where only B does (hatched, too); the rest is grey.

    Raises BadInput for what are no tokens of this image.
    """
    pixels, width = canvas.pixels, canvas.raster.line_width
    areas = {}
    for side, tokens in (("both", found.both), ("a", found.only_a), ("b", found.only_b)):
        fine, coarse = canvas.areas(tokens)
        areas[side] = fine | coarse
    somebody = areas["both"] | areas["a"] | areas["b"]
    drawn = grey_out(pixels, (canvas.raster.owner >= 0) & ~somebody, palette.DROPPED_GREY, palette.DROPPED_SHOWS)
    light = palette.SIDES_SHOW * brightness(pixels)[..., None]
    for side, area in areas.items():
        tint = to_bytes(light + (1 - palette.SIDES_SHOW) * np.array(palette.SIDES[side], dtype=np.float64))
        drawn = np.where(area[..., None], tint, drawn)
    drawn = hatch(drawn, areas["b"], palette.CASING[0], 4 * width + 2, width)
    for side in ("a", "b"):
        drawn = outline(drawn, areas[side], palette.CASING[0], width)
    return _framed(outline(drawn, areas["both"], palette.CASING[1], width), canvas)


def heat_overlay(
    canvas: Canvas,
    values: TokenMap,
    limits: tuple[float, float] | None,
    kept: Sequence[int] = (),
    colours: str = palette.HEAT_MAP,
) -> Pixels:
    """Heat map of any map of the canvas's tokens; kept regions are outlined.

    limits: ends of the colours, which several maps may share; None for ``map_limits``. colours: a colormap's name.
    """
    return _framed(_heat(canvas, values, kept, limits, colours), canvas)


def _heat(
    canvas: Canvas,
    values: TokenMap,
    kept: Sequence[int],
    limits: tuple[float, float] | None = None,
    colours: str = palette.HEAT_MAP,
) -> Pixels:
    pixels, raster = canvas.pixels, canvas.raster
    shares = np.append(_map_shares(values, raster.n_tokens, limits), np.nan)
    here = shares[raster.owner]
    if canvas.coarse is not None:  # the higher of both levels
        here = np.fmax(here, shares[canvas.coarse.owner])
    colors = matplotlib.colormaps[colours](np.nan_to_num(here, nan=0.0))[..., :3] * 255
    known = ~np.isnan(here)
    light = palette.HEAT_SHOWS * brightness(pixels)[..., None]
    heat = to_bytes(light + (1 - palette.HEAT_SHOWS) * colors)
    without = (raster.owner >= 0) & ~known
    drawn = grey_out(pixels, without, palette.NEUTRAL, palette.NEUTRAL_SHOWS)
    drawn = hatch(drawn, without, palette.UNSEEN_HATCH, 4 * raster.line_width + 2, raster.line_width)
    drawn = np.where(known[..., None], heat, drawn)
    fine, coarse = canvas.areas(kept)
    return cased_outline(drawn, fine | coarse, raster.line_width)


def cluster_overlay(canvas: Canvas, run: Run, stage: int = -1) -> Pixels:
    """One colour per merge group, lines between groups, a ring on the kept token of each.

    A group holds everything that was merged into its token up to this stage. Kept tokens that absorbed nothing keep
    the image's colours; tokens dropped without a merge are greyed. Where this stage merges nothing, but its kept tokens
    stand for others, the groups are those. Raises BadInput when there are neither.
    """
    record = stage_record(run, stage)
    if record.assignment is None and record.covered_by is None:
        raise BadInput(f"{run.label} merges nothing at this stage; look at what it kept instead.")
    pixels, raster = canvas.pixels, canvas.raster
    carrier = _carriers(run.stages[: stage + 1 or None], raster)
    if record.assignment is None and record.covered_by is not None:
        carrier = _covering(record, raster)
    colors = group_colors(carrier)
    grouped = raster.spread(~np.isnan(colors[:, 0]))
    dropped = raster.spread(carrier < 0)
    shades = np.vstack([np.nan_to_num(colors), np.zeros(3)])[raster.owner]
    tint = to_bytes(palette.CLUSTER_SHOWS * brightness(pixels)[..., None] + (1 - palette.CLUSTER_SHOWS) * shades)
    drawn = grey_out(pixels, dropped, palette.DROPPED_GREY, palette.DROPPED_SHOWS)
    drawn = np.where(grouped[..., None], tint, drawn)
    drawn[_group_borders(carrier, raster)] = palette.CASING[0]
    drawn = rings(drawn, raster, np.flatnonzero(raster.flags(record.kept)), raster.line_width)
    return _framed(drawn, canvas)


def group_colors(carrier: NDArray[np.int64]) -> NDArray[np.float64]:
    """One colour per merge group of two or more tokens, NaN for all other tokens; larger groups choose first.

    Shape: carrier ``(N,)`` -> ``(N, 3)``, 0 to 255. Hues follow the golden ratio (any first few are far apart) and
    lightness takes turns, so that neighbouring groups differ in more than hue.
    """
    tokens, counts = np.unique(carrier[carrier >= 0], return_counts=True)
    colors = np.full((len(carrier), 3), np.nan)
    groups = [(count, token) for token, count in zip(tokens, counts, strict=True) if count > 1]
    color_of = np.full((len(carrier), 3), np.nan)
    for rank, (_, token) in enumerate(sorted(groups, key=lambda group: (-group[0], group[1]))):
        hue, lightness = (0.56 + rank * _GOLDEN_RATIO) % 1.0, (0.55, 0.36, 0.74)[rank % 3]
        color_of[token] = np.array(colorsys.hls_to_rgb(hue, lightness, 0.62)) * 255
    colors[carrier >= 0] = color_of[carrier[carrier >= 0]]
    return colors


def _map_shares(values: TokenMap, n_tokens: int, limits: tuple[float, float] | None = None) -> NDArray[np.float64]:
    """Every value as a share of the colour bar, NaN where there is none. Shape: ``(N,)``, 0 to 1.

    limits: of the bar; None for ``map_limits``.
    """
    if len(values.values) != n_tokens:
        raise BadInput("A map of this session has another length than its grid; the file is damaged.")
    limits = map_limits(values) if limits is None else limits
    numbers = np.array([np.nan if value is None else value for value in values.values])
    if limits is None:
        return np.full(n_tokens, np.nan)
    low, high = limits
    if values.scale == "log":
        numbers, low, high = np.log(np.maximum(numbers, low)), float(np.log(low)), float(np.log(high))
    if high == low:
        return np.where(np.isnan(numbers), np.nan, 0.5)
    return (numbers - low) / (high - low)


def _carriers(stages: Sequence[StageRecord], raster: PatchRaster) -> NDArray[np.int64]:
    """Who carries each token after the last of these stages, through all merges; -1 for what was dropped."""
    n_tokens = raster.n_tokens
    for stage in stages:
        raster.flags(stage.kept)  # refuses what is no token
        carrier = stage.assignment
        if carrier is not None and (len(carrier) != n_tokens or not all(-1 <= token < n_tokens for token in carrier)):
            raise BadInput("The merge groups of this session do not fit its grid; the file is damaged.")
    return np.array(carriers(stages, n_tokens), dtype=np.int64)


def _covering(stage: StageRecord, raster: PatchRaster) -> NDArray[np.int64]:
    """The kept token that stands for each token at this stage; -1 where there is none."""
    raster.flags(stage.kept)  # refuses what is no token
    covered = stage.covered_by or []
    if len(covered) != raster.n_tokens or not all(-1 <= token < raster.n_tokens for token in covered):
        raise BadInput("The regions of this session do not fit its grid; the file is damaged.")
    return np.array(covered, dtype=np.int64)


def _group_borders(carrier: NDArray[np.int64], raster: PatchRaster) -> NDArray[np.bool_]:
    """The first pixel right of or below every border between two groups, where at least one side was merged."""
    group = np.append(carrier, -1)[raster.owner]
    border = np.zeros(group.shape, dtype=bool)
    border[:, 1:] |= group[:, 1:] != group[:, :-1]
    border[1:, :] |= group[1:, :] != group[:-1, :]
    return border & (raster.owner >= 0)


def _framed(pixels: Pixels, canvas: Canvas) -> Pixels:
    """Veil what the model did not see, box the evidence."""
    raster = canvas.raster
    width = raster.line_width
    unseen = raster.owner < 0
    if unseen.any():
        pixels = grey_out(pixels, unseen, palette.UNSEEN_WHITE, palette.UNSEEN_SHOWS)
        pixels = hatch(pixels, unseen, palette.UNSEEN_HATCH, 5 * width + 4, width)
    return dashed_boxes(pixels, map(raster.pixel_box, canvas.evidence), width)
