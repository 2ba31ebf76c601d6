"""Runs that are written by hand: 20 images with a question of every family, so that every number can be worked out."""

import pytest

from benchmarks.fidelity.measured import FAMILIES, Measured
from tests.tables.small_run import method, write_run
from tokviz.mining.kept import pack_indices
from tokviz.mining.mined import open_run
from tokviz.models.catalog import embedded_folder
from tokviz.pruners import get
from tokviz.records import GridView, TokenGrid
from training.properties import fingerprint

IMAGES = 20
WEIGHTS_OF_THE_RUNNER_BEFORE = "dfb231210ae3"
ABOUT = {
    "command": "python -m tokviz bench x",
    "machine": "a | machine <b>",
    "date": "2026-11-21",
    "versions": {"torch": "2.11.0"},
    "model": "tokviz-tiny",
    "weights": "0123456789ab",
    "n_visual": 576,
    "n_layers": 8,
    "first_seed": 201_000_000,
    "cases": 100,
    "asked": 200,
    "images": IMAGES,
    "failed": 0,
    "seeds": [0, 1],
    "seconds": 12.5,
    "budgets": [192, 64],
    "judged": 64,
    "left_out": [{"label": "EVS", "budget": None, "why": "EVS compares <frames>."}],
    "where": {"apet": {"64": "encoder, layer 4"}},
    "properties": "",
}
GRID = TokenGrid(
    image_size=(240, 240),
    views=[GridView(name="image", rows=24, cols=24, seen=(0, 0, 240, 240))],
    view=[0] * 576,
    row=[i // 24 for i in range(576)],
    col=[i % 24 for i in range(576)],
    box=[(10 * (i % 24), 10 * (i // 24), 10 * (i % 24) + 10, 10 * (i // 24) + 10) for i in range(576)],
)


def entry(id, **params):
    """A method as a manifest has it, its parameters complete."""
    key = ", ".join([id, *(f"{name}={value}" for name, value in params.items())])
    pruner = get(id)
    return method(id, key=key, label=pruner.label, kind=pruner.family, params=dict(pruner.complete(params)))


def flags(**right):
    """Whether every case is right, from how many of the 20 of each family are (the first ones), else as unpruned."""
    counts = {"existence": 20, "attribute": 20, "relation": 20, "counting": 10, "reading": 20, **right}
    return [image < counts[family] for image in range(IMAGES) for family in FAMILIES]


def measured(folder, answers, methods, columns=None):
    """A run whose unpruned model is right but in half of counting. The bottom right token is the evidence."""
    questions = {"existence": "is there a star?", "relation": "where is the star?", "counting": "how many stars?"}
    cases = [
        {
            "right": right,
            "family": FAMILIES[number % 5],
            "question": questions.get(FAMILIES[number % 5], "what color is it?"),
            "answers": [["yes", "no"][number // 5 % 4 == 0]],
            "media_sha256": f"{number // 5:064d}",
            "grid": GRID.model_dump_json(),
            "grid_rows": 24,
            "evidence": [[230.0, 230.0, 240.0, 240.0]],
        }
        for number, right in enumerate(flags())
    ]
    kept = {"kept": pack_indices(range(64)), "n_kept": 64, "n_final": 64, "average_tokens": 64.0}
    evidence = {"evidence_kept": 0.25, "evidence_absorbed": 0.5, "evidence_lost": 0.25}
    filled = {key: kept | evidence | {"answer": "x"} | (columns or {}).get(key, {}) for key in answers}
    return Measured(open_run(write_run(folder, cases, answers, methods, columns=filled)))


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """At 64 ApET has 100, 100, 50, 50 and 100 percent of what the unpruned model has: 80. Random has 80 and 90."""
    ids = ("random", "uniform", "pool", "downsample", "oracle", "apet", "fastv")
    apet, half = flags(relation=10, counting=5), [not right for right in flags()]
    oracle = [None if i % 10 == 0 else right for i, right in enumerate(flags())]
    at_64 = {
        "random": [flags(existence=0), flags(existence=10)],
        "uniform": [flags(existence=10)],
        "pool": [flags(existence=10)],
        "downsample": [half],
        "oracle": [oracle],
        "apet": [apet],
        "fastv": [flags(reading=10)],
    }
    at_192 = {key: [flags()] * len(at_64[key]) for key in ids}
    answers = {(key, 64): seeds for key, seeds in at_64.items()} | {(key, 192): seeds for key, seeds in at_192.items()}
    return measured(tmp_path_factory.mktemp("whole"), answers, [entry(id) for id in ids])


@pytest.fixture(scope="session")
def deep(tmp_path_factory):
    """FastV beside random tokens at two layers: better by 10 points at the first, and the same at the second."""
    methods = [entry(id, layer=layer) for id in ("random_at", "fastv") for layer in (1, 4)]
    keys = [each.key for each in methods]
    worse, same = [flags(existence=0), flags(existence=20)], [flags(), flags()]
    answers = dict(zip([(key, 64) for key in keys], [worse, same, [flags()], [flags()]], strict=True))
    return measured(tmp_path_factory.mktemp("deep"), answers, methods)


def is_of_the_runner_before(found, form):
    """Whether committed numbers are those of the runner that mined runs replaced: of this format, of these weights.

    Answers and kept sets of both were equal row by row, so that such pages stay true as long as the weights do: whoever
    replaces them has to make the pages anew.
    """
    if found["format"] == form:
        return False
    assert found["format"] == form - 1, "of neither runner"
    assert fingerprint(embedded_folder()) == WEIGHTS_OF_THE_RUNNER_BEFORE, "other weights: tokviz bench makes it anew"
    return True
