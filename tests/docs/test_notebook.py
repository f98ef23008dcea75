"""The notebook of the docs runs as it is."""

import json
import re

import pytest

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "first_run.ipynb"


def outputs(notebook):
    return [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_its_outputs_are_stored():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    said = "".join("".join(output.get("text", "")) for output in outputs(notebook))
    assert pictures(notebook) == 2
    assert "The held-out score rose under StaticReward" in said
    assert not re.search(r"/tmp/|/work/|/root/", said), "a path of the machine it ran on"


@pytest.mark.slow  # two trainings
def test_it_runs(tmp_path, monkeypatch):
    """In less than the five minutes that every test has."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert pictures(notebook) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"rubrics.json", "runs", "report.html"}
