"""Synthetic signals that fill every field of ``Signals`` with consistent shapes, and every stage of every method.

An image is a ``Layout`` (one raster, or a thumbnail with crops, newlines or not), a content is one of ``KINDS``; rows
that are not finite are so in EVERY signal that has a number per token. ``for_stage`` hands a stage what it declared.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cache

import pytest
import torch

from tokviz.errors import BadInput, Unsupported
from tokviz.names import VisionLayer
from tokviz.pruners import PRUNERS
from tokviz.types import Budget, PlanningInfo, Signals, Stage

HEADS = 3
BASIS = 10  # ApET's M
KINDS = ("gaussian", "constant", "duplicates", "zero rows", "all zero", "nan", "inf", "all nan")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

SQUARE = PlanningInfo(n_visual=144, n_layers=8, n_vision_layers=5, has_text_tower=True)
TILED = PlanningInfo(
    n_visual=5 * 144 + 24, n_layers=8, family="llava_next", n_views=5, has_tiles=True, n_vision_layers=5,
    has_text_tower=True,
)  # fmt: skip
MERGED = PlanningInfo(
    n_visual=150,
    n_layers=8,
    family="qwen2_vl",
    has_cls=False,
    merges_patches=True,
    renumbers=False,
    published_as="qwen",
)
FILMED = PlanningInfo(
    n_visual=4 * 37, n_layers=8, family="video_llava", n_views=4, has_frames=True, published_as="video_llava"
)
POOLED = PlanningInfo(
    n_visual=4 * 36, n_layers=8, family="llava_next_video", n_views=4, has_frames=True, takes_video=True
)
GRIDDED = replace(MERGED, n_visual=4 * 36, n_views=4, has_frames=True, takes_video=True)
INFOS = (SQUARE, TILED, MERGED, FILMED, POOLED, GRIDDED)

SIGNALS_OF = {
    "cls_attention": ("cls_attention",),
    "cls_logits": ("cls_logits",),
    "cls_full_width": ("cls_full_width",),
    "cls_feature": ("cls_feature",),
    "encoder_keys": ("keys",),
    "full_keys": ("full_keys",),
    "received_attention": ("received_attention",),
    "object_attention": ("object_attention",),
    "deep_attention": ("deep_attention",),
    "shallow_attention": ("shallow_attention",),
    "text_features": ("text_features",),
    "question_features": ("question_features", "question_index"),
    "encoder_features": ("encoder_features",),
    "llm_input": ("input_features", "input_text"),
    "clip_relevance": ("clip_relevance",),
    "last_row": ("attention_rows",),
    "text_rows": ("attention_rows",),
    "head_rows": ("head_rows",),
    "rotary_similarity": ("rotary_similarity",),
    "previous_features": ("previous_features",),
    "key_norms": ("key_norms", "text_key_norms"),
    "normed_features": ("normed_features", "normed_text"),
    "sequence_index": ("sequence_index", "text_index"),
    "prompt_features": ("prompt_features", "prompt_index"),
    "evidence": ("evidence",),
    "values": ("values", "text_values", "other_values"),
    "rotary_means": ("rotary_means",),
    "pixels": ("pixels",),
}
"""The fields of ``Signals`` that each kind of need fills."""

ALWAYS = ("features", "candidates", "view", "cell", "sizes")
"""Fields that every stage sees without asking."""

PER_TOKEN = (
    "features", "cls_attention", "cls_logits", "cls_full_width", "received_attention", "object_attention",
    "deep_attention", "encoder_features", "keys", "full_keys", "clip_relevance", "previous_features", "key_norms",
    "normed_features", "shallow_attention", "evidence", "values", "rotary_means", "pixels",
)  # fmt: skip
PER_TOKEN_LAST_AXIS = ("attention_rows", "head_rows", "rotary_similarity")
IN_FLOAT32 = ("attention_rows", "head_rows", "rotary_similarity")


def generator(seed):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False)
class Layout:
    """Which view and cell each row is, and which rows are patches. Shape: view ``(N,)``, cell ``(N, 2)``."""

    name: str
    view: torch.Tensor | None
    cell: torch.Tensor
    candidates: torch.Tensor | None = None

    @property
    def n(self):
        return len(self.cell)


def raster(rows, cols):
    """One image of ``rows * cols`` patches."""
    cell = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).reshape(-1, 2)
    return Layout(f"{rows}x{cols}", None, cell)


def tiles(side, crop_rows, crop_cols, newlines, cut_rows=0, cut_cols=0):
    """A thumbnail of ``side * side``, then the stitched crops in raster order, unpadded by ``cut_*`` on both sides.

    A newline ends every row of the stitched grid when ``newlines``; its view is that of the row's last crop.
    """
    high, wide = side * crop_rows - 2 * cut_rows, side * crop_cols - 2 * cut_cols
    view, cell, patch = [0] * side * side, [(r, c) for r in range(side) for c in range(side)], [True] * side * side
    for r in range(high):
        for c in range(wide):
            view.append(1 + (r + cut_rows) // side * crop_cols + (c + cut_cols) // side)
            cell.append((r, c))
            patch.append(True)
        if newlines:
            view.append(view[-1])
            cell.append((-1, -1))
            patch.append(False)
    return Layout(
        f"tiles {crop_rows}x{crop_cols} of {side}{' newlines' if newlines else ''} cut {cut_rows},{cut_cols}",
        torch.tensor(view),
        torch.tensor(cell),
        torch.tensor(patch) if newlines else None,
    )


def frames(count, rows, cols, cls):
    """Frames of a video, each of ``rows * cols`` patches; with ``cls`` a row before them that is no patch."""
    cells = [(-1, -1)] * cls + [(row, col) for row in range(rows) for col in range(cols)]
    return Layout(
        f"{count} frames of {rows}x{cols}{' with [CLS]' if cls else ''}",
        torch.arange(count).repeat_interleave(len(cells)),
        torch.tensor(cells * count),
        torch.tensor([row >= 0 for row, _ in cells] * count) if cls else None,
    )


RASTERS = tuple(
    raster(r, c)
    for r, c in [(1, 1), (1, 2), (3, 1), (1, 5), (2, 4), (1, 11), (3, 4), (1, 17), (4, 6), (5, 5), (1, 31), (6, 6)]
)
TILES = (
    tiles(2, 1, 1, newlines=False),
    tiles(2, 2, 2, newlines=False),
    tiles(3, 1, 2, newlines=False),
    tiles(3, 1, 2, newlines=False, cut_rows=1),
    tiles(2, 2, 1, newlines=True),
    tiles(3, 2, 2, newlines=True, cut_cols=1),
)


FRAMES = (frames(3, 2, 2, cls=False), frames(2, 2, 3, cls=True))
CLIPS = (
    frames(2, 1, 1, cls=False),
    frames(2, 1, 3, cls=False),
    frames(4, 2, 1, cls=False),
    frames(3, 3, 2, cls=False),
    frames(5, 2, 3, cls=False),
    frames(4, 1, 2, cls=True),
    *FRAMES,
)
"""What methods get that compare the frames of a video."""


def fill(kind, shape, g):
    """Numbers of one kind along the first axis, and the rows that carry no finite number. Shape: ``(N, *)``."""
    n, x = shape[0], torch.randn(shape, generator=g)
    if kind == "constant":
        return torch.full(shape, 3.0)
    if kind == "duplicates":
        return x[torch.randint(max(1, n // 3), (n,), generator=g)]
    if kind == "zero rows":
        x[torch.rand(n, generator=g) < 0.4] = 0.0
    return torch.zeros(shape) if kind == "all zero" else x


@cache
def make_signals(seed, layout, kind="gaussian", dtype=torch.float32, width=7, text=4, llm_input=0):
    """Every signal of the ``N`` rows of ``layout``, and which rows are not finite.

    Made once: every variant of every method sees the same tensors. text: M. llm_input: by how many rows the LLM's input
    was longer than what is left now.
    Shape: -> Signals, ``(N,)`` bool.
    """
    n, g = layout.n, generator(seed)
    bad = torch.zeros(n, dtype=torch.bool)
    if kind in ("nan", "inf", "all nan"):
        bad = torch.rand(n, generator=g) < (2.0 if kind == "all nan" else 0.3)

    def tokens(*shape):
        return fill(kind, (n, *shape), g)

    def probabilities(*shape):
        share = torch.rand(shape, generator=g) * 0.9 + 0.05
        return fill(kind, (n, *shape), g).movedim(0, -1).softmax(-1) * share.unsqueeze(-1)

    questions = max(1, text - 2)
    text_features = torch.randn(text, width, generator=g)
    longer = torch.cat([tokens(width), torch.randn(llm_input, width, generator=g)])
    longer[:n][bad] = math.nan
    head_rows = probabilities(HEADS, text)
    found = Signals(
        features=tokens(width),
        cls_attention=probabilities(),
        cls_logits=tokens(),
        cls_full_width=probabilities(),
        cls_feature=torch.randn(width, generator=g),
        received_attention=probabilities(),
        keys=tokens(4),
        full_keys=tokens(4 * HEADS),
        text_features=text_features,
        question_features=text_features[:questions],
        input_features=longer,
        input_text=torch.randn(text, width, generator=g),
        clip_relevance=tokens().tanh(),
        attention_rows=head_rows.mean(0),
        head_rows=head_rows,
        rotary_similarity=torch.rand(text, n, generator=g) * 7.0 + 1.0,
        previous_features=tokens(width),
        key_norms=tokens(4).abs().sum(1),
        text_key_norms=torch.rand(text, generator=g) * 4,
        normed_features=tokens(width),
        normed_text=torch.randn(text, width, generator=g),
        sequence_index=torch.arange(n) + 35,
        text_index=torch.arange(text) + 35 + n,
        prompt_features=torch.cat([text_features.flip(1) + 0.5, text_features]),
        prompt_index=torch.cat([torch.arange(text) + 35 - text, torch.arange(text) + 35 + n]),
        object_attention=probabilities(),
        deep_attention=probabilities(),
        encoder_features=tokens(width),
        shallow_attention=probabilities(),
        question_index=torch.arange(questions),
        candidates=layout.candidates,
        view=layout.view,
        cell=layout.cell,
        sizes=torch.randint(1, 4, (n,), generator=g) if seed % 2 else None,
        evidence=tokens().clamp(0, 1),
        values=tokens(HEADS, 4),
        text_values=torch.randn(text, HEADS, 4, generator=g),
        other_values=torch.randn(2, HEADS, 4, generator=g),
        rotary_means=tokens(2).tanh(),
        pixels=tokens(6).sigmoid(),
    )
    for name in (*PER_TOKEN, *PER_TOKEN_LAST_AXIS):
        # An infinite score is ranked like the largest finite one, an infinite feature is unusable: only NaN is both.
        is_feature = name in PER_TOKEN and getattr(found, name).dim() > 1
        found = broken(found, name, bad, math.inf if kind == "inf" and is_feature else math.nan)
    return in_dtype(found, dtype), bad


def broken(signals, name, rows, value):
    """``signals`` with ``value`` in one signal at ``rows (N,)`` bool; of a row of numbers only the first is hit."""
    tensor = getattr(signals, name).clone()
    if name in PER_TOKEN_LAST_AXIS:
        tensor[..., rows] = value
    elif tensor.dim() == 1:
        tensor[rows] = value
    else:
        tensor[rows, 0] = value
    return replace(signals, **{name: tensor})


def in_dtype(signals, dtype):
    """Every floating tensor but attention rows (float32 by contract) in ``dtype``."""
    return mapped(signals, lambda name, t: t.to(dtype) if t.is_floating_point() and name not in IN_FLOAT32 else t)


def mapped(signals, change):
    """``signals`` with ``change(name, tensor)`` in place of every tensor."""
    given = {f.name: getattr(signals, f.name) for f in fields(signals)}
    return Signals(**{name: None if tensor is None else change(name, tensor) for name, tensor in given.items()})


def shuffled(signals, order):
    """The same tokens in another order: row ``i`` is what row ``order[i]`` was."""

    def change(name, tensor):
        if name in PER_TOKEN_LAST_AXIS:
            return tensor[..., order]
        whole = ("sequence_index", "candidates", "view", "cell", "sizes")
        return tensor[order] if name in (*PER_TOKEN, *whole) else tensor

    return mapped(signals, change)


def for_stage(signals, stage):
    """What ``stage`` sees: the signals that it declared, those that every stage sees, and nothing else."""
    declared = {name for need in stage.needs for name in SIGNALS_OF[need.kind]}
    if isinstance(stage.site, VisionLayer):
        declared.add("keys")
    kinds = {need.kind for need in stage.needs}

    def change(name, tensor):
        if name == "attention_rows" and "last_row" in kinds:
            tensor = tensor[-1:]
        return tensor if name in (*declared, *ALWAYS) else None

    return mapped(signals, change)


# ------------------------------------------------------------------------------------------------- methods


def plannable_infos(pruner):
    """The infos on which ``pruner`` can run. There must be one, or the method is not tested at all."""
    found = [info for info in INFOS if pruner.missing(info) is None]
    assert found, f"{pruner.id} can be planned on none of the test infos: {[pruner.missing(i) for i in INFOS]}"
    return found


def settings(pruner):
    """Defaults, then every other choice and switch of a method, one at a time, and ApET's modes with each sampling."""
    found = [{}]
    for param in pruner.params:
        others = param.choices if param.kind == "choice" else (True, False) if param.kind == "bool" else ()
        found += [{param.name: value} for value in others if value != param.default]
    if pruner.id == "apet":
        found += [{"mode": "official", "sampling": sampling} for sampling in ("dpc", "random")]
    return found


@dataclass(frozen=True)
class Variant:
    """One stage function of one method with one setting of its parameters."""

    pruner: object
    stage: Stage
    params: dict
    info: PlanningInfo

    @property
    def adaptive(self):
        return self.stage.keep is None

    @property
    def withdraws(self):
        return self.stage.keep == 0

    def keeps(self, n):
        """The budgets to try on ``n`` rows (``methods.md`` 16)."""
        if self.adaptive:
            return [None]
        if self.withdraws:
            return [0]
        tried = {0, 1, 2, BASIS, BASIS + 1, n // 2, n - n // 2, n - 1, n, n + 5}
        return sorted(keep for keep in tried if keep == 0 or keep >= self.least(n))

    def least(self, n):
        """The smallest number that one stage can leave: merging inside a vision layer halves at most."""
        return n - n // 2 if isinstance(self.stage.site, VisionLayer) else 1

    def few_keeps(self, n):
        """Three of ``keeps``, for checks that every budget would make slow."""
        keeps = self.keeps(n)
        return keeps if len(keeps) <= 3 else [keeps[1], keeps[len(keeps) // 2], keeps[-3]]

    def signals(self, *args, **kwargs):
        """``make_signals`` narrowed to what the stage declared."""
        kwargs.setdefault("llm_input", 3 if isinstance(self.stage.site, int) else 0)
        signals, bad = make_signals(*args, **kwargs)
        return for_stage(signals, self.stage), bad

    def layouts(self):
        """Images that this stage can meet; newlines are there only behind the projector, crops behind the tower."""
        if isinstance(self.stage.site, VisionLayer):
            return list(RASTERS)
        if self.pruner.needs_frames:
            return list(CLIPS)
        found = TILES if self.pruner.needs_tiles else (*RASTERS, *TILES)
        inside_llm = isinstance(self.stage.site, int) or self.stage.site == "projector"
        found = [layout for layout in found if inside_llm or layout.candidates is None]
        return found if self.pruner.needs_tiles else [*found, *FRAMES]

    def select(self, signals, keep, seed=0):
        return self.stage.select(signals, keep, self.params, generator(seed))


def variants():
    """Every distinct stage of every method and setting (stages that share function, site kind and needs count once)."""
    for pruner in PRUNERS:
        for given in settings(pruner):
            params, seen = pruner.complete(given), set()
            for info, number, stage in stages_of(pruner, params):
                key = (stage.select, type(stage.site), stage.needs, stage.keep is None, stage.keep == 0)
                if key not in seen:
                    seen.add(key)
                    name = "-".join([pruner.id, *(f"{k}={v}" for k, v in given.items()), str(number)])
                    yield pytest.param(Variant(pruner, stage, params, info), id=name)


def stages_of(pruner, params):
    """``(info, number, stage)`` on every info that the method and this setting can be planned on; at least one."""
    refusals = []
    planned = 0
    for info in plannable_infos(pruner):
        try:
            schedule = pruner.schedule(Budget(48), info, params)
        except (BadInput, Unsupported) as refusal:
            refusals.append(str(refusal))
            continue
        planned += 1
        yield from ((info, number, stage) for number, stage in enumerate(schedule.stages))
    assert planned, f"{pruner.id} with {params} can be planned nowhere: {refusals}"


VARIANTS = list(variants())


def each_variant(*, only=lambda variant: True):
    """Parametrise a test with every variant for which ``only`` holds."""
    return pytest.mark.parametrize("variant", [v for v in VARIANTS if only(v.values[0])])
