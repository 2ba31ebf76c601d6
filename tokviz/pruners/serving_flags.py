"""How many tokens vLLM leaves of a video at a pruning rate, and the rate that leaves so many: for methods it serves."""

from __future__ import annotations

import math


def vllm_total(n: int, rate: float, least: int) -> int:
    """Tokens that vLLM leaves of ``n``: ``int(n * (1 - rate))``, in double precision as there, but ``least`` of them.

    Source: vLLM, ``multimodal/video_prune``, ``compute_retained_tokens_count``; ``least`` is the first frame for EVS
    and one token per frame for VidCom2.
    """
    return min(n, max(least, int(n * (1 - rate))))


def vllm_rate(n: int, keep: int, least: int) -> float | None:
    """The shortest decimal rate at which vLLM leaves ``keep`` of ``n`` tokens; None where none does (``keep < least``).

    Eight digits tell budgets apart up to a hundred million tokens.
    """
    for digits in range(1, 9):
        # Where the share itself is such a decimal, 1 - rate may be rounded to just below it: then the next lower one.
        below = math.floor((1 - keep / n) * 10**digits)
        for rate in (below / 10**digits, (below - 1) / 10**digits):
            if rate >= 0 and vllm_total(n, rate, least) == keep:
                return rate
    return None


def vllm_flags(method: str, n: int, keep: int, least: int) -> str:
    """What to give ``vllm serve`` for the same number of tokens, or why there is nothing to give.

    The flags are those of vLLM's documentation since #47750; before, EVS was the only method and had no name.
    """
    rate = vllm_rate(n, keep, least)
    if rate is None:
        return f"none: vLLM keeps at least {least} of these {n} tokens"
    return f"--video-pruning-rate {rate:.8g} --video-pruning-method {method}"
