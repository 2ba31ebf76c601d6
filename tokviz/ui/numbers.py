"""The small numbers of a lane, with how each one was obtained. The page and its table show the same list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..comparison import Comparison
from ..records import Run, Timing
from ..runs import metrics as measures
from ..viz.format import flops, how_measured, milliseconds, ratio, share, size
from . import text

Look = Literal["exact", "measured", "estimated", "published"]


@dataclass(frozen=True)
class Number:
    """One line: label, value with unit, ratio to no pruning, how it was obtained. ``look`` picks the typography."""

    label: str
    value: str
    ratio: str = ""
    how: str = ""
    look: Look = "exact"


def of_run(run: Run, comparison: Comparison, evidence: Sequence[int] | None = None) -> list[Number]:
    """The numbers of one lane, in the order of the page.

    evidence: ``measures.evidence_tokens`` of the comparison, the same for all its lanes (None: found here).
    """
    unpruned = comparison.runs[0]
    if evidence is None:
        asked = comparison.request
        evidence = measures.evidence_tokens(comparison.grid, asked.evidence, asked.evidence_frames)
    lines = [*_tokens(run, comparison.grid.n_tokens), *_evidence(run, evidence, comparison.grid.n_tokens)]
    lines += _duration("prefill", "prefill", run, unpruned)
    lines += _duration("decode / token", "decode_per_token", run, unpruned)
    if run.stages:
        lines += _duration("selection", "selection", run, None)
    if run.cost is not None:
        if run.cost.kv_cache_bytes is not None:
            of_reference = unpruned.cost.kv_cache_bytes if unpruned.cost else None
            smaller = ratio(of_reference, run.cost.kv_cache_bytes) if of_reference and run.stages else ""
            lines.append(Number("KV cache", size(run.cost.kv_cache_bytes), smaller, look="measured"))
        lines.append(Number("prefill compute", f"≈ {flops(run.cost.prefill_flops)}", look="estimated"))
    return lines


def _tokens(run: Run, n_tokens: int) -> list[Number]:
    final = run.actual.final if run.actual else (len(run.kept) if run.kept is not None else n_tokens)
    lines = [Number("visual tokens", f"{final:,}", share(final, n_tokens) if run.stages else "")]
    withdrawn = measures.withdrawal(run)
    if withdrawn is not None:  # the image shows what was left before that
        lines.append(Number("before withdrawal", f"{withdrawn.n_in:,}", share(withdrawn.n_in, n_tokens)))
    if run.actual and abs(run.actual.average_in - final) >= 0.05:
        average = f"{run.actual.average_in:,.1f}"
        lines.append(Number("mean per layer", average, share(run.actual.average_in, n_tokens)))
    return lines


def _evidence(run: Run, shown: Sequence[int], n_tokens: int) -> list[Number]:
    """What of the evidence enters the LLM and, if stages inside it drop more, what the last selection left.

    Where nothing was merged, what was not kept is lost, and one line says it.
    """
    if not shown or not run.stages:
        return []
    into_llm, at_end = (
        measures.fates(shown, stages, n_tokens)
        for stages in (measures.stages_before_llm(run), measures.stages_that_select(run))
    )
    lines = [
        *_fate_lines(("evidence into LLM", "evidence absorbed", "evidence lost"), into_llm),
        *_fate_lines(("evidence at end", "absorbed at end", "lost at end"), at_end),
    ]
    return lines if into_llm != at_end else lines[: len(lines) // 2]


def _fate_lines(labels: tuple[str, str, str], fates: measures.Fates) -> list[Number]:
    lists = (fates.kept, fates.absorbed, fates.lost)
    total = sum(map(len, lists))
    lines = [
        Number(label, f"{len(tokens)} of {total}", share(len(tokens), total))
        for label, tokens in zip(labels, lists, strict=True)
    ]
    return lines if fates.absorbed else lines[:1]


def _duration(label: str, key: str, run: Run, unpruned: Run | None) -> list[Number]:
    timing = run.timings.get(key)
    if timing is None:
        return []
    base: Timing | None = unpruned.timings.get(key) if unpruned is not None and unpruned is not run else None
    faster = ratio(base.median_ms, timing.median_ms) if base is not None else ""
    return [Number(label, milliseconds(timing.median_ms), faster, how_measured(timing), look="measured")]


_COLUMNS = {
    "method": 190,
    "family": 190,
    "answer": 180,
    "verdict": 180,
    "final tokens": 120,
    "average per layer": 160,
    "prefill ms": 120,
    "timing": 120,
    "decode ms/token": 150,
    "selection ms": 130,
    "KV cache bytes": 150,
    "prefill FLOPs, estimated": 210,
    "notes": 320,
}
TABLE_HEADERS = list(_COLUMNS)
TABLE_WIDTHS = list(_COLUMNS.values())
"""Column widths in px."""


def table(comparison: Comparison) -> dict[str, Any]:
    """The value of the table behind the images: a row per lane, unformatted numbers, None where there is none."""
    return {"headers": TABLE_HEADERS, "data": [_table_row(comparison, run) for run in comparison.runs]}


def _table_row(comparison: Comparison, run: Run) -> list[str | int | float | None]:
    judged = measures.judge(comparison, run)
    prefill, decode = run.timings.get("prefill"), run.timings.get("decode_per_token")
    selection = run.timings.get("selection") if run.stages else None
    return [
        run.label,
        text.FAMILY_LABELS[run.family],
        run.answer,
        judged.text if judged else "",
        run.actual.final if run.actual else None,
        round(run.actual.average_in, 1) if run.actual else None,
        round(prefill.median_ms, 2) if prefill else None,
        how_measured(prefill) if prefill else "",
        round(decode.median_ms, 2) if decode else None,
        round(selection.median_ms, 3) if selection else None,
        run.cost.kv_cache_bytes if run.cost else None,
        float(f"{run.cost.prefill_flops:.4g}") if run.cost else None,
        " ".join([*([run.error] if run.error else []), *run.warnings]),
    ]
