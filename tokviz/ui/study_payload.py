"""From a Sweep, an Inside or a Rescue to the plain numbers that ``assets/study_*.js`` draw. No gradio here.

Maps over tokens travel as whole numbers from 0 to ``STEPS``, shares of their largest value: it is what can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..attention import KINDS, TAU, Inside
from ..errors import BadInput
from ..horizon import InformationHorizon
from ..rescues import Rescue
from ..sweeps import Sweep, SweepCurve
from ..viz.format import cut

STEPS = 9999
MOST_MAP_NUMBERS = 250_000
"""Of all words together; a megabyte of them is what a page should be sent at once."""
_LONGEST = 300


def sweep_payload(sweep: Sweep) -> dict[str, Any]:
    """Answer, budgets, one curve per method; a point is budget, seed, log-probability, same, answer, verdict."""
    return {
        "answer": sweep.answer[:_LONGEST],
        "logprob": _short(sweep.logprob),
        "budgets": sweep.budgets,
        "n_tokens": sweep.comparison.grid.n_tokens,
        "expected": sweep.comparison.request.expected_answer,
        "seeds": sweep.seeds,
        "notes": list(sweep.notes),
        "curves": [_curve(curve) for curve in sweep.curves],
    }


def _curve(curve: SweepCurve) -> dict[str, Any]:
    points = [
        [point.budget, point.seed, _short(point.logprob), point.same, point.answer[:_LONGEST], point.verdict]
        for point in curve.points
        if point.error is None
    ]
    return {
        "key": curve.key,
        "label": cut(curve.label),
        "random": curve.is_random,
        "error": curve.error,
        "refused": sum(point.error is not None for point in curve.points),
        "flip": curve.flip(),
        "points": points,
    }


def inside_payload(found: Inside) -> dict[str, Any]:
    """Ratios per layer, shares of the answer's tokens, maps of its words, maps and entropies of the tower."""
    words, left = [], MOST_MAP_NUMBERS
    places: list[int | None] = [None, *found.map_layers]
    for number, word in enumerate(found.words):
        maps = []
        try:
            for place in places:
                values = found.word_map(number, place).values
                left -= len(values)
                if left < 0:
                    raise BadInput("too many")
                maps.append(_map(values))
        except BadInput:  # not kept, or too much to send: the word is there without its maps
            maps = []
        words.append({"text": word.text[:_LONGEST], "maps": maps})
    return {
        "run": found.run.key,
        "label": cut(found.run.label),
        "answer": found.run.answer[:_LONGEST],
        "n_tokens": found.comparison.grid.n_tokens,
        "left": found.layers[-1].visual,
        "kinds": list(KINDS),
        "counts": list(found.counts),
        "tau": TAU,
        "withdrawn": found.withdrawn_at(),
        "layers": [
            {
                "visual": layer.visual,
                "text_to_image": _short(layer.text_to_image),
                "image_to_text": _short(layer.image_to_text),
                "image_to_system": _short(layer.image_to_system),
                "output": None if layer.output is None else [_short(share) for share in layer.output],
            }
            for layer in found.layers
        ],
        "map_layers": list(found.map_layers),
        "words": words,
        "tower_kind": found.tower_kind,
        "tower": [
            {"entropy": _short(layer.entropy), "windowed": layer.windowed, **_map(layer.attention)}
            for layer in found.tower
        ],
        "feature_layer": found.feature_layer,
        "uniform": _short(found.uniform_entropy),
        "notes": list(found.notes),
    }


def horizon_payload(found: InformationHorizon) -> dict[str, Any]:
    """Per measured layer the largest and the mean change of a block, random tokens, and a map of changes in nats."""
    return {
        "answer": found.answer[:_LONGEST],
        "logprob": _short(found.logprob),
        "block": found.block,
        "budget": found.budget,
        "n_tokens": found.comparison.grid.n_tokens,
        "horizon": found.horizon,
        "random_from": found.random_from,
        "layers": [
            {
                "layer": entry.layer,
                "largest": _short(entry.largest),
                "mean": _short(entry.mean),
                "floor": _short(found.floor(entry)),
                "random": [_short(value) for value in entry.random],
                "withdrawn": _short(entry.withdrawn),
                "change": [None if value is None else round(value, 4) for value in entry.change],
            }
            for entry in found.layers
        ],
        "notes": list(found.notes),
    }


def rescue_payload(found: Rescue) -> dict[str, Any]:
    """Gain of every block, the random control, and what the model says with the best block given back."""
    telling = {tuple(block.tokens) for block in found.telling}
    best = found.best
    rescued = found.rescued
    return {
        "run": found.run,
        "label": cut(rescued.label),
        "scored": found.scored,
        "answer": found.answer[:_LONGEST],
        "said": rescued.answer[:_LONGEST],
        "rescued": None if best is None else found.comparison.runs[-1].answer[:_LONGEST],
        "kept": list(rescued.kept or ()),
        "logprob": _short(found.logprob),
        "logprob_kept": _short(found.logprob_kept),
        "block": found.block,
        "n_blocks": found.n_blocks,
        "blocks": [
            {
                "tokens": list(block.tokens),
                "gain": _short(block.gain),
                "restores": block.restores,
                "telling": tuple(block.tokens) in telling,
            }
            for block in found.blocks
        ],
        "by_chance": _short(len(found.blocks) / (len(found.seeds) + 1)),
        "control": [[len(one.tokens), _short(one.gain)] for one in found.control],
        "floor": _short(found.floor(max(len(block.tokens) for block in found.blocks))) if found.blocks else None,
        "notes": list(found.notes),
    }


def _map(values: Sequence[float | None]) -> dict[str, Any]:
    """``most``: the largest value; ``steps``: each as a share of it, from 0 to ``STEPS``, None for tokens without."""
    most = max((value for value in values if value is not None), default=0.0)
    scale = STEPS / most if most > 0 else 0.0
    return {"most": _short(most), "steps": [None if value is None else round(value * scale) for value in values]}


def _short(value: float | None) -> float | None:
    """Five significant digits; None for what is no finite number."""
    return float(f"{value:.5g}") if value is not None and abs(value) < 1e300 else None
