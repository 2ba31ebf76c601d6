"""The results of the prefill benchmark: kept in one JSON file, run by run, and shown as tables."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

Key = tuple[str, str, int | None]
"""How, method and budget: what tells lines of one run apart."""

FACTS = ("model", "shape", "device", "dtype", "attention")
"""What tells runs apart; measuring the same again replaces a run (or, resumed, adds to it)."""

OF_EACH_SITTING = ("none", "again", "floor")
"""Lines that every sitting measures anew: the others are held against them."""


@dataclass(frozen=True)
class Line:
    """One measured line. Times in ms, memory in bytes; medians of ``samples`` executions after a warm-up.

    how: ``none``, ``again`` (no pruning, once more at the end), ``floor``, ``kernel``, ``eager``. budget: None without
    one. tokens_per_layer: visual tokens that each LLM layer processed, added ones included. decode_ms: per token.
    peak_bytes: None where the device does not count. map_bytes: attention maps held at one time.
    """

    how: str
    method: str
    budget: int | None
    tokens_per_layer: list[int]
    vision_ms: float
    selection_ms: float
    prefill_ms: float
    decode_ms: float
    kv_bytes: int
    peak_bytes: int | None
    map_bytes: int
    samples: int

    @property
    def first_token_ms(self) -> float:
        """From pixels and ids to the first token."""
        return self.vision_ms + self.selection_ms + self.prefill_ms

    @property
    def key(self) -> Key:
        """See ``Key``."""
        return self.how, self.method, self.budget

    def against(self, unpruned: Line) -> dict[str, float]:
        """How many times faster or smaller than no pruning on the same kernel."""
        ratios = {
            "first_token": unpruned.first_token_ms / self.first_token_ms,
            "prefill": unpruned.prefill_ms / self.prefill_ms,
            "decode": unpruned.decode_ms / self.decode_ms,
            "kv": unpruned.kv_bytes / self.kv_bytes,
        }
        if self.peak_bytes and unpruned.peak_bytes:
            ratios["peak"] = unpruned.peak_bytes / self.peak_bytes
        return ratios


class Sitting:
    """Lines that were measured one after the other, with no pruning among them; the first line is that one."""

    def __init__(self, store: Store, run: dict[str, Any], number: int) -> None:
        self._store, self._run, self._number = store, run, number
        self._unpruned: Line | None = None

    def add(self, line: Line) -> str:
        """Write a line; returns it in words."""
        if line.how == "none":
            self._unpruned = line
        if self._unpruned is None:
            raise ValueError("The first line of a sitting is the one without pruning.")
        ratios = line.against(self._unpruned)
        lines = [old for old in self._run["lines"] if _line(old).key != line.key or line.how in OF_EACH_SITTING]
        row = {**asdict(line), "sitting": self._number, "first_token_ms": line.first_token_ms, "times_faster": ratios}
        self._run["lines"] = [*lines, row]
        self._store.write()
        return (
            f"{line.how} {line.method} {line.budget or ''}: vision {line.vision_ms:.1f}, selection "
            f"{line.selection_ms:.1f}, prefill {line.prefill_ms:.1f}, decode {line.decode_ms:.2f} ms"
        )

    def end(self, load: float | None) -> None:
        """Nothing comes after it."""
        self._run["sittings"][self._number]["load_after"] = load
        self._store.write()


class Store:
    """``<path>.json`` and ``<path>.md``, both rewritten after every line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        file = Path(f"{path}.json")
        self.runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.exists() else []

    def begin(
        self,
        facts: dict[str, Any],
        about: dict[str, Any],
        sitting: dict[str, Any],
        refused: list[dict[str, Any]],
        resume: bool,
    ) -> Sitting:
        """A new run in the place of the one with the same facts, or a further sitting of that one."""
        same = self._same(facts)
        if same and resume:
            run = same[0]
            if changed := {name for name in about if run[name] != about[name]}:
                raise SystemExit(f"This run was begun with another {', '.join(sorted(changed))}; start it anew.")
        else:
            run = {**facts, **about, "sittings": [], "refused": [], "lines": []}
            at = self.runs.index(same[0]) if same else len(self.runs)
            self.runs[at : at + 1] = [run]
        run["sittings"].append(sitting)
        known = {(entry["method"], entry["budget"]) for entry in run["refused"]}
        run["refused"] += [entry for entry in refused if (entry["method"], entry["budget"]) not in known]
        self.write()
        return Sitting(self, run, len(run["sittings"]) - 1)

    def done(self, facts: dict[str, Any]) -> set[Key]:
        """The keys of the lines that the run with these facts has."""
        return {_line(row).key for run in self._same(facts) for row in run["lines"]}

    def _same(self, facts: dict[str, Any]) -> list[dict[str, Any]]:
        return [run for run in self.runs if all(run[name] == facts[name] for name in FACTS)]

    def write(self) -> None:
        """Both files, each replaced at once: a run may be cut off at any time."""
        _replace(Path(f"{self._path}.json"), json.dumps({"runs": self.runs}, indent=1) + "\n")
        _replace(Path(f"{self._path}.md"), as_markdown(self.runs))


def _replace(file: Path, text: str) -> None:
    made = file.with_name(f".{file.name}.{os.getpid()}")
    made.write_text(text)
    made.replace(file)


def _line(row: dict[str, Any]) -> Line:
    return Line(**{name: row[name] for name in Line.__dataclass_fields__})


# -- as tables ---------------------------------------------------------------------------------------------------------

INTRODUCTION = Path(__file__).with_name("templates") / "prefill.md"
COLUMNS = (
    "budget",
    "how",
    "method",
    "tokens",
    "vision ms",
    "selection ms",
    "prefill ms",
    "first token ms",
    "decode ms",
    "KV MiB",
    "peak GiB",
    "maps MiB",
    "faster: first token",
    "prefill",
    "decode",
    "prefill, times the floor",
    "eager / kernel",
)


def as_markdown(runs: Sequence[dict[str, Any]]) -> str:
    """The introduction and a section per run."""
    return "\n".join([INTRODUCTION.read_text(encoding="utf-8"), *(line for run in runs for line in _section(run))])


def _section(run: dict[str, Any]) -> list[str]:
    small = "" if run["shape"] == "full" else f", **{run['shape']} shape: not the published model**"
    rows, head = run["lines"], f"## {run['label']}, {run['device']}, {run['dtype']}, {run['attention']}{small}"
    lines = [head, "", *(f"- {words}" for words in _facts(run)), ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---:|---|---|" + "---:|" * (len(COLUMNS) - 3)]
    lines += [f"| {' | '.join(_cells(row, rows))} |" for row in sorted(rows, key=_place)]
    refused: dict[str, list[str]] = {}
    for entry in run["refused"]:
        refused.setdefault(f"{entry['method']}: {entry['reason']}", []).append(str(entry["budget"]))
    if refused:
        lines += ["", "Not run:", ""]
        lines += [f"- {why} ({', '.join(budgets)})" for why, budgets in refused.items()]
    return [*lines, ""]


def _facts(run: dict[str, Any]) -> list[str]:
    facts = [
        f"{run['parameters'] / 1e9:.2f} billion parameters, {run['weights_bytes'] / 2**30:.2f} GiB of weights; "
        f"{run['visual_tokens']} visual and {run['text_tokens']} text tokens, {run['new_tokens']} new tokens"
    ]
    for number, sitting in enumerate(run["sittings"]):
        mine = {row["how"]: row for row in run["lines"] if row["sitting"] == number and row["method"] == "no pruning"}
        steady = ""
        if len(mine) == 2:
            again = mine["again"]["first_token_ms"] / mine["none"]["first_token_ms"] - 1
            steady = f"; no pruning at the end took {again:+.0%} to the first token"
        facts.append(
            f"sitting {number + 1}, {sitting['date']}: `{sitting['command']}`; medians of {sitting['repeats']}; torch "
            f"{sitting['torch']}, transformers {sitting['transformers']}, {sitting['threads']} threads on "
            f"{sitting['cores']} cores, load {sitting['load_before']} before and {sitting.get('load_after', '?')} after"
            f"{steady}{'; ' + sitting['note'] if sitting['note'] else ''}"
        )
    return facts


def _place(row: dict[str, Any]) -> tuple[int, int, int]:
    order = ("none", "again", "floor", "kernel", "eager")
    budget = -row["budget"] if row["budget"] else -(10**9)
    return budget, 0 if order.index(row["how"]) < 3 else 1, row["sitting"]


def _cells(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    per_layer, faster = row["tokens_per_layer"], row["times_faster"]
    floor = _other(row, rows, "floor", "the floor") if row["how"] in ("kernel", "eager") else None
    kernel = _other(row, rows, "kernel", row["method"]) if row["how"] == "eager" else None
    return [
        str(row["budget"] or ""),
        row["how"],
        row["method"],
        f"{fmean(per_layer):.0f}; {per_layer[0]} -> {per_layer[-1]}",
        *(
            f"{row[name]:.3g}" if row[name] < 100 else f"{row[name]:.0f}"
            for name in ("vision_ms", "selection_ms", "prefill_ms", "first_token_ms", "decode_ms")
        ),
        f"{row['kv_bytes'] / 2**20:.1f}",
        f"{row['peak_bytes'] / 2**30:.2f}" if row["peak_bytes"] else "—",
        f"{row['map_bytes'] / 2**20:.1f}" if row["map_bytes"] else "—",
        *(f"{faster[name]:.2f}" for name in ("first_token", "prefill", "decode")),
        f"{row['prefill_ms'] / floor['prefill_ms']:.2f}" if floor else "",
        f"{row['first_token_ms'] / kernel['first_token_ms']:.2f}" if kernel else "",
    ]


def _other(row: dict[str, Any], rows: Sequence[dict[str, Any]], how: str, method: str) -> dict[str, Any] | None:
    """The line of the same sitting and budget to hold this one against."""
    same = (row["sitting"], row["budget"], how, method)
    return next((o for o in rows if (o["sitting"], o["budget"], o["how"], o["method"]) == same), None)
