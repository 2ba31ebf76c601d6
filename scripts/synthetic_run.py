"""Write a run folder of drawn numbers: the shape of a mined run without a model, of any size, within seconds.

    python -m scripts.synthetic_run OUT --cases 50000

For tests and for measuring the workbench. The answers are not a model's: outcomes are drawn, with planted differences
that the workbench must find (``PLANTED``). The same arguments write the same rows.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tokviz.mining.kept import pack_indices
from tokviz.mining.manifest import Manifest
from tokviz.mining.schema import schema_of

METHODS = (
    ("apet", "ApET", "approximation-error", 0.13),
    ("fastv", "FastV", "attention-ranked", 0.20),
    ("divprune", "DivPrune", "diversity", 0.12),
    ("visionzip", "VisionZip", "merging", 0.14),
    ("sparsevlm", "SparseVLM", "text-guided", 0.22),
    ("fastervlm", "FasterVLM", "attention-ranked", 0.16),
    ("pdrop", "PDrop", "progressive", 0.24),
    ("random", "Random", "control", 0.26),
)
"""Key, label, family, and share of right answers that is lost at 64 tokens."""
FAMILIES = ("color", "shape", "count", "place", "text")
PLANTED = ("divprune", "text", 0.55)
"""This method loses this share of the answers of this family, whatever its usual share is."""
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SIDE, PATCHES = 336, 24
TOKENS = PATCHES * PATCHES
N_IMAGES = 60
GROUP = 64
"""Cases in a row group, as mined runs have them: a page of scattered cases reads little."""
OUTCOMES = ("kept", "lost", "rescued", "changed", "wrong")


@dataclass(frozen=True)
class Shape:
    """How large a run is to be. per_part: cases in one Parquet part."""

    cases: int = 300
    methods: int = 8
    budgets: tuple[int, ...] = (192, 128, 64)
    seeds: int = 1
    per_part: int = 256
    seed: int = 0
    expected: bool = True


def write_run(folder: Path, shape: Shape) -> Path:
    """Write a run into ``folder``, which must not exist or be empty; returns it."""
    for name in ("rows", "cases", "media"):
        (folder / name).mkdir(parents=True)
    images = [_image(at) for at in range(min(N_IMAGES, shape.cases))]
    for at, (data, _) in enumerate(images):
        (folder / "media" / f"{at:03}.png").write_bytes(data)
    rng = np.random.default_rng(shape.seed)
    places = _map(rng, shape.cases)
    parts = []
    for number, first in enumerate(range(0, shape.cases, shape.per_part)):
        ordinals = np.arange(first, min(first + shape.per_part, shape.cases))
        parts.append(_write_part(folder, f"part-{number:05}", ordinals, images, shape, rng))
    _write(folder / "map.parquet", {"case_id": [f"case-{i:06}" for i in range(shape.cases)], **places})
    (folder / "manifest.json").write_bytes(_manifest(folder, shape, parts).to_bytes())
    return folder


def _image(number: int) -> tuple[bytes, bytes]:
    """A scene as a PNG file, and its thumbnail as a JPEG."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in rng.integers(170, 240, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y, r = (int(v) for v in rng.integers((10, 10, 12), (SIDE - 60, SIDE - 60, 50)))
        color = tuple(int(v) for v in rng.integers(0, 255, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + r, y + r), fill=color)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG")
    image.resize((160, 160)).save(jpeg, "JPEG", quality=80)
    return png.getvalue(), jpeg.getvalue()


def _map(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Places on the map: a cloud per family."""
    family = np.arange(n) % len(FAMILIES)
    angle = 2 * np.pi * family / len(FAMILIES)
    spread = rng.normal(0, 0.35, (2, n))
    return {"x": (np.cos(angle) + spread[0]).astype("f4"), "y": (np.sin(angle) + spread[1]).astype("f4")}


def _write_part(
    folder: Path, name: str, ordinals: np.ndarray, images: list[Any], shape: Shape, rng: np.random.Generator
) -> dict[str, Any]:
    cases = _cases(ordinals, images, shape, rng)
    rows = _rows(ordinals, cases, shape, rng)
    digests = {}
    digests["sha256"] = _write(
        folder / "rows" / f"{name}.parquet", rows, "rows", GROUP * (len(rows["ordinal"]) // len(ordinals))
    )
    digests["cases_sha256"] = _write(folder / "cases" / f"{name}.parquet", cases, "cases", GROUP)
    return {"name": name, "cases": len(ordinals), "rows": len(rows["ordinal"]), "seconds": 1.0, **digests}


def _cases(ordinals: np.ndarray, images: list[Any], shape: Shape, rng: np.random.Generator) -> dict[str, Any]:
    n = len(ordinals)
    family = [FAMILIES[i % len(FAMILIES)] for i in ordinals]
    truth = [COLORS[(i * 7) % len(COLORS)] for i in ordinals]
    right = rng.random(n) < 0.85
    wrong = [COLORS[(i * 7 + 1) % len(COLORS)] for i in ordinals]
    boxes, inside = zip(*[_evidence(rng) for _ in range(n)], strict=True)
    said = [t if r else w for t, r, w in zip(truth, right, wrong, strict=True)]
    return {
        "case_id": [f"case-{i:06}" for i in ordinals],
        "ordinal": ordinals.astype("i4"),
        "question": [f"what {f} is shape {i % 97} of scene {i % 31}?" for f, i in zip(family, ordinals, strict=True)],
        "answers": [[t] if shape.expected else [] for t in truth],
        "metric": ["exact"] * n,
        "family": family,
        "split": ["val" if i % 4 else "test" for i in ordinals],
        "image": [f"media/{i % len(images):03}.png" for i in ordinals],
        "video": [None] * n,
        "media_sha256": [hashlib.sha256(images[i % len(images)][0]).hexdigest() for i in ordinals],
        "media_width": np.full(n, SIDE, "i4"),
        "media_height": np.full(n, SIDE, "i4"),
        "n_tokens": np.full(n, TOKENS, "i4"),
        "grid_rows": np.full(n, PATCHES, "i4"),
        "grid_cols": np.full(n, PATCHES, "i4"),
        "grid": [_grid_json()] * n,
        "evidence": [[list(box)] for box in boxes],
        "evidence_tokens": np.array([int(mask.sum()) for mask in inside], "i4"),
        "evidence_size": np.array([mask.mean() for mask in inside]),
        "answer": said,
        "right": right if shape.expected else [None] * n,
        "score": right.astype("f8") if shape.expected else [None] * n,
        "margin": rng.gamma(2.0, 1.5, n),
        "logprob": -rng.gamma(1.0, 0.3, n),
        "cls_entropy": rng.normal(4.5, 0.5, n),
        "effective_rank": rng.normal(120, 30, n),
        "difficult": rng.random(n) < 0.3,
        "thumbnail": [images[i % len(images)][1] for i in ordinals],
        "model": ["synthetic"] * n,
    }


def _evidence(rng: np.random.Generator) -> tuple[tuple[float, float, float, float], np.ndarray]:
    """A box of whole patches, and the tokens in it ``(N,)`` bool."""
    size = int(rng.integers(2, 7))
    row, col = (int(v) for v in rng.integers(0, PATCHES - size, 2))
    mask = np.zeros((PATCHES, PATCHES), bool)
    mask[row : row + size, col : col + size] = True
    edge = SIDE / PATCHES
    return (col * edge, row * edge, (col + size) * edge, (row + size) * edge), mask.ravel()


def _grid_json() -> str:
    """A TokenGrid of one view of 24 x 24 patches, row by row."""
    edge = SIDE / PATCHES
    row, col = (axis.ravel().tolist() for axis in np.indices((PATCHES, PATCHES)))
    boxes = [[c * edge, r * edge, (c + 1) * edge, (r + 1) * edge] for r, c in zip(row, col, strict=True)]
    view = {"name": "image", "rows": PATCHES, "cols": PATCHES, "seen": [0, 0, SIDE, SIDE]}
    grid = {"image_size": [SIDE, SIDE], "views": [view], "view": [0] * TOKENS, "row": row, "col": col, "box": boxes}
    return json.dumps(grid)


def _rows(ordinals: np.ndarray, cases: dict[str, Any], shape: Shape, rng: np.random.Generator) -> dict[str, Any]:
    """All rows of a part, case by case."""
    combos = [
        (m, budget, seed)
        for m in range(shape.methods)
        for budget in shape.budgets
        for seed in (range(shape.seeds) if METHODS[m][0] == "random" else range(1))
    ]
    n, k = len(ordinals), len(combos)
    method = np.tile([m for m, _, _ in combos], n)
    budget = np.tile([b for _, b, _ in combos], n)
    case = np.repeat(np.arange(n), k)
    right = np.asarray(cases["score"], dtype=float)[case] == 1 if shape.expected else np.ones(n * k, bool)
    outcome = _outcomes(method, budget, np.asarray(cases["family"])[case], right, rng)
    after = np.isin(outcome, ("kept", "rescued"))
    truth = np.array([COLORS[(i * 7) % len(COLORS)] for i in ordinals])[case]
    before = np.asarray(cases["answer"])[case]
    other = np.array([COLORS[(i * 7 + 2) % len(COLORS)] for i in ordinals])[case]
    answer = np.where(after, truth, np.where(outcome == "wrong", before, other))
    known = shape.expected
    names = np.array([key for key, *_ in METHODS])[method]
    lost = outcome == "lost"
    fate = rng.dirichlet((2, 1, 1), n * k)
    return {
        "case_id": np.asarray(cases["case_id"])[case].tolist(),
        "ordinal": ordinals[case].astype("i4"),
        "method": names.tolist(),
        "method_id": names.tolist(),
        "params": ["{}"] * (n * k),
        "kind": np.array([kind for _, _, kind, _ in METHODS])[method].tolist(),
        "budget": budget.astype("i4"),
        "budget_as": ["published"] * (n * k),
        "seed": np.tile([s for _, _, s in combos], n).astype("i4"),
        "answer": answer.tolist(),
        "right": after if known else [None] * (n * k),
        "score": after.astype("f8") if known else [None] * (n * k),
        "outcome": (outcome if known else np.where(answer == before, "same", "differs")).tolist(),
        "flipped": lost | (outcome == "rescued"),
        "margin": rng.gamma(2.0, 1.2, n * k),
        "logprob": -rng.gamma(1.0, 0.4, n * k),
        "reference_logprob": -rng.gamma(1.0, 0.6, n * k),
        "kept": _kept(budget, rng),
        "n_kept": budget.astype("i4"),
        "n_final": budget.astype("i4"),
        "average_tokens": budget.astype("f8"),
        "evidence_kept": fate[:, 0],
        "evidence_absorbed": fate[:, 1],
        "evidence_lost": fate[:, 2],
        "evidence_gone_layer": rng.integers(0, 12, n * k).astype("i4"),
        **_derived(case, method, budget, lost, n, shape),
        "unpruned_wrong": ~right if known else [None] * (n * k),
        "agreement": rng.random(n * k),
        "effective_rank": rng.normal(60, 10, n * k),
        "layers": ["[576, 64]"] * (n * k),
        "warnings": [[]] * (n * k),
        "error": [None] * (n * k),
    }


def _outcomes(method: Any, budget: Any, family: Any, right: Any, rng: np.random.Generator) -> Any:
    share = np.array([loses for *_, loses in METHODS])[method] * (64 / budget) ** 0.7
    planted = (np.array([key for key, *_ in METHODS])[method] == PLANTED[0]) & (family == PLANTED[1])
    share = np.where(planted, PLANTED[2], share)
    draw = rng.random(len(method))
    when_wrong = np.select([draw < 0.1, draw < 0.3], ["rescued", "changed"], "wrong")
    return np.where(right, np.where(draw < share, "lost", "kept"), when_wrong)


def _kept(budget: Any, rng: np.random.Generator) -> list[bytes]:
    """Random kept sets from a pool: what matters here is their size on the disk and in the browser."""
    pool = {}
    for tokens in np.unique(budget):
        masks = np.zeros((64, TOKENS), bool)
        for mask in masks:
            mask[rng.choice(TOKENS, int(tokens), replace=False)] = True
        pool[int(tokens)] = [pack_indices(np.flatnonzero(mask)) for mask in masks]
    return [pool[int(b)][i] for b, i in zip(budget, rng.integers(0, 64, len(budget)), strict=True)]


def _derived(case: Any, method: Any, budget: Any, lost: Any, n: int, shape: Shape) -> dict[str, Any]:
    """Columns that need several methods: as mined runs define them, at the same budget (first seed of each)."""
    pruner = method != len(METHODS) - 1
    place = np.searchsorted(np.sort(shape.budgets), budget)
    lost_by = np.zeros((n, len(shape.budgets), len(METHODS)), bool)
    np.logical_or.at(lost_by, (case, place, method), lost)
    by_pruners = lost_by[..., : len(METHODS) - 1].sum(-1)[case, place]
    n_pruners = min(shape.methods, len(METHODS) - 1)
    flips = np.where(lost_by, np.sort(shape.budgets)[None, :, None], 0).max(1)[case, method]
    return {
        "only_failure": lost & pruner & (by_pruners == 1),
        "all_failed": by_pruners == n_pruners,
        "random_beats_it": lost & pruner & ~lost_by[case, place, len(METHODS) - 1],
        "flip_budget": [int(value) or None for value in flips],
    }


def _manifest(folder: Path, shape: Shape, parts: list[Any]) -> Manifest:
    nothing = "0" * 64
    methods = [
        {"key": key, "id": key, "label": label, "kind": family, "params": {}, "code_sha256": nothing}
        for key, label, family, _ in METHODS[: shape.methods]
    ]
    facts = {"created": "2026-11-29T00:00:00Z", "command": "python -m scripts.synthetic_run", "methods": methods}
    facts["cases"] = {"name": "synthetic.jsonl", "digest": nothing, "layout": "jsonl", "count": shape.cases}
    facts["cases"]["asked"] = shape.cases
    facts["model"] = {"id": "synthetic", "revision": None, "family": "llava"}
    facts["model"] |= {"weights_sha256": nothing, "settings_sha256": nothing}
    facts |= {"budgets": list(shape.budgets), "budget_as": "published", "seeds": list(range(shape.seeds))}
    facts |= {"seed": shape.seed, "max_new_tokens": 16, "frames": None, "device": "cpu", "dtype": "float32"}
    facts |= {"kernel": "sdpa", "versions": {"tokviz": "0"}, "part_cases": shape.per_part, "parts": parts}
    facts["map"] = {"method": "pca", "cases": shape.cases, "sha256": nothing}
    return Manifest.model_validate({**facts, "status": "done"})


def _write(path: Path, columns: dict[str, Any], table: str | None = None, group: int | None = None) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = None if table is None else schema_of(table)
    if schema is not None:
        n = len(columns["ordinal"])
        columns = {name: columns.get(name, [None] * n) for name in schema.names}
    written = pa.table(columns) if schema is None else pa.Table.from_pydict(columns, schema=schema)
    pq.write_table(written, path, compression="zstd", row_group_size=group)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Read the arguments and write the run."""
    parser = argparse.ArgumentParser(description="Write a synthetic run folder.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--methods", type=int, default=8)
    parser.add_argument("--budgets", default="192,128,64")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--per-part", type=int, default=256)
    given = parser.parse_args()
    budgets = tuple(int(one) for one in given.budgets.split(","))
    shape = Shape(given.cases, given.methods, budgets, given.seeds, given.per_part)
    write_run(given.out, shape)


if __name__ == "__main__":
    main()
