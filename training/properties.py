"""Measures the properties that make pruning methods behave as they do, of a saved LLaVA on held-out scenes.

    python -m training.properties FOLDER --label "third edition"

Six properties: lengths of tokens, their alignment with words, what [CLS] attends to, how blocks change tokens, how long
text looks at the picture, and whether it prefers late tokens. What is drawn where is known, so that each measure can be
asked whether it tells evidence from background. Any folder of stock LLaVA classes with a [CLS] tower will do. Results
are kept under their label beside those of other models, as JSON and as a table with targets and published numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenes import HELD_OUT_SEEDS, generate_scene
from tokviz.pruners import v2drop
from training import property_tables
from training.machine import describe_machine
from training.property_measures import summarise
from training.property_signals import Subject
from training.property_values import Values, polymorphic_layers, scene_side, scene_values

OUT = Path(__file__).with_name("properties.json")


def measure(subject: Subject, count: int, per_family: int, say: bool = False) -> dict[str, Any]:
    """All measures on the first `count` held-out scenes with questions, with 95% intervals over scenes."""
    side = scene_side(subject)
    found: list[dict[str, Values]] = []
    strongest = [Counter[str]() for _ in range(subject.depth)]
    asked = 0
    for seed in HELD_OUT_SEEDS:
        if len(found) == count:
            break
        scene = generate_scene(seed, (side, side), questions_per_family=per_family)
        if not scene.questions:
            continue
        values, words = scene_values(subject, scene)
        found.append(values)
        strongest = [total + block for total, block in zip(strongest, words, strict=True)]
        asked += len(scene.questions)
        if say:
            print(f"\r{len(found)} of {count} scenes", end="", file=sys.stderr, flush=True)
    stages = v2drop.published_layers(subject.depth)
    return {
        "scenes": count,
        "first_seed": HELD_OUT_SEEDS.start,
        "questions": asked,
        "visual_tokens": subject.grid**2,
        "tower_blocks": subject.tower_depth,
        "decoder_blocks": subject.depth,
        "cls_block": subject.feature_layer - 1,
        "v2drop_layers": stages,
        "v2drop_blocks": [layer - 1 for layer in stages],
        "polymorphic_layers": polymorphic_layers(subject),
        "strongest_words": [
            {word: round(n / block.total(), 4) for word, n in block.most_common(4)} for block in strongest
        ],
        **{name: summarise([scene[name] for scene in found]) for name in found[0]},
    }


def fingerprint(folder: Path) -> str:
    """The first digits of the SHA-256 of the weights, which say which model was measured."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("assets/tokviz-tiny"))
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--questions-per-family", type=int, default=2)
    parser.add_argument("--label", default=None, help="column of the table; default: the name of the folder")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON; the table goes beside it as .md")
    options = parser.parse_args(arguments)
    if options.scenes < 1 or options.questions_per_family < 1:
        parser.error("expected at least one scene and one question per family")
    started = time.perf_counter()
    subject = Subject.of(options.folder)
    result = measure(subject, options.scenes, options.questions_per_family, say=True)
    result.update(
        weights=fingerprint(options.folder),
        machine=describe_machine(),
        seconds=round(time.perf_counter() - started, 1),
    )
    models = json.loads(options.out.read_text()) if options.out.exists() else {}
    models[options.label or options.folder.resolve().name] = result
    options.out.write_text(json.dumps(models, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(property_tables.page(models))
    print(f"\nwrote {options.out.name} and {options.out.with_suffix('.md').name}", file=sys.stderr)


if __name__ == "__main__":
    main()
