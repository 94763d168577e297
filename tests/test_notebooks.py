"""Every notebook runs from top to bottom, and is kept without its outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import nlptl

ROOT = Path(nlptl.__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

RESULTS = {"03_know_your_data": "found 9 warnings:"}
"""What a notebook has to show in the end, if that is no accuracy."""

for_each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert "01_quickstart" in {path.stem for path in NOTEBOOKS}


@for_each_notebook
def test_a_notebook_is_kept_without_outputs(path: Path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert code_cells(notebook)
    for cell in code_cells(notebook):
        assert (cell.outputs, cell.execution_count) == ([], None)


@for_each_notebook
def test_a_notebook_shows_and_holds_no_logic(path: Path):
    sources = [cell.source for cell in code_cells(read(path))]
    assert max(source.count("\n") + 1 for source in sources) <= 12
    assert not [source for source in sources if "def " in source or "class " in source]
    assert any("from nlptl import" in source for source in sources)


@pytest.mark.nightly
@for_each_notebook
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {
        "PYTHONPATH": os.pathsep.join(paths),
        "TMPDIR": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    notebook = read(path)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    said = [output.text for output in outputs if output.get("name") == "stderr"]
    known = ("TqdmWarning: IProgress not found", ": texts in ", ": near-duplicate texts ", ": words ")  # and findings
    assert [text for text in said if not any(words in text for words in known)] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)
    result = RESULTS.get(path.stem, "accuracy")
    assert any(result in output.get("text", "") for output in outputs)
