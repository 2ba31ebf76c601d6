"""The document about the ablations, from the report alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .ablation_papers import Ablation, Setting
from .ablation_results import (
    AGREES,
    DISAGREES,
    ONLY_HERE,
    UNCHANGED,
    UNDECIDED,
    AblationResult,
    Report,
    Result,
)
from .outcomes import FAMILIES, MIRRORS, About
from .placement import largest_correlation
from .position_bias import BUDGET, CLAIMS, Leaning, agreement
from .wording import MISSING, cell, names, number, percent, span


def document(report: Report) -> str:
    """The whole Markdown document."""
    parts = [
        "# Ablations of the papers, on the embedded model",
        _made(report.about),
        _reading(report),
        _overview(report),
        *(_ablation(found) for found in report.ablations),
        _position_bias(report.positions, report.about["n_visual"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; columns behind the first ``left`` are aligned to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _made(about: About) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(about["versions"].items()))
    lines = [
        ("command", about["command"]),
        ("date", about["date"]),
        ("machine", f"{about['machine']}, {about['workers']} workers, {about['seconds']:.0f} s of work in all"),
        ("model", f"{about['model']} ({about['fingerprint']})"),
        ("versions", versions),
    ]
    return "\n".join(f"- {name}: {cell(value)}" for name, value in lines)


def _reading(report: Report) -> str:
    about = report.about
    left_out = [name for name in FAMILIES if name not in report.families]
    families = f" Left out, as the unpruned model answers none of it: {names(left_out)}." if left_out else ""
    unpruned = ", ".join(f"{name} {number(value)}" for name, value in zip(FAMILIES, report.unpruned, strict=True))
    return f"""\
{report.questions} questions about {report.scenes} held-out drawn scenes from seed {about["first_seed"]}, \
{about["n_visual"]} visual tokens, {about["n_blocks"]} LLM blocks. Unpruned accuracy in %: {unpruned}. The families \
mirror published benchmarks: {", ".join(f"{name} after {MIRRORS[name]}" for name in FAMILIES)}.{families}

- **here, mean %**: mean over the families of accuracy in percent of the unpruned model's, with a 95% interval \
(bootstrap over scenes). **here, against ...**: the paired difference to the paper's own choice, in points.
- **paper**: as printed. Where the paper prints no mean, **paper, mean %** is the mean of its printed columns in \
percent of its unpruned row, computed by us. Papers print no intervals.
- **verdict**: `{AGREES}` and `{DISAGREES}` only where the interval of our difference leaves out zero; else \
*{UNDECIDED}*. Each interval has its own 95%: of twenty settings that change nothing, one is expected to leave out zero.
- **tokens**: left after the last stage, and the average over the LLM's blocks.

A small model on drawn scenes claims nothing about 7B models on photographs: this says whether an effect that a paper \
reports also shows here, not whether the paper is right."""


def _overview(report: Report) -> str:
    verdicts = [verdict for found in report.ablations for _, verdict in found.verdicts()]
    counts = ", ".join(
        f"{words} {sum(verdict == own for own in verdicts)}"
        for verdict, words in (
            (AGREES, "agree"),
            (DISAGREES, "disagree"),
            (ONLY_HERE, "differ only here"),
            (UNDECIDED, "could not be told apart"),
            (UNCHANGED, "had no effect here"),
        )
    )
    lines = [f"- {found.ablation.title}. {cell(found.sentence)}" for found in report.ablations]
    lines += [f"- Position bias. {_position_sentence(report.positions)}"]
    return "\n".join([f"## In short\n\nOf {len(verdicts)} comparisons that the papers have: {counts}.\n", *lines])


def _ablation(found: AblationResult) -> str:
    ablation = found.ablation
    head = [
        "setting",
        f"paper: {' / '.join(ablation.columns)}" if ablation.columns else "paper",
        "paper, mean %",
        f"paper, against {ablation.reference}",
        f"here: {' / '.join(FAMILIES)}",
        "here, mean %",
        f"here, against {ablation.reference}",
        "tokens",
        "verdict",
    ]
    rows = [_row(ablation, setting, found.results[setting.name]) for setting in ablation.settings]
    notes = "".join(f"\n- {note}" for note in ablation.notes)
    return f"""\
## {ablation.title}

Varies {ablation.varies}. Paper: {ablation.source}; {ablation.on}. *{ablation.claim}*

{table([cell(name) for name in head], rows)}

{cell(found.sentence)}{_withdrawn(found)}
{notes}"""


def _row(ablation: Ablation, setting: Setting, result: Result | str) -> list[str]:
    printed = " / ".join(f"{value:g}" for value in setting.printed) or MISSING
    if setting.worse_than_reference:
        printed = "worse, no numbers"
    paper_difference = ablation.paper_difference(setting)
    paper = [
        cell(setting.name),
        printed,
        number(ablation.paper_mean(setting)),
        MISSING if setting.name == ablation.reference else number(paper_difference, sign=True),
    ]
    if isinstance(result, str):
        return [*paper, *[MISSING] * 4, f"not run: {cell(result)}"]
    return [
        *paper,
        " / ".join(number(value) for value in result.accuracy),
        with_span(result.retained),
        MISSING if result.difference is None else with_span(result.difference, sign=True),
        f"{number(result.kept)}; {number(result.average)}",
        result.verdict,
    ]


def with_span(estimated: Mapping[str, float], sign: bool = False) -> str:
    """A number and its interval, ``94.1 [92.0, 96.3]``."""
    return f"{number(estimated['value'], sign=sign)} {span(estimated, sign=sign)}"


def _withdrawn(found: AblationResult) -> str:
    """Where a stage may drop everything: in how many questions it did."""
    told = [f"{cell(setting.name)} {percent(result.none_kept)}%" for setting, result in found.run if result.none_kept]
    if told:
        return f" No visual token was left at the end of: {', '.join(told)} of the questions."
    if found.ablation.id.startswith("todre"):
        return " In no question of any setting were the visual tokens withdrawn."
    return ""


def _position_bias(rows: Sequence[Leaning], n_visual: int) -> str:
    claims = "\n".join(f"- {claim}" for claim in CLAIMS)
    title = f"## Position bias: where what is kept lies, at {BUDGET} tokens"
    if not rows:
        return f"{title}\n\nNone of the methods was run."
    head = [
        "method", "ranks by", "patches kept", "correlation", "lean", "top %", "middle %", "bottom %",
        "lean against apet", "late, as the papers say?",
    ]  # fmt: skip
    cells = [
        [
            row.name,
            row.by,
            number(row.patches),
            *(_fine(estimated) for estimated in (row.correlation, row.lean)),
            *(with_span(estimated) for estimated in (row.top, row.middle, row.bottom)),
            MISSING if row.difference is None else _fine(row.difference),
            agreement(row),
        ]
        for row in rows
    ]
    undefined = [f"{row.name} {row.undefined}" for row in rows if row.undefined]
    note = f" Questions in which all or nothing was kept have none: {', '.join(undefined)}." if undefined else ""
    return f"""\
{title}

{_position_sentence(rows)}

The papers' claim, for which none of them prints a number:

{claims}

{table(head, cells, left=2)}

- **correlation**: Pearson's, of being kept with the position in raster order, mean over scenes with a 95% interval. \
It cannot reach 1: for {BUDGET} of {n_visual} tokens the most is {largest_correlation(BUDGET, n_visual):.3f}.{note}
- **lean**: the correlation over the most that so many kept tokens can have: 1 keeps the last tokens, -1 the first, \
0 neither. Methods that count their budget as an average keep fewer tokens at the end, so compare this one.
- **top, middle, bottom**: shares of the kept patches in the thirds of the picture's rows; the bottom is the latest.
- Objects and signs are placed uniformly over the picture, so the truth has no side; the row *the evidence itself* \
measures it. A lean here is the method's or the model's own.
- The claim is about attention inside the LLM. [CLS] attention stands in the vision tower, which is not \
causal."""


def _fine(estimated: Mapping[str, float]) -> str:
    value, low, high = (number(estimated[key], 2, sign=True) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _position_sentence(rows: Sequence[Leaning]) -> str:
    late = [row for row in rows if row.late]
    if not late:
        return "None of the methods that rank by attention in the LLM was run."
    by_verdict: dict[str, list[str]] = {}
    for row in late:
        by_verdict.setdefault(agreement(row), []).append(row.name)
    by_side: dict[str, list[str]] = {}
    for row in rows:
        if row.by not in ("control", "truth"):
            by_side.setdefault(_side(row.lean), []).append(row.name)
    return (
        "Do methods that rank by attention in the LLM keep later tokens than approximation error does, as the papers "
        f"claim? {_grouped(by_verdict)}. Each by itself: {_grouped(by_side)}."
    )


def _grouped(found: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{words}: {', '.join(members)}" for words, members in found.items())


def _side(lean: Mapping[str, float]) -> str:
    if not lean["low"] <= lean["high"]:
        return "undefined"
    if lean["low"] > 0:
        return "late"
    return "early" if lean["high"] < 0 else "no side that these scenes could show"
