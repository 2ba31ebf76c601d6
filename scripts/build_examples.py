"""Find the shipped examples by search over held-out scenes and write them to ``examples/``.

    python -m scripts.build_examples --scenes 150 --budget 16

Run it again whenever the embedded model changes: a test checks that the stored sessions are what the model does now.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from PIL import Image

import tokviz
from tokviz.cases.search import FoundCase, find_flips, separate
from tokviz.images import stored_image
from tokviz.measures import evidence_tokens, seen_by_llm
from tokviz.models.loading import VisionLanguageModel
from tokviz.records import Comparison
from tokviz.scenes import EXAMPLE_SEEDS, generate_scene

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
METHODS = ("fastervlm", "apet", "divprune", "todre", "random", "uniform")
"""Methods that hand the same number of tokens to the LLM (FastV lets its first blocks see all of them)."""
CONTROLS = {"random", "uniform"}


def canvas(seed: int) -> tuple[int, int]:
    """Width and height in pixels: sharp on the page; every third scene is wide, so that the unseen margin shows."""
    return (640, 480) if seed % 3 == 0 else (480, 480)


def main() -> None:
    """Search, choose a varied handful, write each as picture, case and session."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--budget", type=int, default=16)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--refresh", action="store_true", help="run the stored cases again instead of searching")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    vlm = tokviz.load()
    if arguments.refresh:
        refresh(vlm)
        return
    started = time.perf_counter()
    seeds = EXAMPLE_SEEDS[: arguments.scenes]
    found = [case for seed in seeds for case in find_flips(vlm, [seed], METHODS, arguments.budget, size=canvas(seed))]
    chosen = choose(found, arguments.count)
    print(f"{len(found)} separating questions in {len(seeds)} scenes, {time.perf_counter() - started:.0f} s")
    shutil.rmtree(EXAMPLES, ignore_errors=True)
    for number, case in enumerate(chosen, 1):
        case = shown(vlm, case)
        write(case, EXAMPLES / f"{number:02d}-{case.question_family}")
        print(f"{number}: {case.seed} {case.comparison.request.question} lost={case.lost} kept={case.kept}")


def refresh(vlm: VisionLanguageModel) -> None:
    """Write the session of every stored case anew, with the same picture, question and methods."""
    for path in sorted(EXAMPLES.glob("*/session.json")):
        path.write_text(run_again(vlm, Comparison.from_json(path.read_text())).to_json() + "\n")


def run_again(vlm: VisionLanguageModel, stored: Comparison, methods: list[str] | None = None) -> Comparison:
    """The same request again, timed as medians of 5."""
    request = stored.request
    return tokviz.compare(
        vlm, stored_image(stored.picture), request.question, methods or request.methods, request.budget,
        seed=request.seed, repeats=5, max_new_tokens=request.max_new_tokens, expected=request.expected_answer,
        evidence=request.evidence,
    )  # fmt: skip


def choose(found: list[FoundCase], count: int) -> list[FoundCase]:
    """Greedy and deterministic: each next case prefers question families, losers and keepers not shown yet."""
    chosen: list[FoundCase] = []
    pool = [case for case in found if published(case.lost) and published(case.kept) and is_plain(case)]
    while pool and len(chosen) < count:
        best = min(pool, key=partial(novelty_rank, chosen=tuple(chosen)))
        chosen.append(best)
        pool = [case for case in pool if case.seed != best.seed]
    return chosen


def novelty_rank(case: FoundCase, chosen: tuple[FoundCase, ...]) -> tuple[float, ...]:
    """Smaller is better: question family, loser and keeper shown less often; then plain pictures, sure answers."""
    families = Counter(other.question_family for other in chosen)
    losers = Counter(clearest(other)[0] for other in chosen)
    keepers = Counter(clearest(other)[1] for other in chosen)
    loser, keeper = clearest(case)
    news = losers[loser] + keepers[keeper]
    return (families[case.question_family], news, -case.contrast, -case.confidence)


def clearest(case: FoundCase) -> tuple[str, str]:
    """The method that lost the answer with the least evidence, and the one that kept it with the most."""

    def kept(method: str) -> int:
        return evidence_kept(case, method)

    return min(published(case.lost), key=kept), max(published(case.kept), key=kept)


def is_plain(case: FoundCase) -> bool:
    """Whether the overlays alone explain the answers: half of the evidence lies between loser and keeper."""
    evidence = evidence_tokens(case.comparison.grid, case.comparison.request.evidence)
    loser, keeper = clearest(case)
    return 2 * (evidence_kept(case, keeper) - evidence_kept(case, loser)) >= len(evidence)


def evidence_kept(case: FoundCase, method: str) -> int:
    """How many of the patches that show the answer the method hands to the LLM."""
    grid = case.comparison.grid
    evidence = evidence_tokens(grid, case.comparison.request.evidence)
    return len(set(evidence) & set(seen_by_llm(case.comparison.run(method), grid.n_tokens)))


def published(methods: tuple[str, ...]) -> list[str]:
    """The methods that are no controls."""
    return [method for method in methods if method not in CONTROLS]


def shown(vlm: VisionLanguageModel, case: FoundCase) -> FoundCase:
    """The case with the three methods that tell most (four lanes fill a row of the page), timed as medians of 5."""
    comparison = case.comparison
    lost = sorted(published(case.lost), key=lambda method: evidence_kept(case, method))
    stayed = sorted(published(case.kept), key=lambda method: -evidence_kept(case, method))
    methods = (lost[:1] + stayed[:2] + lost[1:])[:3]
    again = run_again(vlm, comparison, [method for method in METHODS if method in methods])
    found = separate(again, case.seed, case.question_family)
    if found is None:
        raise RuntimeError(f"scene {case.seed} separates no more when it is run again: answers are not deterministic")
    return found


def write(case: FoundCase, folder: Path) -> None:
    """Write ``picture.png``, ``case.json`` and ``session.json``."""
    folder.mkdir(parents=True)
    comparison = case.comparison
    scene = generate_scene(case.seed, size=canvas(case.seed))
    Image.fromarray(scene.image).save(folder / "picture.png", optimize=True)
    (folder / "session.json").write_text(comparison.to_json() + "\n")
    record = {
        "title": title(case),
        "question": comparison.request.question,
        "answer": comparison.request.expected_answer,
        "family": case.question_family,
        "why": why(case),
        "source": f"generate_scene({case.seed}, size={canvas(case.seed)}), found by scripts.build_examples",
        "licence": "apache-2.0",
    }
    (folder / "case.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def title(case: FoundCase) -> str:
    """Who answers wrong and who stays right, of the methods that are shown."""

    def names(methods: tuple[str, ...]) -> str:
        return " and ".join(case.comparison.run(method).label for method in published(methods))

    verb = "answers" if len(published(case.lost)) == 1 else "answer"
    return f"{names(case.lost)} {verb} wrong, {names(case.kept)} right"


def why(case: FoundCase) -> str:
    """One sentence from what was measured: how much of the evidence the clearest loser and keeper kept."""
    comparison = case.comparison
    loser, keeper = clearest(case)
    lost_run, kept_run = comparison.run(loser), comparison.run(keeper)
    evidence = len(evidence_tokens(comparison.grid, comparison.request.evidence))
    return (
        f"{evidence} of {comparison.grid.n_tokens} patches show the answer: {lost_run.label} hands "
        f"{evidence_kept(case, loser)} of them to the language model and answers “{lost_run.answer}”; "
        f"{kept_run.label} hands over {evidence_kept(case, keeper)} and stays right."
    )


if __name__ == "__main__":
    main()
