"""Which attention of the vision tower ranks tokens: [CLS]'s, or, in a tower without one, what tokens receive."""

from __future__ import annotations

from ..types import CLS_ATTENTION, RECEIVED_ATTENTION, Need, PlanningInfo, Signals, TokenMap
from .ops import required


def attention_need(info: PlanningInfo, with_cls: Need = CLS_ATTENTION) -> Need:
    """What to ask the tower of this model for (``methods.md`` 15.1: attention received takes [CLS]'s place on Qwen)."""
    return with_cls if info.has_cls else RECEIVED_ATTENTION


def attention_map(signals: Signals, direction: str = "high is kept first") -> TokenMap:
    """What was asked for, float32, under its true name. Shape: values ``(N,)``."""
    name, label, values = "cls_attention", "[CLS] attention", signals.cls_attention
    if values is None and signals.received_attention is not None:
        name, label, values = "received_attention", "Attention received", signals.received_attention
    values = required(values, name).float()
    return TokenMap(name, label, values, "probability", direction, scale="log")
