"""The flag of a serving stack that prunes as a method did: as many tokens, with the version that it was read in.

Rates are searched for with the arithmetic of each stack, so that the number of tokens is theirs. Where no rate leaves
just as many, the nearest one is printed and its number of tokens said.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

from ..records import ServingFlag

VLLM = "documentation of the engine's arguments, stable, November 2026 (#22980, #47750)"
SGLANG = "documentation of multimodal models, November 2026 (#14051)"
TENSORRT_LLM = "options of trtllm-serve, November 2026 (#8024)"
EDGE_LLM = "0.11.0, user guide and dartPruner.cpp"
OPENVINO = "2026.3, concepts and cdpruner.cpp (#2861, #3084, #3499)"
MODEL = "MODEL"
"""What a command has in place of the user's model."""


@dataclass(frozen=True)
class Served:
    """What a run pruned, for who writes the flag that does the same.

    frames: patches of each image, tile or frame. spans: unbroken runs of visual tokens in the prompt. kept: tokens left
    at the end. family: of the model. pixels: of the smaller image that the model got instead, if it did.
    """

    frames: tuple[int, ...]
    spans: tuple[int, ...]
    kept: int
    family: str
    pixels: int | None = None

    @property
    def n(self) -> int:
        """Patches that there were."""
        return sum(self.frames)


def rate_that_leaves(total: Callable[[float], int], n: int, keep: int, steps: tuple[int, ...]) -> float | None:
    """The shortest decimal rate in [0, 1) at which ``total(rate)`` is ``keep`` of ``n``, None where none is.

    Eight digits tell budgets apart up to a hundred million tokens. Tried are the decimal at or below the exact share
    and those ``steps`` from it: the next lower one (-1) where counts are rounded down, higher ones where they are
    rounded up and in single precision.
    """
    for digits in range(1, 9):
        near = math.floor((1 - keep / n) * 10**digits)
        for rate in ((near + step) / 10**digits for step in (0, *steps)):
            if 0 <= rate < 1 and total(rate) == keep:
                return rate
    return None


def vllm_total(n: int, rate: float, least: int) -> int:
    """Tokens that vLLM leaves of ``n``: ``int(n * (1 - rate))``, in double precision as there, but ``least`` of them.

    Source: vLLM, ``multimodal/video_prune``, ``compute_retained_tokens_count``; ``least`` is the first frame for EVS
    and one token per frame for VidCom2.
    """
    return min(n, max(least, int(n * (1 - rate))))


def vllm_rate(n: int, keep: int, least: int) -> float | None:
    """The shortest decimal rate at which vLLM leaves ``keep`` of ``n`` tokens; None where none does (``keep < least``).

    Where the share itself is such a decimal, ``1 - rate`` may be rounded to just below it: then the next lower one.
    """
    return rate_that_leaves(lambda rate: vllm_total(n, rate, least), n, keep, (-1,))


def vllm_flags(method: str, n: int, keep: int, least: int) -> str:
    """What to give ``vllm serve`` for the same number of tokens, or why there is nothing to give.

    The flags are those of vLLM's documentation since #47750; before, EVS was the only method and had no name.
    """
    rate = vllm_rate(n, keep, least)
    if rate is None:
        return f"none: vLLM keeps at least {least} of these {n} tokens"
    return f"--video-pruning-rate {rate:.8g} --video-pruning-method {method}"


def vllm(method: str, served: Served, least: int, note: str = "") -> tuple[ServingFlag, ...]:
    """The flag of ``vllm serve`` for a method of its video pruning."""
    rate = vllm_rate(served.n, served.kept, least)
    if rate is None:
        return (_none("vLLM", VLLM, f"it keeps at least {least} of these {served.n} tokens"),)
    flags = f"--video-pruning-rate {rate:.8g} --video-pruning-method {method}"
    return (ServingFlag(stack="vLLM", command=f"vllm serve {MODEL} {flags}", read_in=VLLM, note=note),)


def evs_elsewhere(served: Served) -> tuple[ServingFlag, ...]:
    """EVS in SGLang and TensorRT-LLM, whose count is taken to be vLLM's."""
    rate = vllm_rate(served.n, served.kept, served.frames[0])
    if rate is None:
        return ()
    setting = json.dumps({"video_pruning_rate": float(f"{rate:.8g}")})
    return (
        ServingFlag(
            stack="SGLang",
            command=f"python -m sglang.launch_server --model-path {MODEL} --json-model-override-args '{setting}'",
            read_in=SGLANG,
            note="models without several position axes only",
        ),
        ServingFlag(
            stack="TensorRT-LLM",
            command=f"trtllm-serve {MODEL} --video_pruning_rate {rate:.8g}",
            read_in=TENSORRT_LLM,
            note="its code was not compared",
        ),
    )


def edge_total(spans: tuple[int, ...], ratio: float) -> int:
    """Tokens that TensorRT-Edge-LLM leaves: ``ceil(span * (1 - ratio))`` of each span, the ratio in single precision.

    Source: ``runtime/preprocess/visualTokenPruner.cpp``.
    """
    single = struct.unpack("f", struct.pack("f", ratio))[0]
    return sum(max(1, min(span, math.ceil(span * (1.0 - single)))) for span in spans)


EDGE_LEAST = 16
"""Visual tokens below which TensorRT-Edge-LLM prunes nothing."""


def edge_dart(served: Served, image_pivots: int, text_pivots: int, note: str = "") -> tuple[ServingFlag, ...]:
    """The flags of TensorRT-Edge-LLM's DART."""
    n = sum(served.spans)
    if n < EDGE_LEAST:
        return (_none("TensorRT-Edge-LLM", EDGE_LLM, f"it prunes nothing of fewer than {EDGE_LEAST} visual tokens"),)
    ratio = rate_that_leaves(lambda rate: edge_total(served.spans, rate), n, served.kept, (1, 2))
    if not ratio:
        return (_none("TensorRT-Edge-LLM", EDGE_LLM, f"no ratio leaves {served.kept} of {n} tokens here"),)
    pivots = "" if image_pivots == 4 else f" --dartPivotImageTokens {image_pivots}"
    pivots += "" if text_pivots == 4 else f" --dartPivotTextTokens {text_pivots}"
    command = (
        "llm_inference --engineDir LLM --multimodalEngineDir VISUAL --inputFile INPUT --outputFile OUTPUT "
        f"--visualPrune --dartReductionRatio {ratio:.8g}{pivots}"
    )
    notes = "; ".join(filter(None, ("Qwen2.5-VL and Qwen3-VL only", note)))
    return (ServingFlag(stack="TensorRT-Edge-LLM", command=command, read_in=EDGE_LLM, note=notes),)


def openvino_total(frames: tuple[int, ...], percent: int) -> int:
    """Tokens that OpenVINO GenAI leaves at a whole percentage: each image's share, rounded half up.

    Source: ``cdpruner.cpp``, ``select_tokens``, of every region by itself.
    """
    return sum(math.floor(frame * (1.0 - percent / 100.0) + 0.5) for frame in frames)


def openvino_cdpruner(served: Served, weight: float, split: bool, note: str = "") -> tuple[ServingFlag, ...]:
    """The settings of OpenVINO GenAI's CDPruner that come nearest to the number of tokens."""
    percents = [percent for percent in range(1, 100) if openvino_total(served.frames, percent)]
    best = min(percents, key=lambda percent: abs(openvino_total(served.frames, percent) - served.kept))
    left = openvino_total(served.frames, best)
    command = f"config.pruning_ratio = {best}; config.relevance_weight = {weight:g}"
    if not split:
        command = f'os.environ["CDPRUNER_SPLIT_THRESHOLD"] = "0"; {command}'
    counted = "" if left == served.kept else f"whole percentages only: this one leaves {left} of {served.n}"
    notes = "; ".join(filter(None, ("Qwen2-VL to Qwen3-VL only", counted, note)))
    return (ServingFlag(stack="OpenVINO GenAI", command=command, read_in=OPENVINO, note=notes),)


def smaller_image(served: Served) -> tuple[ServingFlag, ...]:
    """The largest image that a server of Qwen2-VL or Qwen2.5-VL makes tokens of; no other family has this setting."""
    if served.pixels is None or served.family not in ("qwen2_vl", "qwen2_5_vl"):
        return ()
    note = "at most so many: its processor rounds to whole patches by itself"
    limit = json.dumps({"max_pixels": served.pixels})
    image = json.dumps({"image": {"max_pixels": served.pixels}})
    return (
        ServingFlag(
            stack="vLLM", command=f"vllm serve {MODEL} --mm-processor-kwargs '{limit}'",
            read_in="documentation, Conserving Memory, November 2026", note=note,
        ),
        ServingFlag(
            stack="SGLang",
            command=f"python -m sglang.launch_server --model-path {MODEL} --mm-process-config '{image}'",
            read_in="server arguments, November 2026", note=note,
        ),
    )  # fmt: skip


def _none(stack: str, read_in: str, why: str) -> ServingFlag:
    return ServingFlag(stack=stack, command="", read_in=read_in, note=f"none: {why}")
