"""Rooms import one way, and each without the libraries that it must not need. Read from the source; three interpreters
prove that the reading is true.
"""

import subprocess
import sys

import pytest

from scripts.house import PACKAGE, libraries_of, loads, modules, room_of, upward

HEAVY = {"torch", "gradio", "transformers", "matplotlib", "spaces"}
MAY_LOAD = {
    "base": set(),
    "media": set(),
    "pruners": {"torch"},
    "models": {"torch", "transformers"},
    "engine": {"torch", "transformers"},
    "runs": {"torch", "transformers"},
    "viz": {"matplotlib"},
    "serving": set(),
    "ui": {"gradio", "torch", "matplotlib"},
    "api": {"torch", "transformers"},
    "cli": {"matplotlib"},
}
"""Which heavy library a room's modules may import when they are imported: so that pages and help appear at once."""

LAZY_UPWARDS = {
    ("tokviz.records", "tokviz.viz.tables"): "a comparison makes its own table",
    ("tokviz.records", "tokviz.viz.figures"): "a comparison draws itself",
    ("tokviz.records", "tokviz.viz.notebook"): "a comparison shows itself in a notebook",
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


def test_only_these_files_say_import_gradio_or_transformers():
    for module, path in modules().items():
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("import", "from"):
                library = words[1].split(".")[0]
                assert library != "gradio" or room_of(module) == "ui", f"{module}: {line}"
                assert library != "transformers" or room_of(module) in ("models", "engine"), f"{module}: {line}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("tokviz", {"torch", "gradio", "transformers", "matplotlib"}),
        ("tokviz.cli", {"torch", "gradio", "transformers"}),
        ("tokviz.ui.build", {"transformers", "tokviz.engine", "tokviz.models.loading"}),
    ],
)
def test_a_fresh_interpreter_agrees(module, absent):
    program = f"import sys, {module}; print(sorted(set({sorted(absent)!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    for name in absent:
        assert not (loads(module, name) if name.startswith(PACKAGE) else name in libraries_of(module)), name
