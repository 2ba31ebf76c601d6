"""The small numbers of a lane, with how each one was obtained. The page and its table show the same list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..comparison import Comparison
from ..records import Run, Timing, TokenGrid
from ..runs import metrics as measures
from ..viz.format import flops, how_measured, milliseconds, ratio, share, size
from . import text

Look = Literal["exact", "measured", "estimated", "published"]


@dataclass(frozen=True)
class Number:
    """One line: label, value with unit, what stands beside it (mostly the ratio to no pruning), how it was obtained.

    ``look`` picks the typography.
    """

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
    lines += [*_distances(run, evidence, comparison.grid), *_spread(run, comparison), *_margins(run)]
    lines += _duration("prefill", "prefill", run, unpruned)
    lines += _duration("decode / token", "decode_per_token", run, unpruned)
    if run.stages:
        lines += _duration("selection", "selection", run, None)
    if run.cost is not None:
        if run.cost.kv_cache_bytes is not None:
            of_reference = unpruned.cost.kv_cache_bytes if unpruned.cost else None
            smaller = ratio(of_reference, run.cost.kv_cache_bytes, "larger") if of_reference and run.stages else ""
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
    into_names, end_names = (
        ("evidence into LLM", "evidence absorbed", "carried by", "evidence lost"),
        ("evidence at end", "absorbed at end", "carried at end by", "lost at end"),
    )
    carriers = [
        len(set(measures.absorbed_into(shown, stages, n_tokens).values()))
        for stages in (measures.stages_before_llm(run), measures.stages_that_select(run))
    ]
    lines = _fate_lines(into_names, into_llm, carriers[0])
    return lines if into_llm == at_end else [*lines, *_fate_lines(end_names, at_end, carriers[1])]


def _fate_lines(labels: tuple[str, str, str, str], fates: measures.Fates, carriers: int) -> list[Number]:
    """One line where nothing was merged: what was not kept is lost. ``carriers``: kept tokens that hold what was."""
    kept, absorbed, carried_by, lost = labels
    total = len(fates.kept) + len(fates.absorbed) + len(fates.lost)

    def line(label: str, tokens: Sequence[int]) -> Number:
        return Number(label, f"{len(tokens)} of {total}", share(len(tokens), total))

    if not fates.absorbed:
        return [line(kept, fates.kept)]
    by = Number(carried_by, f"{carriers} kept token{'' if carriers == 1 else 's'}")
    return [line(kept, fates.kept), line(absorbed, fates.absorbed), by, line(lost, fates.lost)]


def _distances(run: Run, shown: Sequence[int], grid: TokenGrid) -> list[Number]:
    """How far dropped patches, and those of the evidence, lie from what was kept; not for what is another encoding."""
    kept = measures.selected(run)
    if kept is None:
        return []
    lines = []
    for label, tokens in (("dropped to nearest kept", None), ("evidence to nearest kept", shown)):
        far = None if tokens == [] else measures.reach(grid, kept, tokens)
        if far is None or far.mean is None or far.largest is None:
            continue
        mean = f"{far.mean:.1f}"
        where = "frame" if grid.is_video else "level"
        how = f"{far.apart:,} more have none in their {where}" if far.apart else ""
        most = f"max {far.largest:.1f}"
        lines.append(Number(label, f"{mean} patch{'' if mean == '1.0' else 'es'}", most, how))
    return lines


def _spread(run: Run, comparison: Comparison) -> list[Number]:
    """Effective rank of what was kept; of the unpruned image also how its [CLS] spreads its attention."""
    unpruned, lines = comparison.runs[0], []
    if run.effective_rank is not None:
        whole = unpruned.effective_rank if run is not unpruned else None
        of_whole = share(run.effective_rank, whole) if whole else ""
        lines.append(Number("effective rank", f"{run.effective_rank:.1f}", of_whole, look="measured"))
    found = comparison.measures
    if run is unpruned and found is not None:
        entropy = found.attention_entropy
        value, how = ("–", "no [CLS]") if entropy is None else (f"{entropy:.2f} nats", "of [CLS]")
        lines.append(Number("attention entropy", value, how=how, look="measured"))
        if found.out_of_world is not None:
            world = found.out_of_world
            limit = f"{'above' if world.is_outside else 'below'} {world.threshold:.1f}"
            lines.append(Number("out-of-world score", f"{world.score:.1f}", how=limit, look="measured"))
    return lines


def _margins(run: Run) -> list[Number]:
    """By how much the answer's first token leads; and the smallest lead, where it is another token's."""
    if run.margin is None or run.least_margin is None:
        return []
    lines = [Number("answer margin", f"{run.margin:.2f} nats", look="measured")]
    if run.least_margin < run.margin:
        lines.append(Number("smallest margin", f"{run.least_margin:.2f} nats", look="measured"))
    return lines


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
    "evidence kept": 130,
    "evidence absorbed": 150,
    "evidence lost": 130,
    "nearest kept, mean": 150,
    "nearest kept, max": 150,
    "effective rank": 130,
    "answer margin, nats": 160,
    "notes": 320,
}
TABLE_HEADERS = list(_COLUMNS)
TABLE_WIDTHS = list(_COLUMNS.values())
"""Column widths in px."""


def table(comparison: Comparison) -> dict[str, Any]:
    """The value of the table behind the images: a row per lane, unformatted numbers, None where there is none."""
    asked = comparison.request
    evidence = measures.evidence_tokens(comparison.grid, asked.evidence, asked.evidence_frames)
    return {"headers": TABLE_HEADERS, "data": [_table_row(comparison, run, evidence) for run in comparison.runs]}


def _table_row(comparison: Comparison, run: Run, evidence: Sequence[int]) -> list[str | int | float | None]:
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
        *_explaining(comparison, run, evidence),
        " ".join([*([run.error] if run.error else []), *run.warnings]),
    ]


def _explaining(comparison: Comparison, run: Run, evidence: Sequence[int]) -> list[int | float | None]:
    """Seven cells: evidence kept, absorbed, lost; distances of what was dropped; effective rank; margin."""
    grid, kept = comparison.grid, measures.selected(run)
    fates: list[int | None] = [None] * 3
    if evidence and run.error is None:
        became = measures.fates(evidence, measures.stages_that_select(run), grid.n_tokens)
        fates = [len(became.kept), len(became.absorbed), len(became.lost)]
    far = None if kept is None else measures.reach(grid, kept)
    distances = (None, None) if far is None else (far.mean, far.largest)
    rest = [None if value is None else round(value, 3) for value in (*distances, run.effective_rank, run.margin)]
    return [*fates, *rest]
