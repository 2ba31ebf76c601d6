"""What the runs cost, for the panel that draws it: numbers for the bars, and the words beside them."""

from __future__ import annotations

from typing import Any

from ..comparison import Comparison
from ..costs import PARTS, Part, PartCost, RunCost
from ..names import BudgetMeaning
from ..records import BudgetMeanings, Run
from ..tables.speeds import PublishedSpeed, published_speeds
from ..viz.format import cut, flops, how_measured, milliseconds, ratio, size, speed

_PARTS: dict[Part, tuple[str, str]] = {
    "encode": ("encode", "The vision tower. The image is encoded once, for all runs together."),
    "prune": ("prune", "Choosing the tokens: all selections together, before the LLM and inside it."),
    "prefill": ("prefill", "The prompt through the LLM, up to the first token of the answer."),
    "decode": ("decode", "Every further token of the answer: steps times the time of one."),
}
_MEANINGS: dict[BudgetMeaning, str] = {
    "published": "each method’s paper counts in its own way, and the other columns show what that came to",
    "final": "the tokens left after the last stage",
    "average": "the mean over the LLM’s layers of the tokens that each processed",
}


def costs(comparison: Comparison) -> dict[str, Any]:
    """Everything that ``assets/cost_panel.js`` draws from; texts are untrusted and written as text there."""
    request, model = comparison.request, comparison.model
    found = [(run, comparison.cost(run.key)) for run in comparison.runs]
    known = {run.method: (run, cost) for run, cost in reversed(found)}
    return {
        "parts": [[part, *_PARTS[part]] for part in PARTS],
        "n_tokens": comparison.grid.n_tokens,
        "budget": request.budget,
        "counted_as": request.budget_as,
        "counted": _MEANINGS[request.budget_as],
        "device": cut(f"{model.name}, {model.device}, {model.attention}"),
        "how": next((how_measured(timing) for run in comparison.runs if (timing := run.timings.get("prefill"))), ""),
        "runs": [_run(run, cost, found[0][1]) for run, cost in found],
        "published": [
            _published(line, *known[line.method], found[0][1]) for line in published_speeds() if line.method in known
        ],
    }


def _run(run: Run, cost: RunCost, unpruned: RunCost) -> dict[str, Any]:
    # The encoding that all share takes as long for each; the bars compare what differs, too.
    own = [part.ms for part in cost.parts if part.part != "encode" and part.ms is not None]
    whole = [part.ms for part in unpruned.parts if part.part != "encode" and part.ms is not None]
    is_base = cost.run == unpruned.run
    kv, kv_whole = cost.kv_cache_bytes, unpruned.kv_cache_bytes
    return {
        "key": run.key,
        "label": cut(run.label),
        "error": run.error is not None,
        "parts": [
            {
                "ms": _short(part.ms),
                "flops": _short(part.flops),
                "shared": part.shared,
                "told": _told(part),
                "compute": "" if part.flops is None else f"≈ {flops(part.flops)}",
            }
            for part in cost.parts
        ],
        "all": ["", ""] if cost.ms is None else [milliseconds(cost.ms), "" if is_base else speed(cost.speedup)],
        "llm": [milliseconds(sum(own)), "" if is_base or not whole else speed(sum(whole) / sum(own))]
        if own and sum(own)
        else ["", ""],
        "compute": [f"≈ {flops(cost.flops)}", "" if is_base else ratio(unpruned.flops, cost.flops, "more")],
        "layers": cost.tokens_per_layer,
        "kv": kv,
        "kv_told": ["–", ""]
        if kv is None
        else [size(kv), ratio(kv_whole, kv, "larger") if kv_whole and not is_base else ""],
        "planned": _meanings(run.planned),
        "actual": _meanings(run.actual),
    }


def _told(cost: PartCost) -> str:
    if cost.ms is None or cost.timing is None:
        return "not measured"
    steps = f"{cost.steps} × {milliseconds(cost.timing.median_ms)} = " if cost.steps > 1 else ""
    return steps + milliseconds(cost.ms)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _meanings(meanings: BudgetMeanings | None) -> list[float] | None:
    if meanings is None:
        return None
    return [meanings.final, round(meanings.average_in, 1), round(meanings.average_logged, 1)]


def _published(line: PublishedSpeed, run: Run, cost: RunCost, unpruned: RunCost) -> dict[str, Any]:
    """A printed line beside what was measured here of the same kind, if there is one."""
    here = {"prefill": cost.prefill_speedup, "decode": _per_token(cost, unpruned)}
    words = {"prefill": "prefill", "decode": "decode / token", "total time": "total time"}
    kept = line.tokens if line.of is None else f"{line.tokens} of {line.of:,}"
    return {
        "label": cut(run.label),
        "what": words.get(line.what, line.what),
        "speed": speed(line.speedup),
        "computed": line.printed is None,
        "values": f"{line.unpruned:g} → {line.value:g} {line.unit}",
        "model": line.model,
        "kept": kept,
        "device": f"{line.device}, {line.on}" if line.on else line.device,
        "source": line.source,
        "here": speed(here.get(line.what, cost.speedup)),
    }


def _per_token(cost: RunCost, unpruned: RunCost) -> float | None:
    """How many times faster a token of the answer is."""
    own, base = cost["decode"].timing, unpruned["decode"].timing
    return None if own is None or base is None or not own.median_ms else base.median_ms / own.median_ms
