"""The report of `evaluate_general` in Markdown, from its JSON alone."""

from __future__ import annotations

from typing import Any

from scenes import FAMILIES
from training.general import OWN, SECOND
from training.tables import flow, interval, percent
from training.tables import markdown as table

TARGETS = {"existence": 0.92, "attribute": 0.92, "counting": 0.75, "spatial": 0.85, "reading": 0.6}
"""Accuracy wanted on the second world."""
LEAST_ASKED = 15
"""Kinds and slices with fewer questions are left out of the tables (the JSON has them)."""


def _accuracy(numbers: dict[str, Any]) -> list[str]:
    rows = [
        [family, str(numbers["accuracy"][family]["n"]), interval(numbers["accuracy"][family]), percent(TARGETS[family]),
         *(percent(numbers["baselines"][name][family]) for name in ("blind", "grey", "shuffled"))]
        for family in FAMILIES
    ]  # fmt: skip
    head = ["family", "questions", "% right (95% interval)", "target", "most frequent answer", "grey", "wrong picture"]
    slices = [
        [*key.split(": ", 1), str(entry["n"]), interval(entry)]
        for part in ("kinds", "groups")
        for key, entry in numbers[part].items()
        if entry["n"] >= LEAST_ASKED
    ]
    return [
        "## The second world",
        flow(
            f'{numbers["pictures"]} pictures of `testworld`, which training never sees. "Most frequent answer" knows '
            'how often each answer occurs in these very questions; "grey" shows an empty picture, "wrong picture" '
            "the one before."
        ),
        table(head, rows),
        table(["family", "kind or slice", "questions", "% right (95% interval)"], slices),
    ]


def _interval(entry: dict[str, Any]) -> str:
    return interval({**entry, "accuracy": entry["share"]})


def _agreement(entry: dict[str, Any]) -> list[str]:
    if not entry["n"]:
        return ["-", "-", "-"]
    return [percent(entry["like_canonical"]), percent(entry["right"]), percent(entry["canonical_right"])]


def _phrasings(numbers: dict[str, Any]) -> list[str]:
    together = numbers["all"]
    rows = [
        [entry["form"], entry["phrasing"], str(entry["both"]["n"]), *_agreement(entry[OWN]), *_agreement(entry[SECOND])]
        for entry in numbers["table"]
    ]
    head = ["form", "phrasing", "asked", *(f"{name}, {world}" for world in (OWN, SECOND)
            for name in ("like canonical", "right", "canonical right"))]  # fmt: skip
    return [
        "## Other phrasings",
        flow(
            f"{numbers['understood']} of {numbers['judged']} phrasings are answered like the canonical question at "
            f"least 90% of the time ({numbers['phrasings'] - numbers['judged']} more were asked too seldom to be "
            f"judged). Of all {together['n']} questions {percent(together['like_canonical'])}% were answered like the "
            f"canonical one, {percent(together['right'])}% right (canonical: {percent(together['canonical_right'])}%)."
        ),
        table(head, rows),
    ]


def _unknown(numbers: dict[str, Any], never: dict[str, Any]) -> list[str]:
    rows = [
        [world, kind, str(entry["no"]["n"]), _interval(entry["no"]),
         f"{entry['mean_probability_of_yes']:.3f}"]
        for world in (OWN, SECOND)
        for kind, entry in numbers[world].items()
    ]  # fmt: skip
    known = ", ".join(numbers["left_out_as_known"]) or "none"
    return [
        "## What it has no word for",
        flow(
            f"Questions about {numbers['words']} nouns and colours that the tokenizer does not have (left out because "
            f'it does: {known}); the right answer is always "no", at least 95% of the time wanted.'
        ),
        table(["world", "unknown", "questions", '% "no" (95% interval)', 'mean probability of "yes"'], rows),
        flow(
            f"Words of the vocabulary that {never['scenes']} training scenes never show: "
            f"{', '.join(never['words']) or 'none'}."
        ),
    ]


def _out_of_world(numbers: dict[str, Any]) -> list[str]:
    rows = [
        [name, str(entry["n"]), f"{entry['median']:.2f}", _interval(entry["flagged"]),
         "-" if entry["auroc"] is None else f"{entry['auroc']:.3f}"]
        for name, entry in numbers["sorts"].items()
    ]  # fmt: skip
    return [
        "## Outside its world",
        flow(
            f"Score: {numbers['score']} Statistics: {numbers['statistics']}. Above {numbers['threshold']:.2f} a "
            f"picture counts as outside; {percent(1 - numbers['false_alarms_wanted'])}% of training scenes that the "
            "statistics were not fitted on stay below. AUROC: against the held-out scenes; photographs against the "
            f"drawn grounds of the second world: {numbers['auroc_photographs_second_world'] or '-'}, and "
            f"{percent(numbers['photographs_beyond_second_world'] or 0.0)}% of them score higher than 95% of these. "
            f"All are cuts of {numbers['photographs']} photographs, so the intervals of photographs are too narrow."
        ),
        table(["pictures", "number", "median score", "% called outside (95% interval)", "AUROC"], rows),
    ]


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    parts = [
        f"# Outside its own world: `{result['folder']}`",
        flow(f"Written by `python -m training.evaluate_general`; {result['machine']}, {result['seconds']:.0f} s."),
        *_accuracy(result["second_world"]),
        *_phrasings(result["phrasings"]),
        *_unknown(result["unknown_words"], result["never_shown_in_training"]),
        *_out_of_world(result["out_of_world"]),
    ]
    return "\n\n".join(parts) + "\n"
