"""Rooms import one way, and each without the libraries that it must not need. Read from the source; a few interpreters
prove that the reading is true.
"""

import json
import subprocess
import sys

import pytest

from scripts.house import PACKAGE, all_imports, libraries_of, loads, modules, room_of, upward

HEAVY = {"torch", "gradio", "transformers", "matplotlib", "spaces"}
MAY_LOAD = {
    "base": set(),
    "media": set(),
    "pruners": {"torch"},
    "models": {"torch", "transformers"},
    "engine": {"torch", "transformers"},
    "runs": {"torch", "transformers"},
    "cases": set(),
    "tables": set(),
    "mining": {"torch", "transformers"},
    "viz": {"matplotlib"},
    "serving": set(),
    "ui": {"gradio", "torch", "matplotlib"},
    "api": {"torch", "transformers"},
    "cli": {"matplotlib"},
}
"""Which heavy library a room's modules may import when they are imported: so that pages and help appear at once."""

LAZY_UPWARDS = {
    ("tokviz.comparison", "tokviz.viz.tables"): "a comparison makes its own table",
    ("tokviz.comparison", "tokviz.viz.figures"): "a comparison draws itself",
    ("tokviz.horizon", "tokviz.viz.horizon"): "a horizon makes its own table and draws itself",
    ("tokviz.rescues", "tokviz.viz.rescues"): "a rescue makes its own table and draws itself",
    ("tokviz.sweeps", "tokviz.viz.sweeps"): "a sweep makes its own table and draws itself",
    ("tokviz.comparison", "tokviz.runs.metrics"): "a comparison compares its runs by what is measured on them",
    ("tokviz.attention", "tokviz.viz.inside"): "a look inside makes its own table and draws itself",
    ("tokviz.comparison", "tokviz.runs.why"): "a comparison says why its runs kept or lost the evidence",
    ("tokviz.comparison", "tokviz.runs.reproduce"): "a comparison says how it is run again",
    ("tokviz.comparison", "tokviz.viz.patches"): "a comparison tables its patches",
    ("tokviz.comparison", "tokviz.ui.takeaway"): "a comparison packs everything into one file, without gradio",
    ("tokviz.comparison", "tokviz.ui.offline"): "a comparison saves the page of its lanes, which needs no gradio",
    ("tokviz.comparison", "tokviz.viz.notebook"): "a comparison shows itself in a notebook",
}
"""Imports inside functions that go up, with the reason."""


def test_no_room_imports_from_above_or_beside():
    wrong = [entry for entry in upward() if (entry.source, entry.target) not in LAZY_UPWARDS]
    assert not wrong, "\n".join(f"{entry.kind}: {entry.source} -> {entry.target}" for entry in wrong)


@pytest.mark.parametrize("room", sorted(MAY_LOAD))
def test_a_room_loads_no_heavy_library_but_its_own(room):
    for module in modules():
        if room_of(module) == room:
            assert not (libraries_of(module) & HEAVY) - MAY_LOAD[room], module


MAY_SAY = {
    "gradio": {"ui"},
    "spaces": {"ui"},
    "transformers": {"models", "engine"},
    "torch": {"base", "pruners", "models", "engine", "runs", "mining", "api"},
    "ray": {"mining"},
}
"""Which rooms may import a library at all, inside functions too."""


def test_a_library_is_imported_only_where_it_belongs():
    for module, path in modules().items():
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("import", "from"):
                library = words[1].split(".")[0]
                assert room_of(module) in MAY_SAY.get(library, {room_of(module)}), f"{module}: {line}"
                assert not words[1].startswith("matplotlib.pyplot"), f"{module}: pyplot holds figures of all threads"


@pytest.mark.parametrize(
    ("room", "unknown"),
    [("models", "pruners"), ("engine", "pruners"), ("media", "runs"), ("ui", "engine"), ("viz", "engine")],
)
def test_a_room_does_not_know_another_on_any_floor(room, unknown):
    """What floors alone allow: models and engine know no method, pages and figures know only what is recorded."""
    known = [e for e in all_imports() if room_of(e.source) == room and room_of(e.target) == unknown]
    assert not known, known


@pytest.mark.parametrize(
    "module", ["tokviz.runs.examples", "tokviz.runs.metrics", "tokviz.runs.compare", "tokviz.comparison"]
)
def test_what_is_stored_is_read_without_torch(module):
    assert not libraries_of(module) & {"torch", "gradio", "transformers"}
    assert not loads(module, "tokviz.types")


@pytest.mark.generator
def test_what_measures_in_processes_of_its_own_loads_no_page():
    without_page = "import sys, benchmarks.vtw_calibration, benchmarks.fidelity.plan; "
    absent = ["gradio", "tokviz.runs.compare", "tokviz.runs.job", "tokviz.ui"]
    assert _output_of(f"{without_page}print(sorted(set({absent!r}) & set(sys.modules)))") == "[]"


BESIDE = "scenes, benchmarks.fidelity.document, benchmarks.fidelity.papers, benchmarks.failure_cases"
"""What lies beside the package and is light as well."""

IN_THIS_ORDER = {
    "tokviz": {"torch", "gradio", "transformers", "matplotlib"},
    BESIDE: {"torch", "gradio", "transformers", "matplotlib.pyplot"},
    "tokviz.cli": {"torch", "gradio", "transformers"},
    "tokviz.ui.build": {"transformers", "tokviz.engine", "tokviz.models.loading"},
}
"""What is imported one after the other, and what must be absent then: a module that comes later hides nothing of those
before it, and what those loaded only makes it harder for it.
"""


@pytest.fixture(scope="module")
def loaded():
    """Of each, what was there all the same. One interpreter, since starting it takes longer than all else."""
    steps = "".join(
        f"import {what}; print(json.dumps(sorted(set({sorted(absent)!r}) & set(sys.modules))))\n"
        for what, absent in IN_THIS_ORDER.items()
    )
    lines = _output_of(f"import json, sys\n{steps}").splitlines()
    return dict(zip(IN_THIS_ORDER, map(json.loads, lines), strict=True))


def test_what_lies_beside_the_package_loads_no_heavy_library_either(loaded):
    assert loaded[BESIDE] == []


@pytest.mark.parametrize("module", [what for what in IN_THIS_ORDER if what != BESIDE])
def test_a_fresh_interpreter_agrees(loaded, module):
    assert loaded[module] == []
    for name in IN_THIS_ORDER[module]:
        assert not (loads(module, name) if name.startswith(PACKAGE) else name in libraries_of(module)), name


def _output_of(program):
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
