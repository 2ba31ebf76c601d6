"""Measures a saved folder outside the world that it was trained on, and writes JSON and Markdown.

    python -m training.evaluate_general [FOLDER]    # -> training/general.json, training/general.md

What is measured: accuracy on the second world (`testworld`) beside three baselines; other phrasings of the same
questions; questions about what the model has no word for; words that it has but was never shown; and how well a score
of its own features tells photographs from drawings (with the statistics that `python -m training.out_of_world FOLDER`
has put there, else fitted for the report). One process, one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scenes import FAMILIES
from testworld import generate_world
from training import general, general_report, out_of_world, phrasings, tally, unknown_words
from training.general import OWN, SECOND, Asked, Denied, Rephrased
from training.machine import describe_machine
from training.tally import Answered

LIKE_CANONICAL = 0.9
"""Share of equal answers from which a phrasing counts as understood."""
LEAST = 10
"""Phrasings asked less often than this are not judged."""
NO_SHARE = 0.95
BASELINES = ("blind", "grey", "shuffled")


def _share(right: Sequence[bool]) -> dict[str, Any]:
    low, high = tally.wilson(sum(right), len(right))
    return {"share": round(sum(right) / max(1, len(right)), 4), "low": low, "high": high, "n": len(right)}


def accuracy_report(rows: Sequence[Answered]) -> dict[str, Any]:
    """Accuracy on the second world, per family, kind and slice, beside its baselines."""
    return {
        "pictures": len({row.seed for row in rows}),
        "accuracy": tally.by_family(rows),
        "baselines": {name: tally.accuracies(rows, name) for name in BASELINES},
        "kinds": tally.grouped(rows, lambda row: [f"{row.question.family}: {tally.kind_of(row.question)}"]),
        "groups": tally.grouped(rows, lambda row: [f"{row.question.family}: {group}" for group in row.groups]),
        "answers": {
            family: _frequencies([row.question.answer for row in rows if row.question.family == family])
            for family in FAMILIES
        },
    }


def _frequencies(answers: Sequence[str]) -> dict[str, int]:
    return {answer: answers.count(answer) for answer in sorted(set(answers))}


def phrasing_report(rows: Sequence[Rephrased]) -> dict[str, Any]:
    """For every phrasing: how often it is answered like the canonical question, and right; per world and together."""
    table: list[dict[str, Any]] = []
    for form in phrasings.FORMS:
        for template in form.phrasings:
            asked = [row for row in rows if (row.form, row.template) == (form.name, template)]
            table.append({"form": form.name, "phrasing": template, "both": _agreement(asked), **{
                world: _agreement([row for row in asked if row.world == world]) for world in (OWN, SECOND)
            }})  # fmt: skip
    judged = [entry for entry in table if entry["both"]["n"] >= LEAST]
    return {
        "phrasings": len(table),
        "judged": len(judged),
        "understood": sum(entry["both"]["like_canonical"] >= LIKE_CANONICAL for entry in judged),
        "all": _agreement(rows),
        **{world: _agreement([row for row in rows if row.world == world]) for world in (OWN, SECOND)},
        "forms": {form.name: _agreement([row for row in rows if row.form == form.name]) for form in phrasings.FORMS},
        "table": table,
    }


def _agreement(rows: Sequence[Rephrased]) -> dict[str, Any]:
    same = _share([row.other == row.canonical for row in rows])
    return {
        "n": same["n"], "like_canonical": same["share"], "low": same["low"], "high": same["high"],
        "right": _share([row.other == row.right for row in rows])["share"],
        "canonical_right": _share([row.canonical == row.right for row in rows])["share"],
    }  # fmt: skip


def unknown_report(rows: Sequence[Denied], asked: Asked) -> dict[str, Any]:
    """How often what the model has no word for is denied, per world and kind of question."""
    report: dict[str, Any] = {}
    for world in (OWN, SECOND):
        here = [row for row in rows if row.world == world]
        kinds = {kind: [row for row in here if row.kind == kind] for kind in unknown_words.KINDS}
        report[world] = {kind: _denial(part) for kind, part in {**kinds, "all": here}.items() if part}
    words = (*unknown_words.NOUNS, *unknown_words.UNKNOWN_COLORS)
    strangers = unknown_words.strangers(asked.processor, words)
    return {**report, "words": len(strangers), "left_out_as_known": sorted(set(words) - set(strangers))}


def _denial(rows: Sequence[Denied]) -> dict[str, Any]:
    said_no = _share([row.answer == "no" for row in rows])
    mean = sum(row.yes for row in rows) / len(rows)
    return {"no": said_no, "mean_probability_of_yes": round(mean, 4)}


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the report tells."""
    started = time.perf_counter()
    asked = Asked(options.folder)
    worlds = [generate_world(seed) for seed in range(options.pictures)]
    shown = unknown_words.words_shown(options.training_scenes)
    vocabulary = asked.processor.tokenizer.get_vocab()
    return {
        "folder": options.folder.name,
        "second_world": accuracy_report(general.ask_second_world(asked, worlds)),
        "phrasings": phrasing_report(general.ask_other_ways(asked, options.phrased_pictures)),
        "unknown_words": unknown_report(general.ask_the_unknown(asked, options.unknown_pictures), asked),
        "never_shown_in_training": {
            "scenes": options.training_scenes,
            "words": unknown_words.never_shown(vocabulary, shown),
        },
        "out_of_world": out_of_world.measure(asked, options.folder, options.scored_pictures),
        "machine": describe_machine(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("assets/tokviz-tiny"))
    parser.add_argument("--pictures", type=int, default=250, help="of the second world; two questions a family each")
    parser.add_argument("--phrased-pictures", type=int, default=60, help="of the own world, for other phrasings")
    parser.add_argument("--unknown-pictures", type=int, default=60, help="of each world, for unknown words")
    parser.add_argument("--training-scenes", type=int, default=400, help="in which words are looked for")
    parser.add_argument("--scored-pictures", type=int, default=200, help="of each sort, for the out-of-world score")
    parser.add_argument("--out", type=Path, default=Path("training/general.json"), help="a .md is written beside it")
    options = parser.parse_args()
    if min(options.pictures, options.phrased_pictures, options.unknown_pictures, options.scored_pictures) < 2:
        parser.error("expected at least two pictures of everything: the wrong picture is the one before")
    torch.set_num_threads(1)
    result = evaluate(options)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    text = general_report.markdown(result)
    options.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
