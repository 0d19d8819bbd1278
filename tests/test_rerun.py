"""The notebook run once, then its sections again in the opposite order."""

import re

import nbformat
from conftest import ROOT
from nbclient import NotebookClient


def sections(notebook):
    """Indices of the code cells of each section, definitions left out."""
    parts, name = {}, None
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^###? (\S+)", cell.source, re.MULTILINE):
                name = heading
        elif "def" not in cell.metadata.tags:
            parts.setdefault(name, []).append(i)
    return parts


def printed_text(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def epochs_printed(cell):
    return re.findall(r"^Epoch +(\d+)/", printed_text(cell), re.MULTILINE)


def summary_rows(cell):
    """Set of (model, metric) of the closing summary."""
    return {tuple(line.split()[:2]) for line in printed_text(cell).splitlines()}


def test_sections_run_again_in_another_order(notebook_path, monkeypatch):
    monkeypatch.setenv("HW3_QUICK", "1")
    monkeypatch.setenv("HW3_DATA_DIR", str(ROOT / "tests" / "data"))
    monkeypatch.delenv("HW3_BACKUP_DIR", raising=False)
    cells = (notebook := nbformat.read(notebook_path, as_version=4)).cells
    client = NotebookClient(notebook, timeout=600, kernel_name="python3")
    parts = sections(notebook)
    assert {"1.1", "1.11", "2.1", "2.2", "3.1", "3.2", "Summary"} <= set(parts)
    with client.setup_kernel():
        for i, cell in enumerate(cells):
            client.execute_cell(cell, i)
        rows = summary_rows(cells[parts["Summary"][-1]])
        # A training twice in a row, too. A model that was measured anew has no MMD
        # until 3.1 has run again.
        names = [*reversed(parts), "1.9", "1.9", "3.1", "Summary"]
        for i in [i for name in names for i in parts[name]]:
            epochs = epochs_printed(cells[i])
            client.execute_cell(cells[i], i)
            assert epochs_printed(cells[i]) == epochs
    assert summary_rows(cells[parts["Summary"][-1]]) == rows
    assert len(rows) > 40
