"""Each room imports without what it must not know. Every check runs in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ABSENT = {
    "tokviz": {"torch", "gradio", "transformers"},
    "tokviz.types": {"torch", "gradio", "transformers"},
    "tokviz.records": {"torch", "gradio", "transformers", "tokviz.types"},
    "tokviz.measures": {"torch", "gradio", "transformers"},
    "tokviz.images": {"torch", "gradio", "transformers"},
    "tokviz.video": {"torch", "gradio", "transformers"},
    "tokviz.media": {"torch", "gradio", "transformers"},
    "scenes": {"torch", "gradio", "transformers"},
    "tokviz.render.figure": {"torch", "gradio", "transformers", "matplotlib.pyplot"},
    "tokviz.examples": {"torch", "gradio", "transformers"},
    "benchmarks.fidelity.tables": {"torch", "gradio", "transformers", "matplotlib.pyplot"},
    "tokviz.pruners": {"gradio", "transformers", "tokviz.engine", "tokviz.models"},
    "tokviz.engine": {"gradio", "tokviz.pruners"},
    "tokviz.models.loading": {"gradio", "tokviz.pruners", "tokviz.engine"},
    "tokviz.comparing": {"gradio", "tokviz.ui"},
    "benchmarks.vtw_calibration": {"gradio", "tokviz.ui", "tokviz.comparing"},
    "tokviz.serving.doors": {"torch", "gradio", "transformers", "tokviz.ui"},
    "tokviz.serving.run_queue": {"torch", "gradio", "transformers", "tokviz.ui"},
    "benchmarks.fidelity.workers": {"gradio", "tokviz.ui", "tokviz.comparing"},
    "benchmarks.fidelity.cache": {"torch", "gradio", "transformers"},
    "benchmarks.fidelity.statistics": {"torch", "gradio", "transformers"},
    "benchmarks.fidelity.separation": {"torch", "gradio", "transformers"},
    "benchmarks.fidelity.published": {"torch", "gradio", "transformers"},
    "benchmarks.fidelity.ablations": {"torch", "gradio", "transformers"},
    "tokviz.cli": {"torch", "gradio", "transformers"},
    "tokviz.ui.build": {"transformers", "tokviz.engine", "tokviz.models.loading"},
}


@pytest.mark.parametrize("module", sorted(ABSENT))
def test_a_room_does_not_import_what_it_must_not_know(module):
    program = f"import sys, {module}; print(sorted(set({sorted(ABSENT[module])!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_only_the_ui_and_the_entry_import_gradio_and_only_models_and_engine_import_transformers():
    allowed = {
        "gradio": {"ui"},
        "transformers": {"models", "engine"},
        "spaces": {"ui"},
        "torch": {"pruners", "engine", "models", "fidelity", "comparing.py", "calibration.py", "lane.py", "types.py"},
    }
    for path in (ROOT / "tokviz").rglob("*.py"):
        room = path.relative_to(ROOT / "tokviz").parts[0]
        for line in path.read_text().splitlines():
            for library, rooms in allowed.items():
                imports = line.lstrip().startswith((f"import {library}", f"from {library}"))
                assert not imports or room in rooms, f"{path.name} imports {library}: {line}"
