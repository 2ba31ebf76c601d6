"""Made-up signals of realistic shape for measuring a stage: nothing of a model is needed."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor

from tokviz.types import PlanningInfo, Signals, Stage

TEXT, QUESTION, KEY_WIDTH, FULL_WIDTH, PIXELS = 64, 24, 64, 1024, 3 * 14 * 14
"""Text tokens behind the picture, those of the question, the widths of CLIP's keys (mean of heads, all heads), and the
numbers that a patch of CLIP shows."""


def planning_info(n: int, tiled: bool, filmed: bool = False) -> PlanningInfo:
    """LLaVA-1.5-7B, LLaVA-NeXT with a thumbnail and crops, or LLaVA-OneVision with frames, with ``n`` visual tokens."""
    if filmed:
        return PlanningInfo(
            n, 28, "llava_onevision", has_cls=False, n_views=n_views(n), has_frames=True, takes_video=True
        )
    if tiled:
        views = n_views(n)
        return PlanningInfo(n, 32, "llava_next", n_views=views, has_tiles=True, n_vision_layers=23, has_text_tower=True)
    return PlanningInfo(n, 32, n_vision_layers=23, has_text_tower=True)


def n_views(n: int) -> int:
    """The number of equal square views, thumbnail and at least three crops, that ``n`` tokens can be; the fewest."""
    for views in range(4, n + 1):
        if n % views == 0 and isqrt(n // views) ** 2 == n // views:
            return views
    raise ValueError(f"{n} tokens are no thumbnail with crops.")


def features(n: int, width: int, generator: torch.Generator) -> Tensor:
    """Clustered rows of uneven length around a common mean, as encoders give them. Shape: ``(n, width)`` float32."""
    groups = torch.randn(1 + n // 16, width, generator=generator)
    member = torch.randint(len(groups), (n,), generator=generator)
    rows = torch.randn(n, width, generator=generator).mul_(0.5)
    rows += groups[member]
    rows += 0.5 * torch.randn(width, generator=generator)
    return rows.mul_(torch.randn(n, 1, generator=generator).mul_(0.3).exp_())


def make_signals(
    stage: Stage, n: int, width: int, tiled: bool, device: torch.device, seed: int = 0, filmed: bool = False
) -> Signals:
    """What ``stage`` declares, for ``n`` tokens of ``width``, on ``device``; the same numbers on every device."""
    g = torch.Generator().manual_seed(seed)
    kinds = {need.kind for need in stage.needs}

    def rows(count: int, columns: int) -> Tensor:
        return torch.randn(count, columns, generator=g)

    def shares(count: int) -> Tensor:
        return (rows(count, n) * 2.0).softmax(1)

    made: dict[str, tuple[str, Callable[[], Tensor]]] = {
        "cls_attention": ("cls_attention", lambda: shares(1)[0]),
        "cls_logits": ("cls_logits", lambda: rows(1, n)[0]),
        "cls_full_width": ("cls_full_width", lambda: shares(1)[0]),
        "received_attention": ("received_attention", lambda: shares(1)[0]),
        "cls_feature": ("cls_feature", lambda: rows(1, width)[0]),
        "object_attention": ("object_attention", lambda: shares(1)[0]),
        "deep_attention": ("deep_attention", lambda: shares(1)[0]),
        "shallow_attention": ("shallow_attention", lambda: shares(1)[0]),
        "encoder_keys": ("keys", lambda: rows(n, KEY_WIDTH)),
        "full_keys": ("full_keys", lambda: rows(n, FULL_WIDTH)),
        "text_features": ("text_features", lambda: rows(TEXT, width)),
        "prompt_features": ("prompt_features", lambda: rows(TEXT, width)),
        "encoder_features": ("encoder_features", lambda: features(n, width, g)),
        "question_features": ("question_features", lambda: rows(QUESTION, width)),
        "clip_relevance": ("clip_relevance", lambda: rows(1, n)[0].tanh()),
        "last_row": ("attention_rows", lambda: shares(1)),
        "text_rows": ("attention_rows", lambda: shares(TEXT)),
        "previous_features": ("previous_features", lambda: features(n, width, g)),
        "key_norms": ("key_norms", lambda: rows(1, n)[0].abs()),
        "normed_features": ("normed_features", lambda: features(n, width, g)),
    }
    given = {"features": features(n, width, g)}
    given.update({field: make() for kind, (field, make) in made.items() if kind in kinds})
    if "llm_input" in kinds:
        given |= {"input_features": given["features"].clone(), "input_text": rows(TEXT, width)}
    if "values" in kinds:
        heads = max(1, width // 128)
        counts = {"values": n, "text_values": TEXT, "other_values": 35}
        given |= {name: rows(count, width).unflatten(1, (heads, -1)) for name, count in counts.items()}
    if "rotary_means" in kinds:
        given["rotary_means"] = rows(n, 2)
    if "pixels" in kinds:
        given["pixels"] = rows(n, PIXELS).sigmoid()
    if "key_norms" in kinds:
        given["text_key_norms"] = rows(1, TEXT)[0].abs()
    if "prompt_features" in kinds:
        given["prompt_index"] = torch.arange(TEXT) + n
    if "normed_features" in kinds:
        given["normed_text"] = rows(TEXT, width)
    if stage.site.__class__.__name__ == "VisionLayer":
        given["keys"] = rows(n, KEY_WIDTH)
    if tiled:
        given |= tiles(n)
    if filmed:
        given |= frames(n)
    return Signals(**{name: tensor.to(device) for name, tensor in given.items()})


def tiles(n: int) -> dict[str, Tensor]:
    """``view`` and ``cell`` of a thumbnail and a row of crops, stitched. Shape: ``(n,)``, ``(n, 2)``."""
    views = n_views(n)
    side = isqrt(n // views)
    thumbnail = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    crops = torch.cartesian_prod(torch.arange(side), torch.arange(side * (views - 1)))
    view = torch.cat([torch.zeros(side * side, dtype=torch.int64), 1 + crops[:, 1] // side])
    return {"view": view, "cell": torch.cat([thumbnail, crops])}


def frames(n: int) -> dict[str, Tensor]:
    """``view`` and ``cell`` of equal square frames. Shape: ``(n,)``, ``(n, 2)``."""
    count = n_views(n)
    side = isqrt(n // count)
    cell = torch.cartesian_prod(torch.arange(side), torch.arange(side)).repeat(count, 1)
    return {"view": torch.arange(count).repeat_interleave(side * side), "cell": cell}
