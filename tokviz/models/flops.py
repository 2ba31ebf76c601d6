"""FLOPs of a decoder by formula, to compare runs of one model."""

from __future__ import annotations

from collections.abc import Sequence


def prefill_flops(tokens_per_layer: Sequence[int], d: int, m: int) -> float:
    """FLOPs of one forward pass: sum over layers of 4nd² + 2n²d + 2ndm.

    Source: ToDRE (``papers/todre.md`` section 3.1, Eq. 1), generalised from T equal layers to a count per layer. As in
    the paper one multiply-add counts once, and a gated FFN's third matrix and grouped keys are not considered; use it
    to compare runs of one model, not as a count of instructions.

    Args: tokens_per_layer ``(T,)`` sequence lengths n; d hidden size; m FFN width.
    """
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in tokens_per_layer))


def merging_flops(entering: Sequence[int], leaving: Sequence[int], d: int, m: int) -> float:
    """FLOPs of layers that merge between attention and MLP: sum of 4nd² + 2n²d + 2n'dm, from n to n' tokens.

    ``prefill_flops`` with the two halves of a layer at their own lengths; what the matching itself costs is left out.

    Args: entering, leaving ``(T,)`` tokens per layer; d hidden size; m MLP width.
    """
    pairs = zip(entering, leaving, strict=True)
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * rest * d * m for n, rest in pairs))


def decode_flops(tokens_per_layer: Sequence[int], d: int, m: int, new_tokens: int) -> float:
    """FLOPs of decoding: sum over layers and steps t = 1…new_tokens of 4d² + 2d(n + t − 1) + 2dm.

    Source: ToDRE Eq. 2, with the KV-cache length n of each layer its own.
    """
    return float(
        sum(4 * d * d + 2 * d * (n + step) + 2 * d * m for n in tokens_per_layer for step in range(new_tokens))
    )
