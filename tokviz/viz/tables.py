"""A comparison as tables for the terminal. Cells are plain text: answers cannot mark up or steer a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..comparison import Comparison
from ..errors import need
from ..records import Run, ServingFlag
from ..runs.metrics import (
    Tone,
    absorbed_into,
    evidence_tokens,
    fates,
    judge,
    kept_per_frame,
    reach,
    selected,
    stages_that_select,
)
from ..runs.why import why
from .format import flops, milliseconds, plain_text, size
from .overlays import kept_stage

if TYPE_CHECKING:
    from pandas import DataFrame

_STYLES: dict[Tone, str] = {"good": "green", "bad": "red", "different": "yellow", "same": ""}
_ANSWER_CHARACTERS = 400
_FATES = ("kept", "absorbed", "lost")


def cell(text: object, style: str = "") -> Text:
    """Untrusted text as one line for a table cell; no markup, no control characters."""
    return Text(plain_text(str(text)), style=style)


def new_table(title: str, *headings: str) -> Table:
    """An empty table; columns whose heading begins with ``>`` are numbers. Text wraps, numbers and methods do not."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        number = heading.startswith(">")
        whole = number or heading == "method"
        name = Text(heading.removeprefix(">"))
        table.add_column(name, justify="right" if number else "left", no_wrap=whole, overflow="fold")
    return table


def answer_table(comparison: Comparison) -> Table:
    """Method, family, answer, verdict, tokens left after the last stage (F) and seen per layer on average (A_in)."""
    title = f"Answers of {plain_text(comparison.model.name)}"
    table = new_table(title, "method", "family", "answer", "verdict", ">tokens left", ">per layer")
    for run in comparison.runs:
        final = average = ""
        if run.actual is not None:
            final = f"{run.actual.final} of {comparison.grid.n_tokens}"
            average = f"{run.actual.average_in:.1f}"
        answer = "" if run.error else plain_text(run.answer, _ANSWER_CHARACTERS) or "(no answer)"
        family = run.family.replace("-", " ")
        judged = _verdict(comparison, run)
        table.add_row(cell(run.label), cell(family), cell(answer, "bold"), judged, cell(final), cell(average))
    return table


def measure_table(comparison: Comparison) -> Table:
    """Measures that explain: where the evidence went, distances in patches, effective rank, margins in nats."""
    asked, grid = comparison.request, comparison.grid
    shown = evidence_tokens(grid, asked.evidence, asked.evidence_frames)
    fate = (">evidence kept", ">absorbed", ">lost") if shown else ()
    columns = (*fate, ">dropped to nearest kept, mean", ">max", ">effective rank", ">margin", ">smallest")
    table = new_table("Measures (distances in patches, margins in nats)", "method", *columns)
    for run in comparison.runs:
        if run.error is not None:
            continue
        found = _explaining(comparison, run, shown)
        fates_of = [_number(found[f"evidence_{name}"], "d") for name in _FATES] if shown else []
        names = ("nearest_kept_mean", "nearest_kept_max", "effective_rank", "margin", "least_margin")
        table.add_row(cell(run.label), *map(cell, [*fates_of, *(_number(found[name], ".2f") for name in names)]))
    return table


def why_table(comparison: Comparison) -> Table | None:
    """What became of the evidence, one sentence per run; None where there is none to follow."""
    said = [(run, why(comparison, run)) for run in comparison.runs]
    if not any(sentence for _, sentence in said):
        return None
    table = new_table("Why", "method", "evidence")
    for run, sentence in said:
        if sentence:
            table.add_row(cell(run.label), cell(sentence))
    return table


def _number(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


def cost_table(comparison: Comparison) -> Table:
    """Times as measured here, bytes of the real KV cache, FLOPs of the language model by formula."""
    repeats = comparison.request.repeats
    title = f"Cost; times measured here ({'single shot' if repeats == 1 else f'median of {repeats}'})"
    table = new_table(title, "method", ">vision", ">select", ">prefill", ">per token", ">KV cache", ">FLOPs, est.")
    for run in comparison.runs:
        if run.error is not None:
            continue
        cost = run.cost
        # Vision runs once for all lanes; a lane could overwrite it only by measuring its own.
        times = {**comparison.timings, **run.timings}
        clocks = [times.get(name) for name in ("vision", "selection", "prefill", "decode_per_token")]
        kv = "–" if cost is None or cost.kv_cache_bytes is None else size(cost.kv_cache_bytes)
        compute = "–" if cost is None else f"≈ {flops(cost.prefill_flops + cost.decode_flops)}"
        cells = ["–" if clock is None else milliseconds(clock.median_ms) for clock in clocks]
        table.add_row(cell(run.label), *map(cell, [*cells, kv, compute]))
    return table


def data_frame(comparison: Comparison) -> DataFrame:
    """One row per run, indexed by its key: what ``answer_table`` and ``cost_table`` show, as numbers.

    Times in ms, sizes in bytes; ``kept`` are original indices. Raises BadInput where pandas is missing.
    """
    need("pandas", "ui", "A table")
    import pandas

    asked = comparison.request
    shown = evidence_tokens(comparison.grid, asked.evidence, asked.evidence_frames)
    return pandas.DataFrame([_row(comparison, run, shown) for run in comparison]).set_index("run")


def _row(comparison: Comparison, run: Run, shown: Sequence[int]) -> dict[str, Any]:
    judged, cost = judge(comparison, run), run.cost
    times = {**comparison.timings, **run.timings}
    return {
        "run": run.key,
        "method": run.method,
        "params": run.params,
        "answer": None if run.error else run.answer,
        "verdict": None if judged is None else judged.kind,
        "tokens_left": None if run.actual is None else run.actual.final,
        "tokens_per_layer": None if run.actual is None else run.actual.average_in,
        **{
            f"{name}_ms": times[name].median_ms if name in times and run.error is None else None
            for name in ("vision", "selection", "prefill", "decode_per_token")
        },
        "kv_cache_bytes": None if cost is None else cost.kv_cache_bytes,
        "flops": None if cost is None else cost.prefill_flops + cost.decode_flops,
        **_explaining(comparison, run, shown),
        "kept": run.kept,
        "error": run.error,
    }


def _explaining(comparison: Comparison, run: Run, shown: Sequence[int]) -> dict[str, Any]:
    """What became of the evidence, how far it and all else lies from what was kept, how diverse that is, the margin.

    ``evidence_carriers`` names for each absorbed token of the evidence the kept token that it was merged into.
    """
    grid, kept, found = comparison.grid, selected(run), comparison.measures
    became = carried = None
    if shown and run.error is None:
        stages = stages_that_select(run)
        became, carried = fates(shown, stages, grid.n_tokens), absorbed_into(shown, stages, grid.n_tokens)
    far = None if kept is None else reach(grid, kept)
    near = None if kept is None or not shown else reach(grid, kept, shown)
    return {
        **{f"evidence_{name}": None if became is None else len(getattr(became, name)) for name in _FATES},
        "evidence_carriers": carried,
        "evidence_distance": None if near is None else near.mean,
        "nearest_kept_mean": None if far is None else far.mean,
        "nearest_kept_max": None if far is None else far.largest,
        "effective_rank": run.effective_rank,
        "attention_entropy": None if found is None else found.attention_entropy,
        "margin": run.margin,
        "least_margin": run.least_margin,
    }


def frame_table(comparison: Comparison) -> Table | None:
    """Patches kept of every frame of a video, after the stage that a figure draws; None for an image."""
    video = comparison.video
    if video is None:
        return None
    pruned = [(run, kept_stage(run)) for run in comparison.runs]
    shown = [(run.label, run.stages[stage].kept) for run, stage in pruned if stage is not None]
    columns = (f">{plain_text(label, 40)}" for label, _ in shown)
    table = new_table("Patches kept per frame", "frame", ">seconds", ">patches", *columns)
    counts = [kept_per_frame(comparison.grid, kept) for _, kept in shown]
    for row, count in enumerate(kept_per_frame(comparison.grid, None)):
        evidence = " *" if set(count.frames) & set(comparison.request.evidence_frames) else ""
        frames = ", ".join(str(frame + 1) for frame in count.frames) + evidence
        seconds = ", ".join(f"{video.frames[frame].time_s:.2f}" for frame in count.frames)
        table.add_row(cell(frames), cell(seconds), cell(count.patches), *(cell(column[row].kept) for column in counts))
    if comparison.request.evidence_frames:
        table.caption = Text("* shows the evidence")
        table.caption_justify = "left"
    return table


def notes(comparison: Comparison) -> list[str]:
    """Sentences below the tables: what vision time means, what could not be run, warnings. Cleaned, one line each."""
    once_more = " and ".join(run.label for run in comparison.runs if "vision" in run.timings)
    once_more = f", and once more for {once_more}, whose vision tower sees fewer tokens" if once_more else ""
    lines = [
        f"The image is encoded once for all methods{once_more}. "
        "FLOPs are those of the language model, estimated by a formula."
    ]
    if comparison.model.embedded:
        lines.append(
            f"{comparison.model.name} is a small embedded model: no claim about the published numbers of large models."
        )
    lines += spread_notes(comparison)
    lines += [f"{run.label} was not run: {run.error}" for run in comparison.runs if run.error]
    lines += [f"{run.label} as deployed: {_deployed(flag)}" for run in comparison.runs for flag in run.serving]
    lines += [f"Note: {warning}" for warning in comparison.warnings]
    lines += [f"Note on {run.label}: {warning}" for run in comparison.runs for warning in run.warnings]
    return [plain_text(line) for line in lines]


def spread_notes(comparison: Comparison) -> list[str]:
    """How spread out the image is, in sentences; nothing for sessions from earlier versions."""
    found = comparison.measures
    if found is None:
        return []
    numbers = [
        "" if found.attention_entropy is None else f"attention entropy of [CLS] {found.attention_entropy:.2f} nats",
        "" if found.effective_rank is None else f"effective rank of the features {found.effective_rank:.1f}",
    ]
    known = " and ".join(filter(None, numbers))
    over = f" (mean over {found.views} views)" if found.views > 1 else ""
    world = found.out_of_world
    away = [] if world is None else [f"Its out-of-world score is {world.score:.1f}, the limit {world.threshold:.1f}."]
    return [*([f"The image has {known}{over}."] if known else []), *away, *found.notes]


def _deployed(flag: ServingFlag) -> str:
    """``vLLM: vllm serve MODEL ... (read in ...; what differs)``."""
    told = "; ".join(filter(None, (flag.note, f"read in: {flag.read_in}")))
    return f"{flag.stack}: {flag.command} ({told})" if flag.command else f"{flag.stack}: {told}"


def _verdict(comparison: Comparison, run: Run) -> Text:
    if run.error is not None:
        return cell("✗ not run", "red")
    judged = judge(comparison, run)
    return cell(judged or "", _STYLES[judged.tone] if judged else "")
