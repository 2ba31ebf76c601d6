"""The notebook of the documentation runs as it stands, on the embedded model."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tokviz.ipynb"


@pytest.mark.slow
def test_the_notebook_runs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are made when it runs, not stored"
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    shown = {name for cell in notebook.cells for output in cell.get("outputs", []) for name in output.get("data", {})}
    assert "text/html" in shown, "a comparison shows itself as a strip of images"
    assert notebook.cells[-1]["outputs"][0]["data"]["text/plain"] == "True"
