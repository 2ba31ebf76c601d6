"""What tests of video methods share: a film of pooled frames, one without [CLS] or free positions, a generator."""

import torch

from tokviz.types import PlanningInfo

FILM = PlanningInfo(8 * 144, 32, "llava_next_video", n_views=8, has_frames=True, takes_video=True)
QWEN = PlanningInfo(
    4 * 150, 28, "qwen2_5_vl", has_cls=False, n_views=4, has_frames=True, takes_video=True, merges_patches=True,
    renumbers=False, published_as="qwen",
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
