"""Find the shipped examples by search over held-out scenes and write them to ``examples/``.

    python -m scripts.build_examples --minutes 8

Run it again whenever the embedded model changes: a test checks that the stored sessions are what the model does now.
The search goes on where the last one stopped (``--cache``) unless the weights or the code have changed. The same number
of scenes gives the same examples.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import tokviz
from scenes import EXAMPLE_SEEDS, Box, generate_scene
from scripts.cases.choosing import Shown, choose, missed_goals
from scripts.cases.search import FoundCase, Outcome, find_flips, outcomes_of, separate
from tokviz.media.images import Picture, read_image, stored_image
from tokviz.models.catalog import EMBEDDED_MODEL, embedded_folder
from tokviz.models.checkpoint import planning_before_loading
from tokviz.models.loading import VisionLanguageModel
from tokviz.records import Comparison
from tokviz.runs.metrics import evidence_tokens, normalised

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PICTURES = "[0-9]*"
"""Folders of examples with pictures; those of clips are made by ``build_clip_examples``."""
CACHE = ROOT / "runs" / "examples.jsonl"
FIRST = ("random", "fastervlm", "apet", "divprune", "prumerge_plus", "cdpruner", "pdrop")
"""One method per family: all others run only where one of these lost the answer."""
ROOMS = ("*.py", "cases/[ds]*.py", "engine/*.py", "models/*.py", "pruners/*.py", "scenes/*.py")
"""The code that found cases depend on."""
LEAST = 8


def canvas(seed: int) -> tuple[int, int]:
    """Width and height in pixels: sharp on the page; every third scene is wide, so that the unseen margin shows."""
    return (640, 480) if seed % 3 == 0 else (480, 480)


def main() -> int:
    """Search, choose a varied handful, write each as picture, case and session; 1 when not everything is covered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400, help="search at most so many scenes (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop the search after so many minutes")
    parser.add_argument("--budget", type=int, default=64, help="visual tokens (default: %(default)s)")
    parser.add_argument("--count", type=int, default=12, help="examples to write (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where found cases are kept (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--refresh", action="store_true", help="run the stored cases again instead of searching")
    parser.add_argument("--reword", action="store_true", help="write the stored cases' sentences anew; runs no model")
    parser.add_argument("--dry", action="store_true", help="say what would be written, write nothing")
    arguments = parser.parse_args()
    if arguments.reword:
        for path in sorted(EXAMPLES.glob("*/case.json")):
            reword(path.parent)
        return 0
    torch.set_num_threads(arguments.threads)
    vlm = tokviz.load()
    if arguments.refresh:
        refresh(vlm)
        return 0
    found, searched = search(vlm, arguments)
    chosen = choose(found, arguments.count)
    missed = missed_goals(chosen)
    for one in chosen:
        print(f"{one.case.seed} {one.case.question} -> {one.case.expected}: {title(one, one.kind)}. {why(one)}")
    print(
        f"{len(found)} separating questions in {searched} scenes; {len(chosen)} chosen; missing: {missed or 'nothing'}"
    )
    if missed or len(chosen) < LEAST:
        print("Search more scenes: the examples do not cover everything.", file=sys.stderr)
        return 1
    if not arguments.dry:
        rewrite(vlm, chosen, arguments.budget)
    return 0


def search(vlm: VisionLanguageModel, arguments: argparse.Namespace) -> tuple[list[FoundCase], int]:
    """Cases of all scenes that are searched now or were searched before, and the number of these scenes."""
    methods = runnable()
    cache = Cache(arguments.cache, key_of(methods, arguments.budget, embedded_folder() / "model.safetensors", FIRST))
    deadline = time.monotonic() + 60 * arguments.minutes
    done, found = 0, list[FoundCase]()
    for seed in EXAMPLE_SEEDS[: arguments.scenes]:
        cases = cache.get(seed)
        if cases is None:
            if time.monotonic() > deadline:
                break
            flips = find_flips(vlm, [seed], methods, arguments.budget, first=FIRST, size=canvas(seed))
            cases = cache.put(seed, list(flips))
            print(f"scene {seed}: {len(cases)} found", file=sys.stderr)
        found += cases
        done += 1
    return found, done


def runnable() -> list[str]:
    """Ids of the methods that the embedded model can serve, without the unpruned run."""
    info = planning_before_loading(EMBEDDED_MODEL)
    if info is None:
        raise RuntimeError("The embedded model's configuration does not say what methods may plan with.")
    return [p.id for p in tokviz.methods() if p.id != "full" and p.missing(info) is None]


def key_of(methods: Sequence[str], budget: int, weights: Path, first: Sequence[str]) -> str:
    """A digest of everything that found cases depend on: weights, code, methods, budget."""
    digest = hashlib.sha256(json.dumps([list(methods), budget, list(first)]).encode())
    code = [path for room in ROOMS for path in sorted((ROOT / "tokviz").glob(room))]
    for path in [weights, *code]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


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


def refresh(vlm: VisionLanguageModel) -> None:
    """Write the session of every stored case anew, with the same picture, question and methods."""
    for path in sorted(EXAMPLES.glob(f"{PICTURES}/session.json")):
        stored = Comparison.from_json(path.read_text())
        request = stored.request
        again = run(
            vlm, read_image(stored_image(stored.picture)), request.question, request.methods, request.budget,
            str(request.expected_answer), request.evidence,
        )  # fmt: skip
        path.write_text(again.to_json() + "\n")


def run(
    vlm: VisionLanguageModel, picture: Picture, question: str, methods: Sequence[str], budget: int, expected: str,
    evidence: Sequence[Box],
) -> Comparison:  # fmt: skip
    """A comparison as it is stored: timed as medians of 5."""
    return tokviz.compare(
        vlm, picture, question, methods, budget, repeats=5, max_new_tokens=8, expected=expected, evidence=evidence
    )


def rewrite(vlm: VisionLanguageModel, chosen: Sequence[Shown], budget: int) -> None:
    """Replace all examples with pictures; everything is computed before anything is removed."""
    sessions = [session(vlm, one, budget) for one in chosen]
    for folder in EXAMPLES.glob(PICTURES):
        shutil.rmtree(folder)
    for number, (one, comparison) in enumerate(zip(chosen, sessions, strict=True), 1):
        write(one, comparison, EXAMPLES / f"{number:02d}-{one.case.question_family}")


def session(vlm: VisionLanguageModel, one: Shown, budget: int) -> Comparison:
    """Run a chosen case with the methods that are shown. Raises RuntimeError when it answers otherwise than before."""
    case = one.case
    scene = generate_scene(case.seed, size=case.size)
    question = next(q for q in scene.questions if q.text == case.question)
    comparison = run(
        vlm,
        read_image(Image.fromarray(scene.image)),
        case.question,
        one.methods,
        budget,
        case.expected,
        question.evidence,
    )
    if separate(comparison) != tuple(
        tuple(method for method in one.methods if case.outcomes[method].right is right) for right in (False, True)
    ):
        raise RuntimeError(f"Scene {case.seed} gives other answers when it is run again: they are not deterministic.")
    return comparison


def write(one: Shown, comparison: Comparison, folder: Path) -> None:
    """Write ``picture.png``, ``case.json`` and ``session.json``."""
    folder.mkdir(parents=True)
    case = one.case
    stored_image(comparison.picture).save(folder / "picture.png", optimize=True)
    (folder / "session.json").write_text(comparison.to_json() + "\n")
    record = case_record(one, one.kind) | {
        "scene": {"seed": case.seed, "size": list(case.size)},
        "source": f"generate_scene({case.seed}, size={case.size}), found by scripts.build_examples",
    }
    (folder / "case.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def case_record(one: Shown, kind: str) -> dict[str, Any]:
    """What is written about a case, but for where its picture or clip comes from; ``kind`` names the difficulty."""
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
    """The kind of difficulty, who answers wrong and who stays right, of the methods that are shown."""

    def names(right: bool) -> str:
        return " and ".join(outcome.label for outcome in one.outcomes if outcome.right is right)

    verb = "answers" if sum(not outcome.right for outcome in one.outcomes) == 1 else "answer"
    return f"{kind.capitalize()}: {names(False)} {verb} wrong, {names(True)} right"


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


def reword(folder: Path) -> None:
    """Write the sentences of a stored case anew from its session; no model runs."""
    path = folder / "case.json"
    record = json.loads(path.read_text())
    record["why"] = stored_why(record, Comparison.from_json((folder / "session.json").read_text()))
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


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


if __name__ == "__main__":
    sys.exit(main())
