"""What both builders of examples share: the command line, the search that goes on where it stopped, a case in words."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tokviz
from scenes import EXAMPLE_SEEDS
from tokviz.comparison import Comparison
from tokviz.runs.metrics import evidence_tokens, normalised
from tokviz.types import EVIDENCE, PlanningInfo

from .choosing import Shown
from .search import FoundCase, Outcome, outcomes_of, separate

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CODE = (
    "tokviz/*.py",
    "tokviz/engine/**/*.py",
    "tokviz/models/**/*.py",
    "tokviz/pruners/**/*.py",
    "scenes/*.py",
    "scripts/cases/[cds]*.py",
)
"""The code that found cases depend on."""


def parser(doc: str | None, noun: str, most: int, count: int) -> argparse.ArgumentParser:
    """The options of a builder; ``noun`` is what it searches ("scenes"), ``most`` how many unless asked otherwise."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = ROOT / "runs" / f"{noun}-examples.jsonl"
    add = made.add_argument
    add(f"--{noun}", dest="most", type=int, default=most, help=f"search at most so many {noun} (default: %(default)s)")
    add("--minutes", type=float, default=float("inf"), help="stop the search after so many minutes")
    add("--budget", type=int, default=64, help="visual tokens (default: %(default)s)")
    add("--count", type=int, default=count, help="examples to write (default: %(default)s)")
    add("--cache", type=Path, default=cache, help="where found cases are kept (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    add("--refresh", action="store_true", help="run the stored cases again instead of searching")
    add("--dry", action="store_true", help="say what would be written, write nothing")
    return made


def runnable(info: PlanningInfo) -> list[str]:
    """Ids of the methods that a model can serve, without the unpruned run and without those that know the evidence."""
    found = [p for p in tokviz.methods() if p.id != "full" and EVIDENCE not in p.needs]
    return [p.id for p in found if p.missing(info) is None]


def search(
    find: Callable[[int], Iterable[FoundCase]], cache: Cache, most: int, minutes: float
) -> tuple[list[FoundCase], int]:
    """Cases of all example seeds that are searched now or were searched before, and the number of these seeds."""
    deadline = time.monotonic() + 60 * minutes
    done, found = 0, list[FoundCase]()
    for seed in EXAMPLE_SEEDS[:most]:
        cases = cache.get(seed)
        if cases is None:
            if time.monotonic() > deadline:
                break
            cases = cache.put(seed, list(find(seed)))
            print(f"seed {seed}: {len(cases)} found", file=sys.stderr)
        found += cases
        done += 1
    return found, done


def told(chosen: Sequence[tuple[Shown, str]], found: Sequence[FoundCase], searched: int) -> None:
    """Print what was chosen, each with the kind of difficulty that names it."""
    for one, kind in chosen:
        record = case_record(one, kind)
        print(f"{one.case.seed} {one.case.question} -> {one.case.expected}: {record['title']}. {record['why']}")
    print(f"{len(found)} separating questions of {searched} seeds; {len(chosen)} chosen")


def key_of(methods: Sequence[str], budget: int, weights: Path, first: Sequence[str]) -> str:
    """A digest of everything that found cases depend on: weights, code, methods, budget."""
    digest = hashlib.sha256(json.dumps([list(methods), budget, list(first)]).encode())
    for path in [weights, *(path for room in CODE for path in sorted(ROOT.glob(room)))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def as_before(comparison: Comparison, one: Shown) -> Comparison:
    """The comparison. Raises RuntimeError when it answers otherwise than the case that it shows."""
    outcomes = one.case.outcomes
    before = tuple(tuple(m for m in one.methods if outcomes[m].right is right) for right in (False, True))
    if separate(comparison) != before:
        raise RuntimeError(f"Seed {one.case.seed} gives other answers when it is run again: not deterministic.")
    return comparison


def write(folder: Path, media: tuple[str, bytes], comparison: Comparison, record: dict[str, Any]) -> None:
    """Write one example: its image or clip, ``session.json`` and ``case.json``."""
    folder.mkdir(parents=True)
    name, content = media
    (folder / name).write_bytes(content)
    (folder / "session.json").write_text(comparison.to_json() + "\n")
    write_record(folder, record)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``case.json``."""
    (folder / "case.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


class Cache:
    """Found cases by scene, in a file of JSON lines that starts with the key; one with another key is started anew."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.scenes: dict[int, list[FoundCase]] = {}
        lines = path.read_text().splitlines() if path.is_file() else []
        if lines and json.loads(lines[0]) == {"key": key}:
            for line in lines[1:]:
                entry = json.loads(line)
                self.scenes[entry["seed"]] = [FoundCase.model_validate(case) for case in entry["cases"]]
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key}) + "\n")

    def get(self, seed: int) -> list[FoundCase] | None:
        """The cases of a scene, or None when it was not searched."""
        return self.scenes.get(seed)

    def put(self, seed: int, cases: list[FoundCase]) -> list[FoundCase]:
        """Keep the cases of a scene; the file is whole after every scene."""
        self.scenes[seed] = cases
        with self.path.open("a") as file:
            file.write(json.dumps({"seed": seed, "cases": [case.model_dump(mode="json") for case in cases]}) + "\n")
        return cases


def case_record(one: Shown, kind: str) -> dict[str, Any]:
    """What is written about a case, but for where its image or clip comes from; ``kind`` names the difficulty."""
    case = one.case
    return {
        "title": title(one, kind),
        "question": case.question,
        "answer": case.expected,
        "family": case.question_family,
        "kinds": list(case.kinds),
        "hard": case.hard,
        "why": why(one),
        "answers": {method: outcome.answer for method, outcome in case.outcomes.items()},
        "licence": "apache-2.0",
    }


def title(one: Shown, kind: str) -> str:
    """The kind of difficulty, who answers wrong and who stays right, of the methods that are shown.

    Controls are named only where no method of the same fate is.
    """

    def names(right: bool) -> list[str]:
        fate = [outcome for outcome in one.outcomes if outcome.right is right]
        return [outcome.label for outcome in fate if outcome.family != "control"] or [outcome.label for outcome in fate]

    wrong, right = names(False), names(True)
    verb = "answers" if len(wrong) == 1 else "answer"
    return f"{kind.capitalize()}: {' and '.join(wrong)} {verb} wrong, {' and '.join(right)} right"


def why(one: Shown) -> str:
    """Why the case is hard, what the clearest loser and keeper did with the evidence, and how many methods lose it."""
    case = one.case
    loser, keeper = (case.outcomes[method] for method in one.ends())
    return why_words(case.hard, loser, keeper, case.n_evidence, (len(case.lost), len(case.outcomes)))


def why_words(hard: str, loser: Outcome, keeper: Outcome, n_evidence: int, lose_it: tuple[int, int]) -> str:
    """``why`` in words. lose_it: how many methods lose the answer, of how many."""
    return (
        f"{hard} {loser.label} {leaves(loser, n_evidence)} and answers “{loser.answer}”; "
        f"{keeper.label} {leaves(keeper, n_evidence)} and stays right. "
        f"{lose_it[0]} of {lose_it[1]} methods lose this answer."
    )


def leaves(outcome: Outcome, n_evidence: int) -> str:
    """What became of the evidence, in words: of methods that merge, what lives on in other tokens too."""

    def share(count: int) -> str:
        return {0: "none", n_evidence: "all"}.get(count, str(count))

    kept, absorbed = outcome.evidence, outcome.absorbed
    lost = n_evidence - kept - absorbed
    if absorbed and not kept and not lost:
        return "merges all of them into other tokens"
    if absorbed:
        losing = f", loses {share(lost)}" if lost else ""
        return f"keeps {share(kept)} of them, merges {share(absorbed)} into other tokens{losing}"
    if outcome.inside:
        return f"leaves {share(kept)} of them inside the language model"
    return f"hands {share(kept)} of them to the language model"


def stored_why(record: dict[str, Any], comparison: Comparison) -> str:
    """``why`` of a stored case: what its session shows of the evidence, and its answers by all methods."""
    asked = comparison.request
    evidence = evidence_tokens(comparison.grid, asked.evidence, asked.evidence_frames)
    outcomes = list(outcomes_of(comparison, evidence).values())
    loser = min((o for o in outcomes if not o.right), key=lambda outcome: outcome.evidence)
    keeper = max((o for o in outcomes if o.right), key=lambda outcome: outcome.evidence)
    answers = record["answers"].values()
    wrong = sum(normalised(answer) != normalised(record["answer"]) for answer in answers)
    return why_words(record["hard"], loser, keeper, len(evidence), (wrong, len(answers)))
